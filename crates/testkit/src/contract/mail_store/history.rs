//! Looking at mail without taking it.

use std::collections::BTreeSet;

use guildhall_domain::{
    ErrorCode, NewAgent, TenantId,
    mail::{
        DeliveryState, Mailbox, MessageId, Priority,
        delivery::{DeadLetterQuery, HistoryQuery, Kept, Unread},
    },
    ports::agent_store::IfPresent,
};

use super::{
    NOW, Replica, Stage, act, circular, hall,
    hands::{Hand, at, delivery_becomes, nack, prior, send_some, waiting_become},
    id, insist, letter, mailbox, send,
    take::to_pool,
};
use crate::contract::{eventually, store::tenant};

fn newest(limit: usize) -> HistoryQuery {
    HistoryQuery { after: None, limit }
}

async fn history_becomes(
    replica: &Replica,
    of: &str,
    query: &HistoryQuery,
    wanted: &[(MessageId, DeliveryState, u32)],
    total: u64,
) -> Vec<Kept> {
    let look = async || {
        let history = replica.mail.history(&hall(), &mailbox(of), query).await?;
        let found = history.messages.iter().map(|kept| (kept.message.message_id, kept.state, kept.attempts));
        let fits = found.collect::<Vec<_>>() == wanted && history.total == total;
        Ok(fits.then_some(history.messages))
    };
    eventually(&format!("{query:?} finds {wanted:?} of {total}"), look).await
}

pub async fn a_history_shows_all_newest_last_whatever_became_of_it(stage: &Stage) {
    let replica = stage.replica("one");
    let mut sent = Vec::new();
    for priority in [Priority::Low, Priority::Critical, Priority::Normal, Priority::High, Priority::Normal] {
        let letter = prior(letter(priority.as_str(), "bob"), priority);
        sent.push((send(&replica, &letter).await, letter.message));
    }
    let bob = Hand::of(stage, &replica, "bob");
    let critical = bob.takes(1, at(0), &[sent[1].0]).await;
    bob.ack(&critical, at(0)).await;
    let high = bob.takes(1, at(0), &[sent[3].0]).await;
    bob.settles(&high[0], nack(Some(1_000), None), at(0)).await;

    use DeliveryState::{Acknowledged, Waiting};
    let all = [
        (sent[0].0, Waiting, 0),
        (sent[1].0, Acknowledged, 0),
        (sent[2].0, Waiting, 0),
        (sent[3].0, Waiting, 1),
        (sent[4].0, Waiting, 0),
    ];
    let kept = history_becomes(&replica, "bob", &newest(10), &all, 5).await;
    assert_eq!(kept[0].message, sent[0].1);
    history_becomes(&replica, "bob", &newest(2), &all[3..], 5).await;
    let after = HistoryQuery { after: Some(sent[1].0), limit: 2 };
    history_becomes(&replica, "bob", &after, &all[2..4], 5).await;
    history_becomes(&replica, "bob", &HistoryQuery { after: Some(sent[4].0), limit: 2 }, &[], 5).await;
    history_becomes(&replica, "nobody", &newest(10), &[], 0).await;

    let unknown = HistoryQuery { after: Some(MessageId::from_bytes([255; 16])), limit: 2 };
    let refused = insist(async || replica.mail.history(&hall(), &mailbox("bob"), &unknown).await).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::NotFound);
    let elsewhere = insist(async || replica.mail.history(&tenant("other"), &mailbox("bob"), &newest(10)).await).await;
    assert_eq!(elsewhere.unwrap().total, 0);
}

pub async fn a_message_is_tracked_to_each_of_its_mailboxes(stage: &Stage) {
    let replica = stage.replica("one");
    let members: Vec<_> = (0..120).map(|n| id(&format!("member-{n:03}"))).collect();
    let few = circular("ada", &members[..3]);
    let sent = send(&replica, &few).await;
    let bob = Hand::of(stage, &replica, "member-001");
    let held = bob.takes(1, at(0), &[sent]).await;
    bob.ack(&held, at(5)).await;
    delivery_becomes(&replica, sent, &mailbox("member-001"), DeliveryState::Acknowledged, 0).await;

    let look = async || {
        let tracked = replica.mail.message(&hall(), sent, None).await?.expect("it is kept");
        Ok((tracked.deliveries[1].settled_at == Some(at(5))).then_some(tracked))
    };
    let tracked = eventually("the ack shows", look).await;
    assert_eq!((tracked.message, tracked.recipients, tracked.complete), (few.message, 3, true));
    let states: Vec<_> = tracked.deliveries.iter().map(|one| (one.mailbox.clone(), one.state)).collect();
    use DeliveryState::{Acknowledged, Waiting};
    let wanted = [("member-000", Waiting), ("member-001", Acknowledged), ("member-002", Waiting)]
        .map(|(of, state)| (mailbox(of), state));
    assert_eq!(states, wanted);

    let track = async |message: MessageId, tenant: TenantId, only: Option<Vec<Mailbox>>| {
        insist(async || replica.mail.message(&tenant, message, only.as_deref()).await).await.unwrap()
    };
    let own = [mailbox("member-002"), Mailbox::Pool("builders".into())];
    let seen = track(sent, hall(), Some(own.to_vec())).await.expect("it is kept");
    assert_eq!(seen.deliveries.iter().map(|one| one.mailbox.clone()).collect::<Vec<_>>(), own[..1]);
    assert_eq!(track(sent, hall(), Some(vec![mailbox("eve")])).await.unwrap().deliveries, []);
    assert_eq!(track(sent, tenant("other"), None).await, None);

    let many = send(&replica, &circular("ada", &members)).await;
    let underway = track(many, hall(), None).await.expect("it is kept");
    assert_eq!((underway.recipients, underway.complete), (120, false));
    let expand = async || {
        let expanded = insist(async || replica.mail.expand(super::BOUND, at(0)).await).await?;
        let tracked = replica.mail.message(&hall(), many, None).await?;
        Ok(tracked.filter(|tracked| tracked.complete && !expanded.more))
    };
    let arrived = eventually("it has reached all", expand).await;
    let mailboxes: BTreeSet<_> = arrived.deliveries.iter().map(|one| one.mailbox.clone()).collect();
    assert_eq!(mailboxes, members[..100].iter().cloned().map(Mailbox::Agent).collect());
}

