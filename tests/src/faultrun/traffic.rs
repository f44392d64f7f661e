//! Who sends and who receives in a fault run.
//!
//! A sender sends one message after another and repeats each, under its key, until the hall has acknowledged it. A
//! receiver acts upon what it takes in the order it was handed out and acknowledges; now and then it refuses one, or
//! forgets what it took, as one that dies does. Half of them poll, half hold a live socket.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Error;

use super::{
    Dice,
    checker::{self, ATTEMPTS, REFUSAL},
    record::{Entry, Record, Saw},
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
        };
        for number in 0..RECEIVERS {
            let hand = Hand {
                name: receiver(number),
                caller: hall.agent(&receiver(number)),
                record: record.clone(),
                receiving: traffic.receiving.clone(),
                dice: Dice::seeded(seed ^ (0xD1CE << 8) ^ number),
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
            };
            traffic.senders.spawn(sender.run());
        }
        traffic
    }

    /// Stops the senders, lets everything arrive, stops the receivers, and notes the dead letters.
    pub async fn end(mut self, hall: &Hall, record: &Record) {
        self.sending.store(false, Ordering::Relaxed);
        let all_is_well = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = self.senders.join_next().await {
                ended.unwrap();
            }
            loop {
                let letters = dead_letters(hall).await.into_iter().map(|saw| Entry { at_ms: 0, saw });
                let seen: Vec<Entry> = record.entries().into_iter().chain(letters).collect();
                if checker::lost(&seen).is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            self.receiving.store(false, Ordering::Relaxed);
            while let Some(ended) = self.receivers.join_next().await {
                ended.unwrap();
            }
        });
        if all_is_well.await.is_err() {
            record.note(Saw::Odd {
                what: format!("not all was sent, received and settled {DRAIN:?} after the last fault"),
            });
        }
        for letter in dead_letters(hall).await {
            record.note(letter);
        }
    }
}

async fn dead_letters(hall: &Hall) -> Vec<Saw> {
    let mut letters = Vec::new();
    for number in 0..RECEIVERS {
        let name = receiver(number);
        let page = hall.agent(&name).get(&format!("/api/v1/dlq?agent_id={name}&limit=1000")).await.ok();
        assert_eq!(page["next_cursor"], Value::Null, "more dead letters than a page holds");
        letters.extend(page["dead_letters"].as_array().unwrap().iter().map(|letter| Saw::Dead {
            mailbox: name.clone(),
            message_id: letter["message_id"].as_str().unwrap().to_owned(),
            attempts: letter["attempts"].as_u64().unwrap(),
            reason: letter["reason"].as_str().unwrap_or_default().to_owned(),
        }));
    }
    letters
}

struct Sender {
    name: String,
    caller: Caller,
    record: Record,
    sending: Arc<AtomicBool>,
    dice: Dice,
}

impl Sender {
    async fn run(mut self) {
        let mut n = 0;
        while self.sending.load(Ordering::Relaxed) {
            n += 1;
            let key = format!("{}-{n}", self.name);
            let priority =
                ["normal", "normal", "normal", "high", "low", "critical"][usize::try_from(self.dice.below(6)).unwrap()];
            // Now and then to all of them at once; now and then one that its receiver will not have.
            let (to, receivers, doomed) = match self.dice.below(40) {
                0 | 1 => ("capability:reads".to_owned(), (0..RECEIVERS).map(receiver).collect(), false),
                lot => {
                    let one = receiver(self.dice.below(RECEIVERS));
                    (one.clone(), vec![one], lot == 2)
                }
            };
            self.record.note(Saw::Sending {
                key: key.clone(),
                sender: self.name.clone(),
                to: receivers,
                priority: priority.to_owned(),
                n,
                doomed,
            });
            let body = json!({
                "to": to, "priority": priority, "idempotency_key": key,
                "message": {
                    "key": key, "n": n, "doomed": doomed,
                    "filling": "x".repeat(usize::try_from(self.dice.below(400)).unwrap()),
                },
            });
            let Some(message_id) = self.until_acknowledged(&body).await else { continue };
            self.record.note(Saw::Accepted { key: key.clone(), message_id });
            // A client that never heard the answer.
            if self.dice.below(20) == 0
                && let Some(message_id) = self.until_acknowledged(&body).await
            {
                self.record.note(Saw::Accepted { key, message_id });
            }
            tokio::time::sleep(self.dice.millis(1, 30)).await;
        }
    }

