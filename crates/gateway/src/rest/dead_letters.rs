//! `/api/v1/dlq`: messages that could not be delivered, and what becomes of them.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Path, State},
};
use guildhall_domain::{
    Error,
    mail::{
        DeadLetter, Mailbox, MessageId,
        delivery::{DeadLetterQuery, DeadLetterSelection},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, Json};
use crate::{
    error::Refusal,
    hall::Hall,
    identity::Caller,
    mail::{dead_letter_cursor, read_dead_letter_cursor},
};

type Result<T> = std::result::Result<T, Refusal>;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Those of this agent's mailbox, or of `pool:<name>`. Left out: the caller's own, or all for an administrator.
    #[param(value_type = Option<String>)]
    agent_id: Option<Mailbox>,
    /// 1 to 1000; 100 when left out
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterList {
    success: bool,
    /// Newest first, each with its `mailbox`, `attempts`, `died_at` and `reason`.
    #[schema(value_type = Vec<Object>)]
    dead_letters: Vec<DeadLetter>,
    /// Give it as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// Dead letters, newest first.
#[utoipa::path(get, path = "/api/v1/dlq", tag = "dead letters", params(ListQuery),
    responses((status = 200, body = DeadLetterList)))]
pub(super) async fn list(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Asked(asked): Asked<ListQuery>,
) -> Result<Answer<DeadLetterList>> {
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::invalid(format!("limit is 1 to {LIMIT_MAX}")).into());
    }
    let after = asked.cursor.as_deref().map(read_dead_letter_cursor).transpose()?;
    let query = DeadLetterQuery { mailbox: asked.agent_id, message: None, after, limit };
    let dead_letters = hall.mail.dead_letters(&caller.call(), query).await?;
    let next_cursor = dead_letter_cursor(&dead_letters, limit);
    Ok(Answer(DeadLetterList { success: true, dead_letters, next_cursor }))
}

/// One message's dead letters: one for each mailbox that it could not be delivered to.
#[utoipa::path(get, path = "/api/v1/dlq/{message_id}", tag = "dead letters", params(("message_id" = String, Path)),
    responses((status = 200, body = DeadLetterList), (status = 404)))]
pub(super) async fn get(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<DeadLetterList>> {
    let id: MessageId = id.parse()?;
    let query = DeadLetterQuery { message: Some(id), limit: LIMIT_MAX, ..DeadLetterQuery::default() };
    let dead_letters = hall.mail.dead_letters(&caller.call(), query).await?;
    if dead_letters.is_empty() {
        return Err(Error::not_found(format!("there is no dead letter {id} that you may see")).into());
    }
    Ok(Answer(DeadLetterList { success: true, dead_letters, next_cursor: None }))
}

/// Which dead letters: `message_ids`, or `agent_id` for all of a mailbox, or `all`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectionBody {
    #[schema(value_type = Option<Vec<String>>)]
    message_ids: Option<Vec<MessageId>>,
    /// An agent's mailbox, or `pool:<name>`; beside `message_ids`: those of them that died there.
    #[schema(value_type = Option<String>)]
    agent_id: Option<Mailbox>,
    /// True: all that the caller may reach.
    all: Option<bool>,
}

impl SelectionBody {
    fn selection(self) -> Result<DeadLetterSelection> {
        let messages = self.message_ids.unwrap_or_default();
        let all = self.all == Some(true) || messages.is_empty() && self.agent_id.is_some();
        if all != messages.is_empty() {
            return Err(Error::invalid(
                "say which dead letters: message_ids (at least one), agent_id for all of a mailbox, or \"all\": true",
            )
            .into());
        }
        Ok(DeadLetterSelection { messages, mailbox: self.agent_id, all })
    }
}

/// Puts dead letters back to where they were to go, as if sent anew.
#[utoipa::path(post, path = "/api/v1/dlq/redrive", tag = "dead letters", request_body = SelectionBody,
    responses((status = 200)))]
pub(super) async fn redrive(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Json(body): Json<SelectionBody>,
) -> Result<Answer<Value>> {
    let redriven = hall.mail.redrive(&caller.call(), body.selection()?).await?;
    Ok(Answer(json!({"success": true, "redriven": redriven})))
}

/// Forgets dead letters for good.
#[utoipa::path(post, path = "/api/v1/dlq/purge", tag = "dead letters", request_body = SelectionBody,
    responses((status = 200)))]
pub(super) async fn purge(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Json(body): Json<SelectionBody>,
) -> Result<Answer<Value>> {
    let purged = hall.mail.purge(&caller.call(), body.selection()?).await?;
    Ok(Answer(json!({"success": true, "purged": purged})))
}
