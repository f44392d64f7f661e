//! The table of requests. Each change is one conditional UPDATE: a request that has ended is not touched again,
//! whoever else tries at the same moment.

use std::future::Future;

use guildhall_domain::{
    AgentId, Result, TenantId, Timestamp,
    mail::{Answer, Mailbox, MessageId, Progress, Request, RequestState},
};
use sqlx::{FromRow, PgConnection, SqliteConnection};

use crate::{
    failure::{Failure, unreadable},
    row::{bytes, json, signed},
};

const REQUEST: &str = "SELECT * FROM requests WHERE message_id = $1 AND tenant = $2";

const ANSWER: &str = "UPDATE requests SET state = $4, answered_by = $5, answer = $6, reason = $7, ended_at = $3
    WHERE message_id = $1 AND tenant = $2 AND state = 0 AND deadline > $3 RETURNING *";
const CANCEL: &str = "UPDATE requests SET state = $4, reason = $5, ended_at = $3
    WHERE message_id = $1 AND tenant = $2 AND state = 0 RETURNING *";

/// The number that is there already is read out of its JSON, which is all that the engines spell apart. A report that
/// was overtaken by a later one finds nothing to change.
macro_rules! progress {
    ($there:literal) => {
        concat!(
            "UPDATE requests SET progress = $4 WHERE message_id = $1 AND tenant = $2 AND state = 0 AND deadline > $3
                AND (progress IS NULL OR ",
            $there,
            " <= $5) RETURNING *"
        )
    };
}
const SQLITE_PROGRESS: &str = progress!("progress ->> 'progress'");
const POSTGRES_PROGRESS: &str = progress!("CAST(CAST(progress AS JSON) ->> 'progress' AS DOUBLE PRECISION)");

macro_rules! time_out {
    ($rest:literal) => {
        concat!(
            "UPDATE requests SET state = $2, reason = $3, ended_at = $1 WHERE state = 0 AND message_id IN
                (SELECT message_id FROM requests WHERE state = 0 AND deadline <= $1 ORDER BY deadline LIMIT +$4",
            $rest,
            ") RETURNING *"
        )
    };
}
const SQLITE_TIME_OUT: &str = time_out!("");
/// What another replica is ending at this moment is left to it.
const POSTGRES_TIME_OUT: &str = time_out!(" FOR UPDATE SKIP LOCKED");

#[derive(Debug, FromRow)]
pub(crate) struct RequestRow {
    message_id: Vec<u8>,
    tenant: String,
    sender: String,
    sort: String,
    name: String,
    asked_at: i64,
    deadline: i64,
    waits: bool,
    state: i16,
    progress: Option<String>,
    answered_by: Option<String>,
    answer: Option<String>,
    reason: Option<String>,
    ended_at: Option<i64>,
}

impl RequestRow {
    /// Its requester does nothing else until the answer is there.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    pub(crate) fn tenant(&self) -> Result<TenantId> {
        self.tenant.parse()
    }

    pub(crate) fn request(self) -> Result<Request> {
        let state = u8::try_from(self.state).ok().and_then(RequestState::of_rank);
        let progress = self.progress.as_deref().map(serde_json::from_str::<Progress>);
        Ok(Request {
            request_id: MessageId::from_bytes(bytes(&self.message_id)?),
            from: self.sender.parse()?,
            to: Mailbox::of(&self.sort, &self.name)?,
            state: state.ok_or_else(|| unreadable(format!("a request in state {}", self.state)))?,
            asked_at: Timestamp::from_millis(self.asked_at),
            deadline: Timestamp::from_millis(self.deadline),
            progress: progress.transpose().map_err(unreadable)?,
            answered_by: self.answered_by.map(|agent| agent.parse()).transpose()?,
            answer: self.answer.map(guildhall_domain::mail::Body::from_text).transpose()?,
            reason: self.reason,
            ended_at: self.ended_at.map(Timestamp::from_millis),
        })
    }
}

/// `None` where a change does not apply: there is no such request, or it has ended.
pub(crate) trait RequestTable: Send {
    fn request(
        &mut self,
        tenant: &TenantId,
        request: MessageId,
    ) -> impl Future<Output = Result<Option<RequestRow>, Failure>> + Send;
    fn move_on(
        &mut self,
        tenant: &TenantId,
        request: MessageId,
        progress: &Progress,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RequestRow>, Failure>> + Send;
    fn end_with_answer(
        &mut self,
        tenant: &TenantId,
        request: MessageId,
        by: &AgentId,
        answer: &Answer,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RequestRow>, Failure>> + Send;
    fn end_by_requester(
        &mut self,
        tenant: &TenantId,
        request: MessageId,
        reason: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<RequestRow>, Failure>> + Send;
    /// Those whose time is over, the oldest first.
    fn end_overdue(
        &mut self,
        reason: &str,
        now: Timestamp,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<RequestRow>, Failure>> + Send;
}

macro_rules! request_table {
    ($connection:ty, $progress:ident, $time_out:ident) => {
        impl RequestTable for $connection {
            async fn request(&mut self, tenant: &TenantId, request: MessageId) -> Result<Option<RequestRow>, Failure> {
                let find = sqlx::query_as(REQUEST).bind(request.bytes().to_vec()).bind(tenant.as_str());
                Ok(find.fetch_optional(self).await?)
            }

            async fn move_on(
                &mut self,
                tenant: &TenantId,
                request: MessageId,
                progress: &Progress,
                now: Timestamp,
            ) -> Result<Option<RequestRow>, Failure> {
                let change = sqlx::query_as($progress)
                    .bind(request.bytes().to_vec())
                    .bind(tenant.as_str())
                    .bind(now.as_millis())
                    .bind(json(progress)?)
                    .bind(progress.progress);
                Ok(change.fetch_optional(self).await?)
            }

            async fn end_with_answer(
                &mut self,
                tenant: &TenantId,
                request: MessageId,
                by: &AgentId,
                answer: &Answer,
                now: Timestamp,
            ) -> Result<Option<RequestRow>, Failure> {
                let (state, body, reason) = match answer {
                    Answer::Done(body) => (RequestState::Answered, Some(body.as_text()), None),
                    Answer::Failed(reason) => (RequestState::Failed, None, Some(reason.as_str())),
                };
                let end = sqlx::query_as(ANSWER)
                    .bind(request.bytes().to_vec())
                    .bind(tenant.as_str())
                    .bind(now.as_millis())
                    .bind(i16::from(state.rank()))
                    .bind(by.as_str())
                    .bind(body)
                    .bind(reason);
                Ok(end.fetch_optional(self).await?)
            }

            async fn end_by_requester(
                &mut self,
                tenant: &TenantId,
                request: MessageId,
                reason: &str,
                now: Timestamp,
            ) -> Result<Option<RequestRow>, Failure> {
                let end = sqlx::query_as(CANCEL)
                    .bind(request.bytes().to_vec())
                    .bind(tenant.as_str())
                    .bind(now.as_millis())
                    .bind(i16::from(RequestState::Cancelled.rank()))
                    .bind(reason);
                Ok(end.fetch_optional(self).await?)
            }

            async fn end_overdue(
                &mut self,
                reason: &str,
                now: Timestamp,
                limit: usize,
            ) -> Result<Vec<RequestRow>, Failure> {
                let end = sqlx::query_as($time_out)
                    .bind(now.as_millis())
                    .bind(i16::from(RequestState::TimedOut.rank()))
                    .bind(reason)
                    .bind(signed(limit as u64));
                Ok(end.fetch_all(self).await?)
            }
        }
    };
}

request_table!(SqliteConnection, SQLITE_PROGRESS, SQLITE_TIME_OUT);
request_table!(PgConnection, POSTGRES_PROGRESS, POSTGRES_TIME_OUT);
