//! Accepting mail: receipts, messages, deliveries and the audit's entries, for a group of calls at once.

use guildhall_domain::{
    Error, Result, TenantId,
    ports::mail_store::{Accepted, MailboxBound, Outgoing},
};
use sqlx::{Database, PgConnection, SqliteConnection};

use super::lane::Call;
use crate::{agent_store::Tables, audit::Scribe, engine::Sql, failure::Failure};

pub(crate) trait SendTables: Send {}
impl SendTables for SqliteConnection {}
impl SendTables for PgConnection {}

/// One call of the port, ready to be written.
pub(crate) struct Sending {
    tenant: TenantId,
    outgoing: Vec<Outgoing>,
    bound: MailboxBound,
}

impl Sending {
    pub(crate) fn new(
        _scribe: &Scribe,
        tenant: &TenantId,
        outgoing: Vec<Outgoing>,
        bound: MailboxBound,
    ) -> Result<Self> {
        Ok(Self { tenant: tenant.clone(), outgoing, bound })
    }
}

impl<C: Tables> Call<C> for Sending {
    type Answer = Accepted;

    async fn run_all(tables: &mut C, scribe: &Scribe, calls: &[Self]) -> Result<Vec<Result<Accepted>>, Failure> {
        accept(tables, scribe, calls).await
    }
}

pub(crate) async fn send<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    outgoing: Vec<Outgoing>,
    bound: MailboxBound,
) -> Result<Accepted>
where
    DB::Connection: Tables,
{
    sql.sends.push(Sending::new(&sql.mail_scribe, tenant, outgoing, bound)?).await
}

/// Accepts each call, or refuses it before anything of it is written, within a transaction that has locked no mailbox
/// yet and takes no audit number before this.
pub(crate) async fn accept(
    _tables: &mut impl Tables,
    _scribe: &Scribe,
    calls: &[Sending],
) -> Result<Vec<Result<Accepted>>, Failure> {
    let unbuilt =
        |call: &Sending| Err(Error::unsupported(format!("{} {} {:?}", call.tenant, call.outgoing.len(), call.bound)));
    Ok(calls.iter().map(unbuilt).collect())
}
