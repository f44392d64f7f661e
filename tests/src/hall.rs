//! A running hall, in either shape.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use guildhall_testkit::engines::{Disk, Nats, Postgres, Process, Redis, eventually, free_port};
use serde_json::Value;

use crate::{
    Caller, Setup, Shape,
    engine::{Engine, Engines, Sqlite},
    front::Front,
    program::{self, Outcome},
    wire::Wire,
};

/// How long anything may take to be ready. A debug build on two busy cores is far from what users get.
const START: Duration = Duration::from_secs(30);

/// One running process of the hall.
pub struct Service {
    pub process: Process,
    /// Where its `/ready` is; a gateway's first address.
    health: SocketAddr,
    /// A gateway's second address.
    websocket: Option<SocketAddr>,
}

impl Service {
    pub async fn ready(&self) {
        self.says_yes("/ready").await;
    }

    /// Also while its engines are away.
    pub async fn listens(&self) {
        self.says_yes("/health").await;
    }

    async fn says_yes(&self, path: &str) {
        let caller = Caller::to(format!("http://{}", self.health));
        self.process
            .ready(async || {
                let answer = caller.request(reqwest::Method::GET, path).send().await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await;
    }

    pub async fn restart(&self) {
        self.process.kill();
        self.process.start();
        self.ready().await;
    }
}

pub struct Hall {
    shape: Shape,
    // Dropped before the engines: services do not outlive what they stand on.
    front: Option<Front>,
    gateways: Vec<Service>,
    registries: Vec<Service>,
    engines: Engines,
    wires: BTreeMap<String, Wire>,
    environment: Vec<(String, String)>,
    database_url: String,
    admin: Option<String>,
}

impl Hall {
    /// Starts one and waits until it is ready; `None` when the run goes without the engines it needs.
    pub async fn start(shape: Shape, setup: Setup) -> Option<Self> {
        let mut hall = match shape {
            Shape::Embedded => Self::embedded(&setup).await,
            Shape::Distributed => Self::distributed(&setup).await?,
        };
        if setup.start_without_engines {
            for engine in hall.engines() {
                engine.take_away().await;
            }
        }
        for service in hall.services() {
            service.process.start();
        }
        if !setup.start_without_engines {
            for service in hall.services() {
                service.ready().await;
            }
        }
        if setup.required {
            hall.admin = Some(hall.issue_token(&["--agent", "admin", "--role", "admin"]).await);
            for gateway in 0..hall.gateways.len() {
                let admin = hall.caller_of(gateway).token(hall.admin.as_deref().unwrap());
                eventually("the administrator's token is good", START, async || {
                    (admin.get("/api/v1/agents").await.status == 200).then_some(())
                })
                .await;
            }
        }
        Some(hall)
    }

    async fn embedded(setup: &Setup) -> Self {
        let (http, ws) = (local(free_port()), local(free_port()));
        let process = Process::new("guildhall-up", program::guildhall());
        let data = process.folder().join("data");
        std::fs::create_dir(&data).unwrap();
        let file = data.join("guildhall.db");
        let database_url = format!("sqlite:{}", file.display());
        let mut environment = variables([
            ("GUILDHALL_DATA_DIR", data.display().to_string()),
            ("GUILDHALL_GATEWAY__LISTEN", http.to_string()),
            ("GUILDHALL_GATEWAY__WS_LISTEN", ws.to_string()),
        ]);
        environment.extend(setup.settings.iter().cloned());
        let mut process = process.arguments(["up"]).environment(environment.clone());
        if let Some(mebibytes) = setup.small_disk {
            process = process.on_small_disk(data, mebibytes);
        }
        Self {
            shape: Shape::Embedded,
            front: None,
            gateways: vec![Service { process, health: http, websocket: Some(ws) }],
            registries: Vec::new(),
            engines: Engines::Embedded { sqlite: Sqlite::at(file) },
            wires: BTreeMap::new(),
            environment,
            database_url,
            admin: None,
        }
    }

    async fn distributed(setup: &Setup) -> Option<Self> {
        let (nats, redis) = (Nats::start().await?, Redis::start().await?);
        let (postgres, database_url) = if setup.database_may_die {
            let own = match setup.small_disk {
                Some(mebibytes) => Postgres::start_on_small_disk(mebibytes).await?,
                None => Postgres::start(Disk::Lazy).await?,
            };
            let url = own.new_database().await;
            (Some(own), url)
        } else {
            (None, Postgres::database().await?)
        };
        let ports: Vec<SocketAddr> = (0..2).map(|_| local(free_port())).collect();
        let mut wires = Wires { wanted: setup.wired, laid: BTreeMap::new() };
        let (nats_url, redis_url) = (nats.url(), redis.url());
        let nats_url = readdressed(&nats_url, wires.before("nats", address_in(&nats_url)).await);
        let redis_url = readdressed(&redis_url, wires.before("redis", address_in(&redis_url)).await);
        let services_database_url =
            readdressed(&database_url, wires.before("postgres", address_in(&database_url)).await);
        let mut endpoints = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            endpoints.push(format!("http://{}", wires.before(&format!("registry-{number}"), *port).await));
        }
        let mut environment = variables([
            ("GUILDHALL_DATABASE__URL", services_database_url),
            ("GUILDHALL_DATABASE__MIGRATE_AT_START", "false".into()),
            ("GUILDHALL_DATABASE__MAX_CONNECTIONS", "8".into()),
            ("GUILDHALL_BUS__URL", nats_url),
            ("GUILDHALL_HOT__URL", redis_url),
            ("GUILDHALL_AGENT_REGISTRY__ENDPOINTS", endpoints.join(",")),
            ("GUILDHALL_CLUSTER__SECRET", "c0ffee".repeat(8)),
            ("GUILDHALL_SECRETS__KEYS", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into()),
        ]);
        environment.extend(setup.settings.iter().cloned());

        // From two at once, as two pods would.
        let migrate = || Outcome::of(migration(&environment));
        let (one, other) = tokio::join!(migrate(), migrate());
        one.ok();
        other.ok();

        let service = |name: &str, health_key: &str, own: Vec<(String, String)>| {
            let health = local(free_port());
            let process = Process::new(name, program::guildhall());
            let own_environment = variables([
                ("GUILDHALL_DATA_DIR", process.folder().display().to_string()),
                (health_key, health.to_string()),
            ]);
            let process = process.arguments(["run", name]).environment(environment.clone());
            Service { process: process.environment(own_environment).environment(own), health, websocket: None }
        };
        let registries = ports.iter().map(|port| {
            let listen = variables([("GUILDHALL_AGENT_REGISTRY__LISTEN", port.to_string())]);
            service("agent-registry", "GUILDHALL_ADMIN__LISTEN", listen)
        });
        let registries = registries.collect();
        let gateway = || {
            let websocket = local(free_port());
            let own = variables([
                ("GUILDHALL_ADMIN__LISTEN", local(free_port()).to_string()),
                ("GUILDHALL_GATEWAY__WS_LISTEN", websocket.to_string()),
            ]);
            Service { websocket: Some(websocket), ..service("gateway", "GUILDHALL_GATEWAY__LISTEN", own) }
        };
        let gateways = vec![gateway(), gateway()];
        let mut behind = Vec::new();
        for (number, gateway) in gateways.iter().enumerate() {
            behind.push(wires.before(&format!("gateway-{number}"), gateway.health).await);
        }
        let front = Front::before(behind).await;
        Some(Self {
            shape: Shape::Distributed,
            front: Some(front),
            gateways,
            registries,
            engines: Engines::Distributed { nats, redis, postgres },
            wires: wires.laid,
            environment,
            database_url,
            admin: None,
        })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The one address that clients know.
    pub fn address(&self) -> SocketAddr {
        self.front.as_ref().map_or(self.gateways[0].health, |front| front.address)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A caller who says nothing of itself.
    pub fn caller(&self) -> Caller {
        Caller::to(self.url())
    }

    /// In an open hall: a caller that names itself.
    pub fn agent(&self, agent_id: &str) -> Caller {
        self.caller().agent(agent_id)
    }

    /// In a hall that asks for tokens: its administrator.
    pub fn admin(&self) -> Caller {
        self.caller().token(self.admin.as_deref().expect("Setup::required() makes an administrator"))
    }

    /// One gateway or two; all of them by themselves, for what round-robin would hide.
    pub fn gateways(&self) -> &[Service] {
        &self.gateways
    }

    pub fn gateway_addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.health).collect()
    }

    /// A caller of one gateway alone.
    pub fn caller_of(&self, gateway: usize) -> Caller {
        Caller::to(format!("http://{}", self.gateways[gateway].health))
    }

    /// A caller of the second address of one gateway.
    pub fn caller_of_websocket(&self, gateway: usize) -> Caller {
        let websocket = self.gateways[gateway].websocket.expect("a gateway has two addresses");
        Caller::to(format!("http://{websocket}"))
    }

    /// Two, or none in the embedded shape.
    pub fn registries(&self) -> &[Service] {
        &self.registries
    }

    /// `nats`, `redis`, `postgres`, `registry-0` or `gateway-0`, `registry-1` or `gateway-1`, in a hall that was set up
    /// with wires.
    pub fn wire(&self, name: &str) -> &Wire {
        self.wires.get(name).unwrap_or_else(|| panic!("there is no wire {name}"))
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.registries.iter().chain(&self.gateways)
    }

    /// One process of each service that has a replica to stand in for it; in the embedded shape the only one there is.
    pub fn one_of_each(&self) -> impl Iterator<Item = &Service> {
        self.registries.first().into_iter().chain(self.gateways.first())
    }

    /// The database, which the scenario must have asked for (`Setup::database_may_die`).
    pub fn database(&self) -> Engine<'_> {
        match &self.engines {
            Engines::Embedded { sqlite } => Engine::Sqlite(sqlite),
            Engines::Distributed { postgres, .. } => {
                Engine::Postgres(postgres.as_ref().expect("Setup::database_may_die() gives a server of its own"))
            }
        }
    }

