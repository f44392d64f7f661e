//! The table of agents.
//!
//! Every change takes its version from the one row of `versions` before it reads anything. On Postgres that row is
//! locked from then until the commit: whoever is second waits, so commit order is version order, and no two
//! transactions can each hold what the other wants, however many writes each of them groups.

use std::future::Future;

use guildhall_domain::{
    Agent, AgentId, NewAgent, Presence, PublicKey, Result, TenantId, Timestamp, agent::OLD_KEYS_MAX,
    ports::agent_store::AgentEdit, principal::roles,
};
use sqlx::{PgConnection, SqliteConnection};

use crate::{
    failure::Failure,
    row::{AgentRow, json, signed},
};

const NEXT_VERSION: &str = "UPDATE versions SET agents = agents + 1 RETURNING agents";
const AGENT: &str = "SELECT * FROM agents WHERE tenant = $1 AND agent_id = $2";
const CHANGES: &str = "SELECT * FROM agents WHERE version > $1 ORDER BY version LIMIT +$2";
const PUT_AGENT: &str = "INSERT INTO agents (tenant, agent_id, version, gone, name, session_id, capabilities, roles,
        pool, delivery, metadata, public_key, paused, registered_at, last_seen, token_epoch, webhook_url, old_keys)
    VALUES ($1, $2, $3, FALSE, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    ON CONFLICT (tenant, agent_id) DO UPDATE SET version = excluded.version, gone = FALSE, name = excluded.name,
        session_id = excluded.session_id, capabilities = excluded.capabilities, roles = excluded.roles,
        pool = excluded.pool, delivery = excluded.delivery, metadata = excluded.metadata,
        public_key = excluded.public_key, paused = excluded.paused, registered_at = excluded.registered_at,
        last_seen = excluded.last_seen, token_epoch = excluded.token_epoch, webhook_url = excluded.webhook_url,
        old_keys = excluded.old_keys";
/// What the agent said of itself goes with it.
const BURY_AGENT: &str = "UPDATE agents SET version = $3, token_epoch = token_epoch + 1, gone = TRUE, name = '',
        session_id = NULL, capabilities = '[]', roles = '[]', pool = NULL, metadata = '{}', public_key = NULL,
        paused = NULL, last_seen = NULL, webhook_url = NULL, old_keys = '[]'
    WHERE tenant = $1 AND agent_id = $2 AND NOT gone";

pub(crate) trait AgentTable: Send {
    /// The place of the change that this transaction is about to make.
    fn next_agent_version(&mut self) -> impl Future<Output = Result<i64, Failure>> + Send;
    fn agent(
        &mut self,
        tenant: &TenantId,
        agent: &AgentId,
    ) -> impl Future<Output = Result<Option<AgentRow>, Failure>> + Send;
    fn changes(&mut self, after: u64, limit: usize) -> impl Future<Output = Result<Vec<AgentRow>, Failure>> + Send;
    fn put_agent(&mut self, agent: &Agent) -> impl Future<Output = Result<(), Failure>> + Send;
    fn bury_agent(
        &mut self,
        tenant: &TenantId,
        agent: &AgentId,
        version: i64,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
}

macro_rules! agent_table {
    ($connection:ty) => {
        impl AgentTable for $connection {
            async fn next_agent_version(&mut self) -> Result<i64, Failure> {
                Ok(sqlx::query_scalar(NEXT_VERSION).fetch_one(self).await?)
            }

            async fn agent(&mut self, tenant: &TenantId, agent: &AgentId) -> Result<Option<AgentRow>, Failure> {
                Ok(sqlx::query_as(AGENT).bind(tenant.as_str()).bind(agent.as_str()).fetch_optional(self).await?)
            }

            async fn changes(&mut self, after: u64, limit: usize) -> Result<Vec<AgentRow>, Failure> {
                let limit = signed(limit as u64);
                Ok(sqlx::query_as(CHANGES).bind(signed(after)).bind(limit).fetch_all(self).await?)
            }

            async fn put_agent(&mut self, agent: &Agent) -> Result<(), Failure> {
                let put = sqlx::query(PUT_AGENT)
                    .bind(agent.tenant.as_str())
                    .bind(agent.agent_id.as_str())
                    .bind(signed(agent.version))
                    .bind(&agent.name)
                    .bind(agent.session_id.as_deref())
                    .bind(json(&agent.capabilities)?)
                    .bind(json(&agent.roles)?)
                    .bind(agent.pool.as_deref())
                    .bind(agent.delivery.as_str())
                    .bind(json(&agent.metadata)?)
                    .bind(agent.public_key.as_ref().map(json).transpose()?)
                    .bind(agent.paused.as_deref())
                    .bind(agent.registered_at.as_millis())
                    .bind(agent.last_heartbeat.map(Timestamp::as_millis))
                    .bind(i64::from(agent.token_epoch))
                    .bind(agent.webhook_url.as_deref())
                    .bind(json(&agent.old_keys)?);
                put.execute(self).await?;
                Ok(())
            }

            async fn bury_agent(&mut self, tenant: &TenantId, agent: &AgentId, version: i64) -> Result<bool, Failure> {
                let bury = sqlx::query(BURY_AGENT).bind(tenant.as_str()).bind(agent.as_str()).bind(version);
                Ok(bury.execute(self).await?.rows_affected() > 0)
            }
        }
    };
}

agent_table!(SqliteConnection);
agent_table!(PgConnection);

/// The record as it will be: what the agent says now over what is there.
pub(crate) fn registered(tenant: &TenantId, new: &NewAgent, before: Option<AgentRow>, now: Timestamp) -> Result<Agent> {
    let token_epoch = before.as_ref().map(AgentRow::token_epoch).transpose()?.unwrap_or(0);
    let kept = before.filter(|row| !row.is_gone()).map(AgentRow::agent).transpose()?;
    let kept = kept.unwrap_or_else(|| Agent {
        tenant: tenant.clone(),
        agent_id: new.agent_id.clone(),
        name: new.agent_id.to_string(),
        session_id: None,
        status: Presence::Offline,
        capabilities: Default::default(),
        roles: [roles::AGENT.to_owned()].into(),
        pool: None,
        delivery: Default::default(),
        webhook_url: None,
        metadata: Default::default(),
        public_key: None,
        old_keys: Vec::new(),
        paused: None,
        registered_at: now,
        last_heartbeat: None,
        version: 0,
        token_epoch,
    });
    let new = new.clone();
    let kept = match new.public_key {
        Some(key) => with_key(kept, key),
        None => kept,
    };
    Ok(Agent {
        name: new.name.unwrap_or(kept.name),
        session_id: new.session_id.or(kept.session_id),
        capabilities: new.capabilities.unwrap_or(kept.capabilities),
        roles: new.roles.unwrap_or(kept.roles),
        pool: new.pool.or(kept.pool),
        delivery: new.delivery.unwrap_or(kept.delivery),
        metadata: new.metadata.unwrap_or(kept.metadata),
        webhook_url: new.webhook_url.or(kept.webhook_url),
        last_heartbeat: kept.last_heartbeat.max(Some(now)),
        ..kept
    })
}

/// Its present key becomes an old one, unless it is the same.
fn with_key(agent: Agent, key: PublicKey) -> Agent {
    let replaced = agent.public_key.filter(|present| *present != key);
    let mut old_keys: Vec<_> = replaced.into_iter().chain(agent.old_keys).filter(|old| *old != key).collect();
    old_keys.truncate(OLD_KEYS_MAX);
    Agent { public_key: Some(key), old_keys, ..agent }
}

pub(crate) fn edited(agent: Agent, edit: AgentEdit) -> Agent {
    match edit {
        AgentEdit::Pause(reason) => Agent { paused: Some(reason), ..agent },
        AgentEdit::Resume => Agent { paused: None, ..agent },
        AgentEdit::Key(key) => with_key(agent, key),
        AgentEdit::NextTokenEpoch => Agent { token_epoch: agent.token_epoch.saturating_add(1), ..agent },
    }
}
