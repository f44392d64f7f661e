//! Judges a record: every acknowledged message arrives where it was sent and nowhere else, none has two effects by its
//! key, order holds, what is settled does not come again. What was refused each time becomes a dead letter that says
//! why, and nothing else does before its time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};

use super::record::{Entry, Saw};

/// What receivers say of a message that is doomed.
pub const REFUSAL: &str = "doomed to be refused";
/// As the contract has it.
pub const ATTEMPTS: u64 = 5;

struct Sent<'e> {
    sender: &'e str,
    to: &'e [String],
    priority: &'e str,
    n: u64,
    doomed: bool,
}

/// One sentence for each promise that was broken; at most 20 of each sort.
pub fn judge(entries: &[Entry]) -> Vec<String> {
    let mut sent: HashMap<&str, Sent<'_>> = HashMap::new();
    let mut accepted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut effects: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    let mut settled: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut last_of_line: HashMap<(&str, &str, &str), u64> = HashMap::new();
    let mut dead: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let (mut twice, mut overtaken, mut again, mut odd) = (vec![], vec![], vec![], vec![]);

    for Entry { at_ms, saw } in entries {
        match saw {
            Saw::Sending { key, sender, to, priority, n, doomed } => {
                sent.insert(key, Sent { sender, to, priority, n: *n, doomed: *doomed });
            }
            Saw::Accepted { key, message_id } => {
                accepted.entry(key).or_default().insert(message_id);
            }
            Saw::Effect { by, key, message_id, .. } => {
                let Some(Sent { sender, to, priority, n, .. }) = sent.get(&**key) else {
                    odd.push(format!("at {at_ms} ms {by} got {key}, which nobody sent"));
                    continue;
                };
                if !to.contains(by) {
                    odd.push(format!("at {at_ms} ms {by} got {key}, which was sent to others"));
                }
                if settled.contains(&(&**by, &**message_id)) {
                    again.push(format!("at {at_ms} ms {key} came to {by} again after it was settled"));
                }
                let first = effects.entry((by, key)).or_default().insert(message_id);
                let last = last_of_line.entry((sender, by, priority)).or_default();
                if first && n < last {
                    overtaken.push(format!("at {at_ms} ms {key} came to {by} after number {last} of its line"));
                }
                *last = (*last).max(*n);
            }
            Saw::Settled { by, message_id } => {
                settled.insert((by, message_id));
            }
            Saw::Dead { mailbox, message_id, attempts, reason } => {
                dead.insert((mailbox, message_id), reason);
                if reason.trim().is_empty() {
                    odd.push(format!("the dead letter {message_id} of {mailbox} has no reason"));
                }
                // Whatever was sent in a run waits for ever, in mailboxes that are never full.
                if *attempts < ATTEMPTS {
                    odd.push(format!("{message_id} of {mailbox} died after {attempts} attempts: {reason}"));
                }
                if settled.contains(&(&**mailbox, &**message_id)) {
                    again.push(format!("{message_id} of {mailbox} is a dead letter though it was settled"));
                }
            }
            Saw::Odd { what } => odd.push(format!("at {at_ms} ms {what}")),
            Saw::Refused { .. } | Saw::Fault { .. } => {}
        }
    }
    for (key, ids) in &accepted {
        if ids.len() > 1 {
            twice.push(format!("{key} was acknowledged as {} messages", ids.len()));
        }
        // Its last attempt may have ended with a lease, when everything stood still.
        let of_something_else = |reason: &&str| !reason.contains(REFUSAL) && !reason.contains("lease");
        for receiver in sent.get(key).filter(|sent| sent.doomed).map_or(&[][..], |sent| sent.to) {
            let reason = ids.iter().find_map(|id| dead.get(&(&**receiver, id)).copied());
            if let Some(reason) = reason.filter(of_something_else) {
                odd.push(format!("{key} was refused by {receiver} each time and died of something else: {reason}"));
            }
        }
    }
    for ((by, key), ids) in &effects {
        if ids.len() > 1 {
            twice.push(format!("{key} came to {by} as {} messages", ids.len()));
        }
    }
    let named = |sort: &str, found: Vec<String>| -> Vec<String> {
        found.into_iter().take(20).map(|what| format!("{sort}: {what}")).collect()
    };
    [
        named("lost", lost(entries)),
        named("two effects", twice),
        named("out of order", overtaken),
        named("settled and again", again),
        named("odd", odd),
    ]
    .concat()
}

/// What was acknowledged and neither came to everyone it was sent to nor is a dead letter; of what was refused each
/// time, what is no dead letter.
pub fn lost(entries: &[Entry]) -> Vec<String> {
    let mut came: HashSet<(&str, &str)> = HashSet::new();
    let mut dead: HashSet<(&str, &str)> = HashSet::new();
    let mut sent: HashMap<&str, (&[String], bool)> = HashMap::new();
    let mut accepted: BTreeMap<&str, &str> = BTreeMap::new();
    for Entry { saw, .. } in entries {
        match saw {
            Saw::Sending { key, to, doomed, .. } => drop(sent.insert(key, (to, *doomed))),
            Saw::Accepted { key, message_id } => drop(accepted.insert(key, message_id)),
            Saw::Effect { by, key, .. } => drop(came.insert((by, key))),
            Saw::Dead { mailbox, message_id, .. } => drop(dead.insert((mailbox, message_id))),
            _ => {}
        }
    }
    let mut lost = Vec::new();
    for (key, message_id) in accepted {
        let Some((to, doomed)) = sent.get(key) else { continue };
        for receiver in to.iter().filter(|receiver| !dead.contains(&(receiver.as_str(), message_id))) {
            if *doomed {
                lost.push(format!("{key} was refused by {receiver} each time and is no dead letter"));
            } else if !came.contains(&(receiver, key)) {
                lost.push(format!("{key} was acknowledged and never came to {receiver}"));
            }
        }
    }
    lost
}

/// What happened, in numbers.
pub fn counts(entries: &[Entry]) -> Value {
    let count = |fits: fn(&Saw) -> bool| entries.iter().filter(|entry| fits(&entry.saw)).count();
    json!({
        "sent": count(|saw| matches!(saw, Saw::Sending { .. })),
        "acknowledged": count(|saw| matches!(saw, Saw::Accepted { .. })),
        "effects": count(|saw| matches!(saw, Saw::Effect { .. })),
        "redeliveries": count(|saw| matches!(saw, Saw::Effect { attempt, .. } if *attempt > 1)),
        "refused": count(|saw| matches!(saw, Saw::Refused { .. })),
        "settled": count(|saw| matches!(saw, Saw::Settled { .. })),
        "dead_letters": count(|saw| matches!(saw, Saw::Dead { .. })),
        "faults": count(|saw| matches!(saw, Saw::Fault { .. })),
    })
}
