//! How a hall is set up for a scenario.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One process: `guildhall up`.
    Embedded,
    /// Two gateways and two of each other service behind round-robin, over NATS, Postgres and Redis.
    Distributed,
}

/// What differs from the defaults, the same for both shapes.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(crate) required: bool,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) database_may_die: bool,
    pub(crate) start_without_engines: bool,
    pub(crate) wired: bool,
    pub(crate) small_disk: Option<u32>,
}

impl Setup {
    /// `auth.mode = "open"`, and limits that no scenario reaches by accident.
    pub fn open() -> Self {
        let setup = Self {
            required: false,
            settings: Vec::new(),
            database_may_die: false,
            start_without_engines: false,
            wired: false,
            small_disk: None,
        };
        setup.set("limits.requests_per_second", "1000").set("limits.burst", "1000")
    }

    /// `auth.mode = "required"`; the hall has an administrator, [`crate::Hall::admin`].
    pub fn required() -> Self {
        Self { required: true, ..Self::open() }.set("auth.mode", "required")
    }

    /// A key of the configuration, as it is written in `guildhall.toml`. The last one counts.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((environment_name(key), value.to_owned()));
        self
    }

    /// The scenario takes the database away: it must not be the one that other tests use at the same time.
    pub fn database_may_die(mut self) -> Self {
        self.database_may_die = true;
        self
    }

    /// The database lies on a disk of so many MiB, which the scenario fills.
    pub fn small_disk(self, mebibytes: u32) -> Self {
        Self { small_disk: Some(mebibytes), ..self.database_may_die() }
    }

    /// There are wires that can be cut between the services, and to their engines, where there are any.
    pub fn wired(self) -> Self {
        Self { wired: true, ..self }
    }

    /// The services are started while every engine is away; the scenario brings them back.
    pub fn start_without_engines(self) -> Self {
        Self { start_without_engines: true, ..self.database_may_die() }
    }
}

/// `gateway.listen` is `GUILDHALL_GATEWAY__LISTEN`.
pub(crate) fn environment_name(key: &str) -> String {
    format!("GUILDHALL_{}", key.to_uppercase().replace('.', "__"))
}
