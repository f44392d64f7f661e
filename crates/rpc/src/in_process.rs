//! Calls that stay in the process. A bare generated server could be called as well, and would be 1 µs faster; but it
//! ignores deadlines, lets a panic unwind into its caller, and runs only while its caller polls.

use std::convert::Infallible;

use guildhall_domain::{Error, ErrorCode};
use http::{Request, Response};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};
use tower::Service;
use tracing::Instrument;

use crate::{answer::answer, status::to_status};

/// A task of its own for the call; it ends when the caller no longer waits.
pub(crate) async fn send<S>(service: S, request: Request<Body>) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    let work = tokio::spawn(answer(service, request).in_current_span());
    // Panics are caught within, so that only the end of the runtime can take the task away.
    AbortOnDropHandle::new(work).await.map_err(|_gone| {
        to_status(Error::new(ErrorCode::Cancelled, "the hall is shutting down; repeat the call when it is back"))
    })
}
