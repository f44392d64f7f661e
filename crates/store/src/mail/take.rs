//! Taking mail out of a mailbox under a lease.

use guildhall_domain::{Error, Result, mail::Delivered, ports::mail_store::Taking};
use sqlx::{Database, PgConnection, SqliteConnection};

use super::lane::Call;
use crate::{agent_store::Tables, audit::Scribe, engine::Sql, failure::Failure};

pub(crate) trait TakeTables: Send {}
impl TakeTables for SqliteConnection {}
impl TakeTables for PgConnection {}

impl<C: Tables> Call<C> for Taking {
    type Answer = Vec<Delivered>;

    async fn run_all(
        _tables: &mut C,
        _scribe: &Scribe,
        calls: &[Self],
    ) -> Result<Vec<Result<Vec<Delivered>>>, Failure> {
        Ok(calls.iter().map(|_| Err(Error::unsupported("not built yet"))).collect())
    }
}

pub(crate) async fn take<DB: Database>(sql: &Sql<DB>, taking: Taking) -> Result<Vec<Delivered>>
where
    DB::Connection: Tables,
{
    sql.takes.push(taking).await
}
