//! Faults before the store of mail.

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

use super::{Faulty, read, write};

#[async_trait]
impl MailStore for Faulty<dyn MailStore> {
    async fn send(&self, tenant: &TenantId, outgoing: Vec<Outgoing>, bound: MailboxBound) -> Result<Accepted> {
        write(&self.plan, || self.inner.send(tenant, outgoing.clone(), bound)).await
    }

    async fn receipt(&self, key: &ReceiptKey, now: Timestamp) -> Result<Option<Receipt>> {
        read(&self.plan, ("receipt", key, now), || self.inner.receipt(key, now)).await
    }

    async fn expand(&self, bound: MailboxBound, now: Timestamp) -> Result<Expanded> {
        write(&self.plan, || self.inner.expand(bound, now)).await
    }

    async fn take(&self, taking: Taking) -> Result<Vec<Delivered>> {
        write(&self.plan, || self.inner.take(taking.clone())).await
    }

    async fn settle(
        &self,
        tenant: &TenantId,
        mailboxes: &[Mailbox],
        settlings: Vec<Settling>,
        now: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        write(&self.plan, || self.inner.settle(tenant, mailboxes, settlings.clone(), now)).await
    }

    async fn give_back(&self, tenant: &TenantId, mailboxes: &[Mailbox], taker: &str) -> Result<u64> {
        write(&self.plan, || self.inner.give_back(tenant, mailboxes, taker)).await
    }

    async fn unread(&self, tenant: &TenantId, mailboxes: &[Mailbox]) -> Result<Vec<Unread>> {
        read(&self.plan, ("unread", tenant, mailboxes), || self.inner.unread(tenant, mailboxes)).await
    }

    async fn peek(
        &self,
        tenant: &TenantId,
        mailboxes: &[Mailbox],
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Message>> {
        let key = ("peek", tenant, mailboxes, limit, now);
        read(&self.plan, key, || self.inner.peek(tenant, mailboxes, limit, now)).await
    }

    async fn history(&self, tenant: &TenantId, mailbox: &Mailbox, query: &HistoryQuery) -> Result<History> {
        read(&self.plan, ("history", tenant, mailbox, query), || self.inner.history(tenant, mailbox, query)).await
    }

    async fn message(
        &self,
        tenant: &TenantId,
        message: MessageId,
        only: Option<&[Mailbox]>,
    ) -> Result<Option<Tracked>> {
        read(&self.plan, ("message", tenant, message, only), || self.inner.message(tenant, message, only)).await
    }

    async fn dead_letters(&self, tenant: &TenantId, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        read(&self.plan, ("dead_letters", tenant, query), || self.inner.dead_letters(tenant, query)).await
    }

    async fn redrive(
        &self,
        tenant: &TenantId,
        selection: &DeadLetterSelection,
        now: Timestamp,
        audit: AuditEntry,
    ) -> Result<(u64, Vec<Mailbox>)> {
        write(&self.plan, || self.inner.redrive(tenant, selection, now, audit.clone())).await
    }

    async fn purge(&self, tenant: &TenantId, selection: &DeadLetterSelection, audit: AuditEntry) -> Result<u64> {
        write(&self.plan, || self.inner.purge(tenant, selection, audit.clone())).await
    }

    async fn request(&self, tenant: &TenantId, request: MessageId) -> Result<Option<Request>> {
        read(&self.plan, ("request", tenant, request), || self.inner.request(tenant, request)).await
    }

    async fn progress(
        &self,
        tenant: &TenantId,
        request: MessageId,
        progress: &Progress,
        now: Timestamp,
    ) -> Result<Request> {
        write(&self.plan, || self.inner.progress(tenant, request, progress, now)).await
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
        write(&self.plan, || self.inner.answer(tenant, request, by, answer, response.clone(), now)).await
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        request: MessageId,
        reason: &str,
        notice: Option<Outgoing>,
        now: Timestamp,
    ) -> Result<Request> {
        write(&self.plan, || self.inner.cancel(tenant, request, reason, notice.clone(), now)).await
    }

    async fn lapse(&self, now: Timestamp) -> Result<Lapsed> {
        write(&self.plan, || self.inner.lapse(now)).await
    }

    async fn time_out(&self, now: Timestamp) -> Result<Vec<(TenantId, Request)>> {
        write(&self.plan, || self.inner.time_out(now)).await
    }

    async fn forget(&self, kept: Retention, now: Timestamp) -> Result<bool> {
        write(&self.plan, || self.inner.forget(kept, now)).await
    }
}
