//! `guildhall keys`: the key pair that others seal words for.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use guildhall_domain::AgentId;
use serde_json::Value;

use crate::{failure::Failure, hall::HallArgs, screen, sealed::KeyFile};

/// Makes and publishes the key that others seal messages for.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  guildhall keys new worker-1\n  guildhall send worker-1 \"only for you\" --seal\n  \
                        guildhall inbox --agent worker-1 --open"
)]
pub(super) struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes a new key pair, keeps the private half here beside the older ones, and publishes the public one
    New(Pair),
    /// Publishes the newest key of the file again
    Publish(Pair),
}

#[derive(Debug, Args)]
struct Pair {
    /// Whose key it is
    #[arg(value_name = "AGENT")]
    agent: AgentId,
    /// Where the private keys are [default: ~/.local/share/guildhall/agent-keys/<agent>]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    hall: HallArgs,
}

impl Keys {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::New(pair) => {
                let mut file = KeyFile::open(pair.key_file.clone(), &pair.agent)?;
                let key = file.add()?;
                pair.publish(&file, &serde_json::json!(key)).await
            }
            Verb::Publish(pair) => {
                let file = KeyFile::open(pair.key_file.clone(), &pair.agent)?;
                let key = file.newest().ok_or_else(|| {
                    Failure::new(format!(
                        "{} holds no key; make one with `guildhall keys new {}`",
                        file.path().display(),
                        pair.agent
                    ))
                })?;
                pair.publish(&file, &serde_json::json!(key)).await
            }
        }
    }
}

impl Pair {
    async fn publish(&self, file: &KeyFile, key: &Value) -> Result<(), Failure> {
        let path = ["api", "v1", "agents", self.agent.as_str(), "key"];
        let published: Result<Value, _> = self.hall.hall_for(Some(&self.agent), "AGENT")?.put(&path, key).await;
        let agent = &self.agent;
        published.map_err(|failure| {
            let elsewhere = self.key_file.as_ref().map(|path| format!(" --key-file {}", path.display()));
            Failure::new(format!(
                "{}; the private key is kept in {}: publish it later with `guildhall keys publish {agent}{}`",
                failure.message(),
                file.path().display(),
                elsewhere.unwrap_or_default()
            ))
        })?;
        screen::say(format!(
            "{agent} has published its key; the private half is in {}, and nowhere else",
            file.path().display()
        ))
    }
}
