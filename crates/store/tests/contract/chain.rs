//! The audit chain over a real database: it holds however many write, and nothing done to it behind the hall's back
//! goes unseen.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use guildhall_domain::{
    AuditEntry, Principal, TenantId, Timestamp,
    audit::{AuditQuery, AuditVerdict},
    ports::AuditStore,
};
use guildhall_guard::audit::{chain::record_hash, seal_tenant, verify};
use guildhall_store::DatabaseUrl;
use serde_json::json;

use crate::{
    engines::{execute, open},
    on_both,
};

on_both! {
    a_chain_holds_while_eight_write_and_two_seal
    a_long_epoch_is_sealed_in_runs
    what_is_exported_can_be_verified_elsewhere
    an_edited_record_is_found
    an_edited_body_is_found
    a_deleted_record_is_found
    records_that_changed_places_are_found
    an_inserted_record_is_found
    an_inserted_record_with_a_seal_of_its_own_is_found
    a_record_put_into_a_gap_is_found
    an_altered_seal_is_found_and_what_follows_is_not_blamed
    a_seal_that_was_moved_made_longer_or_shorter_is_found
    a_deleted_seal_is_found
    a_cut_tail_is_found
    a_cut_tail_is_found_when_its_seal_and_the_head_were_changed_as_well
    a_deleted_record_that_was_not_sealed_yet_is_found
    a_writer_whose_count_was_taken_away_is_found
    a_person_who_was_erased_leaves_a_chain_that_holds
    an_erasure_that_left_something_is_found
}

fn entry(number: usize) -> AuditEntry {
    let by = Principal::hall(TenantId::default(), "test");
    let body = json!({"number": number, "share": 0.1, "nested": {"b": [null, true], "a": "ä"}});
    AuditEntry::done(&by, Timestamp::from_millis(1), "tool.call", format!("tool:{number}"), body)
}

async fn record(audit: &Arc<dyn AuditStore>, entries: impl Iterator<Item = usize>) {
    audit.record(entries.map(entry).collect()).await.unwrap();
}

async fn judge(audit: &Arc<dyn AuditStore>) -> AuditVerdict {
    verify(&**audit, &TenantId::default()).await.unwrap()
}

/// Two writers' twenty records, sealed in a run of ten each, and then three more that are not. Gives what verifying
/// finds after `tamper`.
async fn faults_after(url: &DatabaseUrl, tamper: impl Into<String>) -> Vec<String> {
    let stores = ["one", "two"].map(|writer| open(url, writer));
    stores[0].migrate().await.unwrap();
    let [one, two] = stores.map(|store| store.audit());
    record(&one, 0..5).await;
    record(&two, 5..15).await;
    record(&one, 15..20).await;
    assert_eq!(seal_tenant(&*one, &TenantId::default()).await.unwrap(), 20);
    record(&two, 20..23).await;
    let before = judge(&one).await;
    assert_eq!((before.sealed, before.unsealed, before.epochs), (20, 3, 2));
    assert!(before.holds(), "{:?}", before.faults);
    execute(url, tamper).await;
    judge(&two).await.faults
}

fn assert_names(faults: &[String], what: &[&str]) {
    assert_eq!(faults.len(), what.len(), "{faults:?}");
    for (fault, what) in faults.iter().zip(what) {
        assert!(fault.contains(what), "{what:?} is not in {fault:?}");
    }
}

