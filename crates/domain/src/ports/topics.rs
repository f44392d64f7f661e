//! The port of topics: what may be published on them, and who gets it as mail. Reading them is the bus's.

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    AgentId, Call, Result,
    event::{NewEvent, Subscriber, TopicInfo, TopicSchema},
    ports::bus::{Published, Topic},
};

#[async_trait]
pub trait Topics: Send + Sync + 'static {
    /// Checked against the topic's schema first.
    async fn publish(&self, call: &Call, topic: &Topic, event: NewEvent) -> Result<Published>;

    /// A new version, unless the schema is the newest already. Refused with `Conflict` and every reason when events
    /// that were good before would no longer be, unless `force`.
    async fn set_schema(&self, call: &Call, topic: &Topic, schema: Value, force: bool) -> Result<TopicSchema>;
    /// `version`: `None` for the newest.
    async fn schema(&self, call: &Call, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>>;

    /// Events from now on arrive as the agent's mail. Subscribing again changes the filter.
    async fn subscribe(
        &self,
        call: &Call,
        topic: &Topic,
        agent: &AgentId,
        filter: Option<String>,
    ) -> Result<Subscriber>;
    /// False when it was no subscriber.
    async fn unsubscribe(&self, call: &Call, topic: &Topic, agent: &AgentId) -> Result<bool>;
    async fn subscribers(&self, call: &Call, topic: &Topic) -> Result<Vec<Subscriber>>;
    /// Topics that have a schema or subscribers, in the order of their names.
    async fn topics(&self, call: &Call) -> Result<Vec<TopicInfo>>;
}
