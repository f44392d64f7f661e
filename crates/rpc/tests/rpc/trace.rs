//! When spans are collected, the other side continues the trace from the span that made the call.

use crate::support::{Stub, ask, caller};
use guildhall_rpc::Transport;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

async fn continues(connect: fn(Stub) -> Transport) {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _collected = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let span = tracing::info_span!("request");
    let own = guildhall_runtime::telemetry::trace_of(&span).traceparent;
    let transport = connect(Stub::default());
    let arrived = ask(&transport, &caller(), "call").instrument(span).await.unwrap().metadata_json;
    let parts = |traceparent: &str| traceparent.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (own, arrived) = (parts(&own), parts(arrived.trim_end_matches('|')));
    assert_eq!(own[1], arrived[1], "another trace");
    assert_ne!(own[2], arrived[2], "no span of the call's own");
}

#[tokio::test]
async fn a_trace_goes_on_in_process() {
    continues(crate::support::in_process).await;
}

#[tokio::test]
async fn a_trace_goes_on_over_a_socket() {
    continues(crate::support::remote).await;
}
