//! Accepting mail: receipts, bounds, many recipients, agents that leave.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use guildhall_domain::{
    AgentId, ErrorCode, NewAgent, Result, Timestamp,
    audit::AuditQuery,
    mail::{
        Body, DeadLetter, DeliveryState, Mailbox, Message, MessageId, Priority, Receipt, Recipient,
        delivery::{DeadLetterQuery, HistoryQuery, Tracked},
    },
    ports::{
        agent_store::IfPresent,
        bus::Durability,
        mail_store::{Accepted, Addressees, Expanded, MailboxBound, Outgoing, ReceiptKey},
    },
};

use super::{
    BOUND, NOW, Replica, Stage, act, circular, hall, hands::waiting_become, id, insist, letter, mailbox, next_id,
    request, send, try_send,
};
use crate::contract::{eventually, store::tenant};

const ONE_FITS: MailboxBound = MailboxBound { messages: 1 };

/// Both halves of a receipt's key, from words.
fn key(key: &str, said: &str) -> Option<ReceiptKey> {
    let word = |word: &str| {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(word.bytes()).for_each(|(byte, letter)| *byte = letter);
        bytes
    };
    Some(ReceiptKey { key: word(key), fingerprint: word(said) })
}

fn keyed(from: &str, to: &str, with: &str, said: &str) -> Outgoing {
    Outgoing { receipt: key(with, said), ..letter(from, to) }
}

fn sent_at(outgoing: Outgoing, sent_at: Timestamp) -> Outgoing {
    let message = Message { sent_at, ..outgoing.message };
    Outgoing { message, ..outgoing }
}

async fn send_within(replica: &Replica, outgoing: &Outgoing, bound: MailboxBound) -> Result<Accepted> {
    insist(async || replica.mail.send(&hall(), vec![outgoing.clone()], bound).await).await
}

async fn is_refused(replica: &Replica, outgoing: &[Outgoing], code: ErrorCode) {
    assert_eq!(try_send(replica, outgoing).await.unwrap_err().code, code);
}

async fn tracked(replica: &Replica, message: MessageId) -> Option<Tracked> {
    insist(async || replica.mail.message(&hall(), message, None).await).await.unwrap()
}

/// Acts of sending that the audit has, by the message's id.
async fn recorded(replica: &Replica, message: MessageId) -> usize {
    let query = AuditQuery { target: Some(message.to_string()), ..Default::default() };
    insist(async || replica.audit.query(&hall(), &query).await).await.unwrap().len()
}

async fn dead_letters(replica: &Replica, of: &Mailbox) -> Vec<DeadLetter> {
    let query = DeadLetterQuery { mailbox: Some(of.clone()), limit: 100, ..Default::default() };
    insist(async || replica.mail.dead_letters(&hall(), &query).await).await.unwrap()
}

/// The letters of a mailbox, once there are so many.
async fn letters_become(replica: &Replica, of: &Mailbox, how_many: usize) -> Vec<DeadLetter> {
    let look = async || {
        let letters = dead_letters(replica, of).await;
        Ok((letters.len() == how_many).then_some(letters))
    };
    eventually(&format!("{how_many} dead letters of {of}"), look).await
}

async fn register(replica: &Replica, agent: &str) {
    let (new, audit) = (NewAgent::named(id(agent), agent), act("agent.register", agent));
    insist(async || replica.agents.register(&hall(), &new, IfPresent::Update, NOW, audit.clone()).await).await.unwrap();
}

async fn remove(replica: &Replica, agent: &str) {
    insist(async || replica.agents.remove(&hall(), &id(agent), act("agent.remove", agent)).await).await.unwrap();
}

fn agents(how_many: usize) -> Vec<AgentId> {
    (0..how_many).map(|n| id(&format!("agent-{n:04}"))).collect()
}

