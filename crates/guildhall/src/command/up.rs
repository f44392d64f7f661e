//! `guildhall up`: the whole hall in one process.

use clap::Args;
use guildhall_config::{Flags, Shape};

use super::ConfigArgs;
use crate::{failure::Failure, screen, welcome, wiring};

/// Runs the whole hall in this process; nothing else is needed.
///
/// It listens on 127.0.0.1 and keeps its data in ~/.local/share/guildhall unless told otherwise, and stops with Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall up\n  guildhall up --data ./hall --listen 127.0.0.1:9000\n  \
                        guildhall up --config /etc/guildhall.toml")]
pub(super) struct Up {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where HTTP listens: MCP, REST, health [default: 127.0.0.1:8016]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where WebSocket listens [default: 127.0.0.1:8015]
    #[arg(long, value_name = "ADDR:PORT")]
    ws_listen: Option<String>,
}

impl Up {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let flags = Flags { listen: self.listen, ws_listen: self.ws_listen, ..Flags::default() };
        let config_flags = self.config.flags();
        let config = self.config.load_with(Shape::Up, flags)?;
        let (auth, database) = (config.auth.mode, config.database.url.to_string());
        let show = move |endpoints| {
            // The hall runs on when nobody reads its first screen.
            let _ = screen::say(welcome::screen(&welcome::Ready { endpoints, auth, database, config_flags }));
        };
        Ok(wiring::up(&config, show).await?)
    }
}
