//! What the audit chain asks of SQL. Acts of policy write their entry in their own transaction (see `agent_store`);
//! here is what has no transaction to share, and the sealer's side.

use async_trait::async_trait;

use crate::{AuditEntry, AuditRecord, Result, TenantId, audit::AuditQuery};

/// A writer's epoch: opened when a process starts to write for a tenant, closed when it stops in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    pub tenant: TenantId,
    pub writer: String,
    pub epoch: u64,
    /// How many records it has written; its last number.
    pub last_number: u64,
    pub closed: bool,
}

/// What is really there of a writer's epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub writer: String,
    pub epoch: u64,
    pub records: u64,
    /// How many of them have no place in the chain yet.
    pub unsealed: u64,
    pub last_number: u64,
}

/// Where a tenant's chain ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// 0: nothing sealed yet.
    pub position: u64,
    pub hash: String,
}

/// The seal of one record: its place and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    pub writer: String,
    pub epoch: u64,
    pub number: u64,
    pub position: u64,
    pub hash: String,
}

#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    async fn record(&self, entries: Vec<AuditEntry>) -> Result<()>;
    async fn query(&self, tenant: &TenantId, query: &AuditQuery) -> Result<Vec<AuditRecord>>;

    /// Tenants that have records which are not sealed.
    async fn unsealed_tenants(&self) -> Result<Vec<TenantId>>;
    /// The oldest unsealed records of a tenant, in the order in which they are to be sealed.
    async fn unsealed(&self, tenant: &TenantId, limit: usize) -> Result<Vec<AuditRecord>>;
    async fn head(&self, tenant: &TenantId) -> Result<Head>;
    /// Moves the head from `from` to the last of `seals` in one transaction; `Conflict` when another sealer was first.
    async fn seal(&self, tenant: &TenantId, from: &Head, seals: Vec<Seal>) -> Result<()>;

    /// Sealed records after `position`, in order: what verifying reads.
    async fn sealed(&self, tenant: &TenantId, after: u64, limit: usize) -> Result<Vec<AuditRecord>>;
    async fn epochs(&self, tenant: &TenantId) -> Result<Vec<Epoch>>;
    /// Counted from the records themselves, to be compared with [`Self::epochs`].
    async fn written(&self, tenant: &TenantId) -> Result<Vec<Written>>;
    /// This process writes no more: its epochs end here.
    async fn close_epochs(&self) -> Result<()>;
}
