//! Topics: what is published is kept, checked, filtered, replayed, followed without a gap, and brought as mail.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use guildhall_tests::{Caller, Hall, Setup, eventually, scenarios};
use reqwest::Method;
use serde_json::{Value, json};
use sse_stream::{Sse, SseStream};

scenarios! {
    what_was_published_is_replayed_by_time_filter_and_page(Setup::open());
    a_stream_goes_on_after_the_last_event_that_was_seen(Setup::open());
    a_repeat_under_its_key_adds_nothing(Setup::open());
    an_event_that_the_schema_does_not_allow_is_refused(Setup::required());
    a_schema_that_breaks_what_was_good_is_refused_with_every_reason(Setup::required());
    durable_subscribers_get_what_fits_their_filter_as_mail(Setup::open());
    a_filter_that_does_not_parse_is_refused_with_its_place(Setup::open());
    events_are_kept_over_the_death_of_every_process(Setup::open().database_may_die());
}

fn events(topic: &str) -> String {
    format!("/api/v1/topics/{topic}/events")
}

async fn publish(caller: &Caller, topic: &str, event: Value) -> Value {
    caller.post(&events(topic), json!({"event": event})).await.ok()
}

async fn replay(caller: &Caller, topic: &str, query: &[(&str, &str)]) -> Value {
    guildhall_tests::Answer::to(caller.request(Method::GET, &events(topic)).query(query)).await.ok()
}

fn contents(page: &Value) -> Vec<Value> {
    page["events"].as_array().unwrap().iter().map(|event| event["event"].clone()).collect()
}

