//! Registrations a second, 64 at once, each answered only when it is on the disk. One line of JSON for each engine:
//! `cargo bench -p guildhall-store`.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use futures::future::join_all;
use guildhall_domain::{AuditEntry, NewAgent, Principal, TenantId, Timestamp, ports::agent_store::IfPresent};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{
    clock::FixedClock,
    engines::{Disk, Postgres},
    entropy::SeededEntropy,
};
use serde_json::json;

const AT_ONCE: usize = 64;
const REGISTRATIONS: usize = 10_000;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("a folder for the database can be made");
    let sqlite = DatabaseUrl::parse("sqlite:", folder.path()).expect("the shortest URL is one");
    measure("registration/sqlite", &sqlite).await;

    let Some(server) = Postgres::start(Disk::Synced).await else { return };
    let postgres = DatabaseUrl::parse(&server.new_database().await, Path::new("unused")).expect("the server says it");
    measure("registration/postgres", &postgres).await;
}

async fn measure(name: &str, url: &DatabaseUrl) {
    let options = StoreOptions {
        clock: Arc::new(FixedClock::default()),
        entropy: Arc::new(SeededEntropy::default()),
        writer: "bench".into(),
        max_connections: 4,
    };
    let store = Store::connect(url, options);
    store.migrate().await.expect("a new database can be migrated");
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    join_all((0..AT_ONCE).map(|_| register_while_there_are_any(&store, &next))).await;
    let seconds = began.elapsed().as_secs_f64();
    store.close().await;
    let line = json!({
        "name": name,
        "ops_per_s": (REGISTRATIONS as f64 / seconds).round(),
        "ops": REGISTRATIONS,
        "at_once": AT_ONCE,
        "seconds": seconds,
    });
    println!("{line}");
}

async fn register_while_there_are_any(store: &Store, next: &AtomicUsize) {
    let (agents, tenant, now) = (store.agents(), TenantId::default(), Timestamp::from_millis(1));
    let hall = Principal::hall(tenant.clone(), "bench");
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= REGISTRATIONS {
            return;
        }
        let name = format!("agent-{n}");
        let new = NewAgent::named(name.parse().expect("the name is well-formed"), &*name);
        let audit = AuditEntry::done(&hall, now, "agent.register", name, json!({ "by": "bench" }));
        agents.register(&tenant, &new, IfPresent::Update, now, audit).await.expect("a registration is stored");
    }
}
