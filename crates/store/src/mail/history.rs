//! Looking at mail without taking it.

use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    mail::{
        Mailbox, Message, MessageId,
        delivery::{History, HistoryQuery, Tracked, Unread},
    },
};
use sqlx::{Database, PgConnection, SqliteConnection};

use crate::{agent_store::Tables, engine::Sql};

pub(crate) trait HistoryTables: Send {}
impl HistoryTables for SqliteConnection {}
impl HistoryTables for PgConnection {}

pub(crate) async fn unread<DB: Database>(sql: &Sql<DB>, tenant: &TenantId, mailboxes: &[Mailbox]) -> Result<Vec<Unread>>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, mailboxes);
    Err(Error::unsupported("not built yet"))
}

pub(crate) async fn peek<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    mailboxes: &[Mailbox],
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Message>>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, mailboxes, limit, now);
    Err(Error::unsupported("not built yet"))
}

pub(crate) async fn history<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    mailbox: &Mailbox,
    query: &HistoryQuery,
) -> Result<History>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, mailbox, query);
    Err(Error::unsupported("not built yet"))
}

pub(crate) async fn message<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    message: MessageId,
    only: Option<&[Mailbox]>,
) -> Result<Option<Tracked>>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, message, only);
    Err(Error::unsupported("not built yet"))
}
