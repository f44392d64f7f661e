//! The tables of mailboxes and deliveries, by sets: few statements, however many rows. Everything that becomes of a
//! delivery becomes of it while its mailbox is locked.
//!
//! What is looked for comes as arrays to Postgres and as one JSON text to SQLite, which is told by CROSS JOIN to begin
//! there.

use std::future::Future;

use guildhall_domain::{
    TenantId,
    mail::{DeliveryState, Mailbox},
};
use sqlx::{PgConnection, SqliteConnection};

use super::{
    changes::Moved,
    rows::{DeliveryRow, MailboxRow, Place, rank},
};
use crate::{failure::Failure, row::json};

/// A dead letter on its way into the table.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) tenant: String,
    pub(crate) mailbox: i64,
    pub(crate) number: i64,
    pub(crate) message_id: Vec<u8>,
    pub(crate) died_at: i64,
}

/// Of one taker, in one mailbox, of one sender and priority: what it took together and still holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The delivery that it begins after.
    pub(crate) after: Place,
    pub(crate) sender: &'a str,
    pub(crate) taker: &'a str,
}

pub(crate) trait DeliveryTables: Send {
    /// In the order in which everyone locks them; those that are not there are left out.
    fn lock_mailboxes(
        &mut self,
        named: &[(&TenantId, &Mailbox)],
    ) -> impl Future<Output = Result<Vec<MailboxRow>, Failure>> + Send;
    /// Those that nobody has locked.
    fn lock_free_mailboxes(
        &mut self,
        mailboxes: &[i64],
    ) -> impl Future<Output = Result<Vec<MailboxRow>, Failure>> + Send;
    /// Without a lock, for who only looks.
    fn mailboxes(
        &mut self,
        tenant: &TenantId,
        named: &[Mailbox],
    ) -> impl Future<Output = Result<Vec<MailboxRow>, Failure>> + Send;

