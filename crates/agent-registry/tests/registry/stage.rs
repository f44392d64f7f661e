//! Replicas of the registry over a set of engines.

use std::{any::Any, sync::Arc, time::Duration};

use guildhall_agent_registry::{Options, Registry, grpc};
use guildhall_bus::BusOptions;
use guildhall_domain::{
    AgentQuery, Call, Clock, Error, Principal, TenantId,
    agent::PresenceRule,
    ports::{AgentRegistry, AgentStore, AuditStore, Bus, Hot, bus::Retention},
};
use guildhall_guard::{KeyRing, Policy, token};
use guildhall_rpc::{RemoteOptions, ServeOptions, Transport, serve};
use guildhall_runtime::{Listener, Shutdown};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{
    clock::FixedClock,
    contract::registry::Stage,
    engines::{Nats, Postgres, Redis, eventually},
    entropy::SeededEntropy,
    fault::{FaultPlan, Faulty},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What replicas share. Each of them connects for itself, as its process would, where the engine lives elsewhere.
pub(crate) struct Engines {
    database: DatabaseUrl,
    hot_url: String,
    bus_url: String,
    /// The embedded engines are one for all replicas.
    embedded: Option<Reached>,
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) redis: Option<Redis>,
    pub(crate) nats: Option<Nats>,
    folder: tempfile::TempDir,
}

impl Engines {
    pub(crate) fn embedded() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(FixedClock::default()));
        let (hot_url, bus_url) = ("memory:".to_owned(), "embedded:".to_owned());
        let database = DatabaseUrl::parse("sqlite:", folder.path()).unwrap();
        let mut engines = Self { database, hot_url, bus_url, embedded: None, clock, redis: None, nats: None, folder };
        engines.embedded = Some(engines.reach("one-process"));
        engines
    }

    pub(crate) async fn distributed() -> Option<Self> {
        Self::over(&Postgres::database().await?).await
    }

    /// With a database server that the test may stop.
    pub(crate) async fn on(postgres: &Postgres) -> Option<Self> {
        Self::over(&postgres.new_database().await).await
    }

    async fn over(database: &str) -> Option<Self> {
        let (redis, nats) = (Redis::start().await?, Nats::start().await?);
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(FixedClock::default()));
        let database = DatabaseUrl::parse(database, folder.path()).unwrap();
        let (hot_url, bus_url) = (redis.url(), nats.url());
        Some(Self { database, hot_url, bus_url, embedded: None, clock, redis: Some(redis), nats: Some(nats), folder })
    }

    fn store(&self, writer: &str) -> Store {
        let entropy = Arc::new(SeededEntropy::new(seed(writer)));
        let options =
            StoreOptions { clock: self.clock.clone(), entropy, writer: writer.to_owned(), max_connections: 4 };
        Store::connect(&self.database, options)
    }

    fn hot(&self) -> Arc<dyn Hot> {
        guildhall_hot::connect(&self.hot_url, self.clock.clone()).unwrap()
    }

    fn bus(&self) -> Arc<dyn Bus> {
        let options = BusOptions {
            data_dir: self.folder.path().to_owned(),
            clock: self.clock.clone(),
            retention: Retention { age: Duration::from_secs(3_600), bytes: 1 << 20 },
            nats_syncs_always: false,
        };
        guildhall_bus::connect(&self.bus_url, options).unwrap()
    }

    /// The engines as one replica reaches them.
    pub(crate) fn reach(&self, writer: &str) -> Reached {
        if let Some(reached) = &self.embedded {
            return reached.clone();
        }
        let store = self.store(writer);
        Reached { agents: store.agents(), audit: store.audit(), store, hot: self.hot(), bus: self.bus() }
    }
}

#[derive(Clone)]
pub(crate) struct Reached {
    pub(crate) store: Store,
    pub(crate) agents: Arc<dyn AgentStore>,
    pub(crate) audit: Arc<dyn AuditStore>,
    pub(crate) hot: Arc<dyn Hot>,
    pub(crate) bus: Arc<dyn Bus>,
}

