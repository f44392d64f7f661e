//! Requests: how they move on and end. What has ended stays as it ended.
//!
//! A request ends once: by its answer, by its requester, or by the clock. Each of the three is a conditional UPDATE,
//! and whoever comes second is told how it ended. Of the asked side's breaker the answers and the clock keep count;
//! requester and clock take what was asked out of the mailbox again, if nobody has taken it yet.

mod breaker;
mod table;
mod withdraw;

use std::{collections::BTreeMap, sync::Arc};

use guildhall_domain::{
    AgentId, Error, ErrorCode, Result, TenantId, Timestamp,
    mail::{Answer, Mailbox, MessageId, Progress, Request, RequestState},
    ports::mail_store::{MailboxBound, Outgoing},
};
use sqlx::Database;

pub(crate) use self::breaker::OPEN;
use self::{
    breaker::Breakers,
    table::{RequestRow, RequestTable},
    withdraw::{Asked, Withdraw},
};
use super::send::{Sending, accept};
use crate::{
    agent_store::Tables,
    audit::Scribe,
    engine::{Sql, in_time},
    failure::Failure,
};

/// Requests that one call of the clock ends: small enough not to hold up who sends.
const TIME_OUT_MAX: usize = 200;

pub(crate) trait RequestTables: RequestTable + Breakers + Withdraw {}
impl<C: RequestTable + Breakers + Withdraw> RequestTables for C {}

fn unknown(request: MessageId) -> Failure {
    Error::not_found(format!("there is no request {request}, or it is no longer kept")).into()
}

/// Why nothing more can be done to it.
fn over(request: &Request) -> Failure {
    let at = request.ended_at.unwrap_or(request.deadline);
    let ended = match request.state {
        RequestState::Pending | RequestState::TimedOut => "its time was over",
        RequestState::Answered => "it was answered",
        RequestState::Failed => "it was answered with a failure",
        RequestState::Cancelled => "it was cancelled by its requester",
    };
    Error::conflict(format!("request {} has ended: {ended} at {at}; nothing was changed", request.request_id)).into()
}

/// Whether it ended with just this: then the answer to the first attempt was lost.
fn is_answered_with(request: &Request, by: &AgentId, answer: &Answer) -> bool {
    request.answered_by.as_ref() == Some(by)
        && match answer {
            Answer::Done(body) => request.answer.as_ref() == Some(body),
            Answer::Failed(reason) => request.state == RequestState::Failed && request.reason.as_ref() == Some(reason),
        }
}

async fn find(tables: &mut impl Tables, tenant: &TenantId, request: MessageId) -> Result<Request, Failure> {
    let row = tables.request(tenant, request).await?.ok_or_else(|| unknown(request))?;
    Ok(row.request()?)
}

/// Mail that follows from how a request ended. No full mailbox keeps it out: there is at most one for each request
/// that was let in. To an agent that has left it is sent to nobody.
async fn follow(
    tables: &mut impl Tables,
    scribe: &Scribe,
    tenant: &TenantId,
    mail: Option<Outgoing>,
) -> Result<(), Failure> {
    let Some(mail) = mail else { return Ok(()) };
    let boundless = MailboxBound { messages: u64::MAX };
    let sending = Sending::new(scribe, tenant, vec![mail], boundless);
    for accepted in accept(tables, scribe, &[sending]).await? {
        if let Err(refused) = accepted
            && refused.code != ErrorCode::NotFound
        {
            return Err(refused.into());
        }
    }
    Ok(())
}

async fn move_on(
    tables: &mut impl Tables,
    tenant: &TenantId,
    request: MessageId,
    progress: &Progress,
    now: Timestamp,
) -> Result<Request, Failure> {
    if let Some(moved) = tables.move_on(tenant, request, progress, now).await? {
        return Ok(moved.request()?);
    }
    let there = find(tables, tenant, request).await?;
    // A report that a later one has overtaken says nothing new.
    if there.state.is_final() || there.deadline <= now { Err(over(&there)) } else { Ok(there) }
}

/// How it ended, and whether that concerns the breaker: not when it had ended so before.
async fn end_with_answer(
    tables: &mut impl Tables,
    scribe: &Scribe,
    (tenant, request): (&TenantId, MessageId),
    (by, answer): (&AgentId, &Answer),
    response: Option<Outgoing>,
    now: Timestamp,
) -> Result<(Request, bool), Failure> {
    let Some(ended) = tables.end_with_answer(tenant, request, by, answer, now).await? else {
        let there = find(tables, tenant, request).await?;
        return if is_answered_with(&there, by, answer) { Ok((there, false)) } else { Err(over(&there)) };
    };
    // Who waits has the answer in its hands.
    let response = response.filter(|_| !ended.waits());
    let ended = ended.request()?;
    let counts = ended.state == RequestState::Failed || tables.has_failed(tenant, &ended.to).await?;
    follow(tables, scribe, tenant, response).await?;
    Ok((ended, counts))
}