pub async fn what_waits_is_counted_and_seen_without_being_taken(stage: &Stage) {
    let replica = stage.replica("one");
    let normal = send_some(&replica, "ada", "bob", 2).await;
    let critical = send(&replica, &prior(letter("eve", "bob"), Priority::Critical)).await;
    let pooled = send(&replica, &to_pool("ada", "builders")).await;
    let named = [mailbox("nobody"), mailbox("bob"), Mailbox::Pool("builders".into()), mailbox("bob")];
    let of_bob = Unread { waiting: 3, critical: 1 };
    let wanted = [Unread::default(), of_bob.clone(), Unread { waiting: 1, critical: 0 }, of_bob];
    let count = async || Ok((replica.mail.unread(&hall(), &named).await? == wanted).then_some(()));
    eventually("all are counted", count).await;

    let seen_become = async |limit: usize, wanted: &[MessageId]| {
        let look = async || {
            let seen = replica.mail.peek(&hall(), &named[1..3], limit, at(0)).await?;
            let found: Vec<_> = seen.iter().map(|message| message.message_id).collect();
            Ok((found == wanted).then_some(()))
        };
        eventually(&format!("{wanted:?} are seen"), look).await;
    };
    seen_become(10, &[critical, normal[0], normal[1], pooled]).await;
    seen_become(2, &[critical, normal[0]]).await;
    let bob = Hand::of(stage, &replica, "bob");
    let held = bob.takes(10, at(0), &[critical, normal[0], normal[1]]).await;
    seen_become(11, &[pooled]).await;
    bob.ack(&held, at(0)).await;
    waiting_become(&replica, &mailbox("bob"), 0).await;
}

pub async fn what_an_agent_that_left_was_sent_is_not_for_the_next_of_its_id(stage: &Stage) {
    let replica = stage.replica("one");
    let register = async || {
        let bob = NewAgent::named(id("bob"), "Bob");
        replica.agents.register(&hall(), &bob, IfPresent::Update, NOW, act("agent.register", "bob")).await
    };
    insist(register).await.unwrap();
    let before = send(&replica, &letter("ada", "bob")).await;
    insist(async || replica.agents.remove(&hall(), &id("bob"), act("agent.remove", "bob")).await).await.unwrap();
    insist(register).await.unwrap();
    let after = send(&replica, &letter("ada", "bob")).await;

    history_becomes(&replica, "bob", &newest(10), &[(after, DeliveryState::Waiting, 0)], 1).await;
    let seen = async || replica.mail.message(&hall(), before, Some(&[mailbox("bob")])).await;
    assert_eq!(insist(seen).await.unwrap().unwrap().deliveries, []);
    let letters = |mailbox| DeadLetterQuery { mailbox, limit: 10, ..Default::default() };
    let list = async |query: &DeadLetterQuery| {
        let letters = insist(async || replica.mail.dead_letters(&hall(), query).await).await.unwrap();
        letters.into_iter().map(|letter| letter.message.message_id).collect::<Vec<_>>()
    };
    assert_eq!(list(&letters(Some(mailbox("bob")))).await, []);
    assert_eq!(list(&letters(None)).await, [before]);
    let everything = guildhall_domain::mail::delivery::DeadLetterSelection { all: true, ..Default::default() };
    let audit = act("dead_letter.redrive", "all");
    let redrive = async || replica.mail.redrive(&hall(), &everything, at(1), audit.clone()).await;
    assert_eq!(insist(redrive).await.unwrap(), (0, vec![]));
    Hand::of(stage, &replica, "bob").takes(10, at(1), &[after]).await;
}
