//! What is sent arrives, once and whole, and only where it was meant.

use std::time::Duration;

use guildhall_domain::{
    Clock, ErrorCode, NewAgent, Principal, PrincipalKind, TenantId,
    mail::{
        Body, DeliveryState, Lease, Mailbox, NewMessage, Priority, SEND_MAX,
        body::BODY_MAX_BYTES,
        delivery::{HistoryQuery, LEASE, Settling, Unread, Verdict},
    },
    principal::roles,
};

use super::{
    Stage, admin, agent, agent_of, as_accepted, bodies, id, ids, letter, message, next_key, nothing, refused, taking,
};
use crate::contract::{eventually, insist};

pub async fn what_was_said_arrives_as_it_was_and_is_acknowledged_once(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let first = stage.letter(&stage.here, "b", "a").await;
    let new = NewMessage {
        kind: "task_proposal".into(),
        priority: Priority::Critical,
        body: Body::from_text("{\"b\":1.0,  \"a\":[1e3, 12345678901234567890123, \"\\u00e4ä\"]}").unwrap(),
        idempotency_key: Some(next_key()),
        reply_to: Some(first),
        correlation_id: Some("c".into()),
        conversation_id: Some("d".into()),
        expires_in: Some(Duration::from_secs(3_600)),
        requires_response: true,
        ..letter("b")
    };
    let receipt = stage.send(&stage.here, "a", &new).await.unwrap();
    assert_eq!((receipt.recipients, receipt.duplicate && !stage.is_faulty), (1, false));
    stage.has_waiting(&stage.there, "b", Unread { waiting: 1, critical: 1 }).await;
    let ahead = || async { Ok(Some(stage.there.mail.peek(&agent("b"), &id("b"), 10).await?).filter(|m| m.len() == 1)) };
    let ahead = eventually("it is seen before it is taken", ahead).await.remove(0);
    assert_eq!(ahead, as_accepted(&new, &receipt, "a", &ahead));

    let now = stage.clock.now();
    let taken = stage.take(&stage.there, "b", 1).await.remove(0);
    assert_eq!(taken.message, ahead);
    assert_eq!((taken.mailbox.clone(), taken.attempt, taken.lease_until), (Mailbox::Agent(id("b")), 1, now + LEASE));
    assert!(taken.message.sent_at <= now);
    let leased = |seen: &guildhall_domain::mail::delivery::Tracked| seen.deliveries[0].state == DeliveryState::Leased;
    stage.comes_to_be(&stage.here, receipt.message_id, "leased", leased).await;

    stage.ack(&stage.there, "b", &taken).await;
    let done =
        |seen: &guildhall_domain::mail::delivery::Tracked| seen.deliveries[0].state == DeliveryState::Acknowledged;
    let tracked = stage.comes_to_be(&stage.here, receipt.message_id, "acknowledged", done).await;
    assert_eq!((tracked.recipients, tracked.complete, tracked.deliveries.len()), (1, true, 1));
    assert_eq!(tracked.message, taken.message);
    for reader in ["a", "b"] {
        let seen = insist(|| async { stage.here.mail.message(&agent(reader), receipt.message_id).await }).await;
        assert_eq!(seen.unwrap().message, taken.message, "as {reader} sees it");
    }
    stage.has_waiting(&stage.here, "b", nothing()).await;
    stage.take(&stage.here, "b", 0).await;
    let query = HistoryQuery { after: None, limit: 10 };
    let kept = || async {
        let history = stage.here.mail.history(&agent("b"), &id("b"), query.clone()).await?;
        Ok(history.messages.first().is_some_and(|kept| kept.state == DeliveryState::Acknowledged).then_some(history))
    };
    let history = eventually("the history has it", kept).await;
    assert_eq!((history.total, history.messages.len()), (1, 1));
    assert_eq!(history.messages[0].message, taken.message);
}

