//! Audit records a second: written in batches as a hall does, sealed, verified; and what of the sealing keeps the writer
//! busy, which is all that others wait for. One line of JSON for each of them and each engine:
//! `cargo bench -p guildhall-store --bench sealing`.

use std::{path::Path, sync::Arc, time::Instant};

use guildhall_domain::{
    AuditEntry, Principal, TenantId, Timestamp,
    ports::{
        AuditStore,
        audit_store::{Head, RUN_MAX, Seal},
    },
};
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
    let began = Instant::now();
    write(&*audit, &tenant).await;
    say("write", engine, began);

    let other: TenantId = "other".parse().expect("the name is well-formed");
    write(&*audit, &other).await;
    let began = Instant::now();
    let mut head = Head::default();
    for run in 0..RECORDS as u64 / RUN_MAX {
        let (first_number, last_number) = (run * RUN_MAX + 1, (run + 1) * RUN_MAX);
        let to = Head { position: last_number, hash: format!("{last_number:064x}") };
        let (writer, hash) = ("bench".to_owned(), to.hash.clone());
        let seal = Seal { writer, epoch: 1, first_number, last_number, first_position: first_number, hash };
        audit.seal(&other, &head, vec![seal]).await.expect("a run is sealed");
        head = to;
    }
    say("seal/by the writer", engine, began);

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

async fn write(audit: &dyn AuditStore, tenant: &TenantId) {
    let hall = Principal::hall(tenant.clone(), "bench");
    for batch in 0..RECORDS / BATCH {
        let entry = |n| {
            let (at, target) = (Timestamp::from_millis(batch as i64), format!("message:{batch}-{n}"));
            AuditEntry::done(&hall, at, "message.send", target, json!({ "to": "agent:worker-1", "hash": "0123456789" }))
        };
        audit.record((0..BATCH).map(entry).collect()).await.expect("records are stored");
    }
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
