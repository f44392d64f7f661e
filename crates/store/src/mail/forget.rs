//! What is forgotten, and when: receipts after a day, mail by its age and its size, oldest first.
//!
//! Mail that still waits when it is as old as mail is kept dies then, and goes when its letter has been kept as long.
//! For its size only mail that is settled goes. The size is counted from a sample of the messages: a database's files
//! do not shrink when rows go, and hold more than mail.

use std::{collections::BTreeSet, future::Future, time::Duration};

use guildhall_domain::{
    Result, TenantId, Timestamp,
    mail::{DeliveryState, Mailbox, MessageId},
    ports::bus::Retention,
};
use sqlx::{Database, FromRow, PgConnection, SqliteConnection};

use super::{
    changes::Changes,
    deliveries::DeliveryTables,
    history::{HistoryTables, WideRow},
    rows::{MailboxRow, Place},
};
use crate::{
    agent_store::Tables,
    engine::{Sql, in_time},
    failure::Failure,
    row::{bytes, count, json, signed},
};

/// How long a sender's key is remembered: as the contract promises.
const RECEIPTS_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Receipts, and ended requests, of one call.
const ROWS_MAX: usize = 4_000;
/// Messages of one call.
const MESSAGES_MAX: usize = 1_000;
/// Messages looked at in one call, for some at the front may have to stay: about a second.
const WALK_MAX: usize = 100_000;
/// Mailboxes of a wide message that one transaction locks.
const MEMBERS_AT_ONCE: usize = 500;
/// Mailboxes of wide messages in one call.
const MEMBERS_MAX: usize = 5_000;
/// Messages whose size is looked at, evenly spread over all.
const SAMPLE: i64 = 2_000;
/// What a message takes beside its body: other columns, a delivery, a receipt, and where they stand in indexes.
const BESIDE_BODY_BYTES: u64 = 500;

const FORGET_RECEIPTS: &str = "DELETE FROM receipts
    WHERE key IN (SELECT key FROM receipts WHERE at <= $1 ORDER BY at LIMIT +$2)";
const FORGET_REQUESTS: &str = "DELETE FROM requests WHERE message_id IN
    (SELECT message_id FROM requests WHERE state > 0 AND ended_at <= $1 ORDER BY ended_at LIMIT +$2)";
const OLDEST: &str = "SELECT number, message_id, tenant, priority, sent_at, octet_length(body) AS bytes, mailbox,
        EXISTS (SELECT 1 FROM deliveries WHERE deliveries.mailbox = messages.mailbox AND open = TRUE
            AND deliveries.priority = messages.priority AND deliveries.number = messages.number) AS is_open,
        EXISTS (SELECT 1 FROM dead_letters
            WHERE dead_letters.message_id = messages.message_id AND died_at > $3) AS has_young_letter
    FROM messages WHERE number > $1 ORDER BY number LIMIT +$2";
const SPAN: &str = "SELECT (SELECT MIN(number) FROM messages), (SELECT MAX(number) FROM messages)";

/// A message at the front of what is kept.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct OldRow {
    number: i64,
    message_id: Vec<u8>,
    tenant: String,
    priority: i16,
    sent_at: i64,
    bytes: i32,
    mailbox: Option<i64>,
    is_open: bool,
    has_young_letter: bool,
}

impl OldRow {
    fn place_in(&self, mailbox: i64) -> Place {
        Place { mailbox, priority: self.priority, number: self.number }
    }

    fn bytes(&self) -> u64 {
        u64::from(self.bytes.unsigned_abs()) + BESIDE_BODY_BYTES
    }
}

