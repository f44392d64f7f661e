//! Breakers: who keeps failing what is asked of it is asked nothing for a while. One that works has no row.

use std::{future::Future, time::Duration};

use guildhall_domain::{Result, TenantId, Timestamp, mail::Mailbox};
use sqlx::{PgConnection, SqliteConnection};

use crate::failure::Failure;

/// Failures in a row that open a breaker.
pub(crate) const FAILURES_MAX: i64 = 5;
/// How long it stays open; then one trial goes through.
pub(crate) const OPEN: Duration = Duration::from_secs(60);

/// What fails while it is open was asked before, and does not make it longer.
const ADD_FAILURES: &str = "INSERT INTO breakers (tenant, sort, name, failures, open_until)
    VALUES ($1, $2, $3, $4, CASE WHEN $4 >= $5 THEN $7 END)
    ON CONFLICT (tenant, sort, name) DO UPDATE SET failures = breakers.failures + $4,
        open_until = CASE WHEN breakers.failures + $4 >= $5
            AND (breakers.open_until IS NULL OR breakers.open_until <= $6) THEN $7 ELSE breakers.open_until END";
const HAS_FAILED: &str = "SELECT COUNT(*) FROM breakers WHERE tenant = $1 AND sort = $2 AND name = $3";
const CLOSE: &str = "DELETE FROM breakers WHERE tenant = $1 AND sort = $2 AND name = $3";

pub(crate) trait Breakers: Send {
    /// It opens when these were the last of too many.
    fn add_failures(
        &mut self,
        tenant: &TenantId,
        asked: &Mailbox,
        failures: i64,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Whether there is anything to forget of it.
    fn has_failed(&mut self, tenant: &TenantId, asked: &Mailbox) -> impl Future<Output = Result<bool, Failure>> + Send;
    fn close_breaker(&mut self, tenant: &TenantId, asked: &Mailbox)
    -> impl Future<Output = Result<(), Failure>> + Send;
}

macro_rules! breakers {
    ($connection:ty) => {
        impl Breakers for $connection {
            async fn add_failures(
                &mut self,
                tenant: &TenantId,
                asked: &Mailbox,
                failures: i64,
                now: Timestamp,
            ) -> Result<(), Failure> {
                let add = sqlx::query(ADD_FAILURES)
                    .bind(tenant.as_str())
                    .bind(asked.sort())
                    .bind(asked.name())
                    .bind(failures)
                    .bind(FAILURES_MAX)
                    .bind(now.as_millis())
                    .bind((now + OPEN).as_millis());
                add.execute(self).await?;
                Ok(())
            }

            async fn has_failed(&mut self, tenant: &TenantId, asked: &Mailbox) -> Result<bool, Failure> {
                let find = sqlx::query_scalar(HAS_FAILED).bind(tenant.as_str()).bind(asked.sort()).bind(asked.name());
                let found: i64 = find.fetch_one(self).await?;
                Ok(found > 0)
            }

            async fn close_breaker(&mut self, tenant: &TenantId, asked: &Mailbox) -> Result<(), Failure> {
                let close = sqlx::query(CLOSE).bind(tenant.as_str()).bind(asked.sort()).bind(asked.name());
                close.execute(self).await?;
                Ok(())
            }
        }
    };
}

breakers!(SqliteConnection);
breakers!(PgConnection);
