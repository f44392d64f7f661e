//! Gives unsealed records their place in the tenant's chain.

use guildhall_domain::{
    ErrorCode, Result, TenantId,
    ports::audit_store::{AuditStore, Head, Seal},
};

use super::chain;

/// Records sealed in one transaction: small enough not to hold up the writers, large enough for 10,000 a second.
const BATCH: usize = 500;

/// Seals what the tenant has not sealed yet, and says how many records that were. Who runs this, and how often, is
/// agent-registry's: a lease keeps it to one at a time, and where two run all the same, the head's compare-and-set
/// lets one of them seal and the other stop.
pub async fn seal_tenant(store: &dyn AuditStore, tenant: &TenantId) -> Result<u64> {
    let mut sealed = 0;
    loop {
        let from = store.head(tenant).await?;
        let records = store.unsealed(tenant, BATCH).await?;
        let full = records.len() == BATCH;
        let Head { mut position, mut hash } = from.clone();
        let seals: Vec<Seal> = records
            .into_iter()
            .map(|record| {
                position += 1;
                hash = chain::record_hash(&hash, position, &record);
                Seal { writer: record.writer, epoch: record.epoch, number: record.number, position, hash: hash.clone() }
            })
            .collect();
        if seals.is_empty() {
            return Ok(sealed);
        }
        let count = seals.len() as u64;
        match store.seal(tenant, &from, seals).await {
            Ok(()) => sealed += count,
            Err(error) if error.code == ErrorCode::Conflict => return Ok(sealed),
            Err(error) => return Err(error),
        }
        if !full {
            return Ok(sealed);
        }
    }
}
