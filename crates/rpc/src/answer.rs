//! The server's side of every call, on either transport: its span, its deadline, and what becomes of a panic.

use std::{convert::Infallible, panic::AssertUnwindSafe};

use futures::FutureExt;
use guildhall_domain::Error;
use guildhall_runtime::telemetry;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt};
use tracing::{Instrument, Span, field::Empty};

use crate::{
    call::{self, Deadline},
    status::to_status,
};

/// For a streamed answer the deadline is that of its beginning, as tonic has it.
pub(crate) async fn answer<S>(service: S, mut request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let span = span(&mut request);
    let deadline = call::deadline(request.headers());
    request.extensions_mut().insert(Deadline(deadline));
    let uri = request.uri().clone();

    let work = AssertUnwindSafe(service.oneshot(request)).catch_unwind();
    let response = async {
        match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(Ok(Ok(response))) => response,
            // The panic's own words went to the log by the panic hook; they may hold what the caller must not see.
            Ok(Err(_panic)) => {
                tracing::error!(rpc.method = uri.path(), "{} panicked; its caller gets Internal", uri.path());
                to_status(Error::internal("the hall failed at this call; its log says where")).into_http()
            }
            Err(_elapsed) => {
                to_status(Error::timeout("the call was not done by its deadline, and was stopped")).into_http()
            }
        }
    }
    .instrument(span.clone())
    .await;

    let code = Status::from_header_map(response.headers()).map_or(tonic::Code::Ok, |status| status.code());
    span.record("rpc.response.status_code", i32::from(code));
    response
}

/// A child of the caller's span: of the one around us when the caller is in this process, else of the one it sent.
fn span(request: &mut Request<Body>) -> Span {
    let in_process = Span::current().id().is_some();
    let path = request.uri().path().trim_start_matches('/');
    let span = tracing::info_span!(
        "rpc.server",
        otel.name = path,
        otel.kind = "server",
        rpc.system.name = "grpc",
        rpc.method = path,
        rpc.response.status_code = Empty
    );
    if !in_process {
        telemetry::set_parent(&span, &call::read_trace(request.headers()));
    }
    let own = telemetry::trace_of(&span);
    if !own.traceparent.is_empty() {
        call::write_trace(request.headers_mut(), &own);
    }
    span
}