pub(crate) trait ForgetTables: DeliveryTables {
    /// How many.
    fn forget_receipts(&mut self, before: Timestamp) -> impl Future<Output = Result<u64, Failure>> + Send;
    fn forget_requests(&mut self, before: Timestamp) -> impl Future<Output = Result<u64, Failure>> + Send;
    /// `young`: letters of after then keep their message.
    fn oldest(
        &mut self,
        after: i64,
        limit: usize,
        young: Timestamp,
    ) -> impl Future<Output = Result<Vec<OldRow>, Failure>> + Send;
    /// The first and the last number.
    fn span(&mut self) -> impl Future<Output = Result<Option<(i64, i64)>, Failure>> + Send;
    /// Of those that are there: how many, and the bytes of their bodies.
    fn weigh(&mut self, numbers: &[i64]) -> impl Future<Output = Result<(i64, i64), Failure>> + Send;
    /// Those that are settled. They are gone then, whether they were there or not.
    fn remove_deliveries(&mut self, places: &[Place]) -> impl Future<Output = Result<(), Failure>> + Send;
    /// With all that belongs to them but their deliveries.
    fn remove_messages(&mut self, messages: &[OldRow]) -> impl Future<Output = Result<(), Failure>> + Send;
}

macro_rules! forget_tables {
    ($connection:ty, $weigh:expr, $remove_deliveries:expr, $remove_messages:expr) => {
        impl ForgetTables for $connection {
            async fn forget_receipts(&mut self, before: Timestamp) -> Result<u64, Failure> {
                let forget = sqlx::query(FORGET_RECEIPTS).bind(before.as_millis()).bind(signed(ROWS_MAX as u64));
                Ok(forget.execute(self).await?.rows_affected())
            }

            async fn forget_requests(&mut self, before: Timestamp) -> Result<u64, Failure> {
                let forget = sqlx::query(FORGET_REQUESTS).bind(before.as_millis()).bind(signed(ROWS_MAX as u64));
                Ok(forget.execute(self).await?.rows_affected())
            }

            async fn oldest(&mut self, after: i64, limit: usize, young: Timestamp) -> Result<Vec<OldRow>, Failure> {
                let oldest = sqlx::query_as(OLDEST).bind(after).bind(signed(limit as u64)).bind(young.as_millis());
                Ok(oldest.fetch_all(self).await?)
            }

            async fn span(&mut self) -> Result<Option<(i64, i64)>, Failure> {
                let (first, last): (Option<i64>, Option<i64>) = sqlx::query_as(SPAN).fetch_one(self).await?;
                Ok(first.zip(last))
            }

            async fn weigh(&mut self, numbers: &[i64]) -> Result<(i64, i64), Failure> {
                $weigh(self, numbers).await
            }

            async fn remove_deliveries(&mut self, places: &[Place]) -> Result<(), Failure> {
                $remove_deliveries(self, places).await
            }

            async fn remove_messages(&mut self, messages: &[OldRow]) -> Result<(), Failure> {
                $remove_messages(self, messages).await
            }
        }
    };
}

forget_tables!(SqliteConnection, sqlite::weigh, sqlite::remove_deliveries, sqlite::remove_messages);
forget_tables!(PgConnection, postgres::weigh, postgres::remove_deliveries, postgres::remove_messages);

mod sqlite {
    use super::{Failure, OldRow, Place, SqliteConnection, json};

    pub(super) async fn weigh(tables: &mut SqliteConnection, numbers: &[i64]) -> Result<(i64, i64), Failure> {
        let weigh = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(SUM(octet_length(body)), 0)
             FROM json_each($1) AS sample CROSS JOIN messages ON messages.number = sample.value",
        );
        Ok(weigh.bind(json(&numbers)?).fetch_one(tables).await?)
    }

    pub(super) async fn remove_deliveries(tables: &mut SqliteConnection, places: &[Place]) -> Result<(), Failure> {
        let places: Vec<_> = places.iter().map(|place| (place.mailbox, place.priority, place.number)).collect();
        let remove = sqlx::query(
            "DELETE FROM deliveries WHERE rowid IN (
                 SELECT deliveries.rowid FROM json_each($1) AS place CROSS JOIN deliveries
                     ON mailbox = place.value->>0 AND open = FALSE AND priority = place.value->>1
                         AND number = place.value->>2)",
        );
        remove.bind(json(&places)?).execute(tables).await?;
        Ok(())
    }

    pub(super) async fn remove_messages(tables: &mut SqliteConnection, messages: &[OldRow]) -> Result<(), Failure> {
        let ids: Vec<String> = messages.iter().map(|message| hex::encode(&message.message_id)).collect();
        let ids = json(&ids)?;
        for remove in [
            "DELETE FROM dead_letters WHERE message_id IN (SELECT unhex(value) FROM json_each($1))",
            "DELETE FROM wide_messages WHERE message_id IN (SELECT unhex(value) FROM json_each($1))",
            "DELETE FROM messages WHERE message_id IN (SELECT unhex(value) FROM json_each($1))",
        ] {
            sqlx::query(remove).bind(&ids).execute(&mut *tables).await?;
        }
        Ok(())
    }
}

