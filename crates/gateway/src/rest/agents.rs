//! `/api/v1/agents`: registering, looking, leaving, signs of life, keys, pausing.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Path, State},
};
use guildhall_domain::{
    Agent, AgentId, AgentQuery, Error, NewAgent, Presence, Principal, PrincipalKind, PublicKey,
    agent::{PAGE_DEFAULT, PAGE_MAX},
    ports::agent_registry::RegistrationRight,
};
use guildhall_guard::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, Json, OptionalJson};
use crate::{
    error::Refusal,
    hall::Hall,
    identity::Caller,
    tools::{Peer, peers},
};

type Result<T> = std::result::Result<T, Refusal>;

#[derive(Serialize, ToSchema)]
pub(super) struct Registered {
    #[schema(example = true)]
    success: bool,
    agent_id: String,
    /// The agent's live socket.
    websocket_url: String,
    /// The agent's token: send it as `Authorization: Bearer` from now on. It is shown this once.
    token: String,
    token_expires_at: String,
    /// False when the id was there before and has been updated.
    created: bool,
    /// With `webhook_url`: the secret that what is brought there is signed with (Standard Webhooks).
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_secret: Option<String>,
    /// The others who are here, at most 100.
    #[schema(value_type = Vec<Object>)]
    peers: Vec<Peer>,
}

/// Registers an agent, or updates its entry. A registration key registers new ids; the agent's own token or an
/// administrator's updates an id that is there.
#[utoipa::path(post, path = "/api/v1/agents/register", tag = "agents", request_body = openapi_only::NewAgentBody,
    responses((status = 200, body = Registered), (status = 403, description = "the id belongs to another agent")))]
pub(super) async fn register(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Json(new): Json<NewAgent>,
) -> Result<Answer<Registered>> {
    let right = match &caller.registration_key {
        Some(key) => RegistrationRight::Key(key.expose_secret().into()),
        None => RegistrationRight::Caller,
    };
    let registration = hall.registry.register(&caller.call(), new, right).await?;
    let agent = &registration.agent;
    // Peers are what the agent itself may see: with a key the caller is nobody yet.
    let as_agent = Principal::new(
        agent.tenant.clone(),
        PrincipalKind::Agent,
        agent.agent_id.as_str(),
        agent.roles.iter().cloned(),
    );
    let call = guildhall_domain::Call { principal: Arc::new(as_agent), ..caller.call() };
    Ok(Answer(Registered {
        success: true,
        agent_id: agent.agent_id.to_string(),
        websocket_url: format!("/ws/{}", agent.agent_id),
        token: registration.token.token.expose_secret().to_owned(),
        token_expires_at: registration.token.expires_at.to_string(),
        created: registration.created,
        webhook_secret: registration.webhook_secret.map(|secret| secret.expose_secret().to_owned()),
        peers: peers(&hall, &call, &agent.agent_id).await?,
    }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// active, busy, idle or offline
    status: Option<String>,
    capability: Option<String>,
    role: Option<String>,
    /// 1 to 1000; 100 when left out
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct AgentList {
    #[schema(value_type = Vec<openapi_only::AgentBody>)]
    agents: Arc<[Arc<Agent>]>,
    /// How many match, over all pages.
    total: usize,
    /// Give it as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
}

/// The agents of the caller's tenant, in the order of their ids.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents", params(ListQuery), responses((status = 200, body = AgentList)))]
pub(super) async fn list(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Asked(asked): Asked<ListQuery>,
) -> Result<Answer<AgentList>> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Error::invalid(format!("limit is 1 to {PAGE_MAX}")).into());
    }
    let query = AgentQuery {
        status: asked.status.as_deref().map(str::parse::<Presence>).transpose()?,
        capability: asked.capability,
        role: asked.role,
        limit,
        after: asked.cursor.map(AgentId::new).transpose()?,
    };
    let page = hall.registry.list(&caller.call(), query).await?;
    Ok(Answer(AgentList { agents: page.agents, total: page.total, next_cursor: page.next.map(String::from) }))
}

/// One agent.
#[utoipa::path(get, path = "/api/v1/agents/{id}", tag = "agents", params(("id" = String, Path)),
    responses((status = 200, body = openapi_only::AgentBody), (status = 404)))]
pub(super) async fn get(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<Arc<Agent>>> {
    Ok(Answer(hall.registry.get(&caller.call(), &AgentId::new(id)?).await?))
}

/// The agent leaves; its tokens end.
#[utoipa::path(delete, path = "/api/v1/agents/{id}", tag = "agents", params(("id" = String, Path)),
    responses((status = 200), (status = 404)))]
pub(super) async fn remove(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<Value>> {
    let id = AgentId::new(id)?;
    hall.registry.remove(&caller.call(), &id).await?;
    Ok(Answer(json!({"success": true, "agent_id": id})))
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeartbeatBody {
    /// `busy` or `active`: what the agent says of itself; left out: it only is alive.
    status: Option<String>,
}

/// A sign of life. Any other call of the agent is one as well.
#[utoipa::path(post, path = "/api/v1/agents/{id}/heartbeat", tag = "agents", params(("id" = String, Path)),
    request_body = Option<HeartbeatBody>, responses((status = 200)))]
