//! Topics: what may be published on them, and the feed that brings their events to durable subscribers as mail.

use std::sync::Arc;

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, Call, Error, Result,
    event::{NewEvent, Subscriber, TopicInfo, TopicSchema},
    ports::{
        Topics,
        bus::{Published, Topic},
    },
};
use guildhall_runtime::Task;
use serde_json::Value;

use crate::desk::Desk;

pub(crate) struct TopicDesk {
    #[expect(dead_code, reason = "the methods come next")]
    desk: Arc<Desk>,
}

impl TopicDesk {
    pub(crate) fn new(desk: &Arc<Desk>) -> Arc<Self> {
        Arc::new(Self { desk: desk.clone() })
    }
}

pub(crate) fn tasks(_topics: &Arc<TopicDesk>) -> Vec<Task> {
    Vec::new()
}

fn not_yet<T>() -> Result<T> {
    Err(Error::unsupported("topics are not there yet"))
}

#[async_trait]
impl Topics for TopicDesk {
    async fn publish(&self, _: &Call, _: &Topic, _: NewEvent) -> Result<Published> {
        not_yet()
    }
    async fn set_schema(&self, _: &Call, _: &Topic, _: Value, _: bool) -> Result<TopicSchema> {
        not_yet()
    }
    async fn schema(&self, _: &Call, _: &Topic, _: Option<u32>) -> Result<Option<TopicSchema>> {
        not_yet()
    }
    async fn subscribe(&self, _: &Call, _: &Topic, _: &AgentId, _: Option<String>) -> Result<Subscriber> {
        not_yet()
    }
    async fn unsubscribe(&self, _: &Call, _: &Topic, _: &AgentId) -> Result<bool> {
        not_yet()
    }
    async fn subscribers(&self, _: &Call, _: &Topic) -> Result<Vec<Subscriber>> {
        not_yet()
    }
    async fn topics(&self, _: &Call) -> Result<Vec<TopicInfo>> {
        not_yet()
    }
}
