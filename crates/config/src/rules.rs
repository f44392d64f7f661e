//! What must hold between sections, and for the shape that is to run.

use crate::{AuthMode, Config, EngineUrl, Faults, secret};

/// What the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Every service in one process.
    Up,
    /// One service alone.
    Run(Service),
    /// A command that works on the database itself, such as `guildhall token`.
    Keys,
    /// A command that runs nothing, such as `guildhall config print`.
    None,
}

/// A service that `guildhall run` can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Gateway,
    AgentRegistry,
}

impl Service {
    pub const ALL: [Service; 2] = [Self::Gateway, Self::AgentRegistry];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::AgentRegistry => "agent-registry",
        }
    }
}

impl Config {
    /// Rules that hold whatever runs.
    pub(crate) fn check_sections_together(&self, faults: &mut Faults) {
        if self.auth.mode == AuthMode::Open {
            let listeners = [("gateway.listen", self.gateway.listen), ("gateway.ws_listen", self.gateway.ws_listen)];
            for (key, address) in listeners.into_iter().filter(|(_, address)| !address.ip().is_loopback()) {
                faults.add(
                    key,
                    format!(
                        "{address} can be reached from other machines, and auth.mode = \"open\" believes every caller \
                         to be whoever it says"
                    ),
                    "set auth.mode = \"required\", or listen on 127.0.0.1",
                );
            }
        }
    }

    pub(crate) fn check_shape(&self, shape: Shape, faults: &mut Faults) {
        match shape {
            Shape::Up => {
                self.check_sealing(faults);
                self.check_masks(faults);
            }
            Shape::Run(service) => {
                self.check_engines(service, faults);
                self.check_cluster(service, faults);
                if service == Service::AgentRegistry {
                    self.check_sealing(faults);
                }
                self.check_masks(faults);
            }
            Shape::Keys => {
                self.check_sealing(faults);
                self.check_masks(faults);
            }
            Shape::None => {}
        }
    }

    /// Another process cannot see what is embedded in this one.
    fn check_engines(&self, service: Service, faults: &mut Faults) {
        let mut shared = |key: &str, url: &EngineUrl, embedded: bool, example: &str| {
            if embedded {
                faults.add(
                    key,
                    format!(
                        "{url} lies inside one process, and `guildhall run {}` is one of several",
                        service.as_str()
                    ),
                    format!("set it to an engine that all of them reach, like {example}, or use `guildhall up`"),
                );
            }
        };
        if service == Service::AgentRegistry {
            let database = "\"postgres://user:password@host/database\"";
            shared("database.url", &self.database.url, self.database.is_embedded(), database);
        }
        shared("bus.url", &self.bus.url, self.bus.is_embedded(), "\"nats://host:4222\"");
        shared("hot.url", &self.hot.url, self.hot.is_embedded(), "\"redis://host:6379/0\"");
    }

    fn check_cluster(&self, service: Service, faults: &mut Faults) {
        if service == Service::Gateway && self.agent_registry.endpoints.is_empty() {
            faults.add(
                "agent_registry.endpoints",
                "is empty, and the gateway asks the agent-registry about every caller",
                "write where it is, like [\"http://registry.internal:8021\"]",
            );
        }
        let leaves_the_machine = match service {
            Service::Gateway => self.agent_registry.is_remote(),
            Service::AgentRegistry => !self.agent_registry.listen.ip().is_loopback(),
        };
        if leaves_the_machine && self.cluster.secret.is_none() {
            let key = match service {
                Service::Gateway => "agent_registry.endpoints",
                Service::AgentRegistry => "agent_registry.listen",
            };
            faults.add(
                "cluster.secret",
                format!("is not set, and gRPC leaves this machine ({key})"),
                "set cluster.secret or cluster.secret_file to the same 32 characters or more in every service",
            );
        }
    }

    /// Beside an SQLite file the hall can keep a key of its own; replicas on Postgres must all have the same.
    fn check_sealing(&self, faults: &mut Faults) {
        if self.database.url.scheme().starts_with("postgres") && self.secrets.keys.is_empty() {
            faults.add(
                "secrets.keys",
                "is empty, and every process on this Postgres database must seal with the same keys",
                "set secrets.keys or secrets.keys_file, for example to \"k1:<output of `openssl rand -base64 32`>\"",
            );
        }
    }

    /// A mask taken for the secret would be one that everybody knows.
    fn check_masks(&self, faults: &mut Faults) {
        let masked_url = |url: &EngineUrl| url.expose().contains(&format!("{}@", secret::MASK));
        let found = [
            ("cluster.secret", self.cluster.secret.as_ref().is_some_and(secret::is_mask)),
            ("secrets.keys", self.secrets.keys.iter().any(secret::is_mask)),
            ("database.url", masked_url(&self.database.url)),
            ("bus.url", masked_url(&self.bus.url)),
            ("hot.url", masked_url(&self.hot.url)),
        ];
        for (key, _) in found.into_iter().filter(|(_, masked)| *masked) {
            faults.add(
                key,
                "holds the mask that `guildhall config print` shows in place of a secret",
                format!("put the secret itself there, or its file in {key}_file"),
            );
        }
    }
}
