//! The server's side of topics: takes the call and the message apart, asks the port, packs the answer.

use std::sync::Arc;

use guildhall_domain::{
    AgentId,
    event::NewEvent,
    ports::{Topics, bus::Topic},
};
use guildhall_proto::mail::v1::{self as wire, topics_service_server::TopicsService};
use tonic::Request;

use super::{
    convert::{Wire, pack_all, topic::schema},
    server::{Reply, open, reply},
};

pub struct TopicsServer {
    topics: Arc<dyn Topics>,
}

impl TopicsServer {
    pub(super) fn new(topics: Arc<dyn Topics>) -> Self {
        Self { topics }
    }
}

#[tonic::async_trait]
impl TopicsService for TopicsServer {
    async fn publish(&self, request: Request<wire::PublishRequest>) -> Reply<wire::PublishResponse> {
        let (call, asked) = open(request)?;
        let work = async {
            let (topic, event) = <(Topic, NewEvent)>::unpack(asked)?;
            Ok(self.topics.publish(&call, &topic, event).await?.pack())
        };
        reply(work.await)
    }

    async fn set_schema(&self, request: Request<wire::SetSchemaRequest>) -> Reply<wire::SetSchemaResponse> {
        let (call, wire::SetSchemaRequest { topic, schema_json, force }) = open(request)?;
        let work = async {
            let set = self.topics.set_schema(&call, &Topic::new(topic)?, schema(&schema_json)?, force).await?;
            Ok(wire::SetSchemaResponse { schema: Some(set.pack()) })
        };
        reply(work.await)
    }

    async fn schema(&self, request: Request<wire::SchemaRequest>) -> Reply<wire::SchemaResponse> {
        let (call, wire::SchemaRequest { topic, version }) = open(request)?;
        let work = async {
            let schema = self.topics.schema(&call, &Topic::new(topic)?, version).await?;
            Ok(wire::SchemaResponse { schema: schema.map(Wire::pack) })
        };
        reply(work.await)
    }

    async fn subscribe(&self, request: Request<wire::SubscribeRequest>) -> Reply<wire::SubscribeResponse> {
        let (call, wire::SubscribeRequest { topic, agent_id, filter }) = open(request)?;
        let work = async {
            let (topic, agent) = (Topic::new(topic)?, AgentId::new(agent_id)?);
            let subscriber = self.topics.subscribe(&call, &topic, &agent, filter).await?;
            Ok(wire::SubscribeResponse { subscriber: Some(subscriber.pack()) })
        };
        reply(work.await)
    }

    async fn unsubscribe(&self, request: Request<wire::UnsubscribeRequest>) -> Reply<wire::UnsubscribeResponse> {
        let (call, wire::UnsubscribeRequest { topic, agent_id }) = open(request)?;
        let work = async {
            let (topic, agent) = (Topic::new(topic)?, AgentId::new(agent_id)?);
            Ok(wire::UnsubscribeResponse { removed: self.topics.unsubscribe(&call, &topic, &agent).await? })
        };
        reply(work.await)
    }

    async fn subscribers(&self, request: Request<wire::SubscribersRequest>) -> Reply<wire::SubscribersResponse> {
        let (call, wire::SubscribersRequest { topic }) = open(request)?;
        let work = async {
            let subscribers = self.topics.subscribers(&call, &Topic::new(topic)?).await?;
            Ok(wire::SubscribersResponse { subscribers: pack_all(subscribers) })
        };
        reply(work.await)
    }

    async fn topics(&self, request: Request<wire::TopicsRequest>) -> Reply<wire::TopicsResponse> {
        let (call, wire::TopicsRequest {}) = open(request)?;
        let work = async { Ok(wire::TopicsResponse { topics: pack_all(self.topics.topics(&call).await?) }) };
        reply(work.await)
    }
}
