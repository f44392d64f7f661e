//! The hot store: caches, leases, limits, signs of life. Fast, shared by all replicas, and allowed to vanish:
//! no truth lives here.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Result, TenantId};

/// `<kind>:<tenant>:<name>`, so that nothing of one tenant can be reached under another's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HotKey(String);

impl HotKey {
    /// `kind` is a word of the code, `name` may be anything.
    pub fn new(kind: &'static str, tenant: &TenantId, name: impl fmt::Display) -> Self {
        Self(format!("{kind}:{tenant}:{name}"))
    }

    /// For what belongs to the hall and not to a tenant, such as a sealer's lease.
    pub fn of_hall(kind: &'static str, name: impl fmt::Display) -> Self {
        Self(format!("{kind}::{name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Acquired, or renewed by its holder. The fence only ever rises for a key while the store lives.
    Held { fence: u64 },
    /// Someone else has it.
    Taken { by: String, remaining: Duration },
}

/// A token bucket: refills steadily, holds at most `burst`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: u32,
}

/// A part of a bucket, leased to one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// 0 to what was wanted.
    pub granted: u32,
    /// How long until one more can be granted; zero when `granted` is not 0.
    pub wait: Duration,
}

#[async_trait]
pub trait Hot: Send + Sync + 'static {
    async fn get(&self, key: &HotKey) -> Result<Option<Bytes>>;
    async fn put(&self, key: &HotKey, value: Bytes, ttl: Duration) -> Result<()>;
    /// Only if the key is absent. True when it was put.
    async fn put_if_absent(&self, key: &HotKey, value: Bytes, ttl: Duration) -> Result<bool>;
    /// Keeps the value with the higher version. True when this one was kept or is there already.
    async fn put_if_newer(&self, key: &HotKey, version: u64, value: Bytes, ttl: Duration) -> Result<bool>;
    /// A value that was put with a version.
    async fn get_versioned(&self, key: &HotKey) -> Result<Option<(u64, Bytes)>>;
    async fn remove(&self, key: &HotKey) -> Result<()>;

    async fn lease(&self, key: &HotKey, holder: &str, ttl: Duration) -> Result<LeaseOutcome>;
    /// True when `holder` had it.
    async fn release(&self, key: &HotKey, holder: &str) -> Result<bool>;

    /// Takes up to `want` tokens. A bucket nobody has touched is full.
    async fn take(&self, bucket: &HotKey, want: u32, rate: Rate) -> Result<Slice>;

    /// Marks members of a set with a number that only rises, such as the time of the last sign of life.
    async fn mark(&self, set: &HotKey, marks: &[(String, i64)]) -> Result<()>;
    /// Members whose number is at least `from`, with it.
    async fn marks(&self, set: &HotKey, from: i64) -> Result<Vec<(String, i64)>>;
    async fn unmark(&self, set: &HotKey, members: &[String]) -> Result<()>;

    /// Says whether the engine answers.
    async fn ping(&self) -> Result<()>;
}
