//! The databases of these tests: each its own, empty, gone with the test.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{
    clock::FixedClock,
    contract::store::{Replica, Stage},
    engines,
    entropy::SeededEntropy,
};
use sqlx::{AssertSqlSafe, ConnectOptions, sqlite::SqliteConnectOptions};

/// As a process would; `writer` also seeds its randomness, for no two processes draw the same.
pub(crate) fn open(url: &DatabaseUrl, writer: &str) -> Store {
    static OPENED: AtomicU64 = AtomicU64::new(0);
    let options = StoreOptions {
        clock: Arc::new(FixedClock::default()),
        entropy: Arc::new(SeededEntropy::new(OPENED.fetch_add(1, Ordering::Relaxed))),
        writer: writer.to_owned(),
        max_connections: 4,
    };
    Store::connect(url, options)
}

pub(crate) fn sqlite_in(folder: &Path) -> DatabaseUrl {
    DatabaseUrl::parse("sqlite:", folder).unwrap()
}

pub(crate) async fn postgres_url() -> Option<DatabaseUrl> {
    let url = engines::Postgres::database().await?;
    Some(DatabaseUrl::parse(&url, Path::new("unused")).unwrap())
}

async fn stage(url: DatabaseUrl, engine: impl Send + Sync + 'static) -> Stage {
    let store = open(&url, "migrate");
    store.migrate().await.unwrap();
    store.close().await;
    let replica = move |writer: &str| {
        let store = open(&url, writer);
        Replica { agents: store.agents(), audit: store.audit(), mail: store.mail(), topics: store.topics() }
    };
    Stage::new(replica, engine)
}

pub(crate) async fn sqlite() -> Option<Stage> {
    let folder = tempfile::tempdir().unwrap();
    Some(stage(sqlite_in(folder.path()), folder).await)
}

pub(crate) async fn postgres() -> Option<Stage> {
    Some(stage(postgres_url().await?, ()).await)
}

/// As someone would who goes at the database without the hall.
pub(crate) async fn execute(url: &DatabaseUrl, sql: impl Into<String>) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
    match url {
        DatabaseUrl::Sqlite(path) => {
            let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
            sql.execute(&mut connection).await.unwrap();
        }
        DatabaseUrl::Postgres(options) => {
            let mut connection = options.connect().await.unwrap();
            sql.execute(&mut connection).await.unwrap();
        }
    }
}

/// Each test over the URL of an empty database, once on each engine.
#[macro_export]
macro_rules! on_both {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let folder = tempfile::tempdir().unwrap();
                super::$test(&$crate::engines::sqlite_in(folder.path())).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let Some(url) = $crate::engines::postgres_url().await else { return };
                super::$test(&url).await;
            })*
        }
    };
}