async fn what_was_published_is_replayed_by_time_filter_and_page(hall: &Hall) {
    hall.caller().register("ci").await;
    let ci = hall.agent("ci");
    for n in 0..10 {
        let body = json!({"event": {"n": n, "status": if n % 2 == 0 { "good" } else { "bad" }}, "headers": {"job": format!("j{n}")}});
        let answer = ci.post(&events("ci.done"), body).await.ok();
        assert!(["fsync", "replicated", "buffered"].contains(&answer["durability"].as_str().unwrap()), "{answer}");
    }
    publish(&ci, "other", json!("elsewhere")).await;
    let reader = hall.agent("reader");
    let all = replay(&reader, "ci.done", &[]).await;
    assert_eq!(contents(&all).len(), 10);
    let first = &all["events"][0];
    assert_eq!(
        (&first["publisher"], &first["headers"]["job"], &first["topic"]),
        (&json!("ci"), &json!("j0"), &json!("ci.done"))
    );
    let bad = replay(&reader, "ci.done", &[("filter", r#"event.status == "bad" && event.n > 3"#)]).await;
    assert_eq!(
        contents(&bad).iter().map(|event| event["n"].clone()).collect::<Vec<_>>(),
        [json!(5), json!(7), json!(9)]
    );
    let one = replay(&reader, "ci.done", &[("filter", r#"headers["job"] == "j4""#)]).await;
    assert_eq!(contents(&one)[0]["n"], 4);
    let page = replay(&reader, "ci.done", &[("limit", "4")]).await;
    assert_eq!(contents(&page).len(), 4);
    let next = page["next"].to_string();
    let rest = replay(&reader, "ci.done", &[("limit", "100"), ("after", &next)]).await;
    assert_eq!(contents(&rest).len(), 6);
    let whole = replay(&reader, "ci.done", &[("limit", "10")]).await;
    assert_eq!((contents(&whole).len(), &whole["next"]), (10, &Value::Null), "nothing comes after the tenth");
    a_page_is_answered_at_once(hall, &all["events"][9]["sequence"].to_string()).await;
    let middle = all["events"][6]["published_at"].as_str().unwrap();
    let later = replay(&reader, "ci.done", &[("from", middle)]).await;
    assert!(contents(&later).iter().all(|event| event["n"].as_u64().unwrap() >= 4), "{later}");
    assert!(contents(&later).iter().any(|event| event["n"] == 6), "{later}");
    let none = replay(&reader, "ci.done", &[("from", "2001-01-01T00:00:00Z"), ("to", "2001-01-02T00:00:00Z")]).await;
    assert_eq!(contents(&none), Vec::<Value>::new());
    reader.get(&format!("{}?from=yesterday", events("ci.done"))).await.refused(400, "InvalidParams");
    let large = json!({"event": "x".repeat(70 * 1024)});
    ci.post(&events("ci.done"), large).await.refused(413, "PayloadTooLarge");
    ci.post("/api/v1/topics/a..b/events", json!({"event": 1})).await.refused(400, "InvalidParams");
}

/// A page ends where the topic does. One that ended once nothing more came would take its time whenever it is asked
/// for; a busy machine does not.
async fn a_page_is_answered_at_once(hall: &Hall, last: &str) {
    const AT_ONCE: Duration = Duration::from_millis(200);
    let idler = hall.agent("idler");
    for (topic, after, number) in [("ci.done", "0", 10), ("ci.done", last, 0), ("nothing.here", "0", 0)] {
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            let page = replay(&idler, topic, &[("after", after)]).await;
            quickest = quickest.min(start.elapsed());
            assert_eq!((contents(&page).len(), &page["next"]), (number, &Value::Null), "{topic} after {after}");
        }
        eprintln!("a page of {number} events of {topic} took {quickest:?}");
        assert!(quickest < AT_ONCE, "{topic} after {after} took {quickest:?} at best");
    }
}

type Following = std::pin::Pin<Box<dyn futures::Stream<Item = Sse> + Send>>;

async fn follow(caller: &Caller, topic: &str, after: Option<&str>) -> Following {
    let mut request = caller.request(Method::GET, &format!("/api/v1/topics/{topic}/stream"));
    if let Some(after) = after {
        request = request.header("last-event-id", after);
    }
    let response = request.timeout(Duration::from_secs(600)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    Box::pin(SseStream::from_bytes_stream(response.bytes_stream()).filter_map(async |event| event.ok()))
}

async fn next(following: &mut Following) -> (String, Value) {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(15), following.next()).await.expect("an event comes");
        let event = event.expect("the stream goes on");
        if let Some(data) = event.data {
            return (event.id.expect("every event has its sequence"), serde_json::from_str(&data).unwrap());
        }
    }
}

async fn a_stream_goes_on_after_the_last_event_that_was_seen(hall: &Hall) {
    hall.caller().register("ci").await;
    let last = hall.gateways().len() - 1;
    let mut following = follow(&hall.caller_of(0).agent("reader"), "ci", None).await;
    publish(&hall.caller_of(last).agent("ci"), "ci", json!(1)).await;
    publish(&hall.caller_of(last).agent("ci"), "ci", json!(2)).await;
    let (_, one) = next(&mut following).await;
    let (id, two) = next(&mut following).await;
    assert_eq!((&one["event"], &two["event"]), (&json!(1), &json!(2)));
    drop(following);
    for n in 3..=200 {
        publish(&hall.agent("ci"), "ci", json!(n)).await;
    }
    let mut resumed = follow(&hall.caller_of(last).agent("reader"), "ci", Some(&id)).await;
    for n in 3..=150 {
        assert_eq!(next(&mut resumed).await.1["event"], json!(n), "no gap, no repeat");
    }
    // What comes while it catches up follows without a seam.
    publish(&hall.agent("ci"), "ci", json!(201)).await;
    for n in 151..=201 {
        assert_eq!(next(&mut resumed).await.1["event"], json!(n));
    }
    let nonsense = hall.agent("reader").header("last-event-id", "abc").get("/api/v1/topics/ci/stream").await;
    nonsense.refused(400, "InvalidParams");
}

async fn a_repeat_under_its_key_adds_nothing(hall: &Hall) {
    hall.caller().register("ci").await;
    let body = json!({"event": 1, "idempotency_key": "k"});
    let one = hall.agent("ci").post(&events("t"), body.clone()).await.ok();
    let two = hall.agent("ci").post(&events("t"), body).await.ok();
    assert_eq!((&two["duplicate"], &two["sequence"]), (&json!(true), &one["sequence"]), "{two}");
    assert_eq!(contents(&replay(&hall.agent("ci"), "t", &[]).await), [json!(1)]);
}

const SCHEMA: &str = "/api/v1/topics/ci/schema";

fn schema() -> Value {
    json!({"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "enum": ["good", "bad"]}}})
}

async fn an_event_that_the_schema_does_not_allow_is_refused(hall: &Hall) {
    let ci = hall.caller().token(&hall.admin().register("ci").await);
    publish(&ci, "ci", json!("anything")).await;
    ci.put(SCHEMA, schema()).await.refused(403, "PermissionDenied");
    ci.put("/api/v1/topics/ci/subscribers/admin", json!({})).await.refused(403, "PermissionDenied");
    hall.admin().put(SCHEMA, json!({"type": 7})).await.refused(400, "InvalidParams");
    let set = hall.admin().put(SCHEMA, schema()).await.ok();
    assert_eq!(set["version"], 1, "{set}");
    eventually("every replica checks it", Duration::from_secs(10), async || {
        // Of two by two replicas; one that is not asked looks by itself every 2 s.
        for _ in 0..8 {
            if ci.post(&events("ci"), json!({"event": {"status": "ugly"}})).await.status == 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
    let refused = ci.post(&events("ci"), json!({"event": {"status": "ugly"}})).await.refused(400, "InvalidParams");
    assert!(refused.to_string().contains("/status"), "says where: {refused}");
    publish(&ci, "ci", json!({"status": "good"})).await;
    let read = ci.get(SCHEMA).await.ok();
    assert_eq!(read["schema"], schema(), "{read}");
}

async fn a_schema_that_breaks_what_was_good_is_refused_with_every_reason(hall: &Hall) {
    let admin = hall.admin();
    admin.put(SCHEMA, schema()).await.ok();
    assert_eq!(admin.put(SCHEMA, schema()).await.ok()["version"], 1, "the same is no new version");
    let wider = json!({"type": "object", "required": ["status"], "properties": {
        "status": {"type": "string", "enum": ["good", "bad", "ugly"]}, "note": {"type": "string"}}});
    let narrower = json!({"type": "object", "required": ["status", "who"], "properties": {
        "status": {"type": "string", "enum": ["good"]}}});
    let refused = admin.put(SCHEMA, narrower.clone()).await.refused(409, "Conflict");
    let said = refused.to_string();
    assert!(said.contains("who") && said.contains("status"), "every reason: {refused}");
    assert_eq!(admin.put(&format!("{SCHEMA}?force=true"), narrower).await.ok()["version"], 2);
    let _ = admin.put(&format!("{SCHEMA}?force=true"), wider).await.ok();
    assert_eq!(admin.get(&format!("{SCHEMA}?version=1")).await.ok()["schema"], schema());
    admin.get("/api/v1/topics/none/schema").await.refused(404, "NotFound");
}

async fn durable_subscribers_get_what_fits_their_filter_as_mail(hall: &Hall) {
    for agent in ["ci", "all", "bad"] {
        hall.caller().register(agent).await;
    }
    publish(&hall.agent("ci"), "ci", json!({"n": 0, "status": "bad"})).await;
    let at = |agent: &str| format!("/api/v1/topics/ci/subscribers/{agent}");
    hall.agent("all").put(&at("all"), json!({})).await.ok();
    hall.agent("bad").put(&at("bad"), json!({"filter": "event.status == 'bad'"})).await.ok();
    for n in 1..=20 {
        publish(&hall.agent("ci"), "ci", json!({"n": n, "status": if n % 5 == 0 { "bad" } else { "good" }})).await;
    }
    for (agent, expected) in [("all", (1..=20).collect::<Vec<u64>>()), ("bad", vec![5, 10, 15, 20])] {
        let mut arrived = Vec::new();
        eventually("all that fits arrives", Duration::from_secs(20), async || {
            let path = format!("/api/v1/messages?agent_id={agent}&pending=true&ack=auto");
            for mail in hall.agent(agent).get(&path).await.ok()["messages"].as_array().unwrap() {
                assert_eq!(
                    (&mail["type"], &mail["from"], &mail["to"]),
                    (&json!("event"), &json!("ci"), &json!("topic:ci")),
                    "{mail}"
                );
                arrived.push(mail["message"]["event"]["n"].as_u64().unwrap());
            }
            (arrived.len() >= expected.len()).then_some(())
        })
        .await;
        assert_eq!(arrived, expected, "{agent}: in order, once, none from before it subscribed");
    }
    let listed = hall.agent("ci").get("/api/v1/topics/ci/subscribers").await.ok();
    assert_eq!(listed["total"], 2, "{listed}");
    // A message to the topic is for its subscribers.
    let sent = hall.agent("ci").post("/api/v1/messages", json!({"to": "topic:ci", "message": "hear"})).await.ok();
    assert_eq!(sent["recipients"], 2);
    assert_eq!(hall.agent("bad").delete(&at("bad")).await.ok()["was_subscribed"], true);
    assert_eq!(hall.agent("bad").delete(&at("bad")).await.ok()["was_subscribed"], false);
}

async fn a_filter_that_does_not_parse_is_refused_with_its_place(hall: &Hall) {
    hall.caller().register("reader").await;
    let reader = hall.agent("reader");
    let deep = "(".repeat(5_000);
    for filter in ["event.status ==", "nonsense(event)", "event.a && unknown_name", deep.as_str()] {
        let asked = reader.request(Method::GET, &events("ci")).query(&[("filter", filter)]);
        let refused = guildhall_tests::Answer::to(asked).await;
        assert!([400, 414].contains(&refused.status), "{filter:.40}: {} {}", refused.status, refused.text);
        let body = json!({"filter": filter});
        reader.put("/api/v1/topics/ci/subscribers/reader", body).await.refused(400, "InvalidParams");
    }
    let listed = reader.get("/api/v1/topics/ci/subscribers").await.ok();
    assert_eq!(listed["total"], 0, "nothing done");
}

async fn events_are_kept_over_the_death_of_every_process(hall: &Hall) {
    for agent in ["ci", "sub"] {
        hall.caller().register(agent).await;
    }
    hall.agent("sub").put("/api/v1/topics/ci/subscribers/sub", json!({})).await.ok();
    for n in 0..5 {
        publish(&hall.agent("ci"), "ci", json!(n)).await;
    }
    for service in hall.services() {
        service.process.kill();
    }
    for service in hall.services() {
        service.process.start();
    }
    for service in hall.services() {
        service.ready().await;
    }
    publish(&hall.agent("ci"), "ci", json!(5)).await;
    let expected: Vec<Value> = (0..6).map(Value::from).collect();
    assert_eq!(contents(&replay(&hall.agent("ci"), "ci", &[]).await), expected);
    let mut arrived = Vec::new();
    eventually("the subscriber gets all of them", Duration::from_secs(30), async || {
        let taken = hall.agent("sub").get("/api/v1/messages?agent_id=sub&pending=true&ack=auto").await;
        let taken = (taken.status == 200).then(|| taken.json())?;
        arrived.extend(taken["messages"].as_array()?.iter().map(|mail| mail["message"]["event"].clone()));
        (arrived.len() >= 6).then_some(())
    })
    .await;
    assert_eq!(arrived, expected);
}
