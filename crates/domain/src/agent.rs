//! Agents: who is here, what they can do, whether they are alive.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AgentId, Error, Result, TenantId, Timestamp};

/// Hints about agents. Their payload is a JSON object with at least `agent_id`; the tenant is the envelope's.
pub mod subject {
    use crate::ports::bus::Subject;

    pub const JOINED: Subject = Subject("agent.joined");
    pub const CHANGED: Subject = Subject("agent.changed");
    pub const LEFT: Subject = Subject("agent.left");
    /// The payload also has `status` and `previous`.
    pub const STATUS: Subject = Subject("agent.status");
}

/// Free metadata an agent may carry, as JSON text. Keeps a roster of 10,000 agents small.
pub const METADATA_MAX_BYTES: usize = 16 * 1024;
/// Capabilities and roles of one agent.
pub const TAGS_MAX: usize = 64;
/// Public keys that an agent's record keeps beside the present one.
pub const OLD_KEYS_MAX: usize = 8;
pub const PAGE_DEFAULT: usize = 100;
pub const PAGE_MAX: usize = 1_000;

/// Whether an agent is alive, as far as the hall can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    Active,
    /// Said by the agent itself.
    Busy,
    /// No sign of life for 60 s.
    Idle,
    /// No sign of life for 90 s, or none ever.
    Offline,
}

impl Presence {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Offline => "offline",
        }
    }
}

impl std::str::FromStr for Presence {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "active" => Ok(Self::Active),
            "busy" => Ok(Self::Busy),
            "idle" => Ok(Self::Idle),
            "offline" => Ok(Self::Offline),
            _ => Err(Error::invalid("status is one of active, busy, idle, offline")),
        }
    }
}

/// After how much silence an agent counts as idle, then as offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceRule {
    pub idle_after: Duration,
    pub offline_after: Duration,
}

impl Default for PresenceRule {
    fn default() -> Self {
        Self { idle_after: Duration::from_secs(60), offline_after: Duration::from_secs(90) }
    }
}

impl PresenceRule {
    pub fn judge(self, last_sign: Option<Timestamp>, said_busy: bool, now: Timestamp) -> Presence {
        let Some(last_sign) = last_sign else { return Presence::Offline };
        let silence = now.since(last_sign);
        if silence >= self.offline_after {
            Presence::Offline
        } else if silence >= self.idle_after {
            Presence::Idle
        } else if said_busy {
            Presence::Busy
        } else {
            Presence::Active
        }
    }
}

/// How an agent wants its mail brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    #[default]
    Poll,
    Websocket,
    Webhook,
    Letta,
}

impl Delivery {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Websocket => "websocket",
            Self::Webhook => "webhook",
            Self::Letta => "letta",
        }
    }
}

impl std::str::FromStr for Delivery {
    type Err = Error;
    fn from_str(word: &str) -> Result<Self> {
        match word {
            "poll" => Ok(Self::Poll),
            "websocket" => Ok(Self::Websocket),
            "webhook" => Ok(Self::Webhook),
            "letta" => Ok(Self::Letta),
            _ => Err(Error::invalid("delivery is one of poll, websocket, webhook, letta")),
        }
    }
}

/// A public key an agent publishes, so that others can seal words for it. The hall only keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// For example `x25519`.
    pub algorithm: String,
    /// The key, base64.
    pub key: String,
}

impl PublicKey {
    pub fn check(&self) -> Result<()> {
        let algorithm_fits = !self.algorithm.is_empty() && self.algorithm.len() <= 32;
        let key_fits = !self.key.is_empty()
            && self.key.len() <= 2048
            && self.key.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=-_".contains(&b));
        if algorithm_fits && key_fits {
            Ok(())
        } else {
            Err(Error::invalid("public_key needs an algorithm (1 to 32 characters) and a key (base64, at most 2048)"))
        }
    }
}

/// An agent as everyone of its tenant sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    #[serde(skip)]
    pub tenant: TenantId,
    pub agent_id: AgentId,
    pub name: String,
    #[serde(default)]
    pub session_id: Option<String>,
    pub status: Presence,
    pub capabilities: BTreeSet<String>,
    pub roles: BTreeSet<String>,
    #[serde(default)]
    pub pool: Option<String>,
    pub delivery: Delivery,
    /// Where its mail is brought when it wants that by webhook.
    #[serde(default)]
    pub webhook_url: Option<String>,
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub public_key: Option<PublicKey>,
    /// Those it published before, the newest first, at most [`OLD_KEYS_MAX`]: mail sealed for them can still be told
    /// apart.
    #[serde(default)]
    pub old_keys: Vec<PublicKey>,
    /// Why an administrator paused it; `None`: it is not paused.
    #[serde(default)]
    pub paused: Option<String>,
    pub registered_at: Timestamp,
    pub last_heartbeat: Option<Timestamp>,
    /// Rises with every change of the record (not with heartbeats): its place in the order of changes.
    #[serde(skip)]
    pub version: u64,
    /// Tokens of an earlier epoch are no longer good.
    #[serde(skip)]
    pub token_epoch: u32,
}

/// What an agent says of itself when it registers. `None` keeps what is there when it registers again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAgent {
    pub agent_id: AgentId,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub session_id: Option<String>,
    #[serde(default)]
    pub capabilities: Option<BTreeSet<String>>,
    /// Granted only when an administrator asks for them; refused otherwise.
    #[serde(default)]
    pub roles: Option<BTreeSet<String>>,
    #[serde(default)]
    pub pool: Option<String>,
    #[serde(default)]
    pub delivery: Option<Delivery>,
    #[serde(default)]
    pub webhook_url: Option<String>,
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    #[serde(default)]
    pub public_key: Option<PublicKey>,
}

