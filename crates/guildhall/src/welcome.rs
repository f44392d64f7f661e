//! The first screen of a hall that is ready: where it is, what to paste where, how to stop it.

use std::net::SocketAddr;

use guildhall_config::AuthMode;

use crate::wiring::Endpoints;

/// A hall that is ready, as a person would be told of it.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) endpoints: Endpoints,
    pub(crate) auth: AuthMode,
    /// Where it keeps what it knows, without a password.
    pub(crate) database: String,
    /// What `up` was told of its configuration, for commands that must find the same hall: ` --data ./hall`.
    pub(crate) config_flags: String,
}

const DEFAULT_PORT: u16 = 8016;

pub(crate) fn screen(ready: &Ready) -> String {
    let http = base("http", ready.endpoints.http);
    let ws = base("ws", ready.endpoints.websocket);
    // Commands know the default address by themselves.
    let url = if ready.endpoints.http.port() == DEFAULT_PORT { String::new() } else { format!(" --url {http}") };
    let (who, token_flag, header, first) = match ready.auth {
        AuthMode::Open => ("open: callers say who they are (loopback only)", "", "", String::new()),
        AuthMode::Required => (
            "required: every call carries a token",
            " --token \"$TOKEN\"",
            " \\\n      -H \"Authorization: Bearer $TOKEN\"",
            format!(
                "  Get a token\n    TOKEN=$(guildhall token issue --agent my-agent --role admin{})\n\n",
                ready.config_flags
            ),
        ),
    };
    format!(
        "\
  Guildhall is ready

    MCP        {http}/mcp
    REST       {http}/api/v1        described by {http}/api/openapi.json
    WebSocket  {ws}
    health     {http}/health
    database   {database}
    auth       {who}

{first}  Connect a client
    guildhall connect claude-code{url}{token_flag}
    (or cursor, codex, vscode, windsurf, gemini-cli, claude-desktop)

  Register an agent
    curl -s {http}/api/v1/agents/register{header} \\
      -H 'Content-Type: application/json' -d '{{\"agent_id\":\"worker-1\",\"name\":\"Worker 1\"}}'

  See who is here
    guildhall agents{url}{token_flag}

  Stop with Ctrl-C
",
        database = ready.database,
    )
}

/// An address that listens everywhere is shown by the one that works from here.
fn base(scheme: &str, address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("{scheme}://127.0.0.1:{}", address.port())
    } else {
        format!("{scheme}://{address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(http: &str, auth: AuthMode) -> Ready {
        Ready {
            endpoints: Endpoints { http: http.parse().unwrap(), websocket: "127.0.0.1:8015".parse().unwrap() },
            auth,
            database: "sqlite:/data/guildhall.db".into(),
            config_flags: " --data /data".into(),
        }
    }

    #[test]
    fn a_new_user_of_an_open_hall_sees_lines_that_work_as_they_stand() {
        insta::assert_snapshot!(screen(&ready("127.0.0.1:8016", AuthMode::Open)), @r#"
        Guildhall is ready

            MCP        http://127.0.0.1:8016/mcp
            REST       http://127.0.0.1:8016/api/v1        described by http://127.0.0.1:8016/api/openapi.json
            WebSocket  ws://127.0.0.1:8015
            health     http://127.0.0.1:8016/health
            database   sqlite:/data/guildhall.db
            auth       open: callers say who they are (loopback only)

          Connect a client
            guildhall connect claude-code
            (or cursor, codex, vscode, windsurf, gemini-cli, claude-desktop)

          Register an agent
            curl -s http://127.0.0.1:8016/api/v1/agents/register \
              -H 'Content-Type: application/json' -d '{"agent_id":"worker-1","name":"Worker 1"}'

          See who is here
            guildhall agents

          Stop with Ctrl-C
        "#);
    }

    #[test]
    fn a_hall_that_asks_for_tokens_says_first_how_to_get_one() {
        insta::assert_snapshot!(screen(&ready("0.0.0.0:9000", AuthMode::Required)), @r#"
        Guildhall is ready

            MCP        http://127.0.0.1:9000/mcp
            REST       http://127.0.0.1:9000/api/v1        described by http://127.0.0.1:9000/api/openapi.json
            WebSocket  ws://127.0.0.1:8015
            health     http://127.0.0.1:9000/health
            database   sqlite:/data/guildhall.db
            auth       required: every call carries a token

          Get a token
            TOKEN=$(guildhall token issue --agent my-agent --role admin --data /data)

          Connect a client
            guildhall connect claude-code --url http://127.0.0.1:9000 --token "$TOKEN"
            (or cursor, codex, vscode, windsurf, gemini-cli, claude-desktop)

          Register an agent
            curl -s http://127.0.0.1:9000/api/v1/agents/register \
              -H "Authorization: Bearer $TOKEN" \
              -H 'Content-Type: application/json' -d '{"agent_id":"worker-1","name":"Worker 1"}'

          See who is here
            guildhall agents --url http://127.0.0.1:9000 --token "$TOKEN"

          Stop with Ctrl-C
        "#);
    }
}