pub async fn the_same_key_is_the_same_message_and_never_another(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let new = letter("b");
    let first = stage.send(&stage.here, "a", &new).await.unwrap();
    let again = stage.send(&stage.there, "a", &new).await.unwrap();
    assert_eq!((again.message_id, again.duplicate), (first.message_id, true));
    let other = NewMessage { body: Body::from_text("2").unwrap(), ..new.clone() };
    refused(stage.send(&stage.here, "a", &other).await, ErrorCode::Conflict);
    // Another sender's key is another key.
    let from_b = stage.send(&stage.here, "b", &NewMessage { to: "a".parse().unwrap(), ..new }).await.unwrap();
    assert_ne!(from_b.message_id, first.message_id);
    let taken = stage.take(&stage.here, "b", 1).await;
    assert_eq!(ids(&taken), [first.message_id]);
}

pub async fn a_list_is_accepted_whole_or_not_at_all(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    let refusals = [
        (vec![letter("b"), letter("nobody"), letter("c")], ErrorCode::NotFound),
        (vec![letter("b"), NewMessage { kind: "two words".into(), ..letter("c") }], ErrorCode::InvalidParams),
        (vec![letter("b"), message("c", format!("\"{}\"", "x".repeat(BODY_MAX_BYTES)))], ErrorCode::PayloadTooLarge),
        ((0..=SEND_MAX).map(|_| letter("b")).collect(), ErrorCode::InvalidParams),
        (Vec::new(), ErrorCode::InvalidParams),
    ];
    for (list, code) in refusals {
        refused(stage.send_all(&stage.here, "a", &list).await, code);
    }
    stage.has_waiting(&stage.there, "b", nothing()).await;
    stage.has_waiting(&stage.there, "c", nothing()).await;

    let list: Vec<_> = (0..SEND_MAX).map(|n| message(if n % 2 == 0 { "b" } else { "c" }, n.to_string())).collect();
    let receipts = stage.send_all(&stage.here, "a", &list).await.unwrap();
    let wanted: Vec<_> = receipts.iter().step_by(2).map(|receipt| receipt.message_id).collect();
    let taken = stage.take(&stage.there, "b", SEND_MAX / 2).await;
    assert_eq!(ids(&taken), wanted);
    assert_eq!(bodies(&taken)[..3], ["0", "2", "4"]);
}

pub async fn whoever_is_meant_gets_it_and_the_sender_does_not(stage: &Stage) {
    let with = |name: &str, role: &str, capability: &str, pool: Option<&str>| NewAgent {
        roles: Some([role.to_owned()].into()),
        capabilities: Some([capability.to_owned()].into()),
        pool: pool.map(str::to_owned),
        ..NewAgent::named(id(name), name)
    };
    stage.register(with("a", roles::AGENT, "rust/fmt", None)).await;
    stage.register(with("b", roles::AGENT, "go", Some("builders"))).await;
    stage.register(with("c", roles::OBSERVER, "rust/fmt", Some("builders"))).await;
    let cases = [("ALL", 2, "everyone"), ("role:agent", 1, "agents"), ("capability:rust/fmt", 1, "rust")];
    for (to, recipients, words) in cases {
        let receipt = stage.send(&stage.here, "a", &message(to, format!("\"{words}\""))).await.unwrap();
        assert_eq!(receipt.recipients, recipients, "{to}");
        stage.comes_to_be(&stage.there, receipt.message_id, "with all of them", |seen| seen.complete).await;
    }
    let (at_b, at_c) = (stage.take(&stage.there, "b", 2).await, stage.take(&stage.here, "c", 2).await);
    assert_eq!(bodies(&at_b), ["\"everyone\"", "\"agents\""]);
    assert_eq!(bodies(&at_c), ["\"everyone\"", "\"rust\""]);
    stage.ack_all(&stage.there, "b", &at_b).await;
    stage.ack_all(&stage.here, "c", &at_c).await;
    stage.take(&stage.here, "a", 0).await;

    let pooled = stage.send(&stage.here, "b", &letter("pool:builders")).await.unwrap();
    let taken = stage.take(&stage.there, "c", 1).await.remove(0);
    assert_eq!((taken.message.message_id, &taken.mailbox), (pooled.message_id, &Mailbox::Pool("builders".into())));
    stage.take(&stage.here, "b", 0).await;
    stage.ack(&stage.there, "c", &taken).await;

    for nobody in ["nobody", "role:nobody", "capability:nobody", "pool:nobody", "topic:nobody"] {
        refused(stage.send(&stage.here, "a", &letter(nobody)).await, ErrorCode::NotFound);
    }
}

