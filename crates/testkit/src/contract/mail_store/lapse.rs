//! What the clock does.

use std::time::Duration;

use futures::future::join_all;
use guildhall_domain::{
    Timestamp,
    mail::{DeliveryState, Message, MessageId, delivery::Verdict},
    ports::mail_store::{Lapsed, Outgoing},
};

use super::{
    Replica, Stage, hall,
    hands::{Hand, LEASE_SECONDS, at, delivery_becomes, nack, send_some, waiting_become},
    insist, letter, mailbox, send,
};

pub(super) fn expiring(outgoing: Outgoing, expires_at: Timestamp) -> Outgoing {
    let message = Message { expires_at: Some(expires_at), ..outgoing.message };
    Outgoing { message, ..outgoing }
}

/// All that is due, in the end.
pub(super) async fn lapse(replica: &Replica, now: Timestamp) -> Lapsed {
    let mut all = Lapsed::default();
    loop {
        let lapsed = insist(async || replica.mail.lapse(now).await).await.unwrap();
        all.leases += lapsed.leases;
        all.expired += lapsed.expired;
        all.dead += lapsed.dead;
        all.wake.extend(lapsed.wake);
        if !lapsed.more {
            return all;
        }
    }
}

/// An answer that came once says all that was done.
fn says(stage: &Stage, lapsed: &Lapsed, wanted: &Lapsed) {
    if stage.answers_once() {
        assert_eq!(lapsed, wanted);
    }
}

pub async fn a_lease_that_runs_out_counts_as_an_attempt_and_keeps_its_place(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 3).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(2, at(0), &sent[..2]).await;
    says(stage, &lapse(&replica, at(LEASE_SECONDS - 1)).await, &Lapsed::default());
    let over = at(LEASE_SECONDS);
    says(stage, &lapse(&replica, over).await, &Lapsed { leases: 2, ..Lapsed::default() });
    delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Waiting, 1).await;
    bob.is_refused(&held[0], Verdict::Ack, over).await;
    bob.finds_nothing(over).await;

    let rested = over + Duration::from_secs(1);
    let woken = Lapsed { wake: vec![(hall(), mailbox("bob"))], ..Lapsed::default() };
    says(stage, &lapse(&replica, rested).await, &woken);
    says(stage, &lapse(&replica, rested).await, &Lapsed::default());
    let again = bob.takes(10, rested, &sent).await;
    assert_eq!(again.iter().map(|again| again.attempt).collect::<Vec<_>>(), [2, 2, 1]);
}

pub async fn with_a_lease_that_runs_out_goes_back_what_was_taken_after_it(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 2).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(2, at(0), &sent).await;
    bob.settles(&held[1], Verdict::Renew, at(100)).await;
    lapse(&replica, at(LEASE_SECONDS)).await;
    bob.is_refused(&held[1], Verdict::Ack, at(LEASE_SECONDS)).await;
    let again = bob.takes(10, at(LEASE_SECONDS + 2), &sent).await;
    assert_eq!(again.iter().map(|again| again.attempt).collect::<Vec<_>>(), [2, 1]);
}

pub async fn mail_that_expires_dies_with_its_reason_and_not_in_its_takers_hands(stage: &Stage) {
    let replica = stage.replica("one");
    let first = send(&replica, &expiring(letter("ada", "bob"), at(10))).await;
    let second = send(&replica, &expiring(letter("eve", "bob"), at(10))).await;
    let last = send(&replica, &letter("ada", "bob")).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(1, at(0), &[first]).await;
    let lapsed = lapse(&replica, at(10)).await;
    let wake = vec![(hall(), mailbox("bob"))];
    says(stage, &lapsed, &Lapsed { expired: 1, dead: 1, wake, ..Lapsed::default() });
    let dead = delivery_becomes(&replica, second, &mailbox("bob"), DeliveryState::Dead, 0).await;
    assert_eq!(dead.reason.as_deref(), Some("expired: nobody took it in time"));
    bob.finds_nothing(at(10)).await;
    delivery_becomes(&replica, first, &mailbox("bob"), DeliveryState::Leased, 0).await;

    bob.settles(&held[0], nack(None, None), at(11)).await;
    bob.takes(10, at(12), &[last]).await;
    let dead = delivery_becomes(&replica, first, &mailbox("bob"), DeliveryState::Dead, 1).await;
    let reason = "expired: nobody had settled it in time, and 1 of its attempts failed";
    assert_eq!(dead.reason.as_deref(), Some(reason));
    waiting_become(&replica, &mailbox("bob"), 1).await;
}

pub async fn taking_finds_what_is_due_without_waiting_for_the_clock(stage: &Stage) {
    let replica = stage.replica("one");
    let expires = send(&replica, &expiring(letter("eve", "bob"), at(10))).await;
    let sent = send_some(&replica, "ada", "bob", 1).await;
    let bob = Hand::of(stage, &replica, "bob");
    bob.takes(10, at(0), &[expires, sent[0]]).await;
    bob.finds_nothing(at(LEASE_SECONDS)).await;
    delivery_becomes(&replica, expires, &mailbox("bob"), DeliveryState::Dead, 1).await;
    let again = bob.takes(10, at(LEASE_SECONDS + 1), &sent).await;
    assert_eq!(again[0].attempt, 2);
}

pub async fn clocks_at_once_do_nothing_twice(stage: &Stage) {
    let replicas: Vec<_> = (0..3).map(|n| stage.replica(&format!("replica-{n}"))).collect();
    let mut held: Vec<(String, Vec<MessageId>)> = Vec::new();
    for n in 0..20 {
        let agent = format!("agent-{n}");
        let sent = send_some(&replicas[0], "ada", &agent, 2).await;
        Hand::of(stage, &replicas[0], &agent).takes(2, at(0), &sent).await;
        held.push((agent, sent));
    }
    let over = at(LEASE_SECONDS);
    let lapsed = join_all(replicas.iter().map(|replica| lapse(replica, over))).await;
    // What one passed over because another was there is done by now, or is done here.
    let last = lapse(&replicas[0], over).await;
    let leases: u64 = lapsed.iter().map(|lapsed| lapsed.leases).sum::<u64>() + last.leases;
    assert!(leases == 40 || !stage.answers_once(), "{leases} leases of 40 ran out");
    for (agent, sent) in held {
        for message in sent {
            delivery_becomes(&replicas[0], message, &mailbox(&agent), DeliveryState::Waiting, 1).await;
        }
    }
}
