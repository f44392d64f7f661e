//! Sealing: the sealer's side of the audit chain, down to which record stands where.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::join_all;
use guildhall_domain::{
    AuditEntry, AuditRecord, ErrorCode, TenantId,
    audit::AuditQuery,
    ports::audit_store::{Bodies, Head, RUN_MAX, Seal},
};

use super::{NOW, Replica, Stage, act, act_in, audit::record, hall, tenant};
use crate::contract::{eventually, insist};

/// What a real hash tells: which record this is, and what it follows.
fn hash_of(record: &AuditRecord, before: &str) -> String {
    let before = before.split(" after ").next().unwrap_or_default();
    format!("{}/{}/{} after {before}", record.writer, record.epoch, record.number)
}

/// Seals as a sealer would: one for each run.
fn seals(from: &Head, records: &[AuditRecord]) -> Vec<Seal> {
    let mut end = from.clone();
    let follows = |one: &AuditRecord, next: &AuditRecord| {
        (&next.writer, next.epoch, next.number) == (&one.writer, one.epoch, one.number + 1)
    };
    let seal = |run: &[AuditRecord]| {
        let first_position = end.position + 1;
        for record in run {
            end = Head { position: end.position + 1, hash: hash_of(record, &end.hash) };
        }
        let (first, last) = (&run[0], &run[run.len() - 1]);
        Seal {
            writer: first.writer.clone(),
            epoch: first.epoch,
            first_number: first.number,
            last_number: last.number,
            first_position,
            hash: end.hash.clone(),
        }
    };
    records.chunk_by(follows).map(seal).collect()
}

async fn head(replica: &Replica) -> Head {
    insist(async || replica.audit.head(&hall()).await).await.unwrap()
}

/// Of each epoch at most `page`.
async fn unsealed(replica: &Replica, page: usize) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for epoch in insist(async || replica.audit.epochs(&hall()).await).await.unwrap() {
        let numbers = epoch.sealed + 1..=epoch.last_number;
        let there =
            async || replica.audit.records(&hall(), &epoch.writer, epoch.epoch, numbers.clone(), Bodies::With).await;
        let mut there = insist(there).await.unwrap();
        there.truncate(page);
        records.append(&mut there);
    }
    records
}

async fn waiting(replica: &Replica, at_least: usize) -> Vec<AuditRecord> {
    let enough = async || {
        let records = unsealed(replica, usize::MAX).await;
        Ok((records.len() >= at_least).then_some(records))
    };
    eventually(&format!("{at_least} records wait for the sealer"), enough).await
}

/// Seals until nothing is left, beginning anew whenever another was first.
async fn seal_all(replica: &Replica, page: usize) {
    loop {
        let from = head(replica).await;
        let seals = seals(&from, &unsealed(replica, page).await);
        match insist(async || replica.audit.seal(&hall(), &from, seals.clone()).await).await {
            Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
            Ok(()) if all_are_sealed(replica).await => return,
            Ok(()) => {}
        }
    }
}

/// A stale answer may be from before the last record was written, if this replica was asked then.
async fn all_are_sealed(replica: &Replica) -> bool {
    insist(async || replica.audit.written(&hall()).await).await.unwrap().iter().all(|there| there.unsealed == 0)
}

/// Every run with its records, once the last ends at the head.
async fn chain(replica: &Replica, tenant: &TenantId) -> Vec<(Seal, Vec<AuditRecord>)> {
    let whole = async || {
        let mut chain: Vec<(Seal, Vec<AuditRecord>)> = Vec::new();
        loop {
            let after = chain.last().map_or(0, |(seal, _)| seal.first_position);
            let page = insist(async || replica.audit.seals(tenant, after, 7).await).await?;
            if page.is_empty() {
                break;
            }
            for seal in page {
                let run = async || {
                    replica.audit.records(tenant, &seal.writer, seal.epoch, seal.numbers(), Bodies::With).await
                };
                let run = insist(run).await?;
                chain.push((seal, run));
            }
        }
        let head = replica.audit.head(tenant).await?;
        Ok((chain.last().map_or(0, |(seal, _)| seal.last_position()) == head.position).then_some(chain))
    };
    eventually("the chain reaches its head", whole).await
}

