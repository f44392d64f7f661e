//! The tables that the audit is written to and queried from, and the scribe who writes this process's part of it. What
//! the sealer adds is in `chain.rs`.
//!
//! A number is taken in the transaction of the act that it counts, by adding to the epoch's row: an act that is
//! undone gives its number back, so that a number that is missing means a record that was taken away.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use guildhall_domain::{
    AuditEntry, Clock, Entropy, Error, Result, TenantId, Timestamp,
    audit::{AuditQuery, canonical_body},
};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, SqliteConnection};

use crate::{
    bulk::{Bulk, Values, execute_all},
    failure::Failure,
    row::{AuditRow, signed},
};

/// Processes of one name that may open an epoch at one moment.
const OPENINGS_MAX: usize = 4;
/// Records a query gives when it does not say, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

const TAKE_NUMBERS: &str = "UPDATE audit_epochs
    SET last_number = last_number + $4, last_at = CASE WHEN last_at > $5 THEN last_at ELSE $5 END
    WHERE tenant = $1 AND writer = $2 AND run = $3 AND NOT closed
    RETURNING epoch, last_number, last_at";
const OPEN_EPOCH: &str = "INSERT INTO audit_epochs (tenant, writer, epoch, run, last_number, last_at, closed)
    SELECT $1, $2, COALESCE(MAX(epoch), 0) + 1, $3, 0, 0, FALSE FROM audit_epochs WHERE tenant = $1 AND writer = $2
    ON CONFLICT DO NOTHING";
const CLOSE_EPOCHS: &str = "UPDATE audit_epochs SET closed = TRUE WHERE writer = $1 AND run = $2 AND NOT closed";

static SQLITE_ADD_RECORDS: Bulk = Bulk::with_common(
    &["tenant", "writer", "epoch", "recorded_at"],
    &["number", "at", "actor_kind", "actor", "act", "target", "outcome", "salt", "body", "body_hash"],
    "INSERT OR FAIL INTO audit_records (tenant, writer, epoch, recorded_at, number, at, actor_kind, actor, act, target,
         outcome, salt, body, body_hash)
     SELECT tenant, writer, epoch, recorded_at, given.* FROM given CROSS JOIN common",
);
const POSTGRES_ADD_RECORDS: &str = "INSERT INTO audit_records (tenant, writer, epoch, number, recorded_at, at,
        actor_kind, actor, act, target, outcome, salt, body, body_hash)
    SELECT $1, $2, $3, place + $4, $5, at, actor_kind, actor, act, target, outcome, salt, body, body_hash
    FROM UNNEST($6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[], $13::text[],
        $14::text[]) WITH ORDINALITY
        AS record (at, actor_kind, actor, act, target, outcome, salt, body, body_hash, place)";
/// Each beside the last seal that begins before it, if it reaches so far.
const QUERY: &str = "SELECT found.*, seal.first_position + (found.number - seal.first_number) AS position,
        CASE WHEN found.number = seal.last_number THEN seal.hash END AS hash
    FROM (SELECT * FROM audit_records
        WHERE tenant = $1 AND ($2 IS NULL OR actor = $2) AND ($3 IS NULL OR substr(act, 1, length($3)) = $3)
            AND ($4 IS NULL OR target = $4) AND at >= $5 AND at <= $6
        ORDER BY at DESC, recorded_at DESC, writer, epoch DESC, number DESC LIMIT +$7) AS found
    LEFT JOIN audit_seals AS seal ON seal.tenant = found.tenant AND seal.writer = found.writer
        AND seal.epoch = found.epoch AND seal.last_number >= found.number
        AND seal.first_number = (SELECT MAX(first_number) FROM audit_seals WHERE tenant = found.tenant
            AND writer = found.writer AND epoch = found.epoch AND first_number <= found.number)
    ORDER BY found.at DESC, found.recorded_at DESC, found.writer, found.epoch DESC, found.number DESC";

/// One process as a writer of the chain.
pub(crate) struct Scribe {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    writer: String,
    /// Random, so that two processes of the same name do not write in one epoch.
    run: String,
}

/// The numbers a scribe has taken: the last of them, and the moment that their records are ordered by.
pub(crate) type Numbers = (i64, i64, i64);

