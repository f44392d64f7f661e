//! The one place that knows which shape runs: `guildhall up` puts every service into one process, `guildhall run`
//! one service alone, between the engines and listeners that the configuration names.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use guildhall_agent_registry::{self as agent_registry, Registry};
use guildhall_config::{AuthMode, Config, Service};
use guildhall_domain::{
    Result,
    agent::PresenceRule,
    ports::{
        AgentRegistry, Mail, Topics,
        bus::{NodeName, Retention},
        hot::Rate,
        mail_store::MailboxBound,
    },
};
use guildhall_gateway::{self as gateway, Admission, Gateway};
use guildhall_guard::{Policy, policy::RoleRule};
use guildhall_mail::{self as mail, MailService};
use guildhall_outbound::{Outbound, OutboundOptions};
use guildhall_rpc::{Beside, RemoteOptions, ServeOptions, Transport};
use guildhall_runtime::{Listener, Policy as TaskPolicy, Task, admin};
use guildhall_store::Store;
use tokio_util::sync::CancellationToken;

use crate::process::{Engines, Process, Stages, hold_data_dir, key_ring};

/// Where a running hall can be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoints {
    pub(crate) http: SocketAddr,
    pub(crate) websocket: SocketAddr,
}

/// Every service in one process. `ready` is called once all of it works.
pub(crate) async fn up(config: &Config, ready: impl FnOnce(Endpoints) + Send + 'static) -> Result<()> {
    let process = Process::begin(config, "guildhall")?;
    let doors = Doors::bind(config)?;
    let endpoints = doors.endpoints();
    let _alone = hold_data_dir(&config.data_dir)?;
    let engines = Engines::connect(config, &process)?;
    let store = engines.store(config, "up")?;
    let stages = Stages::default();
    let schema = process.keep_database(config, &store);
    engines.watch(config, &process);
    let core = start_registry(config, &process, &engines, &store, schema.clone(), &stages)?;
    let (mail, topics) = start_mail(config, &process, &engines, &store, core.clone(), schema, &stages)?;
    // The same way as over a socket, with the same deadlines and limits, less the socket.
    let (mail, topics) = mail::grpc::client(Transport::in_process(mail::grpc::server(mail, topics)));
    let registry = agent_registry::grpc::client(Transport::in_process(agent_registry::grpc::server(core)));
    let services = Services { registry, mail, topics };
    doors.open(start_gateway(config, &process, &engines, services, &stages)?, &process, &stages);
    when_ready(&process, move || ready(endpoints));
    process.end(stages, Some(store)).await
}

/// One service alone, with an admin port beside it. `ready` is given the address of its own port.
pub(crate) async fn run(
    config: &Config,
    service: Service,
    ready: impl FnOnce(SocketAddr) + Send + 'static,
) -> Result<()> {
    let process = Process::begin(config, &format!("guildhall-{}", service.as_str()))?;
    let engines = Engines::connect(config, &process)?;
    engines.watch(config, &process);
    let stages = Stages::default();
    let (address, store) = match service {
        Service::AgentRegistry => run_registry(config, &process, &engines, &stages)?,
        Service::Gateway => run_gateway(config, &process, &engines, &stages)?,
    };
    let admin = Listener::bind(config.admin.listen, "admin.listen")?;
    stages.serve(&process, "admin", admin, admin::router(process.health.clone(), process.metrics.clone()));
    when_ready(&process, move || ready(address));
    process.end(stages, store).await
}

fn run_registry(
    config: &Config,
    process: &Process,
    engines: &Engines,
    stages: &Stages,
) -> Result<(SocketAddr, Option<Store>)> {
    let listener = Listener::bind(config.agent_registry.listen, "agent_registry.listen")?;
    let address = listener.address();
    let store = engines.store(config, Service::AgentRegistry.as_str())?;
    let schema = process.keep_database(config, &store);
    let core = start_registry(config, process, engines, &store, schema.clone(), stages)?;
    let (mail, topics) = start_mail(config, process, engines, &store, core.clone(), schema, stages)?;
    let server = Beside::new(agent_registry::grpc::server(core), mail::grpc::server(mail, topics));
    let options = ServeOptions { cluster_secret: config.cluster.secret.clone() };
    let shutdown = process.shutdown.clone();
    let serve = async move { guildhall_rpc::serve(listener, server, options, &shutdown).await };
    process.tasks.spawn("grpc", TaskPolicy::Critical, stages.listeners.running.track_future(serve));
    Ok((address, Some(store)))
}