pub async fn a_message_is_kept_letter_for_letter(stage: &Stage) {
    let replica = stage.replica("one");
    let body = "{\"b\":1.0,  \"a\":[1e3, 12345678901234567890123, \"\\u0041ä\u{1f4ee}\"]}";
    let plain = letter("ada", "bob");
    let rich = Outgoing {
        message: Message {
            message_id: next_id(),
            kind: "task_proposal".into(),
            priority: Priority::Critical,
            body: Body::from_text(body).unwrap(),
            expires_at: Some(NOW + Duration::from_secs(9)),
            reply_to: Some(plain.message.message_id),
            correlation_id: Some("c'1\"".into()),
            conversation_id: Some("ü".into()),
            requires_response: true,
            ..plain.message.clone()
        },
        receipt: None,
        ..plain.clone()
    };
    let to_pool = Outgoing {
        to: Addressees::One(Mailbox::Pool("builders".into())),
        message: Message { to: Recipient::Pool("builders".into()), message_id: next_id(), ..plain.message.clone() },
        receipt: None,
        ..plain.clone()
    };
    for outgoing in [plain, rich, to_pool] {
        let _repeated = try_send(&replica, std::slice::from_ref(&outgoing)).await;
        let id = outgoing.message.message_id;
        let found = eventually("it is kept", async || Ok(tracked(&replica, id).await)).await;
        assert_eq!((&found.message, found.recipients, found.complete), (&outgoing.message, 1, true));
        assert_eq!(found.message.body.as_text(), outgoing.message.body.as_text());
    }
}

pub async fn a_repeat_under_its_key_gives_the_first_receipt_and_adds_nothing(stage: &Stage) {
    let replica = stage.replica("one");
    let first = keyed("ada", "bob", "k", "hello");
    let accepted = try_send(&replica, std::slice::from_ref(&first)).await.unwrap();
    let receipt = Receipt {
        message_id: first.message.message_id,
        recipients: 1,
        durability: Durability::Fsync,
        duplicate: !stage.answers_once() && accepted.receipts[0].duplicate,
    };
    assert_eq!(accepted.receipts, std::slice::from_ref(&receipt));

    // The sender's second attempt has an id of its own, which is given to nobody.
    let again = keyed("ada", "bob", "k", "hello");
    let accepted = try_send(&replica, std::slice::from_ref(&again)).await.unwrap();
    let first_receipt = Receipt { duplicate: true, ..receipt };
    assert_eq!(accepted, Accepted { receipts: vec![first_receipt], ..Default::default() });
    waiting_become(&replica, &mailbox("bob"), 1).await;
    assert_eq!(tracked(&replica, again.message.message_id).await, None);
    assert_eq!(
        (recorded(&replica, first.message.message_id).await, recorded(&replica, again.message.message_id).await),
        (1, 0)
    );
}

