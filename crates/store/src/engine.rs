//! The two engines: how each is reached, and what it must be told so that what it acknowledged survives.

use std::{
    io,
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use guildhall_domain::{Error, Result, ports::mail_store::Taking};
use sqlx::{
    ConnectOptions, Connection, Database, Pool, Postgres, Sqlite, SqliteConnection,
    pool::{PoolConnection, PoolOptions},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    agent_store::Tables,
    audit::Scribe,
    disk,
    failure::Failure,
    mail::{lane::Lane, send::Sending, settle::Settlement},
    writer::{Begin, FRESH, Log, Writer},
};

/// How long a call waits for a connection before it learns that the engine is away; well within a call's deadline.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Statements that a connection keeps prepared; more than this program has.
const STATEMENTS: usize = 512;
/// Two that write apart, one for the writes that share commits, and one that reads.
const CONNECTIONS_MIN: u32 = 4;
/// Groups of a lane under way at once: on SQLite one runs, one waits for its turn, and one is on its way to the disk; on
/// Postgres the second would meet the first one's locks, but takings and settlements of unlike mailboxes do not.
const LOG_GROUPS: u32 = 3;
const SEND_GROUPS: u32 = 1;
const APART_GROUPS: u32 = 2;
/// On Postgres as many groups of sends are written at once.
const SEND_LANES_MAX: u32 = 4;
/// How long a read may take.
const READ: Duration = Duration::from_secs(10);

/// One engine, with the port implementations stamped upon it.
pub(crate) struct Sql<DB: Database>
where
    DB::Connection: Tables,
{
    pub(crate) name: &'static str,
    /// How a connection is made; migrations take one of their own.
    pub(crate) options: <DB::Connection as Connection>::Options,
    pub(crate) readers: Pool<DB>,
    pub(crate) writer: Arc<Writer<DB>>,
    pub(crate) scribe: Arc<Scribe>,
    /// Who records what is written apart (`Writer::write_apart`): on Postgres another, for two transactions that took
    /// numbers of one epoch would wait for each other's commit.
    pub(crate) mail_scribe: Arc<Scribe>,
    /// All who record for this process.
    pub(crate) scribes: Vec<Arc<Scribe>>,
    /// A mailbox's are always in the same one.
    pub(crate) sends: Vec<Lane<DB, Sending>>,
    pub(crate) takes: Lane<DB, Taking>,
    pub(crate) settlements: Lane<DB, Settlement>,
}

impl<DB: Database> Sql<DB>
where
    DB::Connection: Tables,
{
    pub(crate) fn failed(&self, failure: impl Into<Failure>) -> Error {
        failure.into().without_effect(self.name)
    }

    pub(crate) async fn reader(&self) -> Result<Reader<DB>> {
        let connection = self.readers.acquire().await.map_err(|error| self.failed(error))?;
        Ok(Reader { engine: self.name, connection: Some(connection) })
    }

    pub(crate) async fn ping(&self) -> Result<()> {
        let mut reader = self.reader().await?;
        let answer = in_time(async { Ok(reader.ping().await?) }).await;
        reader.done(answer)
    }

    pub(crate) async fn close(&self) {
        tokio::join!(join_all(self.sends.iter().map(Lane::close)), self.takes.close(), self.settlements.close());
        self.writer.close().await;
        self.readers.close().await;
    }
}

/// A connection that reads. One that is dropped before its answer came is closed, not given back: it may be waiting
/// for a server that will never speak again, and would wait in the pool.
pub(crate) struct Reader<DB: Database> {
    engine: &'static str,
    connection: Option<PoolConnection<DB>>,
}

impl<DB: Database> Reader<DB> {
    pub(crate) fn done<T>(mut self, answer: Result<T, Failure>) -> Result<T> {
        if !matches!(answer, Err(Failure::Sql(sqlx::Error::Io(_)))) {
            self.connection = None;
        }
        answer.map_err(|failure| failure.without_effect(self.engine))
    }
}

impl<DB: Database> Deref for Reader<DB> {
    type Target = DB::Connection;
    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect("it has one until it is done")
    }
}

impl<DB: Database> DerefMut for Reader<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("it has one until it is done")
    }
}

impl<DB: Database> Drop for Reader<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

/// An engine that stays silent is as good as away.
pub(crate) async fn in_time<T>(read: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let silent = |_| Failure::Sql(sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut)));
    tokio::time::timeout(READ, read).await.unwrap_or_else(|elapsed| Err(silent(elapsed)))
}

