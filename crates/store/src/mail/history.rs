//! Looking at mail without taking it.

use std::{collections::BTreeMap, future::Future};

use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    mail::{
        Mailbox, Message, MessageId,
        delivery::{History, HistoryQuery, Kept, TAKE_MAX_BYTES, Tracked, TrackedDelivery, Unread},
    },
};
use sqlx::{Database, FromRow, PgConnection, SqliteConnection};

use super::{
    hunt::{Hunt, hunt},
    rows::{DeliveryRow, MailboxRow, MessageRow, Place},
    take::{TakeTables, Wanted, wide_underway},
};
use crate::{
    agent_store::Tables,
    engine::{Sql, in_time},
    failure::{Failure, unreadable},
    row::{count, json, signed},
};

/// Of a message that many get, deliveries that are shown.
const DELIVERIES_MAX: usize = 100;

const TOTAL: &str = "SELECT COUNT(*) FROM deliveries WHERE mailbox = $1 AND number > $2";
const MESSAGE: &str = "SELECT * FROM messages WHERE message_id = $2 AND tenant = $1";
const WIDE: &str = "SELECT members, underway FROM wide_messages WHERE message_id = $1";

/// A mailbox's deliveries lie in eight ranges of their index; each gives its newest (or, `after` one, its next).
macro_rules! ranges {
    ($beyond:literal, $order:literal) => {
        concat!(
            "SELECT * FROM (",
            ranges!(@ "FALSE", "0", $beyond, $order), " UNION ALL ",
            ranges!(@ "FALSE", "1", $beyond, $order), " UNION ALL ",
            ranges!(@ "FALSE", "2", $beyond, $order), " UNION ALL ",
            ranges!(@ "FALSE", "3", $beyond, $order), " UNION ALL ",
            ranges!(@ "TRUE", "0", $beyond, $order), " UNION ALL ",
            ranges!(@ "TRUE", "1", $beyond, $order), " UNION ALL ",
            ranges!(@ "TRUE", "2", $beyond, $order), " UNION ALL ",
            ranges!(@ "TRUE", "3", $beyond, $order),
            ") AS kept ORDER BY number ", $order, " LIMIT +$3"
        )
    };
    (@ $open:literal, $priority:literal, $beyond:literal, $order:literal) => {
        concat!(
            "SELECT * FROM (SELECT * FROM deliveries WHERE mailbox = $1 AND open = ", $open, " AND priority = ",
            $priority, " AND number ", $beyond, " $2 ORDER BY number ", $order, " LIMIT +$3) AS each"
        )
    };
}

const NEWEST: &str = ranges!("<", "DESC");
const NEXT: &str = ranges!(">", "ASC");

/// Who a wide message is for.
#[derive(Debug, FromRow)]
pub(crate) struct WideRow {
    members: String,
    pub(crate) underway: bool,
}

impl WideRow {
    pub(crate) fn members(&self) -> Result<Vec<Mailbox>> {
        let members: Vec<String> = serde_json::from_str(&self.members).map_err(unreadable)?;
        members.into_iter().map(|member| Ok(Mailbox::Agent(member.parse()?))).collect()
    }
}

#[derive(Debug, FromRow)]
pub(crate) struct UnreadRow {
    place: i64,
    waiting: i64,
    critical: i64,
}

