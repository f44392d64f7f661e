//! What cannot be delivered is kept, says why, and can be sent again.

use std::time::Duration;

use guildhall_domain::{
    ErrorCode,
    mail::{
        DeadLetter, DeliveryState, Mailbox, NewMessage,
        delivery::{ATTEMPTS_MAX, DeadLetterQuery, DeadLetterSelection, Unread, Verdict},
    },
};

use super::{Replica, Stage, admin, agent, id, letter, nothing, refused};
use crate::contract::{eventually, insist};

fn query(mailbox: Option<&str>) -> DeadLetterQuery {
    DeadLetterQuery { mailbox: mailbox.map(|name| Mailbox::Agent(id(name))), limit: 10, ..DeadLetterQuery::default() }
}

/// The dead letters of an agent's mailbox, once there are so many.
async fn dead(replica: &Replica, who: &str, wanted: usize) -> Vec<DeadLetter> {
    let look = || async {
        let dead = replica.mail.dead_letters(&agent(who), query(None)).await?;
        Ok(Some(dead).filter(|dead| dead.len() == wanted))
    };
    eventually(&format!("{who} has {wanted} dead letters"), look).await
}

pub async fn a_message_dies_after_its_attempts_and_says_why_and_comes_back_when_redriven(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let sent = stage.letter(&stage.here, "a", "b").await;
    for attempt in 1..=ATTEMPTS_MAX {
        let taken = stage.comes_to_take(&stage.here, "b", 1).await.remove(0);
        assert_eq!((taken.message.message_id, taken.attempt), (sent, attempt));
        let nack = Verdict::Nack { delay: None, reason: Some(format!("no disk, {attempt}")) };
        // Behind faults it may be told that its lease was used: by itself, with an answer that was lost.
        let nacked = stage.settle(&stage.here, "b", &taken, nack).await;
        assert!(nacked.is_ok() || stage.is_faulty, "{nacked:?}");
        if attempt < ATTEMPTS_MAX {
            // It rests: who asks at once gets nothing.
            assert!(stage.once(&stage.there, "b", 1).await.is_ok_and(|taken| taken.is_empty()) || stage.is_faulty);
            stage.clock.advance(Duration::from_secs(60));
        }
    }
    let letter = dead(&stage.there, "b", 1).await.remove(0);
    assert_eq!((letter.message.message_id, letter.attempts), (sent, ATTEMPTS_MAX));
    assert_eq!(letter.mailbox, Mailbox::Agent(id("b")));
    assert!(letter.reason.contains(&format!("no disk, {ATTEMPTS_MAX}")), "{}", letter.reason);
    stage.take(&stage.here, "b", 0).await;
    let tracked =
        stage.comes_to_be(&stage.here, sent, "dead", |seen| seen.deliveries[0].state == DeliveryState::Dead).await;
    assert!(tracked.deliveries[0].reason.as_ref().is_some_and(|reason| reason.contains("no disk")), "{tracked:?}");

    let selection = DeadLetterSelection { messages: vec![sent], ..DeadLetterSelection::default() };
    let none =
        insist(|| async { stage.here.mail.redrive(&agent("b"), DeadLetterSelection::default()).await }).await.unwrap();
    assert_eq!(none, 0, "an empty selection is none");
    let redriven = insist(|| async { stage.here.mail.redrive(&agent("b"), selection.clone()).await }).await.unwrap();
    assert!(redriven == 1 || stage.is_faulty, "{redriven}");
    let again = stage.comes_to_take(&stage.there, "b", 1).await.remove(0);
    assert_eq!((again.message.clone(), again.attempt), (letter.message, 1));
    stage.ack(&stage.there, "b", &again).await;
    dead(&stage.here, "b", 0).await;
}

pub async fn what_expires_dies_untaken(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let short = NewMessage { expires_in: Some(Duration::from_secs(10)), ..letter("b") };
    let sent = stage.send(&stage.here, "a", &short).await.unwrap().message_id;
    let kept = stage.letter(&stage.here, "a", "b").await;
    stage.has_waiting(&stage.here, "b", Unread { waiting: 2, critical: 0 }).await;
    stage.clock.advance(Duration::from_secs(11));
    let letter = dead(&stage.there, "b", 1).await.remove(0);
    assert_eq!((letter.message.message_id, letter.attempts), (sent, 0));
    assert!(letter.reason.contains("expired"), "{}", letter.reason);
    let taken = stage.take(&stage.there, "b", 1).await.remove(0);
    assert_eq!(taken.message.message_id, kept);
    stage.ack(&stage.there, "b", &taken).await;
    stage.has_waiting(&stage.here, "b", nothing()).await;

    let gone = insist(|| async {
        stage.here.mail.purge(&agent("b"), DeadLetterSelection { all: true, ..DeadLetterSelection::default() }).await
    });
    let gone = gone.await.unwrap();
    assert!(gone == 1 || stage.is_faulty, "{gone}");
    dead(&stage.there, "b", 0).await;
}

pub async fn dead_letters_are_for_their_mailbox_and_those_who_may_see_all(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    for to in ["b", "c"] {
        let short = NewMessage { expires_in: Some(Duration::from_secs(1)), ..letter(to) };
        stage.send(&stage.here, "a", &short).await.unwrap();
    }
    stage.clock.advance(Duration::from_secs(2));
    let of_b = dead(&stage.here, "b", 1).await.remove(0).message.message_id;
    let of_c = dead(&stage.here, "c", 1).await.remove(0).message.message_id;
    let foreign = insist(|| async { stage.here.mail.dead_letters(&agent("b"), query(Some("c"))).await }).await;
    refused(foreign, ErrorCode::PermissionDenied);
    let foreign = DeadLetterSelection { messages: vec![of_c], ..DeadLetterSelection::default() };
    let redriven = insist(|| async { stage.here.mail.redrive(&agent("b"), foreign.clone()).await }).await.unwrap();
    assert_eq!(redriven, 0, "another's dead letter was sent again");
    let purged = insist(|| async { stage.here.mail.purge(&agent("b"), foreign.clone()).await }).await.unwrap();
    assert_eq!(purged, 0, "another's dead letter was purged");

    let all =
        || async { Ok(Some(stage.here.mail.dead_letters(&admin(), query(None)).await?).filter(|all| all.len() == 2)) };
    let all = eventually("an operator sees both", all).await;
    // Newest first, and page by page.
    let place = (all[0].died_at, all[0].message.message_id);
    let next = DeadLetterQuery { after: Some(place), ..query(None) };
    let rest = insist(|| async { stage.here.mail.dead_letters(&admin(), next.clone()).await }).await.unwrap();
    assert_eq!(rest, all[1..]);
    let one = DeadLetterQuery { message: Some(of_b), ..query(None) };
    let one = insist(|| async { stage.here.mail.dead_letters(&admin(), one.clone()).await }).await.unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].message.message_id, of_b);
}
