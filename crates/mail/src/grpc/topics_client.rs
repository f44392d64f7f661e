//! The caller's side of topics: the port, with every method a call over the transport.

use async_trait::async_trait;
use guildhall_domain::{
    AgentId, Call, Result,
    event::{NewEvent, Subscriber, TopicInfo, TopicSchema},
    ports::{
        Topics,
        bus::{Published, Topic},
    },
};
use guildhall_proto::mail::v1::{self as wire, topics_service_client::TopicsServiceClient};
use guildhall_rpc::{Transport, call::outgoing, status::from_status, wire::present};
use serde_json::Value;

use super::convert::{Wire, unpack_all};

pub(super) struct TopicsClient {
    /// Cloned for every call: it is a handle.
    service: TopicsServiceClient<Transport>,
}

impl TopicsClient {
    pub(super) fn new(service: TopicsServiceClient<Transport>) -> Self {
        Self { service }
    }
}

/// One call: the message out with the call around it, the answer's message back.
macro_rules! ask {
    ($client:ident . $method:ident, $call:expr, $message:expr) => {{
        let request = outgoing($call, $message)?;
        $client.service.clone().$method(request).await.map_err(from_status)?.into_inner()
    }};
}

#[async_trait]
impl Topics for TopicsClient {
    async fn publish(&self, call: &Call, topic: &Topic, event: NewEvent) -> Result<Published> {
        Published::unpack(ask!(self.publish, call, (topic.clone(), event).pack()))
    }

    async fn set_schema(&self, call: &Call, topic: &Topic, schema: Value, force: bool) -> Result<TopicSchema> {
        let message = wire::SetSchemaRequest { topic: topic.to_string(), schema_json: schema.to_string(), force };
        TopicSchema::unpack(present(ask!(self.set_schema, call, message).schema, "the schema")?)
    }

    async fn schema(&self, call: &Call, topic: &Topic, version: Option<u32>) -> Result<Option<TopicSchema>> {
        let message = wire::SchemaRequest { topic: topic.to_string(), version };
        ask!(self.schema, call, message).schema.map(TopicSchema::unpack).transpose()
    }

    async fn subscribe(
        &self,
        call: &Call,
        topic: &Topic,
        agent: &AgentId,
        filter: Option<String>,
    ) -> Result<Subscriber> {
        let message = wire::SubscribeRequest { topic: topic.to_string(), agent_id: agent.to_string(), filter };
        Subscriber::unpack(present(ask!(self.subscribe, call, message).subscriber, "the subscriber")?)
    }

    async fn unsubscribe(&self, call: &Call, topic: &Topic, agent: &AgentId) -> Result<bool> {
        let message = wire::UnsubscribeRequest { topic: topic.to_string(), agent_id: agent.to_string() };
        Ok(ask!(self.unsubscribe, call, message).removed)
    }

    async fn subscribers(&self, call: &Call, topic: &Topic) -> Result<Vec<Subscriber>> {
        unpack_all(ask!(self.subscribers, call, wire::SubscribersRequest { topic: topic.to_string() }).subscribers)
    }

    async fn topics(&self, call: &Call) -> Result<Vec<TopicInfo>> {
        unpack_all(ask!(self.topics, call, wire::TopicsRequest {}).topics)
    }
}
