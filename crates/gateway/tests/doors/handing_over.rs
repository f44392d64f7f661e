//! Mail is acknowledged once its answer has been written to an open connection, and given back otherwise.

use std::time::Duration;

use guildhall_domain::mail::{DeliveryState, delivery::HistoryQuery};
use guildhall_testkit::engines::eventually;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    client::{Client, PATIENCE, structured},
    stage::{Gate, Stage, hall, id},
};

/// A moment in which something that must not happen would.
const A_WHILE: Duration = Duration::from_millis(500);

async fn stage() -> (Stage, Gate) {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    (stage, gate)
}

async fn state(a: &Client, message: &str) -> (String, u64) {
    let tracked = a.get(&format!("/api/v1/messages/{message}")).await.ok();
    let delivery = &tracked["deliveries"][0];
    (delivery["state"].as_str().unwrap().to_owned(), delivery["attempts"].as_u64().unwrap())
}

#[tokio::test]
async fn mail_whose_answer_was_read_is_acknowledged_before_the_answer_ends() {
    let (_stage, gate) = stage().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    for n in 0..20 {
        let by_rest = a.send("b", json!(n)).await;
        assert_eq!(b.take().await.len(), 1);
        assert_eq!(state(&a, &by_rest).await.0, "acknowledged");
        let by_tool = a.send("b", json!(n)).await;
        assert_eq!(structured(&b.call("check_inbox", json!({"wait_ms": 5000})).await)["messages"][0]["message"], n);
        assert_eq!(state(&a, &by_tool).await.0, "acknowledged");
        let by_route = a.send("b", json!(n)).await;
        b.post("/tools/check_inbox", json!({"wait_ms": 5000})).await.ok();
        assert_eq!(state(&a, &by_route).await.0, "acknowledged");
    }
}

#[tokio::test]
async fn over_http_2_an_answer_ends_and_its_mail_is_acknowledged_too() {
    let (stage, gate) = stage().await;
    let a = Client::of(&gate, "a");
    let http = reqwest::Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().unwrap();
    for body in ["x".repeat(100), "x".repeat(LARGE)] {
        for _ in 0..4 {
            a.send("b", json!(body)).await;
        }
        let url = format!("http://{}/api/v1/messages?pending=true&ack=auto&agent=b", gate.address);
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        assert!(answer.text().await.unwrap().len() > 4 * body.len());
        let unsettled = stage.mail.history(&hall(), &id("b"), HistoryQuery { after: None, limit: 100 }).await.unwrap();
        let states: Vec<_> = unsettled.messages.iter().map(|kept| kept.state).collect();
        assert!(states.iter().all(|state| *state == DeliveryState::Acknowledged), "{states:?}");
    }
}

#[tokio::test]
async fn a_client_that_went_while_it_waited_takes_nothing_with_it() {
    let (stage, gate) = stage().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    for path in ["/api/v1/messages?pending=true&ack=auto&wait_ms=30000", "/tools/check_inbox"] {
        let method = if path.starts_with("/tools") { "POST" } else { "GET" };
        let waiting = b.half_asked(method, path, r#"{"wait_ms":30000}"#).await;
        tokio::time::sleep(A_WHILE).await;
        drop(waiting);
        tokio::time::sleep(A_WHILE).await;
        let message = a.send("b", json!("for one who stays")).await;
        assert_eq!(stage.waiting("b").await, 1, "{path}");
        assert_eq!(b.take().await[0]["message_id"], *message);
    }
}

/// Several times what the socket's buffers on both ends hold.
const LARGE: usize = 600 * 1024;

/// How many of the messages are in someone's hands.
async fn held(a: &Client, messages: &[String]) -> usize {
    let mut held = 0;
    for message in messages {
        held += usize::from(state(a, message).await.0 == "leased");
    }
    held
}

async fn send_large(a: &Client) -> Vec<String> {
    let mut messages = Vec::new();
    for _ in 0..6 {
        messages.push(a.send("b", json!("x".repeat(LARGE))).await);
    }
    messages
}

#[tokio::test]
async fn an_answer_that_was_not_read_acknowledges_nothing_and_counts_no_attempt() {
    let (_stage, gate) = stage().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let messages = send_large(&a).await;
    for manner in ["&ack=auto", ""] {
        let path = format!("/api/v1/messages?pending=true&limit=100{manner}");
        let mut stream = b.half_asked("GET", &path, "").await;
        // It reads the beginning and no more.
        let mut beginning = [0; 1024];
        stream.read_exact(&mut beginning).await.unwrap();
        assert!(beginning.starts_with(b"HTTP/1.1 200"));
        tokio::time::sleep(A_WHILE).await;
        let taken = held(&a, &messages).await;
        assert!(taken > 1, "{taken} are held, and nothing is acknowledged before it was written");
        drop(stream);
        eventually("all of it waits again", PATIENCE, async || (held(&a, &messages).await == 0).then_some(())).await;
        for message in &messages {
            assert_eq!(state(&a, message).await, ("waiting".to_owned(), 0));
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_the_whole_answer_and_then_it_is_acknowledged() {
    let (_stage, gate) = stage().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let messages = send_large(&a).await;
    let mut stream = b.half_asked("GET", "/api/v1/messages?pending=true&ack=auto&limit=4", "").await;
    let (mut answer, mut part) = (Vec::new(), vec![0; 256 * 1024]);
    while !answer.ends_with(b"0\r\n\r\n") {
        let read = stream.read(&mut part).await.unwrap();
        assert_ne!(read, 0, "the answer broke off after {} bytes", answer.len());
        answer.extend_from_slice(&part[..read]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answer.len() > 4 * LARGE);
    for message in &messages[..4] {
        assert_eq!(state(&a, message).await.0, "acknowledged");
    }
    assert_eq!(state(&a, &messages[4]).await.0, "waiting");
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_stops_lets_those_who_wait_go_without_mail() {
    let (stage, gate) = stage().await;
    let b = Client::of(&gate, "b");
    let waiting = tokio::spawn(async move { b.get("/api/v1/messages?pending=true&ack=auto&wait_ms=30000").await.ok() });
    tokio::time::sleep(A_WHILE).await;
    gate.stop.cancel();
    let answer = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it is let go").unwrap();
    assert_eq!(answer["messages"], json!([]));
    stage.send("a", "b", "1").await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(stage.mail.unread(&hall(), vec![id("b")]).await.unwrap()[0].waiting, 1);
}