pub async fn what_was_given_under_a_key_is_told_for_a_day_to_who_says_the_same(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = async |said: &str, now| {
        let key = key("k", said).unwrap();
        insist(async || replica.mail.receipt(&key, now).await).await
    };
    assert_eq!(asked("hello", NOW).await.unwrap(), None);
    let message_id = send(&replica, &Outgoing { receipt: key("k", "hello"), ..circular("ada", &agents(3)) }).await;
    let given = Receipt { message_id, recipients: 3, durability: Durability::Fsync, duplicate: true };
    let told = async || Ok(asked("hello", NOW).await?.filter(|told| *told == given));
    eventually("the first receipt", told).await;
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(asked("good bye", NOW).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(asked("hello", NOW + day - Duration::from_millis(1)).await.unwrap(), Some(given));
    assert_eq!(asked("hello", NOW + day).await.unwrap(), None);
    assert_eq!(asked("good bye", NOW + day).await.unwrap(), None);
}

pub async fn a_key_that_was_used_for_another_message_is_refused_and_nothing_is_added(stage: &Stage) {
    let replica = stage.replica("one");
    send(&replica, &keyed("ada", "bob", "k", "hello")).await;
    let other = keyed("ada", "eve", "k", "good bye");
    is_refused(&replica, std::slice::from_ref(&other), ErrorCode::Conflict).await;
    assert_eq!(tracked(&replica, other.message.message_id).await, None);
    waiting_become(&replica, &mailbox("eve"), 0).await;
}

pub async fn a_key_is_good_for_a_new_message_after_a_day(stage: &Stage) {
    let replica = stage.replica("one");
    let day = Duration::from_secs(24 * 60 * 60);
    let first = send(&replica, &keyed("ada", "bob", "k", "hello")).await;
    let within = sent_at(keyed("ada", "bob", "k", "hello"), NOW + day - Duration::from_millis(1));
    assert_eq!(send(&replica, &within).await, first);
    let after = sent_at(keyed("ada", "bob", "k", "good bye"), NOW + day);
    assert_eq!(send(&replica, &after).await, after.message.message_id);
    // From now on the key is the later message's.
    let late = sent_at(keyed("ada", "bob", "k", "hello"), NOW + day);
    is_refused(&replica, &[late], ErrorCode::Conflict).await;
    waiting_become(&replica, &mailbox("bob"), 2).await;
}

pub async fn a_list_is_accepted_whole_or_not_at_all(stage: &Stage) {
    let replica = stage.replica("one");
    send(&replica, &keyed("ada", "bob", "k", "hello")).await;
    let (good, bad) = (keyed("ada", "eve", "new", "new"), keyed("ada", "bob", "k", "another"));
    is_refused(&replica, &[good.clone(), circular("ada", &agents(3)), bad], ErrorCode::Conflict).await;
    waiting_become(&replica, &mailbox("eve"), 0).await;
    waiting_become(&replica, &mailbox("agent-0001"), 0).await;
    assert_eq!(recorded(&replica, good.message.message_id).await, 0);

    // What a refused list has used is free again; a list may repeat itself.
    let list = [good.clone(), keyed("ada", "bob", "k", "hello"), keyed("ada", "eve", "new", "new")];
    let accepted = try_send(&replica, &list).await.unwrap();
    assert_eq!(accepted.receipts[0].message_id, good.message.message_id);
    assert_eq!(accepted.receipts[2], Receipt { duplicate: true, ..accepted.receipts[0].clone() });
    assert!(accepted.receipts[1].duplicate);
    waiting_become(&replica, &mailbox("eve"), 1).await;
    waiting_become(&replica, &mailbox("bob"), 1).await;
}

pub async fn of_calls_under_one_key_at_once_one_has_an_effect(stage: &Stage) {
    let replicas = [stage.replica("one"), stage.replica("other")];
    for round in 0..5 {
        // To one mailbox, whose lock would order them, and to so many that none is locked.
        let to_one = |_| keyed("ada", "bob", &format!("one-{round}"), "hello");
        let to_many = |_| Outgoing { receipt: key(&format!("many-{round}"), "all"), ..circular("ada", &agents(65)) };
        for calls in [(0..32).map(to_one).collect::<Vec<_>>(), (0..32).map(to_many).collect()] {
            let answers =
                calls.iter().enumerate().map(|(n, call)| try_send(&replicas[n % 2], std::slice::from_ref(call)));
            let receipts: Vec<Receipt> =
                join_all(answers).await.into_iter().map(|accepted| accepted.unwrap().receipts.remove(0)).collect();
            let ids: BTreeSet<MessageId> = receipts.iter().map(|receipt| receipt.message_id).collect();
            assert_eq!(ids.len(), 1, "one key has got several messages");
            let first = receipts.iter().filter(|receipt| !receipt.duplicate).count();
            assert!(first == 1 || !stage.answers_once(), "{first} calls were told that they were the first");
        }
        waiting_become(&replicas[0], &mailbox("bob"), round + 1).await;
    }
}

pub async fn a_full_mailbox_takes_no_more_and_says_how_many_wait(stage: &Stage) {
    let replica = stage.replica("one");
    let first = letter("ada", "bob");
    send_within(&replica, &first, ONE_FITS).await.unwrap();
    let second = letter("ada", "bob");
    let full = send_within(&replica, &second, ONE_FITS).await.unwrap_err();
    assert_eq!(full.code, ErrorCode::MailboxFull);
    assert!(full.message.contains("bob") && full.message.contains("1 messages wait"), "{full}");
    assert_eq!(tracked(&replica, second.message.message_id).await, None);

    // A repeat is no new message: it has its receipt, full or not. Within a list the bound counts what the list adds.
    let again = send_within(&replica, &first, ONE_FITS).await.unwrap();
    assert_eq!(again.receipts[0].message_id, first.message.message_id);
    let list = vec![letter("ada", "eve"), letter("ada", "eve")];
    let refused = insist(async || replica.mail.send(&hall(), list.clone(), ONE_FITS).await).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::MailboxFull);
    waiting_become(&replica, &mailbox("eve"), 0).await;
}