pub(super) async fn heartbeat(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    OptionalJson(said): OptionalJson<HeartbeatBody>,
) -> Result<Answer<Value>> {
    let id = AgentId::new(id)?;
    let busy = match said.status.as_deref() {
        None => None,
        Some("busy") => Some(true),
        Some("active") => Some(false),
        Some(_) => {
            return Err(
                Error::invalid("an agent says busy or active of itself; idle and offline the hall finds out").into()
            );
        }
    };
    hall.policy.authorize(
        &caller.principal,
        guildhall_guard::operation::Operation::Heartbeat,
        guildhall_guard::policy::Target::Agent(&id),
    )?;
    // An agent that nobody knows must hear so, rather than beat into the void.
    hall.registry.get(&caller.call(), &id).await?;
    hall.heartbeats.beat(&caller.call(), id.clone(), busy).await?;
    Ok(Answer(json!({"success": true, "agent_id": id})))
}

/// Publishes the agent's public key, in place of the one before.
#[utoipa::path(put, path = "/api/v1/agents/{id}/key", tag = "agents", params(("id" = String, Path)),
    request_body = openapi_only::KeyBody, responses((status = 200, body = openapi_only::AgentBody)))]
pub(super) async fn set_key(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(key): Json<PublicKey>,
) -> Result<Answer<Arc<Agent>>> {
    key.check()?;
    Ok(Answer(hall.registry.set_key(&caller.call(), &AgentId::new(id)?, key).await?))
}

#[derive(Serialize, ToSchema)]
pub(super) struct WebhookSecret {
    success: bool,
    agent_id: String,
    secret: String,
}

/// The secret that mail brought to the agent's webhook is signed with (Standard Webhooks).
#[utoipa::path(get, path = "/api/v1/agents/{id}/webhook-secret", tag = "agents", params(("id" = String, Path)),
    responses((status = 200, body = WebhookSecret), (status = 404)))]
pub(super) async fn webhook_secret(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<WebhookSecret>> {
    let id = AgentId::new(id)?;
    let secret = hall.registry.webhook_secret(&caller.call(), &id).await?;
    Ok(Answer(WebhookSecret { success: true, agent_id: id.to_string(), secret: secret.expose_secret().to_owned() }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseBody {
    /// Said to the agent with every call that is refused.
    reason: String,
}

/// Refuses every later call of the agent, until it is resumed.
#[utoipa::path(post, path = "/api/v1/agents/{id}/pause", tag = "agents", params(("id" = String, Path)),
    request_body = PauseBody, responses((status = 200, body = openapi_only::AgentBody)))]
pub(super) async fn pause(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<PauseBody>,
) -> Result<Answer<Arc<Agent>>> {
    Ok(Answer(hall.registry.pause(&caller.call(), &AgentId::new(id)?, &body.reason).await?))
}

/// Ends a pause.
#[utoipa::path(post, path = "/api/v1/agents/{id}/resume", tag = "agents", params(("id" = String, Path)),
    responses((status = 200, body = openapi_only::AgentBody)))]
pub(super) async fn resume(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Answer<Arc<Agent>>> {
    Ok(Answer(hall.registry.resume(&caller.call(), &AgentId::new(id)?).await?))
}

/// An agent with every field set, as the test of the document needs one.
#[cfg(test)]
pub(super) fn example() -> Agent {
    Agent {
        tenant: guildhall_domain::TenantId::default(),
        agent_id: AgentId::new("a").unwrap(),
        name: "A".into(),
        session_id: None,
        status: Presence::Active,
        capabilities: Default::default(),
        roles: Default::default(),
        pool: None,
        delivery: guildhall_domain::agent::Delivery::Poll,
        webhook_url: None,
        metadata: Default::default(),
        public_key: None,
        old_keys: Vec::new(),
        paused: None,
        registered_at: guildhall_domain::Timestamp::from_millis(0),
        last_heartbeat: None,
        version: 1,
        token_epoch: 0,
    }
}

/// How the domain's records look in the OpenAPI document; a test holds them against the records.
pub(super) mod openapi_only {
    use serde_json::{Map, Value};
    use utoipa::ToSchema;

    #[derive(ToSchema)]
    #[expect(dead_code, reason = "a description; the domain's record is what is read and written")]
    pub(in crate::rest) struct NewAgentBody {
        agent_id: String,
        name: Option<String>,
        session_id: Option<String>,
        capabilities: Option<Vec<String>>,
        /// Granted only when an administrator asks for them.
        roles: Option<Vec<String>>,
        pool: Option<String>,
        /// poll, websocket, webhook or letta
        delivery: Option<String>,
        /// Where mail is brought when delivery is webhook.
        webhook_url: Option<String>,
        #[schema(value_type = Object)]
        metadata: Option<Map<String, Value>>,
        public_key: Option<KeyBody>,
    }

    #[derive(ToSchema)]
    #[expect(dead_code, reason = "a description; the domain's record is what is read and written")]
    pub(in crate::rest) struct KeyBody {
        /// For example `x25519`.
        algorithm: String,
        /// base64
        key: String,
    }

    #[derive(ToSchema)]
    #[expect(dead_code, reason = "a description; the domain's record is what is read and written")]
    pub(in crate::rest) struct AgentBody {
        agent_id: String,
        name: String,
        session_id: Option<String>,
        /// active, busy, idle or offline
        status: String,
        capabilities: Vec<String>,
        roles: Vec<String>,
        pool: Option<String>,
        delivery: String,
        /// Where its mail is brought when it wants that by webhook.
        webhook_url: Option<String>,
        #[schema(value_type = Object)]
        metadata: Map<String, Value>,
        public_key: Option<KeyBody>,
        /// Those it published before, the newest first.
        old_keys: Vec<KeyBody>,
        /// Why an administrator paused it; null when it is not paused.
        paused: Option<String>,
        registered_at: String,
        last_heartbeat: Option<String>,
    }
}
