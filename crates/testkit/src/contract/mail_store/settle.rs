//! What a taker says of what it took.

use std::time::Duration;

use guildhall_domain::mail::{
    Delivered, DeliveryState, Lease,
    delivery::{ATTEMPTS_MAX, Settling, Verdict},
};

use super::{
    Stage, hall,
    hands::{Hand, LEASE_SECONDS, at, delivery_becomes, ids, nack, send_some, waiting_become},
    insist, letter, mailbox, send,
    take::to_pool,
};

pub async fn an_ack_settles_and_the_same_again_is_no_conflict(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 1).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(10, at(0), &sent).await;
    for _ in 0..2 {
        bob.settles(&held[0], Verdict::Ack, at(1)).await;
    }
    let settled = delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Acknowledged, 0).await;
    assert_eq!((settled.settled_at, settled.reason), (Some(at(1)), None));
    bob.is_refused(&held[0], nack(None, None), at(2)).await;
    bob.finds_nothing(at(2 + LEASE_SECONDS)).await;
    waiting_become(&replica, &mailbox("bob"), 0).await;
}

pub async fn a_nack_rests_and_what_its_sender_sent_later_does_not_overtake_it(stage: &Stage) {
    let replica = stage.replica("one");
    let from_ada = send_some(&replica, "ada", "bob", 4).await;
    let from_eve = send_some(&replica, "eve", "bob", 1).await;
    let bob = Hand::of(stage, &replica, "bob");
    let all: Vec<_> = from_ada.iter().chain(&from_eve).copied().collect();
    let held = bob.takes(10, at(0), &all).await;
    bob.settles(&held[0], Verdict::Ack, at(1)).await;
    bob.settles(&held[1], nack(Some(10), Some("not now")), at(1)).await;
    // What went back with it is held no longer, and may not be settled out of its turn.
    for given_back in &held[2..4] {
        bob.is_refused(given_back, Verdict::Ack, at(2)).await;
    }
    bob.settles(&held[4], Verdict::Ack, at(2)).await;
    let rests = delivery_becomes(&replica, from_ada[1], &mailbox("bob"), DeliveryState::Waiting, 1).await;
    assert_eq!(rests.reason.as_deref(), Some("not now"));

    let later = send_some(&replica, "ada", "bob", 1).await;
    bob.finds_nothing(at(10)).await;
    let wanted = [from_ada[1], from_ada[2], from_ada[3], later[0]];
    let again = bob.takes(10, at(11), &wanted).await;
    let attempts: Vec<u32> = again.iter().map(|again| again.attempt).collect();
    assert_eq!(attempts, [2, 1, 1, 1], "only what was nacked has lost an attempt");
    bob.is_refused(&held[2], Verdict::Ack, at(12)).await;
}

pub async fn after_five_attempts_a_message_is_dead_with_its_reason_and_holds_up_nothing(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 2).await;
    let bob = Hand::of(stage, &replica, "bob");
    for attempt in 1..=ATTEMPTS_MAX {
        let now = at(u64::from(attempt) * 1_000);
        let held = bob.takes(1, now, &sent[..1]).await;
        assert_eq!(held[0].attempt, attempt);
        bob.settles(&held[0], nack(None, Some(&format!("failure {attempt}"))), now).await;
        if attempt < ATTEMPTS_MAX {
            // It rests for twice as long each time.
            let rest = 1 << (attempt - 1);
            bob.finds_nothing(now + Duration::from_millis(rest * 1_000 - 1)).await;
        }
    }
    let dead = delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Dead, ATTEMPTS_MAX).await;
    assert_eq!(dead.reason.as_deref(), Some("5 attempts failed, the last: failure 5"));
    bob.takes(10, at(5_001), &sent[1..]).await;
    waiting_become(&replica, &mailbox("bob"), 1).await;
}

pub async fn what_is_refused_is_dead_at_once_with_its_takers_reason(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 2).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(1, at(0), &sent[..1]).await;
    for _ in 0..2 {
        bob.settles(&held[0], Verdict::Refuse { reason: "not for me".into() }, at(1)).await;
    }
    let dead = delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Dead, 0).await;
    assert_eq!((dead.reason.as_deref(), dead.settled_at), (Some("not for me"), Some(at(1))));
    bob.takes(10, at(1), &sent[1..]).await;
}

