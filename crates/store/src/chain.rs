//! The sealer's tables: seals and heads; and what of epochs and records the sealer and whoever verifies need.
//!
//! Up to which number an epoch is sealed is what its last seal says. In the epoch's own row it would make the sealer
//! wait for every writer, and every writer for the sealer.

use std::{future::Future, ops::RangeInclusive};

use guildhall_domain::{
    Result, TenantId,
    ports::audit_store::{Bodies, Head, RUN_MAX, Seal},
};
use sqlx::{PgConnection, SqliteConnection};

use crate::{
    failure::Failure,
    row::{AuditRow, EpochRow, SealRow, WrittenRow, count, signed},
};

macro_rules! sealed_up_to {
    () => {
        "COALESCE((SELECT last_number FROM audit_seals
             WHERE audit_seals.tenant = audit_epochs.tenant AND audit_seals.writer = audit_epochs.writer
                 AND audit_seals.epoch = audit_epochs.epoch
             ORDER BY first_number DESC LIMIT 1), 0)"
    };
}
const EPOCHS: &str = concat!(
    "SELECT writer, epoch, last_number, closed, ",
    sealed_up_to!(),
    " AS sealed FROM audit_epochs WHERE tenant = $1 ORDER BY writer, epoch"
);
const UNSEALED_TENANTS: &str =
    concat!("SELECT DISTINCT tenant FROM audit_epochs WHERE last_number > ", sealed_up_to!(), " ORDER BY tenant");

macro_rules! records {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            ", CAST(NULL AS BIGINT) AS position, CAST(NULL AS TEXT) AS hash FROM audit_records
             WHERE tenant = $1 AND writer = $2 AND epoch = $3 AND number BETWEEN $4 AND $5 ORDER BY number LIMIT +$6"
        )
    };
}
const RECORDS: &str = records!("*");
const RECORDS_WITHOUT_BODIES: &str = records!(
    "tenant, writer, epoch, number, at, actor_kind, actor, act, target, outcome, body_hash,
     CAST(NULL AS TEXT) AS body, NULL AS salt"
);
const WRITTEN: &str = "SELECT there.writer, there.epoch, COUNT(*) AS records, MAX(there.number) AS last_number,
        COALESCE(MAX(seals.records), 0) AS sealed,
        COUNT(CASE WHEN there.number > COALESCE(seals.last_number, 0) THEN 1 END) AS unsealed
    FROM audit_records AS there LEFT JOIN (
        SELECT writer, epoch, MAX(last_number) AS last_number,
            CAST(SUM(last_number - first_number + 1) AS BIGINT) AS records
        FROM audit_seals WHERE tenant = $1 GROUP BY writer, epoch) AS seals
        ON seals.writer = there.writer AND seals.epoch = there.epoch
    WHERE there.tenant = $1 GROUP BY there.writer, there.epoch ORDER BY there.writer, there.epoch";

const SEALS: &str = "SELECT * FROM audit_seals WHERE tenant = $1 AND first_position > $2
    ORDER BY first_position LIMIT +$3";
/// Every record is there, and none is under a seal.
const ADD_SEAL: &str = "INSERT INTO audit_seals
        (tenant, writer, epoch, first_number, last_number, first_position, hash)
    SELECT $1, $2, $3, $4, $5, $6, $7
    WHERE (SELECT COUNT(*) FROM audit_records
            WHERE tenant = $1 AND writer = $2 AND epoch = $3 AND number BETWEEN $4 AND $5) = $5 - $4 + 1
        AND $4 > COALESCE((SELECT last_number FROM audit_seals WHERE tenant = $1 AND writer = $2 AND epoch = $3
            ORDER BY first_number DESC LIMIT 1), 0)";

const HEAD: &str = "SELECT position, hash FROM audit_heads WHERE tenant = $1";
const FIRST_HEAD: &str = "INSERT INTO audit_heads (tenant, position, hash) VALUES ($1, 0, '') ON CONFLICT DO NOTHING";
const MOVE_HEAD: &str = "UPDATE audit_heads SET position = $4, hash = $5
    WHERE tenant = $1 AND position = $2 AND hash = $3";