/// Gives how many records there are in it.
fn assert_unbroken(chain: &[(Seal, Vec<AuditRecord>)]) -> usize {
    let (mut position, mut before) = (0, String::new());
    for (seal, run) in chain {
        assert_eq!(seal.first_position, position + 1, "a place is missing or taken twice");
        let numbers: Vec<u64> = run.iter().map(|record| record.number).collect();
        assert_eq!(numbers, seal.numbers().collect::<Vec<_>>(), "a run has a gap");
        before = run.iter().fold(before, |before, record| hash_of(record, &before));
        assert_eq!(seal.hash, before, "the chain forks here");
        position = seal.last_position();
    }
    usize::try_from(position).unwrap()
}

pub async fn sealing_orders_records_as_they_were_numbered(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    for n in 0..10_u64 {
        // What was done earlier may be recorded later.
        let entry = AuditEntry { at: NOW - Duration::from_secs(n), ..act("tool.call", &format!("{n}")) };
        record(if n % 2 == 0 { &one } else { &other }, &[entry]).await;
    }
    record(&one, &[act_in(&tenant("red"), "tool.call", "red")]).await;
    let waiting = waiting(&other, 10).await;
    let untouched = |record: &AuditRecord| record.position.is_none() && record.hash.is_none();
    assert!(waiting.iter().all(|record| untouched(record) && record.tenant == hall()));
    eventually("both tenants wait for the sealer", async || {
        Ok((one.audit.unsealed_tenants().await? == [hall(), tenant("red")]).then_some(()))
    })
    .await;

    seal_all(&other, 3).await;
    eventually("only the other tenant waits", async || {
        Ok((one.audit.unsealed_tenants().await? == [tenant("red")]).then_some(()))
    })
    .await;
    let chain = chain(&one, &hall()).await;
    assert_eq!(assert_unbroken(&chain), waiting.len());
    let mut last: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for (seal, _) in &chain {
        let last = last.entry((&seal.writer, seal.epoch)).or_default();
        assert_eq!(seal.first_number, *last + 1, "{}'s records were sealed out of their order", seal.writer);
        *last = seal.last_number;
    }
    let epochs = eventually("the epochs say that they are sealed", async || {
        let epochs = one.audit.epochs(&hall()).await?;
        Ok(epochs.iter().all(|epoch| epoch.sealed == epoch.last_number).then_some(epochs))
    });
    assert_eq!(epochs.await.iter().map(|epoch| epoch.sealed).sum::<u64>(), waiting.len() as u64);
    let written = eventually("the seals are counted", async || {
        let written = one.audit.written(&hall()).await?;
        Ok(written.iter().all(|there| there.unsealed == 0 && there.sealed == there.records).then_some(written))
    });
    assert_eq!(written.await.iter().map(|there| there.records).sum::<u64>(), waiting.len() as u64);
}

pub async fn a_sealed_record_reads_back_with_its_place_and_the_last_of_a_run_with_its_hash(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    for (replica, name) in [(&one, "a"), (&other, "b"), (&one, "c"), (&other, "d"), (&one, "e")] {
        record(replica, &[act("tool.call", name)]).await;
    }
    waiting(&one, 5).await;
    seal_all(&one, 2).await;
    record(&one, &[act("tool.call", "late")]).await;
    let late = AuditQuery { target: Some("late".into()), ..Default::default() };
    let late = eventually("what came late is found", async || Ok(one.audit.query(&hall(), &late).await?.pop())).await;
    assert_eq!((late.position, late.hash), (None, None), "it is not sealed");

    let chain = chain(&other, &hall()).await;
    let mut wanted = Vec::new();
    for (seal, run) in &chain {
        for (position, record) in (seal.first_position..).zip(run) {
            let hash = (record.number == seal.last_number).then(|| seal.hash.clone());
            wanted.push(AuditRecord { position: Some(position), hash, ..record.clone() });
        }
    }
    assert!(chain.len() < wanted.len(), "no run is longer than one record");
    eventually("all read back as they are sealed", async || {
        let mut found = other.audit.query(&hall(), &AuditQuery { limit: 1_000, ..Default::default() }).await?;
        found.retain(|record| record.target != "late");
        found.sort_by_key(|record| record.position);
        Ok((found == wanted).then_some(()))
    })
    .await;
}

