//! The engines under a hall, as a scenario takes them away and gives them back.

use std::path::PathBuf;

use guildhall_testkit::engines::{Nats, Postgres, Redis};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::Mutex;

/// What a hall stands on.
#[expect(clippy::large_enum_variant, reason = "there is one of it for each hall")]
pub(crate) enum Engines {
    Embedded { sqlite: Sqlite },
    Distributed { nats: Nats, redis: Redis, postgres: Option<Postgres> },
}

/// The file of an embedded hall. It is away while another program holds its lock.
pub struct Sqlite {
    file: PathBuf,
    holder: Mutex<Option<SqliteConnection>>,
}

impl Sqlite {
    pub(crate) fn at(file: PathBuf) -> Self {
        Self { file, holder: Mutex::default() }
    }

    async fn hold(&self) {
        let options = SqliteConnectOptions::new().filename(&self.file).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut connection).await.unwrap();
        *self.holder.lock().await = Some(connection);
    }

    async fn release(&self) {
        if let Some(mut connection) = self.holder.lock().await.take() {
            sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }
}

/// One engine that can be away while the hall runs.
#[derive(Clone, Copy)]
pub enum Engine<'h> {
    Sqlite(&'h Sqlite),
    Postgres(&'h Postgres),
    Redis(&'h Redis),
    Nats(&'h Nats),
}

impl Engine<'_> {
    /// As `/health` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
            Self::Redis(_) => "redis",
            Self::Nats(_) => "nats",
        }
    }

    pub async fn take_away(self) {
        match self {
            Self::Sqlite(file) => file.hold().await,
            Self::Postgres(postgres) => postgres.kill(),
            Self::Redis(redis) => redis.kill(),
            Self::Nats(nats) => nats.kill(),
        }
    }

    pub async fn give_back(self) {
        match self {
            Self::Sqlite(file) => file.release().await,
            Self::Postgres(postgres) => postgres.restart().await,
            Self::Redis(redis) => redis.restart().await,
            Self::Nats(nats) => nats.restart().await,
        }
    }

    /// It takes connections and does not answer, which is worse than being away.
    pub async fn hang(self) {
        match self {
            Self::Sqlite(file) => file.hold().await,
            Self::Postgres(postgres) => postgres.pause(),
            Self::Redis(redis) => redis.pause(),
            Self::Nats(nats) => nats.pause(),
        }
    }

    pub async fn go_on(self) {
        match self {
            Self::Sqlite(file) => file.release().await,
            Self::Postgres(postgres) => postgres.resume(),
            Self::Redis(redis) => redis.resume(),
            Self::Nats(nats) => nats.resume(),
        }
    }
}
