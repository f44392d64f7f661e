//! `guildhall dlq`: dead letters, what could not be delivered and why.

use clap::{Args, Subcommand};
use guildhall_domain::{
    AgentId,
    mail::{DeadLetter, MessageId},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    hall::{Hall, HallArgs},
    screen,
};

/// Shows dead letters, sends them on their way again, or throws them away.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall dlq list\n  guildhall dlq show 01JD…\n  \
                        guildhall dlq redrive --agent worker-1\n  guildhall dlq purge --all")]
pub(super) struct Dlq {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows them, newest first
    List {
        /// Only those of this agent's mailbox
        #[arg(long, value_name = "ID")]
        agent: Option<AgentId>,
        /// How many to show
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Shows one message and every mailbox it could not be delivered to
    Show {
        #[arg(value_name = "MESSAGE_ID")]
        message: MessageId,
        #[command(flatten)]
        output: Output,
    },
    /// Puts them back to where they were to go
    Redrive(Chosen),
    /// Throws them away for good
    Purge(Chosen),
}

#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// These messages
    #[arg(value_name = "MESSAGE_ID")]
    messages: Vec<MessageId>,
    /// All of this agent's mailbox
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// All there are
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct Output {
    /// For scripts: JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hall: HallArgs,
}

#[derive(Deserialize)]
struct Page {
    dead_letters: Vec<Value>,
    next_cursor: Option<String>,
}

const PATH: [&str; 3] = ["api", "v1", "dlq"];
const PAGE_MAX: usize = 1_000;

impl Dlq {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::List { agent, limit, output } => {
                let letters = pages(&output.hall.hall()?, agent.as_ref(), limit).await?;
                if output.json {
                    return screen::say_json(&json!({ "dead_letters": letters }));
                }
                let letters = letters.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
                if letters.is_empty() { screen::say("there are no dead letters") } else { screen::say(rows(&letters)) }
            }
            Verb::Show { message, output } => {
                let answer: Value = output.hall.hall()?.get(&["api", "v1", "dlq", &message.to_string()], &[]).await?;
                screen::say_json(&answer)
            }
            Verb::Redrive(chosen) => chosen.act("redrive", "redriven").await,
            Verb::Purge(chosen) => chosen.act("purge", "purged").await,
        }
    }
}

async fn pages(hall: &Hall, agent: Option<&AgentId>, limit: usize) -> Result<Vec<Value>, Failure> {
    let (mut letters, mut cursor) = (Vec::new(), None);
    loop {
        let query = [
            ("agent_id", agent.map(ToString::to_string)),
            ("limit", Some((limit - letters.len()).clamp(1, PAGE_MAX).to_string())),
            ("cursor", cursor),
        ];
        let page: Page = hall.get(&PATH, &query).await?;
        letters.extend(page.dead_letters);
        cursor = page.next_cursor;
        if cursor.is_none() || letters.len() >= limit {
            letters.truncate(limit);
            return Ok(letters);
        }
    }
}

impl Chosen {
    async fn act(self, act: &str, done: &str) -> Result<(), Failure> {
        let Which { messages, agent, all } = self.which;
        let body = match agent {
            Some(agent) => json!({ "agent_id": agent }),
            None if all => json!({ "all": true }),
            None => json!({ "message_ids": messages }),
        };
        let answer: Value = self.output.hall.hall()?.post(&["api", "v1", "dlq", act], &body).await?;
        if self.output.json { screen::say_json(&answer) } else { screen::say(format!("{} {done}", answer[done])) }
    }
}

fn read(letter: Value) -> Result<DeadLetter, Failure> {
    serde_json::from_value(letter).map_err(|error| Failure::new(format!("the hall is of another version: {error}")))
}

fn rows(letters: &[DeadLetter]) -> String {
    let row = |letter: &DeadLetter| {
        [
            letter.message.message_id.to_string(),
            letter.message.from.to_string(),
            letter.mailbox.to_string(),
            letter.died_at.to_string(),
            letter.attempts.to_string(),
            letter.reason.clone(),
        ]
    };
    screen::table(["message", "from", "mailbox", "died", "attempts", "why"], letters.iter().map(row).collect())
}
