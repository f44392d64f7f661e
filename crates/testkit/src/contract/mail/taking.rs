//! Mail is handed out to one at a time, in order, and again until someone has settled it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use guildhall_domain::{
    Call, Clock, ErrorCode, NewAgent,
    mail::{
        NewMessage, Priority,
        delivery::{TakeMail, Unread, Verdict},
    },
};
use tokio::time::{sleep, timeout};

use super::{Stage, agent, bodies, id, ids, letter, message, nothing, refused, taking};
use crate::contract::insist;

pub async fn a_wait_ends_with_the_mail_it_waits_for_and_before_its_calls_deadline(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let waiting = TakeMail { wait: Duration::from_secs(60), ..taking("b", 10) };
    let (begun, short) = (Instant::now(), Call::within(agent("b").principal, Duration::from_millis(900)));
    let nothing = insist(|| async { stage.there.mail.take(&short, &id("b"), waiting.clone()).await }).await.unwrap();
    assert_eq!(nothing, []);
    assert!(begun.elapsed() >= Duration::from_millis(300), "it did not wait: {:?}", begun.elapsed());

    for sender in [&stage.here, &stage.there] {
        let took = async {
            if stage.is_faulty {
                return stage.comes_to_take(&stage.there, "b", 1).await;
            }
            stage.there.mail.take(&agent("b"), &id("b"), waiting.clone()).await.unwrap()
        };
        let sent = async {
            sleep(Duration::from_millis(200)).await;
            (stage.letter(sender, "a", "b").await, Instant::now())
        };
        let (taken, (sent, at)) = tokio::join!(took, sent);
        // Who is not woken looks by itself after 2 s.
        assert!(stage.is_faulty || at.elapsed() < Duration::from_millis(1_500), "woken after {:?}", at.elapsed());
        assert_eq!(ids(&taken), [sent]);
        stage.ack(&stage.there, "b", &taken[0]).await;
    }
}

pub async fn two_takers_never_hold_the_same_mail(stage: &Stage) {
    const MESSAGES: usize = 60;
    stage.agents(&["a"]).await;
    for name in ["b", "c"] {
        stage.register(NewAgent { pool: Some("builders".into()), ..NewAgent::named(id(name), name) }).await;
    }
    let list: Vec<_> = (0..MESSAGES).map(|_| letter("pool:builders")).collect();
    let sent = stage.send_all(&stage.here, "a", &list).await.unwrap();
    let sent: BTreeSet<_> = sent.into_iter().map(|receipt| receipt.message_id).collect();

    let work = |replica, who| async move {
        let mut held = Vec::new();
        let mut idle = 0;
        while idle < 3 {
            let Ok(taken) = stage.once(replica, who, 7).await else { continue };
            idle = if taken.is_empty() { idle + 1 } else { 0 };
            held.extend(taken);
            tokio::task::yield_now().await;
        }
        held
    };
    let (at_b, at_c) = tokio::join!(work(&stage.here, "b"), work(&stage.there, "c"));
    let held: Vec<_> = ids(&at_b).into_iter().chain(ids(&at_c)).collect();
    let distinct: BTreeSet<_> = held.iter().copied().collect();
    assert_eq!(distinct.len(), held.len(), "a message was held twice");
    assert!(stage.is_faulty || distinct == sent, "{} of {MESSAGES} were taken", distinct.len());
    assert!(distinct.is_subset(&sent));
    stage.ack_all(&stage.here, "b", &at_b).await;
    stage.ack_all(&stage.there, "c", &at_c).await;
    // What was taken by an answer that was lost is there for the others once it is given back.
    for (replica, who) in [(&stage.here, "b"), (&stage.there, "c")] {
        insist(|| async { replica.mail.give_back(&agent(who), &id(who), who).await }).await.unwrap();
    }
    let left = stage.take(&stage.here, "c", MESSAGES - distinct.len()).await;
    assert!(ids(&left).into_iter().chain(distinct).collect::<BTreeSet<_>>() == sent);
}

