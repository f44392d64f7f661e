//! The caller's side: the port, with every method a call over the transport.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use guildhall_domain::{
    AccessView, Agent, AgentId, AgentPage, AgentQuery, AuditEntry, AuditRecord, Call, IssuedToken, NewAgent, PublicKey,
    RegistrationKey, Result, TokenRequest,
    access::Revocation,
    agent::{Delivery, Heartbeat},
    audit::{AuditQuery, AuditVerdict},
    ports::{
        AgentRegistry,
        agent_registry::{Registration, RegistrationRight},
    },
};
use guildhall_guard::{ExposeSecret, Secret};
use guildhall_proto::agent_registry::v1::{self as wire, agent_registry_service_client::AgentRegistryServiceClient};
use guildhall_rpc::{
    Transport,
    call::outgoing,
    house,
    status::from_status,
    wire::{millis, present},
};

use super::convert::Wire;

pub(super) struct Client {
    /// Cloned for every call: it is a handle.
    service: AgentRegistryServiceClient<Transport>,
}

impl Client {
    pub(super) fn new(service: AgentRegistryServiceClient<Transport>) -> Self {
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

/// The same for an answer that may come as it is.
macro_rules! ask_in_house {
    ($client:ident . $method:ident, $call:expr, $message:expr) => {{
        let request = house::mark(outgoing($call, $message)?);
        house::take($client.service.clone().$method(request).await.map_err(from_status)?)
    }};
}

fn agent(message: Option<wire::Agent>) -> Result<Arc<Agent>> {
    Ok(Arc::new(Agent::unpack(present(message, "the agent")?)?))
}

#[async_trait]
impl AgentRegistry for Client {
    async fn register(&self, call: &Call, new: NewAgent, right: RegistrationRight) -> Result<Registration> {
        let registration_key = match right {
            RegistrationRight::Caller => None,
            RegistrationRight::Key(key) => Some(key.expose_secret().to_owned()),
        };
        let done = ask!(self.register, call, wire::RegisterRequest { agent: Some(new.pack()), registration_key });
        let token = IssuedToken::unpack(present(done.token, "the token")?)?;
        let webhook_secret = done.webhook_secret.map(Into::into);
        Ok(Registration { agent: agent(done.agent)?, token, created: done.created, webhook_secret })
    }

    async fn list(&self, call: &Call, query: AgentQuery) -> Result<AgentPage> {
        ask_in_house!(self.list, call, query.pack()).or_else(AgentPage::unpack)
    }

    async fn get(&self, call: &Call, agent_id: &AgentId) -> Result<Arc<Agent>> {
        ask_in_house!(self.get, call, wire::GetRequest { agent_id: agent_id.to_string() })
            .or_else(|message: wire::GetResponse| agent(message.agent))
    }

    async fn remove(&self, call: &Call, agent_id: &AgentId) -> Result<()> {
        let wire::RemoveResponse {} = ask!(self.remove, call, wire::RemoveRequest { agent_id: agent_id.to_string() });
        Ok(())
    }

    async fn pause(&self, call: &Call, agent_id: &AgentId, reason: &str) -> Result<Arc<Agent>> {
        let request = wire::PauseRequest { agent_id: agent_id.to_string(), reason: reason.to_owned() };
        agent(ask!(self.pause, call, request).agent)
    }

    async fn resume(&self, call: &Call, agent_id: &AgentId) -> Result<Arc<Agent>> {
        agent(ask!(self.resume, call, wire::ResumeRequest { agent_id: agent_id.to_string() }).agent)
    }

    async fn set_key(&self, call: &Call, agent_id: &AgentId, key: PublicKey) -> Result<Arc<Agent>> {
        let request = wire::SetKeyRequest { agent_id: agent_id.to_string(), public_key: Some(key.pack()) };
        agent(ask!(self.set_key, call, request).agent)
    }

    async fn webhook_secret(&self, call: &Call, agent_id: &AgentId) -> Result<Secret> {
        let request = wire::WebhookSecretRequest { agent_id: agent_id.to_string() };
        Ok(ask!(self.webhook_secret, call, request).secret.into())
    }

    async fn wanting(&self, call: &Call, delivery: Delivery) -> Result<Vec<Arc<Agent>>> {
        let request = wire::WantingRequest { delivery: delivery.pack() };
        let unpack = |message| Agent::unpack(message).map(Arc::new);
        ask_in_house!(self.wanting, call, request)
            .or_else(|message: wire::WantingResponse| message.agents.into_iter().map(unpack).collect())
    }

    async fn heartbeats(&self, call: &Call, beats: Vec<Heartbeat>) -> Result<()> {
        let beats = beats.into_iter().map(Wire::pack).collect();
        let wire::HeartbeatsResponse {} = ask!(self.heartbeats, call, wire::HeartbeatsRequest { beats });
        Ok(())
    }

    async fn access(&self, call: &Call, known: Option<u64>) -> Result<Option<AccessView>> {
        ask_in_house!(self.access, call, wire::AccessRequest { known })
            .or_else(|message: wire::AccessResponse| message.view.map(AccessView::unpack).transpose())
    }

    async fn issue_token(&self, call: &Call, request: TokenRequest) -> Result<IssuedToken> {
        IssuedToken::unpack(present(ask!(self.issue_token, call, request.pack()).token, "the token")?)
    }

    async fn revoke(&self, call: &Call, what: Revocation) -> Result<()> {
        let wire::RevokeResponse {} = ask!(self.revoke, call, what.pack());
        Ok(())
    }

    async fn rotate_signing_key(&self, call: &Call, overlap: Duration) -> Result<()> {
        let request = wire::RotateSigningKeyRequest { overlap_ms: millis(overlap) };
        let wire::RotateSigningKeyResponse {} = ask!(self.rotate_signing_key, call, request);
        Ok(())
    }

    async fn create_registration_key(
        &self,
        call: &Call,
        roles: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<(RegistrationKey, Secret)> {
        let request = wire::CreateRegistrationKeyRequest { roles, ttl_ms: ttl.map(millis) };
        let wire::CreateRegistrationKeyResponse { key, secret } = ask!(self.create_registration_key, call, request);
        Ok((RegistrationKey::unpack(present(key, "the key")?)?, secret.into()))
    }

    async fn registration_keys(&self, call: &Call) -> Result<Vec<RegistrationKey>> {
        let keys = ask!(self.registration_keys, call, wire::RegistrationKeysRequest {}).keys;
        keys.into_iter().map(RegistrationKey::unpack).collect()
    }

    async fn revoke_registration_key(&self, call: &Call, key_id: &str) -> Result<()> {
        let request = wire::RevokeRegistrationKeyRequest { key_id: key_id.to_owned() };
        let wire::RevokeRegistrationKeyResponse {} = ask!(self.revoke_registration_key, call, request);
        Ok(())
    }

    async fn record_audit(&self, call: &Call, entries: Vec<AuditEntry>) -> Result<()> {
        let entries = entries.into_iter().map(Wire::pack).collect();
        let wire::RecordAuditResponse {} = ask!(self.record_audit, call, wire::RecordAuditRequest { entries });
        Ok(())
    }

    async fn audit(&self, call: &Call, query: AuditQuery) -> Result<Vec<AuditRecord>> {
        ask!(self.audit, call, query.pack()).records.into_iter().map(AuditRecord::unpack).collect()
    }

    async fn verify_audit(&self, call: &Call) -> Result<AuditVerdict> {
        AuditVerdict::unpack(ask!(self.verify_audit, call, wire::VerifyAuditRequest {}))
    }
}
