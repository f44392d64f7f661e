//! What agent-registry asks of SQL. One transaction a call; an act of policy and its audit entry share it.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretBox;

use crate::{
    Agent, AgentChange, AgentId, AuditEntry, NewAgent, PublicKey, RegistrationKey, Result, SigningKey, TenantId,
    Timestamp, access::Revocation,
};

/// What registering may do with an id that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfPresent {
    Update,
    /// `PermissionDenied`: it belongs to someone.
    Refuse,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoredAgent {
    pub agent: Agent,
    pub created: bool,
}

/// One field of an agent's record, changed by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEdit {
    Pause(String),
    Resume,
    Key(PublicKey),
    /// Ends every token issued so far.
    NextTokenEpoch,
}

/// A signing key with its private half, sealed by the hall's key ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSigningKey {
    pub public: SigningKey,
    pub sealed_private: Vec<u8>,
}

/// The rows behind an [`crate::AccessView`], less the signing keys' private halves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRows {
    pub version: u64,
    pub keys: Vec<SigningKey>,
    pub revoked: Vec<String>,
    pub epochs: Vec<(TenantId, AgentId, u32)>,
    pub paused: Vec<(TenantId, AgentId, String)>,
}

#[async_trait]
pub trait AgentStore: Send + Sync + 'static {
    /// Creates or updates the record. `roles`: granted by the registry, `None` keeps what is there (`agent` when new).
    /// Registering counts as a sign of life. An agent that was removed is created anew, its token epoch kept.
    async fn register(
        &self,
        tenant: &TenantId,
        new: &NewAgent,
        if_present: IfPresent,
        now: Timestamp,
        audit: AuditEntry,
    ) -> Result<StoredAgent>;

    async fn agent(&self, tenant: &TenantId, agent: &AgentId) -> Result<Option<Agent>>;

    /// `None` when there is no such agent; then nothing is recorded either.
    async fn edit(
        &self,
        tenant: &TenantId,
        agent: &AgentId,
        edit: AgentEdit,
        audit: AuditEntry,
    ) -> Result<Option<Agent>>;

    /// Removes the record and ends its tokens. Gives the version of the change, `None` when there is no such agent.
    async fn remove(&self, tenant: &TenantId, agent: &AgentId, audit: AuditEntry) -> Result<Option<u64>>;

    /// Changes of every tenant after `version`, in order, at most `limit`. Commit order is version order: a reader
    /// that has seen version n has seen every smaller one.
    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<AgentChange>>;

    /// Last signs of life, so that a restart knows them. Written in batches, never once a call. Only rises.
    async fn save_last_seen(&self, seen: &[(TenantId, AgentId, Timestamp)]) -> Result<()>;

    /// Everything that decides whether a token is good; `None` when `known` is still the newest version.
    async fn access(&self, known: Option<u64>, now: Timestamp) -> Result<Option<AccessRows>>;

    /// Refused with `NotFound` for an agent that is not there. Revoking twice is no error.
    async fn revoke(&self, what: &Revocation, now: Timestamp, audit: AuditEntry) -> Result<()>;

    async fn signing_keys(&self, now: Timestamp) -> Result<Vec<SealedSigningKey>>;

    /// Makes `key` the one that signs, unless another replica has since replaced `expected`: then `Conflict`, and
    /// nothing is done. The key before retires after `overlap`.
    async fn add_signing_key(
        &self,
        key: &SealedSigningKey,
        expected: Option<&str>,
        overlap: Duration,
        audit: AuditEntry,
    ) -> Result<()>;

    /// `secret_hash`: SHA-256 of the whole key; the key itself is never stored.
    async fn add_registration_key(&self, key: &RegistrationKey, secret_hash: [u8; 32], audit: AuditEntry)
    -> Result<()>;
    /// The key with this hash, revoked and expired ones too: the registry judges.
    async fn registration_key(&self, secret_hash: [u8; 32]) -> Result<Option<RegistrationKey>>;
    async fn registration_keys(&self, tenant: &TenantId) -> Result<Vec<RegistrationKey>>;
    async fn revoke_registration_key(&self, tenant: &TenantId, key_id: &str, audit: AuditEntry) -> Result<bool>;
}

/// A private key on its way between the ring and the store.
pub type PrivateKey = SecretBox<[u8; 32]>;
