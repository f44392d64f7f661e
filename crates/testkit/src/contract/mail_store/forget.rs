//! What is forgotten, and when.

use std::time::Duration;

use guildhall_domain::{
    ErrorCode,
    mail::{
        Answer, Body, DeliveryState, Mailbox, MessageId,
        delivery::{DeadLetterQuery, HistoryQuery},
    },
    ports::{bus::Retention, mail_store::ReceiptKey},
};

use super::{
    Replica, Stage, circular, hall,
    hands::{Hand, at, delivery_becomes, send_some, waiting_become},
    id, insist, letter, mailbox, request, send, try_send,
};
use crate::contract::eventually;

const DAY: u64 = 24 * 60 * 60;
const EVERYTHING: Retention = Retention { age: Duration::from_secs(365 * DAY), bytes: u64::MAX };

fn for_days(days: u64) -> Retention {
    Retention { age: Duration::from_secs(days * DAY), ..EVERYTHING }
}

async fn forget(replica: &Replica, kept: Retention, seconds: u64) {
    while insist(async || replica.mail.forget(kept, at(seconds)).await).await.unwrap() {}
}

async fn kept_become(replica: &Replica, of: &str, wanted: &[MessageId]) {
    let query = HistoryQuery { after: None, limit: 1_000 };
    let look = async || {
        let history = replica.mail.history(&hall(), &mailbox(of), &query).await?;
        let found: Vec<_> = history.messages.iter().map(|kept| kept.message.message_id).collect();
        Ok((found == wanted && history.total == wanted.len() as u64).then_some(()))
    };
    eventually(&format!("{of} keeps {wanted:?}"), look).await;
}

async fn is_kept(replica: &Replica, message: MessageId, wanted: bool) {
    let look = async || {
        let tracked = replica.mail.message(&hall(), message, None).await?;
        Ok((tracked.is_some() == wanted).then_some(()))
    };
    eventually(&format!("{message} is kept: {wanted}"), look).await;
}

async fn take_and_ack(stage: &Stage, replica: &Replica, of: &str, messages: &[MessageId]) {
    let hand = Hand::of(stage, replica, of);
    let held = hand.takes(messages.len(), at(0), messages).await;
    hand.ack(&held, at(0)).await;
}

pub async fn a_senders_key_is_remembered_for_a_day(stage: &Stage) {
    let replica = stage.replica("one");
    let key = [7; 16];
    let first = letter("ada", "bob");
    let first = super::Outgoing { receipt: Some(ReceiptKey { key, fingerprint: [1; 16] }), ..first };
    let sent = send(&replica, &first).await;
    let other = letter("ada", "bob");
    let other = super::Outgoing { receipt: Some(ReceiptKey { key, fingerprint: [2; 16] }), ..other };
    forget(&replica, EVERYTHING, DAY - 1).await;
    let refused = try_send(&replica, std::slice::from_ref(&other)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert_eq!(send(&replica, &first).await, sent);
    forget(&replica, EVERYTHING, DAY + 1).await;
    assert_ne!(send(&replica, &other).await, sent);
}

pub async fn settled_mail_goes_with_its_age_and_younger_mail_stays(stage: &Stage) {
    let replica = stage.replica("one");
    let old = send_some(&replica, "ada", "bob", 3).await;
    take_and_ack(stage, &replica, "bob", &old).await;
    let mut young = letter("ada", "bob");
    young.message.sent_at = at(DAY);
    let young = send(&replica, &young).await;
    forget(&replica, for_days(30), 30 * DAY - 1).await;
    kept_become(&replica, "bob", &[old[0], old[1], old[2], young]).await;
    forget(&replica, for_days(30), 30 * DAY).await;
    kept_become(&replica, "bob", &[young]).await;
    is_kept(&replica, old[0], false).await;
    waiting_become(&replica, &mailbox("bob"), 1).await;
}

pub async fn mail_that_nobody_took_dies_with_its_age_and_goes_when_its_letter_was_kept_as_long(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 1).await;
    forget(&replica, for_days(30), 30 * DAY).await;
    let dead = delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Dead, 0).await;
    assert_eq!(dead.reason.as_deref(), Some("kept for 30 days and never taken"));
    waiting_become(&replica, &mailbox("bob"), 0).await;
    let all = DeadLetterQuery { limit: 10, ..Default::default() };
    let letters = async || Ok((replica.mail.dead_letters(&hall(), &all).await?.len() == 1).then_some(()));
    eventually("its letter is listed", letters).await;
    forget(&replica, for_days(30), 60 * DAY - 1).await;
    is_kept(&replica, sent[0], true).await;
    forget(&replica, for_days(30), 60 * DAY).await;
    is_kept(&replica, sent[0], false).await;
    let none = async || Ok(replica.mail.dead_letters(&hall(), &all).await?.is_empty().then_some(()));
    eventually("no letter is left", none).await;
}

pub async fn above_its_size_the_oldest_settled_mail_goes_and_none_that_waits(stage: &Stage) {
    let replica = stage.replica("one");
    let long = Body::from_value(&"x".repeat(10_000)).unwrap();
    let mut sent = Vec::new();
    for _ in 0..20 {
        let mut large = letter("ada", "bob");
        large.message.body = long.clone();
        sent.push(send(&replica, &large).await);
    }
    take_and_ack(stage, &replica, "bob", &sent[..15]).await;
    let kept = |bytes| Retention { bytes, ..EVERYTHING };
    forget(&replica, kept(250_000), 1).await;
    kept_become(&replica, "bob", &sent).await;
    forget(&replica, kept(130_000), 1).await;
    kept_become(&replica, "bob", &sent[8..]).await;
    forget(&replica, kept(1), 1).await;
    kept_become(&replica, "bob", &sent[15..]).await;
    waiting_become(&replica, &mailbox("bob"), 5).await;
}

pub async fn a_wide_message_goes_from_all_its_mailboxes_once_none_waits(stage: &Stage) {
    let replica = stage.replica("one");
    let members: Vec<_> = (0..3).map(|n| id(&format!("member-{n}"))).collect();
    let sent = send(&replica, &circular("ada", &members)).await;
    for member in &members[..2] {
        take_and_ack(stage, &replica, member.as_str(), &[sent]).await;
    }
    forget(&replica, Retention { bytes: 1, ..EVERYTHING }, 1).await;
    is_kept(&replica, sent, true).await;
    waiting_become(&replica, &Mailbox::Agent(members[2].clone()), 1).await;
    take_and_ack(stage, &replica, "member-2", &[sent]).await;
    forget(&replica, Retention { bytes: 1, ..EVERYTHING }, 1).await;
    is_kept(&replica, sent, false).await;
    for member in &members {
        kept_become(&replica, member.as_str(), &[]).await;
    }
}

pub async fn a_request_that_has_ended_is_forgotten_with_its_age(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = send(&replica, &request("ada", "bob", false)).await;
    let open = send(&replica, &request("ada", "eve", false)).await;
    let done = Answer::Done(Body::from_value(&"done").unwrap());
    let answer = async || replica.mail.answer(&hall(), asked, &id("bob"), &done, None, at(10)).await;
    insist(answer).await.unwrap();
    let is_there = async |request, wanted: bool| {
        let look = async || Ok((replica.mail.request(&hall(), request).await?.is_some() == wanted).then_some(()));
        eventually("the request", look).await;
    };
    forget(&replica, for_days(1), DAY + 9).await;
    is_there(asked, true).await;
    forget(&replica, for_days(1), DAY + 10).await;
    is_there(asked, false).await;
    is_there(open, true).await;
}
