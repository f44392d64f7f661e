//! The shared commit, and engines that are held up, away or silent.

use std::time::Duration;

use futures::future::join_all;
use guildhall_domain::{
    AgentId, AuditEntry, ErrorCode, NewAgent, Principal, Result, TenantId, Timestamp,
    ports::agent_store::{IfPresent, StoredAgent},
};
use guildhall_store::{DatabaseUrl, Store};
use guildhall_testkit::engines::{Disk, Postgres, eventually};
use sqlx::{Connection, SqliteConnection};
use tokio::time::{Instant, sleep, timeout};

use crate::engines::{execute, open, postgres_url, sqlite_in};

fn hall() -> TenantId {
    TenantId::default()
}

fn id(name: &str) -> AgentId {
    name.parse().unwrap()
}

async fn register(store: &Store, name: &str, if_present: IfPresent) -> Result<StoredAgent> {
    let now = Timestamp::from_millis(1);
    let audit = AuditEntry::done(&Principal::hall(hall(), "test"), now, "agent.register", name, Default::default());
    store.agents().register(&hall(), &NewAgent::named(id(name), name), if_present, now, audit).await
}

async fn is_there(store: &Store, name: &str) -> bool {
    store.agents().agent(&hall(), &id(name)).await.unwrap().is_some()
}

async fn migrated(url: &DatabaseUrl) -> Store {
    let store = open(url, "one");
    store.migrate().await.unwrap();
    store
}

/// The hall refuses one in three, the engine another in its last statement, when the agent's row is written already.
async fn a_write_that_fails_is_undone_alone(url: &DatabaseUrl, refuse_bad: &'static str) {
    let store = migrated(url).await;
    register(&store, "taken", IfPresent::Update).await.unwrap();
    execute(url, refuse_bad).await;
    let name = |n: usize| match n % 3 {
        0 => "taken".to_owned(),
        1 => format!("bad-{n}"),
        _ => format!("good-{n}"),
    };
    let attempts = (0..90).map(|n| {
        let (store, name) = (&store, name(n));
        async move { register(store, &name, IfPresent::Refuse).await }
    });
    for (n, outcome) in join_all(attempts).await.into_iter().enumerate() {
        match n % 3 {
            0 => assert_eq!(outcome.unwrap_err().code, ErrorCode::PermissionDenied),
            1 => {
                assert_eq!(outcome.unwrap_err().code, ErrorCode::Internal);
                assert!(!is_there(&store, &name(n)).await, "half of a write was stored");
            }
            _ => assert!(outcome.unwrap().created && is_there(&store, &name(n)).await),
        }
    }
    let written = store.audit().written(&hall()).await.unwrap();
    assert_eq!((written[0].records, written[0].last_number), (31, 31), "what failed has taken a number with it");
}

#[tokio::test]
async fn a_write_that_sqlite_refuses_leaves_its_neighbours_in_the_batch_alone() {
    let folder = tempfile::tempdir().unwrap();
    let refuse_bad = "CREATE TRIGGER refuse_bad BEFORE INSERT ON audit_records WHEN NEW.target LIKE 'bad%'
                      BEGIN SELECT RAISE(ABORT, 'bad'); END";
    a_write_that_fails_is_undone_alone(&sqlite_in(folder.path()), refuse_bad).await;
}

#[tokio::test]
async fn a_write_that_postgres_refuses_leaves_its_neighbours_in_the_batch_alone() {
    let Some(url) = postgres_url().await else { return };
    let refuse_bad = "ALTER TABLE audit_records ADD CONSTRAINT refuse_bad CHECK (target NOT LIKE 'bad%')";
    a_write_that_fails_is_undone_alone(&url, refuse_bad).await;
}

/// Another process's transaction on the same file, held until it is dropped.
async fn hold(url: &DatabaseUrl) -> SqliteConnection {
    let DatabaseUrl::Sqlite(path) = url else { panic!("only SQLite is held by its file") };
    let mut other = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    other
}

