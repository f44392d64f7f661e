//! Requests: how they move on and end, and what that does to the breaker of who was asked.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use guildhall_domain::{
    Error, ErrorCode, Result, Timestamp,
    mail::{
        Answer, Body, DeliveryState, Mailbox, MessageId, Progress, Request, RequestState,
        delivery::{HistoryQuery, LEASE},
        kind,
    },
    ports::mail_store::{Addressees, Outgoing, RequestTerms, Taking},
};
use serde_json::json;

use super::{NOW, Replica, Stage, act, hall, id, insist, letter, mailbox, request, send, try_send};
use crate::contract::{eventually, store::tenant};

fn at(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn done(said: &str) -> Answer {
    Answer::Done(Body::from_value(&json!({ "said": said })).unwrap())
}

fn failed(why: &str) -> Answer {
    Answer::Failed(why.to_owned())
}

async fn ask(replica: &Replica, from: &str, to: &str) -> MessageId {
    send(replica, &request(from, to, false)).await
}

/// The mail that brings an answer, or tells of a cancellation.
fn about(kind: &str, request: MessageId, from: &str, to: &str) -> Outgoing {
    let mail = letter(from, to);
    let message = guildhall_domain::mail::Message { kind: kind.to_owned(), reply_to: Some(request), ..mail.message };
    Outgoing { receipt: None, message, ..mail }
}

async fn answer(replica: &Replica, request: MessageId, by: &str, answer: &Answer, now: Timestamp) -> Result<Request> {
    insist(async || replica.mail.answer(&hall(), request, &id(by), answer, None, now).await).await
}

async fn cancel(replica: &Replica, request: MessageId, notice: Option<&Outgoing>, now: Timestamp) -> Result<Request> {
    insist(async || replica.mail.cancel(&hall(), request, "no longer needed", notice.cloned(), now).await).await
}

async fn report(replica: &Replica, request: MessageId, progress: f64, now: Timestamp) -> Result<Request> {
    let progress = Progress { progress, total: Some(10.0), note: Some(format!("at {progress}")) };
    insist(async || replica.mail.progress(&hall(), request, &progress, now).await).await
}

async fn request_becomes(replica: &Replica, request: MessageId, wanted: Option<&Request>) {
    let found = async || Ok((replica.mail.request(&hall(), request).await?.as_ref() == wanted).then_some(()));
    eventually(&format!("request {request} is {wanted:?}"), found).await;
}

async fn waiting_become(replica: &Replica, agent: &str, wanted: u64) {
    let found = async || {
        let unread = replica.mail.unread(&hall(), &[mailbox(agent)]).await?;
        Ok((unread[0].waiting == wanted).then_some(()))
    };
    eventually(&format!("{wanted} wait for {agent}"), found).await;
}

/// What was ever sent to an agent, by its kind.
async fn history_becomes(replica: &Replica, agent: &str, wanted: &[(&str, DeliveryState)]) {
    let query = HistoryQuery { after: None, limit: 1_000 };
    let found = async || {
        let history = replica.mail.history(&hall(), &mailbox(agent), &query).await?;
        let found: Vec<_> = history.messages.iter().map(|kept| (kept.message.kind.as_str(), kept.state)).collect();
        Ok((found == wanted).then_some(()))
    };
    eventually(&format!("{agent}'s history is {wanted:?}"), found).await;
}

/// Takes all that waits for an agent. A taking whose answer was lost has leased what it took, which is as good.
async fn take(replica: &Replica, agent: &str) {
    let taking = Taking {
        tenant: hall(),
        mailboxes: vec![mailbox(agent)],
        taker: format!("{agent}/hand"),
        limit: 100,
        lease: LEASE,
        told: true,
        now: NOW,
    };
    insist(async || replica.mail.take(taking.clone()).await).await.unwrap();
}

/// Ends what is due, until nothing is. Gives what ended, as far as the answers tell.
async fn time_out(replica: &Replica, now: Timestamp) -> Vec<MessageId> {
    let mut ended = Vec::new();
    loop {
        let some = insist(async || replica.mail.time_out(now).await).await.unwrap();
        if some.is_empty() {
            return ended;
        }
        for (tenant, request) in some {
            assert_eq!((tenant, request.state, request.ended_at), (hall(), RequestState::TimedOut, Some(now)));
            ended.push(request.request_id);
        }
    }
}

fn assert_conflict(outcome: Result<Request>, says: &str) {
    let refused: Error = outcome.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");
    assert!(refused.message.contains(says), "{says:?} is not in {refused}");
}

pub async fn a_request_reads_back_as_it_was_asked(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let asked = ask(&one, "ada", "bob").await;
    let wanted = Request {
        request_id: asked,
        from: id("ada"),
        to: mailbox("bob"),
        state: RequestState::Pending,
        asked_at: NOW,
        deadline: at(60),
        progress: None,
        answered_by: None,
        answer: None,
        reason: None,
        ended_at: None,
    };
    request_becomes(&other, asked, Some(&wanted)).await;
    waiting_become(&other, "bob", 1).await;

    let pool = Outgoing { to: Addressees::One(Mailbox::Pool("builders".into())), ..request("ada", "unused", true) };
    let asked = send(&one, &pool).await;
    let to = Mailbox::Pool("builders".into());
    request_becomes(&other, asked, Some(&Request { request_id: asked, to: to.clone(), ..wanted })).await;
    let answered = answer(&other, asked, "bob", &done("I"), at(1)).await.unwrap();
    assert_eq!((answered.to, answered.answered_by), (to, Some(id("bob"))));
    request_becomes(&one, letter("ada", "bob").message.message_id, None).await;
}

pub async fn an_answer_ends_a_request_and_the_same_again_is_no_conflict(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let asked = ask(&one, "ada", "bob").await;
    let answered = answer(&one, asked, "bob", &done("yes"), at(1)).await.unwrap();
    let Answer::Done(body) = done("yes") else { unreachable!("it is one") };
    assert_eq!((answered.state, answered.answered_by.clone()), (RequestState::Answered, Some(id("bob"))));
    assert_eq!((answered.answer.clone(), answered.ended_at), (Some(body), Some(at(1))));
    request_becomes(&other, asked, Some(&answered)).await;

    assert_eq!(answer(&other, asked, "bob", &done("yes"), at(2)).await.unwrap(), answered, "its own repeat");
    let says = format!("it was answered at {}", at(1));
    assert_conflict(answer(&other, asked, "bob", &done("no"), at(2)).await, &says);
    assert_conflict(answer(&other, asked, "bob", &failed("no"), at(2)).await, &says);
    assert_conflict(answer(&other, asked, "eve", &done("yes"), at(2)).await, &says);
    assert_conflict(report(&other, asked, 1.0, at(2)).await, &says);
    request_becomes(&one, asked, Some(&answered)).await;
    let unknown = answer(&one, letter("ada", "bob").message.message_id, "bob", &done("yes"), at(1)).await;
    assert_eq!(unknown.unwrap_err().code, ErrorCode::NotFound);
}

pub async fn an_answer_to_who_does_not_wait_comes_as_mail_once(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = ask(&replica, "ada", "bob").await;
    let response = about(kind::RESPONSE, asked, "bob", "ada");
    for (said, good) in [("yes", true), ("yes", true), ("no", false)] {
        let said = done(said);
        let outcome = insist(async || {
            replica.mail.answer(&hall(), asked, &id("bob"), &said, Some(response.clone()), at(1)).await
        });
        assert_eq!(outcome.await.is_ok(), good);
    }
    history_becomes(&replica, "ada", &[(kind::RESPONSE, DeliveryState::Waiting)]).await;
    waiting_become(&replica, "ada", 1).await;
}

pub async fn an_answer_to_who_has_left_is_kept_all_the_same(stage: &Stage) {
    let replica = stage.replica("one");
    crate::contract::store::register_named(&replica, "ada").await;
    let asked = ask(&replica, "ada", "bob").await;
    // Its mailbox is there before it leaves, and is closed with it.
    send(&replica, &letter("bob", "ada")).await;
    insist(async || replica.agents.remove(&hall(), &id("ada"), act("agent.remove", "ada")).await).await.unwrap();
    let (said, response) = (done("yes"), about(kind::RESPONSE, asked, "bob", "ada"));
    let answered =
        insist(async || replica.mail.answer(&hall(), asked, &id("bob"), &said, Some(response.clone()), at(1)).await);
    assert_eq!(answered.await.unwrap().state, RequestState::Answered);
}

pub async fn a_failed_answer_says_why(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = ask(&replica, "ada", "bob").await;
    let answered = answer(&replica, asked, "bob", &failed("no key"), at(1)).await.unwrap();
    assert_eq!((answered.state, answered.reason.as_deref()), (RequestState::Failed, Some("no key")));
    assert_eq!((&answered.answer, &answered.answered_by), (&None, &Some(id("bob"))));
    assert_eq!(answer(&replica, asked, "bob", &failed("no key"), at(2)).await.unwrap(), answered, "its own repeat");
    assert_conflict(answer(&replica, asked, "bob", &done("yes"), at(2)).await, "it was answered with a failure at");
    request_becomes(&replica, asked, Some(&answered)).await;
}

pub async fn progress_only_rises_and_ends_with_the_request(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let asked = ask(&one, "ada", "bob").await;
    for (reported, kept) in [(0.5, 0.5), (9.25, 9.25), (3.0, 9.25), (9.25, 9.25), (10.0, 10.0)] {
        let there = report(&one, asked, reported, at(1)).await.unwrap();
        let wanted = Progress { progress: kept, total: Some(10.0), note: Some(format!("at {kept}")) };
        assert_eq!(there.progress, Some(wanted));
        request_becomes(&other, asked, Some(&there)).await;
    }
    for countless in [f64::NAN, f64::INFINITY, -1.0] {
        let refused = report(&one, asked, countless, at(1)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{countless}");
    }
    assert_conflict(report(&one, asked, 11.0, at(60)).await, &format!("its time was over at {}", at(60)));
    let ended = answer(&one, asked, "bob", &done("yes"), at(2)).await.unwrap();
    assert_eq!(ended.progress.map(|progress| progress.progress), Some(10.0));
}

pub async fn a_request_that_nobody_took_is_withdrawn_when_it_is_cancelled(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    let (asked, kept) = (ask(&one, "ada", "bob").await, ask(&one, "ada", "bob").await);
    waiting_become(&one, "bob", 2).await;
    let notice = about(kind::CANCEL, asked, "ada", "bob");
    let cancelled = cancel(&one, asked, Some(&notice), at(1)).await.unwrap();
    assert_eq!((cancelled.state, cancelled.ended_at), (RequestState::Cancelled, Some(at(1))));
    assert_eq!(cancelled.reason.as_deref(), Some("no longer needed"));
    assert_eq!(cancel(&other, asked, Some(&notice), at(2)).await.unwrap(), cancelled, "its own repeat");
    waiting_become(&other, "bob", 1).await;
    history_becomes(
        &other,
        "bob",
        &[(kind::REQUEST, DeliveryState::Withdrawn), (kind::REQUEST, DeliveryState::Waiting)],
    )
    .await;
    assert_conflict(answer(&one, asked, "bob", &done("yes"), at(3)).await, "it was cancelled by its requester at");
    assert_eq!(answer(&one, kept, "bob", &done("yes"), at(3)).await.unwrap().state, RequestState::Answered);
}

pub async fn a_request_that_someone_holds_is_cancelled_with_a_notice(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = ask(&replica, "ada", "bob").await;
    take(&replica, "bob").await;
    let notice = about(kind::CANCEL, asked, "ada", "bob");
    for _ in 0..2 {
        let cancelled = cancel(&replica, asked, Some(&notice), at(1)).await.unwrap();
        assert_eq!(cancelled.state, RequestState::Cancelled);
    }
    history_becomes(&replica, "bob", &[(kind::REQUEST, DeliveryState::Leased), (kind::CANCEL, DeliveryState::Waiting)])
        .await;
}

pub async fn what_has_ended_is_not_cancelled_any_more(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = ask(&replica, "ada", "bob").await;
    take(&replica, "bob").await;
    let answered = answer(&replica, asked, "bob", &done("yes"), at(1)).await.unwrap();
    let notice = about(kind::CANCEL, asked, "ada", "bob");
    assert_eq!(cancel(&replica, asked, Some(&notice), at(2)).await.unwrap(), answered);
    history_becomes(&replica, "bob", &[(kind::REQUEST, DeliveryState::Leased)]).await;
    let unknown = cancel(&replica, letter("ada", "bob").message.message_id, None, at(1)).await;
    assert_eq!(unknown.unwrap_err().code, ErrorCode::NotFound);
}

/// Also when no replica has ended it yet: its requester has been told.
pub async fn an_answer_after_the_time_is_over_is_refused(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = ask(&replica, "ada", "bob").await;
    let says = format!("its time was over at {}", at(60));
    assert_conflict(answer(&replica, asked, "bob", &done("late"), at(60)).await, &says);
    assert_eq!(time_out(&replica, at(59)).await, [], "it has a second left");
    time_out(&replica, at(61)).await;
    assert_conflict(answer(&replica, asked, "bob", &done("late"), at(62)).await, &format!("at {}", at(61)));
    let ended = eventually("the request has timed out", async || {
        Ok(replica.mail.request(&hall(), asked).await?.filter(|request| request.state == RequestState::TimedOut))
    });
    assert_eq!(ended.await.reason.as_deref(), Some("nobody answered in time"));
}

pub async fn each_request_times_out_once_whoever_looks(stage: &Stage) {
    let replicas = ["one", "two", "three"].map(|name| stage.replica(name));
    let outgoing: Vec<Outgoing> = (0..250).map(|n| request("ada", &format!("agent-{}", n % 50), false)).collect();
    for some in outgoing.chunks(50) {
        try_send(&replicas[0], some).await.unwrap();
    }
    let in_time = Outgoing {
        request: Some(RequestTerms { deadline: at(120), waits: false }),
        ..request("ada", "agent-0", false)
    };
    let in_time = send(&replicas[0], &in_time).await;
    let held = outgoing[1].message.message_id;
    take(&replicas[0], "agent-1").await;

    let ended = join_all(replicas.iter().map(|replica| time_out(replica, at(60)))).await.concat();
    let distinct: BTreeSet<_> = ended.iter().copied().collect();
    assert_eq!(distinct.len(), ended.len(), "a request has timed out twice");
    let wanted: BTreeSet<_> = outgoing.iter().map(|request| request.message.message_id).collect();
    assert!(distinct == wanted || !stage.answers_once(), "{} of {} have timed out", distinct.len(), wanted.len());
    for (n, request) in outgoing.iter().enumerate().step_by(49) {
        let over = async || {
            let there = replicas[1].mail.request(&hall(), request.message.message_id).await?;
            Ok(there.filter(|there| there.state == RequestState::TimedOut))
        };
        eventually(&format!("request {n} has timed out"), over).await;
    }
    waiting_become(&replicas[2], "agent-0", 1).await;
    waiting_become(&replicas[2], "agent-2", 0).await;
    let state = eventually("what was held is there still", async || {
        let there = replicas[2].mail.message(&hall(), held, None).await?;
        Ok(there.map(|tracked| tracked.deliveries[0].state))
    });
    assert_eq!(state.await, DeliveryState::Leased, "nobody takes from a hand what it holds");
    let pending = answer(&replicas[0], in_time, "agent-0", &done("yes"), at(61)).await.unwrap();
    assert_eq!(pending.state, RequestState::Answered);
}

pub async fn of_answer_cancel_and_clock_one_ends_it(stage: &Stage) {
    let replicas = ["one", "two", "three"].map(|name| stage.replica(name));
    for round in 0..8 {
        let agent = format!("agent-{round}");
        let asked = ask(&replicas[0], "ada", &agent).await;
        let said = done("yes");
        let (answered, cancelled, _) = tokio::join!(
            answer(&replicas[0], asked, &agent, &said, at(1)),
            cancel(&replicas[1], asked, None, at(2)),
            time_out(&replicas[2], at(60)),
        );
        let cancelled = cancelled.unwrap();
        assert!(cancelled.state.is_final(), "{cancelled:?}");
        request_becomes(&replicas[0], asked, Some(&cancelled)).await;
        match answered {
            Ok(answered) => assert_eq!(answered, cancelled),
            Err(refused) => {
                assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");
                assert_ne!(cancelled.state, RequestState::Answered);
            }
        }
    }
}

pub async fn requests_of_one_tenant_are_nothing_to_another(stage: &Stage) {
    let replica = stage.replica("one");
    let asked = ask(&replica, "ada", "bob").await;
    let red = tenant("red");
    let there = insist(async || replica.mail.request(&red, asked).await).await.unwrap();
    assert_eq!(there, None);
    let (said, progress) = (done("yes"), Progress { progress: 1.0, total: None, note: None });
    let answered = insist(async || replica.mail.answer(&red, asked, &id("bob"), &said, None, at(1)).await).await;
    let cancelled = insist(async || replica.mail.cancel(&red, asked, "no", None, at(1)).await).await;
    let moved = insist(async || replica.mail.progress(&red, asked, &progress, at(1)).await).await;
    for refused in [answered, cancelled, moved] {
        assert_eq!(refused.unwrap_err().code, ErrorCode::NotFound);
    }
    let pending = answer(&replica, asked, "bob", &done("yes"), at(1)).await.unwrap();
    assert_eq!((pending.state, pending.progress), (RequestState::Answered, None));
}

/// Asked at that moment.
fn asked_at(seconds: u64, from: &str, to: &str) -> Outgoing {
    let mut outgoing = request(from, to, false);
    outgoing.message.sent_at = at(seconds);
    outgoing.request = Some(RequestTerms { deadline: at(seconds + 60), waits: false });
    outgoing
}

async fn assert_open(replica: &Replica, seconds: u64) {
    let refused = try_send(replica, &[asked_at(seconds, "ada", "bob")]).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::CircuitOpen, "{refused}");
}

pub async fn five_failures_in_a_row_open_the_breaker_and_one_trial_goes_through(stage: &Stage) {
    let (one, other) = (stage.replica("one"), stage.replica("other"));
    // An answer between them starts the count anew.
    for (n, fails) in [true, true, true, true, false, true, true, true, true].into_iter().enumerate() {
        let asked = send(&one, &asked_at(1, "ada", "bob")).await;
        let said = if fails { failed("no") } else { done("yes") };
        answer(&one, asked, "bob", &said, at(n as u64 + 2)).await.unwrap();
    }
    let asked = [send(&one, &asked_at(12, "ada", "bob")).await, send(&one, &asked_at(12, "ada", "bob")).await];
    answer(&other, asked[0], "bob", &failed("no"), at(20)).await.unwrap();
    assert_open(&one, 20).await;
    assert_open(&other, 79).await;
    send(&other, &letter("ada", "bob")).await;
    send(&other, &asked_at(30, "ada", "eve")).await;

    // One that was asked before and fails now makes it no longer.
    answer(&one, asked[1], "bob", &failed("no"), at(50)).await.unwrap();
    let trial = send(&one, &asked_at(80, "ada", "bob")).await;
    assert_open(&one, 80).await;
    assert_open(&other, 139).await;
    answer(&one, trial, "bob", &failed("still no"), at(90)).await.unwrap();
    assert_open(&other, 139).await;
    let trial = send(&other, &asked_at(140, "ada", "bob")).await;
    answer(&other, trial, "bob", &done("yes"), at(141)).await.unwrap();
    for _ in 0..3 {
        send(&one, &asked_at(141, "ada", "bob")).await;
    }
}

pub async fn time_outs_open_the_breaker_as_failures_do(stage: &Stage) {
    let replica = stage.replica("one");
    for _ in 0..4 {
        send(&replica, &asked_at(0, "ada", "bob")).await;
    }
    time_out(&replica, at(60)).await;
    let last = send(&replica, &asked_at(61, "ada", "bob")).await;
    // Whose requester has changed its mind did not fail.
    cancel(&replica, last, None, at(62)).await.unwrap();
    send(&replica, &asked_at(61, "ada", "bob")).await;
    time_out(&replica, at(121)).await;
    assert_open(&replica, 122).await;
    assert_open(&replica, 180).await;
    send(&replica, &asked_at(181, "ada", "bob")).await;
}
