//! Mail: durable messages from one agent to others.
//!
//! A [`NewMessage`] is what a sender says. Accepted, it is a [`Message`] with an id of its own, and the sender holds a
//! [`Receipt`]. In every mailbox that it reaches it is a delivery ([`delivery`]), handed out in turn ([`turn`]) under
//! a lease until its taker settles it. A [`request`] is a message that an answer belongs to.

pub mod body;
pub mod delivery;
pub mod mailbox;
pub mod request;
pub mod turn;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    body::Body,
    delivery::{DeadLetter, Delivered, DeliveryState, Lease},
    mailbox::{Mailbox, Recipient},
    request::{Answer, NewRequest, Progress, Request, RequestState},
};
use crate::{AgentId, Error, Result, Timestamp, ports::bus::Durability};

/// Hints about mail.
pub mod subject {
    use crate::ports::bus::Subject;

    /// Something may be taken. Payload: `{"mailboxes": ["agent:<id>", "pool:<name>", …]}`.
    pub const WAITING: Subject = Subject("mail.waiting");
    /// A request was answered, moved on or ended. Payload: `{"request_id", "state"}`.
    pub const REQUEST: Subject = Subject("mail.request");
    /// A topic's schema or durable subscribers have changed. Payload: `{"topic"}`.
    pub const TOPIC: Subject = Subject("mail.topic");
}

/// Messages in one call of the port.
pub const SEND_MAX: usize = 100;
/// Kinds that the hall knows by name; any other word is allowed.
pub mod kind {
    pub const MESSAGE: &str = "message";
    pub const PING: &str = "ping";
    pub const ACK: &str = "ack";
    pub const REQUEST: &str = "request";
    pub const RESPONSE: &str = "response";
    /// Tells the agent that works on a request that nobody waits for its answer any more.
    pub const CANCEL: &str = "cancel";
    pub const EVENT: &str = "event";
}

/// A message's id: a ULID, so that ids of one process sort as they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MessageId(pub ulid::Ulid);

impl MessageId {
    pub fn bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(ulid::Ulid::from_bytes(bytes))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        ulid::Ulid::from_string(text)
            .map(Self)
            .map_err(|_| Error::invalid("not a message id: it is the 26 characters that sending answered with"))
    }
}

impl TryFrom<String> for MessageId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MessageId> for String {
    fn from(id: MessageId) -> String {
        id.to_string()
    }
}

/// Critical goes first, always; the others share what is handed out 8:4:2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Its place in the order, as databases and wires keep it.
    pub const fn rank(self) -> u8 {
        self as u8
    }

    pub fn of_rank(rank: u8) -> Option<Self> {
        Self::ALL.get(usize::from(rank)).copied()
    }
}

impl FromStr for Priority {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == word)
            .ok_or_else(|| Error::invalid("priority is one of critical, high, normal, low"))
    }
}

/// A message as its sender says it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    pub to: Recipient,
    /// One word: [`kind`] or any other.
    pub kind: String,
    pub priority: Priority,
    pub body: Body,
    /// For 24 h the same key of the same sender is the same message: its first receipt again, or `Conflict` when the
    /// message differs.
    pub idempotency_key: Option<String>,
    pub reply_to: Option<MessageId>,
    pub correlation_id: Option<String>,
    pub conversation_id: Option<String>,
    /// How long it may wait before it becomes a dead letter. `None`: as long as mail is kept.
    pub expires_in: Option<Duration>,
    pub requires_response: bool,
}

impl NewMessage {
    pub fn new(to: Recipient, body: Body) -> Self {
        Self {
            to,
            kind: kind::MESSAGE.to_owned(),
            priority: Priority::default(),
            body,
            idempotency_key: None,
            reply_to: None,
            correlation_id: None,
            conversation_id: None,
            expires_in: None,
            requires_response: false,
        }
    }

    /// Refused whole, before any effect.
    pub fn check(&self) -> Result<()> {
        self.body.check()?;
        let word = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if self.kind.is_empty() || self.kind.len() > 64 || !self.kind.chars().all(word) {
            return Err(Error::invalid("type is one word of 1 to 64 letters, digits, _ - . : or /"));
        }
        for (field, text) in [
            ("idempotency_key", &self.idempotency_key),
            ("correlation_id", &self.correlation_id),
            ("conversation_id", &self.conversation_id),
        ] {
            if text
                .as_ref()
                .is_some_and(|text| text.is_empty() || text.len() > 256 || text.chars().any(char::is_control))
            {
                return Err(Error::invalid(format!("{field} must be 1 to 256 bytes without control characters")));
            }
        }
        if self.expires_in.is_some_and(|time| time.is_zero()) {
            return Err(Error::invalid("expires_in_ms must be more than 0, or left out"));
        }
        Ok(())
    }
}

/// A message as it was accepted. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub message_id: MessageId,
    pub from: AgentId,
    pub to: Recipient,
    #[serde(rename = "type")]
    pub kind: String,
    pub priority: Priority,
    #[serde(rename = "message")]
    pub body: Body,
    pub sent_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requires_response: bool,
}

/// What a sender holds once its message is as safe as `durability` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub message_id: MessageId,
    /// How many mailboxes it reaches.
    pub recipients: u32,
    pub durability: Durability,
    /// True when the key was used before for this very message: nothing was added.
    pub duplicate: bool,
}
