//! Dead letters: listed, redriven, purged.

use std::collections::BTreeSet;

use guildhall_domain::{
    NewAgent,
    audit::AuditQuery,
    mail::{
        DeadLetter, DeliveryState, Mailbox, MessageId,
        delivery::{DeadLetterQuery, DeadLetterSelection, HistoryQuery},
    },
    ports::agent_store::IfPresent,
};

use super::{
    NOW, Replica, Stage, act, circular, hall,
    hands::{Hand, at, delivery_becomes, nack, send_some, waiting_become},
    id, insist,
    lapse::{expiring, lapse},
    letter, mailbox, send,
};
use crate::contract::eventually;

fn of_messages(messages: &[MessageId]) -> DeadLetterSelection {
    DeadLetterSelection { messages: messages.to_vec(), ..Default::default() }
}

async fn redrive(replica: &Replica, selection: &DeadLetterSelection, seconds: u64) -> (u64, Vec<Mailbox>) {
    let audit = act("dead_letter.redrive", "some");
    insist(async || replica.mail.redrive(&hall(), selection, at(seconds), audit.clone()).await).await.unwrap()
}

async fn purge(replica: &Replica, selection: &DeadLetterSelection) -> u64 {
    let audit = act("dead_letter.purge", "some");
    insist(async || replica.mail.purge(&hall(), selection, audit.clone()).await).await.unwrap()
}

async fn letters_become(replica: &Replica, query: &DeadLetterQuery, wanted: &[MessageId]) -> Vec<DeadLetter> {
    let look = async || {
        let letters = replica.mail.dead_letters(&hall(), query).await?;
        let found: Vec<_> = letters.iter().map(|letter| letter.message.message_id).collect();
        Ok((found == wanted).then_some(letters))
    };
    eventually(&format!("{query:?} finds {wanted:?}"), look).await
}

async fn audited_become(replica: &Replica, act: &str, wanted: usize) {
    let query = AuditQuery { act: Some(act.to_owned()), ..Default::default() };
    let look = async || {
        let records = replica.audit.query(&hall(), &query).await?;
        Ok((records.len() == wanted).then_some(()))
    };
    eventually(&format!("{wanted} records of {act}"), look).await;
}

fn all() -> DeadLetterQuery {
    DeadLetterQuery { limit: 100, ..Default::default() }
}

/// Each dies a second after the one before.
async fn dead_ones(replica: &Replica, to: &[&str]) -> Vec<MessageId> {
    let mut dead = Vec::new();
    for (n, to) in (1..).zip(to) {
        dead.push(send(replica, &expiring(letter("ada", to), at(n))).await);
        lapse(replica, at(n)).await;
        delivery_becomes(replica, *dead.last().expect("it was pushed"), &mailbox(to), DeliveryState::Dead, 0).await;
    }
    dead
}

pub async fn dead_letters_are_listed_newest_first_page_by_page_and_narrowed(stage: &Stage) {
    let replica = stage.replica("one");
    let dead = dead_ones(&replica, &["bob", "bob", "eve"]).await;
    let letters = letters_become(&replica, &all(), &[dead[2], dead[1], dead[0]]).await;
    let mut oldest = expiring(letter("ada", "bob"), at(1)).message;
    oldest.message_id = dead[0];
    let wanted = DeadLetter {
        message: oldest,
        mailbox: mailbox("bob"),
        attempts: 0,
        died_at: at(1),
        reason: "expired: nobody took it in time".into(),
    };
    assert_eq!(letters[2], wanted);

    let page = DeadLetterQuery { limit: 2, ..all() };
    let first = letters_become(&replica, &page, &[dead[2], dead[1]]).await;
    let after = Some((first[1].died_at, dead[1]));
    letters_become(&replica, &DeadLetterQuery { after, ..page }, &dead[..1]).await;
    let of_bob = DeadLetterQuery { mailbox: Some(mailbox("bob")), ..all() };
    letters_become(&replica, &of_bob, &[dead[1], dead[0]]).await;
    letters_become(&replica, &DeadLetterQuery { after, ..of_bob.clone() }, &dead[..1]).await;
    let of_message = DeadLetterQuery { message: Some(dead[2]), ..all() };
    letters_become(&replica, &of_message, &dead[2..]).await;
    letters_become(&replica, &DeadLetterQuery { message: Some(dead[2]), ..of_bob }, &[]).await;
    letters_become(&replica, &DeadLetterQuery { mailbox: Some(mailbox("nobody")), ..all() }, &[]).await;
}

pub async fn letters_of_one_message_and_moment_are_on_one_page(stage: &Stage) {
    let replica = stage.replica("one");
    let members: Vec<_> = (0..5).map(|n| id(&format!("member-{n}"))).collect();
    let wide = send(&replica, &expiring(circular("ada", &members), at(1))).await;
    lapse(&replica, at(1)).await;
    let letters = letters_become(&replica, &DeadLetterQuery { limit: 2, ..all() }, &[wide; 5]).await;
    let mailboxes: BTreeSet<_> = letters.iter().map(|letter| letter.mailbox.name().to_owned()).collect();
    assert_eq!(mailboxes, members.iter().map(ToString::to_string).collect());
    let after = Some((at(1), wide));
    letters_become(&replica, &DeadLetterQuery { after, ..all() }, &[]).await;
}

