//! The official clients of MCP, of both eras, over HTTP and over `guildhall stdio`.

use guildhall_testkit::engines::{folder, program};
use guildhall_tests::{
    Hall, Setup,
    mcp::{NEW, OLD},
    program::{Outcome, command, guildhall},
    scenarios,
};
use serde_json::{Value, json};
use tokio::process::Command;

scenarios! {
    the_official_python_client_is_at_home(Setup::open());
    the_official_typescript_client_is_at_home(Setup::open());
}

const ERAS: [(&str, &str); 2] = [("old", OLD), ("new", NEW)];

async fn the_official_python_client_is_at_home(hall: &Hall) {
    if program("node").is_none() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/client.py");
    let python = || {
        let environment = [("PYTHONPATH".to_owned(), folder().join("python").display().to_string())];
        let mut python = command("python3", &environment);
        python.arg(script);
        python
    };
    at_home(hall, "python", python).await;
}

async fn the_official_typescript_client_is_at_home(hall: &Hall) {
    let Some(node) = program("node") else { return };
    // A link to tests/clients/client.ts, beside the packages it imports.
    let script = folder().join("node/client.ts");
    let typescript = || {
        let mut typescript = command(&node, &[]);
        typescript.args(["--preserve-symlinks-main", "--no-warnings", script.to_str().unwrap()]);
        typescript
    };
    at_home(hall, "typescript", typescript).await;
}

async fn at_home(hall: &Hall, language: &str, client: impl Fn() -> Command) {
    for (era, revision) in ERAS {
        let agent = format!("{language}-http-{era}");
        let mut over_http = client();
        over_http.args([era, &format!("{}/mcp?agent={agent}", hall.url())]);
        found_everything(&Outcome::of(over_http).await.ok().json(), &agent, revision);

        let agent = format!("{language}-stdio-{era}");
        let mut over_stdio = client();
        over_stdio.arg(era).arg(guildhall()).args(["stdio", "--url", &format!("{}/mcp?agent={agent}", hall.url())]);
        found_everything(&Outcome::of(over_stdio).await.ok().json(), &agent, revision);
    }
}

fn found_everything(found: &Value, agent: &str, revision: &str) {
    assert_eq!(found["protocol"], revision, "{found}");
    for tool in ["list_agents", "register_agent"] {
        assert!(found["tools"].as_array().unwrap().contains(&json!(tool)), "{found}");
    }
    assert!(found["agents"].as_array().unwrap().contains(&json!(agent)), "{found}");
    assert_eq!(
        (&found["status"]["agent_id"], &found["status"]["status"]),
        (&json!(agent), &json!("active")),
        "{found}"
    );
}
