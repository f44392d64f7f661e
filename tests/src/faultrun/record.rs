//! What senders and receivers saw, in the order they saw it; kept outside the hall, so that it survives all that
//! happens to it.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use serde::Serialize;

/// One thing that someone saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "saw", rename_all = "snake_case")]
pub enum Saw {
    /// A sender begins to send, perhaps many times over, the `n`th message of its line. One that is doomed its
    /// receivers refuse until it is a dead letter.
    Sending { key: String, sender: String, to: Vec<String>, priority: String, n: u64, doomed: bool },
    /// The hall acknowledged it.
    Accepted { key: String, message_id: String },
    /// A receiver acts upon it.
    Effect { by: String, key: String, message_id: String, attempt: u64 },
    /// A receiver gave it back.
    Refused { by: String, message_id: String },
    /// The hall took the receiver's acknowledgement.
    Settled { by: String, message_id: String },
    /// Found among the dead letters at the end.
    Dead { mailbox: String, message_id: String, attempts: u64, reason: String },
    /// What was done to the hall.
    Fault { part: String, kind: String },
    /// What no one expected, such as a refusal that cannot be.
    Odd { what: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub at_ms: u64,
    #[serde(flatten)]
    pub saw: Saw,
}

/// Shared by everyone in a run.
#[derive(Clone)]
pub struct Record {
    began: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Default for Record {
    fn default() -> Self {
        Self { began: Instant::now(), entries: Arc::default() }
    }
}

impl Record {
    pub fn note(&self, saw: Saw) {
        let mut entries = self.entries.lock().unwrap();
        let at_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap();
        entries.push(Entry { at_ms, saw });
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }
}
