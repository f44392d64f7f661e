//! What someone with the database's password takes away from the audit records shows in their counts.

use guildhall_domain::{AuditEntry, Principal, TenantId, Timestamp};
use guildhall_store::DatabaseUrl;

use crate::{
    engines::{execute, open},
    on_both,
};

on_both! {
    a_record_that_was_taken_out_of_the_middle_leaves_a_gap
    records_cut_from_the_end_are_fewer_than_the_epoch_counts
}

/// Records, last number and what the epoch promises, once three were written and `tamper` was run.
async fn counts_after(url: &DatabaseUrl, tamper: &'static str) -> (u64, u64, u64) {
    let (store, tenant) = (open(url, "one"), TenantId::default());
    store.migrate().await.unwrap();
    let act = || {
        let by = Principal::hall(TenantId::default(), "test");
        AuditEntry::done(&by, Timestamp::from_millis(1), "tool.call", "tool:x", Default::default())
    };
    store.audit().record(vec![act(), act(), act()]).await.unwrap();
    execute(url, tamper).await;
    let written = store.audit().written(&tenant).await.unwrap();
    let epochs = store.audit().epochs(&tenant).await.unwrap();
    (written[0].records, written[0].last_number, epochs[0].last_number)
}

async fn a_record_that_was_taken_out_of_the_middle_leaves_a_gap(url: &DatabaseUrl) {
    let counts = counts_after(url, "DELETE FROM audit_records WHERE number = 2").await;
    assert_eq!(counts, (2, 3, 3));
}

async fn records_cut_from_the_end_are_fewer_than_the_epoch_counts(url: &DatabaseUrl) {
    let counts = counts_after(url, "DELETE FROM audit_records WHERE number > 1").await;
    assert_eq!(counts, (1, 1, 3));
}
