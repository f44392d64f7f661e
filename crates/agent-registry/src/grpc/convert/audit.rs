//! The audit chain's entries, records and queries.

use guildhall_domain::{
    AuditEntry, AuditRecord, PrincipalKind, Result, TenantId,
    audit::{AuditQuery, AuditVerdict, Outcome},
};
use guildhall_proto::agent_registry::v1 as wire;
use guildhall_rpc::wire::{bad_json, unknown};
use serde_json::Value;

use super::{Wire, at};

impl Wire for Outcome {
    type Message = i32;

    fn pack(self) -> i32 {
        let outcome = match self {
            Self::Done => wire::Outcome::Done,
            Self::Refused => wire::Outcome::Refused,
            Self::Failed => wire::Outcome::Failed,
        };
        outcome.into()
    }

    fn unpack(outcome: i32) -> Result<Self> {
        match wire::Outcome::try_from(outcome) {
            Ok(wire::Outcome::Done) => Ok(Self::Done),
            Ok(wire::Outcome::Refused) => Ok(Self::Refused),
            Ok(wire::Outcome::Failed) => Ok(Self::Failed),
            Ok(wire::Outcome::Unspecified) | Err(_) => Err(unknown("outcome")),
        }
    }
}

impl Wire for AuditEntry {
    type Message = wire::AuditEntry;

    fn pack(self) -> wire::AuditEntry {
        let Self { tenant, at, actor_kind, actor, act, target, outcome, body } = self;
        wire::AuditEntry {
            tenant: tenant.into(),
            at_ms: at.as_millis(),
            actor_kind: actor_kind.pack(),
            actor,
            act,
            target,
            outcome: outcome.pack(),
            body_json: body.to_string(),
        }
    }

    fn unpack(message: wire::AuditEntry) -> Result<Self> {
        let wire::AuditEntry { tenant, at_ms, actor_kind, actor, act, target, outcome, body_json } = message;
        Ok(Self {
            tenant: TenantId::new(tenant)?,
            at: at(at_ms),
            actor_kind: PrincipalKind::unpack(actor_kind)?,
            actor,
            act,
            target,
            outcome: Outcome::unpack(outcome)?,
            body: unpack_body(&body_json)?,
        })
    }
}

impl Wire for AuditRecord {
    type Message = wire::AuditRecord;

    fn pack(self) -> wire::AuditRecord {
        let Self {
            tenant,
            position,
            writer,
            epoch,
            number,
            at,
            actor_kind,
            actor,
            act,
            target,
            outcome,
            body_hash,
            salt,
            body,
            hash,
        } = self;
        wire::AuditRecord {
            tenant: tenant.into(),
            position,
            writer,
            epoch,
            number,
            at_ms: at.as_millis(),
            actor_kind: actor_kind.pack(),
            actor,
            act,
            target,
            outcome: outcome.pack(),
            body_hash,
            body_json: body.map(|body| body.to_string()),
            hash,
            salt,
        }
    }

    fn unpack(message: wire::AuditRecord) -> Result<Self> {
        let wire::AuditRecord {
            tenant,
            position,
            writer,
            epoch,
            number,
            at_ms,
            actor_kind,
            actor,
            act,
            target,
            outcome,
            body_hash,
            body_json,
            hash,
            salt,
        } = message;
        Ok(Self {
            tenant: TenantId::new(tenant)?,
            position,
            writer,
            epoch,
            number,
            at: at(at_ms),
            actor_kind: PrincipalKind::unpack(actor_kind)?,
            actor,
            act,
            target,
            outcome: Outcome::unpack(outcome)?,
            body_hash,
            salt,
            body: body_json.as_deref().map(unpack_body).transpose()?,
            hash,
        })
    }
}

impl Wire for AuditQuery {
    type Message = wire::AuditRequest;

    fn pack(self) -> wire::AuditRequest {
        let Self { actor, act, target, from, to, limit } = self;
        wire::AuditRequest {
            actor,
            act,
            target,
            from_ms: from.map(|at| at.as_millis()),
            to_ms: to.map(|at| at.as_millis()),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        }
    }

    fn unpack(message: wire::AuditRequest) -> Result<Self> {
        let wire::AuditRequest { actor, act, target, from_ms, to_ms, limit } = message;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Self { actor, act, target, from: from_ms.map(at), to: to_ms.map(at), limit })
    }
}

impl Wire for AuditVerdict {
    type Message = wire::VerifyAuditResponse;

    fn pack(self) -> wire::VerifyAuditResponse {
        let Self { sealed, unsealed, epochs, faults } = self;
        wire::VerifyAuditResponse { sealed, unsealed, epochs, faults }
    }

    fn unpack(message: wire::VerifyAuditResponse) -> Result<Self> {
        let wire::VerifyAuditResponse { sealed, unsealed, epochs, faults } = message;
        Ok(Self { sealed, unsealed, epochs, faults })
    }
}

fn unpack_body(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(|_| bad_json("an audit body"))
}
