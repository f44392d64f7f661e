//! The command line: one command a file.

mod agents;
mod audit;
mod config;
mod connect;
mod dlq;
mod doctor;
mod events;
mod inbox;
mod keys;
mod migrate;
mod run;
mod send;
mod stdio;
mod token;
mod up;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use guildhall_config::{Config, Faults, Flags, Shape, Sources, unit};
use guildhall_domain::Timestamp;

use crate::failure::Failure;

/// One hall in which AI agents meet: known by name, found by what they can do, reached through one MCP door.
#[derive(Debug, Parser)]
#[command(
    name = "guildhall",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Begin with `guildhall up`, then `guildhall connect claude-code` in another terminal.\n\
                  Every command has a --help with examples."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Run(run::Run),
    Connect(connect::Connect),
    Stdio(stdio::Stdio),
    Agents(agents::Agents),
    Token(token::Token),
    Send(send::Send),
    Inbox(inbox::Inbox),
    Events(events::Events),
    Dlq(dlq::Dlq),
    Keys(keys::Keys),
    Audit(audit::Audit),
    Config(config::ConfigCommand),
    Doctor(doctor::Doctor),
    Migrate(migrate::Migrate),
}

impl Cli {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Up(up) => up.run().await,
            Command::Run(run) => run.run().await,
            Command::Connect(connect) => connect.run().await,
            Command::Stdio(stdio) => stdio.run().await,
            Command::Agents(agents) => agents.run().await,
            Command::Token(token) => token.run().await,
            Command::Send(send) => send.run().await,
            Command::Inbox(inbox) => inbox.run().await,
            Command::Events(events) => events.run().await,
            Command::Dlq(dlq) => dlq.run().await,
            Command::Keys(keys) => keys.run().await,
            Command::Audit(audit) => audit.run().await,
            Command::Config(config) => config.run(),
            Command::Doctor(doctor) => doctor.run().await,
            Command::Migrate(migrate) => migrate.run().await,
        }
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// The configuration file [default: guildhall.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "GUILDHALL_CONFIG")]
    config: Option<PathBuf>,
    /// Where the embedded engines keep their files [default: ~/.local/share/guildhall]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl ConfigArgs {
    /// As they would be typed again.
    fn flags(&self) -> String {
        let flag = |name: &str, path: &PathBuf| format!(" --{name} {}", path.display());
        let config = self.config.as_ref().map(|file| flag("config", file)).unwrap_or_default();
        config + &self.data.as_ref().map(|folder| flag("data", folder)).unwrap_or_default()
    }

    fn load(self, shape: Shape) -> Result<Config, Faults> {
        self.load_with(shape, Flags::default())
    }

    fn load_with(self, shape: Shape, flags: Flags) -> Result<Config, Faults> {
        // What is not UTF-8 can be no key and no value of the configuration.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let flags = Flags { data_dir: self.data, ..flags };
        Config::load(&Sources { file: self.config, environment, flags }, shape)
    }
}

/// A point in time, as arguments give it.
fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: guildhall_domain::Error| error.message.into_owned())
}

/// A span of time, as arguments give it.
fn duration(text: &str) -> Result<Duration, String> {
    unit::duration::parse(text).filter(|time| !time.is_zero()).ok_or_else(|| "write it like 90s, 24h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