mod postgres {
    use super::{Failure, OldRow, PgConnection, Place};

    pub(super) async fn weigh(tables: &mut PgConnection, numbers: &[i64]) -> Result<(i64, i64), Failure> {
        let weigh = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(SUM(octet_length(body)), 0)
             FROM UNNEST($1::bigint[]) AS sample (number) JOIN messages ON messages.number = sample.number",
        );
        Ok(weigh.bind(numbers).fetch_one(tables).await?)
    }

    pub(super) async fn remove_deliveries(tables: &mut PgConnection, places: &[Place]) -> Result<(), Failure> {
        let mailboxes: Vec<i64> = places.iter().map(|place| place.mailbox).collect();
        let priorities: Vec<i16> = places.iter().map(|place| place.priority).collect();
        let numbers: Vec<i64> = places.iter().map(|place| place.number).collect();
        let remove = sqlx::query(
            "DELETE FROM deliveries USING UNNEST($1::bigint[], $2::smallint[], $3::bigint[])
                 AS place (mailbox, priority, number)
             WHERE deliveries.mailbox = place.mailbox AND deliveries.open = FALSE
                 AND deliveries.priority = place.priority AND deliveries.number = place.number",
        );
        remove.bind(mailboxes).bind(priorities).bind(numbers).execute(tables).await?;
        Ok(())
    }

    pub(super) async fn remove_messages(tables: &mut PgConnection, messages: &[OldRow]) -> Result<(), Failure> {
        let ids: Vec<&[u8]> = messages.iter().map(|message| &message.message_id[..]).collect();
        for remove in [
            "DELETE FROM dead_letters WHERE message_id = ANY($1)",
            "DELETE FROM wide_messages WHERE message_id = ANY($1)",
            "DELETE FROM messages WHERE message_id = ANY($1)",
        ] {
            sqlx::query(remove).bind(&ids).execute(&mut *tables).await?;
        }
        Ok(())
    }
}

/// Why messages are to go.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// What is of before `cutoff` has been kept for `age`.
    Age { age: Duration, cutoff: Timestamp },
    /// So much is above what is kept.
    Size { excess: u64 },
}

/// The next that are to go, oldest first, and whether there may be more.
async fn next_to_go(tables: &mut impl Tables, cause: Cause, young: Timestamp) -> Result<(Vec<OldRow>, bool), Failure> {
    let (mut go, mut after, mut walked, mut freed) = (Vec::new(), 0, 0, 0);
    while walked < WALK_MAX {
        let page = tables.oldest(after, MESSAGES_MAX, young).await?;
        let is_last = page.len() < MESSAGES_MAX;
        walked += page.len();
        after = page.last().map_or(after, |last| last.number);
        for row in page {
            let goes = match cause {
                Cause::Age { cutoff, .. } if row.sent_at > cutoff.as_millis() => return Ok((go, false)),
                Cause::Age { .. } => !row.has_young_letter,
                Cause::Size { excess } if freed >= excess => return Ok((go, false)),
                Cause::Size { .. } => !row.is_open,
            };
            if goes {
                freed += row.bytes();
                go.push(row);
            }
            if go.len() == MESSAGES_MAX {
                return Ok((go, true));
            }
        }
        if is_last {
            break;
        }
    }
    Ok((go, false))
}