async fn end_by_requester(
    tables: &mut impl Tables,
    scribe: &Scribe,
    (tenant, request): (&TenantId, MessageId),
    reason: &str,
    notice: Option<Outgoing>,
    now: Timestamp,
) -> Result<Request, Failure> {
    let Some(ended) = tables.end_by_requester(tenant, request, reason, now).await? else {
        return find(tables, tenant, request).await;
    };
    let ended = ended.request()?;
    let asked = (tenant.clone(), ended.to.clone(), request);
    if tables.withdraw(&[asked], "the request was cancelled before anyone took it", now).await?.is_empty() {
        follow(tables, scribe, tenant, notice).await?;
    }
    Ok(ended)
}

async fn end_overdue(tables: &mut impl Tables, now: Timestamp) -> Result<Vec<(TenantId, Request)>, Failure> {
    let rows = tables.end_overdue("nobody answered in time", now, TIME_OUT_MAX).await?;
    let ended = rows.into_iter().map(|row| Ok((row.tenant()?, row.request()?)));
    let ended: Vec<(TenantId, Request)> = ended.collect::<Result<_>>()?;
    if ended.is_empty() {
        return Ok(ended);
    }
    let asked: Vec<Asked> =
        ended.iter().map(|(tenant, request)| (tenant.clone(), request.to.clone(), request.request_id)).collect();
    tables.withdraw(&asked, "the request's time was over before anyone took it", now).await?;
    // In one order on every replica.
    let mut failures: BTreeMap<(&TenantId, &Mailbox), i64> = BTreeMap::new();
    for (tenant, mailbox, _) in &asked {
        *failures.entry((tenant, mailbox)).or_default() += 1;
    }
    for ((tenant, mailbox), failures) in failures {
        tables.add_failures(tenant, mailbox, failures, now).await?;
    }
    Ok(ended)
}

pub(crate) async fn request<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    request: MessageId,
) -> Result<Option<Request>>
where
    DB::Connection: Tables,
{
    let mut tables = sql.reader().await?;
    let row = in_time(tables.request(tenant, request)).await;
    tables.done(row)?.map(RequestRow::request).transpose()
}

pub(crate) async fn progress<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    request: MessageId,
    progress: &Progress,
    now: Timestamp,
) -> Result<Request>
where
    DB::Connection: Tables,
{
    progress.check()?;
    let (tenant, progress) = (tenant.clone(), progress.clone());
    let moved = sql
        .writer
        .write_apart(move |tables| Box::pin(async move { move_on(tables, &tenant, request, &progress, now).await }));
    moved.await
}

pub(crate) async fn answer<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    request: MessageId,
    by: &AgentId,
    answer: &Answer,
    response: Option<Outgoing>,
    now: Timestamp,
) -> Result<Request>
where
    DB::Connection: Tables,
{
    let (of, by, answer) = (tenant.clone(), by.clone(), answer.clone());
    let scribe = Arc::clone(&sql.mail_scribe);
    let end = sql.writer.write_apart(move |tables| {
        Box::pin(async move { end_with_answer(tables, &scribe, (&of, request), (&by, &answer), response, now).await })
    });
    let (ended, counts) = end.await?;
    if counts {
        // The answer stands, counted or not; what was not, is missing from a count of five.
        let _ = count(sql, tenant, &ended, now).await;
    }
    Ok(ended)
}

/// After the answer, in a transaction of its own: whoever sends locks the breaker before it takes the audit's number,
/// and the answer's mail has taken that.
async fn count<DB: Database>(sql: &Sql<DB>, tenant: &TenantId, ended: &Request, now: Timestamp) -> Result<()>
where
    DB::Connection: Tables,
{
    let (tenant, asked, failed) = (tenant.clone(), ended.to.clone(), ended.state == RequestState::Failed);
    let count = sql.writer.write_apart(move |tables| {
        Box::pin(async move {
            if failed {
                tables.add_failures(&tenant, &asked, 1, now).await
            } else {
                tables.close_breaker(&tenant, &asked).await
            }
        })
    });
    count.await
}

pub(crate) async fn cancel<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    request: MessageId,
    reason: &str,
    notice: Option<Outgoing>,
    now: Timestamp,
) -> Result<Request>
where
    DB::Connection: Tables,
{
    let (tenant, reason, scribe) = (tenant.clone(), reason.to_owned(), Arc::clone(&sql.mail_scribe));
    let end = sql.writer.write_apart(move |tables| {
        Box::pin(async move { end_by_requester(tables, &scribe, (&tenant, request), &reason, notice, now).await })
    });
    end.await
}

pub(crate) async fn time_out<DB: Database>(sql: &Sql<DB>, now: Timestamp) -> Result<Vec<(TenantId, Request)>>
where
    DB::Connection: Tables,
{
    sql.writer.write_apart(move |tables| Box::pin(async move { end_overdue(tables, now).await })).await
}
