//! A hall for sockets: registry and mail over SQLite, the embedded bus, and one or more gateways on ports of their own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use guildhall_agent_registry::Registry;
use guildhall_bus::BusOptions;
use guildhall_domain::{
    AgentId, AgentQuery, Call, Clock, Entropy, NewAgent, Principal, PrincipalKind, TenantId, TokenRequest,
    agent::PresenceRule,
    mail::{Body, NewMessage},
    ports::{
        AgentRegistry, Bus, Hot, Mail, Topics,
        agent_registry::RegistrationRight,
        bus::{NodeName, Retention},
        hot::Rate,
        mail_store::MailboxBound,
    },
    principal::roles,
};
use guildhall_gateway::{Admission, AuthMode, Gateway, Options, Pace};
use guildhall_guard::{KeyRing, Policy};
use guildhall_mail::MailService;
use guildhall_outbound::{Outbound, OutboundOptions};
use guildhall_runtime::{Health, Metrics, OsEntropy, Shutdown, SystemClock, Task};
use guildhall_store::{DatabaseUrl, Store, StoreOptions};
use guildhall_testkit::engines::eventually;
use secrecy::ExposeSecret as _;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

const KEPT: Retention = Retention { age: Duration::from_secs(24 * 3_600), bytes: 1 << 30 };

pub(crate) struct Stage {
    pub(crate) registry: Arc<dyn AgentRegistry>,
    pub(crate) mail: Arc<dyn Mail>,
    pub(crate) topics: Arc<dyn Topics>,
    pub(crate) bus: Arc<dyn Bus>,
    hot: Arc<dyn Hot>,
    policy: Arc<Policy>,
    clock: Arc<dyn Clock>,
    _tasks: Vec<AbortOnDropHandle<()>>,
    _folder: tempfile::TempDir,
}

/// What a test may want otherwise.
pub(crate) struct Terms {
    pub(crate) mode: AuthMode,
    pub(crate) max_sockets: usize,
    pub(crate) rate: Rate,
    /// The bus of this gateway alone, when it is not the hall's.
    pub(crate) bus: Option<Arc<dyn Bus>>,
    pub(crate) pace: Pace,
}

