//! Where mail goes: whom a sender names, and the mailboxes that this means.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{AgentId, Error, Result, id::EVERYONE, ports::bus::Topic};

/// Whom a message is for, as its sender writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Recipient {
    Agent(AgentId),
    /// Every agent of the tenant but the sender.
    Everyone,
    /// Every agent that has the role, but the sender.
    Role(String),
    /// Every agent that has the capability, but the sender.
    Capability(String),
    /// The pool's own mailbox: one of its members takes it.
    Pool(String),
    /// The topic's durable subscribers.
    Topic(Topic),
}

impl FromStr for Recipient {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let tag = |word: &str| {
            let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b));
            if word.is_empty() || word.len() > 64 || !plain {
                return Err(Error::invalid(format!(
                    "{text:.80} names nobody: after the colon stands one word of 1 to 64 letters, digits, _ - . : or /"
                )));
            }
            Ok(word.to_owned())
        };
        match text.split_once(':') {
            None if text == EVERYONE => Ok(Self::Everyone),
            None => Ok(Self::Agent(text.parse()?)),
            Some(("role", role)) => Ok(Self::Role(tag(role)?)),
            Some(("capability", capability)) => Ok(Self::Capability(tag(capability)?)),
            Some(("pool", pool)) => Ok(Self::Pool(tag(pool)?)),
            Some(("topic", topic)) => Ok(Self::Topic(Topic::new(topic)?)),
            Some(_) => Err(Error::invalid(
                "to is an agent's id, ALL, role:<role>, capability:<capability>, pool:<pool> or topic:<topic>",
            )),
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent) => agent.fmt(f),
            Self::Everyone => f.write_str(EVERYONE),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Capability(capability) => write!(f, "capability:{capability}"),
            Self::Pool(pool) => write!(f, "pool:{pool}"),
            Self::Topic(topic) => write!(f, "topic:{topic}"),
        }
    }
}

impl TryFrom<String> for Recipient {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> String {
        recipient.to_string()
    }
}

/// A place where mail waits until someone takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mailbox {
    Agent(AgentId),
    Pool(String),
}

impl Mailbox {
    /// The word for its sort, as databases keep it.
    pub const fn sort(&self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Pool(_) => "pool",
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Agent(agent) => agent.as_str(),
            Self::Pool(pool) => pool,
        }
    }

    pub fn of(sort: &str, name: &str) -> Result<Self> {
        match sort {
            "agent" => Ok(Self::Agent(name.parse()?)),
            "pool" => Ok(Self::Pool(name.to_owned())),
            _ => Err(Error::invalid("a mailbox is written agent:<id> or pool:<name>")),
        }
    }
}

impl FromStr for Mailbox {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let (sort, name) = text.split_once(':').unwrap_or(("agent", text));
        Self::of(sort, name)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sort(), self.name())
    }
}

impl TryFrom<String> for Mailbox {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mailbox> for String {
    fn from(mailbox: Mailbox) -> String {
        mailbox.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_recipient_is_read_back_as_it_was_written() {
        for text in ["worker-1", "ALL", "role:agent", "capability:rust/fmt", "pool:builders", "topic:ci.done"] {
            assert_eq!(text.parse::<Recipient>().unwrap().to_string(), text);
        }
        for bad in ["", "role:", "pool:a b", "topic:a..b", "team:x", "a b", &format!("role:{}", "x".repeat(65))] {
            assert!(bad.parse::<Recipient>().is_err(), "{bad:?} was taken");
        }
    }
}
