//! The log's file: opening it, putting events into its writer's queue, reading what is there.

use std::{fmt::Display, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use guildhall_domain::{
    Error, Result, TenantId, Timestamp,
    ports::bus::{Standing, Topic},
};
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{mpsc, oneshot};

use super::writer::{Append, Appended, Writer};
use crate::{
    BusOptions,
    live::Live,
    replay::{PAGE, PAGE_BYTES},
};

/// Of the file's tables. A later program's file is not touched.
const SCHEMA_VERSION: i64 = 1;
/// Events that wait for the writer: a tenth of a second's work of a disk that syncs slowly.
const QUEUE: usize = 1_024;
/// For a place in the queue; a disk that keeps everyone waiting longer is not keeping up.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);
/// For the commit, the longest seen on a busy disk times a hundred.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// Another program that looks into the file, such as a backup, may hold it for as long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages are read in well under a millisecond, so that few connections serve many who replay.
const READERS: u32 = 4;

pub(super) struct Log {
    file: File,
    live: Live,
    queue: mpsc::Sender<Append>,
}

/// What reading needs; it outlives the log in the streams of those who replay.
#[derive(Clone)]
pub(super) struct File {
    readers: SqlitePool,
    path: Arc<str>,
}

/// An event as it lies in the table.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    sequence: i64,
    published_at: i64,
    envelope: Vec<u8>,
}

impl Log {
    pub(super) async fn open(path: &Path, options: &BusOptions) -> Result<Self> {
        let shown: Arc<str> = path.display().to_string().into();
        let failed = |what: &str, why: &dyn Display| {
            Error::unavailable(format!(
                "the event log {shown} cannot be {what}: {why}; check that the data directory can be written"
            ))
        };
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(|error| failed("made", &error))?;
        }
        let file = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection =
            file.clone().create_if_missing(true).connect().await.map_err(|error| failed("opened", &error))?;
        let found: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut connection)
            .await
            .map_err(|error| failed("read", &error))?;
        if found > SCHEMA_VERSION {
            return Err(Error::unsupported(format!(
                "the event log {shown} was written by a later version of this program (schema {found}, this one knows \
                 {SCHEMA_VERSION}): run that version"
            )));
        }
        prepare(&mut connection).await.map_err(|error| failed("prepared", &error))?;

        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(file.read_only(true));
        let live = Live::default();
        let (queue, inbox) = mpsc::channel(QUEUE);
        let writer = Writer::new(connection, options, live.clone(), shown.clone());
        let writer = writer.await.map_err(|error| failed("read", &error))?;
        // Ends when the queue's other end is dropped with the log, and what waits in it has been written.
        tokio::spawn(writer.run(inbox));
        Ok(Self { file: File { readers, path: shown }, live, queue })
    }

    pub(super) async fn append(
        &self,
        tenant: &TenantId,
        topic: &Topic,
        duplicate_id: Option<[u8; 32]>,
        envelope: Bytes,
    ) -> Result<Appended> {
        let path = &self.file.path;
        let place = tokio::time::timeout(QUEUE_PATIENCE, self.queue.reserve()).await.map_err(|_| {
            Error::unavailable(format!("the event log {path} is overloaded: {QUEUE} events wait for the disk"))
        })?;
        // Nobody took it: nothing is kept.
        let place = place.map_err(|_| self.writer_is_gone())?;
        let (done, answer) = oneshot::channel();
        place.send(Append { tenant: tenant.clone(), topic: topic.clone(), duplicate_id, envelope, done });
        match tokio::time::timeout(COMMIT_PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::timeout(format!(
                "the event log {path} did not answer within {} s: whether the event is kept is not known",
                COMMIT_PATIENCE.as_secs()
            ))),
        }
    }

    fn writer_is_gone(&self) -> Error {
        Error::unavailable(format!("the writer of the event log {} has stopped: restart the hall", self.file.path))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    pub(super) async fn ping(&self) -> Result<()> {
        if self.queue.is_closed() {
            return Err(self.writer_is_gone());
        }
        self.file.is_readable().await
    }
}