    /// `None`: it was refused, which nothing in a run is a reason for.
    async fn until_acknowledged(&mut self, body: &Value) -> Option<String> {
        loop {
            let sent = self.caller.request(Method::POST, "/api/v1/messages").json(body);
            if let Ok(answer) = sent.timeout(Duration::from_secs(10)).send().await {
                let status = answer.status().as_u16();
                let answer: Value = answer.json().await.unwrap_or_default();
                match (status, answer["message_id"].as_str()) {
                    (200, Some(id)) => return Some(id.to_owned()),
                    // Unavailable, a gateway that died, too slow: the same again.
                    (500.., _) | (429, _) => {}
                    _ => {
                        self.record.note(Saw::Odd { what: format!("{} was refused: {status} {answer}", self.name) });
                        return None;
                    }
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
                let line = line(mail);
                if passed_over.contains(&line) {
                    continue;
                }
                if let Some(reason) = self.refuses(mail, &mail["attempt"]) {
                    // What it holds of this line beyond comes again, after the refused one.
                    passed_over.insert(line);
                    self.settle(mail, "nack", json!({"lease": mail["lease"], "delay_ms": 50, "reason": reason})).await;
                    continue;
                }
                self.act(mail, &mail["attempt"]);
                self.settle(mail, "ack", json!({"lease": mail["lease"]})).await;
            }
        }
    }

    /// What is doomed each time; of the rest now and then one, which does not die of it.
    fn refuses(&mut self, mail: &Value, attempt: &Value) -> Option<&'static str> {
        if mail["message"]["doomed"] == true {
            return Some(REFUSAL);
        }
        (self.dice.below(40) == 0 && attempt.as_u64()? < 3).then_some("not now")
    }

    fn act(&mut self, mail: &Value, attempt: &Value) {
        self.record.note(Saw::Effect {
            by: self.name.clone(),
            key: mail["message"]["key"].as_str().unwrap_or_default().to_owned(),
            message_id: mail["message_id"].as_str().unwrap_or_default().to_owned(),
            attempt: attempt.as_u64().unwrap_or(0),
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
            let Ok(socket) = Socket::try_open(&url, &self.name).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Whatever ends it, the next one goes on.
            let _ = Live { hand: &mut self, socket, said: HashMap::new(), put_off: HashMap::new() }.run().await;
        }
    }
}

/// Of one sender and priority, which order is held within.
fn line(mail: &Value) -> (String, String) {
    (mail["from"].to_string(), mail["priority"].to_string())
}

/// A hand's socket while it is up.
struct Live<'h> {
    hand: &'h mut Hand,
    socket: Socket,
    /// The settlements that the hall has not answered, by their reference.
    said: HashMap<String, Value>,
    /// The number of each line's refused message, until it comes again; what was pushed behind it comes again too.
    put_off: HashMap<(String, String), u64>,
}

impl Live<'_> {
    /// Until it leaves, with what it holds.
    async fn run(mut self) -> Result<(), Error> {
        while self.hand.receiving.load(Ordering::Relaxed) {
            let Some(frame) = self.socket.try_next(Duration::from_secs(1)).await? else { continue };
            match frame["type"].as_str() {
                Some("message.new") if self.hand.dice.below(200) == 0 => return Ok(()),
                Some("message.new") => self.take(&frame).await?,
                Some("ok") => self.answered(&frame),
                Some("error") => self.failed(&frame).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn take(&mut self, frame: &Value) -> Result<(), Error> {
        let mail = &frame["message"];
        let (line, n) = (line(mail), mail["message"]["n"].as_u64().unwrap_or_default());
        match self.put_off.get(&line) {
            Some(refused) if n > *refused => return Ok(()),
            Some(refused) if n == *refused => drop(self.put_off.remove(&line)),
            // One before it, of which the hall has not taken the settlement either.
            _ => {}
        }
        let mut settling = json!({"message_id": mail["message_id"], "lease": frame["lease"]});
        if let Some(reason) = self.hand.refuses(mail, &frame["attempt"]) {
            // The last time: nothing of the line waits for it any more.
            if frame["attempt"] != ATTEMPTS {
                self.put_off.insert(line, n);
            }
            settling["type"] = "nack".into();
            settling["delay_ms"] = 50.into();
            settling["reason"] = reason.into();
        } else {
            self.hand.act(mail, &frame["attempt"]);
            settling["type"] = "ack".into();
        }
        // A message may come again before its refusal is answered.
        let reference = format!("{}/{}", frame["lease"], settling["type"]);
        settling["ref"] = reference.clone().into();
        self.said.insert(reference, settling.clone());
        self.socket.try_send(&settling).await
    }

    fn answered(&mut self, frame: &Value) {
        let Some(settling) = frame["ref"].as_str().and_then(|reference| self.said.remove(reference)) else { return };
        let (by, message_id) = (self.hand.name.clone(), settling["message_id"].as_str().unwrap().to_owned());
        self.hand.record.note(match settling["type"] == "ack" {
            true => Saw::Settled { by, message_id },
            false => Saw::Refused { by, message_id },
        });
    }

    /// A part of the hall is away: the same again, until it says yes, or that the lease is stale.
    async fn failed(&mut self, frame: &Value) -> Result<(), Error> {
        let Some(reference) = frame["ref"].as_str() else { return Ok(()) };
        if frame["error"] == "Conflict" {
            self.said.remove(reference);
        }
        let Some(settling) = self.said.get(reference) else { return Ok(()) };
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.socket.try_send(settling).await
    }
}
