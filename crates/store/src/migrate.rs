//! Bringing a database to this program's schema, and knowing whether it is there.

use std::time::Duration;

use guildhall_domain::{Error, Result};
use sqlx::{
    ConnectOptions, Connection, Postgres, Sqlite,
    migrate::{MigrateError, Migrator},
};

use crate::{
    engine::Sql,
    failure::{is_missing_table, without_effect},
};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// How long one process waits for another that migrates. Long enough for an index over some millions of rows.
const TURN: Duration = Duration::from_secs(600);

const NEWEST_APPLIED: &str = "SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations WHERE success";

/// What migrating did; equal when there was nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    pub from: i64,
    pub to: i64,
}

/// A database's schema beside this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    Current {
        version: i64,
    },
    /// `guildhall migrate` is to be run. Version 0: nothing is there yet.
    Behind {
        version: i64,
        newest: i64,
    },
    /// A newer program has been here; this one must not write.
    Ahead {
        version: i64,
        newest: i64,
    },
}

impl SchemaState {
    fn judge(version: i64, migrations: &Migrator) -> Self {
        let newest = newest(migrations);
        match version.cmp(&newest) {
            std::cmp::Ordering::Equal => Self::Current { version },
            std::cmp::Ordering::Less => Self::Behind { version, newest },
            std::cmp::Ordering::Greater => Self::Ahead { version, newest },
        }
    }
}

fn newest(migrations: &Migrator) -> i64 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn failed(engine: &str, newest: i64, error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) => Error::unsupported(format!(
            "the database has schema version {version}, this program knows versions up to {newest}: \
             run a newer guildhall, or restore a backup from before the upgrade"
        )),
        MigrateError::VersionMismatch(version) => Error::unsupported(format!(
            "the database has another schema version {version} than this program: one of them is not a released one"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => without_effect(engine, &error),
        other => Error::internal(format!("the migration stopped: {other}")),
    }
}

macro_rules! schema_of {
    ($engine:ty, $migrations:ident) => {
        impl Sql<$engine> {
            pub(crate) async fn schema(&self) -> Result<SchemaState> {
                match sqlx::query_scalar(NEWEST_APPLIED).fetch_one(&self.readers).await {
                    Ok(version) => Ok(SchemaState::judge(version, &$migrations)),
                    Err(error) if is_missing_table(&error) => Ok(SchemaState::judge(0, &$migrations)),
                    Err(error) => Err(self.failed(error)),
                }
            }

            /// What there was, and what there is now: the steps between run on one connection of their own.
            pub(crate) async fn migrate(&self) -> Result<Migrated> {
                let from = match self.schema().await? {
                    SchemaState::Current { version } => version,
                    SchemaState::Behind { version, .. } => version,
                    SchemaState::Ahead { version, newest } => {
                        return Err(failed(self.name, newest, MigrateError::VersionMissing(version)));
                    }
                };
                let to = newest(&$migrations);
                self.run_migrations().await.map_err(|error| failed(self.name, to, error))?;
                Ok(Migrated { from, to })
            }
        }
    };
}

schema_of!(Sqlite, SQLITE);
schema_of!(Postgres, POSTGRES);

impl Sql<Sqlite> {
    /// All steps are one transaction that holds the file, so that a second process waits and then finds nothing to do.
    /// (`run_direct`, because the future of sqlx's `run` cannot be sent between threads.)
    async fn run_migrations(&self) -> Result<(), MigrateError> {
        let mut connection = self.options.clone().busy_timeout(TURN).connect().await?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        SQLITE.run_direct(None, &mut *transaction, false).await?;
        transaction.commit().await?;
        Ok(connection.close().await?)
    }
}

impl Sql<Postgres> {
    /// The migrator takes an advisory lock; it goes with the connection, also when a step fails.
    async fn run_migrations(&self) -> Result<(), MigrateError> {
        let turn = format!("{}s", TURN.as_secs());
        let mut connection = self.options.clone().options([("lock_timeout", turn)]).connect().await?;
        POSTGRES.run_direct(None, &mut connection, false).await?;
        Ok(connection.close().await?)
    }
}
