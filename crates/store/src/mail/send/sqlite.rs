//! The tables of sending on SQLite, whose writer has the file to itself: what others must lock, it only reads.

use std::sync::Arc;

use guildhall_domain::mail::DeliveryState;
use sqlx::SqliteConnection;

use super::{
    SendTables,
    decide::RECEIPT_KEPT_MS,
    plan::{Accepting, Asked, Begins, Breaker, Claimed, Kept, New, NewDelivery, ReceiptRow, Standing, StillBorn},
    raced,
};
use crate::{
    bulk::{Bulk, Values, execute_all},
    failure::Failure,
    row::signed,
};

/// One row, for each goes from SQLite's thread to ours by itself.
static CLAIMED: Bulk = Bulk::new(
    &["place", "tenant", "sort", "name"],
    "SELECT json_group_array(json_array(place, mailbox, closed, waiting)) FROM given CROSS JOIN mailboxes
       ON mailboxes.tenant = given.tenant AND mailboxes.sort = given.sort AND mailboxes.name = given.name",
);
static MAKE_MAILBOXES: Bulk =
    Bulk::new(&["tenant", "sort", "name"], "INSERT OR FAIL INTO mailboxes (tenant, sort, name) SELECT * FROM given");
/// `$1`: the keys, one after the other; `$2`: how many.
const RECEIPTS: &str =
    "WITH RECURSIVE asked (place) AS (VALUES (0) UNION ALL SELECT place + 1 FROM asked WHERE place < $2)
    SELECT receipts.* FROM asked CROSS JOIN receipts ON receipts.key = substr($1, 16 * place + 1, 16)";
static BREAKERS: Bulk = Bulk::new(
    &["tenant", "sort", "name"],
    "SELECT breakers.* FROM given CROSS JOIN breakers
       ON breakers.tenant = given.tenant AND breakers.sort = given.sort AND breakers.name = given.name",
);
static WAITS: Bulk = Bulk::new(
    &["tenant", "agent", "now"],
    ", waits (tenant, agent, whom, now) AS (
         SELECT given.tenant, agent, name, now FROM given CROSS JOIN requests ON requests.tenant = given.tenant
             AND sender = agent AND state = 0 AND waits AND sort = 'agent' AND deadline > now
         UNION
         SELECT waits.tenant, whom, name, now FROM waits CROSS JOIN requests ON requests.tenant = waits.tenant
             AND sender = whom AND state = 0 AND requests.waits AND sort = 'agent' AND deadline > now
     ) SELECT tenant, agent, whom FROM waits",
);
const TAKE_NUMBERS: &str = "UPDATE message_numbers SET last = last + ? RETURNING last";

static ADD_MESSAGES: Bulk = Bulk::new(
    &[
        "number",
        "message_id",
        "tenant",
        "sender",
        "recipient",
        "kind",
        "priority",
        "body",
        "sent_at",
        "expires_at",
        "reply_to",
        "correlation_id",
        "conversation_id",
        "requires_response",
        "recipients",
        "mailbox",
    ],
    "INSERT OR FAIL INTO messages (number, message_id, tenant, sender, recipient, kind, priority, body, sent_at,
         expires_at, reply_to, correlation_id, conversation_id, requires_response, recipients, mailbox)
     SELECT * FROM given",
);
static ADD_DELIVERIES: Bulk = Bulk::new(
    &["mailbox", "number", "message_id", "sender", "priority", "expires_at"],
    "INSERT OR FAIL INTO deliveries (mailbox, number, message_id, sender, priority, expires_at, open, state)
     SELECT *, TRUE, 0 FROM given",
);
static ADD_STILL_BORN: Bulk = Bulk::new(
    &["mailbox", "number", "message_id", "sender", "priority", "expires_at", "state", "settled_at", "reason"],
    "INSERT OR FAIL INTO deliveries
         (mailbox, number, message_id, sender, priority, expires_at, state, settled_at, reason, open)
     SELECT *, FALSE FROM given",
);
static ADD_DEAD_LETTERS: Bulk = Bulk::new(
    &["tenant", "mailbox", "number", "message_id", "died_at"],
    "INSERT OR FAIL INTO dead_letters (tenant, mailbox, number, message_id, died_at) SELECT * FROM given",
);
static PUT_WAITING: Bulk = Bulk::new(
    &["mailbox", "waiting"],
    "UPDATE mailboxes SET waiting = given.waiting FROM given WHERE mailboxes.mailbox = given.mailbox",
);
/// Changes nothing of a receipt that is still good.
static PUT_RECEIPTS: Bulk = Bulk::with_common(
    &["kept_ms"],
    &["key", "fingerprint", "message_id", "recipients", "at"],
    "INSERT INTO receipts (key, fingerprint, message_id, recipients, at) SELECT * FROM given WHERE TRUE
     ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, message_id = excluded.message_id,
         recipients = excluded.recipients, at = excluded.at
         WHERE receipts.at <= excluded.at - (SELECT kept_ms FROM common)",
);

fn name(values: &mut Values, asked: &Asked<'_>) -> Result<(), Failure> {
    values.add(asked.tenant)?;
    values.add(asked.mailbox.sort)?;
    values.add(asked.mailbox.name)
}

