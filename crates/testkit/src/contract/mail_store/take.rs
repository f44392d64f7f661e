//! Taking mail: order, priorities, pools, what one answer holds.

use futures::future::join_all;
use guildhall_domain::mail::{Body, Mailbox, Message, Priority, Recipient};
use guildhall_domain::ports::mail_store::{Addressees, Outgoing};

use super::{
    Replica, Stage, circular,
    hands::{Hand, at, ids, prior, send_some, waiting_become},
    id, insist, letter, mailbox, send, try_send,
};
use crate::contract::store::tenant;

/// To a pool, so that one of its members takes it.
pub(super) fn to_pool(from: &str, pool: &str) -> Outgoing {
    let letter = letter(from, "unused");
    let message = Message { to: Recipient::Pool(pool.to_owned()), ..letter.message };
    Outgoing { to: Addressees::One(Mailbox::Pool(pool.to_owned())), message, ..letter }
}

pub async fn what_one_sends_is_handed_out_in_order_and_held_by_one_taker(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let from_ada = send_some(&one, "ada", "bob", 5).await;
    let (first, second) = (Hand::of(stage, &one, "bob"), Hand::of(stage, &other, "bob"));
    let held = first.takes(3, at(0), &from_ada[..3]).await;
    let attempts: Vec<u32> = held.iter().map(|held| held.attempt).collect();
    assert_eq!(attempts, [1, 1, 1]);
    second.finds_nothing(at(1)).await;

    let from_eve = send_some(&one, "eve", "bob", 2).await;
    let of_eve = second.takes(10, at(1), &from_eve).await;
    first.ack(&held[..2], at(2)).await;
    second.finds_nothing(at(2)).await;
    first.ack(&held[2..], at(2)).await;
    let rest = second.takes(10, at(3), &from_ada[3..]).await;
    second.ack(&rest, at(3)).await;
    second.ack(&of_eve, at(3)).await;
    second.finds_nothing(at(4)).await;
    waiting_become(&one, &mailbox("bob"), 0).await;
}

pub async fn critical_goes_first_and_the_rest_eight_to_four_to_two(stage: &Stage) {
    let replica = stage.replica("one");
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        for _ in 0..15 {
            send(&replica, &prior(letter("ada", "bob"), priority)).await;
        }
    }
    for _ in 0..2 {
        send(&replica, &prior(letter("ada", "bob"), Priority::Critical)).await;
    }
    let of = |taken: &[guildhall_domain::mail::Delivered], priority| {
        taken.iter().filter(|taken| taken.message.priority == priority).count()
    };
    let bob = Hand::of(stage, &replica, "bob");
    let taken = bob.takes_what(16, at(0), |taken| taken.len() == 16).await;
    assert!(taken[..2].iter().all(|taken| taken.message.priority == Priority::Critical), "{taken:?}");
    assert_eq!(Priority::ALL.map(|priority| of(&taken, priority)), [2, 8, 4, 2]);
}

/// Whatever was taken before, of any 14 that follow one another two are low.
pub async fn low_has_its_share_also_of_those_who_take_one_at_a_time(stage: &Stage) {
    let replica = stage.replica("one");
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        for _ in 0..15 {
            send(&replica, &prior(letter("ada", "bob"), priority)).await;
        }
    }
    let (bob, mut low) = (Hand::of(stage, &replica, "bob"), 0);
    for _ in 0..14 {
        let taken = bob.takes_what(1, at(0), |taken| taken.len() == 1).await;
        low += usize::from(taken[0].message.priority == Priority::Low);
        bob.ack(&taken, at(0)).await;
    }
    // A taking whose answer was lost has moved the round on.
    assert!(low == 2 || !stage.answers_once(), "{low} of 14");
}

pub async fn takers_at_once_never_hold_the_same(stage: &Stage) {
    let replicas: Vec<Replica> = (0..3).map(|n| stage.replica(&format!("replica-{n}"))).collect();
    for n in 0..40 {
        send(&replicas[0], &letter(&format!("sender-{n}"), "bob")).await;
    }
    let takings = (0..12).map(|n| {
        let bob = Hand::of(stage, &replicas[n % 3], "bob");
        async move { bob.try_take(5, at(0)).await.1 }
    });
    let taken: Vec<_> = join_all(takings).await.into_iter().filter_map(Result::ok).flatten().collect();
    let mut all = ids(&taken);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), taken.len(), "two hold the same");
    assert!(taken.len() == 40 || !stage.answers_once(), "only {} were taken", taken.len());
}

