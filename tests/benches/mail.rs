//! Mail as its users meet it: the shipped program with tokens asked for, policy, audit, metrics and traces on; only the
//! rate limit is raised. One line of JSON a figure. `GUILDHALL_BIN` names the program, `BASELINE` the program of the
//! limits; `MAIL_BENCH` picks figures by the beginning of their names.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use guildhall_testkit::engines::{Disk, Nats, Postgres, Redis};
use guildhall_tests::{
    Hall, Setup, Shape,
    collector::Collector,
    load::{self, Connection, Measured, Usage, micros},
    socket::Socket,
};
use serde_json::{Value, json};

fn wanted(name: &str) -> bool {
    std::env::var("MAIL_BENCH").map_or(true, |beginning| name.starts_with(&beginning))
}

fn say(name: &str, mut figures: Value) {
    figures["name"] = json!(name);
    println!("{figures}");
}

#[tokio::main]
async fn main() {
    let collector = Collector::start().await;
    let setup = || {
        Setup::required()
            .set("limits.requests_per_second", "10000000")
            .set("limits.burst", "10000000")
            .set("telemetry.otlp_endpoint", &collector.url)
    };
    if wanted("mail_rest/sqlite") {
        rest("mail_rest/sqlite", setup()).await;
    }
    if wanted("mail_rest/postgres") {
        let (Some(postgres), Some(nats), Some(redis)) =
            (Postgres::start(Disk::Synced).await, Nats::start().await, Redis::start().await)
        else {
            return;
        };
        let on_engines = setup()
            .set("database.url", &postgres.new_database().await)
            .set("bus.url", &nats.url())
            .set("hot.url", &redis.url())
            .set("secrets.keys", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        rest("mail_rest/postgres", on_engines).await;
    }
    if wanted("mail_to_socket") {
        to_socket(setup()).await;
    }
    if wanted("mail_mailboxes") {
        for mailboxes in [1_000, 10_000, 100_000] {
            many_mailboxes(setup(), mailboxes).await;
        }
    }
    if wanted("mail_sockets") {
        many_sockets(setup()).await;
    }
}

struct Stage {
    hall: Hall,
    process: u32,
    address: SocketAddr,
    admin: String,
}

impl Stage {
    async fn set(setup: Setup) -> Self {
        let hall = Hall::start(Shape::Embedded, setup).await.expect("an embedded hall needs no engine");
        let process = hall.gateways()[0].process.id().expect("it runs");
        let address = hall.address();
        let admin = hall.issue_token(&["--agent", "admin", "--role", "admin"]).await;
        Self { hall, process, address, admin }
    }

    /// Registers so many agents, a few connections at once, and gives their tokens.
    async fn agents(&self, name: &str, count: usize) -> Vec<String> {
        let workers = (0..16_usize).map(|worker| {
            let (address, admin, name) = (self.address, self.admin.clone(), name.to_owned());
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut tokens = Vec::new();
                for number in (worker..count).step_by(16) {
                    let body = json!({"agent_id": format!("{name}-{number}"), "name": "bench"}).to_string();
                    let (status, answer) = connection.ask("POST", "/api/v1/agents/register", &admin, body).await;
                    assert_eq!(status, 200, "{answer:?}");
                    let answer: Value = serde_json::from_slice(&answer).unwrap();
                    tokens.push((number, answer["token"].as_str().unwrap().to_owned()));
                }
                tokens
            })
        });
        let mut tokens = vec![String::new(); count];
        for worker in workers.collect::<Vec<_>>() {
            for (number, token) in worker.await.unwrap() {
                tokens[number] = token;
            }
        }
        tokens
    }
}

const BODY: usize = 256;

fn message(to: &str, key: &str) -> String {
    format!(r#"{{"to":"{to}","idempotency_key":"{key}","message":{{"text":"{}"}}}}"#, "x".repeat(BODY))
}

/// Durable sends over REST at 64 connections, from 64 senders to 1,000 receivers.
async fn rest(name: &str, setup: Setup) {
    let stage = Stage::set(setup).await;
    let senders = stage.agents("sender", 64).await;
    stage.agents("receiver", 1_000).await;
    let press = |time, run: &'static str| {
        let senders = senders.clone();
        load::press(stage.address, 64, time, move |worker: usize, number: u64| {
            let to = format!("receiver-{}", (worker as u64 * 7_919 + number * 104_729) % 1_000);
            let body = message(&to, &format!("{run}-{worker}-{number}"));
            ("POST", "/api/v1/messages".to_owned(), senders[worker].clone(), body.into())
        })
    };
    press(Duration::from_secs(2), "warm").await;
    let before = Usage::of(stage.process);
    let measured = press(Duration::from_secs(10), "run").await;
    let after = Usage::of(stage.process);
    let mut figures = measured.figures();
    figures["cpu_us"] = json!(micros((after.cpu - before.cpu) / u32::try_from(measured.done.max(1)).unwrap()));
    figures["resident_mb"] = json!(after.resident_mb);
    say(name, figures);
    verify(&stage).await;
}

