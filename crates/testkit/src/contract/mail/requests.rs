//! A request is answered once, moves on, and ends whatever happens.

use std::time::Duration;

use guildhall_domain::{
    Clock, ErrorCode, Result,
    mail::{Answer, Body, DeliveryState, Mailbox, MessageId, NewRequest, Progress, Request, RequestState, kind},
};
use tokio::time::sleep;

use super::{Replica, Stage, agent, bodies, id, letter, message, nothing, refused};
use crate::contract::{eventually, insist};

const TIMEOUT: Duration = Duration::from_secs(30);

fn asks(to: &str, waits: bool) -> NewRequest {
    NewRequest { message: letter(to), timeout: TIMEOUT, waits }
}

async fn ask(replica: &Replica, from: &str, new: &NewRequest) -> Result<Request> {
    insist(|| async { replica.mail.request(&agent(from), new.clone()).await }).await
}

fn done(text: &str) -> Answer {
    Answer::Done(Body::from_text(text).unwrap())
}

/// The request as `who` sees it, once it is so.
async fn comes_to(replica: &Replica, who: &str, request: MessageId, state: RequestState) -> Request {
    let look = || async {
        let seen = replica.mail.request_state(&agent(who), request, None, Duration::ZERO).await?;
        Ok(Some(seen).filter(|seen| seen.state == state))
    };
    eventually(&format!("the request is {}", state.as_str()), look).await
}

pub async fn an_answer_reaches_who_waits_for_it_and_is_given_once(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let new = asks("b", true);
    let asked = ask(&stage.here, "a", &new).await.unwrap();
    let now = stage.clock.now();
    assert_eq!((asked.state, asked.deadline), (RequestState::Pending, now + TIMEOUT));
    assert_eq!((asked.from.clone(), asked.to.clone()), (id("a"), Mailbox::Agent(id("b"))));
    let request = asked.request_id;
    // The same key asks nothing new.
    assert_eq!(ask(&stage.there, "a", &new).await.unwrap(), asked);

    let taken = stage.take(&stage.there, "b", 1).await.remove(0);
    assert_eq!((taken.message.message_id, taken.message.kind.as_str()), (request, kind::REQUEST));
    assert!(taken.message.requires_response);
    let waits =
        insist(|| async { stage.here.mail.request_state(&agent("a"), request, None, Duration::from_secs(20)).await });
    let answers = async {
        sleep(Duration::from_millis(100)).await;
        insist(|| async { stage.there.mail.answer(&agent("b"), request, done("{\"sum\": 1.0}")).await }).await.unwrap()
    };
    let (seen, answered) = tokio::join!(waits, answers);
    let wanted = Request {
        state: RequestState::Answered,
        answered_by: Some(id("b")),
        answer: Some(Body::from_text("{\"sum\": 1.0}").unwrap()),
        ended_at: Some(now),
        ..asked
    };
    assert_eq!(answered, wanted);
    assert!(stage.is_faulty || seen.as_ref() == Ok(&wanted), "{seen:?}");
    assert_eq!(comes_to(&stage.here, "a", request, RequestState::Answered).await, wanted);
    stage.ack(&stage.there, "b", &taken).await;

    refused(
        insist(|| async { stage.here.mail.answer(&agent("b"), request, done("2")).await }).await,
        ErrorCode::Conflict,
    );
    let cancelled =
        insist(|| async { stage.here.mail.cancel_request(&agent("a"), request, "too late").await }).await.unwrap();
    assert_eq!(cancelled, wanted, "what has ended stays as it ended");

    let asked = ask(&stage.here, "a", &asks("b", true)).await.unwrap();
    let failed = insist(|| async {
        stage.there.mail.answer(&agent("b"), asked.request_id, Answer::Failed("no disk".into())).await
    });
    let failed = failed.await.unwrap();
    assert_eq!((failed.state, failed.reason.as_deref()), (RequestState::Failed, Some("no disk")));
    assert_eq!(comes_to(&stage.here, "a", asked.request_id, RequestState::Failed).await, failed);
}

