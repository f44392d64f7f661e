//! Requests: asked, moved on, answered, cancelled, timed out; seen by their two sides; heard of at once on any replica.

use std::time::{Duration, Instant};

use guildhall_domain::{
    Clock, ErrorCode, NewAgent,
    mail::{
        Answer, Body, DeliveryState, MessageId, NewMessage, NewRequest, Priority, Progress, Request, RequestState, kind,
    },
};
use serde_json::json;

use crate::{
    inboxes::{settle_all, take, texts, wait_for},
    stage::{Engines, Replica, admin, agent, id, message, refused},
};

const WAIT: Duration = Duration::from_secs(10);
/// Below the 2 s at which a waiter looks by itself: it was woken.
const WOKEN: Duration = Duration::from_millis(1_500);

fn asking(message: NewMessage, waits: bool) -> NewRequest {
    NewRequest { message, timeout: Duration::from_secs(30), waits }
}

fn done(text: &str) -> Answer {
    Answer::Done(Body::from_text(text).unwrap())
}

async fn stage(engines: &Engines) -> (Replica, Replica) {
    let (here, there) = engines.replicas().await;
    for name in ["a", "b", "c"] {
        here.register(name).await;
    }
    for name in ["p", "q"] {
        let new = NewAgent { pool: Some("builders".into()), ..NewAgent::named(id(name), name) };
        here.register_as(new).await;
    }
    (here, there)
}