/// The audit chain of what was measured must hold.
async fn verify(stage: &Stage) {
    let verdict = stage.hall.admin().get("/api/v1/audit/verify").await.ok();
    assert_eq!(verdict["holds"], true, "{verdict}");
}

/// One message at a time, from the send to the frame on the receiver's socket.
async fn to_socket(setup: Setup) {
    let stage = Stage::set(setup).await;
    let sender = stage.agents("sender", 1).await.remove(0);
    let receiver = stage.agents("receiver", 1).await.remove(0);
    let mut socket = Socket::with_token(&stage.hall.url(), "receiver-0", &receiver).await.unwrap();
    let mut connection = Connection::open(stage.address).await;
    let mut times = Vec::new();
    for number in 0..1_100 {
        let began = Instant::now();
        let body = message("receiver-0", &format!("one-{number}"));
        let send = connection.ask("POST", "/api/v1/messages", &sender, body);
        let (sent, frame) = tokio::join!(send, async {
            let frame = socket.next("message.new").await;
            (frame, began.elapsed())
        });
        assert_eq!(sent.0, 200);
        let (frame, time) = frame;
        if number >= 100 {
            times.push(time);
        }
        socket
            .ask(json!({"type": "ack", "message_id": frame["message"]["message_id"], "lease": frame["lease"]}), "a")
            .await;
    }
    let measured = Measured { done: times.len() as u64, errors: 0, seconds: 1.0, times };
    let mut figures = json!({"p50_us": micros(measured.within(0.5)), "p99_us": micros(measured.within(0.99))});
    figures["bare_commit_p50_us"] = json!(bare_commit_p50_us(&stage.hall.folder()));
    say("mail_to_socket", figures);
}

/// One commit of the bare writer on the hall's own disk, in the same minute.
fn bare_commit_p50_us(folder: &Path) -> Option<f64> {
    let baseline = std::env::var("BASELINE").ok()?;
    let file = folder.join("bare.db");
    let output = Command::new(baseline).args(["sqlite-gc", "1500", "FULL", "512", "1"]).arg(file).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split('\t').find_map(|field| field.strip_prefix("p50=")?.strip_suffix("us")?.parse().ok())
}

/// Waits until the process has nothing to do any more: of very many agents that came at once, all count as idle at one
/// moment and as offline at another, which is work that no send is to blame for.
async fn at_rest(process: u32) -> Usage {
    let patience = Instant::now() + Duration::from_secs(180);
    let mut quiet = 0;
    let mut usage = Usage::of(process);
    while quiet < 20 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = Usage::of(process);
        quiet = if now.cpu - usage.cpu < Duration::from_millis(100) { quiet + 1 } else { 0 };
        usage = now;
    }
    usage
}

