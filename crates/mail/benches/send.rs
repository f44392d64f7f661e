//! Sends a second at the mail port: policy, registry, store, audit and hint, each answered only when it is on the disk.
//! One line of JSON for each engine: `cargo bench -p guildhall-mail --bench send [-- <name>…]`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot run says why")]

#[expect(dead_code, reason = "it is the tests' own, and they use more of it")]
#[path = "../tests/mail/stage.rs"]
mod stage;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use guildhall_domain::{
    mail::{Body, NewMessage, Recipient},
    ports::Mail,
};
use guildhall_runtime::SystemClock;
use guildhall_testkit::{
    baseline,
    engines::{Disk, Postgres},
};
use serde_json::json;

use stage::{Engines, Replica, agent, id};

const AT_ONCE: usize = 256;
const AGENTS: usize = 1_000;
const MESSAGES: usize = 100_000;
const BODY_BYTES: usize = 256;

#[tokio::main]
async fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|part| name.starts_with(part.as_str()));
    if wanted("mail_port/sqlite") {
        let folder = tempfile::tempdir().unwrap();
        let (rows, at_once) = (MESSAGES.to_string(), AT_ONCE.to_string());
        let file = folder.path().join("baseline.db").display().to_string();
        let bare = baseline::rate(&["sqlite-gc", &rows, "FULL", "512", &at_once, &file], &[], "sqlite-groupcommit");
        measure("mail_port/sqlite/256", &Engines::embedded(), bare).await;
    }
    if wanted("mail_port/postgres") {
        let Some(server) = Postgres::start(Disk::Synced).await else { return };
        let (url, rows, at_once) = (server.new_database().await, MESSAGES.to_string(), AT_ONCE.to_string());
        let bare = baseline::rate(&["pg", &rows, &at_once], &[("PG_URL", &url)], "pg-unnest-insert");
        let Some(engines) = Engines::on(&server).await else { return };
        measure("mail_port/postgres/256", &engines, bare).await;
    }
}

async fn measure(name: &str, engines: &Engines, bare: Option<f64>) {
    let reached = engines.reach("bench");
    reached.store.migrate().await.unwrap();
    // Time goes on: ids of messages come in order, as they do.
    let replica = Replica::start("bench", reached.clone(), Arc::new(SystemClock));
    replica.is_ready().await;
    join_all((0..AGENTS).map(async |n| replica.register(&format!("agent-{n}")).await)).await;
    // Every mailbox has its first message before the clock runs.
    send_all(&replica.mail, 0..AGENTS).await;

    let began = Instant::now();
    let latencies = send_all(&replica.mail, AGENTS..AGENTS + MESSAGES).await;
    let seconds = began.elapsed().as_secs_f64();
    reached.store.close().await;
    let mut line = baseline::beside(bare, latencies, seconds);
    (line["name"], line["at_once"], line["mailboxes"]) = (json!(name), json!(AT_ONCE), json!(AGENTS));
    println!("{line}");
}

/// How long each took.
async fn send_all(mail: &Arc<dyn Mail>, numbers: std::ops::Range<usize>) -> Vec<Duration> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let senders = (0..AT_ONCE).map(|_| {
        let (mail, next, end) = (mail.clone(), next.clone(), numbers.end);
        tokio::spawn(async move {
            let mut took = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= end {
                    return took;
                }
                let call = agent(&format!("agent-{}", (n + 1) % AGENTS));
                let began = Instant::now();
                mail.send(&call, vec![letter(n)]).await.unwrap();
                took.push(began.elapsed());
            }
        })
    });
    join_all(senders).await.into_iter().flat_map(Result::unwrap).collect()
}

fn letter(n: usize) -> NewMessage {
    let to = Recipient::Agent(id(&format!("agent-{}", n % AGENTS)));
    let body = Body::from_value(&"x".repeat(BODY_BYTES - 2)).unwrap();
    NewMessage { idempotency_key: Some(format!("key-{n}")), ..NewMessage::new(to, body) }
}
