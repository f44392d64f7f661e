//! Judges a record: every acknowledged message arrives, none has two effects by its key, order holds, what is settled
//! does not come again, dead letters carry their reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::record::{Entry, Saw};

struct Sent<'e> {
    sender: &'e str,
    to: &'e [String],
    priority: &'e str,
    n: u64,
}

/// One sentence for each promise that was broken; at most 20 of each sort.
pub fn judge(entries: &[Entry]) -> Vec<String> {
    let mut sent: HashMap<&str, Sent<'_>> = HashMap::new();
    let mut accepted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut effects: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    let mut settled: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut last_of_line: HashMap<(&str, &str, &str), u64> = HashMap::new();
    let mut dead: BTreeSet<(&str, &str)> = BTreeSet::new();
    let (mut lost, mut twice, mut overtaken, mut again, mut odd) = (vec![], vec![], vec![], vec![], vec![]);

    for Entry { at_ms, saw } in entries {
        match saw {
            Saw::Sending { key, sender, to, priority, n } => {
                sent.insert(key, Sent { sender, to, priority, n: *n });
            }
            Saw::Accepted { key, message_id } => {
                accepted.entry(key).or_default().insert(message_id);
            }
            Saw::Effect { by, key, message_id, .. } => {
                let Some(Sent { sender, priority, n, .. }) = sent.get(&**key) else {
                    odd.push(format!("at {at_ms} ms {by} got {key}, which nobody sent"));
                    continue;
                };
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
            Saw::Dead { mailbox, message_id, reason } => {
                dead.insert((mailbox, message_id));
                if reason.trim().is_empty() {
                    odd.push(format!("the dead letter {message_id} of {mailbox} has no reason"));
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
        let Some(Sent { to, .. }) = sent.get(key) else { continue };
        for receiver in *to {
            let arrived = effects.contains_key(&(&**receiver, key));
            if !arrived && !ids.iter().any(|id| dead.contains(&(&**receiver, id))) {
                lost.push(format!("{key} was acknowledged and never came to {receiver}"));
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
        named("lost", lost),
        named("two effects", twice),
        named("out of order", overtaken),
        named("settled and again", again),
        named("odd", odd),
    ]
    .concat()
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
