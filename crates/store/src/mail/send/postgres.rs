//! The tables of sending on Postgres: arrays, and every lock in the order in which everyone takes it.

use guildhall_domain::mail::DeliveryState;
use sqlx::PgConnection;

use super::{
    Parcel, SendTables,
    decide::RECEIPT_KEPT_MS,
    plan::{Asked, Begins, Breaker, Claimed, Kept, New, ReceiptRow, Standing, StillBorn},
    raced,
};
use crate::{failure::Failure, row::signed};

const LOCK_WAITS: &str = "SELECT pg_advisory_xact_lock(hashtextextended('waits:' || tenant, 0))
    FROM UNNEST($1::text[]) AS asked (tenant)";
/// Before anything is locked, and in order: who makes one waits only for others who make one.
const MAKE_MAILBOXES: &str = "INSERT INTO mailboxes (tenant, sort, name)
    SELECT tenant, sort, name
    FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (tenant, sort, name, place)
    WHERE NOT EXISTS (SELECT FROM mailboxes WHERE mailboxes.tenant = asked.tenant AND mailboxes.sort = asked.sort
        AND mailboxes.name = asked.name)
    ORDER BY place ON CONFLICT DO NOTHING";
const LOCK_MAILBOXES: &str = "SELECT mailbox, closed, waiting
    FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (tenant, sort, name, place)
    JOIN mailboxes USING (tenant, sort, name) ORDER BY place FOR UPDATE OF mailboxes";
/// The numbers are taken once all mailboxes are locked: as many as their count says. Rows are locked in the order of
/// their names unless the planner knows better; who meets another the wrong way round is undone, and done with care.
const CLAIM_UNSEEN: &str = "WITH claimed AS (
        UPDATE mailboxes SET waiting = mailboxes.waiting + asked.more
        FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
            AS asked (tenant, sort, name, more, place)
        WHERE mailboxes.tenant = asked.tenant AND mailboxes.sort = asked.sort AND mailboxes.name = asked.name
        RETURNING place, mailbox, closed, mailboxes.waiting - more AS waiting, more
    ) SELECT ARRAY_AGG(mailbox ORDER BY place), ARRAY_AGG(closed ORDER BY place), ARRAY_AGG(waiting ORDER BY place),
        (SELECT ARRAY_AGG(nextval('message_numbers')) FROM generate_series(1, (SELECT SUM(more) FROM claimed)))
    FROM claimed";
const RECEIPTS: &str = "SELECT receipts.* FROM UNNEST($1::bytea[]) AS asked (key)
    JOIN receipts ON receipts.key = asked.key";
const LOCK_BREAKERS: &str = "SELECT tenant, sort, name, open_until
    FROM UNNEST($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (tenant, sort, name, place)
    JOIN breakers USING (tenant, sort, name) ORDER BY place FOR UPDATE OF breakers";
const WAITS: &str = "WITH RECURSIVE waits (tenant, agent, whom, now) AS (
        SELECT requests.tenant, sender, name, asked.now
        FROM UNNEST($1::text[], $2::text[], $3::bigint[]) AS asked (tenant, agent, now)
        JOIN requests ON requests.tenant = asked.tenant AND sender = asked.agent
        WHERE state = 0 AND waits AND sort = 'agent' AND deadline > asked.now
        UNION
        SELECT requests.tenant, sender, name, now FROM waits
        JOIN requests ON requests.tenant = waits.tenant AND sender = waits.whom
        WHERE state = 0 AND requests.waits AND sort = 'agent' AND deadline > now
    ) SELECT tenant, agent, whom FROM waits";
const NUMBERS: &str = "SELECT nextval('message_numbers') FROM generate_series(1, $1)";

