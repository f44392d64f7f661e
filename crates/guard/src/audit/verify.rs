//! Walks a tenant's chain from its first record and names everything that is not as it was sealed.
//!
//! Found: an edited, inserted, removed or reordered record, a body that is not the one recorded, a cut tail, records
//! that a writer counted and that are gone.
//!
//! Not found, because no database can show it from within: a record edited before it was sealed, half a second after
//! it was written; and a history that someone who knows the chain's form has computed anew to its end, with its head
//! and its writers' counts. Against that only a head helps that was noted elsewhere.

use guildhall_domain::{
    AuditRecord, Result, TenantId,
    audit::AuditVerdict,
    ports::audit_store::{AuditStore, Epoch, Head, Written},
};

use super::chain;

/// Records read at a time: bounded memory for a chain of any length.
const PAGE: usize = 1_000;
/// Enough to see what happened; a chain broken at its start would name every record.
const FAULTS_MAX: usize = 100;

pub async fn verify(store: &dyn AuditStore, tenant: &TenantId) -> Result<AuditVerdict> {
    let mut walk = Walk::default();
    let head = walk.read_to_the_head(store, tenant).await?;
    walk.compare_with(&head);

    // Writers go on meanwhile: no record may be missing that they had counted before the records were counted, and
    // none be there that they have not counted after.
    let counted_before = store.epochs(tenant).await?;
    let written = store.written(tenant).await?;
    let counted_after = store.epochs(tenant).await?;
    for epoch in &counted_before {
        let there = written.iter().find(|there| there.writer == epoch.writer && there.epoch == epoch.epoch);
        let records = there.map_or(0, |there| there.records);
        if records < epoch.last_number {
            let Epoch { writer, epoch, last_number, .. } = epoch;
            walk.fault(format!(
                "writer {writer} counted {last_number} records in its epoch {epoch}; {records} are there"
            ));
        }
    }
    for Written { writer, epoch, last_number, .. } in &written {
        let counted = counted_after.iter().find(|counted| counted.writer == *writer && counted.epoch == *epoch);
        let counted = counted.map_or(0, |counted| counted.last_number);
        if *last_number > counted {
            walk.fault(format!(
                "writer {writer} counted {counted} records in its epoch {epoch}; one of number {last_number} was inserted"
            ));
        }
    }
    walk.verdict.epochs = counted_after.len() as u64;
    walk.verdict.unsealed = written.iter().map(|there| there.unsealed).sum();
    Ok(walk.verdict)
}

/// How far the walk has come.
#[derive(Default)]
struct Walk {
    last: Head,
    verdict: AuditVerdict,
}

impl Walk {
    /// Reads every sealed record, and gives the head that the last of them is to be compared with. Sealing moves
    /// records and head at once, so what a head promised is there to be read after it.
    async fn read_to_the_head(&mut self, store: &dyn AuditStore, tenant: &TenantId) -> Result<Head> {
        loop {
            let head = store.head(tenant).await?;
            let before = self.last.position;
            loop {
                let page = store.sealed(tenant, self.last.position, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                page.iter().for_each(|record| self.step(record));
            }
            let sealed_meanwhile = self.last.position > head.position && self.last.position > before;
            if !sealed_meanwhile {
                return Ok(head);
            }
        }
    }

    fn step(&mut self, record: &AuditRecord) {
        let position = record.position.unwrap_or(0);
        let expected = self.last.position + 1;
        let stored = record.hash.clone().unwrap_or_default();
        let name = format!("record {position} ({} by {} at {})", record.act, record.actor, record.at);
        if position > expected {
            // Its hash is over one that is gone; from here on the chain is followed anew.
            self.fault(match position - expected {
                1 => format!("record {expected} is missing"),
                _ => format!("records {expected} to {} are missing", position - 1),
            });
        } else if chain::record_hash(&self.last.hash, position, record) != stored {
            self.fault(format!("{name} is not what was sealed: it was edited, or put in another's place"));
        }
        match (&record.salt, &record.body) {
            (Some(salt), Some(body)) => {
                let fits = hex::decode(salt).is_ok_and(|salt| chain::body_hash(&salt, body) == record.body_hash);
                if !fits {
                    self.fault(format!("{name} has a body that is not the one recorded"));
                }
            }
            (None, None) => {}
            (None, Some(_)) => self.fault(format!("{name} has a body that cannot be checked: its salt is gone")),
            (Some(_), None) => self.fault(format!("{name} has lost its body, and was not erased: its salt is there")),
        }
        self.verdict.sealed += 1;
        self.last = Head { position, hash: stored };
    }

    fn compare_with(&mut self, head: &Head) {
        let last = &self.last;
        let fault = if last.position < head.position {
            format!("the chain ends at record {}, and {} were sealed: its tail was cut", last.position, head.position)
        } else if last.position > head.position {
            format!("there are records after {}, the last one sealed: they were inserted", head.position)
        } else if last.hash != head.hash {
            format!("the last record, {}, does not have the hash that was noted when it was sealed", last.position)
        } else {
            return;
        };
        self.fault(fault);
    }

    fn fault(&mut self, fault: String) {
        if self.verdict.faults.len() < FAULTS_MAX {
            self.verdict.faults.push(fault);
        }
    }
}
