//! `guildhall stdio`: MCP on standard input and output.

use clap::Args;
use guildhall_domain::AgentId;
use guildhall_runtime::{Shutdown, TelemetryOptions, telemetry};

use crate::{bridge, failure::Failure, hall::HallArgs};

/// Speaks MCP on standard input and output, for programs that only start processes: a bridge to a running hall.
#[derive(Debug, Args)]
#[command(after_help = "Example, as the entry of a program that starts its servers:\n  \
                        {\"command\": \"guildhall\", \"args\": [\"stdio\", \"--agent\", \"worker-1\"]}")]
pub(super) struct Stdio {
    /// In an open hall: the agent that speaks
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    #[command(flatten)]
    hall: HallArgs,
}

impl Stdio {
    pub(super) async fn run(self) -> Result<(), Failure> {
        // Logs go to standard error; standard output is the protocol's.
        let _telemetry = telemetry::init(&TelemetryOptions::new("guildhall-stdio"))?;
        let shutdown = Shutdown::default();
        shutdown.listen_for_signals()?;
        let mut endpoint = self.hall.url.clone();
        // An address with a path of its own is taken at its word: it may name one connection.
        if endpoint.path() == "/" {
            endpoint.set_path("/mcp");
        }
        if let Some(agent) = &self.agent {
            endpoint.query_pairs_mut().append_pair("agent", agent.as_str());
        }
        let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
        bridge::run(endpoint, self.hall.token()?, input, output, shutdown.soft().clone()).await
    }
}
