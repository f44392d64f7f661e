//! guildhall.toml: defaults, file, environment, flags; every fault at once.
//!
//! `default.toml` is the documentation and the first layer; [`layers`] lays the others over it, [`reader`] makes typed
//! sections of the result key by key, each section of [`section`] is completed and validated, and [`rules`] looks at
//! them together and at what the shape needs that is to run. Whatever is wrong on the way is gathered in [`Faults`].

mod address;
mod engine_url;
mod fault;
mod layers;
mod reader;
mod rules;
mod secret;
pub mod section;
#[cfg(test)]
mod tests;
pub mod unit;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Format, Toml},
};
use serde::Serialize;

pub use self::{
    engine_url::EngineUrl,
    fault::{Fault, Faults},
    layers::{DEFAULT_FILE, DEFAULTS, Flags, Sources},
    rules::{Service, Shape},
    secret::Secret,
    section::{AuthMode, LogFormat},
};
use self::{layers::Layers, reader::Reader, section::Section};

/// The configuration in force: complete, with addresses and paths as they are used.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    pub data_dir: PathBuf,
    pub auth: section::Auth,
    pub gateway: section::Gateway,
    pub database: section::Database,
    pub bus: section::Bus,
    pub hot: section::Hot,
    pub agent_registry: section::AgentRegistry,
    pub admin: section::Admin,
    pub cluster: section::Cluster,
    pub limits: section::Limits,
    pub mail: section::Mail,
    pub secrets: section::Secrets,
    pub roles: BTreeMap<String, section::Role>,
    pub telemetry: section::Telemetry,
    pub retention: section::Retention,
    pub outbound: section::Outbound,
}

impl Config {
    /// Reads `sources` for `shape`, or says everything that is wrong.
    pub fn load(sources: &Sources, shape: Shape) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut config = Self::read(sources, &mut faults);
        config.complete(&mut faults);
        config.validate(&mut faults);
        config.check_sections_together(&mut faults);
        config.check_shape(shape, &mut faults);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// As TOML that can be loaded again, with secrets masked.
    pub fn print_masked(&self) -> String {
        let text = toml_edit::ser::to_string_pretty(self).expect("every section is made of what TOML can say");
        let mut document: toml_edit::DocumentMut = text.parse().expect("what was just written is TOML");
        for (_, section) in document.iter_mut() {
            let Some(section) = section.as_table_like_mut() else { continue };
            let from_files: Vec<String> =
                section.iter().filter_map(|(key, _)| key.strip_suffix("_file").map(str::to_owned)).collect();
            for key in from_files {
                section.remove(&key);
            }
        }
        document.to_string()
    }

    fn read(sources: &Sources, faults: &mut Faults) -> Self {
        let layers = Layers::read(sources, faults);
        let defaults = Figment::from(Toml::string(DEFAULTS)).extract().expect("default.toml is TOML, a test reads it");
        let mut reader = Reader::new(&layers, defaults, faults);
        Self {
            data_dir: absolute(reader.data_dir().unwrap_or_else(|| default_data_dir(&sources.environment))),
            auth: reader.section(),
            gateway: reader.section(),
            database: reader.section(),
            bus: reader.section(),
            hot: reader.section(),
            agent_registry: reader.section(),
            admin: reader.section(),
            cluster: reader.section(),
            limits: reader.section(),
            mail: reader.section(),
            secrets: reader.section(),
            roles: reader.roles(),
            telemetry: reader.section(),
            retention: reader.section(),
            outbound: reader.section(),
        }
    }

    fn complete(&mut self, faults: &mut Faults) {
        let data_dir = self.data_dir.clone();
        self.database.complete(&data_dir, faults);
        self.bus.complete(&data_dir, faults);
        self.hot.complete(&data_dir, faults);
        self.cluster.complete(&data_dir, faults);
        self.secrets.complete(&data_dir, faults);
    }

    fn validate(&self, faults: &mut Faults) {
        self.auth.validate(faults);
        self.gateway.validate(faults);
        self.database.validate(faults);
        self.bus.validate(faults);
        self.hot.validate(faults);
        self.agent_registry.validate(faults);
        self.cluster.validate(faults);
        self.limits.validate(faults);
        self.mail.validate(faults);
        self.secrets.validate(faults);
        self.roles.iter().for_each(|(name, role)| role.check(name, faults));
        self.telemetry.validate(faults);
        self.retention.validate(faults);
    }
}

/// So that what is printed, and what a child process is told, means the same folder everywhere.
fn absolute(folder: PathBuf) -> PathBuf {
    std::path::absolute(&folder).unwrap_or(folder)
}

/// A home of its own, so that commands find the same hall from every folder.
fn default_data_dir(environment: &BTreeMap<String, String>) -> PathBuf {
    let folder = |name: &str| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    match (folder("XDG_DATA_HOME"), folder("HOME")) {
        (Some(data), _) => data.join("guildhall"),
        (None, Some(home)) => home.join(".local/share/guildhall"),
        (None, None) => PathBuf::from("./guildhall-data"),
    }
}
