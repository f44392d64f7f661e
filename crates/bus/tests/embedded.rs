//! What only the embedded log can show: its file, its clock, what it removes.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use guildhall_bus::BusOptions;
use guildhall_domain::{
    ErrorCode, Principal, PrincipalKind, TenantId, Timestamp, TraceContext,
    ports::{
        Bus,
        bus::{Envelope, Published, ReplayFrom, Retention, Topic},
    },
};
use guildhall_testkit::clock::FixedClock;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PLENTY: Retention = Retention { age: DAY, bytes: 1 << 30 };

fn open(folder: &Path, clock: &Arc<FixedClock>, retention: Retention) -> Arc<dyn Bus> {
    let options = BusOptions { data_dir: folder.to_owned(), clock: clock.clone(), retention, nats_syncs_always: false };
    guildhall_bus::connect("embedded:", options).unwrap()
}

fn envelope(payload: &str) -> Envelope {
    Envelope {
        principal: Principal::new(TenantId::default(), PrincipalKind::Agent, "a", ["agent"]),
        trace: TraceContext::default(),
        at: Timestamp::default(),
        headers: vec![],
        payload: payload.to_owned().into(),
    }
}

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

async fn publish(bus: &Arc<dyn Bus>, key: Option<&str>, payload: &str) -> Published {
    bus.publish(&TenantId::default(), &topic(), key, envelope(payload)).await.unwrap()
}

/// All that is kept, up to an event that says so and is published now.
async fn kept(bus: &Arc<dyn Bus>) -> Vec<String> {
    let mut events = bus.replay(&TenantId::default(), &topic(), ReplayFrom::After(0)).await.unwrap();
    let end = publish(bus, None, "end").await.sequence;
    let mut kept = Vec::new();
    loop {
        let event = events.next().await.unwrap().unwrap();
        if event.sequence == end {
            return kept;
        }
        kept.push(String::from_utf8(event.envelope.payload.to_vec()).unwrap());
    }
}

/// What is on the disk at this moment, as a machine finds it whose process was killed.
fn as_found_after_a_kill(data: &Path, copy: PathBuf) -> PathBuf {
    fs::create_dir_all(&copy).unwrap();
    for file in fs::read_dir(data).unwrap() {
        let name = file.unwrap().file_name();
        // The index of the log ahead lives in shared memory, and is made anew by whoever opens the file.
        if name != "bus.db-shm" {
            fs::copy(data.join(&name), copy.join(&name)).unwrap();
        }
    }
    copy
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill_and_sequences_go_on() {
    let folder = TempDir::new().unwrap();
    let (data, clock) = (folder.path().join("data"), Arc::new(FixedClock::default()));
    let bus = open(&data, &clock, PLENTY);
    for i in 0..10 {
        let answer = publish(&bus, Some(&i.to_string()), &i.to_string()).await;
        let found = as_found_after_a_kill(&data, folder.path().join(i.to_string()));
        let again = open(&found, &clock, PLENTY);
        let repeat = publish(&again, Some(&i.to_string()), "repeat").await;
        assert!(repeat.duplicate && repeat.sequence == answer.sequence, "the key {i} was forgotten");
        assert!(publish(&again, None, "new").await.sequence > answer.sequence);
        let mut wanted: Vec<String> = (0..=i).map(|i| i.to_string()).collect();
        wanted.push("new".into());
        assert_eq!(kept(&again).await, wanted);
    }
}

#[tokio::test]
async fn a_key_counts_for_two_minutes() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(FixedClock::default());
    let bus = open(folder.path(), &clock, PLENTY);
    let first = publish(&bus, Some("key"), "1").await;
    clock.advance(Duration::from_millis(119_999));
    assert!(publish(&bus, Some("key"), "2").await.duplicate);
    clock.advance(Duration::from_millis(1));
    let later = publish(&bus, Some("key"), "3").await;
    assert!(!later.duplicate && later.sequence > first.sequence);
    // And for two minutes again from there.
    assert!(publish(&bus, Some("key"), "4").await.duplicate);
    assert_eq!(kept(&bus).await, ["1", "3"]);
}

#[tokio::test]
async fn what_is_too_old_is_removed_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(FixedClock::default());
    let bus = open(folder.path(), &clock, PLENTY);
    for i in 0..2_500 {
        publish(&bus, None, &i.to_string()).await;
    }
    clock.advance(Duration::from_secs(60));
    publish(&bus, None, "a minute later").await;
    clock.advance(DAY - Duration::from_secs(60));
    publish(&bus, None, "sweeps").await;
    assert_eq!(kept(&bus).await.len(), 2_502, "what is a day old to the millisecond is kept");
    clock.advance(Duration::from_secs(31));
    publish(&bus, None, "sweeps").await;
    assert_eq!(kept(&bus).await, ["a minute later", "sweeps", "end", "sweeps"]);
}