    /// Leaves no byte free on the disk under the database (`Setup::small_disk`).
    pub fn fill_disk(&self) {
        match self.database() {
            Engine::Postgres(postgres) => postgres.fill_disk(),
            _ => self.gateways[0].process.fill_disk(),
        }
    }

    pub fn free_disk(&self) {
        match self.database() {
            Engine::Postgres(postgres) => postgres.free_disk(),
            _ => self.gateways[0].process.free_disk(),
        }
    }

    /// Every engine that can be away by itself in this shape.
    pub fn engines(&self) -> Vec<Engine<'_>> {
        match &self.engines {
            Engines::Embedded { .. } => vec![self.database()],
            Engines::Distributed { nats, redis, .. } => {
                vec![self.database(), Engine::Redis(redis), Engine::Nats(nats)]
            }
        }
    }

    /// The hot store forgets everything, and so does every process that kept signs of life in its memory: what is
    /// left is the database.
    pub async fn lose_hot_store(&self) {
        let remembering = if self.registries.is_empty() { &self.gateways } else { &self.registries };
        for service in remembering {
            service.process.kill();
        }
        if let Engines::Distributed { redis, .. } = &self.engines {
            redis.flush().await;
        }
        for service in remembering {
            service.process.start();
        }
        for service in remembering {
            service.ready().await;
        }
    }

    /// A folder for files of the scenario, gone with the hall.
    pub fn folder(&self) -> PathBuf {
        self.gateways[0].process.folder().to_owned()
    }

    /// For a look behind the hall's back.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The secrets of its configuration; of a sealing key the part that is one, without its name.
    pub fn secrets(&self) -> Vec<String> {
        let secret = |name: &str| name == "GUILDHALL_CLUSTER__SECRET" || name == "GUILDHALL_SECRETS__KEYS";
        self.environment
            .iter()
            .filter(|(name, _)| secret(name))
            .map(|(_, value)| value.rsplit(':').next().unwrap().to_owned())
            .collect()
    }

    /// `guildhall <arguments>` with this hall's configuration.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut environment = self.environment.clone();
        if let Some(admin) = &self.admin {
            environment.push(("GUILDHALL_TOKEN".into(), admin.clone()));
        }
        environment.push(("GUILDHALL_URL".into(), self.url()));
        let mut command = program::command(program::guildhall(), &environment);
        command.args(arguments);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments)).await
    }

    /// `guildhall token issue …`, as an operator does beside the running hall.
    pub async fn issue_token(&self, arguments: &[&str]) -> String {
        let issued = self.run(&[&["token", "issue", "--json"], arguments].concat()).await.ok();
        issued.json()["token"].as_str().unwrap().to_owned()
    }

    /// What `/health` says, from any gateway.
    pub async fn health(&self) -> Value {
        self.caller().get("/health").await.ok()
    }
}

/// Wires as they are laid.
struct Wires {
    wanted: bool,
    laid: BTreeMap<String, Wire>,
}

impl Wires {
    /// The address that leads to `far`, by a wire if they are wanted.
    async fn before(&mut self, name: &str, far: SocketAddr) -> SocketAddr {
        if !self.wanted {
            return far;
        }
        let wire = Wire::to(far).await;
        let near = wire.address;
        self.laid.insert(name.to_owned(), wire);
        near
    }
}

/// The address of a server in its URL.
fn address_in(url: &str) -> SocketAddr {
    let rest = url.split_once("://").unwrap().1;
    let host = rest.rsplit('@').next().unwrap().split('/').next().unwrap();
    host.parse().unwrap()
}

/// The same URL with another address.
fn readdressed(url: &str, address: SocketAddr) -> String {
    url.replacen(&address_in(url).to_string(), &address.to_string(), 1)
}

fn migration(environment: &[(String, String)]) -> tokio::process::Command {
    let mut command = program::command(program::guildhall(), environment);
    command.arg("migrate");
    command
}

fn variables<const N: usize>(variables: [(&str, String); N]) -> Vec<(String, String)> {
    variables.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
