//! What may be published, by which schema, and who may say so.

use std::time::Duration;

use futures::future::join_all;
use guildhall_domain::{
    Call, ErrorCode, Principal, PrincipalKind, TenantId,
    audit::AuditQuery,
    event::{EVENT_MAX_BYTES, NewEvent, TopicInfo},
    mail::Body,
    principal::roles,
};
use guildhall_testkit::engines::eventually;
use serde_json::{Value, json};

use super::{
    audited, event, publish,
    stage::{Engines, Replica, admin, agent, id, refused},
    topic,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn observer() -> Call {
    Call::new(Principal::new(TenantId::default(), PrincipalKind::Person, "guest", [roles::OBSERVER]))
}

async fn set_schema(replica: &Replica, schema: &Value, force: bool) -> guildhall_domain::Result<u32> {
    replica.topics.set_schema(&admin(), &topic("ci"), schema.clone(), force).await.map(|set| set.version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_judged_by_the_newest_schema_on_every_replica_embedded() {
    an_event_is_judged_by_the_newest_schema_on_every_replica(Engines::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_judged_by_the_newest_schema_on_every_replica_distributed() {
    let Some(engines) = Engines::distributed().await else { return };
    an_event_is_judged_by_the_newest_schema_on_every_replica(engines).await;
}

async fn an_event_is_judged_by_the_newest_schema_on_every_replica(engines: Engines) {
    let (here, there) = engines.replicas().await;
    let worker = agent("worker");
    for replica in [&here, &there] {
        publish(replica, &worker, "ci", &json!("anything")).await.unwrap();
    }
    set_schema(&here, &json!({ "type": "object", "required": ["kind"] }), true).await.unwrap();
    let fault = refused(publish(&here, &worker, "ci", &json!({})).await, ErrorCode::InvalidParams);
    assert!(fault.message.contains("kind"), "{fault}");
    // The other replica heard of it, or looks within 2 s.
    eventually("the schema is known there", PATIENCE, async || {
        publish(&there, &worker, "ci", &json!("still anything?")).await.err()
    })
    .await;
    publish(&there, &worker, "ci", &json!({ "kind": "build" })).await.unwrap();
    // Another topic, and the same topic of another tenant, take what they took.
    publish(&here, &worker, "ci.other", &json!(1)).await.unwrap();
    let elsewhere = Principal::new(TenantId::new("other").unwrap(), PrincipalKind::Agent, "worker", [roles::AGENT]);
    publish(&here, &Call::new(elsewhere), "ci", &json!(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_refuses_what_was_good_is_set_only_by_force() {
    let engines = Engines::embedded();
    let (here, _there) = engines.replicas().await;
    let open = json!({ "type": "object", "properties": { "n": { "type": "number" } } });
    assert_eq!(set_schema(&here, &open, false).await.unwrap(), 1);
    assert_eq!(set_schema(&here, &open, false).await.unwrap(), 1, "the same schema is a version of its own");
    let wider = json!({ "type": "object", "properties": { "n": { "type": ["number", "string"] } } });
    assert_eq!(set_schema(&here, &wider, false).await.unwrap(), 2);

    let narrow = json!({ "type": "object", "required": ["id"], "properties": { "n": { "type": "integer" } } });
    let refusal = refused(set_schema(&here, &narrow, false).await, ErrorCode::Conflict);
    for reason in ["the field id is required now", "at /n:", "with force"] {
        assert!(refusal.message.contains(reason), "{reason} is not in {refusal}");
    }
    assert_eq!(refusal.details.unwrap()["reasons"].as_array().unwrap().len(), 2);
    assert_eq!(set_schema(&here, &narrow, true).await.unwrap(), 3);
    refused(set_schema(&here, &json!({ "type": "text" }), true).await, ErrorCode::InvalidParams);

    for (version, schema) in [(Some(1), &open), (Some(2), &wider), (None, &narrow)] {
        assert_eq!(here.topics.schema(&agent("a"), &topic("ci"), version).await.unwrap().unwrap().schema, *schema);
    }
    assert_eq!(here.topics.schema(&agent("a"), &topic("ci"), Some(4)).await.unwrap(), None);
    let newest = here.topics.schema(&agent("a"), &topic("ci"), None).await.unwrap().unwrap();
    assert_eq!((newest.version, &*newest.set_by), (3, "person:operator"));
    let audit = audited(&here, AuditQuery { act: Some("topic.schema".into()), ..AuditQuery::default() }).await;
    assert_eq!(audit.len(), 3, "each version is an entry of the audit chain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_set_a_schema_at_once_make_two_versions() {
    let Some(engines) = Engines::distributed().await else { return };
    let (here, there) = engines.replicas().await;
    let schemas: Vec<Value> = (0..4).map(|i| json!({ "title": i.to_string() })).collect();
    let set = schemas
        .iter()
        .enumerate()
        .map(|(i, schema)| set_schema(if i % 2 == 0 { &here } else { &there }, schema, false));
    let mut versions: Vec<u32> = join_all(set).await.into_iter().map(Result::unwrap).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_refused_and_nothing_is_done() {
    let engines = Engines::embedded();
    let (here, _there) = engines.replicas().await;
    here.register("worker").await;
    here.register("other").await;
    let (ci, worker) = (topic("ci"), agent("worker"));
    let denied = ErrorCode::PermissionDenied;
    refused(publish(&here, &observer(), "ci", &json!(1)).await, denied);
    refused(here.topics.set_schema(&worker, &ci, json!({}), false).await, denied);
    refused(here.topics.subscribe(&worker, &ci, &id("other"), None).await, denied);
    refused(here.topics.subscribe(&observer(), &ci, &id("worker"), None).await, denied);
    refused(here.topics.unsubscribe(&worker, &ci, &id("other")).await, denied);
    refused(here.topics.subscribe(&worker, &ci, &id("nobody"), None).await, denied);
    refused(here.topics.subscribe(&admin(), &ci, &id("nobody"), None).await, ErrorCode::NotFound);
    assert_eq!(here.topics.topics(&observer()).await.unwrap(), []);
    here.topics.subscribe(&admin(), &ci, &id("other"), None).await.unwrap();
    here.topics.set_schema(&admin(), &topic("build"), json!({}), false).await.unwrap();
    let listed = here.topics.topics(&observer()).await.unwrap();
    let info = |name: &str, schema_version, subscribers| TopicInfo { topic: topic(name), schema_version, subscribers };
    assert_eq!(listed, [info("build", Some(1), 0), info("ci", None, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_not_well_formed_is_refused_and_a_repeat_adds_nothing() {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    let (ci, worker) = (topic("ci"), agent("worker"));
    let over = NewEvent { content: Body::from_value(&"x".repeat(EVENT_MAX_BYTES)).unwrap(), ..event(&json!(1)) };
    refused(here.topics.publish(&worker, &ci, over).await, ErrorCode::PayloadTooLarge);
    let odd = NewEvent { headers: vec![("a".into(), "b\r\n".into())], ..event(&json!(1)) };
    refused(here.topics.publish(&worker, &ci, odd).await, ErrorCode::InvalidParams);
    let keyed = NewEvent { idempotency_key: Some("k".into()), ..event(&json!(1)) };
    let first = here.topics.publish(&worker, &ci, keyed.clone()).await.unwrap();
    let again = there.topics.publish(&worker, &ci, keyed).await.unwrap();
    assert!(!first.duplicate && again.duplicate && first.sequence == again.sequence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_does_not_parse_subscribes_nobody() {
    let engines = Engines::embedded();
    let (here, _there) = engines.replicas().await;
    here.register("worker").await;
    let (ci, worker) = (topic("ci"), agent("worker"));
    let refusal = here.topics.subscribe(&worker, &ci, &id("worker"), Some("event.kind ==".into())).await;
    assert!(refused(refusal, ErrorCode::InvalidParams).message.contains("line 1"));
    assert_eq!(here.topics.subscribers(&worker, &ci).await.unwrap(), []);

    let first = here.topics.subscribe(&worker, &ci, &id("worker"), Some("event.n > 1".into())).await.unwrap();
    engines.clock.advance(Duration::from_secs(60));
    let again = here.topics.subscribe(&worker, &ci, &id("worker"), None).await.unwrap();
    assert_eq!((again.since, &again.filter), (first.since, &None), "subscribing again begins it anew");
    assert_eq!(here.topics.subscribers(&worker, &ci).await.unwrap(), [again]);
    assert!(here.topics.unsubscribe(&worker, &ci, &id("worker")).await.unwrap());
    assert!(!here.topics.unsubscribe(&worker, &ci, &id("worker")).await.unwrap());
    let audit = audited(&here, AuditQuery { target: Some("topic:ci".into()), ..AuditQuery::default() }).await;
    let acts: Vec<String> = audit.into_iter().map(|record| record.act).collect();
    assert_eq!(acts.iter().filter(|act| *act == "topic.subscribe").count(), 2, "{acts:?}");
    assert!(acts.contains(&"topic.unsubscribe".to_owned()), "{acts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_says_who_published_it() {
    let (here, _there) = Engines::embedded().replicas().await;
    // As in an open hall, where callers may leave out who they are.
    let nameless = Call::new(Principal::new(TenantId::default(), PrincipalKind::Person, "", [roles::ADMIN]));
    let fault = refused(publish(&here, &nameless, "ci", &json!(1)).await, ErrorCode::InvalidParams);
    assert!(fault.message.contains("X-Agent-Id"), "{fault}");
    publish(&here, &admin(), "ci", &json!(1)).await.unwrap();
}
