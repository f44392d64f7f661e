//! A request: a message that one answer belongs to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Body, MessageId, NewMessage};
use crate::{AgentId, Error, Result, Timestamp};

pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// A request that nobody waits for may take long; nothing waits for ever.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A caller that waits holds a connection.
pub const WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// What is asked: the message goes to one agent or one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRequest {
    pub message: NewMessage,
    pub timeout: Duration,
    /// The requester does nothing else until the answer is there. Waits that would close a circle are refused.
    pub waits: bool,
}

impl NewRequest {
    pub fn check(&self) -> Result<()> {
        self.message.check()?;
        let max = if self.waits { WAIT_MAX } else { TIMEOUT_MAX };
        if self.timeout.is_zero() || self.timeout > max {
            return Err(Error::invalid(format!(
                "timeout_ms is 1 to {} {}",
                max.as_millis(),
                if self.waits { "for a request that waits; with \"async\": true it may be longer" } else { "" }
            )));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// Nobody has answered yet.
    Pending,
    Answered,
    /// The other side said that it could not.
    Failed,
    Cancelled,
    TimedOut,
}

impl RequestState {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Answered, Self::Failed, Self::Cancelled, Self::TimedOut];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
        }
    }

    pub const fn rank(self) -> u8 {
        self as u8
    }

    pub fn of_rank(rank: u8) -> Option<Self> {
        Self::ALL.get(usize::from(rank)).copied()
    }

    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

/// How far the answering side is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Only ever rises within a request.
    pub progress: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Progress {
    pub fn check(&self) -> Result<()> {
        let countable = |number: f64| number.is_finite() && number >= 0.0;
        if !countable(self.progress) || !self.total.is_none_or(countable) {
            return Err(Error::invalid("progress and total are numbers of at least 0"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done(Body),
    /// The other side says why it could not.
    Failed(String),
}

/// A request as both of its sides see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The id of the message that asked.
    pub request_id: MessageId,
    pub from: AgentId,
    /// An agent, or a pool of which one member answers.
    pub to: super::Mailbox,
    pub state: RequestState,
    pub asked_at: Timestamp,
    pub deadline: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Who answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<AgentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Body>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}