/// What mail weighs, from an even sample of it; exact when there is little.
async fn weight(tables: &mut impl ForgetTables) -> Result<u64, Failure> {
    let Some((first, last)) = tables.span().await? else { return Ok(0) };
    let span = last - first + 1;
    let sample: Vec<i64> = if span <= SAMPLE {
        (first..=last).collect()
    } else {
        (0..SAMPLE)
            .map(|n| first + i64::try_from(i128::from(span) * i128::from(n) / i128::from(SAMPLE)).unwrap_or(0))
            .collect()
    };
    let (messages, bytes) = tables.weigh(&sample).await?;
    let weight = count(bytes)? + count(messages)? * BESIDE_BODY_BYTES;
    let scaled = u128::from(weight) * u128::from(span.unsigned_abs()) / (sample.len() as u128);
    Ok(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// What became of deliveries.
struct LetGo {
    kept: BTreeSet<Place>,
    died: u64,
}

/// What is settled at these places goes. What is open stays, and dies if it is too old.
async fn let_go(
    tables: &mut impl Tables,
    places: &[Place],
    locked: &[MailboxRow],
    cause: Cause,
    now: Timestamp,
) -> Result<LetGo, Failure> {
    let mut kept = BTreeSet::new();
    let mut changes = Changes::default();
    let mut died = 0;
    for mut row in tables.deliveries_at(places, true).await? {
        kept.insert(row.place());
        let Cause::Age { age, .. } = cause else { continue };
        let Some(mailbox) = locked.iter().find(|mailbox| mailbox.mailbox == row.mailbox) else { continue };
        if row.is(DeliveryState::Waiting) {
            let never = if row.hand_out == 0 { "taken" } else { "settled" };
            row.die(format!("kept for {} and never {never}", in_words(age)), now);
            changes.put(mailbox, row, now);
            died += 1;
        }
    }
    changes.write(tables).await?;
    let gone: Vec<Place> = places.iter().copied().filter(|place| !kept.contains(place)).collect();
    if !gone.is_empty() {
        tables.remove_deliveries(&gone).await?;
    }
    Ok(LetGo { kept, died })
}

fn in_words(age: Duration) -> String {
    match age.as_secs() {
        seconds if seconds >= 2 * 86_400 => format!("{} days", seconds / 86_400),
        seconds if seconds >= 2 * 3_600 => format!("{} hours", seconds / 3_600),
        seconds => format!("{seconds} seconds"),
    }
}

/// Messages to one mailbox each. How many went or died.
async fn forget_single(
    tables: &mut impl Tables,
    messages: &[OldRow],
    cause: Cause,
    now: Timestamp,
) -> Result<u64, Failure> {
    let mailboxes: BTreeSet<i64> = messages.iter().filter_map(|message| message.mailbox).collect();
    let locked = tables.lock_free_mailboxes(&mailboxes.into_iter().collect::<Vec<_>>()).await?;
    let numbers: BTreeSet<i64> = locked.iter().map(|row| row.mailbox).collect();
    let place = |message: &OldRow| message.mailbox.filter(|own| numbers.contains(own)).map(|own| message.place_in(own));
    let places: Vec<Place> = messages.iter().filter_map(place).collect();
    let LetGo { kept, died } = let_go(tables, &places, &locked, cause, now).await?;
    let gone = messages.iter().filter(|message| place(message).is_some_and(|place| !kept.contains(&place)));
    let gone: Vec<OldRow> = gone.cloned().collect();
    if !gone.is_empty() {
        tables.remove_messages(&gone).await?;
    }
    Ok(died + gone.len() as u64)
}

/// Some mailboxes of a wide message. True when it is gone from all of these.
async fn forget_members(
    tables: &mut impl Tables,
    message: &OldRow,
    members: &[Mailbox],
    cause: Cause,
    now: Timestamp,
) -> Result<(bool, u64), Failure> {
    let tenant: TenantId = message.tenant.parse()?;
    let mailboxes: Vec<i64> = tables.mailboxes(&tenant, members).await?.iter().map(|row| row.mailbox).collect();
    let locked = tables.lock_free_mailboxes(&mailboxes).await?;
    let places: Vec<Place> = locked.iter().map(|row| message.place_in(row.mailbox)).collect();
    let LetGo { kept, died } = let_go(tables, &places, &locked, cause, now).await?;
    Ok((kept.is_empty() && locked.len() == mailboxes.len(), died))
}

/// How many of its mailboxes were seen, and how many messages went or deliveries died.
async fn forget_wide<DB: Database>(
    sql: &Sql<DB>,
    message: &OldRow,
    cause: Cause,
    now: Timestamp,
) -> Result<(usize, u64)>
where
    DB::Connection: Tables,
{
    let mut tables = sql.reader().await?;
    let wide = in_time(tables.wide(MessageId::from_bytes(bytes(&message.message_id)?))).await;
    let wide: Option<WideRow> = tables.done(wide)?;
    if wide.as_ref().is_some_and(|wide| wide.underway) {
        return Ok((0, 0));
    }
    // One for nobody has no such row.
    let members = wide.map(|wide| wide.members()).transpose()?.unwrap_or_default();
    let (mut is_gone, mut died) = (true, 0);
    for members in members.chunks(MEMBERS_AT_ONCE) {
        let (message, members) = (message.clone(), members.to_vec());
        let forget = sql.writer.write_apart(move |tables| {
            Box::pin(async move { forget_members(tables, &message, &members, cause, now).await })
        });
        let (gone, dead) = forget.await?;
        is_gone &= gone;
        died += dead;
    }
    if is_gone {
        let message = message.clone();
        let forget =
            sql.writer.write_apart(move |tables| Box::pin(async move { tables.remove_messages(&[message]).await }));
        forget.await?;
    }
    Ok((members.len(), died + u64::from(is_gone)))
}

/// True when there is more.
async fn forget_mail<DB: Database>(sql: &Sql<DB>, kept: Retention, now: Timestamp) -> Result<bool>
where
    DB::Connection: Tables,
{
    let cutoff = now - kept.age;
    let mut tables = sql.reader().await?;
    let next = in_time(async {
        let by_age = Cause::Age { age: kept.age, cutoff };
        let (go, more) = next_to_go(&mut *tables, by_age, cutoff).await?;
        if !go.is_empty() {
            return Ok((go, more, by_age));
        }
        let excess = weight(&mut *tables).await?.saturating_sub(kept.bytes);
        let by_size = Cause::Size { excess };
        let (go, more) =
            if excess == 0 { Default::default() } else { next_to_go(&mut *tables, by_size, cutoff).await? };
        Ok((go, more, by_size))
    })
    .await;
    let (go, mut more, cause) = tables.done(next)?;
    let (single, wide): (Vec<_>, Vec<_>) = go.into_iter().partition(|message| message.mailbox.is_some());
    let mut done = 0;
    if !single.is_empty() {
        let forget = sql
            .writer
            .write_apart(move |tables| Box::pin(async move { forget_single(tables, &single, cause, now).await }));
        done += forget.await?;
    }
    let mut members = 0;
    for message in wide {
        if members >= MEMBERS_MAX {
            more = true;
            break;
        }
        let (seen, gone) = forget_wide(sql, &message, cause, now).await?;
        members += seen;
        done += gone;
    }
    // Where others hold all that is to go, asking again at once would find the same.
    Ok(more && done > 0)
}

pub(crate) async fn forget<DB: Database>(sql: &Sql<DB>, kept: Retention, now: Timestamp) -> Result<bool>
where
    DB::Connection: Tables,
{
    let rows = sql.writer.write_apart(move |tables| {
        Box::pin(async move {
            let receipts = tables.forget_receipts(now - RECEIPTS_AGE).await?;
            Ok((receipts, tables.forget_requests(now - kept.age).await?))
        })
    });
    let (receipts, requests) = rows.await?;
    let more = forget_mail(sql, kept, now).await?;
    Ok(more || receipts == ROWS_MAX as u64 || requests == ROWS_MAX as u64)
}