async fn ask(replica: &Replica, to: &str, waits: bool) -> Request {
    replica.mail.request(&agent("a"), asking(message(to, r#""how?""#), waits)).await.unwrap()
}

async fn state(replica: &Replica, name: &str, request: MessageId) -> Request {
    replica.mail.request_state(&agent(name), request, None, Duration::ZERO).await.unwrap()
}

/// Waits for news while something happens, and gives how long after it they came.
async fn hear(replica: &Replica, request: MessageId, act: impl Future<Output = ()>) -> (Request, Duration) {
    let hearing = async {
        let request = replica.mail.request_state(&agent("a"), request, None, WAIT).await.unwrap();
        (request, Instant::now())
    };
    let acting = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        act.await;
        Instant::now()
    };
    let ((request, heard), acted) = tokio::join!(hearing, acting);
    (request, heard.saturating_duration_since(acted))
}

async fn an_answer_is_heard(engines: Engines) {
    let (here, there) = stage(&engines).await;
    for (asked_at, answered_at) in [(&here, &there), (&there, &here), (&here, &here)] {
        let request = ask(asked_at, "b", true).await;
        assert_eq!((request.state, &request.from), (RequestState::Pending, &id("a")));
        assert_eq!(request.deadline, engines.clock.now() + Duration::from_secs(30));
        assert_eq!(state(answered_at, "b", request.request_id).await, request);
        let taken = wait_for(answered_at, "b", 1).await;
        let asked = &taken[0].message;
        assert_eq!(
            (asked.kind.as_str(), asked.requires_response, asked.message_id),
            (kind::REQUEST, true, request.request_id)
        );
        let (heard, after) = hear(asked_at, request.request_id, async {
            answered_at.mail.answer(&agent("b"), request.request_id, done(r#"{"so":1.0}"#)).await.unwrap();
        })
        .await;
        assert!(after < WOKEN, "heard after {after:?}");
        assert_eq!((heard.state, &heard.answered_by), (RequestState::Answered, &Some(id("b"))));
        assert_eq!(heard.answer.unwrap().as_text(), r#"{"so":1.0}"#);
        settle_all(answered_at, "b", &taken).await;
        assert_eq!(take(asked_at, "a").await, [], "who waited for its answer gets it once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_hears_the_answer_at_once_whichever_replica_took_it() {
    an_answer_is_heard(Engines::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_hears_the_answer_at_once_whichever_replica_took_it_distributed() {
    let Some(engines) = Engines::distributed().await else { return };
    an_answer_is_heard(engines).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_who_does_not_wait_is_mail_that_names_its_request() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    let question =
        NewMessage { conversation_id: Some("talk".into()), priority: Priority::High, ..message("b", r#""how?""#) };
    let request = here.mail.request(&agent("a"), asking(question, false)).await.unwrap();
    there.mail.answer(&agent("b"), request.request_id, done("[1, 2]")).await.unwrap();
    let got = wait_for(&here, "a", 1).await;
    let response = &got[0].message;
    assert_eq!((response.kind.as_str(), &response.from, response.body.as_text()), (kind::RESPONSE, &id("b"), "[1, 2]"));
    assert_eq!((response.reply_to, response.priority), (Some(request.request_id), Priority::High));
    assert_eq!(response.correlation_id, Some(request.request_id.to_string()));
    assert_eq!(response.conversation_id.as_deref(), Some("talk"));
    settle_all(&here, "a", &got).await;

    let failing = ask(&here, "b", false).await;
    there.mail.answer(&agent("b"), failing.request_id, Answer::Failed("no tools".into())).await.unwrap();
    let ended = state(&here, "a", failing.request_id).await;
    assert_eq!((ended.state, ended.reason.as_deref()), (RequestState::Failed, Some("no tools")));
    let got = wait_for(&here, "a", 1).await;
    assert_eq!(
        got[0].message.body.parse::<serde_json::Value>().unwrap(),
        json!({ "success": false, "reason": "no tools" })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_given_once_and_only_by_who_was_asked() {
    let engines = Engines::embedded();
    let (here, _there) = stage(&engines).await;
    let request = ask(&here, "b", false).await;
    refused(here.mail.answer(&agent("c"), request.request_id, done("1")).await, ErrorCode::NotFound);
    refused(here.mail.answer(&agent("a"), request.request_id, done("1")).await, ErrorCode::PermissionDenied);
    refused(here.mail.answer(&admin(), request.request_id, done("1")).await, ErrorCode::InvalidParams);
    refused(
        here.mail.answer(&agent("b"), request.request_id, Answer::Failed(String::new())).await,
        ErrorCode::InvalidParams,
    );
    here.mail.answer(&agent("b"), request.request_id, done("1")).await.unwrap();
    refused(here.mail.answer(&agent("b"), request.request_id, done("2")).await, ErrorCode::Conflict);
    let late = Progress { progress: 1.0, total: None, note: None };
    refused(here.mail.report_progress(&agent("b"), request.request_id, late).await, ErrorCode::Conflict);
    assert_eq!(texts(&wait_for(&here, "a", 1).await), ["1"]);

    let request = ask(&here, "pool:builders", false).await;
    refused(here.mail.answer(&agent("b"), request.request_id, done("1")).await, ErrorCode::NotFound);
    let answered = here.mail.answer(&agent("q"), request.request_id, done("3")).await.unwrap();
    assert_eq!(answered.answered_by, Some(id("q")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_seen_by_its_two_sides_and_those_who_may_see_all() {
    let engines = Engines::embedded();
    let (here, _there) = stage(&engines).await;
    let (to_b, to_pool) = (ask(&here, "b", false).await, ask(&here, "pool:builders", false).await);
    for (call, request) in [
        (agent("a"), &to_b),
        (agent("b"), &to_b),
        (admin(), &to_b),
        (agent("a"), &to_pool),
        (agent("p"), &to_pool),
        (agent("q"), &to_pool),
    ] {
        let seen = here.mail.request_state(&call, request.request_id, None, Duration::ZERO).await.unwrap();
        assert_eq!(&seen, request);
    }
    for (name, request) in [("c", &to_b), ("p", &to_b), ("b", &to_pool)] {
        let look = here.mail.request_state(&agent(name), request.request_id, None, Duration::ZERO).await;
        refused(look, ErrorCode::NotFound);
        refused(here.mail.cancel_request(&agent(name), request.request_id, "no").await, ErrorCode::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_heard_at_once_and_what_is_known_is_not_told_again() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    let request = ask(&here, "b", true).await;
    let half = Progress { progress: 0.5, total: Some(1.0), note: Some("half way".into()) };
    let (heard, after) = hear(&here, request.request_id, async {
        there.mail.report_progress(&agent("b"), request.request_id, half.clone()).await.unwrap();
    })
    .await;
    assert!(after < WOKEN, "heard after {after:?}");
    assert_eq!((heard.state, heard.progress.as_ref()), (RequestState::Pending, Some(&half)));

    let begin = Instant::now();
    let wait = Duration::from_millis(300);
    let same = here.mail.request_state(&agent("a"), request.request_id, Some(half.clone()), wait).await.unwrap();
    assert_eq!(same, heard);
    assert!(begin.elapsed() >= wait, "told again what was known");
    let back = Progress { progress: 0.25, total: None, note: None };
    here.mail.report_progress(&agent("b"), request.request_id, back).await.unwrap();
    assert_eq!(state(&here, "a", request.request_id).await.progress, Some(half), "progress fell");
    let odd = Progress { progress: f64::NAN, total: None, note: None };
    refused(here.mail.report_progress(&agent("b"), request.request_id, odd).await, ErrorCode::InvalidParams);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_taken_is_cancelled_without_a_word() {
    let engines = Engines::embedded();
    let (here, _there) = stage(&engines).await;
    let request = ask(&here, "b", true).await;
    let cancelled = here.mail.cancel_request(&agent("a"), request.request_id, "changed my mind").await.unwrap();
    assert_eq!((cancelled.state, cancelled.reason.as_deref()), (RequestState::Cancelled, Some("changed my mind")));
    assert_eq!(take(&here, "b").await, []);
    let tracked = here.mail.message(&agent("a"), request.request_id).await.unwrap();
    assert_eq!(tracked.deliveries[0].state, DeliveryState::Withdrawn);
    let again = here.mail.cancel_request(&agent("a"), request.request_id, "again").await.unwrap();
    assert_eq!(again, cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_whoever_works_on_it_ahead_of_what_it_still_holds() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    for priority in [Priority::Normal, Priority::Critical] {
        let question = NewMessage { priority, ..message("b", r#""how?""#) };
        let request = here.mail.request(&agent("a"), asking(question, true)).await.unwrap();
        let held = wait_for(&there, "b", 1).await;
        refused(here.mail.cancel_request(&agent("b"), request.request_id, "no").await, ErrorCode::PermissionDenied);
        let waiting = wait_for(&there, "b", 1);
        let cancelling = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            here.mail.cancel_request(&agent("a"), request.request_id, "too late").await.unwrap()
        };
        let begin = Instant::now();
        let (notice, cancelled) = tokio::join!(waiting, cancelling);
        assert!(begin.elapsed() < WOKEN, "told after {:?}", begin.elapsed());
        assert_eq!(cancelled.state, RequestState::Cancelled);
        let told = &notice[0].message;
        assert_eq!((told.kind.as_str(), told.reply_to), (kind::CANCEL, Some(request.request_id)));
        assert_eq!(
            told.body.parse::<serde_json::Value>().unwrap(),
            json!({ "request_id": request.request_id, "reason": "too late" })
        );
        refused(there.mail.answer(&agent("b"), request.request_id, done("1")).await, ErrorCode::Conflict);
        settle_all(&there, "b", &[held, notice].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_the_member_of_a_pool_that_works_on_it() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    let request = ask(&here, "pool:builders", true).await;
    assert_eq!(take(&there, "q").await.len(), 1);
    here.mail.cancel_request(&agent("a"), request.request_id, "too late").await.unwrap();
    let told = wait_for(&there, "q", 1).await;
    assert_eq!((told[0].message.kind.as_str(), told[0].message.reply_to), (kind::CANCEL, Some(request.request_id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_at_its_deadline_though_the_replica_that_took_it_is_gone() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    let request = ask(&here, "b", true).await;
    drop(here);
    let (heard, after) = hear(&there, request.request_id, async {
        engines.clock.advance(Duration::from_secs(30));
    })
    .await;
    assert_eq!((heard.state, heard.ended_at), (RequestState::TimedOut, Some(engines.clock.now())));
    assert!(after < WOKEN, "ended after {after:?}");
    assert_eq!(take(&there, "b").await, [], "its question is still asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_within_a_moment_of_its_deadline_and_not_at_the_next_look() {
    let engines = Engines::embedded();
    let reached = engines.reach("one");
    reached.store.migrate().await.unwrap();
    let replica = Replica::start("one", reached, std::sync::Arc::new(guildhall_runtime::SystemClock));
    replica.is_ready().await;
    for name in ["a", "b"] {
        replica.register(name).await;
    }
    for timeout in [1_100, 1_300, 1_700].map(Duration::from_millis) {
        let asked = NewRequest { timeout, ..asking(message("b", "1"), false) };
        let begin = Instant::now();
        let request = replica.mail.request(&agent("a"), asked).await.unwrap();
        let ended = replica.mail.request_state(&agent("a"), request.request_id, None, WAIT).await.unwrap();
        let late = begin.elapsed().saturating_sub(timeout);
        assert_eq!(ended.state, RequestState::TimedOut);
        assert!(late < Duration::from_millis(200), "{timeout:?} took {late:?} more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_to_one_who_can_answer_and_comes_from_one_who_can_hear() {
    let engines = Engines::embedded();
    let (here, _there) = stage(&engines).await;
    for to in ["ALL", "role:agent", "capability:x", "topic:t"] {
        refused(here.mail.request(&agent("a"), asking(message(to, "1"), true)).await, ErrorCode::InvalidParams);
    }
    refused(here.mail.request(&agent("a"), asking(message("nobody", "1"), true)).await, ErrorCode::NotFound);
    refused(here.mail.request(&agent("a"), asking(message("pool:nobody", "1"), true)).await, ErrorCode::NotFound);
    refused(here.mail.request(&admin(), asking(message("b", "1"), true)).await, ErrorCode::InvalidParams);
    refused(here.mail.request(&agent("ghost"), asking(message("b", "1"), false)).await, ErrorCode::NotFound);
    let endless = NewRequest { timeout: Duration::from_secs(3_600), ..asking(message("b", "1"), true) };
    refused(here.mail.request(&agent("a"), endless).await, ErrorCode::InvalidParams);
    assert_eq!(take(&here, "b").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_that_would_close_a_circle_are_refused() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    let wait_for = async |replica: &Replica, from: &str, to: &str| {
        replica.mail.request(&agent(from), asking(message(to, "1"), true)).await
    };
    wait_for(&here, "a", "b").await.unwrap();
    wait_for(&there, "b", "c").await.unwrap();
    refused(wait_for(&here, "c", "a").await, ErrorCode::Conflict);
    refused(wait_for(&here, "c", "c").await, ErrorCode::Conflict);
    here.mail.request(&agent("c"), asking(message("a", "1"), false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_repeated_under_its_key_is_the_same_request() {
    let engines = Engines::embedded();
    let (here, there) = stage(&engines).await;
    let keyed = |waits| asking(NewMessage { idempotency_key: Some("once".into()), ..message("b", "1") }, waits);
    let first = here.mail.request(&agent("a"), keyed(true)).await.unwrap();
    engines.clock.advance(Duration::from_secs(1));
    assert_eq!(there.mail.request(&agent("a"), keyed(true)).await.unwrap(), first);
    refused(here.mail.request(&agent("a"), keyed(false)).await, ErrorCode::Conflict);
    there.mail.answer(&agent("b"), first.request_id, done("2")).await.unwrap();
    let ended = here.mail.request(&agent("a"), keyed(true)).await.unwrap();
    assert_eq!((ended.request_id, ended.state), (first.request_id, RequestState::Answered));
    assert_eq!(wait_for(&here, "b", 1).await.len(), 1);
    // Whom it asked has left: it was asked all the same.
    let to_pool = NewMessage { idempotency_key: Some("twice".into()), ..message("pool:builders", "1") };
    let asked = here.mail.request(&agent("a"), asking(to_pool.clone(), true)).await.unwrap();
    for name in ["b", "p", "q"] {
        here.registry.remove(&admin(), &id(name)).await.unwrap();
    }
    for replica in [&here, &there] {
        assert_eq!(replica.mail.request(&agent("a"), keyed(true)).await.unwrap(), ended);
        assert_eq!(replica.mail.request(&agent("a"), asking(to_pool.clone(), true)).await.unwrap(), asked);
    }
}
