//! Tools about agents: who is here, and the caller's own entry.

use std::{collections::BTreeSet, sync::Arc};

use futures::FutureExt as _;
use guildhall_domain::{
    Agent, AgentId, AgentQuery, Call, Error, NewAgent, PublicKey, Result,
    agent::{Delivery, PAGE_MAX},
    ports::agent_registry::RegistrationRight,
};
use guildhall_guard::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{About, Effect, Tool};
use crate::hall::Hall;

const TOOLSET: &str = "agents";

pub(super) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            "list_agents",
            TOOLSET,
            Operation::ListAgents,
            Effect::ReadsOnly,
            About {
                title: "List agents",
                description: "Lists the agents of this hall: who is here, whether they are active, busy, idle or \
                              offline, and what they can do. Use an agent's id to write to it.",
                advice: &[],
            },
            |ask, arguments: ListAgents| list_agents(ask.hall, ask.call, arguments).boxed(),
        ),
        Tool::new(
            "register_agent",
            TOOLSET,
            Operation::RegisterAgent,
            Effect::Idempotent,
            About {
                title: "Register or update this agent",
                description: "Makes you known in this hall, or updates your own entry: name, capabilities, pool, \
                              metadata. What you leave out stays as it is.",
                advice: &[],
            },
            |ask, arguments: RegisterAgent| register_agent(ask.hall, ask.call, arguments).boxed(),
        ),
        Tool::new(
            "set_public_key",
            TOOLSET,
            Operation::SetAgentKey,
            Effect::Idempotent,
            About {
                title: "Publish this agent's public key",
                description: "Publishes your public key, so that others can seal messages that only you can open. The \
                              one before stays in your entry, so that mail sealed for it can still be told apart.",
                advice: &[],
            },
            |ask, arguments: Key| set_public_key(ask.hall, ask.call, arguments).boxed(),
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListAgents {
    /// Only agents of this status.
    #[serde(default)]
    #[schemars(extend("enum" = ["active", "busy", "idle", "offline"]))]
    status: Option<String>,
    /// Only agents with this capability.
    #[serde(default)]
    capability: Option<String>,
    /// Only agents with this role.
    #[serde(default)]
    role: Option<String>,
    /// At most this many, 1 to 1000; 1000 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AgentList {
    success: bool,
    agents: Vec<ListedAgent>,
    /// How many match, over all pages.
    total: usize,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ListedAgent {
    id: String,
    name: String,
    /// The agent's Matrix user; null while no homeserver is configured.
    matrix_user_id: Option<String>,
    status: String,
    capabilities: Vec<String>,
}

async fn list_agents(hall: &Hall, call: &Call, asked: ListAgents) -> Result<AgentList> {
    let limit = asked.limit.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Error::invalid(format!("limit is 1 to {PAGE_MAX}")));
    }
    let query = AgentQuery {
        status: asked.status.as_deref().map(str::parse).transpose()?,
        capability: asked.capability,
        role: asked.role,
        limit,
        after: asked.cursor.map(AgentId::new).transpose()?,
    };
    let page = hall.registry.list(call, query).await?;
    let listed = |agent: &Arc<Agent>| ListedAgent {
        id: agent.agent_id.to_string(),
        name: agent.name.clone(),
        matrix_user_id: None,
        status: agent.status.as_str().to_owned(),
        capabilities: agent.capabilities.iter().cloned().collect(),
    };
    Ok(AgentList {
        success: true,
        agents: page.agents.iter().map(listed).collect(),
        total: page.total,
        next_cursor: page.next.map(String::from),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegisterAgent {
    /// Your own id; may be left out where the hall knows it already.
    #[serde(default)]
    agent_id: Option<String>,
    /// What people and other agents call you.
    #[serde(default)]
    name: Option<String>,
    /// The session you work in, if your host has such a thing.
    #[serde(default)]
    session_id: Option<String>,
    /// What you can do, as words that others can look for, for example `rust` or `review`.
    #[serde(default)]
    capabilities: Option<BTreeSet<String>>,
    /// The pool whose mail you share.
    #[serde(default)]
    pool: Option<String>,
    /// How you want your mail.
    #[serde(default)]
    #[schemars(extend("enum" = ["poll", "websocket", "webhook", "letta"]))]
    delivery: Option<String>,
    /// Where to bring it, with `webhook`: an address that takes POST.
    #[serde(default)]
    webhook_url: Option<String>,
    /// Anything else worth knowing about you, as a JSON object of at most 16 KiB.
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
    /// Your public key, with which others seal messages that only you can open.
    #[serde(default)]
    public_key: Option<Key>,
}

/// A public key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Key {
    /// For example `x25519`.
    algorithm: String,
    /// The key, base64.
    key: String,
}

impl From<Key> for PublicKey {
    fn from(key: Key) -> Self {
        Self { algorithm: key.algorithm, key: key.key }
    }
}

#[derive(Serialize, JsonSchema)]
struct Registered {
    success: bool,
    agent_id: String,
    name: String,
    status: String,
    /// False when you were known before and your entry has been updated.
    created: bool,
    /// The others who are here, at most 100; `list_agents` shows all.
    peers: Vec<Peer>,
}

/// Another agent, as registration names it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Peer {
    pub(crate) agent_id: String,
    pub(crate) name: String,
    pub(crate) status: String,
}

async fn register_agent(hall: &Hall, call: &Call, asked: RegisterAgent) -> Result<Registered> {
    let own = call.principal.require_agent()?;
    if asked.agent_id.as_deref().is_some_and(|named| named != own.as_str()) {
        return Err(Error::denied(format!(
            "register_agent updates the caller's own entry, and you are {own}; leave agent_id out"
        )));
    }
    let new = NewAgent {
        agent_id: own.clone(),
        name: asked.name,
        session_id: asked.session_id,
        capabilities: asked.capabilities,
        roles: None,
        pool: asked.pool,
        delivery: asked.delivery.as_deref().map(str::parse::<Delivery>).transpose()?,
        metadata: asked.metadata,
        webhook_url: asked.webhook_url,
        public_key: asked.public_key.map(PublicKey::from),
    };
    // The fresh token that registering answers with stays here: a tool's result is read by a model.
    let registration = hall.registry.register(call, new, RegistrationRight::Caller).await?;
    Ok(Registered {
        success: true,
        agent_id: own.to_string(),
        name: registration.agent.name.clone(),
        status: registration.agent.status.as_str().to_owned(),
        created: registration.created,
        peers: peers(hall, call, &own).await?,
    })
}

#[derive(Serialize, JsonSchema)]
struct KeySet {
    success: bool,
    agent_id: String,
    /// The algorithm of the key that is published now.
    algorithm: String,
    /// Keys that you published before and that are still in your entry.
    old_keys: usize,
}

async fn set_public_key(hall: &Hall, call: &Call, key: Key) -> Result<KeySet> {
    let own = call.principal.require_agent()?;
    let key = PublicKey::from(key);
    key.check()?;
    let algorithm = key.algorithm.clone();
    let agent = hall.registry.set_key(call, &own, key).await?;
    Ok(KeySet { success: true, agent_id: own.to_string(), algorithm, old_keys: agent.old_keys.len() })
}

/// The first page of agents, less the one that asks.
pub(crate) async fn peers(hall: &Hall, call: &Call, own: &AgentId) -> Result<Vec<Peer>> {
    let page = hall.registry.list(call, AgentQuery::default()).await?;
    let others = page.agents.iter().filter(|agent| agent.agent_id != *own);
    Ok(others
        .map(|agent| Peer {
            agent_id: agent.agent_id.to_string(),
            name: agent.name.clone(),
            status: agent.status.as_str().to_owned(),
        })
        .collect())
}
