//! What the clock does: leases that ran out, rests that are over, mail that expired.

use guildhall_domain::{Error, Result, Timestamp, ports::mail_store::Lapsed};
use sqlx::{Database, PgConnection, SqliteConnection};

use crate::{agent_store::Tables, engine::Sql};

pub(crate) trait LapseTables: Send {}
impl LapseTables for SqliteConnection {}
impl LapseTables for PgConnection {}

pub(crate) async fn lapse<DB: Database>(sql: &Sql<DB>, now: Timestamp) -> Result<Lapsed>
where
    DB::Connection: Tables,
{
    let _ = (sql, now);
    Err(Error::unsupported("not built yet"))
}