pub(crate) trait HistoryTables: TakeTables {
    /// Each with its place among those that were named.
    fn unread(
        &mut self,
        tenant: &TenantId,
        named: &[Mailbox],
    ) -> impl Future<Output = Result<Vec<UnreadRow>, Failure>> + Send;
    /// Newest first.
    fn newest(&mut self, mailbox: i64, limit: usize) -> impl Future<Output = Result<Vec<DeliveryRow>, Failure>> + Send;
    fn next(
        &mut self,
        mailbox: i64,
        after: i64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<DeliveryRow>, Failure>> + Send;
    fn total(&mut self, mailbox: i64, since: i64) -> impl Future<Output = Result<i64, Failure>> + Send;
    fn message(
        &mut self,
        tenant: &TenantId,
        message: MessageId,
    ) -> impl Future<Output = Result<Option<MessageRow>, Failure>> + Send;
    fn wide(&mut self, message: MessageId) -> impl Future<Output = Result<Option<WideRow>, Failure>> + Send;
    fn mailboxes_numbered(
        &mut self,
        mailboxes: &[i64],
    ) -> impl Future<Output = Result<Vec<MailboxRow>, Failure>> + Send;
}

macro_rules! history_tables {
    ($connection:ty, $unread:expr) => {
        impl HistoryTables for $connection {
            async fn unread(&mut self, tenant: &TenantId, named: &[Mailbox]) -> Result<Vec<UnreadRow>, Failure> {
                $unread(self, tenant, named).await
            }

            async fn newest(&mut self, mailbox: i64, limit: usize) -> Result<Vec<DeliveryRow>, Failure> {
                let newest = sqlx::query_as(NEWEST).bind(mailbox).bind(i64::MAX).bind(signed(limit as u64));
                Ok(newest.fetch_all(self).await?)
            }

            async fn next(&mut self, mailbox: i64, after: i64, limit: usize) -> Result<Vec<DeliveryRow>, Failure> {
                let next = sqlx::query_as(NEXT).bind(mailbox).bind(after).bind(signed(limit as u64));
                Ok(next.fetch_all(self).await?)
            }

            async fn total(&mut self, mailbox: i64, since: i64) -> Result<i64, Failure> {
                Ok(sqlx::query_scalar(TOTAL).bind(mailbox).bind(since).fetch_one(self).await?)
            }

            async fn message(&mut self, tenant: &TenantId, message: MessageId) -> Result<Option<MessageRow>, Failure> {
                let find = sqlx::query_as(MESSAGE).bind(tenant.as_str()).bind(message.bytes().to_vec());
                Ok(find.fetch_optional(self).await?)
            }

            async fn wide(&mut self, message: MessageId) -> Result<Option<WideRow>, Failure> {
                Ok(sqlx::query_as(WIDE).bind(message.bytes().to_vec()).fetch_optional(self).await?)
            }

            async fn mailboxes_numbered(&mut self, mailboxes: &[i64]) -> Result<Vec<MailboxRow>, Failure> {
                let mut found = Vec::new();
                for mailbox in mailboxes {
                    let find = sqlx::query_as("SELECT * FROM mailboxes WHERE mailbox = $1").bind(mailbox);
                    found.extend(find.fetch_optional(&mut *self).await?);
                }
                Ok(found)
            }
        }
    };
}

history_tables!(SqliteConnection, unread_in_sqlite);
history_tables!(PgConnection, unread_in_postgres);

async fn unread_in_sqlite(
    tables: &mut SqliteConnection,
    tenant: &TenantId,
    named: &[Mailbox],
) -> Result<Vec<UnreadRow>, Failure> {
    let named: Vec<_> = named.iter().map(|mailbox| (mailbox.sort(), mailbox.name())).collect();
    let look = sqlx::query_as(
        "SELECT named.key AS place, waiting,
             CASE WHEN waiting = 0 THEN 0 ELSE (SELECT COUNT(*) FROM deliveries
                 WHERE deliveries.mailbox = mailboxes.mailbox AND open = TRUE AND priority = 0) END AS critical
         FROM json_each($2) AS named CROSS JOIN mailboxes
             ON tenant = $1 AND sort = named.value->>0 AND name = named.value->>1",
    );
    Ok(look.bind(tenant.as_str()).bind(json(&named)?).fetch_all(tables).await?)
}

async fn unread_in_postgres(
    tables: &mut PgConnection,
    tenant: &TenantId,
    named: &[Mailbox],
) -> Result<Vec<UnreadRow>, Failure> {
    let sorts: Vec<&str> = named.iter().map(Mailbox::sort).collect();
    let names: Vec<&str> = named.iter().map(Mailbox::name).collect();
    let look = sqlx::query_as(
        "SELECT named.place - 1 AS place, waiting,
             CASE WHEN waiting = 0 THEN 0 ELSE (SELECT COUNT(*) FROM deliveries
                 WHERE deliveries.mailbox = mailboxes.mailbox AND open = TRUE AND priority = 0) END AS critical
         FROM UNNEST($2::text[], $3::text[]) WITH ORDINALITY AS named (sort, name, place) JOIN mailboxes
             ON mailboxes.tenant = $1 AND mailboxes.sort = named.sort AND mailboxes.name = named.name",
    );
    Ok(look.bind(tenant.as_str()).bind(sorts).bind(names).fetch_all(tables).await?)
}

pub(crate) async fn unread<DB: Database>(sql: &Sql<DB>, tenant: &TenantId, mailboxes: &[Mailbox]) -> Result<Vec<Unread>>
where
    DB::Connection: Tables,
{
    let mut tables = sql.reader().await?;
    let rows = in_time(tables.unread(tenant, mailboxes)).await;
    let mut unread = vec![Unread::default(); mailboxes.len()];
    for row in tables.done(rows)? {
        let place = usize::try_from(row.place).ok().and_then(|place| unread.get_mut(place));
        *place.ok_or_else(|| unreadable("a mailbox that was not asked for"))? =
            Unread { waiting: count(row.waiting)?, critical: count(row.critical)? };
    }
    Ok(unread)
}

/// Each with its message, as many as an answer holds.
async fn with_messages<'a>(
    tables: &mut impl Tables,
    rows: impl IntoIterator<Item = &'a DeliveryRow>,
) -> Result<Vec<(Message, &'a DeliveryRow)>, Failure> {
    let rows: Vec<&DeliveryRow> = rows.into_iter().collect();
    let want = |row: &&'a DeliveryRow| Wanted { answer: 0, number: row.number, message_id: &row.message_id };
    let wanted: Vec<_> = rows.iter().map(want).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut given = tables.messages(&wanted, TAKE_MAX_BYTES).await?.into_iter().peekable();
    // One may have been forgotten meanwhile.
    let pairs = rows.into_iter().filter_map(|row| {
        let given = given.next_if(|given| given.message.number == row.number)?;
        Some(given.message.message().map(|message| (message, row)))
    });
    Ok(pairs.collect::<Result<_>>()?)
}

