//! Dead letters: how a delivery becomes one, and what is done with them.

use guildhall_domain::{
    AuditEntry, Error, Result, TenantId, Timestamp,
    mail::{
        DeadLetter, Mailbox,
        delivery::{DeadLetterQuery, DeadLetterSelection},
    },
};
use sqlx::{Database, PgConnection, SqliteConnection};

use crate::{agent_store::Tables, engine::Sql};

pub(crate) trait DeadTables: Send {}
impl DeadTables for SqliteConnection {}
impl DeadTables for PgConnection {}

pub(crate) async fn dead_letters<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    query: &DeadLetterQuery,
) -> Result<Vec<DeadLetter>>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, query);
    Err(Error::unsupported("not built yet"))
}

pub(crate) async fn redrive<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    selection: &DeadLetterSelection,
    now: Timestamp,
    audit: AuditEntry,
) -> Result<(u64, Vec<Mailbox>)>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, selection, now, audit);
    Err(Error::unsupported("not built yet"))
}

pub(crate) async fn purge<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    selection: &DeadLetterSelection,
    audit: AuditEntry,
) -> Result<u64>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, selection, audit);
    Err(Error::unsupported("not built yet"))
}