async fn claimed(
    connection: &mut SqliteConnection,
    mailboxes: &[(i64, &Asked<'_>)],
    standings: &mut [Option<Standing>],
) -> Result<(), Failure> {
    let asked = |values: &mut Values, (place, asked): &(i64, &Asked<'_>)| {
        values.add(*place)?;
        name(values, asked)
    };
    for query in CLAIMED.queries(mailboxes, asked) {
        let (claimed,): (String,) = query?.fetch_one(&mut *connection).await?;
        let claimed: Vec<(usize, i64, i64, i64)> = serde_json::from_str(&claimed)?;
        for (place, mailbox, closed, waiting) in claimed {
            standings[place] = Some(Standing { mailbox, closed: closed != 0, waiting });
        }
    }
    Ok(())
}

async fn take_numbers(connection: &mut SqliteConnection, how_many: i64) -> Result<Vec<i64>, Failure> {
    let last: i64 = sqlx::query_scalar(TAKE_NUMBERS).bind(how_many).fetch_one(connection).await?;
    Ok((last - how_many + 1..=last).collect())
}

impl SendTables for SqliteConnection {
    /// Nobody else writes: they are locked already.
    async fn claim_unseen(&mut self, asked: &[Asked<'_>], more: &[i64]) -> Result<Claimed, Failure> {
        let asked: Vec<(i64, &Asked<'_>)> = (0..).zip(asked).collect();
        let mut standings = vec![None; asked.len()];
        claimed(self, &asked, &mut standings).await?;
        let standings: Vec<Standing> = standings.into_iter().flatten().collect();
        let messages = if standings.len() == asked.len() { more.iter().sum() } else { 0 };
        Ok(Claimed { standings, numbers: take_numbers(self, messages).await?, counted: false })
    }

    async fn lock_waits(&mut self, _tenants: &[&str]) -> Result<(), Failure> {
        Ok(())
    }

    async fn claim_mailboxes(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Standing>, Failure> {
        let asked: Vec<(i64, &Asked<'_>)> = (0..).zip(asked).collect();
        let mut standings = vec![None; asked.len()];
        claimed(self, &asked, &mut standings).await?;
        let missing = asked.iter().zip(&standings).filter(|(_, standing)| standing.is_none());
        let missing: Vec<_> = missing.map(|(asked, _)| *asked).collect();
        execute_all(self, MAKE_MAILBOXES.statements(&missing, |values, (_, asked)| name(values, asked))).await?;
        claimed(self, &missing, &mut standings).await?;
        Ok(standings.into_iter().map(|standing| standing.expect("a mailbox is there once it was made")).collect())
    }

    async fn receipts(&mut self, keys: &[[u8; 16]]) -> Result<Vec<Kept>, Failure> {
        let find = sqlx::query_as(RECEIPTS).bind(keys.concat()).bind(signed(keys.len() as u64) - 1);
        let rows: Vec<ReceiptRow> = find.fetch_all(self).await?;
        Ok(rows.into_iter().map(ReceiptRow::kept).collect::<Result<_, _>>()?)
    }

    async fn lock_breakers(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Breaker>, Failure> {
        let mut breakers = Vec::new();
        for query in BREAKERS.queries(asked, name) {
            breakers.extend(query?.fetch_all(&mut *self).await?);
        }
        Ok(breakers)
    }

    async fn waits(&mut self, begins: &[Begins<'_>]) -> Result<Vec<(String, String, String)>, Failure> {
        let mut waits = Vec::new();
        let begins_to_wait = |values: &mut Values, wait: &Begins<'_>| {
            values.add(wait.tenant)?;
            values.add(wait.whom)?;
            values.add(wait.at)
        };
        for query in WAITS.queries(begins, begins_to_wait) {
            waits.extend(query?.fetch_all(&mut *self).await?);
        }
        Ok(waits)
    }

    async fn numbers(&mut self, how_many: usize) -> Result<Vec<i64>, Failure> {
        take_numbers(self, signed(how_many as u64)).await
    }

    async fn add(&mut self, new: New<'_>) -> Result<(), Failure> {
        let messages: Vec<(&Accepting<'_>, i64)> = new.messages.iter().zip(new.numbers.iter().copied()).collect();
        let messages = ADD_MESSAGES.statements(&messages, |values, (message, number)| {
            let Accepting { tenant, parcel, mailbox } = message;
            values.add(*number)?;
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
            values.add(*mailbox)
        });
        let deliveries = ADD_DELIVERIES.statements(&new.deliveries, add_delivery);
        let counted = PUT_WAITING.statements(new.counted, |values, counted| {
            values.add(counted.mailbox)?;
            values.add(counted.waiting)
        });
        let kept_ms = |values: &mut Values| values.add(RECEIPT_KEPT_MS);
        let receipts = PUT_RECEIPTS.statements_with(kept_ms, &new.receipts, |values, (receipt, parcel)| {
            values.add(&receipt.key[..])?;
            values.add(&receipt.fingerprint[..])?;
            values.add(&parcel.message_id[..])?;
            values.add(signed(parcel.recipients() as u64))?;
            values.add(parcel.sent_at)
        });
        execute_all(self, messages.chain(deliveries).chain(counted)).await?;
        let put = execute_all(self, receipts).await?;
        if put == new.receipts.len() as u64 { Ok(()) } else { Err(raced()) }
    }

    async fn add_still_born(&mut self, dead: &[StillBorn<'_>]) -> Result<(), Failure> {
        let deliveries = ADD_STILL_BORN.statements(dead, |values, dead| {
            add_delivery(values, &dead.delivery)?;
            values.add(i16::from(DeliveryState::Dead.rank()))?;
            values.add(dead.died_at)?;
            values.add(dead.reason)
        });
        let letters = ADD_DEAD_LETTERS.statements(dead, |values, dead| {
            values.add(Arc::clone(dead.tenant))?;
            values.add(dead.delivery.mailbox)?;
            values.add(dead.delivery.number)?;
            values.add(&dead.delivery.message_id[..])?;
            values.add(dead.died_at)
        });
        execute_all(self, deliveries.chain(letters)).await?;
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
