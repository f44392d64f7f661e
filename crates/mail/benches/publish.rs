//! Events a second through the port of topics, 256 at once, each answered as its engine keeps it: on the embedded log
//! once it is on the disk. One line of JSON for each engine: `cargo bench -p guildhall-mail --bench publish`.
//!
//! Each event has a key of its own, as each of the baseline's has an id.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use guildhall_agent_registry::Registry;
use guildhall_bus::BusOptions;
use guildhall_domain::{
    Call, Principal, PrincipalKind, TenantId,
    agent::PresenceRule,
    event::NewEvent,
    mail::Body,
    ports::{
        Topics,
        bus::{Retention, Topic},
        mail_store::MailboxBound,
    },
    principal::roles,
};
use guildhall_guard::{KeyRing, Policy};
use guildhall_mail::{MailService, Options};
use guildhall_outbound::{Outbound, OutboundOptions};
use guildhall_runtime::{OsEntropy, SystemClock};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{baseline, engines::Nats};
use serde_json::json;
use tempfile::TempDir;

const AT_ONCE: usize = 256;
const EVENTS: usize = 50_000;
/// On the wire an event has its principal, trace and time beside this.
const CONTENT_BYTES: usize = 256;

#[tokio::main]
async fn main() {
    measure("publish/embedded", "embedded:", None).await;
    let Some(nats) = Nats::start().await else { return };
    let (events, at_once) = (EVENTS.to_string(), AT_ONCE.to_string());
    let arguments = ["js-pub", &events, &at_once, "256"];
    let bare = baseline::rate(&arguments, &[("NATS_URL", &nats.url())], "js-pub");
    measure("publish/jetstream", &nats.url(), bare).await;
}

async fn measure(name: &str, bus_url: &str, bare: Option<f64>) {
    let folder = TempDir::new().expect("a folder can be made");
    let topics = topics(&folder, bus_url).await;
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    join_all((0..AT_ONCE).map(|_| publish_while_there_are_any(&*topics, &next))).await;
    let seconds = began.elapsed().as_secs_f64();
    let per_s = EVENTS as f64 / seconds;
    let line = json!({
        "name": name,
        "ops_per_s": per_s.round(),
        "baseline_per_s": bare,
        "of_baseline": bare.map(|bare| per_s / bare),
        "ops": EVENTS,
        "at_once": AT_ONCE,
        "content_bytes": CONTENT_BYTES,
        "seconds": seconds,
    });
    println!("{line}");
}

async fn topics(folder: &TempDir, bus_url: &str) -> Arc<dyn Topics> {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
    let options =
        StoreOptions { clock: clock.clone(), entropy: entropy.clone(), writer: "bench".into(), max_connections: 4 };
    let database = DatabaseUrl::parse("sqlite:", folder.path()).expect("the shortest URL is one");
    let store = Store::connect(&database, options);
    store.migrate().await.expect("a new database can be migrated");
    let retention = Retention { age: Duration::from_secs(24 * 3_600), bytes: 1 << 30 };
    let bus = BusOptions { data_dir: folder.path().into(), clock: clock.clone(), retention, nats_syncs_always: false };
    let bus = guildhall_bus::connect(bus_url, bus).expect("the URL is one of a bus");
    let hot = guildhall_hot::connect("memory:", clock.clone()).expect("memory is there");
    let key = format!("k1:{}", "A".repeat(43) + "=").into();
    let key_ring = Arc::new(KeyRing::parse([&key]).expect("the key is one"));
    let policy = Arc::new(Policy::default());
    let (registry, _) = Registry::start(guildhall_agent_registry::Options {
        agents: store.agents(),
        audit: store.audit(),
        hot: hot.clone(),
        bus: bus.clone(),
        key_ring: key_ring.clone(),
        policy: policy.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        presence: PresenceRule::default(),
        token_ttl: Duration::from_secs(3_600),
    });
    let (_, topics, _) = MailService::start(Options {
        mail: store.mail(),
        topics: store.topics(),
        registry,
        bus,
        hot,
        policy,
        key_ring,
        clock,
        entropy,
        bound: MailboxBound::default(),
        retention,
        outbound: Outbound::new(OutboundOptions::default()),
    });
    topics
}

async fn publish_while_there_are_any(topics: &dyn Topics, next: &AtomicUsize) {
    let call = Call::new(Principal::new(TenantId::default(), PrincipalKind::Agent, "bench", [roles::AGENT]));
    let topic = Topic::new("bench.published").expect("the name is well-formed");
    let content = Body::from_value(&"x".repeat(CONTENT_BYTES - 2)).expect("a text is JSON");
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= EVENTS {
            return;
        }
        let key = Some(format!("event-{number}"));
        let event = NewEvent { content: content.clone(), headers: Vec::new(), idempotency_key: key };
        topics.publish(&call, &topic, event).await.expect("an event is taken");
    }
}