impl Sql<Sqlite> {
    /// One connection writes, for SQLite lets no two; the others read beside it, from the log it writes ahead.
    pub(crate) fn open(path: &Path, readers: u32, scribe: Arc<Scribe>) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Another process (`guildhall migrate`, a backup) may hold the file for a moment.
            .busy_timeout(ACQUIRE)
            // 2 MiB of each connection; the kernel caches the file for all of them.
            .pragma("cache_size", "-2048")
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        let writes = options
            .clone()
            // The log is synced by a thread of ours, before anyone is answered (`disk.rs`).
            .synchronous(SqliteSynchronous::Normal)
            // A page that many commits change is copied into the file once for all of them: the log may grow to 64 MiB
            // before it is. At SQLite's own 4 MiB every second commit of a busy hall would stop for that.
            .pragma("wal_autocheckpoint", "16000")
            // What a busy hall changes again and again is not read anew: keys of receipts, places in mailboxes.
            .pragma("cache_size", "-32768")
            // A text for each number of rows (`bulk.rs`).
            .statement_cache_capacity(STATEMENTS);
        let writing = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(writes);
        let reading = PoolOptions::new()
            .max_connections(readers.max(2))
            .acquire_timeout(ACQUIRE)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().pragma("query_only", "on"));
        let begin = Begin { kept: "BEGIN IMMEDIATE", done: "BEGIN IMMEDIATE" };
        let log = Log { sync: disk::log_of(path), fold: |connection| Box::pin(fold(connection)) };
        let writer = Arc::new(Writer::start_alone("sqlite", writing, begin, log));
        Self {
            name: "sqlite",
            options,
            readers: reading,
            sends: vec![Lane::new(&writer, &scribe, LOG_GROUPS)],
            takes: Lane::new(&writer, &scribe, LOG_GROUPS),
            settlements: Lane::new(&writer, &scribe, LOG_GROUPS),
            writer,
            scribes: vec![Arc::clone(&scribe)],
            mail_scribe: Arc::clone(&scribe),
            scribe,
        }
    }
}

/// Brings the log into the file, which is synced then, and empties it.
async fn fold(connection: &mut SqliteConnection) -> Result<(), Failure> {
    let folded = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await?;
    let (busy, _, _): (i64, i64, i64) = folded;
    if busy == 0 {
        return Ok(());
    }
    Err(Failure::Refused(Error::unavailable(
        "the disk of the database failed a moment ago, and what was written cannot be made safe while someone still \
         reads it; nothing was changed, repeat the call",
    )))
}

impl Sql<Postgres> {
    pub(crate) fn reach(server: &PgConnectOptions, connections: u32, scribe: impl Fn(&str) -> Arc<Scribe>) -> Self {
        let connections = connections.max(CONNECTIONS_MIN);
        let options = server
            .clone()
            .application_name("guildhall")
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE)
            // One that was used a moment ago is not asked for a sign of life: that is a journey.
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move { Ok(about.idle_for < FRESH || connection.ping().await.is_ok()) })
            });
        let pool = pool.connect_lazy_with(options.clone().options([
            // Nothing waits for ever, and who is at fault gives up first: a replica that stopped amid its
            // transaction loses it before those who wait for its locks lose patience, and all of that is over
            // before this side closes the connection (`writer::BATCH`).
            ("idle_in_transaction_session_timeout", "4s"),
            ("lock_timeout", "6s"),
            ("statement_timeout", "8s"),
            // An acknowledged write survives a crash, whatever the server's default is.
            ("synchronous_commit", "on"),
            // Every statement finds its rows by an index, few of many. What the planner makes of a table while it
            // is young and empty is kept for as long as the connection lives: nothing may be read whole by then.
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
            // Whatever the values are, the plan is the same; making one anew cost a tenth of a send.
            ("plan_cache_mode", "force_generic_plan"),
        ]));
        let readers = pool.clone();
        // They are kept from write to write, beside the one of the writes that share commits: reads find the others.
        let apart = connections / 2;
        let begin = Begin {
            kept: "BEGIN ISOLATION LEVEL READ COMMITTED",
            done: "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off",
        };
        let writer = Arc::new(Writer::start("postgres", pool, begin, apart));
        let lanes = (apart / 2).clamp(1, SEND_LANES_MAX);
        let send_scribes: Vec<_> = (1..=lanes).map(|lane| scribe(&format!("/mail-{lane}"))).collect();
        let (scribe, mail_scribe) = (scribe(""), scribe("/mail"));
        let all = [&scribe, &mail_scribe].into_iter().chain(&send_scribes);
        Self {
            scribes: all.cloned().collect(),
            name: "postgres",
            options,
            readers,
            sends: send_scribes.iter().map(|scribe| Lane::new(&writer, scribe, SEND_GROUPS)).collect(),
            takes: Lane::new(&writer, &mail_scribe, APART_GROUPS),
            settlements: Lane::new(&writer, &mail_scribe, APART_GROUPS),
            writer,
            scribe,
            mail_scribe,
        }
    }
}
