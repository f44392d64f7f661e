//! Spans reach a collector. In a program of its own: the subscriber is one a process.

use std::{convert::Infallible, sync::Arc};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use guildhall_runtime::{Listener, LogFormat, Shutdown, TelemetryOptions, telemetry};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tower::service_fn;

type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector, as far as one call goes: remembers path and body, and answers with an empty message.
fn collector() -> (String, Received) {
    let received = Received::default();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "test").expect("a free port");
    let endpoint = format!("http://{}", listener.address());
    let keep = received.clone();
    tokio::spawn(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let keep = keep.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = to_bytes(Body::new(request.into_body()), 1 << 20).await.expect("a whole body");
                keep.lock().push((path, body.to_vec()));
                let fine = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
                let empty_message = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(fine)) });
                let answer = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(answer.body(empty_message).expect("a response"))
            }
        });
        listener.serve(service, &Shutdown::default()).await;
    });
    (endpoint, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector_by_the_end() {
    let (endpoint, received) = collector();
    let options = TelemetryOptions {
        log_format: LogFormat::Json,
        otlp_endpoint: Some(endpoint),
        ..TelemetryOptions::new("guildhall-test")
    };
    let telemetry = telemetry::init(&options).expect("telemetry");
    tracing::info_span!("the-work").in_scope(|| tracing::info!("done"));
    assert!(received.lock().is_empty());
    telemetry.flush().await;
    let received = received.lock();
    let (path, body) = received.first().expect("nothing was sent");
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    for name in ["guildhall-test", "the-work"] {
        assert!(body.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{name} is not in it");
    }
}
