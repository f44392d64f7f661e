//! Who sends and who receives in a fault run.
//!
//! A sender sends one message after another and repeats each, under its key, until the hall has acknowledged it. A
//! receiver acts upon what it takes in the order it was handed out and acknowledges; now and then it refuses one, or
//! forgets what it took, as one that dies does. Half of them poll, half hold a live socket.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use super::{
    Dice,
    record::{Record, Saw},
};
use crate::{Caller, Hall, socket::Socket};

const SENDERS: u64 = 6;
const RECEIVERS: u64 = 4;
/// So short that a forgotten message comes again within a run.
const LEASE_MS: u64 = 4_000;
/// How long everything acknowledged may take to arrive when all is well again.
const DRAIN: Duration = Duration::from_secs(90);

pub struct Traffic {
    senders: JoinSet<()>,
    receivers: JoinSet<()>,
    sending: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    /// Acknowledged and not yet acted upon by everyone it is for; an effect may come before its acknowledgement.
    outstanding: Arc<AtomicI64>,
}

fn receiver(number: u64) -> String {
    format!("receiver-{number}")
}

impl Traffic {
    pub async fn begin(hall: &Hall, record: &Record, seed: u64) -> Self {
        for number in 0..RECEIVERS {
            let body = json!({"agent_id": receiver(number), "name": "r", "capabilities": ["reads"]});
            hall.caller().post("/api/v1/agents/register", body).await.ok();
        }
        let mut traffic = Self {
            senders: JoinSet::new(),
            receivers: JoinSet::new(),
            sending: Arc::new(AtomicBool::new(true)),
            receiving: Arc::new(AtomicBool::new(true)),
            outstanding: Arc::default(),
        };
        for number in 0..RECEIVERS {
            let hand = Hand {
                name: receiver(number),
                caller: hall.agent(&receiver(number)),
                record: record.clone(),
                receiving: traffic.receiving.clone(),
                dice: Dice::seeded(seed ^ (0xD1CE << 8) ^ number),
                acted: HashSet::new(),
                outstanding: traffic.outstanding.clone(),
            };
            if number % 2 == 0 {
                traffic.receivers.spawn(hand.poll());
            } else {
                traffic.receivers.spawn(hand.hold_a_socket(hall.url()));
            }
        }
        for number in 0..SENDERS {
            let name = format!("sender-{number}");
            hall.caller().register(&name).await;
            let sender = Sender {
                caller: hall.agent(&name),
                name,
                record: record.clone(),
                sending: traffic.sending.clone(),
                dice: Dice::seeded(seed ^ (0x5E4D << 8) ^ number),
                outstanding: traffic.outstanding.clone(),
            };
            traffic.senders.spawn(sender.run());
        }
        traffic
    }

