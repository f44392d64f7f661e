//! What a list of 1,000 agents costs: processor time a call, at the core and through the client in process and over
//! a socket; and how many agents register a second. Embedded engines. Prints one line of JSON.
//!
//! `cargo bench -p guildhall-agent-registry --bench list_agents [calls]`

#![expect(clippy::unwrap_used, reason = "a bench that cannot run says why")]

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use guildhall_agent_registry::{Options, Registry, grpc};
use guildhall_bus::BusOptions;
use guildhall_domain::{
    AgentId, AgentQuery, Call, NewAgent, Principal, TenantId,
    agent::{PAGE_MAX, PresenceRule},
    ports::{AgentRegistry, agent_registry::RegistrationRight, bus::Retention},
};
use guildhall_guard::{KeyRing, Policy};
use guildhall_rpc::{RemoteOptions, ServeOptions, Transport, serve};
use guildhall_runtime::{Listener, OsEntropy, Shutdown, SystemClock};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use tokio_util::sync::CancellationToken;

const AGENTS: usize = 1_000;
/// Registrations in flight: what a fleet that starts looks like.
const AT_ONCE: usize = 64;

fn main() {
    let calls: u32 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(20_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(calls));
}

async fn measure(calls: u32) {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let core = start(folder.path(), &stop).await;
    let call = Call::within(Principal::hall(TenantId::default(), "bench"), Duration::from_secs(3_600));

    let begin = Instant::now();
    stream::iter(0..AGENTS)
        .for_each_concurrent(AT_ONCE, async |n| {
            let new = NewAgent::named(AgentId::new(format!("agent-{n:04}")).unwrap(), format!("Agent {n}"));
            core.register(&call, new, RegistrationRight::Caller).await.unwrap();
        })
        .await;
    let per_second = AGENTS as f64 / begin.elapsed().as_secs_f64();

    let in_process = grpc::client(Transport::in_process(grpc::server(core.clone())));
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "bench").unwrap();
    let address = format!("http://{}", listener.address());
    let server = grpc::server(core.clone());
    tokio::spawn(async move { serve(listener, server, ServeOptions::default(), &Shutdown::default()).await });
    let remote = grpc::client(Transport::remote([address], RemoteOptions::new("agent-registry")).unwrap());

    let whole = AgentQuery { limit: PAGE_MAX, ..AgentQuery::default() };
    let part = AgentQuery { role: Some("agent".into()), ..whole.clone() };
    // Two orders cheaper than the rest: enough of them to be more than the kernel's tick.
    let at_core = cost(calls * 20, &*core, &call, &whole).await;
    let filtered = cost(calls / 10, &*core, &call, &part).await;
    let through_client = cost(calls, &*in_process, &call, &whole).await;
    let over_tcp = cost(calls / 100, &*remote, &call, &whole).await;
    stop.cancel();
    println!(
        r#"{{"bench":"list_agents","agents":{AGENTS},"calls":{calls},"cpu_us_per_call":{{"core":{at_core:.2},"core_filtered":{filtered:.2},"in_process":{through_client:.2},"remote_loopback":{over_tcp:.2}}},"registrations_per_second":{per_second:.0}}}"#
    );
}

async fn start(folder: &std::path::Path, stop: &CancellationToken) -> Arc<dyn AgentRegistry> {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
    let database = DatabaseUrl::parse("sqlite:", folder).unwrap();
    let store = Store::connect(
        &database,
        StoreOptions { clock: clock.clone(), entropy: entropy.clone(), writer: "bench".into(), max_connections: 4 },
    );
    store.migrate().await.unwrap();
    let bus = BusOptions {
        data_dir: folder.to_owned(),
        clock: clock.clone(),
        retention: Retention { age: Duration::from_secs(3_600), bytes: 1 << 20 },
        nats_syncs_always: false,
    };
    let key = KeyRing::new_key_text("bench", &*entropy).unwrap();
    let (registry, tasks) = Registry::start(Options {
        agents: store.agents(),
        audit: store.audit(),
        hot: guildhall_hot::connect("memory:", clock.clone()).unwrap(),
        bus: guildhall_bus::connect("embedded:", bus).unwrap(),
        key_ring: Arc::new(KeyRing::parse([&key]).unwrap()),
        policy: Arc::new(Policy::default()),
        clock,
        entropy,
        presence: PresenceRule::default(),
        token_ttl: Duration::from_secs(3_600),
    });
    for task in tasks {
        tokio::spawn((task.run)(stop.clone()));
    }
    let hall = Call::new(Principal::hall(TenantId::default(), "bench"));
    while registry.list(&hall, AgentQuery::default()).await.is_err() || registry.access(&hall, None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    registry
}

/// Microseconds of processor time a call, one after the other.
async fn cost(calls: u32, registry: &dyn AgentRegistry, call: &Call, query: &AgentQuery) -> f64 {
    for _ in 0..calls / 10 {
        one(registry, call, query).await;
    }
    let before = processor_time();
    for _ in 0..calls {
        one(registry, call, query).await;
    }
    (processor_time() - before).as_secs_f64() * 1e6 / f64::from(calls)
}

async fn one(registry: &dyn AgentRegistry, call: &Call, query: &AgentQuery) {
    let page = registry.list(call, query.clone()).await.unwrap();
    assert_eq!(page.agents.len(), AGENTS);
}

/// Of every thread of this process, as the kernel has counted it.
fn processor_time() -> Duration {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let nanos = threads.flatten().map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap();
        stat.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap()
    });
    Duration::from_nanos(nanos.sum())
}
