//! The engines themselves: what every other test takes for granted about them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use guildhall_testkit::engines::{Disk, Nats, Postgres, Process, Redis, program};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

async fn connects(url: &str) -> bool {
    matches!(timeout(Duration::from_secs(2), PgConnection::connect(url)).await, Ok(Ok(_)))
}

#[tokio::test]
async fn postgres_keeps_its_port_and_its_data_over_kill_minus_nine() {
    let Some(postgres) = Postgres::start(Disk::Lazy).await else { return };
    let url = postgres.new_database().await;
    let mut held = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").execute(&mut held).await.unwrap();

    postgres.kill();
    assert!(!connects(&url).await, "it was killed");
    postgres.restart().await;

    let mut again = PgConnection::connect(&url).await.unwrap();
    let kept: i32 = sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut again).await.unwrap();
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn a_paused_postgres_answers_on_no_connection_and_a_resumed_one_on_all() {
    let Some(postgres) = Postgres::start(Disk::Lazy).await else { return };
    let url = postgres.new_database().await;
    let mut held = PgConnection::connect(&url).await.unwrap();

    postgres.pause();
    assert!(!connects(&url).await, "a new connection is answered");
    let mut answer = Box::pin(sqlx::raw_sql("SELECT 1").execute(&mut held));
    assert!(timeout(Duration::from_millis(300), &mut answer).await.is_err(), "an old connection is answered");
    postgres.resume();
    answer.await.unwrap();
}

#[tokio::test]
async fn two_tests_never_share_a_database() {
    let (Some(one), Some(other)) = (Postgres::database().await, Postgres::database().await) else { return };
    assert_ne!(one, other);
    assert!(connects(&one).await && connects(&other).await);
}

#[tokio::test]
async fn redis_comes_back_on_its_port_with_nothing_in_it() {
    let Some(redis) = Redis::start().await else { return };
    assert_eq!(says(&redis, "SET key value").await, "+OK");
    redis.restart().await;
    assert_eq!(says(&redis, "GET key").await, "$-1");
    assert_eq!(says(&redis, "SET key value").await, "+OK");
    redis.flush().await;
    assert_eq!(says(&redis, "GET key").await, "$-1");
}

async fn says(redis: &Redis, command: &str) -> String {
    let mut connection = TcpStream::connect(redis.url().trim_start_matches("redis://")).await.unwrap();
    connection.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0_u8; 64];
    let length = connection.read(&mut answer).await.unwrap();
    std::str::from_utf8(&answer[..length]).unwrap().trim().to_owned()
}

#[tokio::test]
async fn nats_has_jetstream_and_comes_back_on_its_port() {
    let Some(nats) = Nats::start().await else { return };
    let address = nats.url().trim_start_matches("nats://").to_owned();
    nats.kill();
    assert!(TcpStream::connect(&address).await.is_err(), "it was killed");
    nats.restart().await;
    let mut greeting = [0_u8; 1024];
    let length = TcpStream::connect(&address).await.unwrap().read(&mut greeting).await.unwrap();
    assert!(String::from_utf8_lossy(&greeting[..length]).contains(r#""jetstream":true"#));
}

/// A test thread ends with its test; what it started and shared must not.
#[test]
fn a_process_outlives_the_thread_that_started_it() {
    let sleeper = std::thread::spawn(|| {
        let sleeper = Process::new("sleep", "/bin/sleep".into()).arguments(["60"]);
        sleeper.start();
        sleeper
    });
    let sleeper = sleeper.join().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(sleeper.is_running());
    let id = sleeper.id().unwrap();
    drop(sleeper);
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "it is gone with its owner");
}

/// This test runs itself once more in a process that is killed, and looks at what that one started.
#[test]
fn an_engine_dies_with_a_test_process_that_is_killed() {
    const INNER: &str = "GUILDHALL_TEST_INNER";
    if program("redis-server").is_none() {
        return;
    }
    if std::env::var_os(INNER).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let redis = runtime.block_on(Redis::start()).unwrap();
        println!("{}", redis.url());
        std::thread::sleep(Duration::from_secs(60));
    }
    let mut inner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_engine_dies_with_a_test_process_that_is_killed", "--nocapture"])
        .env(INNER, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(inner.stdout.take().unwrap());
    let url = std::io::BufRead::lines(output).map(Result::unwrap).find(|line| line.contains("redis://")).unwrap();
    let address = url[url.find("redis://").unwrap() + 8..].to_owned();
    assert!(std::net::TcpStream::connect(&address).is_ok());
    inner.kill().unwrap();
    inner.wait().unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        std::net::TcpStream::connect(&address).is_err()
    });
    assert!(gone, "redis outlived the test process that started it");
}
