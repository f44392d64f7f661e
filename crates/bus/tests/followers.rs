//! Many who follow one topic: what they cost the server and each other.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, future::join_all, stream::BoxStream};
use guildhall_bus::BusOptions;
use guildhall_domain::{
    Principal, PrincipalKind, Result, TenantId, Timestamp, TraceContext,
    ports::{
        Bus,
        bus::{Envelope, Event, Published, ReplayFrom, Retention, Topic},
    },
};
use guildhall_testkit::{
    clock::FixedClock,
    engines::{Nats, eventually},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

fn connect(url: &str, folder: &TempDir) -> Arc<dyn Bus> {
    let retention = Retention { age: Duration::from_secs(24 * 60 * 60), bytes: 1 << 30 };
    let options = BusOptions {
        data_dir: folder.path().to_owned(),
        clock: Arc::new(FixedClock::default()),
        retention,
        nats_syncs_always: false,
    };
    guildhall_bus::connect(url, options).unwrap()
}

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

async fn publish(bus: &Arc<dyn Bus>, payload: usize) -> Result<Published> {
    let envelope = Envelope {
        principal: Principal::new(TenantId::default(), PrincipalKind::Agent, "a", ["agent"]),
        trace: TraceContext::default(),
        at: Timestamp::default(),
        headers: vec![],
        payload: payload.to_string().into(),
    };
    bus.publish(&TenantId::default(), &topic(), Some(&payload.to_string()), envelope).await
}

type Events = BoxStream<'static, Result<Event>>;

async fn follow(bus: &Arc<dyn Bus>, number: usize, from: ReplayFrom) -> Vec<Events> {
    join_all((0..number).map(|_| async { bus.replay(&TenantId::default(), &topic(), from).await.unwrap() })).await
}

async fn read(events: &mut Events, number: usize) -> Vec<u64> {
    let mut sequences = Vec::new();
    while sequences.len() < number {
        let next = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event did not come");
        sequences.push(next.unwrap().unwrap().sequence);
    }
    sequences
}

/// On all streams, as the server counts them.
async fn consumers(nats: &Nats) -> usize {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let streams: Vec<_> = jetstream.streams().try_collect().await.unwrap();
    streams.iter().map(|stream| stream.state.consumer_count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_who_follow_a_topic_are_one_consumer_to_the_server_and_none_when_they_are_gone() {
    let Some(nats) = Nats::start().await else { return };
    let bus = connect(&nats.url(), &TempDir::new().unwrap());
    for i in 0..300 {
        publish(&bus, i).await.unwrap();
    }
    // Half of them have it all to read, and do so at once.
    let mut behind = follow(&bus, 250, ReplayFrom::After(0)).await;
    let mut now = follow(&bus, 250, ReplayFrom::Now).await;
    let most = tokio::spawn({
        let url = nats.url();
        async move {
            let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
            let mut most = 0;
            loop {
                let streams: Vec<_> = jetstream.streams().try_collect().await.unwrap();
                most = most.max(streams.iter().map(|stream| stream.state.consumer_count).sum::<usize>());
                if most > 0 && streams.iter().any(|stream| stream.state.last_sequence == 301) {
                    return most;
                }
            }
        }
    });
    join_all(behind.iter_mut().map(|events| read(events, 300))).await;
    let last = publish(&bus, 300).await.unwrap().sequence;
    for events in behind.iter_mut().chain(&mut now) {
        assert_eq!(read(events, 1).await, [last]);
    }
    // One for the live edge, four for pages, and as many of these as the server has not yet removed.
    let most = most.await.unwrap();
    assert!((1..=12).contains(&most), "{most} consumers for 500 who follow one topic");
    assert_eq!(consumers(&nats).await, 1);
    drop((behind, now));
    eventually("the consumer is given up", PATIENCE, async || (consumers(&nats).await == 0).then_some(())).await;
    // And made anew for the next.
    let mut again = follow(&bus, 1, ReplayFrom::After(last)).await;
    let next = publish(&bus, 301).await.unwrap().sequence;
    assert_eq!(read(&mut again[0], 1).await, [next]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_follow_hear_of_a_nats_that_was_killed_and_go_on_after_its_restart() {
    let Some(nats) = Nats::start().await else { return };
    let bus = connect(&nats.url(), &TempDir::new().unwrap());
    let mut followers = follow(&bus, 100, ReplayFrom::After(0)).await;
    let first = publish(&bus, 0).await.unwrap().sequence;
    for events in &mut followers {
        assert_eq!(read(events, 1).await, [first]);
    }
    nats.kill();
    for events in &mut followers {
        let broken = tokio::time::timeout(Duration::from_secs(3), events.next()).await.unwrap().unwrap().unwrap_err();
        assert!(broken.retryable && broken.message.contains("go on after the last event"), "{broken}");
        assert!(events.next().await.is_none());
    }
    nats.restart().await;
    let second = eventually("nats takes an event again", PATIENCE, async || publish(&bus, 1).await.ok()).await.sequence;
    let mut followers = follow(&bus, 100, ReplayFrom::After(first)).await;
    let third = publish(&bus, 2).await.unwrap().sequence;
    for events in &mut followers {
        assert_eq!(read(events, 2).await, [second, third]);
    }
}

/// What one event costs when a thousand follow its topic: told once to each, read from the table by none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_follow_an_embedded_topic_do_not_slow_its_publisher_to_a_crawl() {
    const EVENTS: usize = 200;
    let folder = TempDir::new().unwrap();
    let bus = connect("embedded:", &folder);
    let mut followers = follow(&bus, 1_000, ReplayFrom::After(0)).await;
    let start = Instant::now();
    for i in 0..EVENTS {
        publish(&bus, i).await.unwrap();
    }
    let published = start.elapsed();
    let seen = join_all(followers.iter_mut().map(|events| read(events, EVENTS))).await;
    let all = start.elapsed();
    assert!(seen.iter().all(|sequences| sequences == &seen[0]));
    eprintln!("{EVENTS} events one after the other in {published:?}, all at 1,000 followers after {all:?}");
    // A commit is some milliseconds; 1,000 queries for each event would be some seconds for ten of them.
    assert!(all < Duration::from_secs(15), "{all:?}");
}
