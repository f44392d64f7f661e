//! Fault runs: senders and receivers go on while everything under them is killed, stopped and cut off in turn.
//!
//! [`traffic`] is who sends and receives, [`record`] what each of them saw, kept outside the hall, [`faults`] what is
//! done to the hall, and [`checker`] judges the record alone. A run is decided by its seed as far as clocks allow; the
//! seed is printed, record and verdict are written to `target/faultruns/`.

pub mod checker;
pub mod faults;
pub mod record;
pub mod traffic;

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;

use self::{faults::Plan, record::Record, traffic::Traffic};
use crate::{Hall, Shape};

/// Numbers that a seed decides.
pub struct Dice(u64);

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `bound`, without it.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// The same run again: `FAULTRUN_SEED`. How many times each fault is done: `FAULTRUN_ROUNDS`, 1 unless it is set.
fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Panics when the hall broke a promise.
pub async fn run(hall: &Hall) {
    let seed = from_environment("FAULTRUN_SEED").unwrap_or_else(|| {
        u64::from(std::process::id()) << 16 | u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_millis())
    });
    let rounds = from_environment("FAULTRUN_ROUNDS").unwrap_or(1);
    let shape = match hall.shape() {
        Shape::Embedded => "embedded",
        Shape::Distributed => "distributed",
    };
    println!("fault run {shape}: FAULTRUN_SEED={seed} FAULTRUN_ROUNDS={rounds}");

    let record = Record::default();
    let traffic = Traffic::begin(hall, &record, seed).await;
    let began = std::time::Instant::now();
    let done = faults::inflict(hall, Plan::new(hall.shape(), rounds), &mut Dice::seeded(seed), &record).await;
    let seconds = began.elapsed().as_secs();
    traffic.end(hall, &record).await;

    let entries = record.entries();
    let verdict = checker::judge(&entries);
    let summary = json!({
        "shape": shape, "seed": seed, "rounds": rounds, "seconds_of_faults": seconds, "faults": done,
        "counts": checker::counts(&entries), "broken": verdict,
    });
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/faultruns");
    fs::create_dir_all(&folder).unwrap();
    let lines: String = entries.iter().map(|entry| format!("{}\n", json!(entry))).collect();
    fs::write(folder.join(format!("{shape}-{seed}.jsonl")), lines).unwrap();
    fs::write(folder.join(format!("{shape}-{seed}.json")), format!("{summary:#}\n")).unwrap();
    println!("{summary:#}");
    assert!(
        verdict.is_empty(),
        "the hall broke a promise: {verdict:#?}\nagain: FAULTRUN_SEED={seed} FAULTRUN_ROUNDS={rounds}"
    );
}
