//! Sending: to whom it goes, what is refused, and what a key and the audit chain remember.

use std::time::Duration;

use guildhall_domain::{
    AuditRecord, Call, Clock, ErrorCode, NewAgent, Principal, PrincipalKind, TenantId,
    audit::AuditQuery,
    mail::{DeliveryState, Mailbox, MessageId, Priority, SEND_MAX, delivery::HistoryQuery, kind},
    principal::roles,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    inboxes::{settle_all, take, texts, wait_for},
    stage::{Engines, KEPT, Reached, Replica, admin, agent, id, message, refused},
};

async fn one() -> (Engines, Reached, Replica) {
    let engines = Engines::embedded();
    let reached = engines.reach("one");
    reached.store.migrate().await.unwrap();
    let replica = Replica::start("one", reached.clone(), engines.clock.clone());
    replica.is_ready().await;
    for name in ["a", "b", "c"] {
        replica.register(name).await;
    }
    (engines, reached, replica)
}

async fn entries(reached: &Reached) -> Vec<AuditRecord> {
    let query = AuditQuery { act: Some("message.send".into()), ..AuditQuery::default() };
    reached.audit.query(&TenantId::default(), &query).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_comes_to_its_receiver_as_it_was_said_and_to_nobody_else() {
    let (engines, _, replica) = one().await;
    let mut new = message("b", r#"{"n":1.0,  "big":12345678901234567890123}"#);
    new.kind = "task_proposal".into();
    new.priority = Priority::High;
    new.correlation_id = Some("c-1".into());
    new.conversation_id = Some("talk".into());
    new.reply_to = Some(MessageId::from_bytes([7; 16]));
    new.expires_in = Some(Duration::from_secs(60));
    new.requires_response = true;
    let receipts = replica.mail.send(&agent("a"), vec![new.clone()]).await.unwrap();
    assert_eq!((receipts.len(), receipts[0].recipients, receipts[0].duplicate), (1, 1, false));

    let taken = take(&replica, "b").await;
    let [delivered] = &taken[..] else { panic!("{taken:?}") };
    let got = &delivered.message;
    assert_eq!(got.message_id, receipts[0].message_id);
    assert_eq!((&got.from, &got.to, &got.kind, got.priority), (&id("a"), &new.to, &new.kind, new.priority));
    assert_eq!(got.body.as_text(), new.body.as_text());
    assert_eq!(
        (got.sent_at, got.expires_at),
        (engines.clock.now(), Some(engines.clock.now() + Duration::from_secs(60)))
    );
    assert_eq!(
        (got.reply_to, &got.correlation_id, &got.conversation_id, got.requires_response),
        (new.reply_to, &new.correlation_id, &new.conversation_id, true)
    );
    assert_eq!((&delivered.mailbox, delivered.attempt), (&Mailbox::Agent(id("b")), 1));
    settle_all(&replica, "b", &taken).await;
    for name in ["a", "b", "c"] {
        assert_eq!(take(&replica, name).await, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_rise_in_the_order_of_sending_also_within_one_millisecond() {
    let (engines, _, replica) = one().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let receipts = replica.mail.send(&agent("a"), vec![message("b", "1"); SEND_MAX]).await.unwrap();
        ids.extend(receipts.into_iter().map(|receipt| receipt.message_id));
        engines.clock.set(engines.clock.now() - Duration::from_millis(5));
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_a_role_and_a_capability_mean_all_who_match_but_the_sender() {
    let (_engines, _, replica) = one().await;
    let knows = |name: &str, role: &str, capability: &str| NewAgent {
        roles: Some([role.to_owned()].into()),
        capabilities: Some([capability.to_owned()].into()),
        ..NewAgent::named(id(name), name)
    };
    replica.register_as(knows("a", roles::AGENT, "rust")).await;
    replica.register_as(knows("b", roles::OBSERVER, "rust")).await;
    replica.register_as(knows("c", roles::OBSERVER, "go")).await;
    for (to, reached) in [
        ("ALL", vec!["b", "c"]),
        ("role:observer", vec!["b", "c"]),
        ("capability:rust", vec!["b"]),
        ("capability:go", vec!["c"]),
    ] {
        let receipts = replica.mail.send(&agent("a"), vec![message(to, &json!(to).to_string())]).await.unwrap();
        assert_eq!(receipts[0].recipients as usize, reached.len(), "{to}");
        for name in ["a", "b", "c"] {
            let wanted: &[String] = if reached.contains(&name) { &[json!(to).to_string()] } else { &[] };
            let got = wait_for(&replica, name, wanted.len()).await;
            assert_eq!(texts(&got), wanted, "{to} in the mailbox of {name}");
            assert!(got.iter().all(|got| got.message.to.to_string() == to));
            settle_all(&replica, name, &got).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_message_is_for_those_who_were_there_when_it_was_sent() {
    let (_engines, _, replica) = one().await;
    // More than one transaction delivers, and more than a page of the list holds.
    let crowd = 1_300;
    for n in 0..crowd {
        replica.register(&format!("m-{n}")).await;
    }
    let receipts = replica.mail.send(&agent("a"), vec![message("ALL", "1")]).await.unwrap();
    assert_eq!(receipts[0].recipients, crowd + 2);
    replica.register("late").await;
    for name in ["b", "m-0", "m-700", "m-1299"] {
        assert_eq!(texts(&wait_for(&replica, name, 1).await), ["1"], "{name}");
    }
    let tracked = replica.mail.message(&agent("a"), receipts[0].message_id).await.unwrap();
    assert_eq!((tracked.recipients, tracked.complete, tracked.deliveries.len()), (crowd + 2, true, 100));
    for name in ["a", "late"] {
        assert_eq!(take(&replica, name).await, [], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_nobody_is_refused_by_the_name_of_who_is_missing_and_its_whole_list_with_it() {
    let (_engines, _, replica) = one().await;
    for (to, named) in [
        ("nobody", "nobody"),
        ("role:smith", "role smith"),
        ("capability:smith", "capability smith"),
        ("pool:smiths", "pool smiths"),
        ("topic:smithing", "topic smithing"),
    ] {
        let list = vec![message("b", "1"), message(to, "2")];
        let error = refused(replica.mail.send(&agent("a"), list).await, ErrorCode::NotFound);
        assert!(error.message.contains(named), "{to}: {error}");
    }
    assert_eq!(take(&replica, "b").await, []);
    replica.registry.remove(&admin(), &id("c")).await.unwrap();
    refused(replica.mail.send(&agent("a"), vec![message("c", "1")]).await, ErrorCode::NotFound);
    replica.registry.remove(&admin(), &id("b")).await.unwrap();
    let error = refused(replica.mail.send(&agent("a"), vec![message("ALL", "1")]).await, ErrorCode::NotFound);
    assert!(error.message.contains("no other agent"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_has_left_gets_no_mail_on_any_replica_and_does_again_when_it_is_back() {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    for name in ["a", "b", "c"] {
        here.register(name).await;
    }
    // Both replicas have known b and c; only b has ever had mail.
    for replica in [&here, &there] {
        replica.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
        let refused_list = vec![message("c", "1"), message("nobody", "1")];
        refused(replica.mail.send(&agent("a"), refused_list).await, ErrorCode::NotFound);
    }
    for name in ["b", "c"] {
        here.registry.remove(&admin(), &id(name)).await.unwrap();
        for replica in [&here, &there] {
            let error = refused(replica.mail.send(&agent("a"), vec![message(name, "2")]).await, ErrorCode::NotFound);
            assert!(error.message.contains(&format!("no agent {name}")), "{error}");
        }
        here.register(name).await;
        there.mail.send(&agent("a"), vec![message(name, "3")]).await.unwrap();
        assert_eq!(texts(&take(&here, name).await), ["3"], "another agent of the id was given older mail");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_with_one_bad_message_does_nothing_and_says_which() {
    let (_engines, _, replica) = one().await;
    let bad = guildhall_domain::mail::NewMessage { kind: "two words".into(), ..message("b", "2") };
    let error = refused(replica.mail.send(&agent("a"), vec![message("b", "1"), bad]).await, ErrorCode::InvalidParams);
    assert!(error.message.starts_with("message 2:"), "{error}");
    refused(replica.mail.send(&agent("a"), vec![]).await, ErrorCode::InvalidParams);
    let many = vec![message("b", "1"); SEND_MAX + 1];
    refused(replica.mail.send(&agent("a"), many).await, ErrorCode::InvalidParams);
    let large = message("b", &format!("\"{}\"", "x".repeat(768 * 1024)));
    refused(replica.mail.send(&agent("a"), vec![large]).await, ErrorCode::PayloadTooLarge);
    assert_eq!(take(&replica, "b").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_agent_cannot_send_and_is_told_how_one_does() {
    let (_engines, _, replica) = one().await;
    let error = refused(replica.mail.send(&admin(), vec![message("b", "1")]).await, ErrorCode::InvalidParams);
    assert!(error.message.contains("agent's token"), "{error}");
    let observer = Principal::new(TenantId::default(), PrincipalKind::Agent, "a", [roles::OBSERVER]);
    refused(replica.mail.send(&Call::new(observer), vec![message("b", "1")]).await, ErrorCode::PermissionDenied);
    assert_eq!(take(&replica, "b").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_does_not_cross_a_tenant() {
    let (_engines, _, replica) = one().await;
    let stranger = Principal::new(TenantId::new("other").unwrap(), PrincipalKind::Agent, "a", [roles::ADMIN]);
    let stranger = Call::new(stranger);
    refused(replica.mail.send(&stranger, vec![message("b", "1")]).await, ErrorCode::NotFound);
    let receipts = replica.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
    refused(replica.mail.message(&stranger, receipts[0].message_id).await, ErrorCode::NotFound);
    refused(
        replica.mail.history(&stranger, &id("b"), HistoryQuery { after: None, limit: 10 }).await,
        ErrorCode::NotFound,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_used_again_gives_the_first_receipt_and_with_other_words_a_conflict() {
    let (_engines, reached, replica) = one().await;
    let keyed = |to: &str, body: &str| {
        let mut new = message(to, body);
        new.idempotency_key = Some("once".into());
        new
    };
    let first = replica.mail.send(&agent("a"), vec![keyed("b", r#"{"x":1,"y":2}"#)]).await.unwrap();
    let again = replica.mail.send(&agent("a"), vec![keyed("b", r#"{ "y": 2, "x": 1.0 }"#)]).await.unwrap();
    assert_eq!((again[0].message_id, again[0].duplicate), (first[0].message_id, true));
    refused(replica.mail.send(&agent("a"), vec![keyed("b", "3")]).await, ErrorCode::Conflict);
    refused(replica.mail.send(&agent("a"), vec![keyed("c", r#"{"x":1,"y":2}"#)]).await, ErrorCode::Conflict);
    let other = replica.mail.send(&agent("b"), vec![keyed("b", "3")]).await.unwrap();
    assert!(!other[0].duplicate, "another sender's key is another key");
    let sent: Vec<_> = entries(&reached).await.into_iter().filter(|entry| entry.actor == "a").collect();
    assert_eq!(sent.len(), 1, "a repeat is no second act: {sent:?}");
    assert_eq!(texts(&take(&replica, "b").await).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_its_first_receipt_also_when_nobody_that_it_means_is_left() {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    for name in ["a", "b", "c"] {
        here.register(name).await;
    }
    here.register_as(NewAgent { pool: Some("builders".into()), ..NewAgent::named(id("p"), "p") }).await;
    let keyed = |to: &str, body: &str| {
        let mut new = message(to, body);
        new.idempotency_key = Some(to.into());
        new
    };
    let list = vec![keyed("pool:builders", "1"), keyed("b", "2"), keyed("ALL", "3")];
    let first = here.mail.send(&agent("a"), list.clone()).await.unwrap();
    for name in ["b", "c", "p"] {
        here.registry.remove(&admin(), &id(name)).await.unwrap();
    }
    // One replica remembers those who were here, the other has never known them.
    for replica in [&here, &there] {
        let again = replica.mail.send(&agent("a"), list.clone()).await.unwrap();
        let told: Vec<_> = again.iter().map(|receipt| (receipt.message_id, receipt.recipients)).collect();
        assert_eq!(told, first.iter().map(|receipt| (receipt.message_id, receipt.recipients)).collect::<Vec<_>>());
        assert!(again.iter().all(|receipt| receipt.duplicate));
        refused(replica.mail.send(&agent("a"), vec![keyed("pool:builders", "9")]).await, ErrorCode::Conflict);
        refused(replica.mail.send(&agent("a"), vec![message("pool:builders", "1")]).await, ErrorCode::NotFound);
    }
    // Beside one that goes, in the order of the list.
    there.register("d").await;
    let mixed = vec![list[0].clone(), keyed("d", "4"), list[1].clone()];
    let sent = there.mail.send(&agent("a"), mixed).await.unwrap();
    assert_eq!((sent[0].message_id, sent[2].message_id), (first[0].message_id, first[1].message_id));
    assert_eq!(sent.iter().map(|receipt| receipt.duplicate).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(texts(&take(&there, "d").await), ["4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sends_under_the_name_of_the_hall() {
    let (_engines, _, replica) = one().await;
    let error = refused(replica.mail.send(&agent("hall"), vec![message("b", "1")]).await, ErrorCode::InvalidParams);
    assert!(error.message.contains("reserved"), "{error}");
    refused(replica.mail.send(&agent("a"), vec![message("hall", "1")]).await, ErrorCode::NotFound);
    assert_eq!(take(&replica, "b").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_in_the_audit_chain_by_its_hash_and_never_by_its_words() {
    let (_engines, reached, replica) = one().await;
    let body = r#"{"secret":"swordfish"}"#;
    let receipts = replica.mail.send(&agent("a"), vec![message("b", body), message("ALL", body)]).await.unwrap();
    let entries = entries(&reached).await;
    let said: Vec<_> =
        entries.iter().map(|entry| (entry.actor.as_str(), entry.target.as_str(), entry.body.clone())).collect();
    let hash = hex::encode(Sha256::digest(body));
    let wanted = |receipt: usize| {
        Some(json!({
            "message_id": receipts[receipt].message_id, "type": kind::MESSAGE, "sha256": hash, "bytes": body.len(),
        }))
    };
    assert_eq!(said, [("a", "ALL", wanted(1)), ("a", "agent:b", wanted(0))]);
    assert!(entries.iter().all(|entry| !format!("{entry:?}").contains("swordfish")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_longer_than_mail_is_kept() {
    let (engines, _, replica) = one().await;
    let mut new = message("b", "1");
    new.expires_in = Some(KEPT.age * 2);
    replica.mail.send(&agent("a"), vec![new]).await.unwrap();
    let taken = take(&replica, "b").await;
    assert_eq!(taken[0].message.expires_at, Some(engines.clock.now() + KEPT.age));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_shown_to_its_sender_its_receivers_and_those_who_may_see_all() {
    let (_engines, _, replica) = one().await;
    let to_one = replica.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap()[0].message_id;
    let to_all = replica.mail.send(&agent("a"), vec![message("ALL", "2")]).await.unwrap()[0].message_id;
    for call in [agent("a"), agent("b"), admin()] {
        let tracked = replica.mail.message(&call, to_one).await.unwrap();
        assert_eq!((tracked.recipients, tracked.complete), (1, true));
        let [delivery] = &tracked.deliveries[..] else { panic!("{tracked:?}") };
        assert_eq!((&delivery.mailbox, delivery.state), (&Mailbox::Agent(id("b")), DeliveryState::Waiting));
    }
    let error = refused(replica.mail.message(&agent("c"), to_one).await, ErrorCode::NotFound);
    let unknown = MessageId::from_bytes([9; 16]);
    let none = refused(replica.mail.message(&agent("c"), unknown).await, ErrorCode::NotFound);
    assert_eq!(error.message.replace(&to_one.to_string(), ""), none.message.replace(&unknown.to_string(), ""));
    assert_eq!(replica.mail.message(&agent("a"), to_all).await.unwrap().deliveries.len(), 2);
    let seen = replica.mail.message(&agent("c"), to_all).await.unwrap();
    let mailboxes: Vec<_> = seen.deliveries.iter().map(|delivery| delivery.mailbox.clone()).collect();
    assert_eq!((seen.recipients, mailboxes), (2, vec![Mailbox::Agent(id("c"))]), "a receiver sees who else got it");
}
