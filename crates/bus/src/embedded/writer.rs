//! The one who writes to the log: takes all that waits, commits it at once, answers each, and now and then removes
//! what has been kept long enough.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use guildhall_domain::{
    Clock, Error, Result, TenantId, Timestamp,
    ports::bus::{Retention, Topic},
};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteRow};
use tokio::sync::{mpsc, oneshot};

use crate::{BusOptions, DUPLICATE_WINDOW, live::Live, wire};

/// Events of one commit. Beyond this the commit's own share of the time is small, and the first ones wait for the last.
const BATCH: usize = 256;
/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Rows looked at in one step of a sweep, and steps in a row, so that publishers never wait long for a sweep.
const SWEEP_ROWS: i64 = 1_000;
const SWEEP_STEPS: usize = 10;

pub(super) struct Append {
    pub(super) tenant: TenantId,
    pub(super) topic: Topic,
    pub(super) duplicate_id: Option<[u8; 32]>,
    pub(super) envelope: Bytes,
    pub(super) done: oneshot::Sender<Result<Appended>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Appended {
    pub(super) sequence: u64,
    pub(super) duplicate: bool,
}

pub(super) struct Writer {
    connection: SqliteConnection,
    clock: Arc<dyn Clock>,
    retention: Retention,
    live: Live,
    path: Arc<str>,
    /// The newest event's time. A clock that goes back does not take the log with it.
    newest: Timestamp,
    /// Of all events that are kept.
    bytes: u64,
    next_sweep: Timestamp,
}

impl Writer {
    pub(super) async fn new(
        mut connection: SqliteConnection,
        options: &BusOptions,
        live: Live,
        path: Arc<str>,
    ) -> sqlx::Result<Self> {
        let (newest, bytes): (i64, i64) = sqlx::query_as(
            "SELECT COALESCE((SELECT published_at FROM events ORDER BY sequence DESC LIMIT 1), 0), bytes FROM total",
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(Self {
            connection,
            clock: options.clock.clone(),
            retention: options.retention,
            live,
            path,
            newest: Timestamp::from_millis(newest),
            bytes: u64::try_from(bytes).unwrap_or(0),
            next_sweep: Timestamp::default(),
        })
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Append>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // What is too old goes also when nothing comes.
            match tokio::time::timeout(SWEEP_EVERY, inbox.recv_many(&mut batch, BATCH)).await {
                Ok(0) => return,
                Ok(_) | Err(_) => self.newest = self.newest.max(self.clock.now()),
            }
            if batch.is_empty() {
                self.sweep().await;
                continue;
            }
            match self.commit(&batch).await {
                Ok(appended) => self.answer(batch.drain(..).zip(appended)),
                Err(error) => {
                    // Perhaps the events are there all the same.
                    self.live.cut_off_all();
                    for event in batch.drain(..) {
                        // A caller that has gone away needs no answer.
                        let _ = event.done.send(Err(error.clone()));
                    }
                }
            }
            if self.newest >= self.next_sweep || self.bytes > self.retention.bytes {
                self.sweep().await;
            }
        }
    }

    fn answer(&self, events: impl Iterator<Item = (Append, Appended)>) {
        for (event, appended) in events {
            if !appended.duplicate {
                self.tell(&event, appended.sequence);
            }
            let _ = event.done.send(Ok(appended));
        }
    }

    fn tell(&self, event: &Append, sequence: u64) {
        let log = wire::event_subject(&event.tenant, &event.topic);
        if self.live.is_followed(&log)
            && let Some(event) = wire::read(sequence, self.newest, event.envelope.clone())
        {
            self.live.tell(&log, &event);
        }
    }

