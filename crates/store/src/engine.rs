//! The two engines: how each is reached, and what it must be told so that what it acknowledged survives.

use std::{path::Path, sync::Arc, time::Duration};

use guildhall_domain::{Error, Result};
use sqlx::{
    ConnectOptions, Connection, Database, Pool, Postgres, Sqlite,
    pool::{PoolConnection, PoolOptions},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{audit::Scribe, failure::Failure, writer::Writer};

/// How long a call waits for a connection before it learns that the engine is away; well within a call's deadline.
const ACQUIRE: Duration = Duration::from_secs(5);

/// One engine, with the port implementations stamped upon it.
pub(crate) struct Sql<DB: Database> {
    pub(crate) name: &'static str,
    /// How a connection is made; migrations take one of their own.
    pub(crate) options: <DB::Connection as Connection>::Options,
    pub(crate) readers: Pool<DB>,
    pub(crate) writer: Writer<DB>,
    pub(crate) scribe: Arc<Scribe>,
}

impl<DB: Database> Sql<DB> {
    pub(crate) fn failed(&self, failure: impl Into<Failure>) -> Error {
        failure.into().without_effect(self.name)
    }

    pub(crate) async fn reader(&self) -> Result<PoolConnection<DB>> {
        self.readers.acquire().await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn ping(&self) -> Result<()> {
        self.reader().await?.ping().await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
    }
}

impl Sql<Sqlite> {
    /// One connection writes, for SQLite lets no two; the others read beside it, from the log it writes ahead.
    pub(crate) fn open(path: &Path, readers: u32, scribe: Arc<Scribe>) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is answered only once it is on the disk.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // Another process (`guildhall migrate`, a backup) may hold the file for a moment.
            .busy_timeout(ACQUIRE)
            // 64 MiB of the file are read without a copy, and 8 MiB a connection are cached.
            .pragma("mmap_size", "67108864")
            .pragma("cache_size", "-8192")
            .pragma("temp_store", "memory")
            .disable_statement_logging();
        let writing = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone());
        let reading = PoolOptions::new()
            .max_connections(readers.max(2))
            .acquire_timeout(ACQUIRE)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().pragma("query_only", "on"));
        Self {
            name: "sqlite",
            options,
            readers: reading,
            writer: Writer::start("sqlite", writing, "BEGIN IMMEDIATE"),
            scribe,
        }
    }
}

impl Sql<Postgres> {
    pub(crate) fn reach(server: &PgConnectOptions, connections: u32, scribe: Arc<Scribe>) -> Self {
        let options = server.clone().application_name("guildhall").disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(connections.max(2)).acquire_timeout(ACQUIRE).connect_lazy_with(
            options.clone().options([
                // Nothing waits for ever: neither a statement, nor one for another's lock, nor the others for the
                // locks of a replica that stopped in the middle of its transaction.
                ("statement_timeout", "15s"),
                ("lock_timeout", "10s"),
                ("idle_in_transaction_session_timeout", "8s"),
                // An acknowledged write survives a crash, whatever the server's default is.
                ("synchronous_commit", "on"),
            ]),
        );
        Self {
            name: "postgres",
            options,
            readers: pool.clone(),
            writer: Writer::start("postgres", pool, "BEGIN ISOLATION LEVEL READ COMMITTED"),
            scribe,
        }
    }
}
