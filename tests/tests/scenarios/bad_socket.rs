//! Clients that are slow, or half gone, cost only themselves. These speak to the gateways themselves: what stands in
//! front of several would hide it.

use std::time::Duration;

use futures::future::join_all;
use guildhall_tests::{Hall, Setup, raw::Socket, scenarios};

scenarios! {
    a_client_that_closes_its_half_is_let_go_at_once(Setup::open());
    a_client_that_is_cut_off_in_the_middle_has_no_effect(Setup::open());
    what_is_not_http_is_closed(Setup::open());
    slow_clients_hold_up_nobody_and_are_let_go(Setup::open());
}

const HEAD: &str = "POST /api/v1/agents/register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
const BODY: &str = r#"{"agent_id": "half", "name": "half"}"#;

/// Whoever closes a connection ends what it asked for (in MCP that is how a call is cancelled), and half a close is
/// no different: the answer comes whole or not at all, and nothing stays open.
async fn a_client_that_closes_its_half_is_let_go_at_once(hall: &Hall) {
    for gateway in hall.gateway_addresses() {
        for request in ["GET /api/v1/agents HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /api/v1/ag", ""] {
            let mut socket = Socket::open(gateway).await;
            socket.send(request).await;
            socket.close_our_half().await;
            let answer = socket.read_until_closed(Duration::from_secs(5)).await.expect("it is let go");
            assert!(answer.is_empty() || !request.is_empty() && answer.starts_with("HTTP/1.1 "), "{answer}");
            assert!(!answer.starts_with("HTTP/1.1 200") || answer.ends_with('}'), "half an answer: {answer}");
        }
    }
}

async fn a_client_that_is_cut_off_in_the_middle_has_no_effect(hall: &Hall) {
    for gateway in hall.gateway_addresses() {
        let mut socket = Socket::open(gateway).await;
        socket.send(format!("{HEAD}Content-Length: 1000\r\n\r\n{BODY}")).await;
        socket.close_our_half().await;
        let answer = socket.read(Duration::from_secs(10)).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        let mut socket = Socket::open(gateway).await;
        socket.send(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n10\r\n{{\"agent_id\"")).await;
        drop(socket);
    }
    assert_eq!(hall.caller().get("/api/v1/agents").await.ok()["total"], 0);
}

async fn what_is_not_http_is_closed(hall: &Hall) {
    let too_long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1024 * 1024));
    let headers = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "x-many: 1\r\n".repeat(10_000));
    let smuggled =
        format!("{HEAD}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n");
    let bytes: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        too_long.as_bytes(),
        headers.as_bytes(),
        smuggled.as_bytes(),
    ];
    for gateway in hall.gateway_addresses() {
        for nonsense in bytes {
            let mut socket = Socket::open(gateway).await;
            socket.send_what_fits(nonsense).await;
            let answer = socket.read(Duration::from_secs(2)).await;
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
    }
    hall.caller().get("/api/v1/agents").await.ok();
}

async fn slow_clients_hold_up_nobody_and_are_let_go(hall: &Hall) {
    join_all(hall.gateway_addresses().into_iter().map(async |gateway| {
        let mut slow = Vec::new();
        for number in 0..200 {
            let mut socket = Socket::open(gateway).await;
            // Half of them never end their headers, half never end their body.
            let beginning = if number % 2 == 0 { "GET /api/v1/agents HTTP/1.1\r\nHost: loc" } else { HEAD };
            socket.send(beginning).await;
            if number % 2 == 1 {
                socket.send("Content-Length: 1000\r\n\r\n{\"agent_id\"").await;
            }
            slow.push(socket);
        }
        let quick = std::time::Instant::now();
        hall.caller().get("/api/v1/agents").await.ok();
        // The slow ones are held for half a minute.
        assert!(quick.elapsed() < Duration::from_secs(10), "{:?}", quick.elapsed());
        let (mut headers, mut body) = (slow.swap_remove(0), slow.swap_remove(1));
        drop(slow);
        let (headers, body) = tokio::join!(
            headers.read_until_closed(Duration::from_secs(45)),
            body.read_until_closed(Duration::from_secs(45)),
        );
        assert!(headers.is_some(), "a client that never ends its headers is kept for ever");
        let body = body.expect("a client that never ends its body is kept for ever");
        assert!(body.is_empty() || body.starts_with("HTTP/1.1 504") || body.starts_with("HTTP/1.1 408"), "{body}");
    }))
    .await;
}
