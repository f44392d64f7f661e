//! The port of the agent-registry service: agents, their keys and tokens, presence, and the audit chain.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    AccessView, Agent, AgentId, AgentPage, AgentQuery, AuditEntry, AuditRecord, Call, IssuedToken, NewAgent, PublicKey,
    RegistrationKey, Result, TokenRequest,
    access::Revocation,
    agent::{Delivery, Heartbeat},
    audit::{AuditQuery, AuditVerdict},
};

/// By what right someone registers an agent.
#[derive(Debug, Clone)]
pub enum RegistrationRight {
    /// The caller's own token: an administrator's, or that of the agent that registers again.
    Caller,
    /// A registration key; good for new ids only, and decides tenant and roles.
    Key(SecretString),
}

#[derive(Debug, Clone)]
pub struct Registration {
    pub agent: Arc<Agent>,
    pub token: IssuedToken,
    /// False when the id was there before and has been updated.
    pub created: bool,
    /// What its webhook knows the hall by, where it wants its mail brought that way.
    pub webhook_secret: Option<SecretString>,
}

#[async_trait]
pub trait AgentRegistry: Send + Sync + 'static {
    async fn register(&self, call: &Call, new: NewAgent, right: RegistrationRight) -> Result<Registration>;
    async fn list(&self, call: &Call, query: AgentQuery) -> Result<AgentPage>;
    async fn get(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>>;
    async fn remove(&self, call: &Call, agent: &AgentId) -> Result<()>;
    /// Refuses every later call of the agent with `reason`, until [`Self::resume`].
    async fn pause(&self, call: &Call, agent: &AgentId, reason: &str) -> Result<Arc<Agent>>;
    async fn resume(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>>;
    async fn set_key(&self, call: &Call, agent: &AgentId, key: PublicKey) -> Result<Arc<Agent>>;
    /// What the agent's webhook knows the hall by. For the agent itself and those who may register it.
    async fn webhook_secret(&self, call: &Call, agent: &AgentId) -> Result<SecretString>;
    /// Agents of every tenant that want their mail brought this way. For the hall's own services.
    async fn wanting(&self, call: &Call, delivery: Delivery) -> Result<Vec<Arc<Agent>>>;
    /// Signs of life, at most 1,000 a call. Unknown agents are passed over: they may just have left.
    async fn heartbeats(&self, call: &Call, beats: Vec<Heartbeat>) -> Result<()>;

    /// The newest view, or `None` when the caller's is still the newest.
    async fn access(&self, call: &Call, known: Option<u64>) -> Result<Option<AccessView>>;
    async fn issue_token(&self, call: &Call, request: TokenRequest) -> Result<IssuedToken>;
    async fn revoke(&self, call: &Call, what: Revocation) -> Result<()>;
    /// A new signing key; the one before stays good for `overlap`.
    async fn rotate_signing_key(&self, call: &Call, overlap: Duration) -> Result<()>;
    /// The key itself is in the answer and nowhere else.
    async fn create_registration_key(
        &self,
        call: &Call,
        roles: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<(RegistrationKey, SecretString)>;
    async fn registration_keys(&self, call: &Call) -> Result<Vec<RegistrationKey>>;
    async fn revoke_registration_key(&self, call: &Call, key_id: &str) -> Result<()>;

    /// Entries of acts that had no transaction of their own, such as tool calls; at most 1,000 a call.
    async fn record_audit(&self, call: &Call, entries: Vec<AuditEntry>) -> Result<()>;
    async fn audit(&self, call: &Call, query: AuditQuery) -> Result<Vec<AuditRecord>>;
    async fn verify_audit(&self, call: &Call) -> Result<AuditVerdict>;
}