pub(crate) trait ChainTables: Send {
    fn unsealed_tenants(&mut self) -> impl Future<Output = Result<Vec<String>, Failure>> + Send;
    fn epochs(&mut self, tenant: &TenantId) -> impl Future<Output = Result<Vec<EpochRow>, Failure>> + Send;
    fn records(
        &mut self,
        tenant: &TenantId,
        writer: &str,
        epoch: u64,
        numbers: &RangeInclusive<u64>,
        bodies: Bodies,
    ) -> impl Future<Output = Result<Vec<AuditRow>, Failure>> + Send;
    fn written(&mut self, tenant: &TenantId) -> impl Future<Output = Result<Vec<WrittenRow>, Failure>> + Send;

    fn seals(
        &mut self,
        tenant: &TenantId,
        after: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<SealRow>, Failure>> + Send;
    /// False when not all of its records are there, or one of them is sealed already.
    fn add_seal(&mut self, tenant: &TenantId, seal: &Seal) -> impl Future<Output = Result<bool, Failure>> + Send;
    fn head(&mut self, tenant: &TenantId) -> impl Future<Output = Result<Head, Failure>> + Send;
    /// False when the head is not at `from`.
    fn move_head(
        &mut self,
        tenant: &TenantId,
        from: &Head,
        to: &Head,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
}

macro_rules! chain_tables {
    ($connection:ty) => {
        impl ChainTables for $connection {
            async fn unsealed_tenants(&mut self) -> Result<Vec<String>, Failure> {
                Ok(sqlx::query_scalar(UNSEALED_TENANTS).fetch_all(self).await?)
            }

            async fn epochs(&mut self, tenant: &TenantId) -> Result<Vec<EpochRow>, Failure> {
                Ok(sqlx::query_as(EPOCHS).bind(tenant.as_str()).fetch_all(self).await?)
            }

            async fn records(
                &mut self,
                tenant: &TenantId,
                writer: &str,
                epoch: u64,
                numbers: &RangeInclusive<u64>,
                bodies: Bodies,
            ) -> Result<Vec<AuditRow>, Failure> {
                let records = match bodies {
                    Bodies::With => RECORDS,
                    Bodies::Without => RECORDS_WITHOUT_BODIES,
                };
                let find = sqlx::query_as(records)
                    .bind(tenant.as_str())
                    .bind(writer)
                    .bind(signed(epoch))
                    .bind(signed(*numbers.start()))
                    .bind(signed(*numbers.end()))
                    .bind(signed(RUN_MAX));
                Ok(find.fetch_all(self).await?)
            }

            async fn written(&mut self, tenant: &TenantId) -> Result<Vec<WrittenRow>, Failure> {
                Ok(sqlx::query_as(WRITTEN).bind(tenant.as_str()).fetch_all(self).await?)
            }

            async fn seals(&mut self, tenant: &TenantId, after: u64, limit: usize) -> Result<Vec<SealRow>, Failure> {
                let find = sqlx::query_as(SEALS).bind(tenant.as_str()).bind(signed(after));
                Ok(find.bind(signed(limit as u64)).fetch_all(self).await?)
            }

            async fn add_seal(&mut self, tenant: &TenantId, seal: &Seal) -> Result<bool, Failure> {
                let add = sqlx::query(ADD_SEAL)
                    .bind(tenant.as_str())
                    .bind(&seal.writer)
                    .bind(signed(seal.epoch))
                    .bind(signed(seal.first_number))
                    .bind(signed(seal.last_number))
                    .bind(signed(seal.first_position))
                    .bind(&seal.hash);
                Ok(add.execute(self).await?.rows_affected() > 0)
            }

            async fn head(&mut self, tenant: &TenantId) -> Result<Head, Failure> {
                let head: Option<(i64, String)> =
                    sqlx::query_as(HEAD).bind(tenant.as_str()).fetch_optional(self).await?;
                let Some((position, hash)) = head else { return Ok(Head::default()) };
                Ok(Head { position: count(position)?, hash })
            }

            async fn move_head(&mut self, tenant: &TenantId, from: &Head, to: &Head) -> Result<bool, Failure> {
                sqlx::query(FIRST_HEAD).bind(tenant.as_str()).execute(&mut *self).await?;
                let moved = sqlx::query(MOVE_HEAD)
                    .bind(tenant.as_str())
                    .bind(signed(from.position))
                    .bind(&from.hash)
                    .bind(signed(to.position))
                    .bind(&to.hash);
                Ok(moved.execute(self).await?.rows_affected() > 0)
            }
        }
    };
}

chain_tables!(SqliteConnection);
chain_tables!(PgConnection);
