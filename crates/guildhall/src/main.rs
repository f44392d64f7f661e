//! The program: the command line, and the one place that knows which shape runs.
//!
//! `command` holds one command a file; `wiring` puts a hall together; `hall` talks to one that runs; `bridge` brings
//! MCP from standard input to it; `sealed` closes and opens words that the hall itself cannot read.

mod bridge;
mod command;
mod failure;
mod hall;
mod process;
mod screen;
mod sealed;
mod welcome;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A usage error ends here with exit code 2 and says what is wrong.
    let cli = command::Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::Failure::new(format!("cannot start: {error}")))
        .and_then(|runtime| {
            let outcome = runtime.block_on(cli.run());
            // Reading standard input blocks a thread that nothing can wake; the process ends without it.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.show();
            ExitCode::FAILURE
        }
    }
}