pub async fn of_a_few_recipients_each_has_it_at_once_and_a_full_one_a_dead_letter(stage: &Stage) {
    let replica = stage.replica("one");
    send(&replica, &letter("ada", "agent-0001")).await;
    let to = agents(3);
    let twice = [to.clone(), to.clone()].concat();
    let circular = circular("ada", &twice);
    let accepted = send_within(&replica, &circular, ONE_FITS).await.unwrap();
    assert_eq!(accepted.receipts[0].recipients, 3, "who is named twice is one recipient");
    assert!(!accepted.underway);
    if stage.answers_once() {
        assert_eq!(accepted.wake, [mailbox("agent-0000"), mailbox("agent-0002")]);
    }
    for (agent, waiting) in [("agent-0000", 1), ("agent-0001", 1), ("agent-0002", 1)] {
        waiting_become(&replica, &mailbox(agent), waiting).await;
    }
    let letters = letters_become(&replica, &mailbox("agent-0001"), 1).await;
    assert_eq!(letters[0].message, circular.message);
    assert_eq!((letters[0].reason.as_str(), letters[0].attempts), ("its mailbox was full", 0));
    let found = tracked(&replica, circular.message.message_id).await.unwrap();
    let states: Vec<_> = found.deliveries.iter().map(|delivery| (delivery.mailbox.clone(), delivery.state)).collect();
    let wanted = [DeliveryState::Waiting, DeliveryState::Dead, DeliveryState::Waiting];
    assert_eq!(states, to.into_iter().map(Mailbox::Agent).zip(wanted).collect::<Vec<_>>());
    assert!(found.complete && found.recipients == 3);
}

pub async fn a_wide_message_reaches_each_mailbox_once_however_many_bring_it(stage: &Stage) {
    let replicas = [stage.replica("one"), stage.replica("other")];
    let to = agents(1_100);
    remove_unregistered(&replicas[0], "agent-0007").await;
    send(&replicas[0], &letter("ada", "agent-0003")).await;
    let (first, second) = (circular("ada", &to), circular("ada", &to[..70]));
    for wide in [&first, &second] {
        let accepted = try_send(&replicas[0], std::slice::from_ref(wide)).await.unwrap();
        assert!(accepted.underway || !stage.answers_once());
        assert!(accepted.wake.is_empty(), "nothing is in a mailbox yet");
    }
    let found = tracked(&replicas[0], first.message.message_id).await.unwrap();
    assert_eq!((found.recipients, found.complete), (1_100, false));

    let two_fit = MailboxBound { messages: 2 };
    let bring = async |replica: &Replica| {
        let (mut deliveries, mut woken) = (0, Vec::new());
        loop {
            let Expanded { deliveries: some, wake, more } =
                insist(async || replica.mail.expand(two_fit, NOW).await).await.unwrap();
            deliveries += some;
            woken.extend(wake);
            if !more {
                return (deliveries, woken);
            }
        }
    };
    let ((one, mut woken), (other, more)) = tokio::join!(bring(&replicas[0]), bring(&replicas[1]));
    woken.extend(more);
    if stage.answers_once() {
        // One of the first has left, and one of the first 70 had room for one of the two.
        assert_eq!((one + other, woken.len()), (1_099 + 68, 1_099 + 68));
    }
    for (agent, waiting) in [
        ("agent-0000", 2),
        ("agent-0003", 2),
        ("agent-0007", 0),
        ("agent-0069", 2),
        ("agent-0070", 1),
        ("agent-1099", 1),
    ] {
        waiting_become(&replicas[0], &mailbox(agent), waiting).await;
    }
    let reasons: Vec<String> =
        letters_become(&replicas[0], &mailbox("agent-0007"), 2).await.into_iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, ["its agent has left", "its agent has left"]);
    assert_eq!(letters_become(&replicas[0], &mailbox("agent-0003"), 1).await[0].reason, "its mailbox was full");
    let complete = async || Ok(tracked(&replicas[0], first.message.message_id).await.filter(|found| found.complete));
    eventually("it has arrived", complete).await;
}

