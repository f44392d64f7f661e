//! The port of the audit chain over either engine.

use std::{ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use guildhall_domain::{
    AuditEntry, AuditRecord, Error, Result, TenantId,
    audit::AuditQuery,
    ports::{
        AuditStore,
        audit_store::{Bodies, Epoch, Head, Seal, Written},
    },
};
use sqlx::Database;

use crate::{
    agent_store::Tables,
    audit::AuditTables,
    chain::ChainTables,
    engine::{Sql, in_time},
    failure::Failure,
    row::{AuditRow, EpochRow, SealRow, WrittenRow},
};

async fn seal(tables: &mut impl Tables, tenant: &TenantId, from: &Head, seals: &[Seal]) -> Result<(), Failure> {
    let Some(last) = seals.last() else { return Ok(()) };
    let to = Head { position: last.last_position(), hash: last.hash.clone() };
    tables.take_turn().await?;
    if !tables.move_head(tenant, from, &to).await? {
        // Where it is to be already, the answer to the first attempt was lost.
        let there = tables.head(tenant).await?;
        return if there == to { Ok(()) } else { Err(overtaken()) };
    }
    for seal in seals {
        if !tables.add_seal(tenant, seal).await? {
            return Err(overtaken());
        }
    }
    Ok(())
}

fn overtaken() -> Failure {
    Error::conflict("another sealer was first, or a record is gone: read the head, the epochs and the records again")
        .into()
}

#[async_trait]
impl<DB: Database> AuditStore for Sql<DB>
where
    DB::Connection: Tables,
{
    async fn record(&self, entries: Vec<AuditEntry>) -> Result<()> {
        let scribe = Arc::clone(&self.scribe);
        let record = self.writer.write(move |tables| Box::pin(async move { scribe.record(tables, &entries).await }));
        record.await
    }

    async fn query(&self, tenant: &TenantId, query: &AuditQuery) -> Result<Vec<AuditRecord>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.query(tenant, query)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(AuditRow::record).collect()
    }

    async fn unsealed_tenants(&self) -> Result<Vec<TenantId>> {
        let mut tables = self.reader().await?;
        let tenants = in_time(tables.unsealed_tenants()).await;
        let tenants = tables.done(tenants)?;
        tenants.into_iter().map(TenantId::try_from).collect()
    }

    async fn head(&self, tenant: &TenantId) -> Result<Head> {
        let mut tables = self.reader().await?;
        let head = in_time(tables.head(tenant)).await;
        tables.done(head)
    }

    async fn seal(&self, tenant: &TenantId, from: &Head, seals: Vec<Seal>) -> Result<()> {
        let (tenant, from) = (tenant.clone(), from.clone());
        let seal = self.writer.write(move |tables| Box::pin(async move { seal(tables, &tenant, &from, &seals).await }));
        seal.await
    }

    async fn seals(&self, tenant: &TenantId, after: u64, limit: usize) -> Result<Vec<Seal>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.seals(tenant, after, limit)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(SealRow::seal).collect()
    }

    async fn records(
        &self,
        tenant: &TenantId,
        writer: &str,
        epoch: u64,
        numbers: RangeInclusive<u64>,
        bodies: Bodies,
    ) -> Result<Vec<AuditRecord>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.records(tenant, writer, epoch, &numbers, bodies)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(AuditRow::record).collect()
    }

    async fn epochs(&self, tenant: &TenantId) -> Result<Vec<Epoch>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.epochs(tenant)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(|row: EpochRow| row.epoch(tenant)).collect()
    }

    async fn written(&self, tenant: &TenantId) -> Result<Vec<Written>> {
        let mut tables = self.reader().await?;
        let rows = in_time(tables.written(tenant)).await;
        let rows = tables.done(rows)?;
        rows.into_iter().map(WrittenRow::written).collect()
    }

    async fn close_epochs(&self) -> Result<()> {
        for scribe in self.scribes.iter().map(Arc::clone) {
            let close =
                self.writer.write_apart(move |tables| Box::pin(async move { scribe.close_epochs(tables).await }));
            close.await?;
        }
        Ok(())
    }
}
