//! An event as mail.

use guildhall_domain::{
    AgentId, Principal, Result, Timestamp,
    event::TopicEvent,
    mail::{Body, NewMessage, Recipient, kind},
    ports::mail_store::{Addressees, Outgoing},
};
use serde::Serialize;

use crate::desk::Desk;

#[derive(Serialize)]
struct Letter<'e> {
    topic: &'e str,
    sequence: u64,
    published_at: Timestamp,
    headers: &'e serde_json::Map<String, serde_json::Value>,
    event: &'e Body,
    /// Only of one who is no agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    publisher: Option<String>,
}

/// One message to all of them.
pub(super) fn letter(
    desk: &Desk,
    publisher: &Principal,
    event: &TopicEvent,
    to: Vec<AgentId>,
    now: Timestamp,
) -> Result<Outgoing> {
    let agent = publisher.agent();
    let letter = Letter {
        topic: event.topic.as_str(),
        sequence: event.sequence,
        published_at: event.published_at,
        headers: &event.headers,
        event: &event.event,
        publisher: agent.is_none().then(|| format!("{}:{}", publisher.kind.as_str(), publisher.id)),
    };
    let message = NewMessage {
        kind: kind::EVENT.to_owned(),
        ..NewMessage::new(Recipient::Topic(event.topic.clone()), Body::from_value(&letter)?)
    };
    // Mail has agents for senders; the letter names a publisher that is none.
    let from = agent.unwrap_or_else(AgentId::hall);
    Ok(desk.outgoing(publisher, from, message, Addressees::Many(to), None, now))
}