/// Registered and removed: its mailbox is closed, though it never had mail.
async fn remove_unregistered(replica: &Replica, agent: &str) {
    register(replica, agent).await;
    remove(replica, agent).await;
}

pub async fn nothing_is_sent_to_an_agent_that_left_and_its_successor_begins_with_nothing(stage: &Stage) {
    let replica = stage.replica("one");
    register(&replica, "bob").await;
    let (waiting, also) = (letter("ada", "bob"), circular("ada", &[id("bob"), id("eve")]));
    for outgoing in [&waiting, &also] {
        send(&replica, outgoing).await;
    }
    remove(&replica, "bob").await;
    is_refused(&replica, &[letter("ada", "eve"), letter("ada", "bob")], ErrorCode::NotFound).await;
    waiting_become(&replica, &mailbox("bob"), 0).await;
    waiting_become(&replica, &mailbox("eve"), 1).await;
    let letters = letters_become(&replica, &mailbox("bob"), 2).await;
    assert!(letters.iter().all(|letter| letter.reason == "its agent has left" && letter.died_at == NOW), "{letters:?}");
    let late = circular("ada", &[id("bob"), id("eve")]);
    send(&replica, &late).await;
    letters_become(&replica, &mailbox("bob"), 3).await;
    // Who was told before that it was sent is told so again.
    assert_eq!(send(&replica, &waiting).await, waiting.message.message_id);

    register(&replica, "bob").await;
    let first = letter("ada", "bob");
    send(&replica, &first).await;
    waiting_become(&replica, &mailbox("bob"), 1).await;
    let query = HistoryQuery { after: None, limit: 100 };
    let history = async || {
        let history = replica.mail.history(&hall(), &mailbox("bob"), &query).await?;
        let ids: Vec<MessageId> = history.messages.iter().map(|kept| kept.message.message_id).collect();
        Ok((ids == [first.message.message_id] && history.total == 1).then_some(()))
    };
    eventually("the new bob reads what was sent to it and nothing before", history).await;
}

pub async fn a_mailbox_is_one_tenants(stage: &Stage) {
    let replica = stage.replica("one");
    let (red, blue) = (tenant("red"), tenant("blue"));
    let outgoing = letter("ada", "bob");
    insist(async || replica.mail.send(&red, vec![outgoing.clone()], BOUND).await).await.unwrap();
    let bob = [mailbox("bob")];
    for (tenant, waiting) in [(&red, 1), (&blue, 0)] {
        let look = async || Ok((replica.mail.unread(tenant, &bob).await?[0].waiting == waiting).then_some(()));
        eventually(&format!("{waiting} wait for bob of {tenant}"), look).await;
    }
    let elsewhere = insist(async || replica.mail.message(&blue, outgoing.message.message_id, None).await).await;
    assert_eq!(elsewhere.unwrap(), None);
}