pub async fn what_one_sent_stays_in_order_and_critical_goes_first(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    let list: Vec<_> = (0..6).map(|n| message("b", n.to_string())).collect();
    stage.send_all(&stage.here, "a", &list).await.unwrap();
    let first = match stage.is_faulty {
        false => stage.once(&stage.here, "b", 2).await.unwrap(),
        true => {
            let mut taken = stage.take(&stage.here, "b", 6).await;
            for later in taken.drain(2..).rev() {
                // Given back twice, it is a stale lease.
                let _ = stage.settle(&stage.here, "b", &later, Verdict::Return).await;
            }
            taken
        }
    };
    assert_eq!(bodies(&first), ["0", "1"]);
    // While they are in someone's hands, what their sender sent later waits; another's does not.
    let other = stage.letter(&stage.there, "c", "b").await;
    let taken = stage.once(&stage.there, "b", 100).await;
    assert!(stage.is_faulty || ids(taken.as_ref().unwrap()) == [other], "{taken:?}");
    insist(|| async { stage.here.mail.give_back(&agent("b"), &id("b"), "b").await }).await.unwrap();

    let urgent = NewMessage { priority: Priority::Critical, ..message("b", "\"now\"") };
    stage.send(&stage.here, "c", &urgent).await.unwrap();
    stage.has_waiting(&stage.here, "b", Unread { waiting: 8, critical: 1 }).await;
    let taken = stage.take(&stage.there, "b", 8).await;
    assert_eq!(bodies(&taken)[0], "\"now\"");
    let of_a: Vec<_> = taken.iter().filter(|one| one.message.from == id("a")).cloned().collect();
    assert_eq!(bodies(&of_a), ["0", "1", "2", "3", "4", "5"]);
    stage.ack_all(&stage.there, "b", &taken).await;
    stage.has_waiting(&stage.here, "b", nothing()).await;
}

pub async fn what_was_not_settled_in_time_comes_again_and_its_old_lease_is_stale(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let sent = stage.letter(&stage.here, "a", "b").await;
    let held = stage.take(&stage.here, "b", 1).await.remove(0);
    stage.clock.advance(Duration::from_secs(200));
    let renewed = stage.settle(&stage.here, "b", &held, Verdict::Renew).await;
    renewed.unwrap();
    // Within the renewed lease it is nobody else's, though the first would have run out.
    stage.pass(Duration::from_secs(200)).await;
    let taken = stage.once(&stage.there, "b", 1).await;
    assert!(stage.is_faulty || taken.as_ref().is_ok_and(Vec::is_empty), "{taken:?}");

    stage.pass(Duration::from_secs(120)).await;
    // A lease that ran out is an attempt, and rests as one.
    stage.clock.advance(Duration::from_secs(60));
    let again = stage.comes_to_take(&stage.there, "b", 1).await.remove(0);
    assert_eq!((again.message.message_id, again.attempt), (sent, 2));
    refused(stage.settle(&stage.here, "b", &held, Verdict::Ack).await, ErrorCode::Conflict);
    stage.ack(&stage.there, "b", &again).await;
    assert!(again.lease_until > stage.clock.now());
}

pub async fn what_a_hand_gives_back_counts_no_attempt(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let list: Vec<_> = (0..3).map(|n| message("b", n.to_string())).collect();
    stage.send_all(&stage.here, "a", &list).await.unwrap();
    stage.take(&stage.here, "b", 3).await;
    let given =
        insist(|| async { stage.there.mail.give_back(&agent("b"), &id("b"), "another hand").await }).await.unwrap();
    assert_eq!(given, 0);
    // The other waits, and is woken by what is given back.
    let wait = TakeMail { wait: Duration::from_secs(20), ..taking("b", 10) };
    let took = async {
        if stage.is_faulty {
            return stage.comes_to_take(&stage.there, "b", 3).await;
        }
        let (b, who) = (agent("b"), id("b"));
        let taken = timeout(Duration::from_secs(10), stage.there.mail.take(&b, &who, wait));
        taken.await.expect("what was given back wakes who waits").unwrap()
    };
    let gave = async {
        sleep(Duration::from_millis(100)).await;
        insist(|| async { stage.here.mail.give_back(&agent("b"), &id("b"), "b").await }).await.unwrap()
    };
    let (taken, given) = tokio::join!(took, gave);
    assert!(stage.is_faulty || given == 3, "{given}");
    assert_eq!(bodies(&taken), ["0", "1", "2"]);
    assert!(taken.iter().all(|one| one.attempt == 1), "{taken:?}");
    // One alone is given back by its lease, and is there at once.
    if !stage.is_faulty {
        stage.ack_all(&stage.there, "b", &taken[..2]).await;
        stage.settle(&stage.there, "b", &taken[2], Verdict::Return).await.unwrap();
        let again = stage.take(&stage.here, "b", 1).await;
        assert_eq!((bodies(&again), again[0].attempt), (vec!["2"], 1));
    }
}