    /// Stops the senders, lets everything arrive, stops the receivers, and looks for dead letters.
    pub async fn end(mut self, hall: &Hall, record: &Record) {
        self.sending.store(false, Ordering::Relaxed);
        while let Some(ended) = self.senders.join_next().await {
            ended.unwrap();
        }
        let patience = Instant::now() + DRAIN;
        while self.outstanding.load(Ordering::Relaxed) > 0 && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.receiving.store(false, Ordering::Relaxed);
        while let Some(ended) = self.receivers.join_next().await {
            ended.unwrap();
        }
        for number in 0..RECEIVERS {
            let name = receiver(number);
            let page = hall.agent(&name).get(&format!("/api/v1/dlq?agent_id={name}&limit=1000")).await.ok();
            for letter in page["dead_letters"].as_array().unwrap() {
                record.note(Saw::Dead {
                    mailbox: name.clone(),
                    message_id: letter["message_id"].as_str().unwrap().to_owned(),
                    reason: letter["reason"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
    }
}

struct Sender {
    name: String,
    caller: Caller,
    record: Record,
    sending: Arc<AtomicBool>,
    dice: Dice,
    outstanding: Arc<AtomicI64>,
}

impl Sender {
    async fn run(mut self) {
        let mut n = 0;
        while self.sending.load(Ordering::Relaxed) {
            n += 1;
            let key = format!("{}-{n}", self.name);
            let priority =
                ["normal", "normal", "normal", "high", "low", "critical"][usize::try_from(self.dice.below(6)).unwrap()];
            // Now and then to all of them at once.
            let (to, receivers) = if self.dice.below(20) == 0 {
                ("capability:reads".to_owned(), (0..RECEIVERS).map(receiver).collect())
            } else {
                let one = receiver(self.dice.below(RECEIVERS));
                (one.clone(), vec![one])
            };
            self.record.note(Saw::Sending {
                key: key.clone(),
                sender: self.name.clone(),
                to: receivers.clone(),
                priority: priority.to_owned(),
                n,
            });
            let body = json!({
                "to": to, "priority": priority, "idempotency_key": key,
                "message": {"key": key, "filling": "x".repeat(usize::try_from(self.dice.below(400)).unwrap())},
            });
            let message_id = self.until_acknowledged(&body).await;
            self.outstanding.fetch_add(i64::try_from(receivers.len()).unwrap(), Ordering::Relaxed);
            self.record.note(Saw::Accepted { key, message_id });
            tokio::time::sleep(self.dice.millis(1, 30)).await;
        }
    }

    async fn until_acknowledged(&mut self, body: &Value) -> String {
        loop {
            let sent = self.caller.request(Method::POST, "/api/v1/messages").json(body);
            if let Ok(answer) = sent.timeout(Duration::from_secs(10)).send().await {
                let status = answer.status().as_u16();
                let answer: Value = answer.json().await.unwrap_or_default();
                match (status, answer["message_id"].as_str()) {
                    (200, Some(id)) => return id.to_owned(),
                    // Unavailable, a gateway that died, too slow: the same again.
                    (500.., _) | (429, _) => {}
                    _ => self.record.note(Saw::Odd { what: format!("{} was refused: {status} {answer}", self.name) }),
                }
            }
            tokio::time::sleep(self.dice.millis(20, 200)).await;
        }
    }
}

struct Hand {
    name: String,
    caller: Caller,
    record: Record,
    receiving: Arc<AtomicBool>,
    dice: Dice,
    /// What this receiver has acted upon, by key: it does not act twice, as the hall's documents advise.
    acted: HashSet<String>,
    outstanding: Arc<AtomicI64>,
}

impl Hand {
    async fn poll(mut self) {
        while self.receiving.load(Ordering::Relaxed) {
            let path = format!(
                "/api/v1/messages?agent_id={}&pending=true&limit=10&wait_ms=500&lease_ms={LEASE_MS}",
                self.name
            );
            let asked = self.caller.request(Method::GET, &path).timeout(Duration::from_secs(10)).send().await;
            let taken: Value = match asked {
                Ok(answer) if answer.status() == 200 => answer.json().await.unwrap_or_default(),
                _ => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // It died with what it held.
            if self.dice.below(60) == 0 {
                continue;
            }
            let mut passed_over = HashSet::new();
            for mail in taken["messages"].as_array().into_iter().flatten() {
                let line = (mail["from"].to_string(), mail["priority"].to_string());
                if passed_over.contains(&line) {
                    continue;
                }
                if self.dice.below(40) == 0 {
                    // What it holds of this line beyond comes again, after the refused one.
                    passed_over.insert(line);
                    self.settle(mail, "nack", json!({"lease": mail["lease"], "delay_ms": 50})).await;
                    continue;
                }
                self.act(mail);
                self.settle(mail, "ack", json!({"lease": mail["lease"]})).await;
            }
        }
    }

    fn act(&mut self, mail: &Value) {
        let key = mail["message"]["key"].as_str().unwrap_or_default().to_owned();
        if self.acted.insert(key.clone()) {
            self.outstanding.fetch_sub(1, Ordering::Relaxed);
        }
        self.record.note(Saw::Effect {
            by: self.name.clone(),
            key,
            message_id: mail["message_id"].as_str().unwrap_or_default().to_owned(),
            attempt: mail["attempt"].as_u64().unwrap_or(0),
        });
    }

    /// Until the hall says yes, or that someone else may have it by now.
    async fn settle(&mut self, mail: &Value, act: &str, body: Value) {
        let message_id = mail["message_id"].as_str().unwrap_or_default().to_owned();
        let path = format!("/api/v1/messages/{message_id}/{act}");
        loop {
            let asked = self.caller.request(Method::POST, &path).json(&body).timeout(Duration::from_secs(10));
            match asked.send().await.map(|answer| answer.status().as_u16()) {
                Ok(200) if act == "ack" => {
                    return self.record.note(Saw::Settled { by: self.name.clone(), message_id });
                }
                Ok(200) => return self.record.note(Saw::Refused { by: self.name.clone(), message_id }),
                // Its lease ran out meanwhile.
                Ok(409) => return,
                Ok(500..) | Ok(429) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(status) => {
                    return self.record.note(Saw::Odd { what: format!("{act} of {message_id} gave {status}") });
                }
            }
        }
    }

    async fn hold_a_socket(mut self, url: String) {
        while self.receiving.load(Ordering::Relaxed) {
            let Ok(mut socket) = Socket::try_open(&url, &self.name).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // What the hall has not taken the acknowledgement of, by message.
            let mut unsettled: HashMap<String, Value> = HashMap::new();
            while self.receiving.load(Ordering::Relaxed) {
                match socket.try_next(Duration::from_secs(1)).await {
                    Ok(None) => {}
                    Ok(Some(frame)) if frame["type"] == "message.new" => {
                        // It leaves with what it held.
                        if self.dice.below(200) == 0 {
                            break;
                        }
                        let mut mail = frame["message"].clone();
                        mail["attempt"] = frame["attempt"].clone();
                        self.act(&mail);
                        let ack = json!({"type": "ack", "message_id": mail["message_id"], "lease": frame["lease"],
                            "ref": mail["message_id"]});
                        unsettled.insert(mail["message_id"].as_str().unwrap_or_default().to_owned(), ack.clone());
                        if socket.try_send(&ack).await.is_err() {
                            break;
                        }
                    }
                    // A part of the hall is away: the same again, until it says yes, or that the lease is stale.
                    Ok(Some(frame)) if frame["type"] == "error" && frame["error"] != "Conflict" => {
                        let Some(ack) = frame["ref"].as_str().and_then(|id| unsettled.get(id)) else { continue };
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        if socket.try_send(ack).await.is_err() {
                            break;
                        }
                    }
                    Ok(Some(frame)) if frame["type"] == "ok" => {
                        let message_id = frame["ref"].as_str().unwrap_or_default().to_owned();
                        unsettled.remove(&message_id);
                        self.record.note(Saw::Settled { by: self.name.clone(), message_id });
                    }
                    Ok(Some(_)) => {}
                    Err(_) => break,
                }
            }
        }
    }
}
