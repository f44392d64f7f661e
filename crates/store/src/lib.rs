//! SQL for SQLite and Postgres, and the migrations of both.
//!
//! How a write flows: a method of a port (`agent_store.rs`, `audit_store.rs`) hands a closure over one connection to
//! the writer (`writer.rs`), which runs it in a transaction together with whatever else waits, and answers once that
//! is on the disk (`disk.rs`). The act and its audit record are rows of that one transaction. How a read flows: the
//! method takes a connection of the readers, who never wait for a writer.
//!
//! Each statement is one text for both engines, `$1` placeholders and all. What a connection can do is a trait for
//! each group of tables (`agents.rs`, `access.rs`, `audit.rs`, `chain.rs`, `topics.rs`, those under `mail`), stamped by
//! a macro for the two concrete connections; `many.rs` holds what differs, `engine.rs` how each is reached. The ports
//! are written once, over any connection that has the tables. (`sqlx::Any` would spare the macros, and cannot read a
//! boolean.)
//!
//! A bound limit is written `LIMIT +$1`: SQLite looks into a bare one, and plans the statement anew each time it runs
//! (100 µs for the pages of a mailbox, where running it takes 1).
//!
//! To add a table: a migration for each engine under `migrations/`, never a change to one that was released; on
//! Postgres with the tenant in its primary key and partitioned by hash from the start, for that cannot be added later.

mod access;
mod agent_store;
mod agents;
mod audit;
mod audit_store;
mod bulk;
mod chain;
mod disk;
mod engine;
mod failure;
mod mail;
mod many;
mod migrate;
mod row;
mod topic_store;
mod topics;
mod url;
mod writer;

use std::sync::Arc;

use guildhall_domain::{
    Clock, Entropy, Result,
    ports::{AgentStore, AuditStore, MailStore, TopicStore},
};

use crate::{audit::Scribe, engine::Sql};
pub use crate::{
    migrate::{Migrated, SchemaState},
    url::DatabaseUrl,
};

pub struct StoreOptions {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    /// The name of this process in the audit chain, for example the pod's.
    pub writer: String,
    /// Connections to Postgres, or readers of the SQLite file; at least 4.
    pub max_connections: u32,
}

/// The hall's database. Cheap to clone.
#[derive(Clone)]
pub struct Store(Either);

#[derive(Clone)]
enum Either {
    Sqlite(Arc<Sql<sqlx::Sqlite>>),
    Postgres(Arc<Sql<sqlx::Postgres>>),
}

/// The same expression over either engine.
macro_rules! on_either {
    ($store:expr, $sql:ident => $body:expr) => {
        match &$store.0 {
            Either::Sqlite($sql) => $body,
            Either::Postgres($sql) => $body,
        }
    };
}

impl Store {
    /// Touches nothing yet: an engine that is away is an error of the call that needs it. Must be called within a
    /// Tokio runtime.
    pub fn connect(url: &DatabaseUrl, options: StoreOptions) -> Self {
        let StoreOptions { clock, entropy, writer, max_connections } = options;
        let scribe =
            |part: &str| Arc::new(Scribe::new(Arc::clone(&clock), Arc::clone(&entropy), format!("{writer}{part}")));
        Self(match url {
            DatabaseUrl::Sqlite(path) => Either::Sqlite(Arc::new(Sql::open(path, max_connections, scribe("")))),
            DatabaseUrl::Postgres(server) => Either::Postgres(Arc::new(Sql::reach(server, max_connections, scribe))),
        })
    }

    pub fn agents(&self) -> Arc<dyn AgentStore> {
        on_either!(self, sql => sql.clone())
    }

    pub fn audit(&self) -> Arc<dyn AuditStore> {
        on_either!(self, sql => sql.clone())
    }

    pub fn mail(&self) -> Arc<dyn MailStore> {
        on_either!(self, sql => sql.clone())
    }

    pub fn topics(&self) -> Arc<dyn TopicStore> {
        on_either!(self, sql => sql.clone())
    }

    /// Brings the database to this program's schema. Safe to run twice, and from two processes at once. A database
    /// that a newer program has migrated is left alone and refused.
    pub async fn migrate(&self) -> Result<Migrated> {
        on_either!(self, sql => sql.migrate().await)
    }

    pub async fn schema(&self) -> Result<SchemaState> {
        on_either!(self, sql => sql.schema().await)
    }

    /// Says whether the engine answers.
    pub async fn ping(&self) -> Result<()> {
        on_either!(self, sql => sql.ping().await)
    }

    /// Finishes the writes that wait, then closes every connection. Later calls are refused.
    pub async fn close(&self) {
        on_either!(self, sql => sql.close().await);
    }
}
