//! Bringing wide messages to their mailboxes.

use guildhall_domain::{
    Error, Result, Timestamp,
    ports::mail_store::{Expanded, MailboxBound},
};
use sqlx::{Database, PgConnection, SqliteConnection};

use crate::{agent_store::Tables, engine::Sql};

pub(crate) trait WideTables: Send {}
impl WideTables for SqliteConnection {}
impl WideTables for PgConnection {}

pub(crate) async fn expand<DB: Database>(sql: &Sql<DB>, bound: MailboxBound, now: Timestamp) -> Result<Expanded>
where
    DB::Connection: Tables,
{
    let _ = (sql, bound, now);
    Err(Error::unsupported("not built yet"))
}
