//! What only sockets know: endpoints that are down, slow or strange, and callers that do not belong here.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::support::{Stub, ask, caller, eventually, listen, nowhere, server, to};
use bytes::Bytes;
use guildhall_domain::{Call, ErrorCode};
use guildhall_rpc::{RemoteOptions, ServeOptions, Transport, serve, status};
use guildhall_runtime::{Listener, Shutdown};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::Status;

fn options() -> RemoteOptions {
    RemoteOptions::new("stub")
}

fn with_secret(secret: &str) -> ServeOptions {
    ServeOptions { cluster_secret: Some(SecretString::from(secret)) }
}

#[tokio::test]
async fn calls_are_spread_over_two_endpoints() {
    let (one, two) = (Stub::named("one"), Stub::named("two"));
    let addresses = [&one, &two].map(|stub| listen(stub.clone(), ServeOptions::default()).0);
    let transport = to(addresses, options());
    for _ in 0..10 {
        ask(&transport, &caller(), "hello").await.unwrap();
    }
    assert_eq!([one, two].map(|stub| stub.seen.load(Ordering::SeqCst)), [5, 5]);
}

#[tokio::test]
async fn a_call_goes_to_the_next_endpoint_when_one_is_down() {
    let stub = Stub::default();
    let (address, _) = listen(stub.clone(), ServeOptions::default());
    let transport = to([nowhere(), address], options());
    for _ in 0..10 {
        ask(&transport, &caller(), "hello").await.unwrap();
    }
    assert_eq!(stub.seen.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_called_again() {
    let (one, two) = (Stub::named("one"), Stub::named("two"));
    let (first, stop_first) = listen(one.clone(), ServeOptions::default());
    let (second, _) = listen(two.clone(), ServeOptions::default());
    let transport = to([first, second], options());
    ask(&transport, &caller(), "hello").await.unwrap();
    ask(&transport, &caller(), "hello").await.unwrap();

    stop_first.begin("test");
    eventually("the end of the first", || Listener::bind(first, "test").is_ok()).await;
    for _ in 0..4 {
        assert_eq!(ask(&transport, &caller(), "hello").await.unwrap().agent_id, "two");
    }

    let listener = Listener::bind(first, "test").unwrap();
    let server = server(Stub::named("one again"));
    tokio::spawn(async move { serve(listener, server, ServeOptions::default(), &Shutdown::default()).await });
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let names =
        [ask(&transport, &caller(), "hello").await.unwrap(), ask(&transport, &caller(), "hello").await.unwrap()];
    assert!(names.iter().any(|agent| agent.agent_id == "one again"), "{names:?}");
}

#[tokio::test]
async fn nothing_reachable_is_unavailable_and_names_the_service() {
    let transport = to([nowhere(), nowhere()], options());
    let error = ask(&transport, &caller(), "hello").await.unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Unavailable, true));
    assert!(error.message.starts_with("stub cannot be reached"), "{error}");
}

/// Takes connections and whatever is sent on them, and never answers.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn a_peer_that_never_answers_is_given_up_at_the_deadline() {
    let transport = to([silent().await], options());
    let begun = Instant::now();
    let call = Call::within(caller().principal, Duration::from_millis(300));
    assert_eq!(ask(&transport, &call, "hello").await.unwrap_err().code, ErrorCode::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(8));
}

/// What a strange peer does with a request it has read.
#[derive(Clone, Copy)]
enum Strange {
    /// Begins an answer and goes no further.
    Stops,
    /// Closes the connection, at once or after the headers of an answer.
    Closes,
    ClosesAfterHeaders,
}

async fn strange(peer: Strange) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Settings, and their acknowledgement.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
        whole_request(&mut stream).await;
        // Stream 1: `:status: 200`, headers ended, the stream not.
        let headers = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        match peer {
            Strange::Closes => {}
            Strange::ClosesAfterHeaders => stream.write_all(&headers).await.unwrap(),
            Strange::Stops => {
                stream.write_all(&headers).await.unwrap();
                std::future::pending::<()>().await;
            }
        }
    });
    address
}

/// Reads the preface and frames up to the end of the first request's body.
async fn whole_request(stream: &mut TcpStream) {
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    stream.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        if head[3] == DATA && head[4] & END_STREAM != 0 {
            return;
        }
    }
}

#[tokio::test]
async fn an_answer_that_stops_half_way_is_given_up_at_the_deadline() {
    let transport = to([strange(Strange::Stops).await], options());
    let call = Call::within(caller().principal, Duration::from_millis(800));
    let asked = tokio::time::timeout(Duration::from_secs(5), ask(&transport, &call, "hello"));
    let error = asked.await.expect("waits for ever").unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout, "{error}");
    assert!(error.message.contains("did not answer by the call's deadline"), "{error}");
}

