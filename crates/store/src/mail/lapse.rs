//! What the clock does: leases that ran out, rests that are over, mail that expired.
//!
//! What is due is looked for with a reader, then done with its mailboxes locked, for it may be done already. Mailboxes
//! that someone works in are passed over: whoever takes there does the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use guildhall_domain::{Result, Timestamp, mail::DeliveryState, ports::mail_store::Lapsed};
use sqlx::{Database, PgConnection, SqliteConnection};

use super::{
    changes::Changes,
    deliveries::DeliveryTables,
    rows::{DeliveryRow, Lapse, MailboxRow, Place, rank},
    take::put_lapsed,
};
use crate::{
    agent_store::Tables,
    engine::{Sql, in_time},
    failure::Failure,
    row::signed,
};

/// Of each sort, done in one call: small enough not to hold up who sends.
const DUE_MAX: usize = 200;

const LEASES: &str = "SELECT mailbox, priority, number FROM deliveries WHERE lease_until <= $1
    ORDER BY lease_until LIMIT +$2";
const RESTS: &str = "SELECT mailbox, priority, number FROM deliveries WHERE rests_until <= $1
    ORDER BY rests_until LIMIT +$2";
const EXPIRED: &str = "SELECT mailbox, priority, number FROM deliveries
    WHERE open AND expires_at <= $1 AND state = $3 ORDER BY expires_at LIMIT +$2";

pub(crate) trait LapseTables: Send {
    /// What is due, by the sort of it.
    fn due(&mut self, now: Timestamp) -> impl Future<Output = Result<[Vec<Place>; 3], Failure>> + Send;
}

macro_rules! lapse_tables {
    ($connection:ty) => {
        impl LapseTables for $connection {
            async fn due(&mut self, now: Timestamp) -> Result<[Vec<Place>; 3], Failure> {
                let (now, most) = (now.as_millis(), signed(DUE_MAX as u64));
                let leases = sqlx::query_as(LEASES).bind(now).bind(most).fetch_all(&mut *self).await?;
                let rests = sqlx::query_as(RESTS).bind(now).bind(most).fetch_all(&mut *self).await?;
                let expired = sqlx::query_as(EXPIRED).bind(now).bind(most).bind(rank(DeliveryState::Waiting));
                Ok([leases, rests, expired.fetch_all(self).await?])
            }
        }
    };
}

lapse_tables!(SqliteConnection);
lapse_tables!(PgConnection);

pub(crate) async fn lapse<DB: Database>(sql: &Sql<DB>, now: Timestamp) -> Result<Lapsed>
where
    DB::Connection: Tables,
{
    let mut tables = sql.reader().await?;
    let due = in_time(tables.due(now)).await;
    let due = tables.done(due)?;
    let more = due.iter().any(|sort| sort.len() == DUE_MAX);
    let due: BTreeSet<Place> = due.into_iter().flatten().collect();
    if due.is_empty() {
        return Ok(Lapsed::default());
    }
    let due: Vec<Place> = due.into_iter().collect();
    let lapse = sql.writer.write_apart(move |tables| Box::pin(async move { lapse_all(tables, &due, now).await }));
    let lapsed = lapse.await?;
    // Where all of it was passed over, asking again at once would find the same.
    let more = more && lapsed != Lapsed::default();
    Ok(Lapsed { more, ..lapsed })
}

async fn lapse_all(tables: &mut impl Tables, due: &[Place], now: Timestamp) -> Result<Lapsed, Failure> {
    let mailboxes: BTreeSet<i64> = due.iter().map(|place| place.mailbox).collect();
    let mailboxes = tables.lock_free_mailboxes(&mailboxes.into_iter().collect::<Vec<_>>()).await?;
    let locked: BTreeSet<i64> = mailboxes.iter().map(|row| row.mailbox).collect();
    let due: Vec<Place> = due.iter().copied().filter(|place| locked.contains(&place.mailbox)).collect();
    let mut rows: BTreeMap<i64, Vec<DeliveryRow>> = BTreeMap::new();
    for row in tables.deliveries_at(&due, true).await? {
        rows.entry(row.mailbox).or_default().push(row);
    }
    let (mut all, mut changes) = (Lapsed::default(), Changes::default());
    for mailbox in &mailboxes {
        let due = rows.remove(&mailbox.mailbox).unwrap_or_default();
        if lapse_one(tables, &mut changes, &mut all, mailbox, due, now).await? {
            all.wake.push((mailbox.tenant.parse()?, mailbox.named()?));
        }
    }
    changes.write(tables).await?;
    Ok(all)
}

/// True when something may be taken that could not be before.
async fn lapse_one(
    tables: &mut impl DeliveryTables,
    changes: &mut Changes,
    all: &mut Lapsed,
    mailbox: &MailboxRow,
    due: Vec<DeliveryRow>,
    now: Timestamp,
) -> Result<bool, Failure> {
    let (mut wakes, mut lapsed) = (false, Vec::new());
    for mut row in due {
        let Some(lapse) = row.lapse(now) else {
            if row.rests_until.is_some() && row.is_ready(now) {
                row.rests_until = None;
                changes.put(mailbox, row, now);
                wakes = true;
            }
            continue;
        };
        match lapse {
            Lapse::Lease(_) => all.leases += 1,
            Lapse::Expiry => all.expired += 1,
        }
        if !row.open {
            all.dead += 1;
            // What its sender sent later is held up no longer.
            wakes = true;
        }
        lapsed.push((lapse, row));
    }
    let given_back = put_lapsed(tables, changes, mailbox, &lapsed, now).await?;
    Ok(wakes || given_back > 0)
}