/// An entry on its way into the table, with all but its number.
pub(crate) struct Sealed {
    tenant: TenantId,
    at: i64,
    actor_kind: &'static str,
    actor: Arc<str>,
    act: Arc<str>,
    target: Arc<str>,
    outcome: &'static str,
    salt: [u8; 16],
    body: Arc<str>,
    body_hash: Arc<str>,
}

/// Where the records of one tenant go: the numbers after `last`.
pub(crate) struct Place<'a> {
    tenant: &'a TenantId,
    writer: &'a str,
    epoch: i64,
    last: i64,
    recorded_at: i64,
}

impl Scribe {
    pub(crate) fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, writer: String) -> Self {
        let mut run = [0; 16];
        entropy.fill(&mut run);
        Self { clock, entropy, writer, run: hex::encode(run) }
    }

    /// Adds the entries to this transaction, each with the next number of its tenant's epoch.
    pub(crate) async fn record(&self, tables: &mut impl AuditTables, entries: &[AuditEntry]) -> Result<(), Failure> {
        let sealed: Vec<Sealed> = entries.iter().map(|entry| self.seal(entry)).collect();
        self.record_sealed(tables, &sealed.iter().collect::<Vec<_>>()).await
    }

    /// As [`Scribe::record`], of entries that were sealed before the transaction, for which it need not wait.
    pub(crate) async fn record_sealed(
        &self,
        tables: &mut impl AuditTables,
        records: &[&Sealed],
    ) -> Result<(), Failure> {
        let mut of_tenant: BTreeMap<&TenantId, Vec<&Sealed>> = BTreeMap::new();
        for record in records {
            of_tenant.entry(&record.tenant).or_default().push(record);
        }
        for (tenant, records) in of_tenant {
            let (epoch, last, recorded_at) = self.take_numbers(tables, tenant, records.len()).await?;
            let last = last - signed(records.len() as u64);
            let place = Place { tenant, writer: &self.writer, epoch, last, recorded_at };
            tables.add_records(place, &records).await?;
        }
        Ok(())
    }

    pub(crate) async fn close_epochs(&self, tables: &mut impl AuditTables) -> Result<(), Failure> {
        tables.close_epochs(&self.writer, &self.run).await
    }

    /// The first time in this life of the process, it opens an epoch for the tenant.
    async fn take_numbers(
        &self,
        tables: &mut impl AuditTables,
        tenant: &TenantId,
        how_many: usize,
    ) -> Result<Numbers, Failure> {
        let (how_many, now) = (signed(how_many as u64), self.clock.now());
        for _ in 0..=OPENINGS_MAX {
            if let Some(numbers) = tables.take_numbers(tenant, &self.writer, &self.run, how_many, now).await? {
                return Ok(numbers);
            }
            // Where another process of this name was first, this has waited for it: next time it opens the one after.
            tables.open_epoch(tenant, &self.writer, &self.run).await?;
        }
        Err(Failure::Refused(Error::unavailable(format!(
            "other processes begin to write the audit chain under the name {} at this moment; repeat the call, and \
             give each process a name of its own",
            self.writer
        ))))
    }

    pub(crate) fn seal(&self, entry: &AuditEntry) -> Sealed {
        let mut salt = [0; 16];
        self.entropy.fill(&mut salt);
        let hash = Sha256::new().chain_update(salt).chain_update(canonical_body(&entry.body)).finalize();
        Sealed {
            tenant: entry.tenant.clone(),
            at: entry.at.as_millis(),
            actor_kind: entry.actor_kind.as_str(),
            actor: entry.actor.as_str().into(),
            act: entry.act.as_str().into(),
            target: entry.target.as_str().into(),
            outcome: entry.outcome.as_str(),
            salt,
            body: entry.body.to_string().into(),
            body_hash: hex::encode(hash).into(),
        }
    }
}