/// All in one journey. Changes nothing of a receipt that is still good: then another transaction was first, and fewer
/// are counted than were to be put.
const ADD: &str = "WITH new_messages AS (
        INSERT INTO messages (number, message_id, tenant, sender, recipient, kind, priority, body, sent_at, expires_at,
            reply_to, correlation_id, conversation_id, requires_response, recipients, mailbox)
        SELECT * FROM UNNEST($1::bigint[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::smallint[], $8::text[], $9::bigint[], $10::bigint[], $11::bytea[], $12::text[], $13::text[],
            $14::boolean[], $15::bigint[], $16::bigint[])
    ), new_deliveries AS (
        INSERT INTO deliveries (mailbox, number, message_id, sender, priority, expires_at, open, state)
        SELECT *, TRUE, 0
        FROM UNNEST($17::bigint[], $18::bigint[], $19::bytea[], $20::text[], $21::smallint[], $22::bigint[])
    ), counted AS (
        UPDATE mailboxes SET waiting = counted.waiting
        FROM UNNEST($23::text[], $24::text[], $25::text[], $26::bigint[]) AS counted (tenant, sort, name, waiting)
        WHERE mailboxes.tenant = counted.tenant AND mailboxes.sort = counted.sort AND mailboxes.name = counted.name
    ), put AS (
        INSERT INTO receipts (key, fingerprint, message_id, recipients, at)
        SELECT * FROM UNNEST($27::bytea[], $28::bytea[], $29::bytea[], $30::bigint[], $31::bigint[])
        ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, message_id = excluded.message_id,
            recipients = excluded.recipients, at = excluded.at WHERE receipts.at <= excluded.at - $32
        RETURNING 1
    ) SELECT COUNT(*) FROM put";
const ADD_STILL_BORN: &str = "WITH dead AS (
        SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::smallint[], $6::bigint[],
            $7::text[], $8::bigint[], $9::text[])
        AS dead (mailbox, number, message_id, sender, priority, expires_at, tenant, died_at, reason)
    ), letters AS (
        INSERT INTO dead_letters (tenant, mailbox, number, message_id, died_at)
        SELECT tenant, mailbox, number, message_id, died_at FROM dead
    ) INSERT INTO deliveries (mailbox, number, message_id, sender, priority, expires_at, open, state, settled_at, reason)
    SELECT mailbox, number, message_id, sender, priority, expires_at, FALSE, $10, died_at, reason FROM dead";
/// One column of many rows.
fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn names<'a>(asked: &[Asked<'a>]) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    (
        asked.iter().map(|asked| asked.tenant).collect(),
        asked.iter().map(|asked| asked.mailbox.sort).collect(),
        asked.iter().map(|asked| asked.mailbox.name).collect(),
    )
}

