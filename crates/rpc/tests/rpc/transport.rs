//! What holds on both transports, each property once over a socket and once in process.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::support::{Stub, TRACEPARENT, ask, caller, eventually, full_error};
use guildhall_domain::{Call, ErrorCode};
use guildhall_rpc::{MESSAGE_MAX_BYTES, Transport};

macro_rules! on_both_transports {
    ($($test:ident)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::support::in_process).await })*
        }
        mod remote {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(crate::support::remote).await })*
        }
    };
}

on_both_transports! {
    a_call_ends_at_its_deadline_on_both_sides
    a_call_that_nobody_waits_for_is_stopped
    a_panic_becomes_internal_and_does_not_show_its_words
    a_request_over_the_limit_is_refused
    an_answer_over_the_limit_is_refused
    a_message_just_under_the_limit_passes
    principal_deadline_and_trace_arrive
    every_error_arrives_whole
    many_calls_run_side_by_side
}

type Connect = fn(Stub) -> Transport;

async fn a_call_ends_at_its_deadline_on_both_sides(connect: Connect) {
    let stub = Stub::default();
    let transport = connect(stub.clone());
    ask(&transport, &caller(), "hello").await.unwrap();
    let call = Call::within(caller().principal, Duration::from_millis(500));
    let begun = Instant::now();
    let error = ask(&transport, &call, "sleep:60000").await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Timeout, true));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    eventually("the end of the service's work", || stub.dropped.load(Ordering::SeqCst) == 1).await;
}

async fn a_call_that_nobody_waits_for_is_stopped(connect: Connect) {
    let stub = Stub::default();
    let transport = connect(stub.clone());
    let call = caller();
    tokio::select! {
        answer = ask(&transport, &call, "sleep:60000") => panic!("answered at once: {answer:?}"),
        () = eventually("the call", || stub.seen.load(Ordering::SeqCst) == 1) => {}
    }
    eventually("the end of the service's work", || stub.dropped.load(Ordering::SeqCst) == 1).await;
}

async fn a_panic_becomes_internal_and_does_not_show_its_words(connect: Connect) {
    let transport = connect(Stub::default());
    let error = ask(&transport, &caller(), "panic:sesame").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
    ask(&transport, &caller(), "hello").await.unwrap();
}

async fn a_request_over_the_limit_is_refused(connect: Connect) {
    let stub = Stub::default();
    let transport = connect(stub.clone());
    let error = ask(&transport, &caller(), "x".repeat(MESSAGE_MAX_BYTES + 1)).await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::PayloadTooLarge, false), "{error}");
    assert_eq!(stub.seen.load(Ordering::SeqCst), 0);
    ask(&transport, &caller(), "hello").await.unwrap();
}

async fn an_answer_over_the_limit_is_refused(connect: Connect) {
    let transport = connect(Stub::default());
    let error = ask(&transport, &caller(), format!("bytes:{}", MESSAGE_MAX_BYTES + 1)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{error}");
    ask(&transport, &caller(), "hello").await.unwrap();
}

async fn a_message_just_under_the_limit_passes(connect: Connect) {
    let transport = connect(Stub::default());
    let bytes = MESSAGE_MAX_BYTES - 100;
    ask(&transport, &caller(), "x".repeat(bytes)).await.unwrap();
    let answer = ask(&transport, &caller(), format!("bytes:{bytes}")).await.unwrap();
    assert_eq!(answer.metadata_json.len(), bytes);
}

async fn principal_deadline_and_trace_arrive(connect: Connect) {
    let transport = connect(Stub::default());
    let arrived = ask(&transport, &caller(), "call").await.unwrap();
    assert_eq!((arrived.tenant.as_str(), arrived.name.as_str()), ("acme", "worker-1"));
    assert_eq!(arrived.roles, ["agent", "x"]);
    assert_eq!(arrived.metadata_json, format!("{TRACEPARENT}|a=1"));
    assert!((5_000..=10_000).contains(&arrived.registered_at_ms), "{} ms left", arrived.registered_at_ms);
}

async fn every_error_arrives_whole(connect: Connect) {
    let transport = connect(Stub::default());
    for code in ErrorCode::ALL {
        let error = ask(&transport, &caller(), format!("error:{code}")).await.unwrap_err();
        assert_eq!(error, full_error(code));
    }
}

async fn many_calls_run_side_by_side(connect: Connect) {
    let transport = connect(Stub::default());
    let begun = Instant::now();
    let calls = (0..50).map(|_| {
        let transport = transport.clone();
        tokio::spawn(async move { ask(&transport, &caller(), "sleep:200").await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "one after the other: {:?}", begun.elapsed());
}
