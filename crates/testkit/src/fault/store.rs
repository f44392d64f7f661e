//! Faults before the stores of agents and of the audit chain.

use std::{ops::RangeInclusive, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    Agent, AgentChange, AgentId, AuditEntry, AuditRecord, NewAgent, RegistrationKey, Result, TenantId, Timestamp,
    access::Revocation,
    audit::AuditQuery,
    ports::{
        AgentStore, AuditStore,
        agent_store::{AccessRows, AgentEdit, IfPresent, SealedSigningKey, StoredAgent},
        audit_store::{Bodies, Epoch, Head, Seal, Written},
    },
};

use super::{Faulty, read, write};

#[async_trait]
impl AgentStore for Faulty<dyn AgentStore> {
    async fn register(
        &self,
        tenant: &TenantId,
        new: &NewAgent,
        if_present: IfPresent,
        now: Timestamp,
        audit: AuditEntry,
    ) -> Result<StoredAgent> {
        write(&self.plan, || self.inner.register(tenant, new, if_present, now, audit.clone())).await
    }

    async fn agent(&self, tenant: &TenantId, agent: &AgentId) -> Result<Option<Agent>> {
        read(&self.plan, ("agent", tenant, agent), || self.inner.agent(tenant, agent)).await
    }

    async fn edit(
        &self,
        tenant: &TenantId,
        agent: &AgentId,
        edit: AgentEdit,
        audit: AuditEntry,
    ) -> Result<Option<Agent>> {
        write(&self.plan, || self.inner.edit(tenant, agent, edit.clone(), audit.clone())).await
    }

    async fn remove(&self, tenant: &TenantId, agent: &AgentId, audit: AuditEntry) -> Result<Option<u64>> {
        write(&self.plan, || self.inner.remove(tenant, agent, audit.clone())).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Vec<AgentChange>> {
        read(&self.plan, ("changes", after, limit), || self.inner.changes(after, limit)).await
    }

    async fn save_last_seen(&self, seen: &[(TenantId, AgentId, Timestamp)]) -> Result<()> {
        write(&self.plan, || self.inner.save_last_seen(seen)).await
    }

    async fn access(&self, known: Option<u64>, now: Timestamp) -> Result<Option<AccessRows>> {
        read(&self.plan, ("access", known, now), || self.inner.access(known, now)).await
    }

    async fn revoke(&self, what: &Revocation, now: Timestamp, audit: AuditEntry) -> Result<()> {
        write(&self.plan, || self.inner.revoke(what, now, audit.clone())).await
    }

    async fn signing_keys(&self, now: Timestamp) -> Result<Vec<SealedSigningKey>> {
        read(&self.plan, ("signing_keys", now), || self.inner.signing_keys(now)).await
    }

    async fn add_signing_key(
        &self,
        key: &SealedSigningKey,
        expected: Option<&str>,
        overlap: Duration,
        audit: AuditEntry,
    ) -> Result<()> {
        write(&self.plan, || self.inner.add_signing_key(key, expected, overlap, audit.clone())).await
    }

    async fn add_registration_key(
        &self,
        key: &RegistrationKey,
        secret_hash: [u8; 32],
        audit: AuditEntry,
    ) -> Result<()> {
        write(&self.plan, || self.inner.add_registration_key(key, secret_hash, audit.clone())).await
    }

    async fn registration_key(&self, secret_hash: [u8; 32]) -> Result<Option<RegistrationKey>> {
        read(&self.plan, ("registration_key", secret_hash), || self.inner.registration_key(secret_hash)).await
    }

    async fn registration_keys(&self, tenant: &TenantId) -> Result<Vec<RegistrationKey>> {
        read(&self.plan, ("registration_keys", tenant), || self.inner.registration_keys(tenant)).await
    }

    async fn revoke_registration_key(&self, tenant: &TenantId, key_id: &str, audit: AuditEntry) -> Result<bool> {
        write(&self.plan, || self.inner.revoke_registration_key(tenant, key_id, audit.clone())).await
    }
}

#[async_trait]
impl AuditStore for Faulty<dyn AuditStore> {
    async fn record(&self, entries: Vec<AuditEntry>) -> Result<()> {
        write(&self.plan, || self.inner.record(entries.clone())).await
    }

    async fn query(&self, tenant: &TenantId, query: &AuditQuery) -> Result<Vec<AuditRecord>> {
        read(&self.plan, ("query", tenant, query), || self.inner.query(tenant, query)).await
    }

    async fn unsealed_tenants(&self) -> Result<Vec<TenantId>> {
        read(&self.plan, "unsealed_tenants", || self.inner.unsealed_tenants()).await
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head> {
        read(&self.plan, ("head", tenant), || self.inner.head(tenant)).await
    }

    async fn seal(&self, tenant: &TenantId, from: &Head, seals: Vec<Seal>) -> Result<()> {
        write(&self.plan, || self.inner.seal(tenant, from, seals.clone())).await
    }

    async fn seals(&self, tenant: &TenantId, after: u64, limit: usize) -> Result<Vec<Seal>> {
        read(&self.plan, ("seals", tenant, after, limit), || self.inner.seals(tenant, after, limit)).await
    }

    async fn records(
        &self,
        tenant: &TenantId,
        writer: &str,
        epoch: u64,
        numbers: RangeInclusive<u64>,
        bodies: Bodies,
    ) -> Result<Vec<AuditRecord>> {
        let key = ("records", tenant, writer, epoch, &numbers, bodies);
        read(&self.plan, key, || self.inner.records(tenant, writer, epoch, numbers.clone(), bodies)).await
    }

    async fn epochs(&self, tenant: &TenantId) -> Result<Vec<Epoch>> {
        read(&self.plan, ("epochs", tenant), || self.inner.epochs(tenant)).await
    }

    async fn written(&self, tenant: &TenantId) -> Result<Vec<Written>> {
        read(&self.plan, ("written", tenant), || self.inner.written(tenant)).await
    }

    async fn close_epochs(&self) -> Result<()> {
        write(&self.plan, || self.inner.close_epochs()).await
    }
}