pub async fn progress_moves_whoever_watches_on_and_only_rises(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let request = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    let at = |progress: f64| Progress { progress, total: Some(10.0), note: Some(format!("step {progress}")) };
    let report = |progress| async move {
        let (mail, progress) = (&stage.there.mail, at(progress));
        insist(|| async { mail.report_progress(&agent("b"), request, progress.clone()).await }).await
    };
    let watch = |known: Option<Progress>| async move {
        let moved = || async {
            let wait = Duration::from_secs(20);
            let seen = stage.here.mail.request_state(&agent("a"), request, known.clone(), wait).await?;
            Ok(Some(seen).filter(|seen| seen.progress != known))
        };
        eventually("the request moves on", moved).await
    };
    let (seen, reported) = tokio::join!(watch(None), async {
        sleep(Duration::from_millis(100)).await;
        report(2.0).await
    });
    reported.unwrap();
    assert_eq!((seen.state, seen.progress), (RequestState::Pending, Some(at(2.0))));
    let (seen, reported) = tokio::join!(watch(Some(at(2.0))), report(5.0));
    reported.unwrap();
    assert_eq!(seen.progress, Some(at(5.0)));
    // One that comes late changes nothing.
    report(3.0).await.unwrap();
    let known = comes_to(&stage.there, "b", request, RequestState::Pending).await;
    assert!(known.progress == Some(at(5.0)) || stage.is_faulty, "{known:?}");
    for bad in [f64::NAN, -1.0, f64::INFINITY] {
        refused(report(bad).await, ErrorCode::InvalidParams);
    }
    insist(|| async { stage.there.mail.answer(&agent("b"), request, done("1")).await }).await.unwrap();
    refused(report(9.0).await, ErrorCode::Conflict);
}

pub async fn who_does_not_wait_gets_the_answer_as_mail(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let request = ask(&stage.here, "a", &asks("b", false)).await.unwrap().request_id;
    insist(|| async { stage.there.mail.answer(&agent("b"), request, done("{\"sum\": 1.0}")).await }).await.unwrap();
    let answer = stage.take(&stage.here, "a", 1).await.remove(0);
    assert_eq!((answer.message.kind.as_str(), answer.message.reply_to), (kind::RESPONSE, Some(request)));
    assert_eq!((bodies(std::slice::from_ref(&answer)), answer.message.from.clone()), (vec!["{\"sum\": 1.0}"], id("b")));
    stage.ack(&stage.here, "a", &answer).await;
    // Who waits has it in its hands.
    let waited = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    insist(|| async { stage.there.mail.answer(&agent("b"), waited, done("1")).await }).await.unwrap();
    stage.take(&stage.here, "a", 0).await;
}

pub async fn a_cancelled_request_is_taken_back_or_its_taker_is_told(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let untaken = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    let denied = insist(|| async { stage.there.mail.cancel_request(&agent("b"), untaken, "no").await }).await;
    refused(denied, ErrorCode::PermissionDenied);
    let cancelled =
        insist(|| async { stage.there.mail.cancel_request(&agent("a"), untaken, "not needed").await }).await.unwrap();
    assert_eq!((cancelled.state, cancelled.reason.as_deref()), (RequestState::Cancelled, Some("not needed")));
    stage.take(&stage.there, "b", 0).await;
    stage.has_waiting(&stage.here, "b", nothing()).await;
    let withdrawn =
        |seen: &guildhall_domain::mail::delivery::Tracked| seen.deliveries[0].state == DeliveryState::Withdrawn;
    stage.comes_to_be(&stage.here, untaken, "withdrawn", withdrawn).await;

    let taken = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    let held = stage.take(&stage.there, "b", 1).await.remove(0);
    insist(|| async { stage.here.mail.cancel_request(&agent("a"), taken, "not needed").await }).await.unwrap();
    // At once, though the request itself is still in its hands.
    let told = || async {
        let told = stage.once(&stage.there, "b", 100).await?;
        if let Some(told) = told.into_iter().find(|one| one.message.kind == kind::CANCEL) {
            return Ok(Some(told.message));
        }
        insist(|| async { stage.there.mail.give_back(&agent("b"), &id("b"), "b").await }).await.map(|_| None)
    };
    assert_eq!(eventually("its taker is told", told).await.reply_to, Some(taken));
    if !stage.is_faulty {
        stage.ack(&stage.there, "b", &held).await;
    }
    let late = insist(|| async { stage.there.mail.answer(&agent("b"), taken, done("1")).await }).await;
    refused(late, ErrorCode::Conflict);
}

