//! `guildhall audit`: what was done, whether the chain of it holds, and all of it for elsewhere.

use std::collections::HashSet;

use clap::{Args, Subcommand};
use guildhall_domain::{AuditRecord, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time;
use crate::{
    failure::Failure,
    hall::{Hall, HallArgs},
    screen,
};

/// The largest page the hall gives.
const PAGE_MAX: usize = 1_000;

/// Shows what was done and by whom, and proves that nothing was changed afterwards.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall audit query --act agent. --limit 20\n  guildhall audit verify\n  \
                        guildhall audit export --from 2026-11-01T00:00:00Z > november.jsonl")]
pub(super) struct Audit {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Shows records, newest first
    Query {
        #[command(flatten)]
        filter: Filter,
        /// How many to show, 1000 at most
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// For scripts: JSON instead of a table
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        hall: HallArgs,
    },
    /// Checks the chain from its first record to its last; exit code 1 when it does not hold
    Verify {
        /// For scripts: JSON instead of lines
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        hall: HallArgs,
    },
    /// Writes every record that fits, one JSON object a line, newest first
    ///
    /// What is sealed has its place in the chain, `position`, and wherever a run of records ends the chain's `hash`: in
    /// the order of their places, whoever has all of them can compute the chain anew without the hall.
    Export {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        hall: HallArgs,
    },
}

#[derive(Debug, Clone, Args)]
struct Filter {
    /// Who did it
    #[arg(long)]
    actor: Option<String>,
    /// What was done, or how that begins: "agent." finds every act on agents
    #[arg(long)]
    act: Option<String>,
    /// What it was done to: "agent:worker-1"
    #[arg(long)]
    target: Option<String>,
    /// Not before: 2026-11-20T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
}

#[derive(Deserialize, Serialize)]
struct Records {
    records: Vec<AuditRecord>,
}

#[derive(Deserialize)]
struct Verdict {
    holds: bool,
    sealed: u64,
    unsealed: u64,
    faults: Vec<String>,
}

impl Audit {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Query { filter, limit, json, hall } => {
                let found = filter.page(&hall.hall()?, limit).await?;
                if json { screen::say_json(&found) } else { screen::say(rows(&found.records)) }
            }
            Verb::Verify { json, hall } => {
                let answer: Value = hall.hall()?.get(&["api", "v1", "audit", "verify"], &[]).await?;
                verify(answer, json)
            }
            Verb::Export { filter, hall } => export(filter, &hall.hall()?).await,
        }
    }
}

impl Filter {
    async fn page(&self, hall: &Hall, limit: usize) -> Result<Records, Failure> {
        let query = [
            ("actor", self.actor.clone()),
            ("act", self.act.clone()),
            ("target", self.target.clone()),
            ("from", self.from.map(|at| at.to_string())),
            ("to", self.to.map(|at| at.to_string())),
            ("limit", Some(limit.to_string())),
        ];
        hall.get(&["api", "v1", "audit"], &query).await
    }
}

fn verify(answer: Value, json: bool) -> Result<(), Failure> {
    if json {
        screen::say_json(&answer)?;
    }
    let verdict: Verdict = serde_json::from_value(answer)
        .map_err(|error| Failure::new(format!("the hall is of another version: {error}")))?;
    if verdict.holds {
        return if json { Ok(()) } else { screen::say(good(&verdict)) };
    }
    if json {
        return Err(Failure::shown());
    }
    let faults: String = verdict.faults.iter().map(|fault| format!("\n  {fault}")).collect();
    Err(Failure::new(format!("the audit chain does not hold:{faults}")))
}

fn good(verdict: &Verdict) -> String {
    let waiting = match verdict.unsealed {
        0 => String::new(),
        waiting => format!(", {waiting} not yet sealed"),
    };
    format!("the audit chain holds: {} records{waiting}", verdict.sealed)
}

/// Pages backwards by time. Records of one moment may lie on both sides of a page's end, so each page begins with the
/// moment the last one ended in, and what was written already is passed over.
async fn export(mut filter: Filter, hall: &Hall) -> Result<(), Failure> {
    let mut written = HashSet::new();
    loop {
        let page = filter.page(hall, PAGE_MAX).await?.records;
        let Some(oldest) = page.last().map(|record| record.at) else { return Ok(()) };
        let full = page.len() == PAGE_MAX;
        let mut of_this_page = HashSet::new();
        for record in &page {
            let name = (record.writer.clone(), record.epoch, record.number);
            if !written.contains(&name) {
                screen::say(serde_json::to_string(record).expect("a record came as JSON"))?;
            }
            if record.at == oldest {
                of_this_page.insert(name);
            }
        }
        if !full {
            return Ok(());
        }
        if filter.to == Some(oldest) {
            return Err(Failure::new(format!(
                "more than {PAGE_MAX} records are of one millisecond ({oldest}); narrow the export with --actor or --act"
            )));
        }
        // Only records of the moment at the border can come again.
        written = of_this_page;
        filter.to = Some(oldest);
    }
}

/// A caller of an open hall that did not say who it is has no name.
fn who(record: &AuditRecord) -> String {
    let kind = record.actor_kind.as_str();
    if record.actor.is_empty() { kind.to_owned() } else { format!("{kind}:{}", record.actor) }
}

fn rows(records: &[AuditRecord]) -> String {
    if records.is_empty() {
        return "nothing was found".to_owned();
    }
    let row = |record: &AuditRecord| {
        [
            record.at.to_string(),
            who(record),
            record.act.clone(),
            record.target.clone(),
            record.outcome.as_str().to_owned(),
        ]
    };
    screen::table(["at", "who", "act", "target", "outcome"], records.iter().map(row).collect())
}
