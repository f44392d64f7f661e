//! A process of the hall: its engines, its tasks, and its end.
//!
//! What is started ends in the opposite order: first the listeners serve their last request, then the gateway sends
//! on what it gathered, then the registry finishes, and the database is closed last.

use std::{
    fs::{File, TryLockError},
    future::Future,
    path::Path,
    sync::Arc,
};

use guildhall_bus::BusOptions;
use guildhall_config::{Config, LogFormat};
use guildhall_domain::{
    Clock, Entropy, Error, Result,
    ports::{Bus, Hot, bus::Retention},
};
use guildhall_guard::{ExposeSecret as _, KeyRing, Secret};
use guildhall_runtime::{
    Component, Health, Listener, Metrics, OsEntropy, Policy as TaskPolicy, Shutdown, SystemClock, Tasks, Telemetry,
    TelemetryOptions, supervise, telemetry, wait_for,
};
use guildhall_store::{DatabaseUrl, SchemaState, Store, StoreOptions};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What every process of the hall has.
pub(crate) struct Process {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: Tasks,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    telemetry: Option<Telemetry>,
}

impl Process {
    /// A process that serves: with logs and traces, and stopped by signals.
    pub(crate) fn begin(config: &Config, service: &str) -> Result<Self> {
        let telemetry = telemetry::init(&TelemetryOptions {
            service: service.to_owned(),
            log_format: match config.telemetry.log_format {
                LogFormat::Text => telemetry::LogFormat::Text,
                LogFormat::Json => telemetry::LogFormat::Json,
            },
            log_filter: config.telemetry.log_filter.clone(),
            otlp_endpoint: config.telemetry.otlp_endpoint.clone(),
        })?;
        let process = Self { telemetry: Some(telemetry), ..Self::quiet()? };
        process.shutdown.listen_for_signals()?;
        process.tasks.spawn("metrics", TaskPolicy::Critical, process.metrics.clone().keep(process.shutdown.clone()));
        Ok(process)
    }

    /// A process that a command needs for a moment.
    pub(crate) fn quiet() -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let shutdown = Shutdown::default();
        Ok(Self {
            entropy: Arc::new(OsEntropy),
            tasks: Tasks::new(shutdown.clone()),
            health: Health::new(clock.clone(), shutdown.clone()),
            metrics: Metrics::install()?,
            telemetry: None,
            clock,
            shutdown,
        })
    }

    /// Brings the database to this version's schema as soon as it answers, or waits until someone has; then keeps its
    /// health true. The token is cancelled once the schema is there.
    pub(crate) fn keep_database(&self, config: &Config, store: &Store) -> CancellationToken {
        let migrates = config.database.migrate_at_start;
        let there = CancellationToken::new();
        let first = {
            let (store, there) = (store.clone(), there.clone());
            move || {
                let (store, there) = (store.clone(), there.clone());
                async move {
                    if migrates {
                        store.migrate().await?;
                    }
                    match store.schema().await? {
                        SchemaState::Current { .. } => {
                            there.cancel();
                            Ok(())
                        }
                        SchemaState::Behind { version, newest } => Err(Error::unavailable(format!(
                            "its schema is {version} and this program's is {newest}; run `guildhall migrate`"
                        ))),
                        SchemaState::Ahead { version, newest } => Err(Error::unavailable(format!(
                            "its schema {version} is newer than this program's {newest}; run a newer guildhall"
                        ))),
                    }
                }
            }
        };
        self.watch_with(config, store, first);
        there
    }

    /// Keeps the health of a database true that others migrate.
    pub(crate) fn watch_database(&self, config: &Config, store: &Store) {
        let first = store.clone();
        self.watch_with(config, store, move || {
            let store = first.clone();
            async move { store.ping().await }
        });
    }

    fn watch_with<F>(&self, config: &Config, store: &Store, first: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let engine = if config.database.is_embedded() { "sqlite" } else { "postgres" };
        let component = self.health.component("database", engine);
        let store = store.clone();
        self.watch("database", component, config.database.url.to_string(), first, move || {
            let store = store.clone();
            async move { store.ping().await }
        });
    }

    /// Waits for an engine, then notices when it goes away and comes back.
    fn watch<F, G>(
        &self,
        name: &'static str,
        component: Component,
        what: String,
        first: impl FnMut() -> F + Send + 'static,
        ping: impl FnMut() -> G + Send + 'static,
    ) where
        F: Future<Output = Result<()>> + Send + 'static,
        G: Future<Output = Result<()>> + Send + 'static,
    {
        let (entropy, shutdown) = (self.entropy.clone(), self.shutdown.clone());
        self.tasks.spawn(name, TaskPolicy::Critical, async move {
            tokio::select! {
                () = wait_for(&component, &what, entropy, first) => {}
                () = shutdown.soft().cancelled() => return Ok(()),
            }
            supervise(component, what, shutdown, ping).await
        });
    }

    /// Runs until the process is told to stop or something in it dies, then ends everything in order.
    pub(crate) async fn end(self, stages: Stages, store: Option<Store>) -> Result<()> {
        let soft = self.shutdown.soft().clone();
        self.tasks.spawn("end", TaskPolicy::Critical, async move {
            soft.cancelled().await;
            stages.listeners.end().await;
            stages.gateway.end().await;
            stages.registry.end().await;
            if let Some(store) = store {
                // What is not closed shows in the chain as a process that did not end in order.
                if let Err(error) = store.audit().close_epochs().await {
                    tracing::warn!(%error, "the audit epochs of this process stay open");
                }
                store.close().await;
            }
            Ok(())
        });
        let ended = self.tasks.wait().await;
        if let Some(telemetry) = self.telemetry {
            telemetry.flush().await;
        }
        ended
    }
}