async fn a_chain_holds_while_eight_write_and_two_seal(url: &DatabaseUrl) {
    let first = open(url, "first");
    first.migrate().await.unwrap();
    let audit = first.audit();
    let writing = AtomicBool::new(true);
    let writers = async {
        let writers = (0..8).map(|writer| {
            let audit = open(url, &format!("writer-{writer}")).audit();
            async move {
                for batch in 0..25 {
                    record(&audit, batch..batch + 1 + batch % 3).await;
                }
            }
        });
        join_all(writers).await;
        writing.store(false, Ordering::SeqCst);
    };
    let seal = async || {
        while writing.load(Ordering::SeqCst) {
            seal_tenant(&*audit, &TenantId::default()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let watch = async {
        let mut looks = 0;
        while writing.load(Ordering::SeqCst) {
            let verdict = judge(&audit).await;
            assert!(verdict.holds(), "a false alarm: {:?}", verdict.faults);
            looks += 1;
        }
        looks
    };
    let ((), (), (), looks) = tokio::join!(writers, seal(), seal(), watch);
    assert!(looks > 2, "verified only {looks} times while others wrote");
    seal_tenant(&*audit, &TenantId::default()).await.unwrap();
    let verdict = judge(&audit).await;
    assert!(verdict.holds(), "{:?}", verdict.faults);
    assert_eq!((verdict.sealed, verdict.unsealed, verdict.epochs), (8 * 49, 0, 8));
}

async fn a_long_epoch_is_sealed_in_runs(url: &DatabaseUrl) {
    let store = open(url, "one");
    store.migrate().await.unwrap();
    let audit = store.audit();
    for batch in 0..5 {
        record(&audit, batch * 500..batch * 500 + 460).await;
    }
    assert_eq!(seal_tenant(&*audit, &TenantId::default()).await.unwrap(), 2_300);
    assert_eq!(seal_tenant(&*audit, &TenantId::default()).await.unwrap(), 0);
    let seals = audit.seals(&TenantId::default(), 0, 10).await.unwrap();
    let runs: Vec<_> = seals.iter().map(|seal| (seal.first_position, seal.last_number)).collect();
    assert_eq!(runs, [(1, 1_000), (1_001, 2_000), (2_001, 2_300)]);
    let verdict = judge(&audit).await;
    assert_eq!((verdict.holds(), verdict.sealed, verdict.unsealed), (true, 2_300, 0), "{:?}", verdict.faults);
}

/// With nothing but the records as they are read, and the form of the chain.
async fn what_is_exported_can_be_verified_elsewhere(url: &DatabaseUrl) {
    let stores = ["one", "two"].map(|writer| open(url, writer));
    stores[0].migrate().await.unwrap();
    let [one, two] = stores.map(|store| store.audit());
    for round in 0..3 {
        record(&one, round * 10..round * 10 + 4).await;
        record(&two, round * 10 + 4..round * 10 + 10).await;
        seal_tenant(&*one, &TenantId::default()).await.unwrap();
    }
    let query = AuditQuery { limit: 1_000, ..Default::default() };
    let mut exported = one.query(&TenantId::default(), &query).await.unwrap();
    exported.sort_by_key(|record| record.position);
    let (mut before, mut ends) = (String::new(), 0);
    for (position, record) in (1..).zip(&exported) {
        assert_eq!(record.position, Some(position));
        before = record_hash(&before, position, record);
        if let Some(hash) = &record.hash {
            assert_eq!(*hash, before, "at {position}");
            ends += 1;
        }
    }
    let head = one.head(&TenantId::default()).await.unwrap();
    assert_eq!((head.position, head.hash, ends), (30, before, 6));
}

/// Of the run that two's records are in.
const TWOS: &str = "records 11 to 20 (numbers 1 to 10 of writer two's epoch 1): this is not what was sealed";

async fn an_edited_record_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "UPDATE audit_records SET actor = 'mallory' WHERE target = 'tool:6'").await;
    assert_names(&faults, &[TWOS]);
}

async fn an_edited_body_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "UPDATE audit_records SET body = '{\"number\":6}' WHERE target = 'tool:6'").await;
    assert_names(&faults, &["record 12 (tool.call"]);
    assert_names(&faults, &["has a body that is not the one recorded"]);
}

async fn a_deleted_record_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_records WHERE target IN ('tool:6', 'tool:8', 'tool:9')").await;
    assert_names(&faults, &["record 12 is missing", "records 14 to 15 are missing", "counted 13 records"]);
}

async fn records_that_changed_places_are_found(url: &DatabaseUrl) {
    let swap = "UPDATE audit_records SET number = 77 WHERE target = 'tool:6';
        UPDATE audit_records SET number = 2 WHERE target = 'tool:7';
        UPDATE audit_records SET number = 3 WHERE target = 'tool:6';";
    assert_names(&faults_after(url, swap).await, &[TWOS]);
}

const INSERT: &str =
    "INSERT INTO audit_records (tenant, writer, epoch, number, recorded_at, at, actor_kind, actor, act,
            target, outcome, salt, body, body_hash)
        SELECT tenant, writer, epoch, 99, recorded_at, at, actor_kind, 'mallory', act, target, outcome, salt, body,
            body_hash FROM audit_records WHERE target = 'tool:6';";

async fn an_inserted_record_is_found(url: &DatabaseUrl) {
    assert_names(&faults_after(url, INSERT).await, &["one of number 99 was inserted"]);
    // It is never sealed, and keeps nothing else from being.
    let audit = open(url, "three").audit();
    assert_eq!(seal_tenant(&*audit, &TenantId::default()).await.unwrap(), 3);
    assert_names(&judge(&audit).await.faults, &["one of number 99 was inserted"]);
}

async fn an_inserted_record_with_a_seal_of_its_own_is_found(url: &DatabaseUrl) {
    let seal = "INSERT INTO audit_seals VALUES ('default', 'two', 1, 99, 99, 21, 'x')";
    let insert = format!("{INSERT} {seal}");
    let faults = faults_after(url, insert).await;
    let wanted = [
        "record 21 (number 99 of writer two's epoch 1): this is not what was sealed",
        "there are seals of records after 20",
        "one of number 99 was inserted",
        "has 3 more among its sealed records than its seals speak of",
    ];
    assert_names(&faults, &wanted);
}

