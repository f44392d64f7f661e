//! What the audit chain asks of SQL. Acts of policy write their entry in their own transaction (see `agent_store`);
//! here is what has no transaction to share, and the sealer's side.
//!
//! A record is written once and never touched again. What the sealer says of it stands in a [`Seal`], one for each run
//! of records: so a record costs its writer one row, and its seal next to nothing.

use std::ops::RangeInclusive;

use async_trait::async_trait;

use crate::{AuditEntry, AuditRecord, Result, TenantId, audit::AuditQuery};

/// Records under one seal: few enough to be held in memory by whoever verifies, and to be searched by hand for the one
/// that does not fit.
pub const RUN_MAX: u64 = 1_000;

/// A writer's epoch: opened when a process starts to write for a tenant, closed when it stops in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    pub tenant: TenantId,
    pub writer: String,
    pub epoch: u64,
    /// How many records it has written; its last number.
    pub last_number: u64,
    /// Up to which number they are sealed.
    pub sealed: u64,
    pub closed: bool,
}

/// What is really there of a writer's epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub writer: String,
    pub epoch: u64,
    pub records: u64,
    /// How many records its seals speak of.
    pub sealed: u64,
    /// How many stand above what is sealed.
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

/// The seal of a run: records of one epoch, of numbers without a gap, that follow one another in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    pub writer: String,
    pub epoch: u64,
    pub first_number: u64,
    pub last_number: u64,
    /// The first one's place in the chain.
    pub first_position: u64,
    /// The last one's hash.
    pub hash: String,
}

impl Seal {
    pub fn numbers(&self) -> RangeInclusive<u64> {
        self.first_number..=self.last_number
    }

    pub fn last_position(&self) -> u64 {
        self.first_position + self.last_number.saturating_sub(self.first_number)
    }
}

/// Whether records are read with their bodies and salts. The chain covers only a hash of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bodies {
    With,
    Without,
}

#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    async fn record(&self, entries: Vec<AuditEntry>) -> Result<()>;
    async fn query(&self, tenant: &TenantId, query: &AuditQuery) -> Result<Vec<AuditRecord>>;

    /// Tenants that have records which are not sealed.
    async fn unsealed_tenants(&self) -> Result<Vec<TenantId>>;
    async fn head(&self, tenant: &TenantId) -> Result<Head>;
    /// Adds the seals, each of which begins where the one before ends, and moves the head from `from` to the end of
    /// the last, in one transaction. `Conflict` when another sealer was first, or when not all records are there.
    async fn seal(&self, tenant: &TenantId, from: &Head, seals: Vec<Seal>) -> Result<()>;

    /// Those of runs that begin after `position`, in the chain's order.
    async fn seals(&self, tenant: &TenantId, after: u64, limit: usize) -> Result<Vec<Seal>>;
    /// The first [`RUN_MAX`] records of an epoch that have one of these numbers, in their order. As they were written:
    /// of their place and hash their seal speaks.
    async fn records(
        &self,
        tenant: &TenantId,
        writer: &str,
        epoch: u64,
        numbers: RangeInclusive<u64>,
        bodies: Bodies,
    ) -> Result<Vec<AuditRecord>>;
    async fn epochs(&self, tenant: &TenantId) -> Result<Vec<Epoch>>;
    /// Counted from the records themselves, to be compared with [`Self::epochs`].
    async fn written(&self, tenant: &TenantId) -> Result<Vec<Written>>;
    /// This process writes no more: its epochs end here.
    async fn close_epochs(&self) -> Result<()>;
}