/// Tasks that end together, after those that depend on them.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) stop: CancellationToken,
    pub(crate) running: TaskTracker,
}

impl Stage {
    pub(crate) fn spawn<F>(&self, process: &Process, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.stop.clone());
        let task = async move {
            task.await;
            Ok(())
        };
        process.tasks.spawn(name, TaskPolicy::Critical, self.running.track_future(task));
    }

    async fn end(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

/// In the order in which they end.
#[derive(Default)]
pub(crate) struct Stages {
    pub(crate) listeners: Stage,
    pub(crate) gateway: Stage,
    pub(crate) registry: Stage,
}

impl Stages {
    pub(crate) fn serve(&self, process: &Process, name: &'static str, listener: Listener, router: axum::Router) {
        let shutdown = process.shutdown.clone();
        self.listeners.spawn(process, name, |_| async move { listener.serve(router, &shutdown).await });
    }
}

/// The engines under a process, as their URLs choose them. Connecting touches nothing yet.
pub(crate) struct Engines {
    pub(crate) hot: Arc<dyn Hot>,
    pub(crate) bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Engines {
    pub(crate) fn connect(config: &Config, process: &Process) -> Result<Self> {
        create_data_dir(&config.data_dir)?;
        let retention = Retention { age: config.retention.events_age, bytes: config.retention.events_size };
        let options = BusOptions {
            data_dir: config.bus.folder().to_owned(),
            clock: process.clock.clone(),
            retention,
            nats_syncs_always: config.bus.nats_syncs_always,
        };
        Ok(Self {
            hot: guildhall_hot::connect(config.hot.url.expose(), process.clock.clone())?,
            bus: guildhall_bus::connect(config.bus.url.expose(), options)?,
            clock: process.clock.clone(),
            entropy: process.entropy.clone(),
        })
    }

    /// `writer`: what this process does, for its name in the audit chain.
    pub(crate) fn store(&self, config: &Config, writer: &str) -> Result<Store> {
        let url = DatabaseUrl::parse(config.database.url.expose(), &config.data_dir)?;
        let options = StoreOptions {
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            writer: format!("{writer}@{}", machine_name()),
            max_connections: config.database.max_connections,
        };
        Ok(Store::connect(&url, options))
    }

    pub(crate) fn watch(&self, config: &Config, process: &Process) {
        let hot = process.health.component("hot", engine(config.hot.url.scheme()));
        let bus = process.health.component("bus", engine(config.bus.url.scheme()));
        let ping_hot = ping(self.hot.clone(), |hot| async move { hot.ping().await });
        let ping_bus = ping(self.bus.clone(), |bus| async move { bus.ping().await });
        process.watch("hot", hot, config.hot.url.to_string(), ping_hot.clone(), ping_hot);
        process.watch("bus", bus, config.bus.url.to_string(), ping_bus.clone(), ping_bus);
    }
}

fn ping<E: Clone + Send, F>(engine: E, ping: impl Fn(E) -> F + Clone) -> impl FnMut() -> F + Clone {
    move || ping(engine.clone())
}

/// An engine's name in `/health`; a URL with TLS names the same engine.
fn engine(scheme: &str) -> &str {
    match scheme {
        "rediss" => "redis",
        "tls" => "nats",
        other => other,
    }
}

/// The keys of the configuration; without any, that of the data directory, which is made at the first start.
pub(crate) fn key_ring(config: &Config, entropy: &dyn Entropy) -> Result<KeyRing> {
    if !config.secrets.keys.is_empty() {
        return KeyRing::parse(&config.secrets.keys);
    }
    let path = config.data_dir.join("keys");
    if !path.exists() {
        write_private(&path, KeyRing::new_key_text("k1", entropy)?.expose_secret())?;
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::invalid(format!("cannot read the keys in {}: {error}", path.display())))?;
    let keys: Vec<Secret> = text.lines().filter(|line| !line.trim().is_empty()).map(Secret::from).collect();
    KeyRing::parse(&keys)
}

fn create_data_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        Error::invalid(format!(
            "cannot make the data directory {}: {error}; choose another with --data or data_dir",
            dir.display()
        ))
    })
}

/// For one hall at a time, as long as the file is open: what it keeps in memory, another on the same files would not
/// know.
pub(crate) fn hold_data_dir(dir: &Path) -> Result<File> {
    create_data_dir(dir)?;
    let unfit = |error| {
        Error::invalid(format!(
            "the data directory {} cannot be written: {error}; choose another with --data or data_dir",
            dir.display()
        ))
    };
    let file = File::options().create(true).append(true).open(dir.join("up.lock")).map_err(unfit)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(unfit(error)),
        Err(TryLockError::WouldBlock) => Err(Error::conflict(format!(
            "another hall runs on the data directory {}: stop it, or choose another with --data or data_dir",
            dir.display()
        ))),
    }
}

/// Readable by its owner alone, and there whole or not at all: two commands may be the first at the same time, and
/// then both use what one of them wrote.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::{ErrorKind, Write as _};
    let written = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("."))).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error),
            Ok(_) | Err(_) => Ok(()),
        }
    });
    written.map_err(|error| Error::invalid(format!("cannot write the keys to {}: {error}", path.display())))
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "local".to_owned() } else { name.trim().to_owned() }
}