fn run_gateway(
    config: &Config,
    process: &Process,
    engines: &Engines,
    stages: &Stages,
) -> Result<(SocketAddr, Option<Store>)> {
    let doors = Doors::bind(config)?;
    let address = doors.endpoints().http;
    let options =
        RemoteOptions { cluster_secret: config.cluster.secret.clone(), ..RemoteOptions::new("agent-registry") };
    let transport = Transport::remote(&config.agent_registry.endpoints, options)?;
    let (mail, topics) = mail::grpc::client(transport.clone());
    let services = Services { registry: agent_registry::grpc::client(transport), mail, topics };
    doors.open(start_gateway(config, process, engines, services, stages)?, process, stages);
    // The gateway keeps nothing in the database; where it is told of one, `/health` says whether that answers.
    if config.database.is_embedded() {
        return Ok((address, None));
    }
    let store = engines.store(config, Service::Gateway.as_str())?;
    process.watch_database(config, &store);
    Ok((address, Some(store)))
}

/// The registry for a command that works on the database itself, without listeners.
pub(crate) struct LocalRegistry {
    pub(crate) registry: Arc<dyn AgentRegistry>,
    process: Process,
    stages: Stages,
    store: Store,
}

impl LocalRegistry {
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        let process = Process::quiet()?;
        let engines = Engines::connect(config, &process)?;
        let store = engines.store(config, "command")?;
        if config.database.migrate_at_start {
            store.migrate().await?;
        }
        let (schema, stages) = (CancellationToken::new(), Stages::default());
        schema.cancel();
        let registry = start_registry(config, &process, &engines, &store, schema, &stages)?;
        Ok(Self { registry, process, stages, store })
    }

    /// Lets what was begun in the background finish.
    pub(crate) async fn close(self) -> Result<()> {
        self.process.shutdown.begin("the command is done");
        self.process.end(self.stages, Some(self.store)).await
    }
}

fn start_registry(
    config: &Config,
    process: &Process,
    engines: &Engines,
    store: &Store,
    schema: CancellationToken,
    stages: &Stages,
) -> Result<Arc<dyn AgentRegistry>> {
    let (registry, tasks) = Registry::start(agent_registry::Options {
        agents: store.agents(),
        audit: store.audit(),
        hot: engines.hot.clone(),
        bus: engines.bus.clone(),
        key_ring: Arc::new(key_ring(config, &*process.entropy)?),
        policy: policy(config)?,
        clock: process.clock.clone(),
        entropy: process.entropy.clone(),
        presence: PresenceRule {
            idle_after: config.agent_registry.idle_after,
            offline_after: config.agent_registry.offline_after,
        },
        token_ttl: config.auth.token_ttl,
    });
    spawn_once_migrated(tasks, &schema, process, stages);
    Ok(registry)
}

/// Mail and topics, in the process of the registry, whose core they ask.
fn start_mail(
    config: &Config,
    process: &Process,
    engines: &Engines,
    store: &Store,
    registry: Arc<dyn AgentRegistry>,
    schema: CancellationToken,
    stages: &Stages,
) -> Result<(Arc<dyn Mail>, Arc<dyn Topics>)> {
    let (mail, topics, tasks) = MailService::start(mail::Options {
        mail: store.mail(),
        topics: store.topics(),
        registry,
        bus: engines.bus.clone(),
        hot: engines.hot.clone(),
        policy: policy(config)?,
        key_ring: Arc::new(key_ring(config, &*process.entropy)?),
        clock: process.clock.clone(),
        entropy: process.entropy.clone(),
        bound: MailboxBound { messages: config.mail.mailbox_messages },
        retention: Retention { age: config.retention.mail_age, bytes: config.retention.mail_size },
        outbound: Outbound::new(OutboundOptions {
            allow_private: config.outbound.allow.clone(),
            ..OutboundOptions::default()
        }),
    });
    spawn_once_migrated(tasks, &schema, process, stages);
    Ok((mail, topics))
}