impl Default for Terms {
    fn default() -> Self {
        let rate = Rate { per_second: 100_000.0, burst: 100_000 };
        Self { mode: AuthMode::Open, max_sockets: 20_000, rate, bus: None, pace: Pace::default() }
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(OsEntropy));
        let database = DatabaseUrl::parse("sqlite:", folder.path()).unwrap();
        let store = Store::connect(
            &database,
            StoreOptions { clock: clock.clone(), entropy: entropy.clone(), writer: "test".into(), max_connections: 4 },
        );
        store.migrate().await.unwrap();
        let hot = guildhall_hot::connect("memory:", clock.clone()).unwrap();
        let bus = guildhall_bus::connect(
            "embedded:",
            BusOptions {
                data_dir: folder.path().to_owned(),
                clock: clock.clone(),
                retention: KEPT,
                nats_syncs_always: false,
            },
        )
        .unwrap();
        let key = format!("k1:{}", "A".repeat(43) + "=").into();
        let key_ring = Arc::new(KeyRing::parse([&key]).unwrap());
        let policy = Arc::new(Policy::default());
        let (registry, registry_tasks) = Registry::start(guildhall_agent_registry::Options {
            agents: store.agents(),
            audit: store.audit(),
            hot: hot.clone(),
            bus: bus.clone(),
            key_ring: key_ring.clone(),
            policy: policy.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            presence: PresenceRule::default(),
            token_ttl: Duration::from_secs(24 * 3_600),
        });
        let (mail, topics, mail_tasks) = MailService::start(guildhall_mail::Options {
            mail: store.mail(),
            topics: store.topics(),
            registry: registry.clone(),
            bus: bus.clone(),
            hot: hot.clone(),
            policy: policy.clone(),
            clock: clock.clone(),
            entropy,
            bound: MailboxBound::default(),
            retention: KEPT,
            outbound: Outbound::new(OutboundOptions::default()),
            key_ring,
        });
        let run = |task: Task| AbortOnDropHandle::new(tokio::spawn((task.run)(CancellationToken::new())));
        let tasks = registry_tasks.into_iter().chain(mail_tasks).map(run).collect();
        let hall = hall();
        eventually("the registry answers", Duration::from_secs(10), async || {
            let listed = registry.list(&hall, AgentQuery { limit: 1, ..AgentQuery::default() }).await;
            listed.and(registry.access(&hall, None).await).ok()
        })
        .await;
        Self { registry, mail, topics, bus, hot, policy, clock, _tasks: tasks, _folder: folder }
    }

    pub(crate) async fn with(agents: &[&str]) -> Self {
        let stage = Self::new().await;
        for agent in agents {
            stage.register(NewAgent::named(id(agent), *agent)).await;
        }
        stage
    }

    pub(crate) async fn register(&self, new: NewAgent) {
        self.registry.register(&admin(), new, RegistrationRight::Caller).await.unwrap();
    }

    pub(crate) async fn gateway(&self) -> Gate {
        self.gateway_with(Terms::default()).await
    }

    pub(crate) async fn gateway_with(&self, terms: Terms) -> Gate {
        let (stop, drained) = (CancellationToken::new(), CancellationToken::new());
        let options = Options {
            registry: self.registry.clone(),
            mail: self.mail.clone(),
            topics: self.topics.clone(),
            node: NodeName::random(&OsEntropy),
            hot: self.hot.clone(),
            bus: terms.bus.unwrap_or_else(|| self.bus.clone()),
            clock: self.clock.clone(),
            policy: self.policy.clone(),
            mode: terms.mode,
            admission: Admission::default(),
            rate: terms.rate,
            max_sessions: 100,
            max_sockets: terms.max_sockets,
            session_idle: Duration::from_secs(60),
            health: Health::new(self.clock.clone(), Shutdown::default()),
            metrics: Metrics::install().unwrap(),
        };
        let Gateway { router, tasks } = Gateway::with_pace(options, terms.pace, &stop, &drained);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async move { axum::serve(listener, router).await.unwrap() };
        let mut handles = vec![AbortOnDropHandle::new(tokio::spawn(serving))];
        handles.extend(tasks.into_iter().map(|(_, task)| AbortOnDropHandle::new(tokio::spawn(task))));
        // It listens to hints from now on.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Gate { address, stop, _tasks: handles }
    }

    pub(crate) async fn send(&self, from: &str, to: &str, body: &str) {
        self.send_message(from, NewMessage::new(to.parse().unwrap(), Body::from_text(body).unwrap())).await;
    }

    /// The numbers from 0, all at once: what one sender sent is handed out as such runs.
    pub(crate) async fn send_run(&self, from: &str, to: &str, count: usize) {
        let message = |n: usize| NewMessage::new(to.parse().unwrap(), Body::from_text(n.to_string()).unwrap());
        self.mail.send(&agent(from), (0..count).map(message).collect()).await.unwrap();
    }

    pub(crate) async fn send_message(&self, from: &str, message: NewMessage) {
        self.mail.send(&agent(from), vec![message]).await.unwrap();
    }

    /// How much the agent could take now: what is in nobody's hands.
    pub(crate) async fn waiting(&self, name: &str) -> usize {
        self.mail.peek(&agent(name), &id(name), 100).await.unwrap().len()
    }

    /// How much is in the agent's mailbox, in someone's hands or not.
    pub(crate) async fn open(&self, name: &str) -> u64 {
        self.mail.unread(&hall(), vec![id(name)]).await.unwrap()[0].waiting
    }

    pub(crate) async fn token(&self, name: &str) -> String {
        let request = TokenRequest {
            tenant: TenantId::default(),
            kind: PrincipalKind::Agent,
            id: name.to_owned(),
            roles: [roles::AGENT.to_owned()].into(),
            toolsets: None,
            ttl: None,
        };
        self.registry.issue_token(&admin(), request).await.unwrap().token.expose_secret().to_owned()
    }
}

/// A gateway that serves. Dropped, it is gone as if its process had been killed, but for what its sockets have open.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    _tasks: Vec<AbortOnDropHandle<()>>,
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