/// Ten messages in each of so many mailboxes: what that costs the process, a look into one, and one more send.
async fn many_mailboxes(setup: Setup, mailboxes: usize) {
    let stage = Stage::set(setup).await;
    let tokens = stage.agents("box", mailboxes).await;
    let senders = stage.agents("sender", 16).await;
    let lists = mailboxes * 10 / 100;
    let workers = senders.iter().enumerate().map(|(worker, token)| {
        let (address, token) = (stage.address, token.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            for list in (worker..lists).step_by(16) {
                let messages: Vec<Value> = (0..100)
                    .map(|at| {
                        let number = (list * 100 + at) % mailboxes;
                        json!({"to": format!("box-{number}"), "message": {"text": "x".repeat(BODY)}})
                    })
                    .collect();
                let body = Value::from(messages).to_string();
                let (status, answer) = connection.ask("POST", "/api/v1/messages", &token, body).await;
                assert_eq!(status, 200, "{answer:?}");
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let resident_mb = at_rest(stage.process).await.resident_mb;

    let mut connection = Connection::open(stage.address).await;
    let mut looks = Vec::new();
    for look in 0..500_usize {
        let number = look * 7_919 % mailboxes;
        let began = Instant::now();
        let (status, answer) =
            connection.ask("POST", "/tools/check_inbox", &tokens[number], r#"{"limit":10}"#.as_bytes()).await;
        looks.push(began.elapsed());
        assert_eq!(status, 200, "{answer:?}");
    }
    let looks = Measured { done: 500, errors: 0, seconds: 1.0, times: looks };

    let before = Usage::of(stage.process);
    let sends = load::press(stage.address, 16, Duration::from_secs(5), move |worker: usize, number: u64| {
        let to = format!("box-{}", (worker as u64 * 15_485_863 + number * 104_729) % mailboxes as u64);
        let body = message(&to, &format!("m-{worker}-{number}"));
        ("POST", "/api/v1/messages".to_owned(), senders[worker].clone(), body.into())
    })
    .await;
    let after = Usage::of(stage.process);
    say(
        &format!("mail_mailboxes/{mailboxes}"),
        json!({
            "resident_mb": resident_mb,
            "check_inbox_p50_us": micros(looks.within(0.5)), "check_inbox_p99_us": micros(looks.within(0.99)),
            "send_per_s": (sends.done as f64 / sends.seconds).round(),
            "send_cpu_us": micros((after.cpu - before.cpu) / u32::try_from(sends.done.max(1)).unwrap()),
            "errors": sends.errors,
        }),
    );
}

const SOCKETS: usize = 5_000;
const MESSAGES_PER_S: u64 = 1_000;
/// A minute of them.
const TOTAL: u64 = 60 * MESSAGES_PER_S;

/// 1,000 messages a second among 5,000 live sockets for a minute.
async fn many_sockets(setup: Setup) {
    let stage = Stage::set(setup).await;
    let empty = Usage::of(stage.process).resident_mb;
    let tokens = stage.agents("live", SOCKETS).await;
    let registered = Usage::of(stage.process).resident_mb;
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(2 * usize::try_from(TOTAL).unwrap());
    let mut sockets = Vec::new();
    for (number, token) in tokens.iter().enumerate() {
        let agent = format!("live-{number}");
        let mut socket = Socket::with_token(&stage.hall.url(), &agent, token).await.unwrap();
        let arrived = arrived.clone();
        sockets.push(tokio::spawn(async move {
            while let Ok(frame) = socket.try_next(Duration::from_secs(600)).await {
                let Some(frame) = frame.filter(|frame| frame["type"] == "message.new") else { continue };
                let at = Instant::now();
                let ack = json!({"type": "ack", "message_id": frame["message"]["message_id"], "lease": frame["lease"]});
                let number = frame["message"]["message"]["n"].as_u64().unwrap();
                if socket.try_send(&ack).await.is_err() || arrived.try_send((number, at)).is_err() {
                    return;
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = Usage::of(stage.process);

    let began = Instant::now();
    let sending = (0..16_u64).map(|worker| {
        let (address, token) = (stage.address, tokens[usize::try_from(worker).unwrap()].clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            let mut sent = Vec::new();
            for number in (worker..TOTAL).step_by(16) {
                let due = Duration::from_micros(number * 1_000_000 / MESSAGES_PER_S);
                tokio::time::sleep_until((began + due).into()).await;
                let to = (number * 104_729 + worker) % SOCKETS as u64;
                let body = format!(r#"{{"to":"live-{to}","message":{{"n":{number}}}}}"#);
                sent.push((number, Instant::now()));
                let (status, answer) = connection.ask("POST", "/api/v1/messages", &token, body).await;
                assert_eq!(status, 200, "{answer:?}");
            }
            sent
        })
    });
    let mut sent = HashMap::new();
    for worker in sending.collect::<Vec<_>>() {
        sent.extend(worker.await.unwrap());
    }
    let mut times = HashMap::new();
    let patience = Instant::now() + Duration::from_secs(30);
    while times.len() < sent.len() && Instant::now() < patience {
        let Ok(Some((number, at))) = tokio::time::timeout(Duration::from_secs(1), arrivals.recv()).await else {
            continue;
        };
        times.entry(number).or_insert(at - sent[&number]);
    }
    let busy = Usage::of(stage.process);
    let (done, lost) = (times.len() as u64, sent.len() - times.len());
    let measured = Measured { done, errors: 0, seconds: 60.0, times: times.into_values().collect() };
    for socket in sockets {
        socket.abort();
    }
    say(
        "mail_sockets",
        json!({
            "sent": sent.len(), "lost": lost,
            "p50_us": micros(measured.within(0.5)), "p99_us": micros(measured.within(0.99)),
            "cpu_us": micros((busy.cpu - idle.cpu) / u32::try_from(done.max(1)).unwrap()),
            "resident_empty_mb": empty, "resident_idle_mb": idle.resident_mb, "resident_busy_mb": busy.resident_mb,
            "kb_per_socket": (idle.resident_mb - registered) * 1024.0 / SOCKETS as f64,
        }),
    );
}
