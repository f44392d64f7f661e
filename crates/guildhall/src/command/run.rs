//! `guildhall run <service>`: one service of a hall of many processes.

use clap::Args;
use guildhall_config::{Service, Shape};

use super::ConfigArgs;
use crate::{failure::Failure, screen, wiring};

/// Services that the hall is to have and this version does not.
const NOT_YET: [&str; 4] = ["matrix-bridge", "schema-cache", "summarizer", "sync"];

/// Runs one service alone, over engines that it shares with the others.
///
/// The configuration names Postgres, NATS and Redis; health and figures are at admin.listen.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall run agent-registry --config /etc/guildhall.toml\n  \
                        guildhall run gateway --config /etc/guildhall.toml")]
pub(super) struct Run {
    /// gateway or agent-registry
    #[arg(value_name = "SERVICE", value_parser = service)]
    service: Service,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Run {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.config.load(Shape::Run(self.service))?;
        let service = self.service.as_str();
        let show = move |address| {
            // The service runs on when nobody reads where it is.
            let _ = screen::say(format!("{service} listens on {address}"));
        };
        Ok(wiring::run(&config, self.service, show).await?)
    }
}

pub(super) fn service(name: &str) -> Result<Service, String> {
    let known = Service::ALL.map(Service::as_str).join(", ");
    Service::ALL.into_iter().find(|service| service.as_str() == name).ok_or_else(|| {
        if NOT_YET.contains(&name) {
            format!("{name} is not part of this version; it has: {known}")
        } else {
            format!("there is no such service; this version has: {known}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_not_built_yet_is_refused_by_name() {
        assert_eq!(service("gateway"), Ok(Service::Gateway));
        let refusal = service("summarizer").unwrap_err();
        assert_eq!(refusal, "summarizer is not part of this version; it has: gateway, agent-registry");
        assert!(service("gatewy").unwrap_err().starts_with("there is no such service"));
    }
}
