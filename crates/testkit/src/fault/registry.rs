//! Faults before the registry of agents.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    AccessView, Agent, AgentId, AgentPage, AgentQuery, AuditEntry, AuditRecord, Call, IssuedToken, NewAgent, PublicKey,
    RegistrationKey, Result, TokenRequest,
    access::Revocation,
    agent::{Delivery, Heartbeat},
    audit::{AuditQuery, AuditVerdict},
    ports::{
        AgentRegistry,
        agent_registry::{Registration, RegistrationRight},
    },
};
use secrecy::SecretString;

use super::{Faulty, read, write};

#[async_trait]
impl AgentRegistry for Faulty<dyn AgentRegistry> {
    async fn register(&self, call: &Call, new: NewAgent, right: RegistrationRight) -> Result<Registration> {
        write(&self.plan, || self.inner.register(call, new.clone(), right.clone())).await
    }

    async fn list(&self, call: &Call, query: AgentQuery) -> Result<AgentPage> {
        read(&self.plan, ("list", &call.principal, &query), || self.inner.list(call, query.clone())).await
    }

    async fn get(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>> {
        read(&self.plan, ("get", &call.principal, agent), || self.inner.get(call, agent)).await
    }

    async fn remove(&self, call: &Call, agent: &AgentId) -> Result<()> {
        write(&self.plan, || self.inner.remove(call, agent)).await
    }

    async fn pause(&self, call: &Call, agent: &AgentId, reason: &str) -> Result<Arc<Agent>> {
        write(&self.plan, || self.inner.pause(call, agent, reason)).await
    }

    async fn resume(&self, call: &Call, agent: &AgentId) -> Result<Arc<Agent>> {
        write(&self.plan, || self.inner.resume(call, agent)).await
    }

    async fn set_key(&self, call: &Call, agent: &AgentId, key: PublicKey) -> Result<Arc<Agent>> {
        write(&self.plan, || self.inner.set_key(call, agent, key.clone())).await
    }

    async fn webhook_secret(&self, call: &Call, agent: &AgentId) -> Result<SecretString> {
        read(&self.plan, ("webhook_secret", &call.principal, agent), || self.inner.webhook_secret(call, agent)).await
    }

    async fn wanting(&self, call: &Call, delivery: Delivery) -> Result<Vec<Arc<Agent>>> {
        read(&self.plan, ("wanting", &call.principal, delivery), || self.inner.wanting(call, delivery)).await
    }

    async fn heartbeats(&self, call: &Call, beats: Vec<Heartbeat>) -> Result<()> {
        write(&self.plan, || self.inner.heartbeats(call, beats.clone())).await
    }

    async fn access(&self, call: &Call, known: Option<u64>) -> Result<Option<AccessView>> {
        read(&self.plan, ("access", &call.principal, known), || self.inner.access(call, known)).await
    }

    async fn issue_token(&self, call: &Call, request: TokenRequest) -> Result<IssuedToken> {
        write(&self.plan, || self.inner.issue_token(call, request.clone())).await
    }

    async fn revoke(&self, call: &Call, what: Revocation) -> Result<()> {
        write(&self.plan, || self.inner.revoke(call, what.clone())).await
    }

    async fn rotate_signing_key(&self, call: &Call, overlap: Duration) -> Result<()> {
        write(&self.plan, || self.inner.rotate_signing_key(call, overlap)).await
    }

    async fn create_registration_key(
        &self,
        call: &Call,
        roles: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<(RegistrationKey, SecretString)> {
        write(&self.plan, || self.inner.create_registration_key(call, roles.clone(), ttl)).await
    }

    async fn registration_keys(&self, call: &Call) -> Result<Vec<RegistrationKey>> {
        read(&self.plan, ("registration_keys", &call.principal), || self.inner.registration_keys(call)).await
    }

    async fn revoke_registration_key(&self, call: &Call, key_id: &str) -> Result<()> {
        write(&self.plan, || self.inner.revoke_registration_key(call, key_id)).await
    }

    async fn record_audit(&self, call: &Call, entries: Vec<AuditEntry>) -> Result<()> {
        write(&self.plan, || self.inner.record_audit(call, entries.clone())).await
    }

    async fn audit(&self, call: &Call, query: AuditQuery) -> Result<Vec<AuditRecord>> {
        read(&self.plan, ("audit", &call.principal, &query), || self.inner.audit(call, query.clone())).await
    }

    async fn verify_audit(&self, call: &Call) -> Result<AuditVerdict> {
        read(&self.plan, ("verify_audit", &call.principal), || self.inner.verify_audit(call)).await
    }
}