pub async fn a_request_that_nobody_answers_ends_and_too_many_open_the_breaker(stage: &Stage) {
    stage.agents(&["a", "b"]).await;
    let mut last = None;
    for _ in 0..5 {
        last = Some(ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id);
    }
    stage.clock.advance(TIMEOUT);
    let over = comes_to(&stage.there, "a", last.unwrap(), RequestState::TimedOut).await;
    assert!(over.reason.is_some() && over.ended_at == Some(stage.clock.now()), "{over:?}");
    refused(
        insist(|| async { stage.there.mail.answer(&agent("b"), last.unwrap(), done("1")).await }).await,
        ErrorCode::Conflict,
    );
    // What was asked waits for nobody any more.
    stage.has_waiting(&stage.here, "b", nothing()).await;

    let open = refused(ask(&stage.there, "a", &asks("b", true)).await, ErrorCode::CircuitOpen);
    assert!(open.retry_after.is_some_and(|wait| wait <= Duration::from_secs(60)), "{open:?}");
    // Plain mail still goes.
    stage.letter(&stage.here, "a", "b").await;
    stage.clock.advance(Duration::from_secs(61));
    let trial = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    insist(|| async { stage.there.mail.answer(&agent("b"), trial, done("1")).await }).await.unwrap();
    ask(&stage.here, "a", &asks("b", true)).await.unwrap();
}

pub async fn a_wait_that_would_close_a_circle_is_refused(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    let first = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    ask(&stage.there, "b", &asks("c", true)).await.unwrap();
    refused(ask(&stage.here, "c", &asks("a", true)).await, ErrorCode::Conflict);
    refused(ask(&stage.here, "c", &asks("c", true)).await, ErrorCode::Conflict);
    // Who does not wait closes nothing.
    ask(&stage.here, "c", &asks("a", false)).await.unwrap();
    insist(|| async { stage.there.mail.answer(&agent("b"), first, done("1")).await }).await.unwrap();
    ask(&stage.there, "c", &asks("a", true)).await.unwrap();
}

pub async fn only_its_two_sides_know_of_a_request(stage: &Stage) {
    stage.agents(&["a", "b", "c"]).await;
    let request = ask(&stage.here, "a", &asks("b", true)).await.unwrap().request_id;
    let unknown = ErrorCode::NotFound;
    let mail = &stage.there.mail;
    refused(insist(|| async { mail.request_state(&agent("c"), request, None, Duration::ZERO).await }).await, unknown);
    refused(insist(|| async { mail.answer(&agent("c"), request, done("1")).await }).await, unknown);
    refused(insist(|| async { mail.cancel_request(&agent("c"), request, "no").await }).await, unknown);
    refused(insist(|| async { mail.answer(&agent("a"), request, done("1")).await }).await, ErrorCode::PermissionDenied);
    for (to, timeout) in [("ALL", TIMEOUT), ("role:agent", TIMEOUT), ("b", Duration::ZERO)] {
        let new = NewRequest { message: message(to, "1"), timeout, waits: true };
        refused(ask(&stage.here, "a", &new).await, ErrorCode::InvalidParams);
    }
    let nobody = NewRequest { message: letter("nobody"), timeout: TIMEOUT, waits: true };
    refused(ask(&stage.here, "a", &nobody).await, unknown);
}
