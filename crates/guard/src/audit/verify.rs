//! Walks a tenant's chain from its first record and names everything that is not as it was sealed.
//!
//! Found: an edited, inserted, removed or reordered record, an altered or missing seal, a body that is not the one
//! recorded, a cut tail, records that a writer counted and that are gone. A missing record and a changed body are
//! named; of another change it is known in which run of records it was made.
//!
//! Not found, because no database can show it from within: a record edited before it was sealed, half a second after
//! it was written; and a history that someone who knows the chain's form has computed anew to its end, with its head
//! and its writers' counts. Against that only a head helps that was noted elsewhere.

use guildhall_domain::{
    AuditRecord, Result, TenantId,
    audit::AuditVerdict,
    ports::audit_store::{AuditStore, Bodies, Epoch, Head, RUN_MAX, Seal, Written},
};

use super::chain;

/// Seals read at a time: bounded memory for a chain of any length. Of the records one run is held at a time.
const PAGE: usize = 1_000;
/// Enough to see what happened; a chain broken at its start would name every run.
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
    for Written { writer, epoch, records, sealed, unsealed, last_number } in &written {
        let counted = counted_after.iter().find(|counted| counted.writer == *writer && counted.epoch == *epoch);
        let counted = counted.map_or(0, |counted| counted.last_number);
        if *last_number > counted {
            walk.fault(format!(
                "writer {writer} counted {counted} records in its epoch {epoch}; one of number {last_number} was inserted"
            ));
        }
        let outside = (records - unsealed).saturating_sub(*sealed);
        if outside > 0 {
            walk.fault(format!(
                "writer {writer}'s epoch {epoch} has {outside} more among its sealed records than its seals speak of: \
                 inserted, or left over where a seal was taken away"
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
    /// As the last seal says.
    last: Head,
    /// The hash that was computed where the last seal says another: one of the two is as it was, and the next run
    /// follows it.
    computed: Option<String>,
    verdict: AuditVerdict,
}

impl Walk {
    /// Reads every seal and its records, and gives the head that the last of them is to be compared with. Sealing adds
    /// seals and moves the head at once, so what a head promised is there to be read after it.
    async fn read_to_the_head(&mut self, store: &dyn AuditStore, tenant: &TenantId) -> Result<Head> {
        let mut seen = 0;
        loop {
            let head = store.head(tenant).await?;
            let before = seen;
            loop {
                let page = store.seals(tenant, seen, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                for seal in page {
                    let records = store.records(tenant, &seal.writer, seal.epoch, seal.numbers(), Bodies::With).await?;
                    seen = seal.first_position;
                    self.step(seal, &records);
                }
            }
            let sealed_meanwhile = self.last.position > head.position && seen > before;
            if !sealed_meanwhile {
                return Ok(head);
            }
        }
    }

    fn step(&mut self, seal: Seal, records: &[AuditRecord]) {
        let run = format!(
            "{} ({} of writer {}'s epoch {})",
            stretch("record", seal.first_position, seal.last_position()),
            stretch("number", seal.first_number, seal.last_number),
            seal.writer,
            seal.epoch
        );
        for record in records {
            self.check_body(seal.first_position + (record.number - seal.first_number), record);
        }
        let expected = self.last.position + 1;
        let after = chained(&self.last.hash, &seal, records);
        let before = self.computed.take();
        if seal.first_number > seal.last_number || seal.last_number - seal.first_number >= RUN_MAX {
            self.fault(format!("the seal of {run} was altered: none is of so many"));
        } else if seal.first_position > expected {
            // The run's hash is over one that is not known; from here on the chain is followed anew.
            let lost = stretch("record", expected, seal.first_position - 1);
            self.fault(format!("the seal of {lost} is missing, and so {run} cannot be checked"));
        } else if seal.first_position < expected {
            self.fault(format!(
                "the seal of {run} was altered: there is another of {}",
                stretch("record", 1, expected - 1)
            ));
        } else if self.name_missing(&seal, records) {
            // What of the run is left cannot be checked without what is missing.
        } else if after != seal.hash && before.is_none_or(|before| chained(&before, &seal, records) != seal.hash) {
            self.fault(format!(
                "{run}: this is not what was sealed; a record was edited or put in another's place, or the seal was altered"
            ));
            self.computed = Some(after);
        }
        self.verdict.sealed += records.len() as u64;
        self.last = Head { position: seal.last_position(), hash: seal.hash };
    }

    /// True when some are.
    fn name_missing(&mut self, seal: &Seal, records: &[AuditRecord]) -> bool {
        let mut expected = seal.first_number;
        let ends = records.iter().map(|record| record.number).chain([seal.last_number + 1]);
        for number in ends {
            let position = |number| seal.first_position + (number - seal.first_number);
            match number - expected {
                0 => {}
                1 => self.fault(format!("record {} is missing", position(expected))),
                _ => self.fault(format!("records {} to {} are missing", position(expected), position(number - 1))),
            }
            expected = number + 1;
        }
        seal.numbers().count() > records.len()
    }

    fn check_body(&mut self, position: u64, record: &AuditRecord) {
        let fault = match (&record.salt, &record.body) {
            (None, None) => return,
            (Some(salt), Some(body)) => {
                if hex::decode(salt).is_ok_and(|salt| chain::body_hash(&salt, body) == record.body_hash) {
                    return;
                }
                "has a body that is not the one recorded"
            }
            (None, Some(_)) => "has a body that cannot be checked: its salt is gone",
            (Some(_), None) => "has lost its body, and was not erased: its salt is there",
        };
        self.fault(format!("record {position} ({} by {} at {}) {fault}", record.act, record.actor, record.at));
    }

    fn compare_with(&mut self, head: &Head) {
        let last = &self.last;
        let fault = if last.position < head.position {
            format!("the chain ends at record {}, and {} were sealed: its tail was cut", last.position, head.position)
        } else if last.position > head.position {
            format!("there are seals of records after {}, the last one sealed: they were inserted", head.position)
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

/// The hash of the run's last record, after one with the hash `before`.
fn chained(before: &str, seal: &Seal, records: &[AuditRecord]) -> String {
    (seal.first_position..)
        .zip(records)
        .fold(before.to_owned(), |before, (position, record)| chain::record_hash(&before, position, record))
}

fn stretch(what: &str, first: u64, last: u64) -> String {
    if first == last { format!("{what} {first}") } else { format!("{what}s {first} to {last}") }
}
