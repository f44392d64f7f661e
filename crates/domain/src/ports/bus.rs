//! The bus: hints that wake someone up, and topics that keep what was published.
//!
//! A hint may be lost; whoever acts on hints also looks by itself now and then. An event of a topic is kept and can
//! be replayed. Both carry an [`Envelope`], so that principal and trace follow what happens next.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{Error, Principal, Result, TenantId, Timestamp, TraceContext};

/// What a hint is about: dotted words, `agent.joined`. Services say theirs in a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject(pub &'static str);

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A topic's name, chosen by agents: `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`, no empty word between dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(String);

impl Topic {
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let starts_plain = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if name.len() > 128 || !plain || !starts_plain || name.split('.').any(str::is_empty) {
            return Err(Error::invalid(
                "a topic is 1 to 128 letters, digits, _ - or single dots, the first a letter or digit",
            ));
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for Topic {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> String {
        topic.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process of the hall as others reach it: random for each start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(String);

impl NodeName {
    pub fn random(entropy: &dyn crate::Entropy) -> Self {
        let mut bytes = [0_u8; 16];
        entropy.fill(&mut bytes);
        Self(ulid::Ulid::from_bytes(bytes).to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is sent, with who caused it and in which trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub principal: Principal,
    pub trace: TraceContext,
    pub at: Timestamp,
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

/// A hint as a listener gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    pub subject: String,
    pub envelope: Envelope,
}

/// How safe an accepted event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On this machine's disk.
    Fsync,
    /// On more than one machine.
    Replicated,
    /// Taken by the engine, which writes it to disk by itself soon.
    Buffered,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's place in its topic; rises, with gaps allowed.
    pub sequence: u64,
    pub durability: Durability,
    /// True when the same key was published before, within two minutes: nothing was added.
    pub duplicate: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub sequence: u64,
    pub published_at: Timestamp,
    pub envelope: Envelope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayFrom {
    /// After this sequence; 0: from the first that is kept.
    After(u64),
    Time(Timestamp),
    /// Only what is published from now on.
    Now,
}

/// How the log that keeps a topic stands to a reader who has read up to some place of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The first place that is kept; what stood before it, of whatever topic, is gone. How many of these were the
    /// topic's own nobody can tell any more: topics share a log, and no engine counts them one by one.
    pub first_kept: u64,
    /// The log's newest place, when no event of the topic stands between the reader's and it.
    pub clear_until: Option<u64>,
}

/// How long events are kept, and how many bytes of all topics together. What is older or above goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub age: Duration,
    pub bytes: u64,
}

#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Wakes whoever listens now. Does not wait for them.
    async fn hint(&self, subject: Subject, envelope: Envelope) -> Result<()>;
    /// Hints of this subject, of every tenant, from now on. A listener that falls 1,024 behind misses the oldest.
    async fn hints(&self, subject: Subject) -> Result<BoxStream<'static, Hint>>;

    /// As a hint, to the one node of this name alone. May be lost; what is sent to a node arrives in order.
    async fn tell(&self, node: &NodeName, envelope: Envelope) -> Result<()>;
    /// What this node is told from now on. A listener that falls 1,024 behind misses the oldest.
    async fn told(&self, node: &NodeName) -> Result<BoxStream<'static, Envelope>>;

    /// Answered once it is as safe as `durability` says. `key`: within two minutes, the same publisher's same key
    /// on the same topic adds nothing.
    async fn publish(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        key: Option<&str>,
        envelope: Envelope,
    ) -> Result<Published>;
    /// What is kept, in order, then what comes, without a gap. Ends with an error when the engine goes away; go on
    /// with `After` the last one seen.
    async fn replay(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>>;

    /// What is kept when this is asked, in order; then the stream ends at once.
    async fn past(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        from: ReplayFrom,
    ) -> Result<BoxStream<'static, Result<Event>>>;

    /// For a reader who has read the topic up to `after`.
    async fn standing(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Standing>;

    /// Says whether the engine answers.
    async fn ping(&self) -> Result<()>;
}
