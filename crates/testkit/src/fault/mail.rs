//! Faults before mail and topics.

use std::time::Duration;

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, Call, Result,
    event::{NewEvent, Subscriber, TopicInfo, TopicSchema},
    mail::{
        Answer, DeadLetter, Delivered, Message, MessageId, NewMessage, NewRequest, Progress, Receipt, Request,
        delivery::{DeadLetterQuery, DeadLetterSelection, History, HistoryQuery, Settling, TakeMail, Tracked, Unread},
    },
    ports::{
        Mail, Topics,
        bus::{Published, Topic},
    },
};
use serde_json::Value;

use super::{Faulty, read, write};

#[async_trait]
impl Mail for Faulty<dyn Mail> {
    async fn send(&self, call: &Call, messages: Vec<NewMessage>) -> Result<Vec<Receipt>> {
        write(&self.plan, || self.inner.send(call, messages.clone())).await
    }

    async fn take(&self, call: &Call, agent: &AgentId, take: TakeMail) -> Result<Vec<Delivered>> {
        write(&self.plan, || self.inner.take(call, agent, take.clone())).await
    }

    async fn settle(&self, call: &Call, agent: &AgentId, settlings: Vec<Settling>) -> Result<Vec<Result<()>>> {
        write(&self.plan, || self.inner.settle(call, agent, settlings.clone())).await
    }

    async fn give_back(&self, call: &Call, agent: &AgentId, taker: &str) -> Result<u64> {
        write(&self.plan, || self.inner.give_back(call, agent, taker)).await
    }

    async fn unread(&self, call: &Call, agents: Vec<AgentId>) -> Result<Vec<Unread>> {
        read(&self.plan, ("unread", &call.principal, &agents), || self.inner.unread(call, agents.clone())).await
    }

    async fn peek(&self, call: &Call, agent: &AgentId, limit: usize) -> Result<Vec<Message>> {
        read(&self.plan, ("peek", &call.principal, agent, limit), || self.inner.peek(call, agent, limit)).await
    }

    async fn history(&self, call: &Call, agent: &AgentId, query: HistoryQuery) -> Result<History> {
        let key = ("history", &call.principal, agent, &query);
        read(&self.plan, key, || self.inner.history(call, agent, query.clone())).await
    }

    async fn message(&self, call: &Call, message: MessageId) -> Result<Tracked> {
        read(&self.plan, ("message", &call.principal, message), || self.inner.message(call, message)).await
    }

    async fn dead_letters(&self, call: &Call, query: DeadLetterQuery) -> Result<Vec<DeadLetter>> {
        let key = ("dead_letters", &call.principal, &query);
        read(&self.plan, key, || self.inner.dead_letters(call, query.clone())).await
    }

    async fn redrive(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        write(&self.plan, || self.inner.redrive(call, selection.clone())).await
    }

    async fn purge(&self, call: &Call, selection: DeadLetterSelection) -> Result<u64> {
        write(&self.plan, || self.inner.purge(call, selection.clone())).await
    }

    async fn request(&self, call: &Call, request: NewRequest) -> Result<Request> {
        write(&self.plan, || self.inner.request(call, request.clone())).await
    }

    async fn request_state(
        &self,
        call: &Call,
        request: MessageId,
        known: Option<Progress>,
        wait: Duration,
    ) -> Result<Request> {
        let key = ("request_state", &call.principal, request, &known);
        read(&self.plan, key, || self.inner.request_state(call, request, known.clone(), wait)).await
    }

    async fn report_progress(&self, call: &Call, request: MessageId, progress: Progress) -> Result<()> {
        write(&self.plan, || self.inner.report_progress(call, request, progress.clone())).await
    }

    async fn answer(&self, call: &Call, request: MessageId, answer: Answer) -> Result<Request> {
        write(&self.plan, || self.inner.answer(call, request, answer.clone())).await
    }

    async fn cancel_request(&self, call: &Call, request: MessageId, reason: &str) -> Result<Request> {
        write(&self.plan, || self.inner.cancel_request(call, request, reason)).await
    }
}

#[async_trait]
impl Topics for Faulty<dyn Topics> {
    async fn publish(&self, call: &Call, topic: &Topic, event: NewEvent) -> Result<Published> {
        write(&self.plan, || self.inner.publish(call, topic, event.clone())).await
    }

    async fn set_schema(&self, call: &Call, topic: &Topic, schema: Value, force: bool) -> Result<TopicSchema> {
        write(&self.plan, || self.inner.set_schema(call, topic, schema.clone(), force)).await
    }

    async fn schema(&self, call: &Call, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
        let key = ("schema", &call.principal, topic, version);
        read(&self.plan, key, || self.inner.schema(call, topic, version)).await
    }

    async fn subscribe(
        &self,
        call: &Call,
        topic: &Topic,
        agent: &AgentId,
        filter: Option<String>,
    ) -> Result<Subscriber> {
        write(&self.plan, || self.inner.subscribe(call, topic, agent, filter.clone())).await
    }

    async fn unsubscribe(&self, call: &Call, topic: &Topic, agent: &AgentId) -> Result<bool> {
        write(&self.plan, || self.inner.unsubscribe(call, topic, agent)).await
    }

    async fn subscribers(&self, call: &Call, topic: &Topic) -> Result<Vec<Subscriber>> {
        read(&self.plan, ("subscribers", &call.principal, topic), || self.inner.subscribers(call, topic)).await
    }

    async fn topics(&self, call: &Call) -> Result<Vec<TopicInfo>> {
        read(&self.plan, ("topics", &call.principal), || self.inner.topics(call)).await
    }
}
