//! Bringing wide messages to their mailboxes: the oldest first, some hundreds of mailboxes a call, progress and
//! deliveries in one transaction. Replicas that do so at once take different messages.

use std::{future::Future, sync::Arc};

use guildhall_domain::{
    AgentId, Result, TenantId, Timestamp,
    mail::Mailbox,
    ports::mail_store::{Expanded, MailboxBound},
};
use sqlx::{Database, FromRow, PgConnection, SqliteConnection};

use super::send::{Asked, Counted, Named, New, NewDelivery, SendTables, StillBorn, no_room};
use crate::{
    agent_store::Tables,
    engine::Sql,
    failure::{Failure, unreadable},
    row::{bytes, signed},
};

/// Mailboxes that a call reaches: a commit is nothing beside them, and nobody waits long for the next one.
const STEP: usize = 500;

macro_rules! oldest {
    ($lock:literal) => {
        concat!(
            "SELECT wide_messages.message_id, wide_messages.number, tenant, sender, priority, expires_at, members, next
             FROM wide_progress JOIN wide_messages ON wide_messages.message_id = wide_progress.message_id
             ORDER BY wide_progress.number LIMIT 1",
            $lock
        )
    };
}
const SQLITE_OLDEST: &str = oldest!("");
const POSTGRES_OLDEST: &str = oldest!(" FOR UPDATE OF wide_progress SKIP LOCKED");
const STEP_ON: &str = "UPDATE wide_progress SET next = $2 WHERE message_id = $1";
const END: &str = "DELETE FROM wide_progress WHERE message_id = $1";
const ARRIVE: &str = "UPDATE wide_messages SET underway = FALSE WHERE message_id = $1";
const IS_ANY_LEFT: &str = "SELECT EXISTS (SELECT 1 FROM wide_progress)";

#[derive(Debug, FromRow)]
pub(crate) struct WideRow {
    message_id: Vec<u8>,
    number: i64,
    tenant: String,
    sender: String,
    priority: i16,
    expires_at: Option<i64>,
    members: String,
    next: i64,
}

pub(crate) trait WideTables: Send {
    /// The oldest that has mailboxes to reach and that nobody else has in hand.
    fn oldest_wide(&mut self) -> impl Future<Output = Result<Option<WideRow>, Failure>> + Send;
    fn step_on(&mut self, message: &[u8], next: i64) -> impl Future<Output = Result<(), Failure>> + Send;
    /// It has reached them all.
    fn arrive(&mut self, message: &[u8]) -> impl Future<Output = Result<(), Failure>> + Send;
    fn is_any_wide_left(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;
}

macro_rules! wide_tables {
    ($connection:ty, $oldest:expr) => {
        impl WideTables for $connection {
            async fn oldest_wide(&mut self) -> Result<Option<WideRow>, Failure> {
                Ok(sqlx::query_as($oldest).fetch_optional(self).await?)
            }

            async fn step_on(&mut self, message: &[u8], next: i64) -> Result<(), Failure> {
                sqlx::query(STEP_ON).bind(message).bind(next).execute(self).await?;
                Ok(())
            }

            async fn arrive(&mut self, message: &[u8]) -> Result<(), Failure> {
                sqlx::query(END).bind(message).execute(&mut *self).await?;
                sqlx::query(ARRIVE).bind(message).execute(self).await?;
                Ok(())
            }

            async fn is_any_wide_left(&mut self) -> Result<bool, Failure> {
                Ok(sqlx::query_scalar(IS_ANY_LEFT).fetch_one(self).await?)
            }
        }
    };
}

wide_tables!(SqliteConnection, SQLITE_OLDEST);
wide_tables!(PgConnection, POSTGRES_OLDEST);

pub(crate) async fn expand<DB: Database>(sql: &Sql<DB>, bound: MailboxBound, now: Timestamp) -> Result<Expanded>
where
    DB::Connection: Tables,
{
    // Nearly always there is nothing, and who only reads holds up nobody.
    let mut tables = sql.reader().await?;
    let left = tables.is_any_wide_left().await;
    if !tables.done(left)? {
        return Ok(Expanded::default());
    }
    let step = sql.writer.write_apart(move |tables| Box::pin(async move { step(tables, bound, now).await }));
    step.await
}

async fn step(tables: &mut impl Tables, bound: MailboxBound, now: Timestamp) -> Result<Expanded, Failure> {
    let Some(wide) = tables.oldest_wide().await? else { return Ok(Expanded::default()) };
    let tenant: TenantId = wide.tenant.parse()?;
    let members: Vec<AgentId> = serde_json::from_str(&wide.members).map_err(unreadable)?;
    let first = usize::try_from(wide.next).map_err(unreadable)?.min(members.len());
    let next = members.len().min(first + STEP);
    let deliveries = deliver(tables, &wide, &members[first..next], bound, now).await?;
    if next == members.len() {
        tables.arrive(&wide.message_id).await?;
    } else {
        tables.step_on(&wide.message_id, signed(next as u64)).await?;
    }
    Ok(Expanded {
        deliveries: deliveries.len() as u64,
        wake: deliveries.into_iter().map(|agent| (tenant.clone(), Mailbox::Agent(agent.clone()))).collect(),
        more: tables.is_any_wide_left().await?,
    })
}

/// Into the mailboxes of these agents, which are in order (`send::Parcel`); gives those that took it.
async fn deliver<'a>(
    tables: &mut impl SendTables,
    wide: &WideRow,
    agents: &'a [AgentId],
    bound: MailboxBound,
    now: Timestamp,
) -> Result<Vec<&'a AgentId>, Failure> {
    let (tenant, sender): (Arc<str>, Arc<str>) = (wide.tenant.as_str().into(), wide.sender.as_str().into());
    let message_id: [u8; 16] = bytes(&wide.message_id)?;
    let asked: Vec<Asked<'_>> = agents.iter().map(|agent| Named::agent(agent).in_tenant(&tenant)).collect();
    let standings = tables.claim_mailboxes(&asked).await?;
    let (mut taken, mut deliveries, mut counted, mut dead) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((agent, asked), standing) in agents.iter().zip(asked).zip(standings) {
        let mailbox = standing.mailbox;
        let delivery = NewDelivery {
            mailbox,
            number: wide.number,
            message_id: &message_id,
            sender: &sender,
            priority: wide.priority,
            expires_at: wide.expires_at,
        };
        if let Some(reason) = no_room(&standing, bound.messages) {
            dead.push(StillBorn { delivery, tenant: &tenant, reason, died_at: now.as_millis() });
            continue;
        }
        taken.push(agent);
        deliveries.push(delivery);
        counted.push(Counted { asked, mailbox, waiting: standing.waiting + 1 });
    }
    tables.add(New { deliveries, counted: &counted, ..New::default() }).await?;
    if !dead.is_empty() {
        tables.add_still_born(&dead).await?;
    }
    Ok(taken)
}
