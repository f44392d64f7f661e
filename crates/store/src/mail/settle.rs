//! What a taker says of what it took: ack, nack, refuse, return, renew.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    mail::{
        DeliveryState, Lease, Mailbox,
        delivery::{LEASE, NACK_DELAY_MAX, Settling, Verdict},
    },
};
use sqlx::{Database, PgConnection, SqliteConnection};

use super::{
    changes::Changes,
    deliveries::{DeliveryTables, Run},
    lane::{Call, Care},
    rows::{DeliveryRow, MailboxRow, Place, rank},
};
use crate::{
    agent_store::Tables,
    audit::Scribe,
    engine::{Sql, in_time},
    failure::Failure,
    row::signed,
};

/// By its taker's first letters.
const HELD: &str = "SELECT * FROM deliveries
    WHERE mailbox = $1 AND open = TRUE AND state = $2 AND substr(taker, 1, length($3)) = $3";

pub(crate) trait SettleTables: DeliveryTables {
    fn held(&mut self, mailbox: i64, taker: &str) -> impl Future<Output = Result<Vec<DeliveryRow>, Failure>> + Send;
}

macro_rules! settle_tables {
    ($connection:ty) => {
        impl SettleTables for $connection {
            async fn held(&mut self, mailbox: i64, taker: &str) -> Result<Vec<DeliveryRow>, Failure> {
                let held = sqlx::query_as(HELD).bind(mailbox).bind(rank(DeliveryState::Leased)).bind(taker);
                Ok(held.fetch_all(self).await?)
            }
        }
    };
}

settle_tables!(SqliteConnection);
settle_tables!(PgConnection);

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
        tables: &mut C,
        _scribe: &Scribe,
        calls: &[Self],
        _care: Care,
    ) -> Result<Vec<Result<Vec<Result<()>>>>, Failure> {
        let mut court = Court::open(tables, calls).await?;
        let answers = calls.iter().map(|call| Ok(court.judge_all(call)));
        let answers = answers.collect();
        court.close(tables).await?;
        Ok(answers)
    }
}

/// Where leases are judged, each by itself and one after the other: in memory, between one reading and one writing.
struct Court {
    mailboxes: BTreeMap<i64, MailboxRow>,
    /// By (tenant, mailbox).
    numbers: BTreeMap<(String, Mailbox), i64>,
    /// What is open of what the leases name, and of the runs that may be broken.
    open: BTreeMap<(i64, i64), DeliveryRow>,
    /// What the leases name that is settled already.
    settled: BTreeMap<(i64, i64), DeliveryRow>,
    changed: BTreeMap<(i64, i64), Timestamp>,
}

