//! `/api/v1/messages`: sending, what was sent to one, taking what waits, settling it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json as Answer,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use guildhall_domain::{
    AgentId, Call, Error,
    mail::{
        Delivered, Lease, MessageId, SEND_MAX,
        delivery::{HistoryQuery, Kept, LEASE, Settling, TAKE_MAX, Tracked, Verdict},
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, Json, OneOrMany};
use crate::{
    error::Refusal,
    hall::Hall,
    handover::{Hand, Handover, Once},
    identity::Caller,
    letter::Letter,
    mail::{self, Sent, whose},
};

type Result<T> = std::result::Result<T, Refusal>;

const LIMIT_DEFAULT: usize = 50;
const HISTORY_MAX: usize = 1_000;
const LEASE_MIN: Duration = Duration::from_secs(1);

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum SentAnswer {
    One {
        success: bool,
        #[serde(flatten)]
        sent: Sent,
    },
    /// To a list: one receipt each, in its order.
    Many { success: bool, receipts: Vec<Sent> },
}

/// Sends a message, or a list of up to 100: all of them or none. Answered once they are durable.
#[utoipa::path(post, path = "/api/v1/messages", tag = "messages", request_body = Letter, responses(
    (status = 200, body = SentAnswer), (status = 403, description = "`from` is not the caller"),
    (status = 404, description = "nobody has this name"), (status = 429, description = "the mailbox is full")))]
pub(super) async fn send(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    letters: OneOrMany<Letter>,
) -> Result<Answer<SentAnswer>> {
    let call = caller.call();
    match letters {
        OneOrMany::One(letter) => {
            let receipt = hall.send(&call, vec![letter]).await?.pop();
            let receipt = receipt.ok_or_else(|| Error::internal("the message was taken without a receipt"))?;
            Ok(Answer(SentAnswer::One { success: true, sent: receipt.into() }))
        }
        OneOrMany::Many(letters) if !(1..=SEND_MAX).contains(&letters.len()) => {
            Err(Error::invalid(format!("a list holds 1 to {SEND_MAX} messages, and this one {}", letters.len())).into())
        }
        OneOrMany::Many(letters) => {
            let receipts = hall.send(&call, letters).await?.into_iter().map(Sent::from).collect();
            Ok(Answer(SentAnswer::Many { success: true, receipts }))
        }
    }
}

/// Whose mail is meant, where it is not the caller's own.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// The caller itself when left out; another one's needs an administrator.
    agent_id: Option<String>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AckMode {
    Auto,
    Manual,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Whose mail; the caller's when left out.
    agent_id: Option<String>,
    /// 1 to 1000, with `pending` 1 to 100; 50 when left out
    limit: Option<usize>,
    /// Only what came after this message.
    after: Option<String>,
    /// True: take what is waiting, critical first, each leased.
    pending: Option<bool>,
    /// With `pending`: how long to wait when there is nothing, at most 30000.
    wait_ms: Option<u64>,
    /// With `pending`: `auto` acknowledges once the answer has been written; `manual` when left out.
    #[param(value_type = Option<String>)]
    ack: Option<AckMode>,
    /// With `pending`: how long the leases last, 1000 to 300000; 300000 when left out.
    lease_ms: Option<u64>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct MessageList {
    success: bool,
    /// Newest last, each with its `state` and `attempts`.
    #[schema(value_type = Vec<Object>)]
    messages: Vec<Kept>,
    /// How many the mailbox keeps in all.
    total: u64,
}

#[derive(Serialize)]
struct TakenList {
    success: bool,
    messages: Vec<Delivered>,
    total: usize,
}

/// The agent's history, newest last, which takes nothing; with `pending=true` what is waiting, each leased to the
/// caller with its `lease`.
#[utoipa::path(get, path = "/api/v1/messages", tag = "messages", params(ListQuery),
    responses((status = 200, body = MessageList)))]
pub(super) async fn list(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Asked(asked): Asked<ListQuery>,
) -> Result<Response> {
    let call = caller.call();
    let agent = whose(&call, asked.agent_id.as_deref())?;
    if asked.pending == Some(true) {
        return take(&hall, &call, agent, asked).await;
    }
    if asked.wait_ms.is_some() || asked.ack.is_some() || asked.lease_ms.is_some() {
        return Err(Error::invalid("wait_ms, ack and lease_ms go with pending=true alone").into());
    }
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    check_limit(limit, HISTORY_MAX)?;
    let after = asked.after.as_deref().map(str::parse::<MessageId>).transpose()?;
    let history = hall.mail.history(&call, &agent, HistoryQuery { after, limit }).await?;
    Ok(Answer(MessageList { success: true, messages: history.messages, total: history.total }).into_response())
}

