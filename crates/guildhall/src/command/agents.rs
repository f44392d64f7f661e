//! `guildhall agents`: who is here; pausing, resuming and removing.

use clap::{Args, Subcommand};
use guildhall_domain::Agent;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    hall::{Hall, HallArgs},
    screen,
};

/// The largest page the hall gives.
const PAGE_MAX: usize = 1_000;

/// Shows who is here; pauses, resumes and removes agents.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  guildhall agents\n  guildhall agents --status active --capability review\n  \
                  guildhall agents get worker-1 --json\n  guildhall agents pause worker-1 --reason \"loops\""
)]
pub(super) struct Agents {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows who is here, the same as no word at all
    List(List),
    /// Shows one agent
    Get(One),
    /// Refuses every call of an agent until it is resumed; the agent is told the reason
    Pause {
        #[command(flatten)]
        one: One,
        /// What the agent is told
        #[arg(long)]
        reason: String,
    },
    /// Lets a paused agent call again
    Resume(One),
    /// Removes an agent; its tokens end
    Remove(One),
}

#[derive(Debug, Args)]
struct List {
    /// active, busy, idle or offline
    #[arg(long)]
    status: Option<String>,
    #[arg(long)]
    capability: Option<String>,
    #[arg(long)]
    role: Option<String>,
    /// How many to show
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct One {
    /// The agent's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    output: Output,
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
    agents: Vec<Value>,
    total: usize,
    next_cursor: Option<String>,
}

impl Agents {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            None => self.list.run().await,
            Some(Verb::List(list)) => list.run().await,
            Some(Verb::Get(one)) => {
                let agent = one.output.hall.hall()?.get(&path(&one.id, None), &[]).await?;
                one.show(&agent)
            }
            Some(Verb::Pause { one, reason }) => {
                let body = json!({ "reason": reason });
                let answer: Value = one.output.hall.hall()?.post(&path(&one.id, Some("pause")), &body).await?;
                one.done(&answer, "is paused")
            }
            Some(Verb::Resume(one)) => {
                let answer = one.output.hall.hall()?.post(&path(&one.id, Some("resume")), &json!({})).await?;
                one.done(&answer, "may call again")
            }
            Some(Verb::Remove(one)) => {
                let answer = one.output.hall.hall()?.delete(&path(&one.id, None)).await?;
                one.done(&answer, "is gone")
            }
        }
    }
}

fn path<'a>(id: &'a str, act: Option<&'a str>) -> Vec<&'a str> {
    ["api", "v1", "agents", id].into_iter().chain(act).collect()
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let (agents, total) = self.pages(&self.output.hall.hall()?).await?;
        if self.output.json {
            return screen::say_json(&json!({ "agents": agents, "total": total }));
        }
        if agents.is_empty() {
            return screen::say("nobody is here");
        }
        let shown = agents.len();
        let agents: Vec<Agent> = agents.into_iter().map(read).collect::<Result<_, _>>()?;
        screen::say(rows(&agents))?;
        if shown < total { screen::say(format!("{shown} of {total}; --limit {total} shows all")) } else { Ok(()) }
    }

    async fn pages(&self, hall: &Hall) -> Result<(Vec<Value>, usize), Failure> {
        let mut agents = Vec::new();
        let mut cursor = None;
        loop {
            let query = [
                ("status", self.status.clone()),
                ("capability", self.capability.clone()),
                ("role", self.role.clone()),
                ("limit", Some((self.limit - agents.len()).clamp(1, PAGE_MAX).to_string())),
                ("cursor", cursor),
            ];
            let page: Page = hall.get(&["api", "v1", "agents"], &query).await?;
            agents.extend(page.agents);
            cursor = page.next_cursor;
            if cursor.is_none() || agents.len() >= self.limit {
                agents.truncate(self.limit);
                return Ok((agents, page.total));
            }
        }
    }
}

impl One {
    fn show(&self, agent: &Value) -> Result<(), Failure> {
        if self.output.json {
            return screen::say_json(agent);
        }
        screen::say(sheet(&read(agent.clone())?))
    }

    fn done(&self, answer: &Value, what: &str) -> Result<(), Failure> {
        if self.output.json { screen::say_json(answer) } else { screen::say(format!("{} {what}", self.id)) }
    }
}

fn read(agent: Value) -> Result<Agent, Failure> {
    serde_json::from_value(agent).map_err(|error| Failure::new(format!("the hall is of another version: {error}")))
}

fn rows(agents: &[Agent]) -> String {
    let row = |agent: &Agent| {
        [
            agent.agent_id.to_string(),
            agent.name.clone(),
            status(agent),
            words(&agent.roles),
            words(&agent.capabilities),
            agent.last_heartbeat.map_or_else(|| "never".to_owned(), |at| at.to_string()),
        ]
    };
    screen::table(["agent", "name", "status", "roles", "capabilities", "last sign"], agents.iter().map(row).collect())
}

fn sheet(agent: &Agent) -> String {
    let last_sign = agent.last_heartbeat.map_or_else(|| "never".to_owned(), |at| at.to_string());
    let mut lines = vec![
        ("agent", agent.agent_id.to_string()),
        ("name", agent.name.clone()),
        ("status", status(agent)),
        ("roles", words(&agent.roles)),
        ("capabilities", words(&agent.capabilities)),
        ("pool", agent.pool.clone().unwrap_or_default()),
        ("mail by", agent.delivery.as_str().to_owned()),
        ("registered", agent.registered_at.to_string()),
        ("last sign", last_sign),
    ];
    lines.extend(agent.paused.clone().map(|reason| ("paused", reason)));
    lines
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<13}{value}\n"))
        .collect()
}

/// A pause is what whoever looks must see first.
fn status(agent: &Agent) -> String {
    if agent.paused.is_some() { "paused".to_owned() } else { agent.status.as_str().to_owned() }
}

fn words(words: &std::collections::BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
