//! What was done, by whom, and the proof that nothing was changed afterwards.
//!
//! An [`AuditEntry`] is what someone records. In the database it becomes an [`AuditRecord`]: numbered by its
//! writer within an epoch, so that a missing one shows, and later chained by the tenant's sealer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Principal, PrincipalKind, TenantId, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Refused,
    Failed,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = crate::Error;
    fn from_str(word: &str) -> crate::Result<Self> {
        match word {
            "done" => Ok(Self::Done),
            "refused" => Ok(Self::Refused),
            "failed" => Ok(Self::Failed),
            _ => Err(crate::Error::invalid("outcome is one of done, refused, failed")),
        }
    }
}

/// An act worth remembering.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    pub tenant: TenantId,
    pub at: Timestamp,
    pub actor_kind: PrincipalKind,
    pub actor: String,
    /// Dotted, for example `agent.register` or `tool.call`.
    pub act: String,
    /// What it was done to, for example `agent:worker-1`.
    pub target: String,
    pub outcome: Outcome,
    /// Hashed with a salt of its own; never holds a secret.
    pub body: Value,
}

impl AuditEntry {
    pub fn done(by: &Principal, at: Timestamp, act: impl Into<String>, target: impl Into<String>, body: Value) -> Self {
        Self {
            tenant: by.tenant.clone(),
            at,
            actor_kind: by.kind,
            actor: by.id.to_string(),
            act: act.into(),
            target: target.into(),
            outcome: Outcome::Done,
            body,
        }
    }
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    pub tenant: TenantId,
    /// Its place in the tenant's chain, from 1; `None` until the sealer has been by.
    pub position: Option<u64>,
    /// Who wrote it (one process), its epoch, and its number within, from 1.
    pub writer: String,
    pub epoch: u64,
    pub number: u64,
    pub at: Timestamp,
    pub actor_kind: PrincipalKind,
    pub actor: String,
    pub act: String,
    pub target: String,
    pub outcome: Outcome,
    /// SHA-256 over salt and body, hex.
    pub body_hash: String,
    /// Erased together with the body when a person is to be forgotten; the hash, and so the chain, stays.
    pub body: Option<Value>,
    /// SHA-256 over the hash before it and this record, hex; `None` until sealed.
    pub hash: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub actor: Option<String>,
    /// A prefix: `agent.` finds every act on agents.
    pub act: Option<String>,
    pub target: Option<String>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// Newest first; 0: 100, at most 1,000.
    pub limit: usize,
}

/// What `guildhall audit verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerdict {
    pub sealed: u64,
    pub unsealed: u64,
    pub epochs: u64,
    /// One sentence a fault, empty when the chain holds. At most 100 are named.
    pub faults: Vec<String>,
}

impl AuditVerdict {
    pub fn holds(&self) -> bool {
        self.faults.is_empty()
    }
}
