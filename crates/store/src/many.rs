//! Where the engines truly differ: many rows in one statement, and the lock that orders writers.
//!
//! A statement costs SQLite some microseconds and Postgres a journey, so the one loops and the other sends arrays.

use std::future::Future;

use guildhall_domain::{AgentId, TenantId, Timestamp};
use sqlx::{PgConnection, SqliteConnection};

use crate::failure::Failure;

pub(crate) trait Many: Send {
    /// Makes other processes' writes wait until this transaction is over. Taken before any row that they may want as
    /// well, for a transaction that groups many writes would otherwise meet another's in a deadlock.
    fn take_turn(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    fn see_agents(
        &mut self,
        seen: &[(TenantId, AgentId, Timestamp)],
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl Many for SqliteConnection {
    /// The transaction has the file to itself from its beginning.
    async fn take_turn(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn see_agents(&mut self, seen: &[(TenantId, AgentId, Timestamp)]) -> Result<(), Failure> {
        for (tenant, agent, at) in seen {
            let see = sqlx::query(
                "UPDATE agents SET last_seen = $3
                 WHERE tenant = $1 AND agent_id = $2 AND NOT gone AND (last_seen IS NULL OR last_seen < $3)",
            );
            see.bind(tenant.as_str()).bind(agent.as_str()).bind(at.as_millis()).execute(&mut *self).await?;
        }
        Ok(())
    }
}

impl Many for PgConnection {
    async fn take_turn(&mut self) -> Result<(), Failure> {
        sqlx::query("SELECT only_row FROM versions FOR UPDATE").execute(self).await?;
        Ok(())
    }

    async fn see_agents(&mut self, seen: &[(TenantId, AgentId, Timestamp)]) -> Result<(), Failure> {
        let tenants: Vec<&str> = seen.iter().map(|(tenant, _, _)| tenant.as_str()).collect();
        let agents: Vec<&str> = seen.iter().map(|(_, agent, _)| agent.as_str()).collect();
        let times: Vec<i64> = seen.iter().map(|(_, _, at)| at.as_millis()).collect();
        let see = sqlx::query(
            "UPDATE agents SET last_seen = seen.at
             FROM (SELECT tenant, agent_id, MAX(at) AS at FROM UNNEST($1::text[], $2::text[], $3::bigint[])
                       AS each (tenant, agent_id, at) GROUP BY tenant, agent_id) AS seen
             WHERE agents.tenant = seen.tenant AND agents.agent_id = seen.agent_id AND NOT gone
                 AND (last_seen IS NULL OR last_seen < seen.at)",
        );
        see.bind(tenants).bind(agents).bind(times).execute(self).await?;
        Ok(())
    }
}
