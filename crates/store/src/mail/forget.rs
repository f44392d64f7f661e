//! What is forgotten, and when.

use guildhall_domain::{Error, Result, Timestamp, ports::bus::Retention};
use sqlx::{Database, PgConnection, SqliteConnection};

use crate::{agent_store::Tables, engine::Sql};

pub(crate) trait ForgetTables: Send {}
impl ForgetTables for SqliteConnection {}
impl ForgetTables for PgConnection {}

pub(crate) async fn forget<DB: Database>(sql: &Sql<DB>, kept: Retention, now: Timestamp) -> Result<bool>
where
    DB::Connection: Tables,
{
    let _ = (sql, kept, now);
    Err(Error::unsupported("not built yet"))
}
