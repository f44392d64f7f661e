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
}

impl Setup {
    /// `auth.mode = "open"`, and limits that no scenario reaches by accident.
    pub fn open() -> Self {
        let setup =
            Self { required: false, settings: Vec::new(), database_may_die: false, start_without_engines: false };
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

    /// The services are started while every engine is away; the scenario brings them back.
    pub fn start_without_engines(self) -> Self {
        Self { start_without_engines: true, ..self.database_may_die() }
    }
}

/// `gateway.listen` is `GUILDHALL_GATEWAY__LISTEN`.
pub(crate) fn environment_name(key: &str) -> String {
    format!("GUILDHALL_{}", key.to_uppercase().replace('.', "__"))
}