/// A record is taken away before it is sealed, and another put into its place when its neighbours are.
async fn a_record_put_into_a_gap_is_found(url: &DatabaseUrl) {
    let gap = "DELETE FROM audit_records WHERE target = 'tool:21'";
    assert_names(&faults_after(url, gap).await, &["writer two counted 13 records in its epoch 1; 12 are there"]);
    let audit = open(url, "three").audit();
    assert_eq!(seal_tenant(&*audit, &TenantId::default()).await.unwrap(), 2);
    assert_names(&judge(&audit).await.faults, &["12 are there"]);
    execute(url, INSERT).await;
    execute(url, "UPDATE audit_records SET number = 12 WHERE number = 99").await;
    assert_names(&judge(&audit).await.faults, &["has 1 more among its sealed records than its seals speak of"]);
}

async fn an_altered_seal_is_found_and_what_follows_is_not_blamed(url: &DatabaseUrl) {
    let faults = faults_after(url, "UPDATE audit_seals SET hash = 'x' WHERE first_position = 1").await;
    assert_names(&faults, &["records 1 to 10 (numbers 1 to 10 of writer one's epoch 1): this is not what was sealed"]);
}

async fn a_seal_that_was_moved_made_longer_or_shorter_is_found(url: &DatabaseUrl) {
    let moved = faults_after(url, "UPDATE audit_seals SET first_position = 12 WHERE writer = 'two'").await;
    let wanted = ["the seal of record 11 is missing, and so records 12 to 21", "there are seals of records after 20"];
    assert_names(&moved, &wanted);
    let audit = open(url, "three").audit();
    for (change, wanted) in [
        ("first_position = 11, last_number = 12", &["records 11 to 22", "there are seals of records after 20"][..]),
        ("last_number = 8", &["records 11 to 18", "the chain ends at record 18, and 20 were sealed"]),
        ("last_number = 10, first_position = 5", &["records 5 to 14", "the chain ends at record 14"]),
        ("first_position = 11, last_number = 100000", &["none is of so many", "records after 20"]),
        ("last_number = 0", &["none is of so many", "the chain ends at record 11"]),
        ("last_number = 10", &[]),
    ] {
        execute(url, format!("UPDATE audit_seals SET {change} WHERE writer = 'two'")).await;
        assert_names(&judge(&audit).await.faults, wanted);
    }
}

async fn a_deleted_seal_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_seals WHERE first_position = 1").await;
    assert_names(&faults, &["the seal of records 1 to 10 is missing, and so records 11 to 20"]);
}

async fn a_cut_tail_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_records WHERE writer = 'two' AND number > 8").await;
    assert_names(&faults, &["records 19 to 20 are missing", "counted 13 records in its epoch 1; 8 are there"]);
}

async fn a_cut_tail_is_found_when_its_seal_and_the_head_were_changed_as_well(url: &DatabaseUrl) {
    let cut = "DELETE FROM audit_records WHERE writer = 'two'; DELETE FROM audit_seals WHERE writer = 'two';";
    let faults = faults_after(url, cut).await;
    assert_names(&faults, &["the chain ends at record 10, and 20 were sealed: its tail was cut", "0 are there"]);
    execute(url, "UPDATE audit_heads SET position = 10, hash = (SELECT hash FROM audit_seals)").await;
    assert_names(&judge(&open(url, "three").audit()).await.faults, &["counted 13 records in its epoch 1; 0 are there"]);
}

async fn a_deleted_record_that_was_not_sealed_yet_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_records WHERE number = 13").await;
    assert_names(&faults, &["writer two counted 13 records in its epoch 1; 12 are there"]);
}

async fn a_writer_whose_count_was_taken_away_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_epochs WHERE writer = 'two'").await;
    assert_names(&faults, &["writer two counted 0 records"]);
}

async fn a_person_who_was_erased_leaves_a_chain_that_holds(url: &DatabaseUrl) {
    let erase = "UPDATE audit_records SET salt = NULL, body = NULL WHERE target = 'tool:6'";
    assert_names(&faults_after(url, erase).await, &[]);
}

async fn an_erasure_that_left_something_is_found(url: &DatabaseUrl) {
    let half = "UPDATE audit_records SET salt = NULL WHERE target = 'tool:3';
        UPDATE audit_records SET body = NULL WHERE target = 'tool:4';";
    let faults = faults_after(url, half).await;
    assert_names(&faults, &["record 4 (tool.call", "record 5 (tool.call"]);
    assert_names(&faults, &["its salt is gone", "has lost its body"]);
}