async fn prepare(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(include_str!("schema.sql")).execute(&mut *transaction).await?;
    sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut *transaction).await?;
    transaction.commit().await
}

impl File {
    fn unreadable(&self, error: &sqlx::Error) -> Error {
        Error::unavailable(format!("the event log {} cannot be read: {error}", self.path))
    }

    pub(super) async fn is_readable(&self) -> Result<()> {
        let asked = sqlx::query("SELECT 1 FROM total").fetch_one(&self.readers).await;
        asked.map(drop).map_err(|error| self.unreadable(&error))
    }

    /// Of the topic; 0 when nothing of it is kept.
    pub(super) async fn newest(&self, tenant: &TenantId, topic: &Topic) -> Result<u64> {
        let newest: Option<i64> = sqlx::query_scalar(
            "SELECT sequence FROM events WHERE tenant = $1 AND topic = $2 ORDER BY sequence DESC LIMIT 1",
        )
        .bind(tenant.as_str())
        .bind(topic.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(|error| self.unreadable(&error))?;
        Ok(newest.map_or(0, place))
    }

    /// The first event of a topic that is not older than `time`.
    pub(super) async fn first_since(&self, tenant: &TenantId, topic: &Topic, time: Timestamp) -> Result<Option<u64>> {
        let first: Option<i64> = sqlx::query_scalar(
            "SELECT sequence FROM events WHERE tenant = $1 AND topic = $2 AND published_at >= $3 \
             ORDER BY published_at, sequence LIMIT 1",
        )
        .bind(tenant.as_str())
        .bind(topic.as_str())
        .bind(time.as_millis())
        .fetch_optional(&self.readers)
        .await
        .map_err(|error| self.unreadable(&error))?;
        Ok(first.map(place))
    }

    pub(super) async fn standing(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Standing> {
        let (last, first, next): (i64, Option<i64>, Option<i64>) = sqlx::query_as(
            "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), \
                 (SELECT sequence FROM events ORDER BY sequence LIMIT 1), \
                 (SELECT sequence FROM events WHERE tenant = $1 AND topic = $2 AND sequence > $3 \
                  ORDER BY sequence LIMIT 1)",
        )
        .bind(tenant.as_str())
        .bind(topic.as_str())
        .bind(bound(after))
        .fetch_one(&self.readers)
        .await
        .map_err(|error| self.unreadable(&error))?;
        Ok(Standing { first_kept: place(first.unwrap_or(last + 1)), clear_until: next.is_none().then(|| place(last)) })
    }

    pub(super) async fn page(&self, tenant: &TenantId, topic: &Topic, after: u64) -> Result<Vec<Row>> {
        // `+`: SQLite looks into a bare limit, and plans the statement anew each time.
        let mut rows = sqlx::query_as(
            "SELECT sequence, published_at, envelope FROM events WHERE tenant = $1 AND topic = $2 AND sequence > $3 \
             ORDER BY sequence LIMIT +$4",
        )
        .bind(tenant.as_str())
        .bind(topic.as_str())
        .bind(bound(after))
        .bind(bound(PAGE as u64))
        .fetch(&self.readers);
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES
            && let Some(row) = rows.try_next().await.map_err(|error| self.unreadable(&error))?
        {
            let row: Row = row;
            bytes += row.envelope.len();
            page.push(row);
        }
        Ok(page)
    }
}

/// Sequences are SQLite's, which end there.
fn bound(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn place(sequence: i64) -> u64 {
    u64::try_from(sequence).expect("AUTOINCREMENT counts from 1")
}

impl Row {
    pub(super) fn sequence(&self) -> u64 {
        place(self.sequence)
    }

    pub(super) fn published_at(&self) -> Timestamp {
        Timestamp::from_millis(self.published_at)
    }

    pub(super) fn into_envelope(self) -> Bytes {
        self.envelope.into()
    }
}
