//! Agents, queries and signs of life.

use std::sync::Arc;

use guildhall_domain::{
    Agent, AgentId, AgentPage, AgentQuery, NewAgent, Presence, PublicKey, Result, TenantId,
    agent::{Delivery, Heartbeat},
};
use guildhall_proto::agent_registry::v1 as wire;
use guildhall_rpc::wire::{bad_json, unknown};
use serde_json::{Map, Value};

use super::{Wire, at, words};

impl Wire for Presence {
    type Message = i32;

    fn pack(self) -> i32 {
        let presence = match self {
            Self::Active => wire::Presence::Active,
            Self::Busy => wire::Presence::Busy,
            Self::Idle => wire::Presence::Idle,
            Self::Offline => wire::Presence::Offline,
        };
        presence.into()
    }

    fn unpack(presence: i32) -> Result<Self> {
        match wire::Presence::try_from(presence) {
            Ok(wire::Presence::Active) => Ok(Self::Active),
            Ok(wire::Presence::Busy) => Ok(Self::Busy),
            Ok(wire::Presence::Idle) => Ok(Self::Idle),
            Ok(wire::Presence::Offline) => Ok(Self::Offline),
            Ok(wire::Presence::Unspecified) | Err(_) => Err(unknown("presence")),
        }
    }
}

impl Wire for Delivery {
    type Message = i32;

    fn pack(self) -> i32 {
        let delivery = match self {
            Self::Poll => wire::Delivery::Poll,
            Self::Websocket => wire::Delivery::Websocket,
            Self::Webhook => wire::Delivery::Webhook,
            Self::Letta => wire::Delivery::Letta,
        };
        delivery.into()
    }

    fn unpack(delivery: i32) -> Result<Self> {
        match wire::Delivery::try_from(delivery) {
            Ok(wire::Delivery::Poll) => Ok(Self::Poll),
            Ok(wire::Delivery::Websocket) => Ok(Self::Websocket),
            Ok(wire::Delivery::Webhook) => Ok(Self::Webhook),
            Ok(wire::Delivery::Letta) => Ok(Self::Letta),
            Ok(wire::Delivery::Unspecified) | Err(_) => Err(unknown("way of delivery")),
        }
    }
}

impl Wire for PublicKey {
    type Message = wire::PublicKey;

    fn pack(self) -> wire::PublicKey {
        let Self { algorithm, key } = self;
        wire::PublicKey { algorithm, key }
    }

    fn unpack(message: wire::PublicKey) -> Result<Self> {
        let wire::PublicKey { algorithm, key } = message;
        Ok(Self { algorithm, key })
    }
}

impl Wire for Agent {
    type Message = wire::Agent;

    fn pack(self) -> wire::Agent {
        let Self {
            tenant,
            agent_id,
            name,
            session_id,
            status,
            capabilities,
            roles,
            pool,
            delivery,
            metadata,
            public_key,
            paused,
            registered_at,
            last_heartbeat,
            version,
            token_epoch,
            webhook_url,
            old_keys,
        } = self;
        wire::Agent {
            tenant: tenant.into(),
            agent_id: agent_id.into(),
            name,
            session_id,
            status: status.pack(),
            capabilities: words(capabilities),
            roles: words(roles),
            pool,
            delivery: delivery.pack(),
            metadata_json: pack_metadata(metadata),
            public_key: public_key.map(Wire::pack),
            paused,
            registered_at_ms: registered_at.as_millis(),
            last_heartbeat_at_ms: last_heartbeat.map(|at| at.as_millis()),
            version,
            token_epoch,
            webhook_url,
            old_keys: old_keys.into_iter().map(Wire::pack).collect(),
        }
    }

    fn unpack(message: wire::Agent) -> Result<Self> {
        let wire::Agent {
            tenant,
            agent_id,
            name,
            session_id,
            status,
            capabilities,
            roles,
            pool,
            delivery,
            metadata_json,
            public_key,
            paused,
            registered_at_ms,
            last_heartbeat_at_ms,
            version,
            token_epoch,
            webhook_url,
            old_keys,
        } = message;
        Ok(Self {
            tenant: TenantId::new(tenant)?,
            agent_id: AgentId::new(agent_id)?,
            name,
            session_id,
            status: Presence::unpack(status)?,
            capabilities: capabilities.into_iter().collect(),
            roles: roles.into_iter().collect(),
            pool,
            delivery: Delivery::unpack(delivery)?,
            metadata: unpack_metadata(&metadata_json)?,
            public_key: public_key.map(PublicKey::unpack).transpose()?,
            paused,
            registered_at: at(registered_at_ms),
            last_heartbeat: last_heartbeat_at_ms.map(at),
            version,
            token_epoch,
            webhook_url,
            old_keys: old_keys.into_iter().map(PublicKey::unpack).collect::<Result<_>>()?,
        })
    }
}

