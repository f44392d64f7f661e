//! Tokens, keys and the access view. Secrets travel only in the answers and the one request that need them.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{
    AccessView, AgentId, IssuedToken, PrincipalKind, RegistrationKey, Result, SigningKey, TenantId, TokenRequest,
    access::Revocation,
};
use guildhall_guard::ExposeSecret;
use guildhall_proto::{agent_registry::v1 as wire, call::v1::Toolsets};
use guildhall_rpc::wire::{bad_json, millis, present};

use super::{Wire, at, words};

impl Wire for IssuedToken {
    type Message = wire::IssuedToken;

    fn pack(self) -> wire::IssuedToken {
        let Self { token, token_id, expires_at } = self;
        wire::IssuedToken { token: token.expose_secret().to_owned(), token_id, expires_at_ms: expires_at.as_millis() }
    }

    fn unpack(message: wire::IssuedToken) -> Result<Self> {
        let wire::IssuedToken { token, token_id, expires_at_ms } = message;
        Ok(Self { token: token.into(), token_id, expires_at: at(expires_at_ms) })
    }
}

impl Wire for TokenRequest {
    type Message = wire::IssueTokenRequest;

    fn pack(self) -> wire::IssueTokenRequest {
        let Self { tenant, kind, id, roles, toolsets, ttl } = self;
        wire::IssueTokenRequest {
            tenant: tenant.into(),
            kind: kind.pack(),
            id,
            roles: words(roles),
            toolsets: toolsets.map(|names| Toolsets { names: words(names) }),
            ttl_ms: ttl.map(millis),
        }
    }

    fn unpack(message: wire::IssueTokenRequest) -> Result<Self> {
        let wire::IssueTokenRequest { tenant, kind, id, roles, toolsets, ttl_ms } = message;
        Ok(Self {
            tenant: TenantId::new(tenant)?,
            kind: PrincipalKind::unpack(kind)?,
            id,
            roles: roles.into_iter().collect(),
            toolsets: toolsets.map(|sets| sets.names.into_iter().collect()),
            ttl: ttl_ms.map(Duration::from_millis),
        })
    }
}

impl Wire for Revocation {
    type Message = wire::RevokeRequest;

    fn pack(self) -> wire::RevokeRequest {
        let what = match self {
            Self::Token { token_id, expires_at } => wire::revoke_request::What::Token(wire::RevokedToken {
                token_id,
                expires_at_ms: expires_at.as_millis(),
            }),
            Self::Agent { tenant, agent_id } => wire::revoke_request::What::Agent(wire::RevokedAgent {
                tenant: tenant.into(),
                agent_id: agent_id.into(),
            }),
        };
        wire::RevokeRequest { what: Some(what) }
    }

    fn unpack(message: wire::RevokeRequest) -> Result<Self> {
        match present(message.what, "what is revoked")? {
            wire::revoke_request::What::Token(wire::RevokedToken { token_id, expires_at_ms }) => {
                Ok(Self::Token { token_id, expires_at: at(expires_at_ms) })
            }
            wire::revoke_request::What::Agent(wire::RevokedAgent { tenant, agent_id }) => {
                Ok(Self::Agent { tenant: TenantId::new(tenant)?, agent_id: AgentId::new(agent_id)? })
            }
        }
    }
}

impl Wire for RegistrationKey {
    type Message = wire::RegistrationKey;

    fn pack(self) -> wire::RegistrationKey {
        let Self { key_id, tenant, roles, created_at, expires_at, revoked } = self;
        wire::RegistrationKey {
            key_id,
            tenant: tenant.into(),
            roles: words(roles),
            created_at_ms: created_at.as_millis(),
            expires_at_ms: expires_at.map(|at| at.as_millis()),
            revoked,
        }
    }

    fn unpack(message: wire::RegistrationKey) -> Result<Self> {
        let wire::RegistrationKey { key_id, tenant, roles, created_at_ms, expires_at_ms, revoked } = message;
        Ok(Self {
            key_id,
            tenant: TenantId::new(tenant)?,
            roles: roles.into_iter().collect(),
            created_at: at(created_at_ms),
            expires_at: expires_at_ms.map(at),
            revoked,
        })
    }
}

impl Wire for SigningKey {
    type Message = wire::SigningKey;

    fn pack(self) -> wire::SigningKey {
        let Self { key_id, public, created_at, retires_at } = self;
        wire::SigningKey {
            key_id,
            public_key: public.to_vec(),
            created_at_ms: created_at.as_millis(),
            retires_at_ms: retires_at.map(|at| at.as_millis()),
        }
    }

    fn unpack(message: wire::SigningKey) -> Result<Self> {
        let wire::SigningKey { key_id, public_key, created_at_ms, retires_at_ms } = message;
        Ok(Self {
            key_id,
            public: public_key.try_into().map_err(|_| bad_json("a signing key"))?,
            created_at: at(created_at_ms),
            retires_at: retires_at_ms.map(at),
        })
    }
}

impl Wire for AccessView {
    type Message = wire::AccessView;

    fn pack(self) -> wire::AccessView {
        let Self { version, keys, revoked, epochs, paused } = self;
        wire::AccessView {
            version,
            keys: keys.into_iter().map(Wire::pack).collect(),
            revoked: words(revoked),
            epochs: epochs
                .into_iter()
                .map(|((tenant, agent_id), epoch)| wire::TokenEpoch {
                    tenant: tenant.into(),
                    agent_id: agent_id.into(),
                    epoch,
                })
                .collect(),
            paused: paused
                .into_iter()
                .map(|((tenant, agent_id), reason)| wire::PausedAgent {
                    tenant: tenant.into(),
                    agent_id: agent_id.into(),
                    reason: reason.to_string(),
                })
                .collect(),
        }
    }

    fn unpack(message: wire::AccessView) -> Result<Self> {
        let wire::AccessView { version, keys, revoked, epochs, paused } = message;
        Ok(Self {
            version,
            keys: keys.into_iter().map(SigningKey::unpack).collect::<Result<_>>()?,
            revoked: revoked.into_iter().collect(),
            epochs: epochs
                .into_iter()
                .map(|wire::TokenEpoch { tenant, agent_id, epoch }| Ok((whose(tenant, agent_id)?, epoch)))
                .collect::<Result<_>>()?,
            paused: paused
                .into_iter()
                .map(|wire::PausedAgent { tenant, agent_id, reason }| Ok((whose(tenant, agent_id)?, Arc::from(reason))))
                .collect::<Result<_>>()?,
        })
    }
}

fn whose(tenant: String, agent_id: String) -> Result<(TenantId, AgentId)> {
    Ok((TenantId::new(tenant)?, AgentId::new(agent_id)?))
}
