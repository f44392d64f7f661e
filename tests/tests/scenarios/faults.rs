//! Mail while everything under it is killed, stopped and cut off; and the judge of that, who must not be blind.

use std::{collections::BTreeSet, time::Duration};

use guildhall_tests::{
    Answer, Hall, Setup, eventually,
    faultrun::{
        self,
        checker::{self, REFUSAL},
        record::{Entry, Saw},
    },
    scenarios,
};
use serde_json::json;

scenarios! {
    mail_keeps_its_promises_whatever_dies(Setup::open().database_may_die().wired());
    a_full_disk_is_refused_clearly_loses_nothing_and_is_over_when_there_is_room(Setup::open().small_disk(192));
}

async fn mail_keeps_its_promises_whatever_dies(hall: &Hall) {
    faultrun::run(hall).await;
}

async fn a_full_disk_is_refused_clearly_loses_nothing_and_is_over_when_there_is_room(hall: &Hall) {
    for agent in ["sender", "receiver"] {
        hall.caller().register(agent).await;
    }
    let send = async |n: u64| {
        let body = json!({"to": "receiver", "message": {"n": n, "filling": "x".repeat(20_000)}});
        hall.agent("sender").post("/api/v1/messages", body).await
    };
    let mut acknowledged = BTreeSet::new();
    let mut keep = |n: u64, answer: &Answer| {
        if answer.status == 200 {
            acknowledged.insert(n);
        }
    };
    for n in 0..20 {
        let answer = send(n).await;
        keep(n, &answer);
        answer.ok();
    }

    hall.fill_disk();
    let mut refused = 0;
    for n in 100..160 {
        let answer = send(n).await;
        keep(n, &answer);
        if answer.status == 200 {
            // What an engine had set aside before the disk was full may still be used.
            continue;
        }
        let body = answer.json();
        assert!([503, 504].contains(&answer.status), "{} {body}", answer.status);
        let said = body["message"].as_str().unwrap().to_lowercase();
        assert!(said.contains("database") || said.contains("disk"), "says what is wrong: {body}");
        refused += 1;
    }
    assert!(refused > 0, "the disk was never full");

    hall.free_disk();
    eventually("mail is taken again, without a restart", Duration::from_secs(40), async || {
        (send(1_000).await.status == 200).then_some(())
    })
    .await;
    let mut arrived = BTreeSet::new();
    eventually("all that was acknowledged arrives", Duration::from_secs(30), async || {
        let path = "/api/v1/messages?agent_id=receiver&pending=true&limit=100&ack=auto";
        let taken = hall.agent("receiver").get(path).await;
        let taken = (taken.status == 200).then(|| taken.json())?;
        arrived.extend(taken["messages"].as_array()?.iter().map(|mail| mail["message"]["n"].as_u64().unwrap()));
        acknowledged.is_subset(&arrived).then_some(())
    })
    .await;
}

fn sending(n: u64) -> Saw {
    let to = vec!["r".to_owned()];
    Saw::Sending { key: format!("k{n}"), sender: "s".into(), to, priority: "normal".into(), n, doomed: n == DOOMED }
}

/// The one that its receiver refuses each time.
const DOOMED: u64 = 4;

fn accepted(n: u64) -> Saw {
    Saw::Accepted { key: format!("k{n}"), message_id: format!("m{n}") }
}

fn effect(n: u64, attempt: u64) -> Saw {
    Saw::Effect { by: "r".into(), key: format!("k{n}"), message_id: format!("m{n}"), attempt }
}

fn settled(n: u64) -> Saw {
    Saw::Settled { by: "r".into(), message_id: format!("m{n}") }
}

fn refused(n: u64) -> Saw {
    Saw::Refused { by: "r".into(), message_id: format!("m{n}") }
}

fn dead(n: u64, attempts: u64, reason: &str) -> Saw {
    Saw::Dead { mailbox: "r".into(), message_id: format!("m{n}"), attempts, reason: reason.into() }
}

/// Three messages, sent, redelivered once, settled, and one that was refused until it died: nothing wrong with that.
fn sound() -> Vec<Saw> {
    vec![
        sending(1),
        accepted(1),
        sending(2),
        effect(1, 1),
        accepted(2),
        sending(3),
        effect(1, 2),
        settled(1),
        accepted(3),
        effect(2, 1),
        effect(3, 1),
        settled(2),
        settled(3),
        sending(DOOMED),
        accepted(DOOMED),
        refused(DOOMED),
        dead(DOOMED, 5, REFUSAL),
    ]
}

fn judged(saws: Vec<Saw>) -> Vec<String> {
    let entries: Vec<Entry> = saws.into_iter().zip(0..).map(|(saw, at_ms)| Entry { at_ms, saw }).collect();
    checker::judge(&entries)
}

#[track_caller]
fn caught(saws: Vec<Saw>, sort: &str) {
    let verdict = judged(saws);
    assert_eq!(verdict.len(), 1, "{verdict:?}");
    assert!(verdict[0].starts_with(sort), "{verdict:?}");
}

#[test]
fn the_judge_lets_a_sound_record_pass() {
    assert_eq!(judged(sound()), Vec::<String>::new());
}

#[test]
fn the_judge_sees_a_planted_loss() {
    let without_the_second = sound().into_iter().filter(|saw| *saw != effect(2, 1)).collect();
    caught(without_the_second, "lost");
    let mut died: Vec<Saw> = sound().into_iter().filter(|saw| *saw != effect(2, 1) && *saw != settled(2)).collect();
    died.push(dead(2, 5, "its lease ran out"));
    assert_eq!(judged(died), Vec::<String>::new(), "a dead letter with its reason is no loss");
}

#[test]
fn the_judge_sees_what_came_to_someone_it_was_not_sent_to() {
    let mut astray = sound();
    astray.push(Saw::Effect { by: "eve".into(), key: "k3".into(), message_id: "m3".into(), attempt: 1 });
    caught(astray, "odd");
}

#[test]
fn the_judge_sees_a_death_that_did_not_come_came_too_early_of_something_else_or_to_what_was_settled() {
    let with = |letter: Option<Saw>| -> Vec<Saw> {
        sound().into_iter().filter(|saw| !matches!(saw, Saw::Dead { .. })).chain(letter).collect()
    };
    caught(with(None), "lost");
    caught(with(Some(dead(DOOMED, 2, REFUSAL))), "odd");
    caught(with(Some(dead(DOOMED, 5, "its mailbox was full"))), "odd");
    let mut after_all = sound();
    after_all.push(dead(3, 5, "its lease ran out"));
    caught(after_all, "settled and again");
}

#[test]
fn the_judge_sees_a_planted_duplicate() {
    let mut twice = sound();
    twice.push(Saw::Effect { by: "r".into(), key: "k3".into(), message_id: "another".into(), attempt: 1 });
    caught(twice, "two effects");
    let mut receipts = sound();
    receipts.push(Saw::Accepted { key: "k3".into(), message_id: "another".into() });
    caught(receipts, "two effects");
}

#[test]
fn the_judge_sees_a_planted_reorder() {
    let mut swapped = sound();
    let second = swapped.iter().position(|saw| *saw == effect(2, 1)).unwrap();
    swapped.swap(second, second + 1);
    caught(swapped, "out of order");
}

#[test]
fn the_judge_sees_what_comes_again_after_it_was_settled_and_a_dead_letter_without_a_reason() {
    let mut again = sound();
    again.push(effect(3, 2));
    caught(again, "settled and again");
    let mut silent = sound();
    silent.push(dead(9, 5, " "));
    caught(silent, "odd");
}
