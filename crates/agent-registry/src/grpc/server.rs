//! The server's side: takes the call and the message apart, asks the port, packs the answer.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    AgentId, AgentQuery, AuditEntry, Call, NewAgent, PublicKey, Result, TokenRequest,
    access::Revocation,
    agent::{Delivery, Heartbeat},
    audit::AuditQuery,
    ports::{AgentRegistry, agent_registry::RegistrationRight},
};
use guildhall_guard::ExposeSecret;
use guildhall_proto::agent_registry::v1::{self as wire, agent_registry_service_server::AgentRegistryService};
use guildhall_rpc::{call::incoming, house, status::to_status, wire::present};
use tonic::{Request, Response, Status};

use super::convert::Wire;

pub struct Server {
    registry: Arc<dyn AgentRegistry>,
}

impl Server {
    pub(super) fn new(registry: Arc<dyn AgentRegistry>) -> Self {
        Self { registry }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(answer: Result<T>) -> Answer<T> {
    answer.map(Response::new).map_err(to_status)
}

fn open<M>(request: Request<M>) -> Result<(Call, M), Status> {
    let call = incoming(&request).map_err(to_status)?;
    Ok((call, request.into_inner()))
}

#[tonic::async_trait]
impl AgentRegistryService for Server {
    async fn register(&self, request: Request<wire::RegisterRequest>) -> Answer<wire::RegisterResponse> {
        let (call, wire::RegisterRequest { agent, registration_key }) = open(request)?;
        let work = async {
            let new = NewAgent::unpack(present(agent, "the agent")?)?;
            let right = registration_key.map_or(RegistrationRight::Caller, |key| RegistrationRight::Key(key.into()));
            let done = self.registry.register(&call, new, right).await?;
            Ok(wire::RegisterResponse {
                agent: Some(Arc::unwrap_or_clone(done.agent).pack()),
                token: Some(done.token.pack()),
                created: done.created,
                webhook_secret: done.webhook_secret.map(|secret| secret.expose_secret().to_owned()),
            })
        };
        answer(work.await)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        let same_house = house::is_marked(&request);
        let (call, query) = open(request)?;
        let work = async { self.registry.list(&call, AgentQuery::unpack(query)?).await };
        let page = work.await.map_err(to_status)?;
        Ok(if same_house { house::hand_over(page) } else { Response::new(page.pack()) })
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Answer<wire::GetResponse> {
        let same_house = house::is_marked(&request);
        let (call, wire::GetRequest { agent_id }) = open(request)?;
        let work = async { self.registry.get(&call, &AgentId::new(agent_id)?).await };
        let agent = work.await.map_err(to_status)?;
        if same_house {
            return Ok(house::hand_over(agent));
        }
        Ok(Response::new(wire::GetResponse { agent: Some(Arc::unwrap_or_clone(agent).pack()) }))
    }

    async fn remove(&self, request: Request<wire::RemoveRequest>) -> Answer<wire::RemoveResponse> {
        let (call, wire::RemoveRequest { agent_id }) = open(request)?;
        let work = async {
            self.registry.remove(&call, &AgentId::new(agent_id)?).await?;
            Ok(wire::RemoveResponse {})
        };
        answer(work.await)
    }

    async fn pause(&self, request: Request<wire::PauseRequest>) -> Answer<wire::PauseResponse> {
        let (call, wire::PauseRequest { agent_id, reason }) = open(request)?;
        let work = async {
            let agent = self.registry.pause(&call, &AgentId::new(agent_id)?, &reason).await?;
            Ok(wire::PauseResponse { agent: Some(Arc::unwrap_or_clone(agent).pack()) })
        };
        answer(work.await)
    }

    async fn resume(&self, request: Request<wire::ResumeRequest>) -> Answer<wire::ResumeResponse> {
        let (call, wire::ResumeRequest { agent_id }) = open(request)?;
        let work = async {
            let agent = self.registry.resume(&call, &AgentId::new(agent_id)?).await?;
            Ok(wire::ResumeResponse { agent: Some(Arc::unwrap_or_clone(agent).pack()) })
        };
        answer(work.await)
    }

    async fn set_key(&self, request: Request<wire::SetKeyRequest>) -> Answer<wire::SetKeyResponse> {
        let (call, wire::SetKeyRequest { agent_id, public_key }) = open(request)?;
        let work = async {
            let key = PublicKey::unpack(present(public_key, "the public key")?)?;
            let agent = self.registry.set_key(&call, &AgentId::new(agent_id)?, key).await?;
            Ok(wire::SetKeyResponse { agent: Some(Arc::unwrap_or_clone(agent).pack()) })
        };
        answer(work.await)
    }

    async fn webhook_secret(
        &self,
        request: Request<wire::WebhookSecretRequest>,
    ) -> Answer<wire::WebhookSecretResponse> {
        let (call, wire::WebhookSecretRequest { agent_id }) = open(request)?;
        let work = async {
            let secret = self.registry.webhook_secret(&call, &AgentId::new(agent_id)?).await?;
            Ok(wire::WebhookSecretResponse { secret: secret.expose_secret().to_owned() })
        };
        answer(work.await)
    }

    async fn wanting(&self, request: Request<wire::WantingRequest>) -> Answer<wire::WantingResponse> {
        let same_house = house::is_marked(&request);
        let (call, wire::WantingRequest { delivery }) = open(request)?;
        let work = async { self.registry.wanting(&call, Delivery::unpack(delivery)?).await };
        let agents = work.await.map_err(to_status)?;
        if same_house {
            return Ok(house::hand_over(agents));
        }
        let agents = agents.into_iter().map(|agent| Arc::unwrap_or_clone(agent).pack()).collect();
        Ok(Response::new(wire::WantingResponse { agents }))
    }

    async fn heartbeats(&self, request: Request<wire::HeartbeatsRequest>) -> Answer<wire::HeartbeatsResponse> {
        let (call, wire::HeartbeatsRequest { beats }) = open(request)?;
        let work = async {
            let beats = beats.into_iter().map(Heartbeat::unpack).collect::<Result<_>>()?;
            self.registry.heartbeats(&call, beats).await?;
            Ok(wire::HeartbeatsResponse {})
        };
        answer(work.await)
    }

    async fn access(&self, request: Request<wire::AccessRequest>) -> Answer<wire::AccessResponse> {
        let same_house = house::is_marked(&request);
        let (call, wire::AccessRequest { known }) = open(request)?;
        let view = self.registry.access(&call, known).await.map_err(to_status)?;
        if same_house {
            return Ok(house::hand_over(view));
        }
        Ok(Response::new(wire::AccessResponse { view: view.map(Wire::pack) }))
    }

    async fn issue_token(&self, request: Request<wire::IssueTokenRequest>) -> Answer<wire::IssueTokenResponse> {
        let (call, asked) = open(request)?;
        let work = async {
            let token = self.registry.issue_token(&call, TokenRequest::unpack(asked)?).await?;
            Ok(wire::IssueTokenResponse { token: Some(token.pack()) })
        };
        answer(work.await)
    }

    async fn revoke(&self, request: Request<wire::RevokeRequest>) -> Answer<wire::RevokeResponse> {
        let (call, what) = open(request)?;
        let work = async {
            self.registry.revoke(&call, Revocation::unpack(what)?).await?;
            Ok(wire::RevokeResponse {})
        };
        answer(work.await)
    }

    async fn rotate_signing_key(
        &self,
        request: Request<wire::RotateSigningKeyRequest>,
    ) -> Answer<wire::RotateSigningKeyResponse> {
        let (call, wire::RotateSigningKeyRequest { overlap_ms }) = open(request)?;
        let work = async {
            self.registry.rotate_signing_key(&call, Duration::from_millis(overlap_ms)).await?;
            Ok(wire::RotateSigningKeyResponse {})
        };
        answer(work.await)
    }

    async fn create_registration_key(
        &self,
        request: Request<wire::CreateRegistrationKeyRequest>,
    ) -> Answer<wire::CreateRegistrationKeyResponse> {
        let (call, wire::CreateRegistrationKeyRequest { roles, ttl_ms }) = open(request)?;
        let work = async {
            let ttl = ttl_ms.map(Duration::from_millis);
            let (key, secret) = self.registry.create_registration_key(&call, roles, ttl).await?;
            let secret = secret.expose_secret().to_owned();
            Ok(wire::CreateRegistrationKeyResponse { key: Some(key.pack()), secret })
        };
        answer(work.await)
    }

    async fn registration_keys(
        &self,
        request: Request<wire::RegistrationKeysRequest>,
    ) -> Answer<wire::RegistrationKeysResponse> {
        let (call, wire::RegistrationKeysRequest {}) = open(request)?;
        let work = async {
            let keys = self.registry.registration_keys(&call).await?;
            Ok(wire::RegistrationKeysResponse { keys: keys.into_iter().map(Wire::pack).collect() })
        };
        answer(work.await)
    }

    async fn revoke_registration_key(
        &self,
        request: Request<wire::RevokeRegistrationKeyRequest>,
    ) -> Answer<wire::RevokeRegistrationKeyResponse> {
        let (call, wire::RevokeRegistrationKeyRequest { key_id }) = open(request)?;
        let work = async {
            self.registry.revoke_registration_key(&call, &key_id).await?;
            Ok(wire::RevokeRegistrationKeyResponse {})
        };
        answer(work.await)
    }

    async fn record_audit(&self, request: Request<wire::RecordAuditRequest>) -> Answer<wire::RecordAuditResponse> {
        let (call, wire::RecordAuditRequest { entries }) = open(request)?;
        let work = async {
            let entries = entries.into_iter().map(AuditEntry::unpack).collect::<Result<_>>()?;
            self.registry.record_audit(&call, entries).await?;
            Ok(wire::RecordAuditResponse {})
        };
        answer(work.await)
    }

    async fn audit(&self, request: Request<wire::AuditRequest>) -> Answer<wire::AuditResponse> {
        let (call, query) = open(request)?;
        let work = async {
            let records = self.registry.audit(&call, AuditQuery::unpack(query)?).await?;
            Ok(wire::AuditResponse { records: records.into_iter().map(Wire::pack).collect() })
        };
        answer(work.await)
    }

    async fn verify_audit(&self, request: Request<wire::VerifyAuditRequest>) -> Answer<wire::VerifyAuditResponse> {
        let (call, wire::VerifyAuditRequest {}) = open(request)?;
        answer(self.registry.verify_audit(&call).await.map(Wire::pack))
    }
}