#[tokio::test]
async fn a_connection_lost_during_a_call_is_not_taken_for_a_call_not_made() {
    for peer in [Strange::Closes, Strange::ClosesAfterHeaders] {
        let other = Stub::default();
        let (address, _) = listen(other.clone(), ServeOptions::default());
        let transport = to([strange(peer).await, address], options());
        let error = ask(&transport, &caller(), "hello").await.unwrap_err();
        assert_eq!((error.code, error.retryable), (ErrorCode::Timeout, true), "{error}");
        assert!(error.message.contains("not known whether"), "{error}");
        assert_eq!(other.seen.load(Ordering::SeqCst), 0, "the call was made twice");
    }
}

#[tokio::test]
async fn a_caller_without_the_clusters_secret_is_refused_before_the_service_sees_it() {
    let stub = Stub::default();
    let (address, _) = listen(stub.clone(), with_secret("sesame"));
    for secret in [None, Some("Sesame"), Some("sesam"), Some("sesame ")] {
        let transport = to([address], RemoteOptions { cluster_secret: secret.map(SecretString::from), ..options() });
        let error = ask(&transport, &caller(), "hello").await.unwrap_err();
        assert_eq!(error.code, ErrorCode::AuthenticationError, "{secret:?}");
        assert!(!format!("{error:?}").contains("sesame"));
    }
    assert_eq!(stub.seen.load(Ordering::SeqCst), 0);
    let knows = to([address], RemoteOptions { cluster_secret: Some(SecretString::from("sesame")), ..options() });
    ask(&knows, &caller(), "hello").await.unwrap();
}

#[tokio::test]
async fn without_a_secret_only_loopback_is_served() {
    let listener = Listener::bind(([0, 0, 0, 0], 0).into(), "test").unwrap();
    let server = server(Stub::default());
    let shutdown = Shutdown::default();
    let served = serve(listener, server, ServeOptions::default(), &shutdown);
    let refused = tokio::time::timeout(Duration::from_secs(5), served).await.expect("it is served").unwrap_err();
    assert!(refused.message.contains("cluster.secret"), "{refused}");
}

/// A caller that keeps no deadline of its own.
async fn ask_by_hand(address: SocketAddr, timeout: &str) -> Status {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut headers = HeaderMap::new();
    let call = guildhall_rpc::call::outgoing(&caller(), ()).unwrap();
    headers.extend(call.metadata().clone().into_headers());
    headers.insert("grpc-timeout", timeout.parse().unwrap());
    headers.insert("content-type", "application/grpc".parse().unwrap());
    let message = b"\x00\x00\x00\x00\x0d\x0a\x0bsleep:60000";
    let mut request = Request::post(format!("http://{address}/guildhall.agent_registry.v1.AgentRegistryService/Get"))
        .body(Full::new(Bytes::from_static(message)))
        .unwrap();
    *request.headers_mut() = headers;
    let response = send.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or(parts.headers);
    Status::from_header_map(&trailers).unwrap()
}

#[tokio::test]
async fn the_server_keeps_the_deadline_of_a_caller_that_does_not() {
    let stub = Stub::default();
    let (address, _) = listen(stub.clone(), ServeOptions::default());
    let answer = tokio::time::timeout(Duration::from_secs(5), ask_by_hand(address, "200m")).await.expect("no deadline");
    assert_eq!(answer.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(status::from_status(answer).code, ErrorCode::Timeout);
    assert_eq!(stub.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_shutdown_lets_the_call_in_flight_finish() {
    let stub = Stub::default();
    let (address, shutdown) = listen(stub.clone(), ServeOptions::default());
    let transport = to([address], options());
    let call = tokio::spawn(async move { ask(&transport, &caller(), "sleep:400").await });
    eventually("the call", || stub.seen.load(Ordering::SeqCst) == 1).await;
    shutdown.begin("test");
    call.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "still accepting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_shuts_down_under_load_loses_no_call() {
    let stub = Stub::default();
    let (first, stop_first) = listen(stub.clone(), ServeOptions::default());
    let (second, _) = listen(Stub::default(), ServeOptions::default());
    let transport = to([first, second], options());
    let callers = (0..8).map(|_| {
        let transport = transport.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                ask(&transport, &caller(), "sleep:2").await?;
            }
            Ok::<_, guildhall_domain::Error>(())
        })
    });
    let callers: Vec<_> = callers.collect();
    eventually("the load", || stub.seen.load(Ordering::SeqCst) > 50).await;
    assert!(!callers.iter().any(|caller| caller.is_finished()), "the load was over before the shutdown");
    stop_first.begin("test");
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_when_the_transport_is_made() {
    for odd in ["", "agent-registry:8021", "https://a:1", "http://", "not an address"] {
        let refused = Transport::remote([odd], options()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{odd:?}");
    }
    assert!(Transport::remote(Vec::<String>::new(), options()).is_err());
}
