//! Faults before the hot store.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guildhall_domain::{
    Result,
    ports::{
        Hot,
        hot::{HotKey, LeaseOutcome, Rate, Slice},
    },
};

use super::{Faulty, read, write};

#[async_trait]
impl Hot for Faulty<dyn Hot> {
    async fn get(&self, key: &HotKey) -> Result<Option<Bytes>> {
        read(&self.plan, ("get", key), || self.inner.get(key)).await
    }

    async fn put(&self, key: &HotKey, value: Bytes, ttl: Duration) -> Result<()> {
        write(&self.plan, || self.inner.put(key, value.clone(), ttl)).await
    }

    async fn put_if_absent(&self, key: &HotKey, value: Bytes, ttl: Duration) -> Result<bool> {
        write(&self.plan, || self.inner.put_if_absent(key, value.clone(), ttl)).await
    }

    async fn put_if_newer(&self, key: &HotKey, version: u64, value: Bytes, ttl: Duration) -> Result<bool> {
        write(&self.plan, || self.inner.put_if_newer(key, version, value.clone(), ttl)).await
    }

    async fn get_versioned(&self, key: &HotKey) -> Result<Option<(u64, Bytes)>> {
        read(&self.plan, ("get_versioned", key), || self.inner.get_versioned(key)).await
    }

    async fn remove(&self, key: &HotKey) -> Result<()> {
        write(&self.plan, || self.inner.remove(key)).await
    }

    async fn lease(&self, key: &HotKey, holder: &str, ttl: Duration) -> Result<LeaseOutcome> {
        write(&self.plan, || self.inner.lease(key, holder, ttl)).await
    }

    async fn release(&self, key: &HotKey, holder: &str) -> Result<bool> {
        write(&self.plan, || self.inner.release(key, holder)).await
    }

    async fn take(&self, bucket: &HotKey, want: u32, rate: Rate) -> Result<Slice> {
        write(&self.plan, || self.inner.take(bucket, want, rate)).await
    }

    async fn mark(&self, set: &HotKey, marks: &[(String, i64)]) -> Result<()> {
        write(&self.plan, || self.inner.mark(set, marks)).await
    }

    async fn marks(&self, set: &HotKey, from: i64) -> Result<Vec<(String, i64)>> {
        read(&self.plan, ("marks", set, from), || self.inner.marks(set, from)).await
    }

    async fn unmark(&self, set: &HotKey, members: &[String]) -> Result<()> {
        write(&self.plan, || self.inner.unmark(set, members)).await
    }

    async fn ping(&self) -> Result<()> {
        read(&self.plan, "ping", || self.inner.ping()).await
    }
}
