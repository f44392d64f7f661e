//! What topics are bounded by.

use guildhall_domain::{
    AuditEntry, ErrorCode, Principal, Result, TenantId, Timestamp, event::Subscriber, ports::bus::Topic,
};
use guildhall_store::{DatabaseUrl, Store};

use crate::{
    engines::{execute, open},
    on_both,
};

on_both! {
    a_topic_has_ten_thousand_subscribers_at_most
}

async fn subscribe(store: &Store, topic: &str, agent: &str) -> Result<()> {
    let (tenant, since) = (TenantId::default(), Timestamp::from_millis(1));
    let audit =
        AuditEntry::done(&Principal::hall(tenant.clone(), "test"), since, "topic.subscribe", agent, Default::default());
    let subscriber = Subscriber { agent_id: agent.parse().unwrap(), filter: None, since };
    store.topics().put_subscriber(&tenant, &Topic::new(topic).unwrap(), &subscriber, audit).await
}

async fn a_topic_has_ten_thousand_subscribers_at_most(url: &DatabaseUrl) {
    let store = open(url, "one");
    store.migrate().await.unwrap();
    let all_but_one = "INSERT INTO topic_subscribers (tenant, topic, agent_id, since)
        WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 9999)
        SELECT 'default', 'ci', 'agent-' || n, 1 FROM counted";
    execute(url, all_but_one).await;
    subscribe(&store, "ci", "last").await.unwrap();
    let refused = subscribe(&store, "ci", "late").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.message.contains("10000 durable subscribers"), "{refused}");
    for (topic, agent) in [("ci", "last"), ("ci", "agent-1"), ("cd", "late")] {
        subscribe(&store, topic, agent).await.unwrap();
    }
}
