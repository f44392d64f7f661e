//! `/api/v1/audit`: what was done, and whether the chain of it holds.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use guildhall_domain::{
    AuditRecord, Error, Timestamp,
    audit::{AuditQuery, AuditVerdict},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::Asked;
use crate::{error::Refusal, hall::Hall, identity::Caller};

const RECORDS_MAX: usize = 1_000;
const RECORDS_DEFAULT: usize = 100;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditFilter {
    actor: Option<String>,
    /// A prefix: `agent.` finds every act on agents.
    act: Option<String>,
    target: Option<String>,
    /// RFC 3339
    from: Option<String>,
    /// RFC 3339
    to: Option<String>,
    /// 1 to 1000; 100 when left out
    limit: Option<usize>,
    /// In an open hall: which agent asks.
    #[serde(rename = "agent")]
    _agent: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct AuditList {
    success: bool,
    /// Newest first.
    #[schema(value_type = Vec<Object>)]
    records: Vec<AuditRecord>,
}

/// Records of the caller's tenant, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(AuditFilter), responses((status = 200, body = AuditList)))]
pub(super) async fn query(
    State(hall): State<Arc<Hall>>,
    caller: Caller,
    Asked(asked): Asked<AuditFilter>,
) -> Result<Answer<AuditList>, Refusal> {
    let limit = asked.limit.unwrap_or(RECORDS_DEFAULT);
    if !(1..=RECORDS_MAX).contains(&limit) {
        return Err(Error::invalid(format!("limit is 1 to {RECORDS_MAX}")).into());
    }
    let query = AuditQuery {
        actor: asked.actor,
        act: asked.act,
        target: asked.target,
        from: asked.from.as_deref().map(str::parse::<Timestamp>).transpose()?,
        to: asked.to.as_deref().map(str::parse::<Timestamp>).transpose()?,
        limit,
    };
    Ok(Answer(AuditList { success: true, records: hall.registry.audit(&caller.call(), query).await? }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct Verdict {
    success: bool,
    /// Whether the chain holds: nothing was edited, deleted, reordered, inserted or cut off.
    holds: bool,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    verdict: AuditVerdict,
}

/// Verifies the caller's tenant's chain from its first record to its last.
#[utoipa::path(get, path = "/api/v1/audit/verify", tag = "audit", responses((status = 200, body = Verdict)))]
pub(super) async fn verify(State(hall): State<Arc<Hall>>, caller: Caller) -> Result<Answer<Verdict>, Refusal> {
    let verdict = hall.registry.verify_audit(&caller.call()).await?;
    Ok(Answer(Verdict { success: true, holds: verdict.holds(), verdict }))
}