    async fn commit(&mut self, batch: &[Append]) -> Result<Vec<Appended>> {
        let path = self.path.clone();
        let failed =
            |error: sqlx::Error| Error::unavailable(format!("the event log {path} cannot be written: {error}"));
        let now = self.newest;
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let mut appended = Vec::with_capacity(batch.len());
        let mut added = 0;
        for event in batch {
            let one = append(&mut transaction, event, now).await.map_err(failed)?;
            added += if one.duplicate { 0 } else { event.envelope.len() as u64 };
            appended.push(one);
        }
        let bytes = self.bytes + added;
        set_total(&mut transaction, bytes).await.map_err(failed)?;
        // Until here nothing was kept. From here on only SQLite knows.
        transaction.commit().await.map_err(|error| {
            Error::timeout(format!(
                "the event log {path} failed to commit ({error}): whether the event is kept is not known"
            ))
        })?;
        self.bytes = bytes;
        Ok(appended)
    }

    async fn sweep(&mut self) {
        self.next_sweep = self.newest + SWEEP_EVERY;
        for _ in 0..SWEEP_STEPS {
            match self.sweep_step().await {
                Ok(true) => {}
                Ok(false) => return,
                // What is left is kept longer than it should be, which harms nobody yet.
                Err(error) => {
                    tracing::warn!(%error, "old events cannot be removed from {}: {error}", self.path);
                    return;
                }
            }
        }
        // More is left: go on after the next events.
        self.next_sweep = self.newest;
    }

    /// Removes the oldest events as far as they are too old or too much; true when there may be more of them.
    async fn sweep_step(&mut self) -> sqlx::Result<bool> {
        let too_old = (self.newest - self.retention.age).as_millis();
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM keys WHERE published_at <= $1")
            .bind((self.newest - DUPLICATE_WINDOW).as_millis())
            .execute(&mut *transaction)
            .await?;
        let oldest: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT sequence, published_at, size_bytes FROM events ORDER BY sequence LIMIT +$1")
                .bind(SWEEP_ROWS)
                .fetch_all(&mut *transaction)
                .await?;
        let (mut bytes, mut through, mut removed) = (self.bytes, None, 0);
        for (sequence, published_at, size) in oldest {
            if published_at >= too_old && bytes <= self.retention.bytes {
                break;
            }
            bytes = bytes.saturating_sub(u64::try_from(size).unwrap_or(0));
            through = Some(sequence);
            removed += 1;
        }
        if through.is_some() {
            sqlx::query("DELETE FROM events WHERE sequence <= $1").bind(through).execute(&mut *transaction).await?;
            set_total(&mut transaction, bytes).await?;
        }
        transaction.commit().await?;
        self.bytes = bytes;
        Ok(removed == SWEEP_ROWS)
    }
}

async fn append(connection: &mut SqliteConnection, event: &Append, now: Timestamp) -> sqlx::Result<Appended> {
    if let Some(id) = &event.duplicate_id {
        let before: Option<SqliteRow> = sqlx::query("SELECT sequence FROM keys WHERE id = $1 AND published_at > $2")
            .bind(&id[..])
            .bind((now - DUPLICATE_WINDOW).as_millis())
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(before) = before {
            return Ok(Appended { sequence: sequence(before.try_get(0)?), duplicate: true });
        }
    }
    let size = i64::try_from(event.envelope.len()).expect("an envelope has a bound far below");
    let added = sqlx::query(
        "INSERT INTO events (tenant, topic, published_at, size_bytes, envelope) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(event.tenant.as_str())
    .bind(event.topic.as_str())
    .bind(now.as_millis())
    .bind(size)
    .bind(&event.envelope[..])
    .execute(&mut *connection)
    .await?
    .last_insert_rowid();
    if let Some(id) = &event.duplicate_id {
        sqlx::query("INSERT OR REPLACE INTO keys (id, sequence, published_at) VALUES ($1, $2, $3)")
            .bind(&id[..])
            .bind(added)
            .bind(now.as_millis())
            .execute(&mut *connection)
            .await?;
    }
    Ok(Appended { sequence: sequence(added), duplicate: false })
}

async fn set_total(connection: &mut SqliteConnection, bytes: u64) -> sqlx::Result<()> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    sqlx::query("UPDATE total SET bytes = $1").bind(bytes).execute(connection).await.map(drop)
}

fn sequence(rowid: i64) -> u64 {
    u64::try_from(rowid).expect("AUTOINCREMENT counts from 1")
}