pub async fn a_redriven_letter_waits_as_if_it_had_been_sent_anew(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 1).await;
    let bob = Hand::of(stage, &replica, "bob");
    for attempt in 1..=5 {
        let held = bob.takes(1, at(attempt * 100), &sent).await;
        bob.settles(&held[0], nack(None, None), at(attempt * 100)).await;
    }
    let expired = send(&replica, &expiring(letter("eve", "bob"), at(30))).await;
    lapse(&replica, at(600)).await;
    letters_become(&replica, &all(), &[expired, sent[0]]).await;
    waiting_become(&replica, &mailbox("bob"), 0).await;

    let redriven = redrive(&replica, &of_messages(&[sent[0], expired, sent[0]]), 1_000).await;
    assert!(redriven == (2, vec![mailbox("bob")]) || !stage.answers_once(), "{redriven:?}");
    letters_become(&replica, &all(), &[]).await;
    waiting_become(&replica, &mailbox("bob"), 2).await;
    audited_become(&replica, "dead_letter.redrive", 1).await;
    assert_eq!(redrive(&replica, &of_messages(&sent), 1_000).await, (0, vec![]));

    let again = bob.takes(10, at(1_001), &[sent[0], expired]).await;
    assert_eq!(again.iter().map(|again| again.attempt).collect::<Vec<_>>(), [1, 1]);
    bob.ack(&again[..1], at(1_001)).await;
    bob.settles(&again[1], guildhall_domain::mail::delivery::Verdict::Return, at(1_001)).await;
    // It may wait for as long as it might at first.
    lapse(&replica, at(1_029)).await;
    delivery_becomes(&replica, expired, &mailbox("bob"), DeliveryState::Waiting, 0).await;
    lapse(&replica, at(1_030)).await;
    delivery_becomes(&replica, expired, &mailbox("bob"), DeliveryState::Dead, 0).await;
}

pub async fn the_mailbox_of_an_agent_that_left_keeps_its_dead(stage: &Stage) {
    let replica = stage.replica("one");
    let bob = NewAgent::named(id("bob"), "Bob");
    let register =
        async || replica.agents.register(&hall(), &bob, IfPresent::Update, NOW, act("agent.register", "bob")).await;
    insist(register).await.unwrap();
    let dead = dead_ones(&replica, &["bob", "eve"]).await;
    insist(async || replica.agents.remove(&hall(), &id("bob"), act("agent.remove", "bob")).await).await.unwrap();
    let everything = DeadLetterSelection { all: true, ..Default::default() };
    let redriven = redrive(&replica, &everything, 10).await;
    assert!(redriven == (1, vec![mailbox("eve")]) || !stage.answers_once(), "{redriven:?}");
    letters_become(&replica, &all(), &dead[..1]).await;
    waiting_become(&replica, &mailbox("bob"), 0).await;
    waiting_become(&replica, &mailbox("eve"), 1).await;
}

pub async fn what_is_purged_is_gone_for_good_and_stays_dead_in_the_history(stage: &Stage) {
    let replica = stage.replica("one");
    let dead = dead_ones(&replica, &["bob", "eve", "bob"]).await;
    let of_bob = DeadLetterSelection { all: true, mailbox: Some(mailbox("bob")), ..Default::default() };
    let purged = purge(&replica, &of_bob).await;
    assert!(purged == 2 || !stage.answers_once(), "{purged} were purged");
    letters_become(&replica, &all(), &dead[1..2]).await;
    assert_eq!(redrive(&replica, &of_messages(&dead[..1]), 10).await, (0, vec![]));
    let query = HistoryQuery { after: None, limit: 10 };
    let look = async || {
        let history = replica.mail.history(&hall(), &mailbox("bob"), &query).await?;
        let found: Vec<_> = history.messages.iter().map(|kept| (kept.message.message_id, kept.state)).collect();
        Ok((found == [(dead[0], DeliveryState::Dead), (dead[2], DeliveryState::Dead)]).then_some(()))
    };
    eventually("both are dead in the history", look).await;
    audited_become(&replica, "dead_letter.purge", 1).await;
}

pub async fn a_selection_with_nothing_in_it_selects_nothing(stage: &Stage) {
    let replica = stage.replica("one");
    let dead = dead_ones(&replica, &["bob"]).await;
    let elsewhere = DeadLetterSelection { mailbox: Some(mailbox("eve")), ..of_messages(&dead) };
    let only_narrowed = DeadLetterSelection { mailbox: Some(mailbox("bob")), ..Default::default() };
    for nothing in [DeadLetterSelection::default(), only_narrowed, elsewhere] {
        assert_eq!(redrive(&replica, &nothing, 10).await, (0, vec![]), "{nothing:?}");
        assert_eq!(purge(&replica, &nothing).await, 0, "{nothing:?}");
    }
    letters_become(&replica, &all(), &dead).await;
    for act in ["dead_letter.redrive", "dead_letter.purge"] {
        audited_become(&replica, act, 0).await;
    }
}

/// More than one transaction does.
pub async fn all_letters_are_redriven_however_many(stage: &Stage) {
    let replica = stage.replica("one");
    for _ in 0..10 {
        let members: Vec<_> = (0..60).map(|n| id(&format!("member-{n}"))).collect();
        send(&replica, &expiring(circular("ada", &members), at(1))).await;
    }
    while lapse(&replica, at(1)).await.dead > 0 {}
    let everything = DeadLetterSelection { all: true, ..Default::default() };
    let (redriven, woken) = redrive(&replica, &everything, 10).await;
    assert!((redriven, woken.len()) == (600, 60) || !stage.answers_once(), "{redriven} redriven");
    letters_become(&replica, &all(), &[]).await;
    waiting_become(&replica, &mailbox("member-7"), 10).await;
}
