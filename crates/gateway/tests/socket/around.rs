//! What goes on around a socket's agent: others who come and go, and topics.

use std::time::Duration;

use guildhall_domain::{NewAgent, event::NewEvent, mail::Body, ports::bus::Topic};
use serde_json::json;

use crate::{
    client::Client,
    stage::{Stage, admin, agent, id},
};

const A_WHILE: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_socket_is_told_of_agents_of_its_tenant_that_come_change_and_leave() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    stage.register(NewAgent { capabilities: Some(["rust".into()].into()), ..NewAgent::named(id("b"), "Bee") }).await;
    let joined = a.hear("agent.joined").await;
    assert_eq!((&joined["agent_id"], &joined["name"]), (&json!("b"), &json!("Bee")));
    assert_eq!(joined["capabilities"], json!(["rust"]));
    assert_eq!(joined.get("metadata"), None);
    let mut b = Client::open(&gate, "b").await;
    b.ask(json!({ "type": "heartbeat", "busy": true })).await;
    let status = a.hear_that(|frame| frame["type"] == "agent.status" && frame["status"] == "busy").await;
    assert_eq!(status["agent_id"], "b");
    stage.registry.remove(&admin(), &id("b")).await.unwrap();
    assert_eq!(a.hear("agent.left").await["agent_id"], "b");
}

#[tokio::test]
async fn very_many_who_come_are_told_within_bounds_and_the_last_is_not_missed() {
    let stage = Stage::with(&["a"]).await;
    let gate = stage.gateway().await;
    let mut a = Client::open(&gate, "a").await;
    for n in 0..500 {
        stage.register(NewAgent::named(id(&format!("n{n}")), "N")).await;
    }
    let mut joined = 0;
    loop {
        let frame = a.hear("agent.joined").await;
        joined += 1;
        if frame["agent_id"] == "n499" {
            break;
        }
    }
    assert_eq!(joined, 500);
}

fn event(body: &str) -> NewEvent {
    NewEvent {
        content: Body::from_text(body).unwrap(),
        headers: vec![("kind".into(), "test".into())],
        idempotency_key: None,
    }
}

async fn publish(stage: &Stage, body: &str) -> u64 {
    let topic = Topic::new("ci.done").unwrap();
    stage.topics.publish(&agent("a"), &topic, event(body)).await.unwrap().sequence
}

#[tokio::test]
async fn events_of_a_topic_come_as_its_filter_wants_them_until_it_is_left() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    let refused = b.ask(json!({ "type": "subscribe", "topic": "ci.done", "filter": "event.n >" })).await;
    assert_eq!(refused["error"], "InvalidParams", "{refused}");
    let answer = b.ask(json!({ "type": "subscribe", "topic": "ci.done", "filter": "event.n > 1" })).await;
    assert_eq!((&answer["type"], &answer["topic"]), (&json!("ok"), &json!("ci.done")));
    for n in 0..4 {
        publish(&stage, &format!("{{\"n\":{n}}}")).await;
    }
    let first = b.hear("topic.event").await;
    assert_eq!(
        (&first["event"]["n"], &first["topic"], &first["publisher"]),
        (&json!(2), &json!("ci.done"), &json!("a"))
    );
    assert_eq!(first["headers"]["kind"], "test");
    assert!(first["sequence"].is_u64() && first["published_at"].is_string());
    assert_eq!(b.hear("topic.event").await["event"]["n"], 3);
    let left = b.ask(json!({ "type": "unsubscribe", "topic": "ci.done" })).await;
    assert_eq!(left["was_subscribed"], true);
    publish(&stage, "{\"n\":9}").await;
    b.hears_none("topic.event", A_WHILE).await;
}

#[tokio::test]
async fn a_subscription_goes_on_after_the_event_that_was_seen_last() {
    let stage = Stage::with(&["a", "b"]).await;
    let gate = stage.gateway().await;
    let first = publish(&stage, "1").await;
    publish(&stage, "2").await;
    let mut b = Client::open(&gate, "b").await;
    b.ask(json!({ "type": "subscribe", "topic": "ci.done", "after": first })).await;
    assert_eq!(b.hear("topic.event").await["event"], 2);
    publish(&stage, "3").await;
    assert_eq!(b.hear("topic.event").await["event"], 3);
    let both =
        b.ask(json!({ "type": "subscribe", "topic": "ci.done", "after": 1, "from": "2026-01-01T00:00:00Z" })).await;
    assert_eq!(both["error"], "InvalidParams");
}

#[tokio::test]
async fn a_socket_follows_sixty_four_topics_and_no_more() {
    let stage = Stage::with(&["b"]).await;
    let gate = stage.gateway().await;
    let mut b = Client::open(&gate, "b").await;
    for n in 0..64 {
        assert_eq!(b.ask(json!({ "type": "subscribe", "topic": format!("t{n}") })).await["type"], "ok");
    }
    assert_eq!(b.ask(json!({ "type": "subscribe", "topic": "t64" })).await["error"], "InvalidParams");
    assert_eq!(
        b.ask(json!({ "type": "subscribe", "topic": "t63" })).await["type"],
        "ok",
        "one that it follows already"
    );
}
