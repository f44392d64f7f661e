//! Audit records a second: written in batches as a hall does, and then sealed. One line of JSON for each engine and
//! each of the two: `cargo bench -p guildhall-store --bench sealing`.

use std::{path::Path, sync::Arc, time::Instant};

use guildhall_domain::{AuditEntry, Principal, TenantId, Timestamp};
use guildhall_guard::audit::{seal_tenant, verify};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{
    clock::FixedClock,
    engines::{Disk, Postgres},
    entropy::SeededEntropy,
};
use serde_json::json;

const RECORDS: usize = 100_000;
/// As many as a recorder gathers.
const BATCH: usize = 500;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder for the database can be made");
    let sqlite = DatabaseUrl::parse("sqlite:", folder.path()).expect("the shortest URL is one");
    measure("sqlite", &sqlite).await;

    let Some(server) = Postgres::start(Disk::Synced).await else { return };
    let postgres = DatabaseUrl::parse(&server.new_database().await, Path::new("unused")).expect("the server says it");
    measure("postgres", &postgres).await;
}

async fn measure(engine: &str, url: &DatabaseUrl) {
    let options = StoreOptions {
        clock: Arc::new(FixedClock::default()),
        entropy: Arc::new(SeededEntropy::default()),
        writer: "bench".into(),
        max_connections: 4,
    };
    let store = Store::connect(url, options);
    store.migrate().await.expect("a new database can be migrated");
    let (audit, tenant) = (store.audit(), TenantId::default());
    let hall = Principal::hall(tenant.clone(), "bench");
    let began = Instant::now();
    for batch in 0..RECORDS / BATCH {
        let entry = |n| {
            let (at, target) = (Timestamp::from_millis(batch as i64), format!("message:{batch}-{n}"));
            AuditEntry::done(&hall, at, "message.send", target, json!({ "to": "agent:worker-1", "hash": "0123456789" }))
        };
        audit.record((0..BATCH).map(entry).collect()).await.expect("records are stored");
    }
    say("write", engine, began);
    let began = Instant::now();
    let sealed = seal_tenant(&*audit, &tenant).await.expect("records are sealed");
    assert_eq!(sealed, RECORDS as u64);
    say("seal", engine, began);
    let began = Instant::now();
    let verdict = verify(&*audit, &tenant).await.expect("a chain is verified");
    assert!(verdict.holds() && verdict.sealed == sealed, "{verdict:?}");
    say("verify", engine, began);
    store.close().await;
}

fn say(what: &str, engine: &str, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    let line = json!({
        "name": format!("audit/{what}/{engine}"),
        "ops_per_s": (RECORDS as f64 / seconds).round(),
        "us_per_op": seconds * 1e6 / RECORDS as f64,
        "ops": RECORDS,
        "seconds": seconds,
    });
    println!("{line}");
}