/// One replica with its tasks. Dropped, it is gone as if its process had been killed.
pub(crate) struct Replica {
    pub(crate) registry: Arc<dyn AgentRegistry>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Replica {
    pub(crate) fn start(name: &str, reached: Reached, clock: Arc<dyn Clock>) -> Self {
        let key = format!("k1:{}", "A".repeat(43) + "=").into();
        let (registry, tasks) = Registry::start(Options {
            agents: reached.agents,
            audit: reached.audit,
            hot: reached.hot,
            bus: reached.bus,
            key_ring: Arc::new(KeyRing::parse([&key]).unwrap()),
            policy: Arc::new(Policy::default()),
            clock,
            entropy: Arc::new(SeededEntropy::new(seed(name))),
            presence: PresenceRule::default(),
            token_ttl: Duration::from_secs(24 * 3_600),
        });
        let stop = CancellationToken::new();
        let tasks =
            tasks.into_iter().map(|task| AbortOnDropHandle::new(tokio::spawn((task.run)(stop.clone())))).collect();
        Self { registry, stop, tasks }
    }

    /// Ends in order.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    pub(crate) async fn is_ready(&self) {
        let (hall, query) = (hall(), AgentQuery { limit: 1, ..AgentQuery::default() });
        eventually("the registry answers", Duration::from_secs(10), async || {
            let listed = self.registry.list(&hall, query.clone()).await;
            listed.and(self.registry.access(&hall, None).await).map_or_else(still_starting, |_| Some(()))
        })
        .await;
    }
}

fn still_starting(error: Error) -> Option<()> {
    assert!(error.retryable, "{error}");
    None
}

pub(crate) fn hall() -> Call {
    Call::new(Principal::hall(TenantId::default(), "gateway"))
}

/// Two replicas may not roll the same dice: they would make the same ids.
fn seed(name: &str) -> u64 {
    name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte))
}

pub(crate) async fn stage(engines: Engines) -> Stage {
    stage_over(engines, |reached| reached).await
}

/// With faults between the replicas and their agents: answers are lost, writes arrive twice, reads are old.
pub(crate) async fn stage_over_faulty_agents(engines: Engines) -> Stage {
    let faulty = |reached: Reached| Reached {
        agents: Arc::new(Faulty::new(reached.agents, FaultPlan::seeded(21))),
        // Not the chain: read at two moments, it would rightly be called broken.
        ..reached
    };
    Stage { is_faulty: true, ..stage_over(engines, faulty).await }
}

async fn stage_over(engines: Engines, faults: impl Fn(Reached) -> Reached) -> Stage {
    let here = engines.reach("here");
    here.store.migrate().await.unwrap();
    let bus = here.bus.clone();
    let here = Replica::start("here", faults(here), engines.clock.clone());
    let there = Replica::start("there", faults(engines.reach("there")), engines.clock.clone());
    here.is_ready().await;
    there.is_ready().await;
    Stage {
        here: here.registry.clone(),
        there: there.registry.clone(),
        bus,
        clock: engines.clock.clone(),
        judge: |token, view, now| token::verify(token, view, now).map(|good| good.principal).map_err(Error::from),
        is_faulty: false,
        engines: Box::new((here, there, engines)),
    }
}

pub(crate) fn in_process(stage: Stage) -> Stage {
    let client = |registry| grpc::client(Transport::in_process(grpc::server(registry)));
    Stage { here: client(stage.here), there: client(stage.there), ..stage }
}

pub(crate) fn over_tcp(stage: Stage) -> Stage {
    let mut keep: Vec<Box<dyn Any + Send + Sync>> = vec![stage.engines];
    let mut client = |registry| {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
        let address = format!("http://{}", listener.address());
        let server = grpc::server(registry);
        keep.push(Box::new(AbortOnDropHandle::new(tokio::spawn(async move {
            serve(listener, server, ServeOptions::default(), &Shutdown::default()).await.unwrap();
        }))));
        grpc::client(Transport::remote([address], RemoteOptions::new("agent-registry")).unwrap())
    };
    let (here, there) = (client(stage.here), client(stage.there));
    Stage { here, there, engines: Box::new(keep), ..stage }
}
