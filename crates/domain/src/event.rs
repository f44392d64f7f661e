//! Events: what is published on a topic. The bus keeps them; the hall keeps each topic's rules and subscribers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AgentId, Error, ErrorCode, Result, Timestamp,
    mail::Body,
    ports::bus::{Event, Topic},
};

/// An event's content, as JSON text.
pub const EVENT_MAX_BYTES: usize = 64 * 1024;
pub const HEADERS_MAX: usize = 32;
/// A filter's text.
pub const FILTER_MAX_BYTES: usize = 2 * 1024;
pub const SCHEMA_MAX_BYTES: usize = 64 * 1024;
pub const SUBSCRIBERS_MAX: usize = 10_000;

/// An event as its publisher says it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub content: Body,
    pub headers: Vec<(String, String)>,
    /// Within two minutes the same publisher's same key on the same topic adds nothing.
    pub idempotency_key: Option<String>,
}

impl NewEvent {
    pub fn check(&self) -> Result<()> {
        let bytes = self.content.as_text().len();
        if bytes > EVENT_MAX_BYTES {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!("the event is {bytes} bytes of JSON; at most {EVENT_MAX_BYTES} are taken"),
            ));
        }
        let odd = |text: &str, max: usize| text.is_empty() || text.len() > max || text.chars().any(char::is_control);
        if self.headers.len() > HEADERS_MAX
            || self.headers.iter().any(|(name, value)| odd(name, 64) || odd(value, 1024))
        {
            return Err(Error::invalid(format!(
                "an event has at most {HEADERS_MAX} headers, names of 1 to 64 and values of 1 to 1,024 bytes, no control characters"
            )));
        }
        if self.idempotency_key.as_ref().is_some_and(|key| odd(key, 256)) {
            return Err(Error::invalid("idempotency_key must be 1 to 256 bytes without control characters"));
        }
        Ok(())
    }
}

/// An event as its readers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopicEvent {
    pub topic: Topic,
    /// Its place in the topic; rises, with gaps allowed.
    pub sequence: u64,
    pub published_at: Timestamp,
    pub publisher: String,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub headers: serde_json::Map<String, Value>,
    pub event: Body,
}

impl TopicEvent {
    pub fn of(topic: Topic, event: Event) -> Result<Self> {
        let text = String::from_utf8(event.envelope.payload.into())
            .map_err(|_| Error::internal("an event on the bus is not JSON"))?;
        Ok(Self {
            topic,
            sequence: event.sequence,
            published_at: event.published_at,
            publisher: event.envelope.principal.id.to_string(),
            headers: event.envelope.headers.into_iter().map(|(name, value)| (name, Value::String(value))).collect(),
            event: Body::from_text(text)?,
        })
    }
}

/// The JSON Schema that every later event of a topic is checked against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopicSchema {
    pub topic: Topic,
    /// From 1.
    pub version: u32,
    pub schema: Value,
    pub set_at: Timestamp,
    pub set_by: String,
}

/// An agent that gets a topic's events as mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    pub agent_id: AgentId,
    /// A CEL expression over `event` and `headers`; `None`: every event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    pub since: Timestamp,
}

/// A topic that has a schema or subscribers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    pub topic: Topic,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    pub subscribers: usize,
}