/// Lists cross each other's mailboxes in both directions: what locks them in the order of the list waits for ever.
pub async fn senders_at_once_lose_nothing_and_every_mailbox_counts_right(stage: &Stage) {
    const SENDERS: usize = 16;
    const LISTS: usize = 6;
    let replicas = [stage.replica("one"), stage.replica("other")];
    let to = ["bob", "eve", "dan", "kim"];
    let send = |sender: usize| {
        let replica = &replicas[sender % 2];
        async move {
            for n in 0..LISTS {
                let mut list: Vec<Outgoing> = to.iter().map(|to| letter(&format!("sender-{sender}"), to)).collect();
                list.rotate_left((sender + n) % to.len());
                if sender.is_multiple_of(3) {
                    list.push(circular("ada", &[id("kim"), id("bob")]));
                }
                try_send(replica, &list).await.unwrap();
            }
        }
    };
    join_all((0..SENDERS).map(send)).await;
    let circulars = SENDERS.div_ceil(3) * LISTS;
    for agent in to {
        let both = if ["kim", "bob"].contains(&agent) { circulars } else { 0 };
        waiting_become(&replicas[0], &mailbox(agent), (SENDERS * LISTS + both) as u64).await;
    }
}

pub async fn large_and_small_messages_of_many_senders_all_arrive(stage: &Stage) {
    let replica = stage.replica("one");
    let large = Body::from_value(&"ä".repeat(300 * 1024)).unwrap();
    let outgoing: Vec<Outgoing> = (0..60)
        .map(|n| {
            let letter = letter(&format!("sender-{n}"), "bob");
            if n % 3 > 0 {
                return letter;
            }
            let message = Message { body: large.clone(), ..letter.message };
            Outgoing { message, ..letter }
        })
        .collect();
    join_all(outgoing.iter().map(|outgoing| send(&replica, outgoing))).await;
    waiting_become(&replica, &mailbox("bob"), 60).await;
    for outgoing in outgoing.iter().step_by(7) {
        let found = tracked(&replica, outgoing.message.message_id).await.unwrap();
        assert_eq!(found.message, outgoing.message);
    }
}

pub async fn a_wait_that_would_close_a_circle_is_refused(stage: &Stage) {
    let replica = stage.replica("one");
    is_refused(&replica, &[request("ada", "ada", true)], ErrorCode::Conflict).await;
    send(&replica, &request("ada", "bob", true)).await;
    send(&replica, &request("bob", "eve", true)).await;
    for closing in [request("eve", "ada", true), request("eve", "bob", true)] {
        is_refused(&replica, &[closing], ErrorCode::Conflict).await;
    }
    // Who does not wait may ask; another tenant's bob is another; what is over is waited for no more.
    send(&replica, &request("eve", "ada", false)).await;
    let (red, in_red) = (tenant("red"), request("eve", "ada", true));
    insist(async || replica.mail.send(&red, vec![in_red.clone()], BOUND).await).await.unwrap();
    let later = sent_at(request("eve", "ada", true), NOW + Duration::from_secs(60));
    send(&replica, &later).await;

    // Within one call as well.
    let circle = [request("x", "y", true), request("y", "z", true), request("z", "x", true)];
    is_refused(&replica, &circle, ErrorCode::Conflict).await;
    waiting_become(&replica, &mailbox("y"), 0).await;
    try_send(&replica, &circle[..2]).await.unwrap();
}

pub async fn of_two_that_begin_to_wait_for_each_other_at_once_one_is_refused(stage: &Stage) {
    let replicas = [stage.replica("one"), stage.replica("other")];
    for round in 0..10 {
        let (ada, bob) = (format!("ada-{round}"), format!("bob-{round}"));
        let (one, other) = ([request(&ada, &bob, true)], [request(&bob, &ada, true)]);
        let (one, other) = tokio::join!(try_send(&replicas[0], &one), try_send(&replicas[1], &other));
        let codes: Vec<ErrorCode> = [one, other].into_iter().filter_map(Result::err).map(|error| error.code).collect();
        assert_eq!(codes, [ErrorCode::Conflict], "both wait, or neither");
    }
}