/// Before the schema is there every try would fail, and say so.
fn spawn_once_migrated(tasks: Vec<Task>, schema: &CancellationToken, process: &Process, stages: &Stages) {
    for task in tasks {
        let schema = schema.clone();
        stages.registry.spawn(process, task.name, move |stop| async move {
            tokio::select! {
                () = schema.cancelled() => (task.run)(stop).await,
                () = stop.cancelled() => {}
            }
        });
    }
}

/// What the gateway asks, wherever it runs.
struct Services {
    registry: Arc<dyn AgentRegistry>,
    mail: Arc<dyn Mail>,
    topics: Arc<dyn Topics>,
}

fn start_gateway(
    config: &Config,
    process: &Process,
    engines: &Engines,
    services: Services,
    stages: &Stages,
) -> Result<axum::Router> {
    let Services { registry, mail, topics } = services;
    let options = gateway::Options {
        registry,
        mail,
        topics,
        node: NodeName::random(&*process.entropy),
        hot: engines.hot.clone(),
        bus: engines.bus.clone(),
        clock: process.clock.clone(),
        policy: policy(config)?,
        mode: match config.auth.mode {
            AuthMode::Open => gateway::AuthMode::Open,
            AuthMode::Required => gateway::AuthMode::Required,
        },
        admission: Admission {
            hosts: config.gateway.allowed_hosts.clone(),
            origins: config.gateway.allowed_origins.clone(),
        },
        rate: Rate { per_second: config.limits.requests_per_second, burst: config.limits.burst },
        max_sessions: config.gateway.max_sessions,
        max_sockets: config.gateway.max_sockets,
        session_idle: config.gateway.session_idle,
        health: process.health.clone(),
        metrics: process.metrics.clone(),
    };
    let Gateway { router, tasks } = Gateway::new(options, process.shutdown.soft(), &stages.gateway.stop);
    for (name, task) in tasks {
        stages.gateway.spawn(process, name, |_| task);
    }
    Ok(router)
}

fn policy(config: &Config) -> Result<Arc<Policy>> {
    let roles = config.roles.iter().map(|(name, role)| Ok((name.clone(), RoleRule::new(&role.allow, &role.deny)?)));
    Ok(Arc::new(Policy::with_roles(roles.collect::<Result<Vec<_>>>()?)?))
}

/// The gateway's listeners: two ports that answer alike.
struct Doors {
    http: Listener,
    websocket: Listener,
}

impl Doors {
    fn bind(config: &Config) -> Result<Self> {
        Ok(Self {
            http: Listener::bind(config.gateway.listen, "gateway.listen or --listen")?,
            websocket: Listener::bind(config.gateway.ws_listen, "gateway.ws_listen or --ws-listen")?,
        })
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints { http: self.http.address(), websocket: self.websocket.address() }
    }

    fn open(self, router: axum::Router, process: &Process, stages: &Stages) {
        stages.serve(process, "gateway.listen", self.http, router.clone());
        stages.serve(process, "gateway.ws_listen", self.websocket, router);
    }
}

/// How often a start looks whether all parts are there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn when_ready(process: &Process, ready: impl FnOnce() + Send + 'static) {
    let (health, shutdown) = (process.health.clone(), process.shutdown.clone());
    process.tasks.spawn("ready", TaskPolicy::MayFinish, async move {
        while !health.not_ready().is_empty() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.soft().cancelled() => return Ok(()),
            }
        }
        ready();
        Ok(())
    });
}