#[tokio::test]
async fn a_file_that_another_process_holds_delays_writes_and_fails_them_in_the_end_but_no_read() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(folder.path());
    let store = migrated(&url).await;
    register(&store, "ada", IfPresent::Update).await.unwrap();

    let other = hold(&url).await;
    let delayed = async {
        sleep(Duration::from_millis(300)).await;
        assert!(is_there(&store, "ada").await, "a reader waited for a writer");
        other.close().await.unwrap();
    };
    let (written, ()) = tokio::join!(register(&store, "bob", IfPresent::Update), delayed);
    written.unwrap();

    let other = hold(&url).await;
    let failed = register(&store, "eve", IfPresent::Update).await.unwrap_err();
    assert_eq!((failed.code, failed.retryable), (ErrorCode::Unavailable, true), "{failed}");
    other.close().await.unwrap();
    assert!(!is_there(&store, "eve").await);
    register(&store, "eve", IfPresent::Update).await.unwrap();
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_more_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(folder.path());
    let store = migrated(&url).await;
    let other = hold(&url).await;
    timeout(Duration::from_millis(100), register(&store, "gone", IfPresent::Update)).await.unwrap_err();
    other.close().await.unwrap();
    register(&store, "ada", IfPresent::Update).await.unwrap();
    assert!(!is_there(&store, "gone").await);
}

#[tokio::test]
async fn closing_stores_what_was_queued_and_refuses_what_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(folder.path());
    let store = migrated(&url).await;
    let other = hold(&url).await;
    let queued = join_all((0..8).map(|n| {
        let store = store.clone();
        async move { register(&store, &format!("agent-{n}"), IfPresent::Update).await }
    }));
    let close = async {
        sleep(Duration::from_millis(50)).await;
        let (closing, released) = tokio::join!(store.close(), async {
            sleep(Duration::from_millis(50)).await;
            other.close().await
        });
        (closing, released.unwrap())
    };
    let (stored, _) = tokio::join!(queued, close);
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    let late = register(&store, "late", IfPresent::Update).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::Unavailable);
    assert!(is_there(&open(&url, "two"), "agent-7").await);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named_as_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_in(&folder.path().join("missing"));
    let failed = register(&open(&url, "one"), "ada", IfPresent::Update).await.unwrap_err();
    assert_eq!(failed.code, ErrorCode::Unavailable);
    assert!(failed.message.contains("folder exists"), "{failed}");
}

#[tokio::test]
async fn a_server_that_dies_is_named_in_the_error_and_serves_again_without_a_restart_of_the_hall() {
    let Some(server) = Postgres::start(Disk::Lazy).await else { return };
    let url = DatabaseUrl::parse(&server.new_database().await, "unused".as_ref()).unwrap();
    let store = migrated(&url).await;
    register(&store, "ada", IfPresent::Update).await.unwrap();

    server.kill();
    let began = Instant::now();
    let (write, read) = tokio::join!(register(&store, "bob", IfPresent::Update), store.ping());
    for failed in [write.map(drop).unwrap_err(), read.unwrap_err()] {
        assert_eq!((failed.code, failed.retryable), (ErrorCode::Unavailable, true), "{failed}");
        assert!(failed.message.contains("postgres") && failed.message.contains("database.url"), "{failed}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "the caller waited {:?}", began.elapsed());

    server.restart().await;
    eventually("the store serves again", Duration::from_secs(20), async || store.ping().await.ok()).await;
    register(&store, "bob", IfPresent::Update).await.unwrap();
    assert!(is_there(&store, "ada").await);
}

/// Alive and deaf: the kernel takes what is sent, and nobody reads it.
#[tokio::test]
async fn a_server_that_stays_silent_is_given_up_in_time_and_its_connections_with_it() {
    let Some(server) = Postgres::start(Disk::Lazy).await else { return };
    let url = DatabaseUrl::parse(&server.new_database().await, "unused".as_ref()).unwrap();
    let store = migrated(&url).await;
    register(&store, "ada", IfPresent::Update).await.unwrap();

    server.pause();
    let waited = Duration::from_secs(20);
    let both = async { tokio::join!(register(&store, "bob", IfPresent::Update), store.ping()) };
    let (write, read) = timeout(waited, both).await.expect("a silent server is waited for without end");
    let codes = [write.map(drop).unwrap_err().code, read.unwrap_err().code];
    assert!(codes.iter().all(|code| matches!(code, ErrorCode::Timeout | ErrorCode::Unavailable)), "{codes:?}");

    server.resume();
    eventually("the store serves again", waited, async || store.ping().await.ok()).await;
    register(&store, "bob", IfPresent::Update).await.unwrap();
}
