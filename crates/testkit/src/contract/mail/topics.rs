//! Topics: what may be published on them, and who gets it as mail.

use guildhall_domain::{
    ErrorCode, Result,
    event::{NewEvent, TopicSchema},
    mail::{Body, kind},
    ports::bus::{Published, Topic},
};
use serde_json::{Value, json};

use super::{Replica, Stage, admin, agent, bodies, id, letter, next_key, refused};
use crate::contract::{eventually, insist};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(content: &Value) -> NewEvent {
    let content = Body::from_value(content).unwrap();
    NewEvent { content, headers: vec![("lang".into(), "rust".into())], idempotency_key: Some(next_key()) }
}

async fn publish(replica: &Replica, on: &Topic, content: &Value) -> Result<Published> {
    let event = event(content);
    insist(|| async { replica.topics.publish(&agent("a"), on, event.clone()).await }).await
}

async fn set_schema(replica: &Replica, on: &Topic, schema: &Value, force: bool) -> Result<TopicSchema> {
    insist(|| async { replica.topics.set_schema(&admin(), on, schema.clone(), force).await }).await
}

pub async fn a_schema_is_kept_in_versions_and_checked_and_does_not_break_who_published_before(stage: &Stage) {
    stage.agents(&["a"]).await;
    let built = topic("ci.built");
    let first = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
    let wider = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
    assert_eq!(insist(|| async { stage.here.topics.schema(&agent("a"), &built, None).await }).await.unwrap(), None);
    publish(&stage.here, &built, &json!("anything")).await.unwrap();

    let set = set_schema(&stage.here, &built, &first, false).await.unwrap();
    assert_eq!((set.version, &set.schema, &set.topic), (1, &first, &built));
    // The newest again is no new version.
    assert_eq!(set_schema(&stage.there, &built, &first, false).await.unwrap().version, 1);
    let checked = || async {
        match stage.there.topics.publish(&agent("a"), &built, event(&json!({"n": "one"}))).await {
            Err(error) if error.code == ErrorCode::InvalidParams => Ok(Some(error)),
            Err(error) => Err(error),
            Ok(_) => Ok(None),
        }
    };
    let fault = eventually("the other replica checks by the new schema", checked).await;
    assert!(fault.to_string().contains('n') || fault.details.is_some(), "it does not say where: {fault:?}");
    publish(&stage.there, &built, &json!({"n": 1})).await.unwrap();

    assert_eq!(set_schema(&stage.there, &built, &wider, false).await.unwrap().version, 2);
    let broken = refused(set_schema(&stage.here, &built, &first, false).await, ErrorCode::Conflict);
    assert!(broken.message.contains('n') || broken.details.is_some(), "{broken:?}");
    assert_eq!(set_schema(&stage.here, &built, &first, true).await.unwrap().version, 3);
    for (version, schema) in [(Some(1), &first), (Some(2), &wider), (Some(3), &first), (None, &first)] {
        let look = || async {
            let kept = stage.there.topics.schema(&agent("a"), &built, version).await?;
            Ok(kept.filter(|kept| kept.schema == *schema && kept.version == version.unwrap_or(3)))
        };
        eventually(&format!("version {version:?} is kept"), look).await;
    }
    assert_eq!(insist(|| async { stage.here.topics.schema(&agent("a"), &built, Some(9)).await }).await.unwrap(), None);
}

