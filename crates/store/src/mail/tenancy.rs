//! What becomes of a mailbox when its agent leaves, and when another takes the id.
//!
//! Both belong to the transaction that changes the agent, which on Postgres is then one apart: it locks a mailbox.

use std::future::Future;

use guildhall_domain::{AgentId, TenantId, Timestamp, mail::DeliveryState};
use sqlx::{PgConnection, SqliteConnection};

use super::send::{HAS_LEFT, Named, SendTables};
use crate::failure::Failure;

const ADD_DEAD_LETTERS: &str = "INSERT INTO dead_letters (tenant, mailbox, number, message_id, died_at)
    SELECT $2, mailbox, number, message_id, $3 FROM deliveries WHERE mailbox = $1 AND open";
const BURY_DELIVERIES: &str =
    "UPDATE deliveries SET open = FALSE, state = $2, settled_at = $3, reason = $4, taker = NULL,
        lease_until = NULL, rests_until = NULL
    WHERE mailbox = $1 AND open";
const CLOSE: &str = "UPDATE mailboxes SET closed = TRUE, waiting = 0 WHERE tenant = $1 AND sort = $2 AND name = $3";

/// Numbers are taken while the mailbox is locked: what comes after this is above.
macro_rules! open {
    ($last_number:literal) => {
        concat!(
            "UPDATE mailboxes SET closed = FALSE, since = (",
            $last_number,
            ") WHERE tenant = $1 AND sort = $2 AND name = $3 AND closed"
        )
    };
}
const SQLITE_OPEN: &str = open!("SELECT last FROM message_numbers");
const POSTGRES_OPEN: &str = open!("SELECT last_value FROM message_numbers");

pub(crate) trait TenancyTables: SendTables {
    /// Nothing can be sent to the agent any more. What waits becomes dead letters.
    fn close_mailbox(
        &mut self,
        tenant: &TenantId,
        agent: &AgentId,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// For another agent of the same id, to whom nothing that is in it belongs. Does nothing when there is none.
    fn open_mailbox(&mut self, tenant: &TenantId, agent: &AgentId) -> impl Future<Output = Result<(), Failure>> + Send;
}

macro_rules! tenancy_tables {
    ($connection:ty, $open:expr) => {
        impl TenancyTables for $connection {
            async fn close_mailbox(
                &mut self,
                tenant: &TenantId,
                agent: &AgentId,
                now: Timestamp,
            ) -> Result<(), Failure> {
                let named = Named::agent(agent);
                let claimed = self.claim_mailboxes(&[named.in_tenant(tenant.as_str())]).await?;
                for mailbox in claimed.into_iter().map(|standing| standing.mailbox) {
                    let letters = sqlx::query(ADD_DEAD_LETTERS).bind(mailbox).bind(tenant.as_str());
                    letters.bind(now.as_millis()).execute(&mut *self).await?;
                    let bury = sqlx::query(BURY_DELIVERIES)
                        .bind(mailbox)
                        .bind(i16::from(DeliveryState::Dead.rank()))
                        .bind(now.as_millis())
                        .bind(HAS_LEFT);
                    bury.execute(&mut *self).await?;
                }
                let close = sqlx::query(CLOSE).bind(tenant.as_str()).bind(named.sort).bind(named.name);
                close.execute(self).await?;
                Ok(())
            }

            async fn open_mailbox(&mut self, tenant: &TenantId, agent: &AgentId) -> Result<(), Failure> {
                let named = Named::agent(agent);
                let open = sqlx::query($open).bind(tenant.as_str()).bind(named.sort).bind(named.name);
                open.execute(self).await?;
                Ok(())
            }
        }
    };
}

tenancy_tables!(SqliteConnection, SQLITE_OPEN);
tenancy_tables!(PgConnection, POSTGRES_OPEN);
