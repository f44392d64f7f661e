//! Events, schemas and subscribers.

use guildhall_domain::{
    AgentId, Result,
    event::{NewEvent, Subscriber, TopicInfo, TopicSchema},
    ports::bus::{Durability, Published, Topic},
};
use guildhall_proto::mail::v1 as wire;
use guildhall_rpc::wire::bad_json;
use serde_json::Value;

use super::{Wire, at, body};

impl Wire for (Topic, NewEvent) {
    type Message = wire::PublishRequest;

    fn pack(self) -> wire::PublishRequest {
        let (topic, NewEvent { content, headers, idempotency_key }) = self;
        wire::PublishRequest {
            topic: topic.into(),
            content_json: content.as_text().to_owned(),
            headers: headers.into_iter().map(|(name, value)| wire::Header { name, value }).collect(),
            idempotency_key,
        }
    }

    fn unpack(message: wire::PublishRequest) -> Result<Self> {
        let wire::PublishRequest { topic, content_json, headers, idempotency_key } = message;
        let headers = headers.into_iter().map(|wire::Header { name, value }| (name, value)).collect();
        Ok((Topic::new(topic)?, NewEvent { content: body(content_json)?, headers, idempotency_key }))
    }
}

impl Wire for Published {
    type Message = wire::PublishResponse;

    fn pack(self) -> wire::PublishResponse {
        let Self { sequence, durability, duplicate } = self;
        wire::PublishResponse { sequence, durability: durability.pack(), duplicate }
    }

    fn unpack(message: wire::PublishResponse) -> Result<Self> {
        let wire::PublishResponse { sequence, durability, duplicate } = message;
        Ok(Self { sequence, durability: Durability::unpack(durability)?, duplicate })
    }
}

impl Wire for TopicSchema {
    type Message = wire::TopicSchema;

    fn pack(self) -> wire::TopicSchema {
        let Self { topic, version, schema, set_at, set_by } = self;
        wire::TopicSchema {
            topic: topic.into(),
            version,
            schema_json: schema.to_string(),
            set_at_ms: set_at.as_millis(),
            set_by,
        }
    }

    fn unpack(message: wire::TopicSchema) -> Result<Self> {
        let wire::TopicSchema { topic, version, schema_json, set_at_ms, set_by } = message;
        Ok(Self { topic: Topic::new(topic)?, version, schema: schema(&schema_json)?, set_at: at(set_at_ms), set_by })
    }
}

pub(in crate::grpc) fn schema(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(|_| bad_json("a schema"))
}

impl Wire for Subscriber {
    type Message = wire::Subscriber;

    fn pack(self) -> wire::Subscriber {
        let Self { agent_id, filter, since } = self;
        wire::Subscriber { agent_id: agent_id.into(), filter, since_at_ms: since.as_millis() }
    }

    fn unpack(message: wire::Subscriber) -> Result<Self> {
        let wire::Subscriber { agent_id, filter, since_at_ms } = message;
        Ok(Self { agent_id: AgentId::new(agent_id)?, filter, since: at(since_at_ms) })
    }
}

impl Wire for TopicInfo {
    type Message = wire::TopicInfo;

    fn pack(self) -> wire::TopicInfo {
        let Self { topic, schema_version, subscribers } = self;
        wire::TopicInfo { topic: topic.into(), schema_version, subscribers: subscribers as u64 }
    }

    fn unpack(message: wire::TopicInfo) -> Result<Self> {
        let wire::TopicInfo { topic, schema_version, subscribers } = message;
        let subscribers = usize::try_from(subscribers).unwrap_or(usize::MAX);
        Ok(Self { topic: Topic::new(topic)?, schema_version, subscribers })
    }
}
