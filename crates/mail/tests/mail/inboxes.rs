//! Mailboxes: taking, waiting, settling, looking; whose they are; and what their counts say.

use std::time::{Duration, Instant};

use guildhall_domain::{
    Call, ErrorCode, NewAgent, Principal, PrincipalKind, TenantId,
    mail::{
        Delivered, DeliveryState, Mailbox,
        delivery::{
            DeadLetterQuery, DeadLetterSelection, HistoryQuery, LEASE, NACK_DELAY_MAX, Settling, TAKE_MAX, TakeMail,
            Unread, Verdict,
        },
    },
    principal::roles,
};

use crate::stage::{Engines, Replica, admin, agent, hall, id, message, refused};

pub(crate) fn asking(limit: usize, wait: Duration) -> TakeMail {
    TakeMail { limit, wait, taker: "test".into(), lease: LEASE, told: false }
}

pub(crate) async fn take(replica: &Replica, name: &str) -> Vec<Delivered> {
    replica.mail.take(&agent(name), &id(name), asking(TAKE_MAX, Duration::ZERO)).await.unwrap()
}

/// Takes until there are so many; at once when none are expected.
pub(crate) async fn wait_for(replica: &Replica, name: &str, count: usize) -> Vec<Delivered> {
    let mut taken = take(replica, name).await;
    while taken.len() < count {
        let more = replica.mail.take(&agent(name), &id(name), asking(TAKE_MAX, Duration::from_secs(10))).await.unwrap();
        assert!(!more.is_empty(), "{name} has {} of {count} after 10 s", taken.len());
        taken.extend(more);
    }
    taken
}

pub(crate) fn texts(taken: &[Delivered]) -> Vec<String> {
    taken.iter().map(|one| one.message.body.as_text().to_owned()).collect()
}

pub(crate) fn say(taken: &[Delivered], verdict: &Verdict) -> Vec<Settling> {
    let settling =
        |one: &Delivered| Settling { message_id: one.message.message_id, lease: one.lease, verdict: verdict.clone() };
    taken.iter().map(settling).collect()
}

pub(crate) async fn settle_all(replica: &Replica, name: &str, taken: &[Delivered]) {
    if taken.is_empty() {
        return;
    }
    let settled = replica.mail.settle(&agent(name), &id(name), say(taken, &Verdict::Ack)).await.unwrap();
    assert!(settled.iter().all(Result::is_ok), "{settled:?}");
}

async fn stage() -> (Engines, Replica, Replica) {
    let engines = Engines::embedded();
    let (here, there) = engines.replicas().await;
    for name in ["a", "b", "c"] {
        here.register(name).await;
    }
    (engines, here, there)
}