pub async fn a_stale_lease_is_refused_and_does_nothing(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 2).await;
    let (bob, eve) = (Hand::of(stage, &replica, "bob"), Hand::of(stage, &replica, "eve"));
    let held = bob.takes(1, at(0), &sent[..1]).await;
    let later = at(LEASE_SECONDS + 10);
    // The first look finds that the lease ran out; it rests for a second then.
    bob.finds_nothing(later).await;
    let again = bob.takes(1, later + Duration::from_secs(2), &sent[..1]).await;
    for verdict in [Verdict::Ack, Verdict::Renew, Verdict::Return, nack(None, None)] {
        bob.is_refused(&held[0], verdict.clone(), later).await;
        eve.is_refused(&again[0], verdict.clone(), later).await;
        let mut other = again[0].clone();
        other.message.message_id = sent[1];
        bob.is_refused(&other, verdict.clone(), later).await;
        let lease = Lease { number: again[0].lease.number + 7_000, ..again[0].lease };
        bob.is_refused(&Delivered { lease, ..again[0].clone() }, verdict, later).await;
    }
    delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Leased, 1).await;
    bob.settles(&again[0], Verdict::Ack, later).await;
}

pub async fn a_lease_past_its_time_settles_while_nobody_else_has_taken_the_message(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 1).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(1, at(0), &sent).await;
    bob.settles(&held[0], Verdict::Ack, at(LEASE_SECONDS + 100)).await;
    delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Acknowledged, 0).await;
}

pub async fn what_is_returned_or_given_back_has_lost_no_attempt_and_no_place(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 3).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(10, at(0), &sent).await;
    bob.settles(&held[0], Verdict::Ack, at(0)).await;
    for returned in &held[1..] {
        bob.settles(returned, Verdict::Return, at(0)).await;
    }
    bob.is_refused(&held[2], Verdict::Ack, at(0)).await;
    let again = bob.takes(10, at(0), &sent[1..]).await;
    assert_eq!(again.iter().map(|again| again.attempt).collect::<Vec<_>>(), [1, 1]);

    let (taker, taken) = Hand::of(stage, &replica, "eve").try_take(1, at(0)).await;
    assert_eq!(taken.map(|taken| ids(&taken)).unwrap_or_default(), []);
    assert_eq!(bob.give_back(&taker).await, 0, "a hand gave back what another holds");
    let given_back = bob.give_back("bob/").await;
    assert!(given_back == 2 || !stage.answers_once(), "{given_back} were given back");
    bob.is_refused(&again[0], Verdict::Ack, at(0)).await;
    let third = bob.takes(10, at(0), &sent[1..]).await;
    assert_eq!(third.iter().map(|third| third.attempt).collect::<Vec<_>>(), [1, 1]);
}

pub async fn a_renewed_lease_holds_on(stage: &Stage) {
    let replica = stage.replica("one");
    let sent = send_some(&replica, "ada", "bob", 1).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(1, at(0), &sent).await;
    bob.settles(&held[0], Verdict::Renew, at(LEASE_SECONDS - 1)).await;
    bob.finds_nothing(at(2 * LEASE_SECONDS - 2)).await;
    insist(async || replica.mail.lapse(at(2 * LEASE_SECONDS - 2)).await).await.unwrap();
    delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Leased, 0).await;
    insist(async || replica.mail.lapse(at(2 * LEASE_SECONDS)).await).await.unwrap();
    delivery_becomes(&replica, sent[0], &mailbox("bob"), DeliveryState::Waiting, 1).await;
}

pub async fn a_nack_in_a_pool_gives_back_nothing_else(stage: &Stage) {
    let replica = stage.replica("one");
    let mut sent = Vec::new();
    for _ in 0..2 {
        sent.push(send(&replica, &to_pool("ada", "builders")).await);
    }
    let bob = Hand::of(stage, &replica, "bob").and_pool("builders");
    let held = bob.takes(2, at(0), &sent).await;
    bob.settles(&held[0], nack(Some(60), None), at(0)).await;
    bob.settles(&held[1], Verdict::Ack, at(0)).await;
}

pub async fn each_settling_of_a_call_is_judged_by_itself(stage: &Stage) {
    let replica = stage.replica("one");
    let mut sent = send_some(&replica, "ada", "bob", 1).await;
    sent.push(send(&replica, &letter("eve", "bob")).await);
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(2, at(0), &sent).await;
    let stale = Lease { hand_out: 77, ..held[0].lease };
    let settlings: Vec<Settling> = [(0, stale), (1, held[1].lease), (0, held[0].lease)]
        .map(|(n, lease)| Settling { message_id: held[n].message.message_id, lease, verdict: Verdict::Ack })
        .into();
    let settle = async || replica.mail.settle(&hall(), &bob.mailboxes, settlings.clone(), at(1)).await;
    let settled = insist(settle).await.unwrap();
    assert_eq!(settled.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true]);
    waiting_become(&replica, &mailbox("bob"), 0).await;
}
