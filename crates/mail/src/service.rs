//! The core: every method of the port, in the same order of steps. May the caller do this? Is what it asks well
//! formed? Then the database, with the audit entry in the same transaction; then whoever waits is woken, which cannot
//! fail the call any more.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, Call, Error, Result,
    mail::{
        Answer, DeadLetter, Delivered, Message, MessageId, NewMessage, NewRequest, Progress, Receipt, Request,
        delivery::{DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Settling, TakeMail, Tracked, Unread},
    },
    ports::Mail,
};

use crate::{desk::Desk, rounds::Alarm};

pub struct MailService {
    pub(crate) desk: Arc<Desk>,
    pub(crate) alarm: Arc<Alarm>,
}

#[async_trait]
impl Mail for MailService {
    async fn send(&self, call: &Call, messages: Vec<NewMessage>) -> Result<Vec<Receipt>> {
        self.send_all(call, messages).await
    }

    async fn take(&self, call: &Call, agent: &AgentId, take: TakeMail) -> Result<Vec<Delivered>> {
        self.take_mail(call, agent, take).await
    }

    async fn settle(&self, call: &Call, agent: &AgentId, settlings: Vec<Settling>) -> Result<Vec<Result<()>>> {
        self.settle_each(call, agent, settlings).await
    }

    async fn give_back(&self, call: &Call, agent: &AgentId, taker: &str) -> Result<u64> {
        self.give_back_all(call, agent, taker).await
    }

    async fn unread(&self, call: &Call, agents: Vec<AgentId>) -> Result<Vec<Unread>> {
        self.count_unread(call, agents).await
    }

    async fn peek(&self, call: &Call, agent: &AgentId, limit: usize) -> Result<Vec<Message>> {
        self.look_ahead(call, agent, limit).await
    }

    async fn history(&self, call: &Call, agent: &AgentId, query: HistoryQuery) -> Result<History> {
        self.look_back(call, agent, query).await
    }

    async fn message(&self, call: &Call, message: MessageId) -> Result<Tracked> {
        self.track(call, message).await
    }

    async fn dead_letters(&self, call: &Call, query: DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        self.list_dead(call, query).await
    }

    async fn redrive(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        self.redrive_dead(call, selection).await
    }

    async fn purge(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        self.purge_dead(call, selection).await
    }

    async fn request(&self, call: &Call, request: NewRequest) -> Result<Request> {
        self.ask(call, request).await
    }

    async fn request_state(
        &self,
        call: &Call,
        request: MessageId,
        known: Option<Progress>,
        wait: Duration,
    ) -> Result<Request> {
        self.state_of(call, request, known, wait).await
    }

    async fn report_progress(&self, call: &Call, request: MessageId, progress: Progress) -> Result<()> {
        self.move_on(call, request, progress).await
    }

    async fn answer(&self, call: &Call, request: MessageId, answer: Answer) -> Result<Request> {
        self.give_answer(call, request, answer).await
    }

    async fn cancel_request(&self, call: &Call, request: MessageId, reason: &str) -> Result<Request> {
        self.cancel(call, request, reason).await
    }
}

/// Refuses a number of things in one call that is not 1 to `max`.
pub(crate) fn count_fits(given: usize, max: usize, what: &str) -> Result<()> {
    if (1..=max).contains(&given) {
        return Ok(());
    }
    Err(Error::invalid(format!("{what}: 1 to {max} in one call, not {given}")))
}

/// A reason that people and agents read: one line.
pub(crate) fn reason_fits(reason: &str) -> Result<()> {
    const MAX_BYTES: usize = 512;
    if reason.len() > MAX_BYTES || reason.chars().any(char::is_control) {
        return Err(Error::invalid(format!("a reason is {MAX_BYTES} bytes at most, without control characters")));
    }
    Ok(())
}
