//! Sealing: the sealer's side of the audit chain, down to which record stands where.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::join_all;
use guildhall_domain::{
    AuditEntry, AuditRecord, ErrorCode, TenantId,
    ports::audit_store::{Head, Seal},
};

use super::{NOW, Replica, Stage, act, act_in, audit::record, hall, tenant};
use crate::contract::{eventually, insist};

/// What a real hash tells: which record this is, and what it follows.
fn hash_of(record: &AuditRecord, before: &str) -> String {
    let before = before.split(" after ").next().unwrap_or_default();
    format!("{}/{}/{} after {before}", record.writer, record.epoch, record.number)
}

/// Seals as a sealer would.
fn seals(from: &Head, records: &[AuditRecord]) -> Vec<Seal> {
    let mut before = from.clone();
    let seal = |record: &AuditRecord| {
        let (position, hash) = (before.position + 1, hash_of(record, &before.hash));
        before = Head { position, hash: hash.clone() };
        Seal { writer: record.writer.clone(), epoch: record.epoch, number: record.number, position, hash }
    };
    records.iter().map(seal).collect()
}

async fn head(replica: &Replica) -> Head {
    insist(async || replica.audit.head(&hall()).await).await.unwrap()
}

async fn unsealed(replica: &Replica, at_least: usize) -> Vec<AuditRecord> {
    let enough = async || {
        let records = replica.audit.unsealed(&hall(), 1_000).await?;
        Ok((records.len() >= at_least).then_some(records))
    };
    eventually(&format!("{at_least} records wait for the sealer"), enough).await
}

/// Seals until nothing is left, beginning anew whenever another was first.
async fn seal_all(replica: &Replica, page: usize) {
    loop {
        let from = head(replica).await;
        let records = insist(async || replica.audit.unsealed(&hall(), page).await).await.unwrap();
        let seals = seals(&from, &records);
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

/// The whole chain, once its end is the head.
async fn chain(replica: &Replica, tenant: &TenantId) -> Vec<AuditRecord> {
    let whole = async || {
        let mut chain: Vec<AuditRecord> = Vec::new();
        loop {
            let after = chain.last().and_then(|record| record.position).unwrap_or(0);
            let page = insist(async || replica.audit.sealed(tenant, after, 7).await).await?;
            if page.is_empty() {
                break;
            }
            chain.extend(page);
        }
        let head = replica.audit.head(tenant).await?;
        Ok((chain.last().and_then(|record| record.position).unwrap_or(0) == head.position).then_some(chain))
    };
    eventually("the chain reaches its head", whole).await
}

fn assert_unbroken(chain: &[AuditRecord]) {
    let mut before = String::new();
    for (position, record) in (1..).zip(chain) {
        let hash = record.hash.clone().unwrap_or_default();
        assert_eq!(record.position, Some(position), "a place is missing or taken twice");
        assert_eq!(hash, hash_of(record, &before), "the chain forks here");
        before = hash;
    }
}

pub async fn sealing_orders_records_as_they_were_numbered(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    for n in 0..10_u64 {
        // What was done earlier may be recorded later.
        let entry = AuditEntry { at: NOW - Duration::from_secs(n), ..act("tool.call", &format!("{n}")) };
        record(if n % 2 == 0 { &one } else { &other }, &[entry]).await;
    }
    record(&one, &[act_in(&tenant("red"), "tool.call", "red")]).await;
    let waiting = unsealed(&other, 10).await;
    assert!(waiting.iter().all(|record| record.position.is_none() && record.tenant == hall()));
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
    assert_unbroken(&chain);
    assert_eq!(chain.len(), waiting.len());
    let mut last: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for record in &chain {
        let last = last.entry((&record.writer, record.epoch)).or_default();
        assert_eq!(record.number, *last + 1, "{}'s records were sealed out of their order", record.writer);
        *last = record.number;
    }
    let written = eventually("the seals are counted", async || {
        let written = one.audit.written(&hall()).await?;
        Ok(written.iter().all(|there| there.unsealed == 0).then_some(written))
    });
    assert_eq!(written.await.iter().map(|there| there.records).sum::<u64>(), chain.len() as u64);
}

pub async fn a_seal_from_a_stale_head_is_refused_whole(stage: &Stage) {
    let replica = stage.replica("one");
    record(&replica, &["1", "2", "3", "4"].map(|name| act("tool.call", name))).await;
    let (start, records) = (Head::default(), unsealed(&replica, 4).await);
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
    assert_unbroken(&chain);
    assert_eq!(chain.len(), 2, "a seal that was refused has sealed something");
}

pub async fn a_seal_of_a_record_that_is_not_there_is_refused_whole(stage: &Stage) {
    let replica = stage.replica("one");
    record(&replica, &[act("tool.call", "1"), act("tool.call", "2")]).await;
    let mut records = unsealed(&replica, 2).await;
    let last = records.last_mut().expect("two wait");
    last.number += 1_000;
    let seals = seals(&Head::default(), &records);
    let refused = insist(async || replica.audit.seal(&hall(), &Head::default(), seals.clone()).await).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(chain(&replica, &hall()).await, []);
    assert_eq!(head(&replica).await, Head::default());
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
    let chain = chain(&replicas[1], &hall()).await;
    assert_unbroken(&chain);
    assert!(chain.len() >= 60, "{} of 60 records are sealed", chain.len());
}
