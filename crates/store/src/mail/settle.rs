//! What a taker says of what it took: ack, nack, return, renew.

use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    mail::{Mailbox, delivery::Settling},
};
use sqlx::{Database, PgConnection, SqliteConnection};

use super::lane::Call;
use crate::{agent_store::Tables, audit::Scribe, engine::Sql, failure::Failure};

pub(crate) trait SettleTables: Send {}
impl SettleTables for SqliteConnection {}
impl SettleTables for PgConnection {}

/// One call of the port.
pub(crate) struct Settlement {
    tenant: TenantId,
    mailboxes: Vec<Mailbox>,
    settlings: Vec<Settling>,
    now: Timestamp,
}

impl<C: Tables> Call<C> for Settlement {
    type Answer = Vec<Result<()>>;

    fn weight(&self) -> usize {
        self.settlings.len()
    }

    async fn run_all(
        _tables: &mut C,
        _scribe: &Scribe,
        calls: &[Self],
    ) -> Result<Vec<Result<Vec<Result<()>>>>, Failure> {
        let unbuilt = |call: &Self| {
            let Self { tenant, mailboxes, settlings, now } = call;
            Err(Error::unsupported(format!("{tenant} {mailboxes:?} {settlings:?} {now:?}: not built yet")))
        };
        Ok(calls.iter().map(unbuilt).collect())
    }
}

pub(crate) async fn settle<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    mailboxes: &[Mailbox],
    settlings: Vec<Settling>,
    now: Timestamp,
) -> Result<Vec<Result<()>>>
where
    DB::Connection: Tables,
{
    let (tenant, mailboxes) = (tenant.clone(), mailboxes.to_vec());
    sql.settlements.push(Settlement { tenant, mailboxes, settlings, now }).await
}

pub(crate) async fn give_back<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    mailboxes: &[Mailbox],
    taker: &str,
) -> Result<u64>
where
    DB::Connection: Tables,
{
    let _ = (sql, tenant, mailboxes, taker);
    Err(Error::unsupported("not built yet"))
}