pub async fn a_long_epoch_is_read_by_the_run(stage: &Stage) {
    let replica = stage.replica("one");
    let entries: Vec<_> = (0..RUN_MAX + 500).map(|n| act("tool.call", &format!("{n}"))).collect();
    record(&replica, &entries).await;
    let first = eventually("the first thousand are there", async || {
        let records = replica.audit.records(&hall(), "one", 1, 1..=u64::from(u32::MAX), Bodies::With).await?;
        Ok((!records.is_empty()).then_some(records))
    });
    let numbers: Vec<u64> = first.await.iter().map(|record| record.number).collect();
    assert_eq!(numbers, (1..=RUN_MAX).collect::<Vec<_>>());
    let some =
        insist(async || replica.audit.records(&hall(), "one", 1, 1_400..=1_402, Bodies::With).await).await.unwrap();
    assert_eq!(some.iter().map(|record| record.number).collect::<Vec<_>>(), [1_400, 1_401, 1_402]);
    let bare = insist(async || replica.audit.records(&hall(), "one", 1, 1_400..=1_402, Bodies::Without).await).await;
    let without = |record: &AuditRecord| AuditRecord { salt: None, body: None, ..record.clone() };
    assert_eq!(bare.unwrap(), some.iter().map(without).collect::<Vec<_>>());
    for (writer, epoch) in [("two", 1), ("one", 2)] {
        let none =
            insist(async || replica.audit.records(&hall(), writer, epoch, 1..=9, Bodies::With).await).await.unwrap();
        assert_eq!(none, []);
    }
}

pub async fn a_seal_from_a_stale_head_is_refused_whole(stage: &Stage) {
    let replica = stage.replica("one");
    record(&replica, &["1", "2", "3", "4"].map(|name| act("tool.call", name))).await;
    let (start, records) = (Head::default(), waiting(&replica, 4).await);
    let first = seals(&start, &records[..2]);
    for _ in 0..2 {
        insist(async || replica.audit.seal(&hall(), &start, first.clone()).await)
            .await
            .expect("its own repeat is no conflict");
    }
    let forged = Head { position: 2, hash: "forged".into() };
    for stale in [start, forged] {
        let seals = seals(&stale, &records[2..]);
        let refused = insist(async || replica.audit.seal(&hall(), &stale, seals.clone()).await).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    }
    let chain = chain(&replica, &hall()).await;
    assert_eq!(assert_unbroken(&chain), 2, "a seal that was refused has sealed something");
}

pub async fn a_seal_of_a_record_that_is_not_there_is_refused_whole(stage: &Stage) {
    let replica = stage.replica("one");
    record(&replica, &[act("tool.call", "1"), act("tool.call", "2")]).await;
    let records = waiting(&replica, 2).await;
    let mut longer = seals(&Head::default(), &records);
    longer.last_mut().expect("two wait").last_number += 1_000;
    let mut another = records.clone();
    another.last_mut().expect("two wait").number += 1_000;
    for seals in [longer, seals(&Head::default(), &another)] {
        let refused = insist(async || replica.audit.seal(&hall(), &Head::default(), seals.clone()).await).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    }
    assert_eq!(chain(&replica, &hall()).await, []);
    assert_eq!(head(&replica).await, Head::default());
}

/// Whoever read the epochs before another sealed, and the head after.
pub async fn a_record_that_is_sealed_is_not_sealed_again(stage: &Stage) {
    let replica = stage.replica("one");
    record(&replica, &["1", "2", "3"].map(|name| act("tool.call", name))).await;
    let (start, records) = (Head::default(), waiting(&replica, 3).await);
    let first = seals(&start, &records[..2]);
    insist(async || replica.audit.seal(&hall(), &start, first.clone()).await).await.unwrap();
    let end = Head { position: 2, hash: first[0].hash.clone() };
    for again in [&records[..2], &records[1..2], &records[1..]] {
        let seals = seals(&end, again);
        let refused = insist(async || replica.audit.seal(&hall(), &end, seals.clone()).await).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    }
    assert_eq!(assert_unbroken(&chain(&replica, &hall()).await), 2);
}

pub async fn two_sealers_at_once_make_one_chain(stage: &Stage) {
    let replicas = [stage.replica("one"), stage.replica("other")];
    let written = AtomicBool::new(false);
    let write = async {
        let writers = replicas.iter().map(|replica| async move {
            for n in 0..15 {
                record(replica, &[act("tool.call", &format!("{n}")), act("tool.call", "again")]).await;
            }
        });
        join_all(writers).await;
        written.store(true, Ordering::SeqCst);
    };
    let sealers = [(&replicas[0], 4), (&replicas[1], 5)].map(|(replica, page)| {
        let written = &written;
        async move {
            while !written.load(Ordering::SeqCst) {
                seal_all(replica, page).await;
            }
        }
    });
    tokio::join!(write, join_all(sealers));
    seal_all(&stage.replica("last"), 100).await;
    let records = assert_unbroken(&chain(&replicas[1], &hall()).await);
    assert!(records >= 60, "{records} of 60 records are sealed");
}
