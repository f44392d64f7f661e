//! Publishing, reading what was and what comes, schemas and subscribers.

use std::time::Duration;

use futures::StreamExt as _;
use guildhall_gateway::{AuthMode, Pace};
use reqwest::Method;
use serde_json::{Value, json};
use sse_stream::{Sse, SseStream};
use tokio::io::AsyncReadExt as _;

use crate::{
    client::{Client, PATIENCE, failure, structured},
    stage::{Stage, Terms},
};

const EVENTS: &str = "/api/v1/topics/ci.done/events";

async fn publish(a: &Client, n: u64) -> u64 {
    let published = a.post(EVENTS, json!({"event": {"n": n}, "headers": {"branch": "main"}})).await.ok();
    assert_eq!((&published["durability"], &published["duplicate"]), (&json!("fsync"), &json!(false)));
    published["sequence"].as_u64().unwrap()
}

fn numbers(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["event"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_page_holds_what_was_asked_for_and_says_where_the_next_begins() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    assert_eq!(numbers(&a.get(EVENTS).await.ok()), [0; 0]);
    for n in 0..7 {
        publish(&a, n).await;
    }
    let first = a.get(&format!("{EVENTS}?limit=3")).await.ok();
    assert_eq!(numbers(&first), [0, 1, 2]);
    let event = &first["events"][0];
    assert_eq!(
        (&event["publisher"], &event["headers"]["branch"], &event["topic"]),
        (&json!("a"), &json!("main"), &json!("ci.done"))
    );
    let second = a.get(&format!("{EVENTS}?limit=3&after={}", first["next"])).await.ok();
    assert_eq!(numbers(&second), [3, 4, 5]);
    let third = a.get(&format!("{EVENTS}?limit=3&after={}", second["next"])).await.ok();
    assert_eq!((numbers(&third), &third["next"]), (vec![6], &Value::Null));
    let filtered = a.get(&format!("{EVENTS}?filter=event.n%20%25%202%20%3D%3D%201")).await.ok();
    assert_eq!(numbers(&filtered), [1, 3, 5]);
    let page = structured(&a.call("replay_events", json!({"topic": "ci.done", "limit": 2})).await);
    assert_eq!((numbers(&page), page["next"].is_u64()), (vec![0, 1], true));
    let time = |event: &Value| event["published_at"].as_str().unwrap().to_owned();
    let (from, to) = (time(&second["events"][0]), time(&second["events"][2]));
    let between = numbers(&a.get(&format!("{EVENTS}?from={from}&to={to}")).await.ok());
    assert!(between.starts_with(&[3]) || between.contains(&3), "{between:?}");
    let future = a.get(&format!("{EVENTS}?from=2999-01-01T00:00:00Z&to=2999-01-02T00:00:00Z")).await.ok();
    assert_eq!(numbers(&future), [0; 0]);
    for bad in [
        "from=yesterday",
        "filter=event.n%20%3E",
        "limit=0",
        "limit=1001",
        "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        assert_eq!(a.get(&format!("{EVENTS}?{bad}")).await.refused(400).0, "InvalidParams", "{bad}");
    }
}

async fn follow(a: &Client, query: &str, last: Option<u64>) -> impl futures::Stream<Item = Sse> + Unpin + use<> {
    let request = a.request(Method::GET, &format!("/api/v1/topics/ci.done/stream{query}"));
    let request = if let Some(last) = last { request.header("last-event-id", last) } else { request };
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    SseStream::from_bytes_stream(response.bytes_stream()).map(Result::unwrap).boxed()
}

async fn next(stream: &mut (impl futures::Stream<Item = Sse> + Unpin)) -> (u64, u64) {
    let event =
        tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event comes").expect("the stream goes on");
    let body: Value = serde_json::from_str(&event.data.unwrap()).unwrap();
    (event.id.unwrap().parse().unwrap(), body["event"]["n"].as_u64().unwrap())
}

#[tokio::test]
async fn a_stream_goes_on_after_the_event_that_its_reader_saw_last() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    publish(&a, 0).await;
    let mut live = follow(&a, "", None).await;
    let mut odd = follow(&a, "?filter=event.n%20%25%202%20%3D%3D%201", None).await;
    for n in 1..4 {
        publish(&a, n).await;
    }
    let (first, n) = next(&mut live).await;
    assert_eq!(n, 1, "only what comes from now on");
    assert_eq!((next(&mut odd).await.1, next(&mut odd).await.1), (1, 3));
    drop(live);
    let mut resumed = follow(&a, "", Some(first)).await;
    assert_eq!((next(&mut resumed).await.1, next(&mut resumed).await.1), (2, 3));
    publish(&a, 4).await;
    assert_eq!(next(&mut resumed).await.1, 4);
    let mut from = follow(&a, "?from=2026-01-01T00:00:00Z", None).await;
    assert_eq!(next(&mut from).await.1, 0);
    gate.stop.cancel();
    let ends = async { while resumed.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ends).await.expect("a stream ends when its gateway stops");
}

/// The sequences of whole frames of a stream.
fn sequences(text: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(text);
    text.lines().filter_map(|line| line.strip_prefix("id: ")?.trim().parse().ok()).collect()
}