    /// Of each line, a mailbox's priority, the open deliveries after `number`, at most `size`.
    fn pages(&mut self, after: &[Place], size: usize)
    -> impl Future<Output = Result<Vec<DeliveryRow>, Failure>> + Send;
    fn deliveries_at(
        &mut self,
        places: &[Place],
        open: bool,
    ) -> impl Future<Output = Result<Vec<DeliveryRow>, Failure>> + Send;
    /// What is left of these runs in their takers' hands.
    fn runs_in_hands(&mut self, runs: &[Run<'_>]) -> impl Future<Output = Result<Vec<DeliveryRow>, Failure>> + Send;

    /// Each as it is now, found by where it stood.
    fn put_deliveries(
        &mut self,
        rows: &[DeliveryRow],
        were_open: bool,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    fn add_letters(&mut self, letters: &[Letter]) -> impl Future<Output = Result<(), Failure>> + Send;
    fn move_mailboxes(&mut self, moved: &[Moved]) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// `[[mailbox, priority, number], …]`
fn json_places(places: &[Place]) -> Result<String, Failure> {
    json(&places.iter().map(|place| (place.mailbox, place.priority, place.number)).collect::<Vec<_>>())
}

impl DeliveryTables for SqliteConnection {
    /// The transaction has the file to itself.
    async fn lock_mailboxes(&mut self, named: &[(&TenantId, &Mailbox)]) -> Result<Vec<MailboxRow>, Failure> {
        let named: Vec<_> =
            named.iter().map(|(tenant, mailbox)| (tenant.as_str(), mailbox.sort(), mailbox.name())).collect();
        let find = sqlx::query_as(
            "SELECT mailboxes.* FROM json_each($1) AS named CROSS JOIN mailboxes
                 ON tenant = named.value->>0 AND sort = named.value->>1 AND name = named.value->>2",
        );
        Ok(find.bind(json(&named)?).fetch_all(self).await?)
    }

    async fn lock_free_mailboxes(&mut self, mailboxes: &[i64]) -> Result<Vec<MailboxRow>, Failure> {
        let find = sqlx::query_as(
            "SELECT mailboxes.* FROM json_each($1) AS each CROSS JOIN mailboxes ON mailboxes.mailbox = each.value",
        );
        Ok(find.bind(json(&mailboxes)?).fetch_all(self).await?)
    }

    async fn mailboxes(&mut self, tenant: &TenantId, named: &[Mailbox]) -> Result<Vec<MailboxRow>, Failure> {
        let named: Vec<_> = named.iter().map(|mailbox| (tenant, mailbox)).collect();
        self.lock_mailboxes(&named).await
    }

    async fn pages(&mut self, after: &[Place], size: usize) -> Result<Vec<DeliveryRow>, Failure> {
        let mut found = Vec::new();
        for lines in after.chunk_by(|one, next| one.mailbox == next.mailbox) {
            let after = |priority: i16| {
                let line = lines.iter().find(|line| line.priority == priority);
                line.map_or(i64::MAX, |line| line.number)
            };
            let page = sqlx::query_as(
                "SELECT * FROM (SELECT * FROM deliveries
                     WHERE mailbox = $1 AND open = TRUE AND priority = 0 AND number > $2 ORDER BY number LIMIT +$6)
                 UNION ALL SELECT * FROM (SELECT * FROM deliveries
                     WHERE mailbox = $1 AND open = TRUE AND priority = 1 AND number > $3 ORDER BY number LIMIT +$6)
                 UNION ALL SELECT * FROM (SELECT * FROM deliveries
                     WHERE mailbox = $1 AND open = TRUE AND priority = 2 AND number > $4 ORDER BY number LIMIT +$6)
                 UNION ALL SELECT * FROM (SELECT * FROM deliveries
                     WHERE mailbox = $1 AND open = TRUE AND priority = 3 AND number > $5 ORDER BY number LIMIT +$6)",
            )
            .bind(lines[0].mailbox)
            .bind(after(0))
            .bind(after(1))
            .bind(after(2))
            .bind(after(3))
            .bind(i64::try_from(size).unwrap_or(i64::MAX));
            found.extend(page.fetch_all(&mut *self).await?);
        }
        Ok(found)
    }

    async fn deliveries_at(&mut self, places: &[Place], open: bool) -> Result<Vec<DeliveryRow>, Failure> {
        let find = sqlx::query_as(
            "SELECT deliveries.* FROM json_each($1) AS place CROSS JOIN deliveries
                 ON mailbox = place.value->>0 AND open = $2 AND priority = place.value->>1
                     AND number = place.value->>2",
        );
        Ok(find.bind(json_places(places)?).bind(open).fetch_all(self).await?)
    }

    async fn runs_in_hands(&mut self, runs: &[Run<'_>]) -> Result<Vec<DeliveryRow>, Failure> {
        let runs: Vec<_> = runs
            .iter()
            .map(|run| (run.after.mailbox, run.after.priority, run.after.number, run.sender, run.taker))
            .collect();
        let find = sqlx::query_as(
            "SELECT deliveries.* FROM json_each($1) AS run CROSS JOIN deliveries
                 ON mailbox = run.value->>0 AND open = TRUE AND priority = run.value->>1
                     AND number > run.value->>2 AND sender = run.value->>3 AND taker = run.value->>4
             WHERE state = $2",
        );
        Ok(find.bind(json(&runs)?).bind(rank(DeliveryState::Leased)).fetch_all(self).await?)
    }

    async fn put_deliveries(&mut self, rows: &[DeliveryRow], were_open: bool) -> Result<(), Failure> {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                let place = (row.mailbox, row.priority, row.number);
                let times = (row.lease_until, row.rests_until, row.expires_at, row.settled_at);
                (place, times, (row.open, row.state, row.attempts, row.hand_out, &row.taker, &row.reason))
            })
            .collect();
        let put = sqlx::query(
            "UPDATE deliveries SET
                 lease_until = each.value->>'$[1][0]', rests_until = each.value->>'$[1][1]',
                 expires_at = each.value->>'$[1][2]', settled_at = each.value->>'$[1][3]',
                 open = each.value->>'$[2][0]', state = each.value->>'$[2][1]', attempts = each.value->>'$[2][2]',
                 hand_out = each.value->>'$[2][3]', taker = each.value->>'$[2][4]', reason = each.value->>'$[2][5]'
             FROM json_each($1) AS each
             WHERE mailbox = each.value->>'$[0][0]' AND deliveries.open = $2
                 AND priority = each.value->>'$[0][1]' AND number = each.value->>'$[0][2]'",
        );
        put.bind(json(&rows)?).bind(were_open).execute(self).await?;
        Ok(())
    }

    async fn add_letters(&mut self, letters: &[Letter]) -> Result<(), Failure> {
        let letters: Vec<_> = letters
            .iter()
            .map(|letter| {
                (&letter.tenant, letter.mailbox, letter.number, hex::encode(&letter.message_id), letter.died_at)
            })
            .collect();
        let add = sqlx::query(
            "INSERT INTO dead_letters (tenant, mailbox, number, message_id, died_at)
             SELECT value->>0, value->>1, value->>2, unhex(value->>3), value->>4 FROM json_each($1)
             WHERE TRUE ON CONFLICT DO NOTHING",
        );
        add.bind(json(&letters)?).execute(self).await?;
        Ok(())
    }

    async fn move_mailboxes(&mut self, moved: &[Moved]) -> Result<(), Failure> {
        let moved: Vec<_> = moved.iter().map(|moved| (moved.row.mailbox, moved.opened, moved.row.turn)).collect();
        let update = sqlx::query(
            "UPDATE mailboxes SET waiting = waiting + (each.value->>1), turn = each.value->>2
             FROM json_each($1) AS each WHERE mailbox = each.value->>0",
        );
        update.bind(json(&moved)?).execute(self).await?;
        Ok(())
    }
}

/// As [`json_places`], for Postgres.
fn columns_of_places(places: &[Place]) -> (Vec<i64>, Vec<i16>, Vec<i64>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for place in places {
        columns.0.push(place.mailbox);
        columns.1.push(place.priority);
        columns.2.push(place.number);
    }
    columns
}

/// One column of many rows.
fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

impl DeliveryTables for PgConnection {
    async fn lock_mailboxes(&mut self, named: &[(&TenantId, &Mailbox)]) -> Result<Vec<MailboxRow>, Failure> {
        let lock = sqlx::query_as(
            "SELECT mailboxes.* FROM UNNEST($1::text[], $2::text[], $3::text[]) AS named (tenant, sort, name)
             JOIN mailboxes ON mailboxes.tenant = named.tenant AND mailboxes.sort = named.sort
                 AND mailboxes.name = named.name
             ORDER BY mailboxes.tenant, mailboxes.sort, mailboxes.name FOR UPDATE OF mailboxes",
        )
        .bind(column(named, |(tenant, _)| tenant.as_str()))
        .bind(column(named, |(_, mailbox)| mailbox.sort()))
        .bind(column(named, |(_, mailbox)| mailbox.name()));
        Ok(lock.fetch_all(self).await?)
    }

    async fn lock_free_mailboxes(&mut self, mailboxes: &[i64]) -> Result<Vec<MailboxRow>, Failure> {
        let lock = sqlx::query_as(
            "SELECT * FROM mailboxes WHERE mailbox = ANY($1) ORDER BY tenant, sort, name FOR UPDATE SKIP LOCKED",
        );
        Ok(lock.bind(mailboxes).fetch_all(self).await?)
    }

    async fn mailboxes(&mut self, tenant: &TenantId, named: &[Mailbox]) -> Result<Vec<MailboxRow>, Failure> {
        let find = sqlx::query_as(
            "SELECT mailboxes.* FROM UNNEST($2::text[], $3::text[]) AS named (sort, name)
             JOIN mailboxes ON mailboxes.tenant = $1 AND mailboxes.sort = named.sort AND mailboxes.name = named.name",
        )
        .bind(tenant.as_str())
        .bind(column(named, Mailbox::sort))
        .bind(column(named, Mailbox::name));
        Ok(find.fetch_all(self).await?)
    }

    async fn pages(&mut self, after: &[Place], size: usize) -> Result<Vec<DeliveryRow>, Failure> {
        let (mailboxes, priorities, numbers) = columns_of_places(after);
        let page = sqlx::query_as(
            "SELECT page.* FROM UNNEST($1::bigint[], $2::smallint[], $3::bigint[]) AS line (mailbox, priority, after)
             CROSS JOIN LATERAL (SELECT * FROM deliveries
                 WHERE deliveries.mailbox = line.mailbox AND open = TRUE AND deliveries.priority = line.priority
                     AND number > line.after ORDER BY number LIMIT +$4) AS page
             ORDER BY page.mailbox, page.priority, page.number",
        )
        .bind(mailboxes)
        .bind(priorities)
        .bind(numbers)
        .bind(i64::try_from(size).unwrap_or(i64::MAX));
        Ok(page.fetch_all(self).await?)
    }

    async fn deliveries_at(&mut self, places: &[Place], open: bool) -> Result<Vec<DeliveryRow>, Failure> {
        let (mailboxes, priorities, numbers) = columns_of_places(places);
        let find = sqlx::query_as(
            "SELECT deliveries.* FROM UNNEST($1::bigint[], $2::smallint[], $3::bigint[])
                 AS place (mailbox, priority, number)
             JOIN deliveries ON deliveries.mailbox = place.mailbox AND deliveries.open = $4
                 AND deliveries.priority = place.priority AND deliveries.number = place.number",
        );
        Ok(find.bind(mailboxes).bind(priorities).bind(numbers).bind(open).fetch_all(self).await?)
    }

    async fn runs_in_hands(&mut self, runs: &[Run<'_>]) -> Result<Vec<DeliveryRow>, Failure> {
        let find = sqlx::query_as(
            "SELECT deliveries.* FROM UNNEST($1::bigint[], $2::smallint[], $3::bigint[], $4::text[], $5::text[])
                 AS run (mailbox, priority, after, sender, taker)
             JOIN deliveries ON deliveries.mailbox = run.mailbox AND deliveries.open = TRUE
                 AND deliveries.priority = run.priority AND deliveries.number > run.after
                 AND deliveries.sender = run.sender AND deliveries.taker = run.taker
             WHERE deliveries.state = $6",
        )
        .bind(column(runs, |run| run.after.mailbox))
        .bind(column(runs, |run| run.after.priority))
        .bind(column(runs, |run| run.after.number))
        .bind(column(runs, |run| run.sender))
        .bind(column(runs, |run| run.taker))
        .bind(rank(DeliveryState::Leased));
        Ok(find.fetch_all(self).await?)
    }

    async fn put_deliveries(&mut self, rows: &[DeliveryRow], were_open: bool) -> Result<(), Failure> {
        let put = sqlx::query(
            "UPDATE deliveries SET
                 lease_until = each.lease_until, rests_until = each.rests_until, expires_at = each.expires_at,
                 settled_at = each.settled_at, open = each.open, state = each.state, attempts = each.attempts,
                 hand_out = each.hand_out, taker = each.taker, reason = each.reason
             FROM UNNEST($2::bigint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::bigint[], $9::boolean[], $10::smallint[], $11::bigint[], $12::bigint[], $13::text[],
                     $14::text[])
                 AS each (mailbox, priority, number, lease_until, rests_until, expires_at, settled_at, open, state,
                     attempts, hand_out, taker, reason)
             WHERE deliveries.mailbox = each.mailbox AND deliveries.open = $1
                 AND deliveries.priority = each.priority AND deliveries.number = each.number",
        )
        .bind(were_open)
        .bind(column(rows, |row| row.mailbox))
        .bind(column(rows, |row| row.priority))
        .bind(column(rows, |row| row.number))
        .bind(column(rows, |row| row.lease_until))
        .bind(column(rows, |row| row.rests_until))
        .bind(column(rows, |row| row.expires_at))
        .bind(column(rows, |row| row.settled_at))
        .bind(column(rows, |row| row.open))
        .bind(column(rows, |row| row.state))
        .bind(column(rows, |row| row.attempts))
        .bind(column(rows, |row| row.hand_out))
        .bind(column(rows, |row| row.taker.as_deref()))
        .bind(column(rows, |row| row.reason.as_deref()));
        put.execute(self).await?;
        Ok(())
    }

    async fn add_letters(&mut self, letters: &[Letter]) -> Result<(), Failure> {
        let add = sqlx::query(
            "INSERT INTO dead_letters (tenant, mailbox, number, message_id, died_at)
             SELECT * FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bigint[])
             ON CONFLICT DO NOTHING",
        )
        .bind(column(letters, |letter| letter.tenant.as_str()))
        .bind(column(letters, |letter| letter.mailbox))
        .bind(column(letters, |letter| letter.number))
        .bind(column(letters, |letter| &letter.message_id[..]))
        .bind(column(letters, |letter| letter.died_at));
        add.execute(self).await?;
        Ok(())
    }

    async fn move_mailboxes(&mut self, moved: &[Moved]) -> Result<(), Failure> {
        let update = sqlx::query(
            "UPDATE mailboxes SET waiting = waiting + each.opened, turn = each.turn
             FROM UNNEST($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
                 AS each (tenant, sort, name, opened, turn)
             WHERE mailboxes.tenant = each.tenant AND mailboxes.sort = each.sort AND mailboxes.name = each.name",
        )
        .bind(column(moved, |moved| moved.row.tenant.as_str()))
        .bind(column(moved, |moved| moved.row.sort.as_str()))
        .bind(column(moved, |moved| moved.row.name.as_str()))
        .bind(column(moved, |moved| moved.opened))
        .bind(column(moved, |moved| moved.row.turn));
        update.execute(self).await?;
        Ok(())
    }
}