impl SendTables for PgConnection {
    async fn claim_unseen(&mut self, asked: &[Asked<'_>], more: &[i64]) -> Result<Claimed, Failure> {
        type Row = (Option<Vec<i64>>, Option<Vec<bool>>, Option<Vec<i64>>, Option<Vec<i64>>);
        let (tenants, sorts, names) = names(asked);
        let claim = sqlx::query_as(CLAIM_UNSEEN).bind(tenants).bind(sorts).bind(names).bind(more);
        let (mailboxes, closed, waiting, numbers): Row = claim.fetch_one(self).await?;
        let standings = mailboxes.into_iter().flatten().zip(closed.into_iter().flatten());
        let standings = standings.zip(waiting.into_iter().flatten());
        let standings = standings.map(|((mailbox, closed), waiting)| Standing { mailbox, closed, waiting });
        Ok(Claimed { standings: standings.collect(), numbers: numbers.unwrap_or_default(), counted: true })
    }

    async fn lock_waits(&mut self, tenants: &[&str]) -> Result<(), Failure> {
        sqlx::query(LOCK_WAITS).bind(tenants).execute(self).await?;
        Ok(())
    }

    async fn claim_mailboxes(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Standing>, Failure> {
        let (tenants, sorts, names) = names(asked);
        sqlx::query(MAKE_MAILBOXES).bind(&tenants).bind(&sorts).bind(&names).execute(&mut *self).await?;
        Ok(sqlx::query_as(LOCK_MAILBOXES).bind(tenants).bind(sorts).bind(names).fetch_all(self).await?)
    }

    async fn receipts(&mut self, keys: &[[u8; 16]]) -> Result<Vec<Kept>, Failure> {
        let rows: Vec<ReceiptRow> = sqlx::query_as(RECEIPTS).bind(column(keys, |key| &key[..])).fetch_all(self).await?;
        Ok(rows.into_iter().map(ReceiptRow::kept).collect::<Result<_, _>>()?)
    }

    async fn lock_breakers(&mut self, asked: &[Asked<'_>]) -> Result<Vec<Breaker>, Failure> {
        let (tenants, sorts, names) = names(asked);
        Ok(sqlx::query_as(LOCK_BREAKERS).bind(tenants).bind(sorts).bind(names).fetch_all(self).await?)
    }

    async fn waits(&mut self, begins: &[Begins<'_>]) -> Result<Vec<(String, String, String)>, Failure> {
        let waits = sqlx::query_as(WAITS)
            .bind(column(begins, |wait| wait.tenant))
            .bind(column(begins, |wait| wait.whom))
            .bind(column(begins, |wait| wait.at));
        Ok(waits.fetch_all(self).await?)
    }

    async fn numbers(&mut self, how_many: usize) -> Result<Vec<i64>, Failure> {
        Ok(sqlx::query_scalar(NUMBERS).bind(signed(how_many as u64)).fetch_all(self).await?)
    }

    async fn add(&mut self, new: New<'_>) -> Result<(), Failure> {
        let New { messages, numbers, deliveries, counted, receipts } = &new;
        let parcels: Vec<&Parcel> = messages.iter().map(|message| message.parcel).collect();
        let (tenants, sorts, names) = names(&column(counted, |counted| counted.asked));
        let add = sqlx::query_scalar(ADD)
            .bind(numbers)
            .bind(column(&parcels, |parcel| &parcel.message_id[..]))
            .bind(column(messages, |message| &**message.tenant))
            .bind(column(&parcels, |parcel| &*parcel.sender))
            .bind(column(&parcels, |parcel| &*parcel.recipient))
            .bind(column(&parcels, |parcel| &*parcel.kind))
            .bind(column(&parcels, |parcel| parcel.priority))
            .bind(column(&parcels, |parcel| &*parcel.body))
            .bind(column(&parcels, |parcel| parcel.sent_at))
            .bind(column(&parcels, |parcel| parcel.expires_at))
            .bind(column(&parcels, |parcel| parcel.reply_to.as_ref().map(|id| &id[..])))
            .bind(column(&parcels, |parcel| parcel.correlation_id.as_deref()))
            .bind(column(&parcels, |parcel| parcel.conversation_id.as_deref()))
            .bind(column(&parcels, |parcel| parcel.requires_response))
            .bind(column(&parcels, |parcel| signed(parcel.recipients() as u64)))
            .bind(column(messages, |message| message.mailbox))
            .bind(column(deliveries, |delivery| delivery.mailbox))
            .bind(column(deliveries, |delivery| delivery.number))
            .bind(column(deliveries, |delivery| &delivery.message_id[..]))
            .bind(column(deliveries, |delivery| &**delivery.sender))
            .bind(column(deliveries, |delivery| delivery.priority))
            .bind(column(deliveries, |delivery| delivery.expires_at))
            .bind(tenants)
            .bind(sorts)
            .bind(names)
            .bind(column(counted, |counted| counted.waiting))
            .bind(column(receipts, |(receipt, _)| &receipt.key[..]))
            .bind(column(receipts, |(receipt, _)| &receipt.fingerprint[..]))
            .bind(column(receipts, |(_, parcel)| &parcel.message_id[..]))
            .bind(column(receipts, |(_, parcel)| signed(parcel.recipients() as u64)))
            .bind(column(receipts, |(_, parcel)| parcel.sent_at))
            .bind(RECEIPT_KEPT_MS);
        let put: i64 = add.fetch_one(self).await?;
        if put == signed(receipts.len() as u64) { Ok(()) } else { Err(raced()) }
    }

    async fn add_still_born(&mut self, dead: &[StillBorn<'_>]) -> Result<(), Failure> {
        let add = sqlx::query(ADD_STILL_BORN)
            .bind(column(dead, |dead| dead.delivery.mailbox))
            .bind(column(dead, |dead| dead.delivery.number))
            .bind(column(dead, |dead| &dead.delivery.message_id[..]))
            .bind(column(dead, |dead| &**dead.delivery.sender))
            .bind(column(dead, |dead| dead.delivery.priority))
            .bind(column(dead, |dead| dead.delivery.expires_at))
            .bind(column(dead, |dead| &**dead.tenant))
            .bind(column(dead, |dead| dead.died_at))
            .bind(column(dead, |dead| dead.reason))
            .bind(i16::from(DeliveryState::Dead.rank()));
        add.execute(self).await?;
        Ok(())
    }
}