async fn take(hall: &Hall, call: &Call, agent: AgentId, asked: ListQuery) -> Result<Response> {
    hall.limits.pass(&call.principal).await?;
    if asked.after.is_some() {
        return Err(Error::invalid("after is for history: leave it out with pending=true").into());
    }
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    check_limit(limit, TAKE_MAX)?;
    let wait = mail::wait(asked.wait_ms)?;
    let lease = asked.lease_ms.map_or(LEASE, Duration::from_millis);
    if !(LEASE_MIN..=LEASE).contains(&lease) {
        return Err(Error::invalid(format!("lease_ms is {} to {}", LEASE_MIN.as_millis(), LEASE.as_millis())).into());
    }
    let once = if asked.ack == Some(AckMode::Auto) { Once::Acknowledged } else { Once::Kept };
    let mut hand = Hand::new(hall, call, agent, once);
    let messages = hand.take(limit, wait, lease).await?;
    let handover = Handover::default();
    handover.add(hand);
    let total = messages.len();
    Ok(handover.with(Answer(TakenList { success: true, messages, total }).into_response()))
}

fn check_limit(limit: usize, max: usize) -> guildhall_domain::Result<()> {
    if (1..=max).contains(&limit) { Ok(()) } else { Err(Error::invalid(format!("limit is 1 to {max}"))) }
}

/// How far a message has come: for its sender and its receivers.
#[utoipa::path(get, path = "/api/v1/messages/{message_id}", tag = "messages", params(("message_id" = String, Path)),
    responses((status = 200, body = Object), (status = 404)))]
pub(super) async fn get(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<Tracked>> {
    Ok(Answer(hall.mail.message(&caller.call(), id.parse()?).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseBody {
    /// It came with the message.
    #[schema(value_type = String)]
    lease: Lease,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NackBody {
    /// It came with the message.
    #[schema(value_type = String)]
    lease: Lease,
    /// When to hand it out again, at most an hour from now; after the usual backoff when left out.
    delay_ms: Option<u64>,
    /// Why; kept with the message should it become a dead letter.
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Settled {
    success: bool,
    message_id: String,
}

/// The message is done. A lease that is no longer the newest is refused.
#[utoipa::path(post, path = "/api/v1/messages/{message_id}/ack", tag = "messages",
    params(("message_id" = String, Path), Whose), request_body = LeaseBody,
    responses((status = 200, body = Settled), (status = 409, description = "the lease is stale")))]
pub(super) async fn ack(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(whose): Asked<Whose>,
    Json(body): Json<LeaseBody>,
) -> Result<Answer<Settled>> {
    settle(&hall, &caller, &whose, &id, body.lease, Verdict::Ack).await
}

/// Not now: the message is handed out again later. After 5 attempts it is a dead letter.
#[utoipa::path(post, path = "/api/v1/messages/{message_id}/nack", tag = "messages",
    params(("message_id" = String, Path), Whose), request_body = NackBody,
    responses((status = 200, body = Settled), (status = 409, description = "the lease is stale")))]
pub(super) async fn nack(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(whose): Asked<Whose>,
    Json(body): Json<NackBody>,
) -> Result<Answer<Settled>> {
    let verdict = mail::nack(body.delay_ms, body.reason)?;
    settle(&hall, &caller, &whose, &id, body.lease, verdict).await
}

/// The lease runs anew, for 5 minutes.
#[utoipa::path(post, path = "/api/v1/messages/{message_id}/renew", tag = "messages",
    params(("message_id" = String, Path), Whose), request_body = LeaseBody,
    responses((status = 200, body = Settled), (status = 409, description = "the lease is stale")))]
pub(super) async fn renew(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(whose): Asked<Whose>,
    Json(body): Json<LeaseBody>,
) -> Result<Answer<Settled>> {
    settle(&hall, &caller, &whose, &id, body.lease, Verdict::Renew).await
}

async fn settle(
    hall: &Hall,
    caller: &Caller,
    named: &Whose,
    id: &str,
    lease: Lease,
    verdict: Verdict,
) -> Result<Answer<Settled>> {
    let call = caller.call();
    let agent = whose(&call, named.agent_id.as_deref())?;
    let message_id = id.parse()?;
    hall.settle(&call, &agent, Settling { message_id, lease, verdict }).await?;
    Ok(Answer(Settled { success: true, message_id: message_id.to_string() }))
}