pub async fn a_full_mailbox_is_an_error_and_has_room_again(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    for _ in 0..stage.mailbox_holds / SEND_MAX {
        let list: Vec<_> = (0..SEND_MAX).map(|_| letter("b")).collect();
        stage.send_all(&stage.here, "a", &list).await.unwrap();
    }
    let one_more = letter("b");
    let full = refused(stage.send(&stage.there, "a", &one_more).await, ErrorCode::MailboxFull);
    assert!(full.message.contains('b'), "it does not say whose: {full}");
    refused(stage.send_all(&stage.here, "a", &[letter("a"), letter("b")]).await, ErrorCode::MailboxFull);
    stage.has_waiting(&stage.here, "a", nothing()).await;

    let taken = stage.take(&stage.there, "b", 100).await;
    stage.ack(&stage.there, "b", &taken[0]).await;
    stage.send(&stage.here, "a", &one_more).await.unwrap();
}

pub async fn nobody_touches_what_is_not_theirs(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    let sent = stage.letter(&stage.here, "a", "b").await;
    let taken = stage.take(&stage.here, "b", 1).await.remove(0);
    let (b, c) = (id("b"), agent("c"));
    let mail = &stage.here.mail;
    let denied = ErrorCode::PermissionDenied;
    refused(insist(|| async { mail.take(&c, &b, taking("c", 1)).await }).await, denied);
    let ack = |lease| vec![Settling { message_id: sent, lease, verdict: Verdict::Ack }];
    refused(insist(|| async { mail.settle(&c, &b, ack(taken.lease)).await }).await, denied);
    refused(insist(|| async { mail.give_back(&c, &b, "b").await }).await, denied);
    refused(insist(|| async { mail.unread(&c, vec![id("c"), b.clone()]).await }).await, denied);
    refused(insist(|| async { mail.peek(&c, &b, 1).await }).await, denied);
    refused(insist(|| async { mail.history(&c, &b, HistoryQuery { after: None, limit: 1 }).await }).await, denied);
    refused(insist(|| async { mail.message(&c, sent).await }).await, ErrorCode::NotFound);
    // Its own mailbox, and someone else's lease.
    let settled = insist(|| async { mail.settle(&c, &id("c"), ack(taken.lease)).await }).await.unwrap();
    refused(settled.into_iter().next().unwrap(), ErrorCode::Conflict);
    let made_up = Lease { hand_out: taken.lease.hand_out + 1, ..taken.lease };
    let settled = insist(|| async { mail.settle(&agent("b"), &b, ack(made_up)).await }).await.unwrap();
    refused(settled.into_iter().next().unwrap(), ErrorCode::Conflict);

    let stranger = agent_of("acme", "b");
    refused(insist(|| async { mail.take(&stranger, &b, taking("b", 1)).await }).await, ErrorCode::NotFound);
    refused(insist(|| async { mail.message(&stranger, sent).await }).await, ErrorCode::NotFound);
    // Who sends is an agent, and may.
    refused(insist(|| async { mail.send(&admin(), vec![letter("b")]).await }).await, ErrorCode::InvalidParams);
    let watcher = Principal::new(TenantId::default(), PrincipalKind::Agent, "a", [roles::OBSERVER]);
    let watcher = guildhall_domain::Call::new(watcher);
    refused(insist(|| async { mail.send(&watcher, vec![letter("b")]).await }).await, denied);
    stage.ack(&stage.there, "b", &taken).await;
}