async fn look(
    tables: &mut impl Tables,
    tenant: &TenantId,
    mailboxes: &[Mailbox],
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Message>, Failure> {
    let mut rows = tables.mailboxes(tenant, mailboxes).await?;
    rows.retain(|row| row.waiting > 0);
    rows.sort_by_key(|row| mailboxes.iter().position(|named| named.name() == row.name && named.sort() == row.sort));
    let underway = wide_underway(tables).await?;
    let underway = underway.get(tenant.as_str()).map_or(&[][..], Vec::as_slice);
    let hunts = rows.iter().map(|row| Hunt::new(row, underway, limit, now)).collect();
    let found = hunt(tables, hunts).await?;
    let mut chosen: Vec<&DeliveryRow> = Vec::new();
    for found in &found {
        let room = limit - chosen.len();
        chosen.extend(found.choose(room).0);
    }
    Ok(with_messages(tables, chosen).await?.into_iter().map(|(message, _)| message).collect())
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
    let mut tables = sql.reader().await?;
    let seen = in_time(look(&mut *tables, tenant, mailboxes, limit, now)).await;
    tables.done(seen)
}

async fn look_back(
    tables: &mut impl Tables,
    tenant: &TenantId,
    mailbox: &Mailbox,
    query: &HistoryQuery,
) -> Result<History, Failure> {
    let after = match query.after {
        Some(after) => {
            let message = tables.message(tenant, after).await?;
            let message = message.ok_or_else(|| {
                Error::not_found(format!("there is no message {after} any more: read the history without `after`"))
            })?;
            Some(message.number)
        }
        None => None,
    };
    let rows = tables.mailboxes(tenant, std::slice::from_ref(mailbox)).await?;
    let Some(MailboxRow { mailbox, since, .. }) = rows.first() else { return Ok(History::default()) };
    let mut rows = match after {
        Some(after) => tables.next(*mailbox, after.max(*since), query.limit).await?,
        None => tables.newest(*mailbox, query.limit).await?,
    };
    rows.retain(|row| row.number > *since);
    let kept = with_messages(tables, &rows).await?.into_iter();
    let kept = kept.map(|(message, row)| Ok(Kept { message, state: row.state()?, attempts: row.attempts()? }));
    let mut messages: Vec<Kept> = kept.collect::<Result<_>>()?;
    if after.is_none() {
        messages.reverse();
    }
    Ok(History { messages, total: count(tables.total(*mailbox, *since).await?)? })
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
    let mut tables = sql.reader().await?;
    let history = in_time(look_back(&mut *tables, tenant, mailbox, query)).await;
    tables.done(history)
}

/// The mailboxes in which the message is to be looked for, and whether all of them have it.
async fn addressed(
    tables: &mut impl Tables,
    tenant: &TenantId,
    message: (MessageId, &MessageRow),
    only: Option<&[Mailbox]>,
) -> Result<(Vec<MailboxRow>, bool), Failure> {
    let wide = match message.1.mailbox {
        Some(_) => None,
        None => tables.wide(message.0).await?,
    };
    let complete = wide.as_ref().is_none_or(|wide| !wide.underway);
    let rows = match (only, wide, message.1.mailbox) {
        (Some(only), ..) => {
            let mut rows = tables.mailboxes(tenant, only).await?;
            rows.retain(|row| row.since < message.1.number);
            rows
        }
        (None, Some(wide), _) => {
            let mut members = wide.members()?;
            members.truncate(DELIVERIES_MAX);
            tables.mailboxes(tenant, &members).await?
        }
        (None, None, Some(mailbox)) => tables.mailboxes_numbered(&[mailbox]).await?,
        (None, None, None) => Vec::new(),
    };
    Ok((rows, complete))
}

async fn track(
    tables: &mut impl Tables,
    tenant: &TenantId,
    id: MessageId,
    only: Option<&[Mailbox]>,
) -> Result<Option<Tracked>, Failure> {
    let Some(row) = tables.message(tenant, id).await? else { return Ok(None) };
    let (mailboxes, complete) = addressed(tables, tenant, (id, &row), only).await?;
    let place = |mailbox: &MailboxRow| Place { mailbox: mailbox.mailbox, priority: row.priority, number: row.number };
    let places: Vec<Place> = mailboxes.iter().map(place).collect();
    let mut found: BTreeMap<i64, DeliveryRow> = BTreeMap::new();
    // Those that are settled between the two looks are seen in both.
    for open in [true, false] {
        found.extend(
            tables.deliveries_at(&places, open).await?.into_iter().map(|delivery| (delivery.mailbox, delivery)),
        );
    }
    let mut deliveries = Vec::new();
    for mailbox in &mailboxes {
        let Some(delivery) = found.remove(&mailbox.mailbox) else { continue };
        deliveries.push(TrackedDelivery {
            mailbox: mailbox.named()?,
            state: delivery.state()?,
            attempts: delivery.attempts()?,
            settled_at: delivery.settled_at.map(Timestamp::from_millis),
            reason: delivery.reason,
        });
    }
    deliveries.sort_by(|one, other| one.mailbox.cmp(&other.mailbox));
    let recipients = row.recipients()?;
    Ok(Some(Tracked { message: row.message()?, recipients, complete, deliveries }))
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
    let mut tables = sql.reader().await?;
    let tracked = in_time(track(&mut *tables, tenant, message, only)).await;
    tables.done(tracked)
}
