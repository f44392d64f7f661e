//! Sends a second at the port of mail's store, each answered only when it is on the disk, with its receipt and its audit
//! entry. One line of JSON for each measurement: `cargo bench -p guildhall-store --bench mail_send [-- <name>…]`.
//!
//! `GUILDHALL_BENCH_DIR` is where SQLite's file is made: the figures are of that disk.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use guildhall_domain::{
    AgentId, AuditEntry, Principal, TenantId, Timestamp,
    mail::{Body, Mailbox, Message, MessageId, Priority, Recipient, kind},
    ports::{
        MailStore,
        mail_store::{Addressees, MailboxBound, Outgoing, ReceiptKey},
    },
};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{
    baseline,
    clock::FixedClock,
    engines::{Disk, Postgres},
    entropy::SeededEntropy,
};
use serde_json::json;

const BOUND: MailboxBound = MailboxBound { messages: u64::MAX };
const BODY_BYTES: usize = 256;

struct Measurement {
    name: &'static str,
    at_once: usize,
    mailboxes: usize,
    messages: usize,
}

const ON_SQLITE: [Measurement; 5] = [
    Measurement { name: "mail_send/sqlite/256", at_once: 256, mailboxes: 1_000, messages: 100_000 },
    Measurement { name: "mail_send/sqlite/64", at_once: 64, mailboxes: 1_000, messages: 50_000 },
    Measurement { name: "mail_send/sqlite/1", at_once: 1, mailboxes: 1_000, messages: 2_000 },
    Measurement { name: "mail_send/sqlite/10k_mailboxes", at_once: 256, mailboxes: 10_000, messages: 100_000 },
    Measurement { name: "mail_send/sqlite/100k_mailboxes", at_once: 256, mailboxes: 100_000, messages: 100_000 },
];
const ON_POSTGRES: [Measurement; 3] = [
    Measurement { name: "mail_send/postgres/256", at_once: 256, mailboxes: 1_000, messages: 50_000 },
    Measurement { name: "mail_send/postgres/1000", at_once: 1_000, mailboxes: 1_000, messages: 50_000 },
    Measurement { name: "mail_send/postgres/1", at_once: 1, mailboxes: 1_000, messages: 1_000 },
];

#[tokio::main]
async fn main() {
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |measurement: &&Measurement| {
        named.is_empty() || named.iter().any(|part| measurement.name.starts_with(part.as_str()))
    };
    for measurement in ON_SQLITE.iter().filter(wanted) {
        let parent = std::env::var_os("GUILDHALL_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
        let folder = tempfile::tempdir_in(parent).expect("a folder for the database can be made");
        let url = DatabaseUrl::parse("sqlite:", folder.path()).expect("the shortest URL is one");
        let (rows, at_once) = (measurement.messages.to_string(), measurement.at_once.to_string());
        let file = folder.path().join("baseline.db").display().to_string();
        let bare = baseline::rate(&["sqlite-gc", &rows, "FULL", "512", &at_once, &file], &[], "sqlite-groupcommit");
        measure(measurement, &url, bare).await;
    }
    for measurement in ON_POSTGRES.iter().filter(wanted) {
        let Some(server) = Postgres::start(Disk::Synced).await else { return };
        let url = server.new_database().await;
        let (rows, at_once) = (measurement.messages.to_string(), measurement.at_once.to_string());
        let bare = baseline::rate(&["pg", &rows, &at_once], &[("PG_URL", &url)], "pg-unnest-insert");
        let url = DatabaseUrl::parse(&url, Path::new("unused")).expect("the server says it");
        measure(measurement, &url, bare).await;
    }
}

async fn measure(measurement: &Measurement, url: &DatabaseUrl, bare: Option<f64>) {
    let options = StoreOptions {
        clock: Arc::new(FixedClock::default()),
        entropy: Arc::new(SeededEntropy::default()),
        writer: "bench".into(),
        max_connections: 8,
    };
    let store = Store::connect(url, options);
    store.migrate().await.expect("a new database can be migrated");
    let Measurement { name, at_once, mailboxes, messages } = *measurement;
    // Every mailbox has its first message before the clock runs.
    send_all(&store, 256, mailboxes, 0..mailboxes).await;

    let began = Instant::now();
    let latencies = send_all(&store, at_once, mailboxes, mailboxes..mailboxes + messages).await;
    let seconds = began.elapsed().as_secs_f64();
    store.close().await;
    let mut line = baseline::beside(bare, latencies, seconds);
    (line["name"], line["at_once"], line["mailboxes"]) = (json!(name), json!(at_once), json!(mailboxes));
    println!("{line}");
}

/// How long each took.
async fn send_all(store: &Store, at_once: usize, mailboxes: usize, numbers: std::ops::Range<usize>) -> Vec<Duration> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let senders = (0..at_once)
        .map(|_| tokio::spawn(send_while_there_are_any(store.mail(), Arc::clone(&next), numbers.end, mailboxes)));
    join_all(senders).await.into_iter().flat_map(|took| took.expect("a sender does not panic")).collect()
}

async fn send_while_there_are_any(
    mail: Arc<dyn MailStore>,
    next: Arc<AtomicUsize>,
    end: usize,
    mailboxes: usize,
) -> Vec<Duration> {
    let (tenant, mut took) = (TenantId::default(), Vec::new());
    let hall = Principal::hall(tenant.clone(), "bench");
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= end {
            return took;
        }
        let began = Instant::now();
        mail.send(&tenant, vec![letter(&hall, n, mailboxes)], BOUND).await.expect("a message is stored");
        took.push(began.elapsed());
    }
}

fn letter(hall: &Principal, n: usize, mailboxes: usize) -> Outgoing {
    let agent = |n: usize| -> AgentId { format!("agent-{n}").parse().expect("the name is well-formed") };
    // Receipts' keys are hashes: they come in no order.
    let hash = (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
    let (to, now) = (agent(n % mailboxes), Timestamp::from_millis(1_767_225_600_000 + n as i64 / 50));
    let message_id = MessageId::from_bytes((((now.as_millis() as u128) << 80) | n as u128).to_be_bytes());
    let audit = json!({ "message_id": message_id, "to": to, "hash": hex::encode(hash) });
    Outgoing {
        to: Addressees::One(Mailbox::Agent(to.clone())),
        receipt: Some(ReceiptKey { key: hash, fingerprint: hash }),
        request: None,
        audit: AuditEntry::done(hall, now, "message.send", format!("agent:{to}"), audit),
        message: Message {
            message_id,
            from: agent((n + 1) % mailboxes),
            to: Recipient::Agent(to),
            kind: kind::MESSAGE.to_owned(),
            priority: Priority::Normal,
            body: Body::from_value(&"x".repeat(BODY_BYTES - 2)).expect("a text is JSON"),
            sent_at: now,
            expires_at: None,
            reply_to: None,
            correlation_id: None,
            conversation_id: None,
            requires_response: false,
        },
    }
}