impl Wire for NewAgent {
    type Message = wire::NewAgent;

    fn pack(self) -> wire::NewAgent {
        let Self { agent_id, name, session_id, capabilities, roles, pool, delivery, webhook_url, metadata, public_key } =
            self;
        wire::NewAgent {
            agent_id: agent_id.into(),
            name,
            session_id,
            capabilities: capabilities.map(|tags| wire::Tags { tags: words(tags) }),
            roles: roles.map(|tags| wire::Tags { tags: words(tags) }),
            pool,
            delivery: delivery.map(Wire::pack),
            metadata_json: metadata.map(pack_metadata),
            public_key: public_key.map(Wire::pack),
            webhook_url,
        }
    }

    fn unpack(message: wire::NewAgent) -> Result<Self> {
        let wire::NewAgent {
            agent_id,
            name,
            session_id,
            capabilities,
            roles,
            pool,
            delivery,
            metadata_json,
            public_key,
            webhook_url,
        } = message;
        Ok(Self {
            agent_id: AgentId::new(agent_id)?,
            name,
            session_id,
            capabilities: capabilities.map(|tags| tags.tags.into_iter().collect()),
            roles: roles.map(|tags| tags.tags.into_iter().collect()),
            pool,
            delivery: delivery.map(Delivery::unpack).transpose()?,
            metadata: metadata_json.as_deref().map(unpack_metadata).transpose()?,
            public_key: public_key.map(PublicKey::unpack).transpose()?,
            webhook_url,
        })
    }
}

impl Wire for AgentQuery {
    type Message = wire::ListRequest;

    fn pack(self) -> wire::ListRequest {
        let Self { status, capability, role, limit, after } = self;
        wire::ListRequest {
            status: status.map(Wire::pack),
            capability,
            role,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            after: after.map(Into::into),
        }
    }

    fn unpack(message: wire::ListRequest) -> Result<Self> {
        let wire::ListRequest { status, capability, role, limit, after } = message;
        Ok(Self {
            status: status.map(Presence::unpack).transpose()?,
            capability,
            role,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            after: after.map(AgentId::new).transpose()?,
        })
    }
}

impl Wire for AgentPage {
    type Message = wire::ListResponse;

    fn pack(self) -> wire::ListResponse {
        let Self { agents, total, next } = self;
        wire::ListResponse {
            agents: agents.iter().map(|agent| Agent::clone(agent).pack()).collect(),
            total: total as u64,
            next: next.map(Into::into),
        }
    }

    fn unpack(message: wire::ListResponse) -> Result<Self> {
        let wire::ListResponse { agents, total, next } = message;
        Ok(Self {
            agents: agents.into_iter().map(|agent| Agent::unpack(agent).map(Arc::new)).collect::<Result<_>>()?,
            total: usize::try_from(total).unwrap_or(usize::MAX),
            next: next.map(AgentId::new).transpose()?,
        })
    }
}

impl Wire for Heartbeat {
    type Message = wire::Heartbeat;

    fn pack(self) -> wire::Heartbeat {
        let Self { tenant, agent_id, at, busy } = self;
        wire::Heartbeat { tenant: tenant.into(), agent_id: agent_id.into(), at_ms: at.as_millis(), busy }
    }

    fn unpack(message: wire::Heartbeat) -> Result<Self> {
        let wire::Heartbeat { tenant, agent_id, at_ms, busy } = message;
        Ok(Self { tenant: TenantId::new(tenant)?, agent_id: AgentId::new(agent_id)?, at: at(at_ms), busy })
    }
}

fn pack_metadata(metadata: Map<String, Value>) -> String {
    if metadata.is_empty() { String::new() } else { Value::Object(metadata).to_string() }
}

fn unpack_metadata(json: &str) -> Result<Map<String, Value>> {
    if json.is_empty() { Ok(Map::new()) } else { serde_json::from_str(json).map_err(|_| bad_json("metadata")) }
}
