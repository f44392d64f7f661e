//! The tables of sending on SQLite, whose writer has the file to itself: what others must lock, it only reads.

use std::sync::Arc;

use guildhall_domain::mail::DeliveryState;
use sqlx::SqliteConnection;

use super::{
    Parcel, SendTables,
    plan::{Accepting, Asked, Begins, Breaker, Counted, Kept, NewDelivery, ReceiptRow, Standing, StillBorn},
};
use crate::{
    bulk::{Bulk, Values, parts},
    failure::Failure,
    row::signed,
};

static CLAIMED: Bulk = Bulk::new(
    "WITH asked (place, tenant, sort, name) AS (VALUES",
    "(?,?,?,?)",
    ") SELECT place, mailbox, closed, waiting FROM asked CROSS JOIN mailboxes
       ON mailboxes.tenant = asked.tenant AND mailboxes.sort = asked.sort AND mailboxes.name = asked.name",
);
static MAKE_MAILBOXES: Bulk = Bulk::new("INSERT INTO mailboxes (tenant, sort, name) VALUES", "(?,?,?)", "");
static RECEIPTS: Bulk = Bulk::new(
    "WITH asked (key) AS (VALUES",
    "(?)",
    ") SELECT receipts.* FROM asked CROSS JOIN receipts ON receipts.key = asked.key",
);
static BREAKERS: Bulk = Bulk::new(
    "WITH asked (tenant, sort, name) AS (VALUES",
    "(?,?,?)",
    ") SELECT breakers.* FROM asked CROSS JOIN breakers
       ON breakers.tenant = asked.tenant AND breakers.sort = asked.sort AND breakers.name = asked.name",
);
static WAITS: Bulk = Bulk::new(
    "WITH RECURSIVE asked (tenant, agent, now) AS (VALUES",
    "(?,?,?)",
    "), waits (tenant, agent, whom, now) AS (
         SELECT asked.tenant, agent, name, now FROM asked CROSS JOIN requests ON requests.tenant = asked.tenant
             AND sender = agent AND state = 0 AND waits AND sort = 'agent' AND deadline > now
         UNION
         SELECT waits.tenant, whom, name, now FROM waits CROSS JOIN requests ON requests.tenant = waits.tenant
             AND sender = whom AND state = 0 AND requests.waits AND sort = 'agent' AND deadline > now
     ) SELECT tenant, agent, whom FROM waits",
);
const TAKE_NUMBERS: &str = "UPDATE message_numbers SET last = last + ? RETURNING last";

static ADD_MESSAGES: Bulk = Bulk::new(
    "INSERT INTO messages (number, message_id, tenant, sender, recipient, kind, priority, body, sent_at, expires_at,
         reply_to, correlation_id, conversation_id, requires_response, recipients, mailbox) VALUES",
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "",
);
static ADD_DELIVERIES: Bulk = Bulk::new(
    "INSERT INTO deliveries (mailbox, number, message_id, sender, priority, expires_at, open, state) VALUES",
    "(?,?,?,?,?,?,TRUE,0)",
    "",
);
static ADD_STILL_BORN: Bulk = Bulk::new(
    "INSERT INTO deliveries (mailbox, number, message_id, sender, priority, expires_at, open, state, settled_at, reason)
     VALUES",
    "(?,?,?,?,?,?,FALSE,?,?,?)",
    "",
);
static ADD_DEAD_LETTERS: Bulk =
    Bulk::new("INSERT INTO dead_letters (tenant, mailbox, number, message_id, died_at) VALUES", "(?,?,?,?,?)", "");
