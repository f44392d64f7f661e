//! `guildhall connect`: writes the entry that connects a program to the hall.

mod document;
mod file;
mod program;

use std::path::{Path, PathBuf};

use clap::Args;
use guildhall_domain::AgentId;
use guildhall_guard::{ExposeSecret, Secret};
use serde_json::Value;
use url::Url;

use self::program::{Program, Scope};
use crate::{
    failure::Failure,
    hall::{Hall, HallArgs},
    screen,
};

/// Connects a program to the hall: writes the entry into its configuration, and leaves the rest as it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  guildhall connect claude-code\n  guildhall connect cursor --agent reviewer\n  \
                        guildhall connect codex --token \"$TOKEN\"\n  guildhall connect vscode --project --print")]
pub(super) struct Connect {
    /// The program
    #[arg(value_enum, value_name = "PROGRAM")]
    program: Program,
    /// In an open hall: the agent that the program is [default: the program's name]
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// Shows the entry instead of writing it
    #[arg(long)]
    print: bool,
    /// For this folder's project alone, in a file beside its sources
    #[arg(long, conflicts_with = "user")]
    project: bool,
    /// For everything you do with the program (the default)
    #[arg(long)]
    user: bool,
    /// What the hall is called there
    #[arg(long, value_name = "NAME", default_value = "guildhall", value_parser = entry_name)]
    name: String,
    #[command(flatten)]
    hall: HallArgs,
}

/// Hosts build tool names of it.
fn entry_name(name: &str) -> Result<String, String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain && (1..=24).contains(&name.len()) {
        Ok(name.to_owned())
    } else {
        Err("use 1 to 24 letters, digits, _ or -".to_owned())
    }
}

/// How a program reaches the hall.
struct Way {
    /// The MCP endpoint, with the agent's name where no token says it.
    mcp: Url,
    /// The hall itself, for programs that start `guildhall stdio`.
    hall: Url,
    agent: Option<AgentId>,
    token: Option<Secret>,
}

impl Way {
    fn new(hall: &Url, token: Option<Secret>, agent: AgentId) -> Self {
        // A token names its agent by itself.
        let agent = token.is_none().then_some(agent);
        let mut mcp = hall.clone();
        mcp.path_segments_mut().expect("a hall's address is http").pop_if_empty().push("mcp");
        if let Some(agent) = &agent {
            mcp.query_pairs_mut().append_pair("agent", agent.as_str());
        }
        Self { mcp, hall: hall.clone(), agent, token }
    }

    fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {}", token.expose_secret()))
    }
}

impl Connect {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let scope = if self.project { Scope::Project } else { Scope::User };
        let token = self.hall.token()?;
        let holds_token = token.is_some();
        let default_agent = || self.program.name().parse().expect("a program's name is an agent's id");
        let way = Way::new(&self.hall.url, token, self.agent.clone().unwrap_or_else(default_agent));

        let entry = self.program.entry(&way, &this_program());
        if self.print {
            return screen::say(self.program.format().put("", self.program.section(), &self.name, &entry)?);
        }
        let file = self.file(scope)?;
        let before = file::read(&file)?;
        let after = self
            .program
            .format()
            .put(before.as_deref().unwrap_or_default(), self.program.section(), &self.name, &entry)
            .map_err(|failure| Failure::new(format!("{} {}", file.display(), failure.message())))?;
        file::replace(&file, &after, holds_token)?;

        screen::say(format!(
            "{} is connected by the entry {:?} in {}",
            self.program.name(),
            self.name,
            file.display()
        ))?;
        if holds_token {
            screen::say(warning(&file, scope))?;
        }
        screen::say(format!("next: {}", self.program.next()))?;
        screen::say(probe(&self.hall.hall()?).await)
    }

    fn file(&self, scope: Scope) -> Result<PathBuf, Failure> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = folder("HOME").ok_or_else(|| {
            Failure::new("HOME is not set, so your configuration cannot be found; use --project, or --print")
        })?;
        let folders = program::Folders { home: &home, config: folder("XDG_CONFIG_HOME"), codex: folder("CODEX_HOME") };
        self.program.file(scope, &folders).ok_or_else(|| {
            Failure::new(format!("{} has no configuration of a project; leave out --project", self.program.name()))
        })
    }
}

/// By its whole path where that is known: programs with windows start others without the shell's PATH.
fn this_program() -> String {
    std::env::current_exe().map_or_else(|_| "guildhall".to_owned(), |path| path.display().to_string())
}

fn warning(file: &Path, scope: Scope) -> String {
    let mut warning = "the file holds the token".to_owned();
    if scope == Scope::Project {
        warning.push_str(": keep it out of version control");
    }
    if file::others_can_read(file) {
        warning.push_str(&format!("; others on this machine can read it: chmod 600 {}", file.display()));
    }
    warning
}

/// Whether the entry will work now is the first thing that its user finds out; better here than there.
async fn probe(hall: &Hall) -> String {
    match hall.get::<Value>(&["api", "v1", "agents"], &[("limit", Some("1".to_owned()))]).await {
        Ok(_) => "the hall is there and lets it in".to_owned(),
        Err(failure) => format!("it does not work yet: {}", failure.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_an_open_hall_the_address_names_the_agent_and_with_a_token_it_does_not() {
        let hall = Url::parse("http://127.0.0.1:8016/").unwrap();
        let open = Way::new(&hall, None, "claude-code".parse().unwrap());
        assert_eq!(open.mcp.as_str(), "http://127.0.0.1:8016/mcp?agent=claude-code");
        let closed = Way::new(&hall, Some("t".into()), "claude-code".parse().unwrap());
        assert_eq!(closed.mcp.as_str(), "http://127.0.0.1:8016/mcp");
        assert_eq!(closed.authorization().as_deref(), Some("Bearer t"));
    }
}