fn in_pool(name: &str) -> NewAgent {
    NewAgent { pool: Some("builders".into()), ..NewAgent::named(id(name), name) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_is_its_agents_own_and_of_those_who_may_for_all() {
    let (_engines, here, _there) = stage().await;
    here.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
    let (stranger, b) = (agent("c"), id("b"));
    let denied = ErrorCode::PermissionDenied;
    refused(here.mail.take(&stranger, &b, asking(1, Duration::ZERO)).await, denied);
    refused(here.mail.settle(&stranger, &b, vec![]).await, denied);
    refused(here.mail.give_back(&stranger, &b, "test").await, denied);
    refused(here.mail.unread(&stranger, vec![id("c"), b.clone()]).await, denied);
    refused(here.mail.peek(&stranger, &b, 1).await, denied);
    refused(here.mail.history(&stranger, &b, HistoryQuery { after: None, limit: 1 }).await, denied);
    let of_b = Some(Mailbox::Agent(b.clone()));
    let query = DeadLetterQuery { mailbox: of_b.clone(), limit: 1, ..DeadLetterQuery::default() };
    refused(here.mail.dead_letters(&stranger, query).await, denied);
    let all = DeadLetterSelection { mailbox: of_b, all: true, ..DeadLetterSelection::default() };
    refused(here.mail.redrive(&stranger, all.clone()).await, denied);
    refused(here.mail.purge(&stranger, all).await, denied);

    let history = here.mail.history(&admin(), &b, HistoryQuery { after: None, limit: 1 }).await.unwrap();
    assert_eq!((history.total, history.messages[0].state), (1, DeliveryState::Waiting));
    assert_eq!(texts(&here.mail.take(&admin(), &b, asking(1, Duration::ZERO)).await.unwrap()), ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_mailbox_is_an_error_and_never_an_empty_one() {
    let (_engines, here, _there) = stage().await;
    let ghost = id("ghost");
    refused(here.mail.take(&admin(), &ghost, asking(1, Duration::ZERO)).await, ErrorCode::NotFound);
    refused(here.mail.peek(&admin(), &ghost, 1).await, ErrorCode::NotFound);
    refused(here.mail.history(&admin(), &ghost, HistoryQuery { after: None, limit: 1 }).await, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_meant_is_refused_before_anything_is_taken_or_settled() {
    let (_engines, here, _there) = stage().await;
    here.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
    let (call, b) = (agent("b"), id("b"));
    for bad in [
        TakeMail { limit: 0, ..asking(1, Duration::ZERO) },
        TakeMail { limit: TAKE_MAX + 1, ..asking(1, Duration::ZERO) },
        TakeMail { taker: String::new(), ..asking(1, Duration::ZERO) },
        TakeMail { taker: "x\ny".into(), ..asking(1, Duration::ZERO) },
        TakeMail { lease: Duration::ZERO, ..asking(1, Duration::ZERO) },
        TakeMail { lease: Duration::from_secs(24 * 3_600), ..asking(1, Duration::ZERO) },
    ] {
        refused(here.mail.take(&call, &b, bad).await, ErrorCode::InvalidParams);
    }
    let taken = take(&here, "b").await;
    let late = Verdict::Nack { delay: Some(NACK_DELAY_MAX + Duration::from_millis(1)), reason: None };
    refused(here.mail.settle(&call, &b, say(&taken, &late)).await, ErrorCode::InvalidParams);
    let odd = Verdict::Nack { delay: None, reason: Some("a\nb".into()) };
    refused(here.mail.settle(&call, &b, say(&taken, &odd)).await, ErrorCode::InvalidParams);
    refused(here.mail.settle(&call, &b, vec![]).await, ErrorCode::InvalidParams);
    refused(here.mail.peek(&call, &b, 0).await, ErrorCode::InvalidParams);
    refused(here.mail.history(&call, &b, HistoryQuery { after: None, limit: 1_001 }).await, ErrorCode::InvalidParams);
    settle_all(&here, "b", &taken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_lease_does_nothing_and_does_not_spoil_the_others_of_its_call() {
    let (_engines, here, _there) = stage().await;
    here.mail.send(&agent("a"), vec![message("b", "1"), message("b", "2")]).await.unwrap();
    let first = take(&here, "b").await;
    let returned = here.mail.settle(&agent("b"), &id("b"), say(&first[..1], &Verdict::Return)).await.unwrap();
    assert_eq!(returned, [Ok(())]);
    let settled = here.mail.settle(&agent("b"), &id("b"), say(&first, &Verdict::Ack)).await.unwrap();
    assert_eq!(settled[0].as_ref().unwrap_err().code, ErrorCode::Conflict);
    let again = take(&here, "b").await;
    assert!(texts(&again).contains(&"1".to_owned()), "what was returned is lost: {again:?}");
    assert!(again.iter().all(|one| one.attempt == 1), "a return counts as an attempt: {again:?}");
    // In another's hands it is not theirs to settle.
    let theirs = here.mail.settle(&agent("c"), &id("c"), say(&again, &Verdict::Ack)).await.unwrap();
    assert!(theirs.iter().all(|result| result.as_ref().is_err_and(|error| error.code == ErrorCode::Conflict)));
    settle_all(&here, "b", &again).await;
}

/// What the take got, and when.
async fn long_poll(replica: &Replica, name: &str, wait: Duration) -> (Vec<Delivered>, Instant) {
    let taken = replica.mail.take(&agent(name), &id(name), asking(10, wait)).await.unwrap();
    (taken, Instant::now())
}

/// Below the 2 s at which a waiter looks by itself: it was woken.
const WOKEN: Duration = Duration::from_millis(1_500);

async fn who_waits_is_woken(engines: Engines) {
    let (here, there) = engines.replicas().await;
    for name in ["a", "b"] {
        here.register(name).await;
    }
    there.register_as(in_pool("p")).await;
    for to in ["b", "pool:builders"] {
        let taker = if to == "b" { "b" } else { "p" };
        for waiter in [&here, &there] {
            let waiting = long_poll(waiter, taker, Duration::from_secs(10));
            let sending = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                here.mail.send(&agent("a"), vec![message(to, "1")]).await.unwrap();
                Instant::now()
            };
            let ((taken, woken), sent) = tokio::join!(waiting, sending);
            let waited = woken.saturating_duration_since(sent);
            assert_eq!(texts(&taken), ["1"], "{to}");
            assert!(waited < WOKEN, "{to}: woken after {waited:?}");
            settle_all(waiter, taker, &taken).await;
        }
    }
    let waiting = long_poll(&there, "b", Duration::from_secs(10));
    let returning = async {
        here.mail.send(&agent("a"), vec![message("b", "2")]).await.unwrap();
    };
    let ((first, _), ()) = tokio::join!(waiting, returning);
    let again = long_poll(&there, "b", Duration::from_secs(10));
    let put_back = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        (here.mail.give_back(&agent("b"), &id("b"), "test").await.unwrap(), Instant::now())
    };
    let ((second, woken), (given_back, at)) = tokio::join!(again, put_back);
    assert_eq!((texts(&second), given_back), (texts(&first), 1));
    let waited = woken.saturating_duration_since(at);
    assert!(waited < WOKEN, "given back and seen after {waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_woken_by_what_is_sent_or_given_back_on_any_replica() {
    who_waits_is_woken(Engines::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_woken_by_what_is_sent_or_given_back_on_any_replica_distributed() {
    let Some(engines) = Engines::distributed().await else { return };
    who_waits_is_woken(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_mailbox_is_answered_when_the_wait_is_over_and_before_the_calls_deadline() {
    let (_engines, here, _there) = stage().await;
    let begin = Instant::now();
    let (taken, answered) = long_poll(&here, "b", Duration::from_millis(300)).await;
    assert_eq!(taken, []);
    let waited = answered - begin;
    assert!(waited >= Duration::from_millis(300) && waited < WOKEN, "{waited:?}");

    // A quarter of a second of it is kept for the answer.
    let hurried = Call::within(agent("b").principal, Duration::from_secs(1));
    let begin = Instant::now();
    let taken = here.mail.take(&hurried, &id("b"), asking(1, Duration::from_secs(60))).await.unwrap();
    assert_eq!(taken, []);
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(600) && waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taker_that_goes_away_while_it_is_given_mail_loses_none() {
    let (_engines, here, _there) = stage().await;
    for round in 0..40 {
        let (call, b) = (agent("b"), id("b"));
        let mail = here.mail.clone();
        let waiting = tokio::spawn(async move { mail.take(&call, &b, asking(10, Duration::from_secs(10))).await });
        here.mail.send(&agent("a"), vec![message("b", &round.to_string())]).await.unwrap();
        // Somewhere between the hint and the answer.
        tokio::time::sleep(Duration::from_micros(50 * round)).await;
        waiting.abort();
        let got = match waiting.await {
            Ok(taken) => taken.unwrap(),
            Err(_) => wait_for(&here, "b", 1).await,
        };
        assert_eq!(texts(&got), [round.to_string()]);
        assert_eq!(got[0].attempt, 1, "going away counted as an attempt");
        settle_all(&here, "b", &got).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_hand_gives_back_what_it_holds_and_nothing_of_another() {
    let (_engines, here, _there) = stage().await;
    here.mail.send(&agent("a"), vec![message("b", "1")]).await.unwrap();
    here.mail.send(&agent("c"), vec![message("b", "2")]).await.unwrap();
    let by = |taker: &str| TakeMail { taker: taker.into(), ..asking(1, Duration::ZERO) };
    let first = here.mail.take(&agent("b"), &id("b"), by("s/1/")).await.unwrap();
    let second = here.mail.take(&agent("b"), &id("b"), by("s/10/")).await.unwrap();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(here.mail.give_back(&agent("b"), &id("b"), "s/1/").await.unwrap(), 1);
    assert_eq!(here.mail.give_back(&agent("c"), &id("c"), "s/").await.unwrap(), 0);
    settle_all(&here, "b", &second).await;
    let again = here.mail.take(&agent("b"), &id("b"), by("s/1/")).await.unwrap();
    assert_eq!(texts(&again), texts(&first));
    assert_eq!(here.mail.give_back(&agent("b"), &id("b"), "s/").await.unwrap(), 1, "all hands that begin so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unread_counts_the_own_mailbox_and_the_pools() {
    let (_engines, here, _there) = stage().await;
    for name in ["p", "q"] {
        here.register_as(in_pool(name)).await;
    }
    let mut urgent = message("p", "1");
    urgent.priority = guildhall_domain::mail::Priority::Critical;
    here.mail
        .send(
            &agent("a"),
            vec![urgent, message("pool:builders", "2"), message("pool:builders", "3"), message("b", "4")],
        )
        .await
        .unwrap();
    let unread = |waiting, critical| Unread { waiting, critical };
    let few = vec![id("p"), id("b")];
    assert_eq!(here.mail.unread(&hall(), few).await.unwrap(), [unread(3, 1), unread(1, 0)]);
    let many = ["ghost", "q", "a", "p", "b", "c", "p"].map(id).to_vec();
    let wanted = [unread(0, 0), unread(2, 0), unread(0, 0), unread(3, 1), unread(1, 0), unread(0, 0), unread(3, 1)];
    assert_eq!(here.mail.unread(&hall(), many).await.unwrap(), wanted);
    assert_eq!(here.mail.unread(&hall(), vec![]).await.unwrap(), []);
    assert_eq!(here.mail.unread(&agent("b"), vec![id("b")]).await.unwrap(), [unread(1, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_takes_nothing_and_shows_the_pools_mail_too() {
    let (_engines, here, _there) = stage().await;
    here.register_as(in_pool("p")).await;
    here.mail.send(&agent("a"), vec![message("p", "1"), message("pool:builders", "2")]).await.unwrap();
    for _ in 0..2 {
        let seen = here.mail.peek(&agent("p"), &id("p"), 10).await.unwrap();
        assert_eq!(seen.iter().map(|message| message.body.as_text()).collect::<Vec<_>>(), ["1", "2"]);
    }
    let taken = take(&here, "p").await;
    let from: Vec<_> = taken.iter().map(|one| one.mailbox.to_string()).collect();
    assert_eq!((texts(&taken), from), (vec!["1".into(), "2".into()], vec!["agent:p".into(), "pool:builders".into()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pools_mail_is_for_its_members_alone_and_goes_to_one_of_them() {
    let (_engines, here, there) = stage().await;
    for name in ["p", "q"] {
        here.register_as(in_pool(name)).await;
    }
    here.mail.send(&agent("a"), vec![message("pool:builders", "1")]).await.unwrap();
    assert_eq!(take(&here, "b").await, []);
    let (p, q) = (take(&here, "p").await, take(&there, "q").await);
    assert_eq!(p.len() + q.len(), 1, "both were given it, or neither");
    // It moved to another pool; the members of the old one can do without it.
    here.register_as(NewAgent { pool: Some("painters".into()), ..NewAgent::named(id("p"), "p") }).await;
    here.registry.remove(&admin(), &id("q")).await.unwrap();
    refused(there.mail.send(&agent("a"), vec![message("pool:builders", "2")]).await, ErrorCode::NotFound);
}

async fn kill(replica: &Replica, name: &str) {
    for attempt in 1..=5 {
        let taken = wait_for(replica, name, 1).await;
        assert_eq!(taken[0].attempt, attempt);
        let nack = Verdict::Nack { delay: Some(Duration::ZERO), reason: Some("no tools".into()) };
        let settled = replica.mail.settle(&agent(name), &id(name), say(&taken, &nack)).await.unwrap();
        assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_an_agents_own_and_a_pools_members_and_an_administrators_all() {
    let (_engines, here, _there) = stage().await;
    here.register_as(in_pool("p")).await;
    for (to, taker) in [("b", "b"), ("pool:builders", "p"), ("c", "c")] {
        here.mail.send(&agent("a"), vec![message(to, &format!("\"{to}\""))]).await.unwrap();
        kill(&here, taker).await;
    }
    let query = |mailbox: Option<&str>| DeadLetterQuery {
        mailbox: mailbox.map(|mailbox| mailbox.parse().unwrap()),
        limit: 10,
        ..DeadLetterQuery::default()
    };
    let named = async |call: Call, mailbox: Option<&str>| {
        let mut dead: Vec<_> = here
            .mail
            .dead_letters(&call, query(mailbox))
            .await
            .unwrap()
            .into_iter()
            .map(|letter| (letter.mailbox.to_string(), letter.attempts, letter.reason))
            .collect();
        dead.sort();
        dead.into_iter()
            .map(|(mailbox, attempts, reason)| {
                assert_eq!(attempts, 5);
                assert!(reason.contains("no tools"), "{reason}");
                mailbox
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(named(admin(), None).await, ["agent:b", "agent:c", "pool:builders"]);
    assert_eq!(named(admin(), Some("agent:c")).await, ["agent:c"]);
    assert_eq!(named(agent("b"), None).await, ["agent:b"]);
    assert_eq!(named(agent("p"), Some("pool:builders")).await, ["pool:builders"]);
    refused(here.mail.dead_letters(&agent("b"), query(Some("pool:builders"))).await, ErrorCode::PermissionDenied);

    let nothing = DeadLetterSelection::default();
    assert_eq!(here.mail.redrive(&admin(), nothing.clone()).await.unwrap(), 0, "an empty selection meant all");
    assert_eq!(here.mail.purge(&admin(), nothing).await.unwrap(), 0, "an empty selection meant all");
    let all = DeadLetterSelection { all: true, ..DeadLetterSelection::default() };
    let waiting = long_poll(&here, "b", Duration::from_secs(10));
    let redriving = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        (here.mail.redrive(&agent("b"), all.clone()).await.unwrap(), Instant::now())
    };
    let ((again, woken), (redriven, at)) = tokio::join!(waiting, redriving);
    assert_eq!((texts(&again), redriven), (vec!["\"b\"".to_owned()], 1), "only its own");
    let waited = woken.saturating_duration_since(at);
    assert!(waited < WOKEN && again[0].attempt == 1, "{waited:?} {again:?}");
    assert_eq!(here.mail.purge(&agent("c"), all.clone()).await.unwrap(), 1);
    assert_eq!(named(admin(), None).await, ["pool:builders"]);
    let observer = Call::new(Principal::new(TenantId::default(), PrincipalKind::Person, "o", [roles::OBSERVER]));
    refused(here.mail.purge(&observer, all).await, ErrorCode::PermissionDenied);
}
