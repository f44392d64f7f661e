//! The programs that can be connected: where each keeps its MCP servers, and how it writes one down.
//!
//! As their documents have it in November 2026. opencode is not among them: its versions 1 and 2 want the entry in
//! different places, and nothing tells which is installed.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::{Way, document::Format};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Program {
    ClaudeCode,
    ClaudeDesktop,
    Codex,
    Cursor,
    GeminiCli,
    Vscode,
    Windsurf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    User,
    Project,
}

/// Where a user's configuration lies; projects are the working folder.
pub(super) struct Folders<'a> {
    pub(super) home: &'a Path,
    pub(super) config: Option<PathBuf>,
    pub(super) codex: Option<PathBuf>,
}

impl Folders<'_> {
    /// Where programs with windows keep their settings.
    fn settings(&self) -> PathBuf {
        if cfg!(target_os = "macos") {
            self.home.join("Library/Application Support")
        } else {
            self.config.clone().unwrap_or_else(|| self.home.join(".config"))
        }
    }
}

impl Program {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::ClaudeDesktop => "claude-desktop",
            Self::Codex => "codex",
            Self::Cursor => "cursor",
            Self::GeminiCli => "gemini-cli",
            Self::Vscode => "vscode",
            Self::Windsurf => "windsurf",
        }
    }

    /// `None`: the program knows no such scope.
    pub(super) fn file(self, scope: Scope, folders: &Folders<'_>) -> Option<PathBuf> {
        let home = folders.home;
        Some(match (self, scope) {
            (Self::ClaudeCode, Scope::User) => home.join(".claude.json"),
            (Self::ClaudeCode, Scope::Project) => ".mcp.json".into(),
            (Self::ClaudeDesktop, Scope::User) => folders.settings().join("Claude/claude_desktop_config.json"),
            (Self::Codex, Scope::User) => {
                folders.codex.clone().unwrap_or_else(|| home.join(".codex")).join("config.toml")
            }
            (Self::Codex, Scope::Project) => ".codex/config.toml".into(),
            (Self::Cursor, Scope::User) => home.join(".cursor/mcp.json"),
            (Self::Cursor, Scope::Project) => ".cursor/mcp.json".into(),
            (Self::GeminiCli, Scope::User) => home.join(".gemini/settings.json"),
            (Self::GeminiCli, Scope::Project) => ".gemini/settings.json".into(),
            (Self::Vscode, Scope::User) => folders.settings().join("Code/User/mcp.json"),
            (Self::Vscode, Scope::Project) => ".vscode/mcp.json".into(),
            (Self::Windsurf, Scope::User) => home.join(".codeium/windsurf/mcp_config.json"),
            (Self::ClaudeDesktop | Self::Windsurf, Scope::Project) => return None,
        })
    }

    pub(super) const fn format(self) -> Format {
        match self {
            Self::Codex => Format::Toml,
            _ => Format::Json,
        }
    }

    /// The key under which the program lists its servers.
    pub(super) const fn section(self) -> &'static str {
        match self {
            Self::Codex => "mcp_servers",
            Self::Vscode => "servers",
            _ => "mcpServers",
        }
    }

    pub(super) fn entry(self, way: &Way, this_program: &str) -> Value {
        let url = way.mcp.as_str();
        let (mut entry, headers) = match self {
            Self::ClaudeCode | Self::Vscode => (json!({ "type": "http", "url": url }), "headers"),
            Self::Cursor => (json!({ "url": url }), "headers"),
            Self::Windsurf => (json!({ "serverUrl": url }), "headers"),
            // `url` alone would mean server-sent events of 2024.
            Self::GeminiCli => (json!({ "httpUrl": url }), "headers"),
            // Codex passes over a key `headers` without a word.
            Self::Codex => (json!({ "url": url }), "http_headers"),
            Self::ClaudeDesktop => return started(way, this_program),
        };
        if let Some(authorization) = way.authorization() {
            entry[headers] = json!({ "Authorization": authorization });
        }
        entry
    }

    pub(super) const fn next(self) -> &'static str {
        match self {
            Self::ClaudeCode => "start claude and look at /mcp",
            Self::ClaudeDesktop => "quit Claude Desktop altogether and start it again",
            Self::Codex => "start codex and look at /mcp",
            Self::Cursor => "restart Cursor and look at its MCP settings",
            Self::GeminiCli => "start gemini and look at /mcp",
            Self::Vscode => "run \"MCP: List Servers\" in VS Code and start it",
            Self::Windsurf => "refresh the MCP servers in Windsurf's settings",
        }
    }
}