#[tokio::test]
async fn a_reader_that_reads_nothing_is_cut_off_and_resumes_without_a_gap() {
    const EVENTS_SENT: usize = 120;
    let stage = Stage::with(&["a"]).await;
    let pace = Pace { reads_within: Duration::from_millis(200), ..Pace::default() };
    let gate = stage.gateway_with(Terms { pace, ..Terms::default() }).await;
    let a = Client::of(&gate, "a");
    let mut slow = a.half_asked("GET", "/api/v1/topics/ci.done/stream?from=2026-01-01T00:00:00Z", "").await;
    let mut beginning = vec![0; 1024];
    let read = slow.read(&mut beginning).await.unwrap();
    assert!(beginning[..read].starts_with(b"HTTP/1.1 200"));
    let mut published = Vec::new();
    for _ in 0..EVENTS_SENT {
        let event = json!({"event": {"text": "x".repeat(60 * 1024)}});
        published.push(a.post(EVENTS, event).await.ok()["sequence"].as_u64().unwrap());
    }
    // Many times its patience.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut got = Vec::new();
    let whole = async {
        let mut part = vec![0; 256 * 1024];
        while !got.ends_with(b"0\r\n\r\n") {
            let read = slow.read(&mut part).await.unwrap();
            assert_ne!(read, 0, "the answer broke off");
            got.extend_from_slice(&part[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.expect("its stream goes on");
    let seen = sequences(&got);
    assert!((1..EVENTS_SENT).contains(&seen.len()), "{} events", seen.len());
    let mut resumed = follow(&a, "", seen.last().copied()).await;
    let mut all = seen;
    while all.len() < EVENTS_SENT {
        let next = tokio::time::timeout(PATIENCE, resumed.next()).await.expect("an event comes").unwrap();
        all.push(next.id.unwrap().parse().unwrap());
    }
    assert_eq!(all, published);
}

#[tokio::test]
async fn line_breaks_of_a_publisher_do_not_break_the_frame() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    let mut live = follow(&a, "", None).await;
    a.post_text(EVENTS, "{\"event\":{\r\n\"n\":\r1\n\n}}".to_owned()).await.ok();
    assert_eq!(next(&mut live).await.1, 1);
}

#[tokio::test]
async fn a_stream_ends_with_the_right_of_its_reader() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway_with(Terms { mode: AuthMode::Required, ..Terms::default() }).await;
    let a = Client::with_token(&stage, &gate, "a").await;
    let response = a.request(Method::GET, "/api/v1/topics/ci.done/stream").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.bytes_stream();
    stage.registry.pause(&crate::stage::admin(), &crate::stage::id("a"), "enough").await.unwrap();
    let ends = async { while body.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ends).await.expect("whoever is paused hears no more");
}

#[tokio::test]
async fn a_topic_with_a_schema_takes_what_fits_and_nothing_else() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let a = Client::of(&gate, "a");
    let path = "/api/v1/topics/ci.done/schema";
    assert_eq!(a.get(path).await.refused(404).0, "NotFound");
    let numbers = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let set = a.put(path, numbers.clone()).await.ok();
    assert_eq!((&set["version"], &set["schema"]), (&json!(1), &numbers));
    assert_eq!(a.put(path, numbers).await.ok()["version"], 1);
    publish(&a, 1).await;
    assert_eq!(a.post(EVENTS, json!({"event": {"n": "one"}})).await.refused(400).0, "InvalidParams");
    let refused = failure(&a.call("publish_event", json!({"topic": "ci.done", "event": {}})).await);
    assert!(refused["guidance"].as_str().unwrap().contains("schema"), "{refused}");
    let texts = json!({"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]});
    assert_eq!(a.put(path, texts.clone()).await.refused(409).0, "Conflict");
    assert_eq!(a.put(&format!("{path}?force=true"), texts).await.ok()["version"], 2);
    assert_eq!(a.get(&format!("{path}?version=1")).await.ok()["version"], 1);
    a.get(&format!("{path}?version=9")).await.refused(404);
    assert_eq!(a.get("/api/v1/topics").await.ok()["topics"][0]["schema_version"], 2);
}

#[tokio::test]
async fn a_durable_subscriber_gets_events_as_mail_until_it_leaves() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let (a, b) = (Client::of(&gate, "a"), Client::of(&gate, "b"));
    let subscribed = structured(&b.call("subscribe_topic", json!({"topic": "ci.done", "filter": "event.n > 1"})).await);
    assert_eq!((&subscribed["subscribed"], &subscribed["filter"]), (&json!(true), &json!("event.n > 1")));
    for n in 1..3 {
        publish(&a, n).await;
    }
    let mail = b.get("/api/v1/messages?pending=true&ack=auto&wait_ms=20000").await.ok();
    assert_eq!(
        (&mail["messages"][0]["type"], &mail["messages"][0]["message"]["event"]["n"]),
        (&json!("event"), &json!(2))
    );
    let path = "/api/v1/topics/ci.done/subscribers";
    assert_eq!(a.get(path).await.ok()["subscribers"][0]["agent_id"], "b");
    b.put(&format!("{path}/b"), json!({"filter": "event.n >"})).await.refused(400);
    assert_eq!(b.put(&format!("{path}/b"), json!({})).await.ok().get("filter"), None);
    assert_eq!(b.delete(&format!("{path}/b")).await.ok()["was_subscribed"], true);
    let left = structured(&b.call("subscribe_topic", json!({"topic": "ci.done", "unsubscribe": true})).await);
    assert_eq!(left["subscribed"], false);
}
