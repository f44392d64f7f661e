//! `/api/v1/requests`: asking and waiting, asking and coming back, answering.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use guildhall_domain::{
    Error,
    mail::{MessageId, Progress, Request},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, Json};
use crate::{
    error::Refusal,
    hall::Hall,
    identity::Caller,
    letter::Question,
    mail,
    requests::{self, Answered, Said},
};

type Result<T> = std::result::Result<T, Refusal>;

#[derive(Serialize, ToSchema)]
pub(super) struct AnsweredBody {
    success: bool,
    #[serde(flatten)]
    answered: Answered,
}

#[derive(Serialize, ToSchema)]
pub(super) struct PendingBody {
    success: bool,
    request_id: String,
    /// `pending`, unless the same key was used before and its request has ended.
    state: &'static str,
    /// RFC 3339; without an answer by then it has timed out.
    deadline: String,
}

/// Sends a request and waits for its answer; with `"async": true` answers at once with its id. A client that goes while
/// it waits cancels the request.
#[utoipa::path(post, path = "/api/v1/requests", tag = "requests", request_body = Question, responses(
    (status = 200, body = AnsweredBody), (status = 202, body = PendingBody),
    (status = 409, description = "the wait would close a circle of agents that wait for each other"),
    (status = 502, description = "the other side says that it cannot"),
    (status = 503, description = "the other side keeps failing: its breaker is open"),
    (status = 504, description = "no answer in time")))]
pub(super) async fn send(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Json(question): Json<Question>,
) -> Result<Response> {
    let later = question.later == Some(true);
    let call = hall.sender(&caller.call(), question.from.as_deref()).await?;
    let waiting = hall.ask(&call, question.into_request()?).await?;
    if later {
        let request = waiting.leave();
        let pending = PendingBody {
            success: true,
            request_id: request.request_id.to_string(),
            state: request.state.as_str(),
            deadline: request.deadline.to_string(),
        };
        return Ok((StatusCode::ACCEPTED, Answer(pending)).into_response());
    }
    let answered = requests::answer(waiting.ended(None).await?)?;
    Ok(Answer(AnsweredBody { success: true, answered }).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StateQuery {
    /// How long to wait for it to end or move on, at most 30000; 0 when left out.
    wait_ms: Option<u64>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

/// How a request stands: for both of its sides.
#[utoipa::path(get, path = "/api/v1/requests/{request_id}", tag = "requests",
    params(("request_id" = String, Path), StateQuery),
    responses((status = 200, body = Object), (status = 404)))]
pub(super) async fn get(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(asked): Asked<StateQuery>,
) -> Result<Answer<Request>> {
    let wait = mail::wait(asked.wait_ms)?;
    Ok(Answer(requests::state(&hall, &caller.call(), id.parse()?, wait).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CancelQuery {
    /// Told to the other side.
    reason: Option<String>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

/// Cancels a request that the caller sent. One that has ended stays as it is.
#[utoipa::path(delete, path = "/api/v1/requests/{request_id}", tag = "requests",
    params(("request_id" = String, Path), CancelQuery),
    responses((status = 200, body = Object), (status = 404)))]
pub(super) async fn cancel(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(asked): Asked<CancelQuery>,
) -> Result<Answer<Request>> {
    let reason = asked.reason.as_deref().unwrap_or("the requester cancelled it");
    Ok(Answer(hall.mail.cancel_request(&caller.call(), id.parse()?, reason).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgressBody {
    /// Only ever rises within a request.
    progress: f64,
    total: Option<f64>,
    note: Option<String>,
}

/// By the side that works on it: how far it is.
#[utoipa::path(post, path = "/api/v1/requests/{request_id}/progress", tag = "requests",
    params(("request_id" = String, Path)), request_body = ProgressBody,
    responses((status = 200), (status = 404), (status = 409, description = "the request has ended")))]
pub(super) async fn progress(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<ProgressBody>,
) -> Result<Answer<Value>> {
    let id: MessageId = id.parse()?;
    let progress = Progress { progress: body.progress, total: body.total, note: body.note };
    hall.mail.report_progress(&caller.call(), id, progress).await?;
    Ok(Answer(json!({"success": true, "request_id": id})))
}

/// By the side that was asked: its answer, or why it cannot.
#[utoipa::path(post, path = "/api/v1/requests/{request_id}/answer", tag = "requests",
    params(("request_id" = String, Path)), request_body = Said,
    responses((status = 200), (status = 404), (status = 409, description = "the request has ended")))]
pub(super) async fn answer(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(said): Json<Said>,
) -> Result<Answer<Value>> {
    let request = hall.mail.answer(&caller.call(), id.parse()?, said.into_answer()?).await?;
    let ended = request.ended_at.ok_or_else(|| Error::internal("an answered request goes on; report it"))?;
    Ok(Answer(json!({
        "success": true, "request_id": request.request_id, "state": request.state, "ended_at": ended,
    })))
}
