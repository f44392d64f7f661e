//! `guildhall migrate`: brings the database to this version's schema.

use clap::Args;
use guildhall_config::Shape;

use super::ConfigArgs;
use crate::{
    failure::Failure,
    process::{Engines, Process},
    screen,
};

/// Brings the database to this version's schema; safe to run twice, and from two machines at once.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  guildhall migrate --config /etc/guildhall.toml")]
pub(super) struct Migrate {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Migrate {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let config = self.config.load(Shape::None)?;
        let store = Engines::connect(&config, &Process::quiet()?)?.store(&config, "migrate")?;
        eprintln!("migrating {} …", config.database.url);
        let migrated = store.migrate().await;
        store.close().await;
        let migrated = migrated?;
        screen::say(if migrated.from == migrated.to {
            format!("{} has this version's schema already ({})", config.database.url, migrated.to)
        } else {
            format!("{} was brought from schema {} to {}", config.database.url, migrated.from, migrated.to)
        })
    }
}
