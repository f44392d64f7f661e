//! Gives unsealed records their place in the tenant's chain, a run of them at a time.

use std::mem;

use guildhall_domain::{
    AuditRecord, ErrorCode, Result, TenantId,
    ports::audit_store::{AuditStore, Bodies, Head, Seal},
};

use super::chain;

/// Seals written in one transaction: a hall of many writers has many short runs.
const SEALS_A_TRANSACTION: usize = 64;

/// Seals what the tenant has not sealed yet, and says how many records that were. Who runs this, and how often, is
/// agent-registry's: a lease keeps it to one at a time, and where two run all the same, the head's compare-and-set
/// lets one of them seal and the other stop.
pub async fn seal_tenant(store: &dyn AuditStore, tenant: &TenantId) -> Result<u64> {
    let mut sealed = 0;
    loop {
        // The head before the epochs: what someone else seals in between has moved it.
        let mut written = store.head(tenant).await?;
        let (mut reached, mut seals, mut more) = (written.clone(), Vec::new(), false);
        let mut unsealed = store.epochs(tenant).await?;
        unsealed.retain(|epoch| epoch.sealed < epoch.last_number);
        for (at, epoch) in unsealed.iter().enumerate() {
            let numbers = epoch.sealed + 1..=epoch.last_number;
            let records = store.records(tenant, &epoch.writer, epoch.epoch, numbers, Bodies::Without).await?;
            more |= records.last().is_some_and(|last| last.number < epoch.last_number);
            // Where a number is missing, a record was taken away: what is left is sealed, and verifying names it.
            let runs = records.chunk_by(|one, next| next.number == one.number + 1);
            seals.extend(runs.filter_map(|run| seal(run, &mut reached)));
            if seals.len() < SEALS_A_TRANSACTION && at + 1 < unsealed.len() || seals.is_empty() {
                continue;
            }
            let records = reached.position - written.position;
            match store.seal(tenant, &written, mem::take(&mut seals)).await {
                Ok(()) => sealed += records,
                Err(error) if error.code == ErrorCode::Conflict => return Ok(sealed),
                Err(error) => return Err(error),
            }
            written.clone_from(&reached);
        }
        if !more {
            return Ok(sealed);
        }
    }
}

/// The seal of one run, which the chain now ends with.
fn seal(run: &[AuditRecord], end: &mut Head) -> Option<Seal> {
    let (first, last) = (run.first()?, run.last()?);
    let first_position = end.position + 1;
    for record in run {
        end.position += 1;
        end.hash = chain::record_hash(&end.hash, end.position, record);
    }
    Some(Seal {
        writer: first.writer.clone(),
        epoch: first.epoch,
        first_number: first.number,
        last_number: last.number,
        first_position,
        hash: end.hash.clone(),
    })
}
