//! NATS goes away and comes back: calls fail with a word of it meanwhile, and work again by themselves. And what only
//! NATS has: streams that others may make or remove, and replicas.

#![expect(clippy::unwrap_used, reason = "a test that fails shows the error it met")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, future::join_all};
use guildhall_bus::BusOptions;
use guildhall_domain::{
    ErrorCode, Principal, PrincipalKind, Result, TenantId, Timestamp, TraceContext,
    ports::{
        Bus,
        bus::{Durability, Envelope, Published, ReplayFrom, Retention, Subject, Topic},
    },
};
use guildhall_testkit::{
    clock::FixedClock,
    engines::{Nats, Process, eventually, free_port, program},
};

const SUBJECT: Subject = Subject("test.happened");
/// For a client that waits before it tries to connect again.
const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> BusOptions {
    let retention = Retention { age: Duration::from_secs(24 * 60 * 60), bytes: 1 << 30 };
    let clock = Arc::new(FixedClock::default());
    // Nothing is written there: the log is NATS'.
    BusOptions { data_dir: "/nowhere".into(), clock, retention, nats_syncs_always: false }
}

fn connect(url: &str) -> Arc<dyn Bus> {
    guildhall_bus::connect(url, options()).unwrap()
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

async fn publish(bus: &Arc<dyn Bus>, key: &str) -> Result<Published> {
    bus.publish(&TenantId::default(), &topic(), Some(key), envelope(key)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_is_unavailable_and_works_again_after_its_restart_without_a_new_connect() {
    let Some(nats) = Nats::start().await else { return };
    let bus = connect(&nats.url());
    let mut hints = bus.hints(SUBJECT).await.unwrap();
    let mut events = bus.replay(&TenantId::default(), &topic(), ReplayFrom::After(0)).await.unwrap();
    let first = publish(&bus, "first").await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().sequence, first.sequence);

    nats.kill();
    let start = Instant::now();
    let broken = events.next().await.unwrap().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "a replay broke off only after {:?}", start.elapsed());
    assert_eq!(broken.code, ErrorCode::Unavailable, "{broken}");
    assert!(events.next().await.is_none());
    let start = Instant::now();
    let away = publish(&bus, "meanwhile").await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3), "waited {:?} for a nats that is away", start.elapsed());
    assert_eq!(away.code, ErrorCode::Unavailable, "{away}");
    assert!(away.message.contains("127.0.0.1:"), "{away}");
    let calls = [
        bus.ping().await.unwrap_err(),
        bus.hint(SUBJECT, envelope("a")).await.unwrap_err(),
        bus.hints(SUBJECT).await.map(drop).unwrap_err(),
        bus.replay(&TenantId::default(), &topic(), ReplayFrom::Now).await.map(drop).unwrap_err(),
    ];
    for error in calls {
        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    }

    nats.restart().await;
    eventually("nats answers again", PATIENCE, async || bus.ping().await.ok()).await;
    let after = ReplayFrom::After(first.sequence);
    let mut events = bus.replay(&TenantId::default(), &topic(), after).await.unwrap();
    let second = publish(&bus, "second").await.unwrap();
    let next = events.next().await.unwrap().unwrap();
    assert_eq!((next.sequence, &next.envelope.payload[..]), (second.sequence, &b"second"[..]));
    eventually("the old listener hears again", PATIENCE, async || {
        bus.hint(SUBJECT, envelope("a")).await.ok()?;
        tokio::time::timeout(Duration::from_millis(100), hints.next()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_that_does_not_answer_fails_a_call_in_time_and_leaves_open_whether_the_event_is_kept() {
    let Some(nats) = Nats::start().await else { return };
    let bus = connect(&nats.url());
    publish(&bus, "first").await.unwrap();

    nats.pause();
    let silent = eventually("the pause has begun", PATIENCE, async || bus.ping().await.err()).await;
    assert_eq!(silent.code, ErrorCode::Unavailable, "{silent}");
    let start = Instant::now();
    assert_eq!(publish(&bus, "stuck").await.unwrap_err().code, ErrorCode::Timeout);
    assert!(start.elapsed() < Duration::from_secs(8), "waited {:?}", start.elapsed());

    nats.resume();
    let answer = eventually("nats answers again", PATIENCE, async || publish(&bus, "stuck").await.ok()).await;
    // Whichever of the two arrived first: the key is in one place.
    assert_eq!(publish(&bus, "stuck").await.unwrap().sequence, answer.sequence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_does_not_need_nats_and_no_error_shows_the_password() {
    let nobody = free_port();
    for scheme in ["nats", "tls"] {
        let bus = connect(&format!("{scheme}://user:s3cr3t@127.0.0.1:{nobody}"));
        let away = bus.ping().await.unwrap_err();
        assert_eq!(away.code, ErrorCode::Unavailable);
        assert!(away.message.contains(&nobody.to_string()), "{away}");
        assert!(!format!("{away:?}").contains("s3cr3t"), "{away}");
    }
    let Some(nats) = Nats::start().await else { return };
    let plain = connect(&nats.url().replace("nats://", "tls://")).ping().await.unwrap_err();
    assert_eq!(plain.code, ErrorCode::Unavailable, "TLS to a nats that speaks none: {plain}");
    // One of several is enough.
    connect(&format!("nats://127.0.0.1:{nobody},{}", nats.url())).ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_of_another_process_is_heard_as_soon_as_listening_began() {
    let Some(nats) = Nats::start().await else { return };
    let (listener, speaker) = (connect(&nats.url()), connect(&nats.url()));
    speaker.ping().await.unwrap();
    for i in 0..100 {
        let mut hints = listener.hints(SUBJECT).await.unwrap();
        speaker.hint(SUBJECT, envelope("a")).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(5), hints.next()).await;
        assert!(heard.is_ok(), "hint {i} came before the subscription was live");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_somebody_removed_is_made_again() {
    let Some(nats) = Nats::start().await else { return };
    let bus = connect(&nats.url());
    publish(&bus, "first").await.unwrap();
    remove_streams(&nats).await;
    publish(&bus, "second").await.unwrap();
    remove_streams(&nats).await;
    let mut events = bus.replay(&TenantId::default(), &topic(), ReplayFrom::After(0)).await.unwrap();
    publish(&bus, "third").await.unwrap();
    // A stream made right after its removal may hold the last event of the one before: the server's own doing.
    while events.next().await.unwrap().unwrap().envelope.payload != "third" {}
}

async fn remove_streams(nats: &Nats) {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    assert!(!names.is_empty());
    for name in names {
        jetstream.delete_stream(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_make_the_streams_at_once_and_another_retention_is_taken_over() {
    let Some(nats) = Nats::start().await else { return };
    let buses: Vec<_> = (0..8).map(|_| connect(&nats.url())).collect();
    let published = join_all(buses.iter().map(|bus| publish(bus, "same"))).await;
    let new = published.into_iter().filter(|published| !published.as_ref().unwrap().duplicate).count();
    assert_eq!(new, 1);

    let shorter = Retention { age: Duration::from_secs(3_600), bytes: 8 << 20 };
    let later = guildhall_bus::connect(&nats.url(), BusOptions { retention: shorter, ..options() }).unwrap();
    assert!(publish(&later, "same").await.unwrap().duplicate, "what was kept is there no more");
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let mut streams = jetstream.streams();
    let there = streams.next().await.unwrap().unwrap().config;
    assert!(streams.next().await.is_none(), "a stream was made that nobody needs");
    assert_eq!((there.max_age, there.max_bytes), (shorter.age, 1 << 20));
    assert_eq!(there.duplicate_window, Duration::from_secs(120));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_without_jetstream_is_told_from_one_that_is_away() {
    let Some(program) = program("nats-server") else { return };
    let port = free_port();
    let bare = Process::new("nats-bare", program).arguments(["--addr", "127.0.0.1", "--port", &port.to_string()]);
    bare.start();
    let bus = connect(&format!("nats://127.0.0.1:{port}"));
    let refused = eventually("the server is there", PATIENCE, async || {
        bus.ping().await.err().filter(|error| !error.message.contains("is away"))
    })
    .await;
    assert!(refused.code == ErrorCode::Unavailable && refused.message.contains("--jetstream"), "{refused}");
    let refused = publish(&bus, "first").await.unwrap_err();
    assert!(refused.code == ErrorCode::Unavailable && refused.message.contains("JetStream"), "{refused}");
    // Hints need none.
    let mut hints = bus.hints(SUBJECT).await.unwrap();
    bus.hint(SUBJECT, envelope("a")).await.unwrap();
    assert_eq!(hints.next().await.unwrap().envelope, envelope("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_replicates_and_loses_nothing_with_a_server() {
    let Some(program) = program("nats-server") else { return };
    let (ports, routes) = ([(); 3].map(|()| free_port()), [(); 3].map(|()| free_port()));
    let all_routes = routes.map(|port| format!("nats://127.0.0.1:{port}")).join(",");
    let servers: Vec<Process> = (0..3)
        .map(|i| {
            let server = Process::new(&format!("nats-{i}"), program.clone());
            let store = server.folder().join("jetstream").display().to_string();
            let (name, port) = (format!("n{i}"), ports[i].to_string());
            let route = format!("nats://127.0.0.1:{}", routes[i]);
            server
                .arguments(
                    [
                        "--addr",
                        "127.0.0.1",
                        "--port",
                        &port,
                        "--jetstream",
                        "--store_dir",
                        &store,
                        "--server_name",
                        &name,
                    ]
                    .map(String::from),
                )
                .arguments(["--cluster_name", "hall", "--cluster", &route, "--routes", &all_routes].map(String::from))
        })
        .collect();
    for server in &servers {
        server.start();
    }
    let urls = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(",");
    let bus = connect(&urls);
    let first =
        eventually("the cluster takes an event", Duration::from_secs(60), async || publish(&bus, "first").await.ok());
    assert_eq!(first.await.durability, Durability::Replicated);

    servers[0].kill();
    eventually("two of three take an event", Duration::from_secs(60), async || publish(&bus, "second").await.ok())
        .await;
    let from = ReplayFrom::After(0);
    let mut seen = Vec::new();
    eventually("both are there", Duration::from_secs(60), async || {
        let mut events = bus.replay(&TenantId::default(), &topic(), from).await.ok()?;
        seen.clear();
        while seen.len() < 2 {
            let next = tokio::time::timeout(Duration::from_secs(5), events.next()).await.ok()?;
            seen.push(next?.ok()?.envelope.payload);
        }
        Some(())
    })
    .await;
    assert_eq!(seen, ["first", "second"]);
}
