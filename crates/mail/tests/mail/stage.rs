//! Replicas of mail, each with its registry beside it, over a set of engines.

use std::{sync::Arc, time::Duration};

use guildhall_agent_registry::Registry;
use guildhall_bus::BusOptions;
use guildhall_domain::{
    AgentId, AgentQuery, Call, Clock, Error, ErrorCode, NewAgent, Principal, PrincipalKind, Result, TenantId,
    agent::PresenceRule,
    mail::{Body, NewMessage},
    ports::{
        AgentRegistry, AuditStore, Bus, Hot, Mail, MailStore, Topics, agent_registry::RegistrationRight,
        bus::Retention, mail_store::MailboxBound,
    },
    principal::roles,
};
use guildhall_guard::{KeyRing, Policy};
use guildhall_mail::MailService;
use guildhall_outbound::{Outbound, OutboundOptions};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::{
    clock::FixedClock,
    engines::{Nats, Postgres, Redis, eventually},
    entropy::SeededEntropy,
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
    pub(crate) nats: Option<Nats>,
    _redis: Option<Redis>,
    folder: tempfile::TempDir,
}

impl Engines {
    pub(crate) fn embedded() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(FixedClock::default()));
        let (hot_url, bus_url) = ("memory:".to_owned(), "embedded:".to_owned());
        let database = DatabaseUrl::parse("sqlite:", folder.path()).unwrap();
        let mut engines = Self { database, hot_url, bus_url, embedded: None, clock, nats: None, _redis: None, folder };
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
        Some(Self { database, hot_url, bus_url, embedded: None, clock, nats: Some(nats), _redis: Some(redis), folder })
    }

    /// The engines as one replica reaches them.
    pub(crate) fn reach(&self, writer: &str) -> Reached {
        if let Some(reached) = &self.embedded {
            return reached.clone();
        }
        let options = StoreOptions {
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed(writer))),
            writer: writer.to_owned(),
            max_connections: CONNECTIONS,
        };
        let store = Store::connect(&self.database, options);
        let hot = guildhall_hot::connect(&self.hot_url, self.clock.clone()).unwrap();
        let options = BusOptions {
            data_dir: self.folder.path().to_owned(),
            clock: self.clock.clone(),
            retention: Retention { age: Duration::from_secs(3_600), bytes: 1 << 20 },
            nats_syncs_always: false,
        };
        let bus = guildhall_bus::connect(&self.bus_url, options).unwrap();
        Reached { mail: store.mail(), audit: store.audit(), store, hot, bus }
    }

    /// Two replicas that are ready, on a database that is migrated.
    pub(crate) async fn replicas(&self) -> (Replica, Replica) {
        let here = self.reach("here");
        here.store.migrate().await.unwrap();
        let here = Replica::start("here", here, self.clock.clone());
        let there = Replica::start("there", self.reach("there"), self.clock.clone());
        here.is_ready().await;
        there.is_ready().await;
        (here, there)
    }
}

#[derive(Clone)]
pub(crate) struct Reached {
    pub(crate) store: Store,
    pub(crate) mail: Arc<dyn MailStore>,
    pub(crate) audit: Arc<dyn AuditStore>,
    pub(crate) hot: Arc<dyn Hot>,
    pub(crate) bus: Arc<dyn Bus>,
}

const CONNECTIONS: u32 = 8;
/// What every replica is started with.
pub(crate) const KEPT: Retention = Retention { age: Duration::from_secs(30 * 24 * 3_600), bytes: 1 << 30 };
pub(crate) const BOUND: MailboxBound = MailboxBound { messages: 1_000 };

/// One replica with its tasks. Dropped, it is gone as if its process had been killed.
pub(crate) struct Replica {
    pub(crate) registry: Arc<dyn AgentRegistry>,
    pub(crate) mail: Arc<dyn Mail>,
    pub(crate) topics: Arc<dyn Topics>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Replica {
    pub(crate) fn start(name: &str, reached: Reached, clock: Arc<dyn Clock>) -> Self {
        let key = format!("k1:{}", "A".repeat(43) + "=").into();
        let key_ring = Arc::new(KeyRing::parse([&key]).unwrap());
        let (policy, entropy) = (Arc::new(Policy::default()), Arc::new(SeededEntropy::new(seed(name))));
        let (registry, registry_tasks) = Registry::start(guildhall_agent_registry::Options {
            agents: reached.store.agents(),
            audit: reached.audit,
            hot: reached.hot.clone(),
            bus: reached.bus.clone(),
            key_ring: key_ring.clone(),
            policy: policy.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            presence: PresenceRule::default(),
            token_ttl: Duration::from_secs(24 * 3_600),
        });
        let (mail, topics, mail_tasks) = MailService::start(guildhall_mail::Options {
            mail: reached.mail,
            topics: reached.store.topics(),
            registry: registry.clone(),
            bus: reached.bus,
            hot: reached.hot,
            policy,
            key_ring,
            clock,
            entropy,
            bound: BOUND,
            retention: KEPT,
            outbound: Outbound::new(OutboundOptions {
                // Where tests receive webhooks; everything else that is private stays so.
                allow_private: vec!["127.0.0.1/32".parse().unwrap()],
                ..OutboundOptions::default()
            }),
        });
        let stop = CancellationToken::new();
        let registry_runs = registry_tasks.into_iter().map(|task| tokio::spawn((task.run)(stop.clone())));
        let mail_runs = mail_tasks.into_iter().map(|task| tokio::spawn((task.run)(stop.clone())));
        let tasks = registry_runs.chain(mail_runs).map(AbortOnDropHandle::new).collect();
        Self { registry, mail, topics, _tasks: tasks }
    }

    pub(crate) async fn is_ready(&self) {
        let (hall, query) = (hall(), AgentQuery { limit: 1, ..AgentQuery::default() });
        eventually("the registry answers", Duration::from_secs(10), async || {
            let listed = self.registry.list(&hall, query.clone()).await;
            listed.and(self.registry.access(&hall, None).await).map_or_else(still_starting, |_| Some(()))
        })
        .await;
    }

    pub(crate) async fn register(&self, name: &str) {
        self.register_as(NewAgent::named(id(name), name)).await;
    }

    pub(crate) async fn register_as(&self, new: NewAgent) {
        self.registry.register(&admin(), new, RegistrationRight::Caller).await.unwrap();
    }
}

fn still_starting(error: Error) -> Option<()> {
    assert!(error.retryable, "{error}");
    None
}

pub(crate) fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

pub(crate) fn hall() -> Call {
    Call::new(Principal::hall(TenantId::default(), "gateway"))
}

pub(crate) fn admin() -> Call {
    Call::new(Principal::new(TenantId::default(), PrincipalKind::Person, "operator", [roles::ADMIN]))
}

pub(crate) fn agent(name: &str) -> Call {
    Call::new(Principal::new(TenantId::default(), PrincipalKind::Agent, name, [roles::AGENT]))
}

pub(crate) fn message(to: &str, body: &str) -> NewMessage {
    NewMessage::new(to.parse().unwrap(), Body::from_text(body).unwrap())
}

#[track_caller]
pub(crate) fn refused<T>(answer: Result<T>, code: ErrorCode) -> Error {
    match answer {
        Ok(_) => panic!("it was allowed; {code} was expected"),
        Err(error) => {
            assert_eq!(error.code, code, "{error}");
            error
        }
    }
}

/// Two replicas may not roll the same dice: they would make the same ids.
fn seed(name: &str) -> u64 {
    name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte))
}