static PUT_WAITING: Bulk = Bulk::new(
    "WITH counted (mailbox, waiting) AS (VALUES",
    "(?,?)",
    ") UPDATE mailboxes SET waiting = counted.waiting FROM counted WHERE mailboxes.mailbox = counted.mailbox",
);
static PUT_RECEIPTS: Bulk = Bulk::new(
    "INSERT INTO receipts (key, fingerprint, message_id, recipients, at) VALUES",
    "(?,?,?,?,?)",
    "ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, message_id = excluded.message_id,
         recipients = excluded.recipients, at = excluded.at",
);
async fn claimed(
    connection: &mut SqliteConnection,
    asked: &[(i64, &Asked<'_>)],
    standings: &mut [Option<Standing>],
) -> Result<(), Failure> {
    for part in parts(asked) {
        let mut values = Values::of(part.len(), 4);
        for (place, asked) in part {
            values.add(*place)?;
            values.add(asked.tenant)?;
            values.add(asked.mailbox.sort)?;
            values.add(asked.mailbox.name)?;
        }
        let claimed = CLAIMED.query_as::<(i64, i64, bool, i64)>(part.len(), values);
        for (place, mailbox, closed, waiting) in claimed.fetch_all(&mut *connection).await? {
            standings[place as usize] = Some(Standing { mailbox, closed, waiting });
        }
    }
    Ok(())
}

impl SendTables for SqliteConnection {
    async fn lock_waits(&mut self, _tenants: &[&str]) -> Result<(), Failure> {
        Ok(())
    }

    async fn claim_mailboxes(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Standing>, Failure> {
        let asked: Vec<(i64, &Asked<'_>)> = (0..).zip(asked).collect();
        let mut standings = vec![None; asked.len()];
        claimed(self, &asked, &mut standings).await?;
        let missing: Vec<_> =
            asked.iter().zip(&standings).filter(|(_, standing)| standing.is_none()).map(|(asked, _)| *asked).collect();
        for part in parts(&missing) {
            let mut values = Values::of(part.len(), 3);
            for (_, asked) in part {
                values.add(asked.tenant)?;
                values.add(asked.mailbox.sort)?;
                values.add(asked.mailbox.name)?;
            }
            MAKE_MAILBOXES.query(part.len(), values).execute(&mut *self).await?;
        }
        claimed(self, &missing, &mut standings).await?;
        Ok(standings.into_iter().map(|standing| standing.expect("a mailbox is there once it was made")).collect())
    }

    async fn receipts(&mut self, keys: &[[u8; 16]]) -> Result<Vec<Kept>, Failure> {
        let mut kept = Vec::new();
        for part in parts(keys) {
            let mut values = Values::of(part.len(), 1);
            for key in part {
                values.add(&key[..])?;
            }
            let rows = RECEIPTS.query_as::<ReceiptRow>(part.len(), values).fetch_all(&mut *self).await?;
            for row in rows {
                kept.push(row.kept()?);
            }
        }
        Ok(kept)
    }

    async fn lock_breakers(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Breaker>, Failure> {
        let mut breakers = Vec::new();
        for part in parts(asked) {
            let mut values = Values::of(part.len(), 3);
            for asked in part {
                values.add(asked.tenant)?;
                values.add(asked.mailbox.sort)?;
                values.add(asked.mailbox.name)?;
            }
            breakers.extend(BREAKERS.query_as(part.len(), values).fetch_all(&mut *self).await?);
        }
        Ok(breakers)
    }

    async fn waits(&mut self, begins: &[Begins<'_>]) -> Result<Vec<(String, String, String)>, Failure> {
        let mut waits = Vec::new();
        for part in parts(begins) {
            let mut values = Values::of(part.len(), 3);
            for wait in part {
                values.add(wait.tenant)?;
                values.add(wait.whom)?;
                values.add(wait.at)?;
            }
            waits.extend(WAITS.query_as(part.len(), values).fetch_all(&mut *self).await?);
        }
        Ok(waits)
    }

    async fn numbers(&mut self, how_many: usize) -> Result<Vec<i64>, Failure> {
        let how_many = signed(how_many as u64);
        let last: i64 = sqlx::query_scalar(TAKE_NUMBERS).bind(how_many).fetch_one(self).await?;
        Ok((last - how_many + 1..=last).collect())
    }

    async fn add_messages(&mut self, messages: &[Accepting<'_>], numbers: &[i64]) -> Result<(), Failure> {
        let messages: Vec<_> = messages.iter().zip(numbers).collect();
        for part in parts(&messages) {
            let mut values = Values::of(part.len(), 16);
            for (Accepting { tenant, parcel, mailbox }, number) in part {
                values.add(**number)?;
                values.add(&parcel.message_id[..])?;
                values.add(Arc::clone(tenant))?;
                values.add(Arc::clone(&parcel.sender))?;
                values.add(Arc::clone(&parcel.recipient))?;
                values.add(Arc::clone(&parcel.kind))?;
                values.add(parcel.priority)?;
                values.add(Arc::clone(&parcel.body))?;
                values.add(parcel.sent_at)?;
                values.add(parcel.expires_at)?;
                values.add(parcel.reply_to.as_ref().map(|id| &id[..]))?;
                values.add(parcel.correlation_id.clone())?;
                values.add(parcel.conversation_id.clone())?;
                values.add(parcel.requires_response)?;
                values.add(signed(parcel.recipients() as u64))?;
                values.add(*mailbox)?;
            }
            ADD_MESSAGES.query(part.len(), values).execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn add_deliveries(&mut self, deliveries: &[NewDelivery<'_>]) -> Result<(), Failure> {
        for part in parts(deliveries) {
            let mut values = Values::of(part.len(), 6);
            for delivery in part {
                add_delivery(&mut values, delivery)?;
            }
            ADD_DELIVERIES.query(part.len(), values).execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn put_waiting(&mut self, counted: &[Counted<'_>]) -> Result<(), Failure> {
        for part in parts(counted) {
            let mut values = Values::of(part.len(), 2);
            for counted in part {
                values.add(counted.mailbox)?;
                values.add(counted.waiting)?;
            }
            PUT_WAITING.query(part.len(), values).execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn add_still_born(&mut self, dead: &[StillBorn<'_>]) -> Result<(), Failure> {
        for part in parts(dead) {
            let (mut deliveries, mut letters) = (Values::of(part.len(), 9), Values::of(part.len(), 5));
            for StillBorn { delivery, tenant, reason, died_at } in part {
                add_delivery(&mut deliveries, delivery)?;
                deliveries.add(i16::from(DeliveryState::Dead.rank()))?;
                deliveries.add(*died_at)?;
                deliveries.add(*reason)?;
                letters.add(Arc::clone(tenant))?;
                letters.add(delivery.mailbox)?;
                letters.add(delivery.number)?;
                letters.add(&delivery.message_id[..])?;
                letters.add(*died_at)?;
            }
            ADD_STILL_BORN.query(part.len(), deliveries).execute(&mut *self).await?;
            ADD_DEAD_LETTERS.query(part.len(), letters).execute(&mut *self).await?;
        }
        Ok(())
    }

    async fn put_receipts(&mut self, parcels: Vec<&Parcel>) -> Result<(), Failure> {
        for part in parts(&parcels) {
            let mut values = Values::of(part.len(), 5);
            for parcel in part {
                let key = parcel.receipt.as_ref();
                values.add(key.map(|receipt| &receipt.key[..]))?;
                values.add(key.map(|receipt| &receipt.fingerprint[..]))?;
                values.add(&parcel.message_id[..])?;
                values.add(signed(parcel.recipients() as u64))?;
                values.add(parcel.sent_at)?;
            }
            PUT_RECEIPTS.query(part.len(), values).execute(&mut *self).await?;
        }
        Ok(())
    }
}

fn add_delivery(values: &mut Values, delivery: &NewDelivery<'_>) -> Result<(), Failure> {
    values.add(delivery.mailbox)?;
    values.add(delivery.number)?;
    values.add(&delivery.message_id[..])?;
    values.add(Arc::clone(delivery.sender))?;
    values.add(delivery.priority)?;
    values.add(delivery.expires_at)
}