pub(crate) trait AuditTables: Send {
    /// `None` when this run has no open epoch for the tenant.
    fn take_numbers(
        &mut self,
        tenant: &TenantId,
        writer: &str,
        run: &str,
        how_many: i64,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Numbers>, Failure>> + Send;
    /// Does nothing when another process opens the same one at this moment.
    fn open_epoch(
        &mut self,
        tenant: &TenantId,
        writer: &str,
        run: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    fn close_epochs(&mut self, writer: &str, run: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    fn add_records(
        &mut self,
        place: Place<'_>,
        records: &[&Sealed],
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    fn query(
        &mut self,
        tenant: &TenantId,
        query: &AuditQuery,
    ) -> impl Future<Output = Result<Vec<AuditRow>, Failure>> + Send;
}

macro_rules! audit_tables {
    ($connection:ty, $add_records:path) => {
        impl AuditTables for $connection {
            async fn take_numbers(
                &mut self,
                tenant: &TenantId,
                writer: &str,
                run: &str,
                how_many: i64,
                now: Timestamp,
            ) -> Result<Option<Numbers>, Failure> {
                let take = sqlx::query_as(TAKE_NUMBERS)
                    .bind(tenant.as_str())
                    .bind(writer)
                    .bind(run)
                    .bind(how_many)
                    .bind(now.as_millis());
                Ok(take.fetch_optional(self).await?)
            }

            async fn open_epoch(&mut self, tenant: &TenantId, writer: &str, run: &str) -> Result<(), Failure> {
                sqlx::query(OPEN_EPOCH).bind(tenant.as_str()).bind(writer).bind(run).execute(self).await?;
                Ok(())
            }

            async fn close_epochs(&mut self, writer: &str, run: &str) -> Result<(), Failure> {
                sqlx::query(CLOSE_EPOCHS).bind(writer).bind(run).execute(self).await?;
                Ok(())
            }

            async fn add_records(&mut self, place: Place<'_>, records: &[&Sealed]) -> Result<(), Failure> {
                $add_records(self, place, records).await
            }

            async fn query(&mut self, tenant: &TenantId, query: &AuditQuery) -> Result<Vec<AuditRow>, Failure> {
                let limit = if query.limit == 0 { PAGE } else { query.limit.min(PAGE_MAX) };
                let found = sqlx::query_as(QUERY)
                    .bind(tenant.as_str())
                    .bind(query.actor.as_deref())
                    .bind(query.act.as_deref())
                    .bind(query.target.as_deref())
                    .bind(query.from.map_or(i64::MIN, Timestamp::as_millis))
                    .bind(query.to.map_or(i64::MAX, Timestamp::as_millis))
                    .bind(signed(limit as u64));
                Ok(found.fetch_all(self).await?)
            }
        }
    };
}

audit_tables!(SqliteConnection, sqlite_add_records);
audit_tables!(PgConnection, postgres_add_records);

async fn sqlite_add_records(
    connection: &mut SqliteConnection,
    place: Place<'_>,
    records: &[&Sealed],
) -> Result<(), Failure> {
    let numbered: Vec<(i64, &Sealed)> = (place.last + 1..).zip(records.iter().copied()).collect();
    let common = |values: &mut Values| {
        values.add(place.tenant.as_str())?;
        values.add(place.writer)?;
        values.add(place.epoch)?;
        values.add(place.recorded_at)
    };
    let statements = SQLITE_ADD_RECORDS.statements_with(common, &numbered, |values, (number, record)| {
        values.add(*number)?;
        values.add(record.at)?;
        values.add(record.actor_kind)?;
        values.add(Arc::clone(&record.actor))?;
        values.add(Arc::clone(&record.act))?;
        values.add(Arc::clone(&record.target))?;
        values.add(record.outcome)?;
        values.add(&record.salt[..])?;
        values.add(Arc::clone(&record.body))?;
        values.add(Arc::clone(&record.body_hash))
    });
    execute_all(connection, statements).await?;
    Ok(())
}

async fn postgres_add_records(
    connection: &mut PgConnection,
    place: Place<'_>,
    records: &[&Sealed],
) -> Result<(), Failure> {
    fn column<'r, T>(records: &'r [&Sealed], of: impl Fn(&'r Sealed) -> T) -> Vec<T> {
        records.iter().map(|record| of(record)).collect()
    }
    let add = sqlx::query(POSTGRES_ADD_RECORDS)
        .bind(place.tenant.as_str())
        .bind(place.writer)
        .bind(place.epoch)
        .bind(place.last)
        .bind(place.recorded_at)
        .bind(column(records, |record| record.at))
        .bind(column(records, |record| record.actor_kind))
        .bind(column(records, |record| &*record.actor))
        .bind(column(records, |record| &*record.act))
        .bind(column(records, |record| &*record.target))
        .bind(column(records, |record| record.outcome))
        .bind(column(records, |record| &record.salt[..]))
        .bind(column(records, |record| &*record.body))
        .bind(column(records, |record| &*record.body_hash));
    add.execute(connection).await?;
    Ok(())
}
