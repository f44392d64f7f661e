//! The agent-registry: where it listens, where it is found, when silence means absence.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use super::Section;
use crate::{Faults, address, unit::duration};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRegistry {
    #[serde(with = "address")]
    pub listen: SocketAddr,
    pub endpoints: Vec<String>,
    #[serde(with = "duration")]
    pub idle_after: Duration,
    #[serde(with = "duration")]
    pub offline_after: Duration,
}

impl AgentRegistry {
    /// True when an endpoint lies on another machine, so that calls to it leave this one.
    pub(crate) fn is_remote(&self) -> bool {
        self.endpoints.iter().filter_map(|endpoint| Url::parse(endpoint).ok()).any(|url| match url.host() {
            Some(url::Host::Domain(name)) => name != "localhost",
            Some(url::Host::Ipv4(address)) => !address.is_loopback(),
            Some(url::Host::Ipv6(address)) => !address.is_loopback(),
            None => false,
        })
    }
}

impl Section for AgentRegistry {
    const KEY: &'static str = "agent_registry";

    fn validate(&self, faults: &mut Faults) {
        for endpoint in &self.endpoints {
            let is_http =
                Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            faults.expect(
                is_http,
                "agent_registry.endpoints",
                &format!("{endpoint:?} is not an address of a service"),
                "write it like \"http://registry.internal:8021\"",
            );
        }
        faults.expect(
            !self.idle_after.is_zero() && self.idle_after < self.offline_after,
            "agent_registry.offline_after",
            "an agent must be idle before it is offline",
            "make idle_after longer than nothing and shorter than offline_after",
        );
    }
}