#[tokio::test]
async fn the_oldest_go_when_there_is_too_much_and_a_key_is_remembered_even_so() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(FixedClock::default());
    let kilobyte = "x".repeat(1_000);
    let bus = open(folder.path(), &clock, Retention { age: DAY, bytes: 20_000 });
    let first = publish(&bus, Some("first"), &kilobyte).await;
    for _ in 0..100 {
        publish(&bus, None, &kilobyte).await;
    }
    let left = kept(&bus).await.len();
    assert!((10..=20).contains(&left), "{left} of a bit more than 1,000 bytes are kept of at most 20,000");
    assert!(publish(&bus, Some("first"), &kilobyte).await.duplicate, "a repeat of {first:?} looks new");
    drop(bus);
    // The sum is right after opening it again, too.
    let bus = open(folder.path(), &clock, Retention { age: DAY, bytes: 5_000 });
    publish(&bus, None, &kilobyte).await;
    let left = kept(&bus).await.len();
    assert!((2..=5).contains(&left), "{left} are kept of at most 5,000 bytes");
}

#[tokio::test]
async fn many_events_are_read_page_by_page_while_more_come() {
    let folder = TempDir::new().unwrap();
    let bus = open(folder.path(), &Arc::new(FixedClock::default()), PLENTY);
    join_all((0..1_000).map(|_| publish(&bus, None, "before"))).await;
    let mut events = bus.replay(&TenantId::default(), &topic(), ReplayFrom::After(0)).await.unwrap();
    for _ in 0..10 {
        events.next().await.unwrap().unwrap();
    }
    join_all((0..1_000).map(|_| publish(&bus, None, "after"))).await;
    let mut last = 0;
    for _ in 10..2_000 {
        let sequence = events.next().await.unwrap().unwrap().sequence;
        assert!(sequence > last);
        last = sequence;
    }
}

/// Each event is published only when the one before has been seen, so that a wake-up that was missed is not mended by
/// the next event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_left_lying_until_the_next_one_comes() {
    let folder = TempDir::new().unwrap();
    let bus = open(folder.path(), &Arc::new(FixedClock::default()), PLENTY);
    let mut events = bus.replay(&TenantId::default(), &topic(), ReplayFrom::After(0)).await.unwrap();
    for i in 0..1_000_u64 {
        let publisher = bus.clone();
        let published = tokio::spawn(async move { publish(&publisher, None, "next").await });
        // Moves the question to the table across the commit, so that sometimes it is asked just before.
        let ask_at = Instant::now() + Duration::from_micros(i * 37 % 3_000);
        while Instant::now() < ask_at {
            tokio::task::yield_now().await;
        }
        let next = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
        next.expect("an event lies there and was not seen").unwrap().unwrap();
        published.await.unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_does_not_take_the_log_with_it() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(FixedClock::default());
    let bus = open(folder.path(), &clock, PLENTY);
    publish(&bus, None, "1").await;
    clock.set(Timestamp::from_millis(1_000));
    publish(&bus, None, "2").await;
    drop(bus);
    let bus = open(folder.path(), &clock, PLENTY);
    publish(&bus, None, "3").await;
    let mut events = bus.replay(&TenantId::default(), &topic(), ReplayFrom::After(0)).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(events.next().await.unwrap().unwrap().published_at);
    }
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named_and_used_once_it_can_be() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    fs::write(&data, "a file where the directory should be").unwrap();
    let bus = open(&data, &Arc::new(FixedClock::default()), PLENTY);
    let refused = bus.ping().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert!(refused.message.contains(data.to_str().unwrap()), "{refused}");
    fs::remove_file(&data).unwrap();
    bus.ping().await.unwrap();
    publish(&bus, None, "1").await;
}

#[tokio::test]
async fn a_file_that_is_no_log_is_an_error_and_is_left_as_it_was() {
    let folder = TempDir::new().unwrap();
    let content = "not a database, but somebody's only copy of something".repeat(100);
    fs::write(folder.path().join("bus.db"), &content).unwrap();
    let bus = open(folder.path(), &Arc::new(FixedClock::default()), PLENTY);
    assert_eq!(bus.ping().await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(fs::read_to_string(folder.path().join("bus.db")).unwrap(), content);
}

#[tokio::test]
async fn a_log_of_a_later_version_is_not_touched() {
    use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
    let folder = TempDir::new().unwrap();
    let file = SqliteConnectOptions::new().filename(folder.path().join("bus.db")).create_if_missing(true);
    let mut later = file.connect().await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 2").execute(&mut later).await.unwrap();
    later.close().await.unwrap();
    let refused = open(folder.path(), &Arc::new(FixedClock::default()), PLENTY).ping().await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unsupported);
    assert!(refused.message.contains("later version"), "{refused}");
}

#[test]
fn an_address_of_another_kind_is_refused_with_the_kinds_that_are_known_and_without_its_password() {
    for url in [
        "",
        "redis://u:s3cr3t@h",
        "u:s3cr3t@h",
        "nats://u:s3cr3t@h:port",
        "nats://u:s3cr3t@h,http://h",
        "nats://u:s3cr3t@h,",
    ] {
        let (folder, clock) = (TempDir::new().unwrap(), Arc::new(FixedClock::default()));
        let options = BusOptions { data_dir: folder.path().into(), clock, retention: PLENTY, nats_syncs_always: false };
        let Err(refused) = guildhall_bus::connect(url, options) else { panic!("{url} was taken") };
        assert_eq!(refused.code, ErrorCode::InvalidParams);
        assert!(refused.message.contains("nats://"), "{refused}");
        assert!(!refused.message.contains("s3cr3t"), "{refused}");
    }
}