pub async fn events_reach_subscribers_as_mail_by_their_filters(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    let built = topic("ci.built");
    let subscribe = |who: &'static str, filter: Option<&'static str>| {
        let (topics, built) = (stage.here.topics.clone(), built.clone());
        async move {
            let filter = filter.map(str::to_owned);
            insist(|| async { topics.subscribe(&agent(who), &built, &id(who), filter.clone()).await }).await
        }
    };
    let all = subscribe("b", None).await.unwrap();
    assert_eq!((all.agent_id, all.filter), (id("b"), None));
    subscribe("c", Some("event.n >= 2")).await.unwrap();
    let subscribers =
        || async { Ok(Some(stage.there.topics.subscribers(&agent("a"), &built).await?).filter(|who| who.len() == 2)) };
    let subscribers = eventually("both are subscribers", subscribers).await;
    assert_eq!(subscribers[1].filter.as_deref(), Some("event.n >= 2"));

    for n in 1..=3 {
        publish(&stage.there, &built, &json!({ "n": n })).await.unwrap();
    }
    let at_b = stage.comes_to_take(&stage.here, "b", 3).await;
    assert!(at_b.iter().all(|one| one.message.kind == kind::EVENT), "{at_b:?}");
    let numbers = |bodies: Vec<&str>| -> Vec<i64> {
        let event = |body: &str| serde_json::from_str::<Value>(body).unwrap();
        bodies.into_iter().map(|body| event(body)["event"]["n"].as_i64().unwrap()).collect()
    };
    assert_eq!(numbers(bodies(&at_b)), [1, 2, 3]);
    let at_c = stage.comes_to_take(&stage.there, "c", 2).await;
    assert_eq!(numbers(bodies(&at_c)), [2, 3]);
    stage.ack_all(&stage.here, "b", &at_b).await;
    stage.ack_all(&stage.there, "c", &at_c).await;

    // The topic as a recipient: its durable subscribers.
    let receipt = stage.send(&stage.here, "a", &letter("topic:ci.built")).await.unwrap();
    assert_eq!(receipt.recipients, 2);
    let taken = stage.comes_to_take(&stage.here, "b", 1).await;
    stage.ack_all(&stage.here, "b", &taken).await;

    let ended = insist(|| async { stage.here.topics.unsubscribe(&agent("b"), &built, &id("b")).await }).await.unwrap();
    assert!(ended || stage.is_faulty);
    let again = insist(|| async { stage.there.topics.unsubscribe(&agent("b"), &built, &id("b")).await }).await.unwrap();
    assert!(!again);
    publish(&stage.there, &built, &json!({ "n": 4 })).await.unwrap();
    let both = stage.comes_to_take(&stage.there, "c", 2).await;
    assert_eq!(both.len(), 2, "the letter and the event");
    stage.take(&stage.here, "b", 0).await;
    let infos = || async { Ok(Some(stage.here.topics.topics(&agent("a")).await?).filter(|infos| infos.len() == 1)) };
    let infos = eventually("the topic is listed", infos).await;
    assert_eq!((&infos[0].topic, infos[0].schema_version), (&built, None));
}

pub async fn what_is_not_well_formed_is_refused(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let built = topic("ci.built");
    let (topics, a) = (&stage.here.topics, agent("a"));
    let bad = ErrorCode::InvalidParams;
    for filter in ["event.n >", "1 + 1 ==", ""] {
        refused(insist(|| async { topics.subscribe(&a, &built, &id("a"), Some(filter.into())).await }).await, bad);
    }
    refused(insist(|| async { topics.subscribe(&a, &built, &id("b"), None).await }).await, ErrorCode::PermissionDenied);
    refused(set_schema(&stage.here, &built, &json!({"type": "no such type"}), false).await, bad);
    let denied = insist(|| async { topics.set_schema(&a, &built, json!({}), false).await }).await;
    refused(denied, ErrorCode::PermissionDenied);
    let large = event(&json!("x".repeat(64 * 1024)));
    refused(insist(|| async { topics.publish(&a, &built, large.clone()).await }).await, ErrorCode::PayloadTooLarge);
    let odd = NewEvent { headers: vec![("a\nb".into(), "1".into())], ..event(&json!(1)) };
    refused(insist(|| async { topics.publish(&a, &built, odd.clone()).await }).await, bad);
    assert_eq!(insist(|| async { topics.topics(&a).await }).await.unwrap(), []);
}
