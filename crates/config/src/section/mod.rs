//! The sections of the file, one a module: what may be said, and what of it makes sense.

mod admin;
mod agent_registry;
mod auth;
mod bus;
mod cluster;
mod database;
mod gateway;
mod hot;
mod limits;
mod mail;
mod outbound;
mod retention;
mod roles;
mod secrets;
mod telemetry;

use std::path::Path;

use serde::de::DeserializeOwned;

pub use self::{
    admin::Admin,
    agent_registry::AgentRegistry,
    auth::{Auth, AuthMode},
    bus::Bus,
    cluster::Cluster,
    database::Database,
    gateway::Gateway,
    hot::Hot,
    limits::Limits,
    mail::Mail,
    outbound::Outbound,
    retention::Retention,
    roles::Role,
    secrets::Secrets,
    telemetry::{LogFormat, Telemetry},
};
use crate::{EngineUrl, Faults, secret};

pub(crate) trait Section: DeserializeOwned {
    const KEY: &'static str;

    /// Fills in what lies in files, and what is derived from the data directory.
    fn complete(&mut self, _data_dir: &Path, _faults: &mut Faults) {}

    /// Names what cannot be meant, as far as this section alone can tell.
    fn validate(&self, _faults: &mut Faults) {}
}

fn url_from_file(key: &str, file: Option<&Path>, url: &mut EngineUrl, faults: &mut Faults) {
    if let Some(text) = secret::from_file(key, file, faults) {
        *url = EngineUrl::new(text.trim());
    }
}

/// An embedded engine's address is its scheme and a path; a server's is a URL (without a host where it is a socket of this machine).
fn check_engine_url(
    key: &str,
    url: &EngineUrl,
    embedded: &[&str],
    served: &[&str],
    example: &str,
    faults: &mut Faults,
) {
    if embedded.contains(&url.scheme()) {
        return;
    }
    let is_server =
        |server: Result<url::Url, _>| server.is_ok_and(|url| served.contains(&url.scheme()) && url.has_authority());
    faults.expect(
        url.servers().all(is_server),
        key,
        "is not the address of an engine that the hall knows",
        &format!("write it like {example}"),
    );
}
