//! Rows as they lie in the tables, and the way between them and the records of the house. A row that this program
//! cannot read is an error that says so, never a default.

use guildhall_domain::{
    Agent, AgentChange, AuditRecord, Presence, RegistrationKey, Result, SigningKey, TenantId, Timestamp,
    ports::{
        agent_store::SealedSigningKey,
        audit_store::{Epoch, Seal, Written},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::FromRow;

use crate::failure::{Failure, unreadable};

/// SQL knows no unsigned numbers. Ours count what was done since the hall stands: they stay far below the limit.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn count(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(unreadable)
}

pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value)?)
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(unreadable)
}

pub(crate) fn bytes<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(unreadable)
}

#[derive(Debug, FromRow)]
pub(crate) struct AgentRow {
    tenant: String,
    agent_id: String,
    version: i64,
    gone: bool,
    name: String,
    session_id: Option<String>,
    capabilities: String,
    roles: String,
    pool: Option<String>,
    delivery: String,
    metadata: String,
    public_key: Option<String>,
    paused: Option<String>,
    registered_at: i64,
    last_seen: Option<i64>,
    token_epoch: i64,
    webhook_url: Option<String>,
    old_keys: String,
}

impl AgentRow {
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(crate) fn token_epoch(&self) -> Result<u32> {
        u32::try_from(self.token_epoch).map_err(unreadable)
    }

    /// Presence is not a column: whoever holds the signs of life judges it, until then it is `Offline`.
    pub(crate) fn agent(self) -> Result<Agent> {
        Ok(Agent {
            token_epoch: self.token_epoch()?,
            tenant: self.tenant.parse()?,
            agent_id: self.agent_id.parse()?,
            name: self.name,
            session_id: self.session_id,
            status: Presence::Offline,
            capabilities: from_json(&self.capabilities)?,
            roles: from_json(&self.roles)?,
            pool: self.pool,
            delivery: self.delivery.parse()?,
            webhook_url: self.webhook_url,
            metadata: from_json(&self.metadata)?,
            public_key: self.public_key.as_deref().map(from_json).transpose()?,
            old_keys: from_json(&self.old_keys)?,
            paused: self.paused,
            registered_at: Timestamp::from_millis(self.registered_at),
            last_heartbeat: self.last_seen.map(Timestamp::from_millis),
            version: count(self.version)?,
        })
    }

    pub(crate) fn change(self) -> Result<AgentChange> {
        if !self.gone {
            return Ok(AgentChange::Present(self.agent()?));
        }
        Ok(AgentChange::Gone {
            tenant: self.tenant.parse()?,
            agent_id: self.agent_id.parse()?,
            version: count(self.version)?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct SigningKeyRow {
    key_id: String,
    public: Vec<u8>,
    sealed_private: Vec<u8>,
    created_at: i64,
    retires_at: Option<i64>,
}

impl SigningKeyRow {
    pub(crate) fn sealed(self) -> Result<SealedSigningKey> {
        Ok(SealedSigningKey {
            public: SigningKey {
                key_id: self.key_id,
                public: bytes(&self.public)?,
                created_at: Timestamp::from_millis(self.created_at),
                retires_at: self.retires_at.map(Timestamp::from_millis),
            },
            sealed_private: self.sealed_private,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct RegistrationKeyRow {
    key_id: String,
    tenant: String,
    roles: String,
    created_at: i64,
    expires_at: Option<i64>,
    revoked: bool,
}

impl RegistrationKeyRow {
    pub(crate) fn key(self) -> Result<RegistrationKey> {
        Ok(RegistrationKey {
            key_id: self.key_id,
            tenant: self.tenant.parse()?,
            roles: from_json(&self.roles)?,
            created_at: Timestamp::from_millis(self.created_at),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            revoked: self.revoked,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct AuditRow {
    tenant: String,
    writer: String,
    epoch: i64,
    number: i64,
    at: i64,
    actor_kind: String,
    actor: String,
    act: String,
    target: String,
    outcome: String,
    salt: Option<Vec<u8>>,
    body: Option<String>,
    body_hash: String,
    position: Option<i64>,
    hash: Option<String>,
}

impl AuditRow {
    pub(crate) fn record(self) -> Result<AuditRecord> {
        Ok(AuditRecord {
            tenant: self.tenant.parse()?,
            position: self.position.map(count).transpose()?,
            writer: self.writer,
            epoch: count(self.epoch)?,
            number: count(self.number)?,
            at: Timestamp::from_millis(self.at),
            actor_kind: self.actor_kind.parse()?,
            actor: self.actor,
            act: self.act,
            target: self.target,
            outcome: self.outcome.parse()?,
            body_hash: self.body_hash,
            salt: self.salt.as_deref().map(hex::encode),
            body: self.body.as_deref().map(from_json).transpose()?,
            hash: self.hash,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct EpochRow {
    writer: String,
    epoch: i64,
    last_number: i64,
    sealed: i64,
    closed: bool,
}

impl EpochRow {
    pub(crate) fn epoch(self, tenant: &TenantId) -> Result<Epoch> {
        Ok(Epoch {
            tenant: tenant.clone(),
            writer: self.writer,
            epoch: count(self.epoch)?,
            last_number: count(self.last_number)?,
            sealed: count(self.sealed)?,
            closed: self.closed,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct WrittenRow {
    writer: String,
    epoch: i64,
    records: i64,
    sealed: i64,
    unsealed: i64,
    last_number: i64,
}

impl WrittenRow {
    pub(crate) fn written(self) -> Result<Written> {
        Ok(Written {
            writer: self.writer,
            epoch: count(self.epoch)?,
            records: count(self.records)?,
            sealed: count(self.sealed)?,
            unsealed: count(self.unsealed)?,
            last_number: count(self.last_number)?,
        })
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct SealRow {
    writer: String,
    epoch: i64,
    first_number: i64,
    last_number: i64,
    first_position: i64,
    hash: String,
}

impl SealRow {
    pub(crate) fn seal(self) -> Result<Seal> {
        Ok(Seal {
            writer: self.writer,
            epoch: count(self.epoch)?,
            first_number: count(self.first_number)?,
            last_number: count(self.last_number)?,
            first_position: count(self.first_position)?,
            hash: self.hash,
        })
    }
}
