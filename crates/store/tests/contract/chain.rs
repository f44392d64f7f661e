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
use guildhall_domain::{AuditEntry, Principal, TenantId, Timestamp, audit::AuditVerdict, ports::AuditStore};
use guildhall_guard::audit::{seal_tenant, verify};
use guildhall_store::DatabaseUrl;
use serde_json::json;

use crate::{
    engines::{execute, open},
    on_both,
};

on_both! {
    a_chain_holds_while_eight_write_and_two_seal
    an_edited_record_is_found
    an_edited_body_is_found
    a_deleted_record_is_found
    records_that_changed_places_are_found
    an_inserted_record_is_found
    a_cut_tail_is_found
    a_cut_tail_is_found_when_the_head_was_moved_as_well
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

/// Two writers' twenty records, sealed; then three more that are not. Gives what verifying finds before and after.
async fn faults_after(url: &DatabaseUrl, tamper: &'static str) -> Vec<String> {
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

async fn an_edited_record_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "UPDATE audit_records SET actor = 'mallory' WHERE position = 7").await;
    assert_names(&faults, &["record 7 (tool.call by mallory"]);
}

async fn an_edited_body_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "UPDATE audit_records SET body = '{\"number\":6}' WHERE position = 7").await;
    assert_names(&faults, &["has a body that is not the one recorded"]);
}

async fn a_deleted_record_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_records WHERE position = 7").await;
    assert_names(&faults, &["record 7 is missing", "counted"]);
}

async fn records_that_changed_places_are_found(url: &DatabaseUrl) {
    let swap = "UPDATE audit_records SET position = -7 WHERE position = 7;
        UPDATE audit_records SET position = 7 WHERE position = 8;
        UPDATE audit_records SET position = 8 WHERE position = -7;";
    let faults = faults_after(url, swap).await;
    assert_names(&faults, &["record 7", "record 8", "record 9"]);
}

async fn an_inserted_record_is_found(url: &DatabaseUrl) {
    let insert = "INSERT INTO audit_records (tenant, writer, epoch, number, recorded_at, at, actor_kind, actor, act,
            target, outcome, salt, body, body_hash, position, hash)
        SELECT tenant, writer, epoch, 99, recorded_at, at, actor_kind, 'mallory', act, target, outcome, salt, body,
            body_hash, 21, hash FROM audit_records WHERE position = 20";
    let faults = faults_after(url, insert).await;
    assert_names(&faults, &["record 21 (tool.call by mallory", "there are records after 20", "99 was inserted"]);
}

async fn a_cut_tail_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_records WHERE position > 18").await;
    assert_names(&faults, &["the chain ends at record 18, and 20 were sealed", "counted"]);
}

async fn a_cut_tail_is_found_when_the_head_was_moved_as_well(url: &DatabaseUrl) {
    let cut = "DELETE FROM audit_records WHERE position > 18;
        UPDATE audit_heads SET position = 18, hash = (SELECT hash FROM audit_records WHERE position = 18);";
    assert_names(&faults_after(url, cut).await, &["counted"]);
}

async fn a_deleted_record_that_was_not_sealed_yet_is_found(url: &DatabaseUrl) {
    let faults = faults_after(url, "DELETE FROM audit_records WHERE position IS NULL AND number = 13").await;
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
    let half = "UPDATE audit_records SET salt = NULL WHERE position = 3;
        UPDATE audit_records SET body = NULL WHERE position = 4;";
    assert_names(&faults_after(url, half).await, &["its salt is gone", "has lost its body"]);
}
