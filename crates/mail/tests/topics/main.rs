//! Topics over real engines: what may be published, who subscribes, and how events become mail.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

mod feeding;
mod publishing;
#[expect(dead_code, reason = "the tests of mail use more of it")]
#[path = "../mail/stage.rs"]
mod stage;

use std::time::Duration;

use guildhall_domain::{
    AgentId, AuditRecord, Call, Result,
    audit::AuditQuery,
    event::NewEvent,
    mail::{
        Body, Delivered,
        delivery::{LEASE, Settling, TakeMail, Verdict},
    },
    ports::{
        Mail,
        bus::{Published, Topic},
    },
};
use serde_json::Value;

use self::stage::{Replica, agent, hall, id};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(content: &Value) -> NewEvent {
    NewEvent { content: Body::from_value(content).unwrap(), headers: Vec::new(), idempotency_key: None }
}

async fn publish(replica: &Replica, by: &Call, to: &str, content: &Value) -> Result<Published> {
    replica.topics.publish(by, &topic(to), event(content)).await
}

async fn audited(replica: &Replica, query: AuditQuery) -> Vec<AuditRecord> {
    replica.registry.audit(&hall(), query).await.unwrap()
}

/// Takes what there is and acknowledges it, waiting for the first.
async fn take(mail: &dyn Mail, who: &AgentId, wait: Duration) -> Vec<Delivered> {
    let call = agent(who.as_str());
    let take = TakeMail { limit: 100, wait, taker: "test".into(), lease: LEASE, told: false };
    let taken = mail.take(&call, who, take).await.unwrap();
    if taken.is_empty() {
        return taken;
    }
    let settlings = taken
        .iter()
        .map(|mail| Settling { message_id: mail.message.message_id, lease: mail.lease, verdict: Verdict::Ack })
        .collect();
    for settled in mail.settle(&call, who, settlings).await.unwrap() {
        settled.unwrap();
    }
    taken
}

/// The contents of the next events that come as mail, so many of them.
async fn contents(replica: &Replica, who: &str, number: usize) -> Vec<Value> {
    let mut contents: Vec<Value> = Vec::new();
    while contents.len() < number {
        let taken = take(&*replica.mail, &id(who), Duration::from_secs(10)).await;
        assert!(!taken.is_empty(), "after {contents:?} nothing came to {who}");
        contents.extend(taken.iter().map(|mail| mail.message.body.parse::<Value>().unwrap()["event"].clone()));
    }
    contents
}