/// Claude Desktop starts its servers itself and speaks with them over standard input and output.
fn started(way: &Way, this_program: &str) -> Value {
    let mut args = vec!["stdio", "--url", way.hall.as_str()];
    if let Some(agent) = &way.agent {
        args.extend(["--agent", agent.as_str()]);
    }
    let mut entry = json!({ "command": this_program, "args": args });
    if let Some(token) = way.authorization() {
        // Not an argument: those can be seen by everyone on the machine.
        entry["env"] = json!({ "GUILDHALL_TOKEN": token.trim_start_matches("Bearer ") });
    }
    entry
}

#[cfg(test)]
mod tests {
    use guildhall_guard::Secret;

    use super::*;

    fn shown(program: Program, token: Option<&str>) -> String {
        let hall = "http://127.0.0.1:8016".parse().unwrap();
        let way = Way::new(&hall, token.map(Secret::from), "worker-1".parse().unwrap());
        program.format().put("", program.section(), "guildhall", &program.entry(&way, "/usr/bin/guildhall")).unwrap()
    }

    #[test]
    fn each_program_gets_the_entry_that_it_understands() {
        insta::assert_snapshot!(shown(Program::ClaudeCode, None), @r#"
        {
          "mcpServers": {
            "guildhall": {
              "type": "http",
              "url": "http://127.0.0.1:8016/mcp?agent=worker-1"
            }
          }
        }
        "#);
        insta::assert_snapshot!(shown(Program::Vscode, Some("t0ken")), @r#"
        {
          "servers": {
            "guildhall": {
              "headers": {
                "Authorization": "Bearer t0ken"
              },
              "type": "http",
              "url": "http://127.0.0.1:8016/mcp"
            }
          }
        }
        "#);
        insta::assert_snapshot!(shown(Program::Cursor, Some("t0ken")), @r#"
        {
          "mcpServers": {
            "guildhall": {
              "headers": {
                "Authorization": "Bearer t0ken"
              },
              "url": "http://127.0.0.1:8016/mcp"
            }
          }
        }
        "#);
        insta::assert_snapshot!(shown(Program::Windsurf, None), @r#"
        {
          "mcpServers": {
            "guildhall": {
              "serverUrl": "http://127.0.0.1:8016/mcp?agent=worker-1"
            }
          }
        }
        "#);
        insta::assert_snapshot!(shown(Program::GeminiCli, None), @r#"
        {
          "mcpServers": {
            "guildhall": {
              "httpUrl": "http://127.0.0.1:8016/mcp?agent=worker-1"
            }
          }
        }
        "#);
        insta::assert_snapshot!(shown(Program::Codex, Some("t0ken")), @r#"
        [mcp_servers.guildhall]
        http_headers = { Authorization = "Bearer t0ken" }
        url = "http://127.0.0.1:8016/mcp"
        "#);
        insta::assert_snapshot!(shown(Program::ClaudeDesktop, None), @r#"
        {
          "mcpServers": {
            "guildhall": {
              "args": ["stdio", "--url", "http://127.0.0.1:8016/", "--agent", "worker-1"],
              "command": "/usr/bin/guildhall"
            }
          }
        }
        "#);
        insta::assert_snapshot!(shown(Program::ClaudeDesktop, Some("t0ken")), @r#"
        {
          "mcpServers": {
            "guildhall": {
              "args": ["stdio", "--url", "http://127.0.0.1:8016/"],
              "command": "/usr/bin/guildhall",
              "env": {
                "GUILDHALL_TOKEN": "t0ken"
              }
            }
          }
        }
        "#);
    }

    #[test]
    fn every_program_has_a_file_of_the_user_and_a_name_that_the_command_line_knows() {
        let folders = Folders { home: Path::new("/home/a"), config: None, codex: None };
        for program in Program::value_variants() {
            assert!(program.file(Scope::User, &folders).is_some_and(|file| file.is_absolute()), "{program:?}");
            assert_eq!(program.to_possible_value().unwrap().get_name(), program.name());
        }
    }
}