impl NewAgent {
    pub fn named(agent_id: AgentId, name: impl Into<String>) -> Self {
        Self {
            agent_id,
            name: Some(name.into()),
            session_id: None,
            capabilities: None,
            roles: None,
            pool: None,
            delivery: None,
            webhook_url: None,
            metadata: None,
            public_key: None,
        }
    }

    /// Refused whole, before any effect.
    pub fn check(&self) -> Result<()> {
        self.agent_id.check_free()?;
        check_text("name", self.name.as_deref(), 256)?;
        check_text("session_id", self.session_id.as_deref(), 256)?;
        check_text("webhook_url", self.webhook_url.as_deref(), 2048)?;
        check_tag("pool", self.pool.as_deref().into_iter())?;
        check_tag("capabilities", self.capabilities.iter().flatten().map(String::as_str))?;
        check_tag("roles", self.roles.iter().flatten().map(String::as_str))?;
        if let Some(key) = &self.public_key {
            key.check()?;
        }
        let metadata_bytes =
            self.metadata.as_ref().map_or(0, |m| serde_json::to_string(m).map_or(usize::MAX, |t| t.len()));
        if metadata_bytes > METADATA_MAX_BYTES {
            return Err(Error::new(
                crate::ErrorCode::PayloadTooLarge,
                format!("metadata is {metadata_bytes} bytes of JSON; at most {METADATA_MAX_BYTES} are kept"),
            ));
        }
        Ok(())
    }
}

fn check_text(field: &str, text: Option<&str>, max: usize) -> Result<()> {
    match text {
        Some(text) if text.is_empty() || text.len() > max || text.chars().any(char::is_control) => {
            Err(Error::invalid(format!("{field} must be 1 to {max} bytes without control characters")))
        }
        _ => Ok(()),
    }
}

fn check_tag<'a>(field: &str, tags: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut count = 0;
    for tag in tags {
        count += 1;
        let plain = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b));
        if tag.is_empty() || tag.len() > 64 || !plain || count > TAGS_MAX {
            return Err(Error::invalid(format!(
                "{field}: at most {TAGS_MAX} words of 1 to 64 letters, digits, _ - . : or /"
            )));
        }
    }
    Ok(())
}

/// Which agents a caller wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentQuery {
    pub status: Option<Presence>,
    pub capability: Option<String>,
    pub role: Option<String>,
    /// 0: the default of [`PAGE_DEFAULT`]; at most [`PAGE_MAX`].
    pub limit: usize,
    /// The last id of the page before.
    pub after: Option<AgentId>,
}

impl AgentQuery {
    /// Whether it leaves nobody out but those of other pages.
    pub fn is_of_everyone(&self) -> bool {
        self.status.is_none() && self.capability.is_none() && self.role.is_none()
    }
}

/// One page, in the order of ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AgentPage {
    /// Shared, so that handing out a page of a thousand costs no more than one of ten.
    pub agents: Arc<[Arc<Agent>]>,
    /// How many match, over all pages.
    pub total: usize,
    /// Where the next page begins; `None` on the last.
    pub next: Option<AgentId>,
}

/// A change of the record, in the order of `version`: what replicas follow to keep their roster.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every change is a present agent: a box would cost them all")]
pub enum AgentChange {
    Present(Agent),
    Gone { tenant: TenantId, agent_id: AgentId, version: u64 },
}

impl AgentChange {
    pub fn version(&self) -> u64 {
        match self {
            Self::Present(agent) => agent.version,
            Self::Gone { version, .. } => *version,
        }
    }
}

/// A sign of life, gathered by the gateway and sent on in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub tenant: TenantId,
    pub agent_id: AgentId,
    pub at: Timestamp,
    /// Said by the agent: `Some(true)` busy, `Some(false)` busy no longer, `None` nothing about it.
    pub busy: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_turns_active_into_idle_and_then_offline_at_the_contracts_seconds() {
        let rule = PresenceRule::default();
        let last = Timestamp::from_millis(0);
        let at = |s: i64| rule.judge(Some(last), false, Timestamp::from_millis(s * 1000));
        assert_eq!(
            (at(59), at(60), at(89), at(90)),
            (Presence::Active, Presence::Idle, Presence::Idle, Presence::Offline)
        );
        assert_eq!(rule.judge(Some(last), true, Timestamp::from_millis(1)), Presence::Busy);
        assert_eq!(rule.judge(None, true, last), Presence::Offline);
    }

    #[test]
    fn oversized_or_odd_fields_are_refused_before_any_effect() {
        let new = || NewAgent::named("a".parse().unwrap(), "A");
        assert!(new().check().is_ok());
        assert!(NewAgent { agent_id: AgentId::hall(), ..new() }.check().is_err());
        assert!(NewAgent { name: Some("x".repeat(257)), ..new() }.check().is_err());
        assert!(NewAgent { name: Some("a\u{0}b".into()), ..new() }.check().is_err());
        assert!(NewAgent { pool: Some("p q".into()), ..new() }.check().is_err());
        let many = (0..65).map(|n| format!("c{n}")).collect();
        assert!(NewAgent { capabilities: Some(many), ..new() }.check().is_err());
        let big = Map::from_iter([("k".to_owned(), Value::String("x".repeat(METADATA_MAX_BYTES)))]);
        assert!(NewAgent { metadata: Some(big), ..new() }.check().is_err());
    }
}
