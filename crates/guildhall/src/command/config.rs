//! `guildhall config`: what is in force, what is wrong with it, what there is.

use clap::{Args, Subcommand};
use guildhall_config::{DEFAULTS, Shape};

use super::{ConfigArgs, run::service};
use crate::{failure::Failure, screen};

/// Checks the configuration, or shows it.
#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Names everything that is wrong, a line each: the key, what is wrong, what to do
    #[command(after_help = "Examples:\n  guildhall config check\n  guildhall config check --for gateway")]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// What is to run: up, or a service
        #[arg(long = "for", value_name = "SHAPE", default_value = "up", value_parser = shape)]
        shape: Shape,
    },
    /// Shows the configuration in force as TOML, secrets masked
    Print {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Shows every key there is, with its default and what it means
    Defaults,
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Check { config, shape } => {
                config.load(shape)?;
                screen::say("the configuration is good")
            }
            Verb::Print { config } => screen::say(config.load(Shape::None)?.print_masked()),
            Verb::Defaults => screen::say(DEFAULTS),
        }
    }
}

pub(super) fn shape(name: &str) -> Result<Shape, String> {
    if name == "up" { Ok(Shape::Up) } else { service(name).map(Shape::Run) }
}