pub async fn members_of_a_pool_work_side_by_side(stage: &Stage) {
    let replica = stage.replica("one");
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.push(send(&replica, &to_pool("ada", "builders")).await);
    }
    let (bob, eve) = (Hand::of(stage, &replica, "bob").and_pool("builders"), Hand::of(stage, &replica, "eve"));
    let eve = eve.and_pool("builders");
    let of_bob = bob.takes(2, at(0), &sent[..2]).await;
    let of_eve = eve.takes(5, at(0), &sent[2..]).await;
    assert!(of_bob.iter().chain(&of_eve).all(|taken| taken.mailbox == Mailbox::Pool("builders".into())));
    bob.settles(&of_bob[0], super::hands::nack(Some(0), None), at(1)).await;
    bob.settles(&of_bob[1], guildhall_domain::mail::delivery::Verdict::Ack, at(1)).await;
    let again = eve.takes(5, at(2), &sent[..1]).await;
    assert_eq!(again[0].attempt, 2);
}

pub async fn the_own_mailbox_is_filled_from_first_then_the_pools(stage: &Stage) {
    let replica = stage.replica("one");
    let pooled = send(&replica, &to_pool("ada", "builders")).await;
    let urgent = send(&replica, &prior(to_pool("ada", "builders"), Priority::Critical)).await;
    let own = send_some(&replica, "ada", "bob", 2).await;
    let bob = Hand::of(stage, &replica, "bob").and_pool("builders");
    bob.takes(4, at(0), &[own[0], own[1], urgent, pooled]).await;
}

pub async fn an_answer_holds_bodies_of_three_mebibytes_and_the_next_one_the_rest(stage: &Stage) {
    let replica = stage.replica("one");
    let long = Body::from_value(&"x".repeat(700 * 1024)).unwrap();
    let mut sent = Vec::new();
    for _ in 0..6 {
        let mut large = letter("ada", "bob");
        large.message.body = long.clone();
        sent.push(send(&replica, &large).await);
    }
    let bob = Hand::of(stage, &replica, "bob");
    let first = bob.takes(10, at(0), &sent[..4]).await;
    assert_eq!(first[3].message.body, long);
    bob.ack(&first, at(0)).await;
    bob.takes(10, at(0), &sent[4..]).await;
}

pub async fn what_waits_behind_many_that_are_held_up_is_found(stage: &Stage) {
    let replica = stage.replica("one");
    let many: Vec<Outgoing> = (0..300).map(|_| letter("ada", "bob")).collect();
    try_send(&replica, &many).await.unwrap();
    let last = send(&replica, &letter("eve", "bob")).await;
    let bob = Hand::of(stage, &replica, "bob");
    bob.takes(1, at(0), &[many[0].message.message_id]).await;
    bob.takes(1, at(0), &[last]).await;
    bob.finds_nothing(at(1)).await;
}

/// More members than a send reaches itself.
pub async fn nothing_passes_a_wide_message_that_is_underway(stage: &Stage) {
    let replica = stage.replica("one");
    let mut members: Vec<_> = (0..300).map(|n| id(&format!("member-{n:03}"))).collect();
    members.push(id("zoe"));
    let wide = send(&replica, &circular("ada", &members)).await;
    let later = send(&replica, &letter("ada", "zoe")).await;
    let others = send(&replica, &letter("eve", "zoe")).await;
    let zoe = Hand::of(stage, &replica, "zoe");
    let of_eve = zoe.takes(10, at(0), &[others]).await;
    zoe.ack(&of_eve, at(0)).await;
    while insist(async || replica.mail.expand(super::BOUND, at(0)).await).await.unwrap().more {}
    insist(async || replica.mail.expand(super::BOUND, at(0)).await).await.unwrap();
    zoe.takes(10, at(0), &[wide, later]).await;
}

pub async fn a_mailbox_that_is_not_there_is_empty_and_one_of_another_tenant_another(stage: &Stage) {
    let replica = stage.replica("one");
    Hand::of(stage, &replica, "nobody").finds_nothing(at(0)).await;
    let sent = send(&replica, &letter("ada", "bob")).await;
    let foreign = guildhall_domain::ports::mail_store::Taking {
        tenant: tenant("other"),
        mailboxes: vec![mailbox("bob")],
        taker: "bob/".into(),
        limit: 10,
        lease: guildhall_domain::mail::delivery::LEASE,
        told: true,
        now: at(0),
    };
    assert_eq!(insist(async || replica.mail.take(foreign.clone()).await).await.unwrap(), []);
    Hand::of(stage, &replica, "bob").takes(10, at(0), &[sent]).await;
}