impl Court {
    async fn open(tables: &mut impl Tables, calls: &[Settlement]) -> Result<Self, Failure> {
        let named = calls.iter().flat_map(|call| call.mailboxes.iter().map(|mailbox| (&call.tenant, mailbox)));
        let named: BTreeSet<(&TenantId, &Mailbox)> = named.collect();
        let (mut mailboxes, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for row in tables.lock_mailboxes(&named.into_iter().collect::<Vec<_>>()).await? {
            numbers.insert((row.tenant.clone(), row.named()?), row.mailbox);
            mailboxes.insert(row.mailbox, row);
        }
        let leases = calls.iter().flat_map(|call| &call.settlings).map(|settling| settling.lease);
        let leases: BTreeSet<(i64, i64)> = leases
            .filter(|lease| mailboxes.contains_key(&lease.mailbox))
            .map(|lease| (lease.mailbox, lease.number))
            .collect();
        let open = found(tables, leases.iter(), true).await?;
        // Those may be acknowledgements that come once more, for their answers were lost.
        let settled = found(tables, leases.iter().filter(|lease| !open.contains_key(lease)), false).await?;
        let mut court = Self { mailboxes, numbers, open, settled, changed: BTreeMap::new() };
        court.add_runs(tables, calls).await?;
        Ok(court)
    }

    /// With what is nacked or returned goes back what was taken after it.
    async fn add_runs(&mut self, tables: &mut impl Tables, calls: &[Settlement]) -> Result<(), Failure> {
        let goes_back = |settling: &&Settling| matches!(settling.verdict, Verdict::Nack { .. } | Verdict::Return);
        let rows = calls
            .iter()
            .flat_map(|call| &call.settlings)
            .filter(goes_back)
            .filter_map(|settling| self.open.get(&(settling.lease.mailbox, settling.lease.number)));
        let rows = rows.filter(|row| self.mailboxes.get(&row.mailbox).is_some_and(MailboxRow::in_order));
        let runs =
            rows.filter_map(|row| Some(Run { after: row.place(), sender: &row.sender, taker: row.taker.as_deref()? }));
        let runs: Vec<Run<'_>> = runs.collect();
        if runs.is_empty() {
            return Ok(());
        }
        for row in tables.runs_in_hands(&runs).await? {
            self.open.insert((row.mailbox, row.number), row);
        }
        Ok(())
    }

    fn judge_all(&mut self, call: &Settlement) -> Vec<Result<()>> {
        let own = call.mailboxes.iter().map(|mailbox| (call.tenant.to_string(), mailbox.clone()));
        let own: Vec<i64> = own.filter_map(|key| self.numbers.get(&key).copied()).collect();
        call.settlings.iter().map(|settling| self.judge(&own, settling, call.now)).collect()
    }

    fn judge(&mut self, own: &[i64], settling: &Settling, now: Timestamp) -> Result<()> {
        let Settling { message_id, lease, verdict } = settling;
        let key = (lease.mailbox, lease.number);
        let names = |row: &DeliveryRow| {
            own.contains(&row.mailbox) && row.hand_out == lease.hand_out && row.message_id[..] == message_id.bytes()
        };
        let Some(row) = self.open.get_mut(&key).filter(|row| names(row)) else {
            let repeated = self.settled.get(&key).is_some_and(|row| names(row) && ended_by(verdict, row));
            return if repeated { Ok(()) } else { Err(stale(*lease)) };
        };
        if !row.is(DeliveryState::Leased) {
            // To be no longer held is all that returning asks.
            let returned = *verdict == Verdict::Return && row.is(DeliveryState::Waiting);
            return if returned || ended_by(verdict, row) { Ok(()) } else { Err(stale(*lease)) };
        }
        let run = (row.place(), row.sender.clone(), row.taker.clone());
        match verdict {
            Verdict::Ack => row.acknowledge(now),
            Verdict::Refuse { reason } => row.die(reason.clone(), now),
            Verdict::Renew => row.lease_until = Some((now + LEASE).as_millis()),
            Verdict::Return => row.give_back(),
            Verdict::Nack { delay, reason } => {
                let delay = delay.map(|delay| delay.min(NACK_DELAY_MAX));
                row.fail(reason.as_deref().unwrap_or("its taker nacked it"), delay, now);
            }
        }
        self.changed.insert(key, now);
        if matches!(verdict, Verdict::Nack { .. } | Verdict::Return) {
            self.give_back_rest(run, now);
        }
        Ok(())
    }

    /// Nothing overtakes what went back. The leases of the rest are stale from here on.
    fn give_back_rest(&mut self, (after, sender, taker): (Place, String, Option<String>), now: Timestamp) {
        if !self.mailboxes.get(&after.mailbox).is_some_and(MailboxRow::in_order) {
            return;
        }
        let later = (after.mailbox, after.number + 1)..=(after.mailbox, i64::MAX);
        for (key, row) in self.open.range_mut(later) {
            let same_run = row.priority == after.priority && row.sender == sender && row.taker == taker;
            if same_run && row.is(DeliveryState::Leased) {
                row.give_back();
                self.changed.insert(*key, now);
            }
        }
    }

    async fn close(mut self, tables: &mut impl Tables) -> Result<(), Failure> {
        let mut changes = Changes::default();
        for (key, now) in self.changed {
            if let (Some(row), Some(mailbox)) = (self.open.remove(&key), self.mailboxes.get(&key.0)) {
                changes.put(mailbox, row, now);
            }
        }
        changes.write(tables).await
    }
}

async fn found(
    tables: &mut impl Tables,
    leases: impl Iterator<Item = &(i64, i64)>,
    open: bool,
) -> Result<BTreeMap<(i64, i64), DeliveryRow>, Failure> {
    let places: Vec<Place> = leases.flat_map(|(mailbox, number)| Place::possible(*mailbox, *number)).collect();
    if places.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = tables.deliveries_at(&places, open).await?;
    Ok(rows.into_iter().map(|row| ((row.mailbox, row.number), row)).collect())
}

/// Whether the delivery is just what the verdict makes of it: the answer to an attempt before was lost.
fn ended_by(verdict: &Verdict, row: &DeliveryRow) -> bool {
    match verdict {
        Verdict::Ack => row.is(DeliveryState::Acknowledged),
        Verdict::Refuse { .. } => row.is(DeliveryState::Dead),
        Verdict::Nack { .. } | Verdict::Return | Verdict::Renew => false,
    }
}

fn stale(lease: Lease) -> Error {
    Error::conflict(format!(
        "stale lease {lease}: the message was settled, given back or handed out again since; take it anew"
    ))
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
    if settlings.is_empty() {
        return Ok(Vec::new());
    }
    let (tenant, mailboxes) = (tenant.clone(), mailboxes.to_vec());
    sql.settlements.push(Settlement { tenant, mailboxes, settlings, now }).await
}

async fn held(tables: &mut impl Tables, mailboxes: &[MailboxRow], taker: &str) -> Result<Vec<DeliveryRow>, Failure> {
    let mut held = Vec::new();
    for mailbox in mailboxes.iter().filter(|mailbox| mailbox.waiting > 0) {
        held.extend(tables.held(mailbox.mailbox, taker).await?);
    }
    Ok(held)
}

/// Looks first: a hand that goes away mostly holds nothing.
pub(crate) async fn give_back<DB: Database>(
    sql: &Sql<DB>,
    tenant: &TenantId,
    mailboxes: &[Mailbox],
    taker: &str,
) -> Result<u64>
where
    DB::Connection: Tables,
{
    let mut tables = sql.reader().await?;
    let seen = in_time(async {
        let rows = tables.mailboxes(tenant, mailboxes).await?;
        held(&mut *tables, &rows, taker).await
    })
    .await;
    if tables.done(seen)?.is_empty() {
        return Ok(0);
    }
    let (tenant, named, taker) = (tenant.clone(), mailboxes.to_vec(), taker.to_owned());
    let give_back = sql.writer.write_apart(move |tables| {
        Box::pin(async move {
            let named: BTreeSet<_> = named.iter().map(|mailbox| (&tenant, mailbox)).collect();
            let rows = tables.lock_mailboxes(&named.into_iter().collect::<Vec<_>>()).await?;
            let held = held(tables, &rows, &taker).await?;
            let (mut changes, given_back) = (Changes::default(), signed(held.len() as u64));
            for mut row in held {
                let Some(mailbox) = rows.iter().find(|mailbox| mailbox.mailbox == row.mailbox) else { continue };
                row.give_back();
                changes.put(mailbox, row, Timestamp::default());
            }
            changes.write(tables).await?;
            Ok(given_back.unsigned_abs())
        })
    });
    give_back.await
}
