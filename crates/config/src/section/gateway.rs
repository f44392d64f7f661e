//! The door: where it listens, whom it believes a `Host` and an `Origin`, how many sessions it keeps.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use super::Section;
use crate::{Faults, address, unit::duration};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    #[serde(with = "address")]
    pub listen: SocketAddr,
    #[serde(with = "address")]
    pub ws_listen: SocketAddr,
    pub allowed_hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub max_sessions: usize,
    pub max_sockets: usize,
    #[serde(with = "duration")]
    pub session_idle: Duration,
}

impl Section for Gateway {
    const KEY: &'static str = "gateway";

    fn validate(&self, faults: &mut Faults) {
        faults.expect(
            self.listen != self.ws_listen || self.listen.port() == 0,
            "gateway.ws_listen",
            "is the same address as gateway.listen",
            "give one of them another port",
        );
        for host in &self.allowed_hosts {
            let plain = !host.is_empty() && !host.contains(['/', ' ', '@', '*']);
            faults.expect(
                plain,
                "gateway.allowed_hosts",
                &format!("{host:?} is not a host"),
                "write the name alone, or name and port: \"hall.example.org\"",
            );
        }
        for origin in &self.allowed_origins {
            let is_origin = Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            faults.expect(
                is_origin,
                "gateway.allowed_origins",
                &format!("{origin:?} is not an origin"),
                "write scheme, host and port alone: \"https://app.example.org\"",
            );
        }
        faults.expect(self.max_sockets > 0, "gateway.max_sockets", "no socket could be opened", "allow 1 at least");
        faults.expect(self.max_sessions > 0, "gateway.max_sessions", "no session could be opened", "allow 1 at least");
        faults.expect(
            self.session_idle >= Duration::from_secs(1),
            "gateway.session_idle",
            "a session would end at once",
            "give it a second at least",
        );
    }
}
