//! The port of mail over either engine.
//!
//! What comes often goes by lanes (`lane.rs`): sends, takings and settlements that arrive while a transaction is under
//! way share the next one, and are done as one set. The rest is a transaction a call. On Postgres none of them shares
//! a transaction with a write of agents or audit, and each locks in the same order: advisory locks, then rows of
//! `mailboxes` in the order of (tenant, sort, name), then what belongs to these mailboxes, and the audit's number last.

pub(crate) mod changes;
pub(crate) mod dead;
pub(crate) mod deliveries;
pub(crate) mod forget;
pub(crate) mod history;
pub(crate) mod hunt;
pub(crate) mod lane;
pub(crate) mod lapse;
pub(crate) mod requests;
pub(crate) mod rows;
pub(crate) mod send;
pub(crate) mod settle;
pub(crate) mod take;
pub(crate) mod tenancy;
pub(crate) mod wide;

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, AuditEntry, Result, TenantId, Timestamp,
    mail::{
        Answer, DeadLetter, Delivered, Mailbox, Message, MessageId, Progress, Receipt, Request,
        delivery::{DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Settling, Tracked, Unread},
    },
    ports::{
        MailStore,
        bus::Retention,
        mail_store::{Accepted, Expanded, Lapsed, MailboxBound, Outgoing, ReceiptKey, Taking},
    },
};
use sqlx::Database;

use crate::{agent_store::Tables, engine::Sql};

/// The tables of mail, through one connection.
pub(crate) trait MailTables:
    send::SendTables
    + wide::WideTables
    + tenancy::TenancyTables
    + take::TakeTables
    + settle::SettleTables
    + lapse::LapseTables
    + dead::DeadTables
    + history::HistoryTables
    + forget::ForgetTables
    + requests::RequestTables
{
}
impl<C> MailTables for C where
    C: send::SendTables
        + wide::WideTables
        + tenancy::TenancyTables
        + tenancy::TenancyTables
        + take::TakeTables
        + settle::SettleTables
        + lapse::LapseTables
        + dead::DeadTables
        + history::HistoryTables
        + forget::ForgetTables
        + requests::RequestTables
{
}

#[async_trait]
impl<DB: Database> MailStore for Sql<DB>
where
    DB::Connection: Tables,
{
    async fn send(&self, tenant: &TenantId, outgoing: Vec<Outgoing>, bound: MailboxBound) -> Result<Accepted> {
        send::send(self, tenant, outgoing, bound).await
    }

    async fn receipt(&self, key: &ReceiptKey, now: Timestamp) -> Result<Option<Receipt>> {
        send::receipt(self, key, now).await
    }

    async fn expand(&self, bound: MailboxBound, now: Timestamp) -> Result<Expanded> {
        wide::expand(self, bound, now).await
    }

    async fn take(&self, taking: Taking) -> Result<Vec<Delivered>> {
        take::take(self, taking).await
    }

    async fn settle(
        &self,
        tenant: &TenantId,
        mailboxes: &[Mailbox],
        settlings: Vec<Settling>,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        settle::settle(self, tenant, mailboxes, settlings, now).await
    }

    async fn give_back(&self, tenant: &TenantId, mailboxes: &[Mailbox], taker: &str) -> Result<u64> {
        settle::give_back(self, tenant, mailboxes, taker).await
    }

    async fn unread(&self, tenant: &TenantId, mailboxes: &[Mailbox]) -> Result<Vec<Unread>> {
        history::unread(self, tenant, mailboxes).await
    }

    async fn peek(
        &self,
        tenant: &TenantId,
        mailboxes: &[Mailbox],
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Message>> {
        history::peek(self, tenant, mailboxes, limit, now).await
    }

    async fn history(&self, tenant: &TenantId, mailbox: &Mailbox, query: &HistoryQuery) -> Result<History> {
        history::history(self, tenant, mailbox, query).await
    }

    async fn message(
        &self,
        tenant: &TenantId,
        message: MessageId,
        only: Option<&[Mailbox]>,
    ) -> Result<Option<Tracked>> {
        history::message(self, tenant, message, only).await
    }

    async fn dead_letters(&self, tenant: &TenantId, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        dead::dead_letters(self, tenant, query).await
    }

    async fn redrive(
        &self,
        tenant: &TenantId,
        selection: &DeadLetterSelection,
        now: Timestamp,
        audit: AuditEntry,
    ) -> Result<(u64, Vec<Mailbox>)> {
        dead::redrive(self, tenant, selection, now, audit).await
    }

    async fn purge(&self, tenant: &TenantId, selection: &DeadLetterSelection, audit: AuditEntry) -> Result<u64> {
        dead::purge(self, tenant, selection, audit).await
    }

    async fn request(&self, tenant: &TenantId, request: MessageId) -> Result<Option<Request>> {
        requests::request(self, tenant, request).await
    }

    async fn progress(
        &self,
        tenant: &TenantId,
        request: MessageId,
        progress: &Progress,
        now: Timestamp,
    ) -> Result<Request> {
        requests::progress(self, tenant, request, progress, now).await
    }

    async fn answer(
        &self,
        tenant: &TenantId,
        request: MessageId,
        by: &AgentId,
        answer: &Answer,
        response: Option<Outgoing>,
        now: Timestamp,
    ) -> Result<Request> {
        requests::answer(self, tenant, request, by, answer, response, now).await
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        request: MessageId,
        reason: &str,
        notice: Option<Outgoing>,
        now: Timestamp,
    ) -> Result<Request> {
        requests::cancel(self, tenant, request, reason, notice, now).await
    }

    async fn lapse(&self, now: Timestamp) -> Result<Lapsed> {
        lapse::lapse(self, now).await
    }

    async fn time_out(&self, now: Timestamp) -> Result<Vec<(TenantId, Request)>> {
        requests::time_out(self, now).await
    }

    async fn forget(&self, kept: Retention, now: Timestamp) -> Result<bool> {
        forget::forget(self, kept, now).await
    }
}
