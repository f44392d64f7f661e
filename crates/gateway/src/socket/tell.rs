//! What the hall says on a socket.

use axum::extract::ws::Utf8Bytes;
use guildhall_domain::{
    AgentId, Error,
    event::TopicEvent,
    mail::{Body, Delivered, Lease, Mailbox, Message},
    ports::bus::Topic,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{frame::Reference, streams::Credit};

#[derive(Serialize)]
struct Frame<'a, T> {
    #[serde(rename = "type")]
    word: &'a str,
    #[serde(rename = "ref", skip_serializing_if = "Reference::is_none")]
    reference: &'a Reference,
    #[serde(flatten)]
    rest: T,
}

fn write(word: &str, reference: &Reference, rest: impl Serialize) -> Utf8Bytes {
    // Strings, numbers and JSON that was read before: it always serializes.
    serde_json::to_string(&Frame { word, reference, rest }).unwrap_or_default().into()
}

fn say(word: &str, rest: impl Serialize) -> Utf8Bytes {
    write(word, &Reference::default(), rest)
}

pub(super) fn ok(reference: &Reference, rest: impl Serialize) -> Utf8Bytes {
    write("ok", reference, rest)
}

pub(super) fn done(reference: &Reference) -> Utf8Bytes {
    ok(reference, json!({}))
}

pub(super) fn error(reference: &Reference, error: &Error) -> Utf8Bytes {
    write("error", reference, error)
}

#[derive(Serialize)]
struct NewMessage<'a> {
    message: &'a Message,
    lease: Lease,
    lease_until: guildhall_domain::Timestamp,
    /// 1 the first time.
    attempt: u32,
    mailbox: &'a Mailbox,
}

pub(super) fn message(delivered: &Delivered) -> Utf8Bytes {
    let Delivered { message, mailbox, lease, lease_until, attempt } = delivered;
    let rest = NewMessage { message, lease: *lease, lease_until: *lease_until, attempt: *attempt, mailbox };
    say("message.new", rest)
}

/// Where the agent's mail is pushed from now on: here, or on a newer socket of the agent.
pub(super) fn mail_here(here: bool) -> Utf8Bytes {
    say("mail.here", json!({ "here": here }))
}

/// `word` is `agent.joined`, `agent.status` or `agent.left`.
pub(super) fn agent(word: &str, rest: &Value) -> Utf8Bytes {
    say(word, rest)
}

/// More agents have changed than this socket was told of.
pub(super) fn agents_changed() -> Utf8Bytes {
    say("agents.changed", json!({ "message": "more has changed than was told here; list the agents" }))
}

pub(super) fn event(event: &TopicEvent) -> Utf8Bytes {
    say("topic.event", event)
}

/// The subscription is over; `after` is where to go on.
pub(super) fn topic_ended(topic: &Topic, reason: &Error, after: Option<u64>) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Ended<'a> {
        topic: &'a Topic,
        #[serde(flatten)]
        reason: &'a Error,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    }
    say("topic.ended", Ended { topic, reason, after })
}

pub(super) fn stream_open(stream: &str, from: &AgentId, credit: Credit, metadata: Option<&Body>) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Open<'a> {
        stream: &'a str,
        from: &'a AgentId,
        credit: Credit,
        #[serde(skip_serializing_if = "Option::is_none")]
        metadata: Option<&'a Body>,
    }
    say("stream_open", Open { stream, from, credit, metadata })
}

pub(super) fn stream_data(stream: &str, seq: u64, data: &Body) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Data<'a> {
        stream: &'a str,
        seq: u64,
        data: &'a Body,
    }
    say("stream_data", Data { stream, seq, data })
}

pub(super) fn stream_credit(stream: &str, credit: Credit) -> Utf8Bytes {
    say("stream_credit", json!({ "stream": stream, "frames": credit.frames, "bytes": credit.bytes }))
}

pub(super) fn stream_close(stream: &str, reason: &str) -> Utf8Bytes {
    say("stream_close", json!({ "stream": stream, "reason": reason }))
}
