//! The official MCP conformance suite, for the revisions of both eras.
//!
//! What it asks of a server made for it (a tool `test_simple_text`, a resource `test://static-text`) a hall does not
//! have: those scenarios are in `conformance_left_out.json`, each with the fixture it needs. All others must pass.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_testkit::engines::{folder, program};
use guildhall_tests::{
    Hall, Setup,
    mcp::{NEW, OLD},
    program::{Outcome, command},
    scenarios,
};
use serde_json::Value;

scenarios! {
    the_official_suite_passes_for_old_clients(Setup::open());
    the_official_suite_passes_for_new_clients(Setup::open());
}

async fn the_official_suite_passes_for_old_clients(hall: &Hall) {
    passes(hall, OLD).await;
}

async fn the_official_suite_passes_for_new_clients(hall: &Hall) {
    passes(hall, NEW).await;
}

async fn suite(arguments: &[&str]) -> Option<Outcome> {
    let mut suite = command(program("node")?, &[]);
    suite.arg(folder().join("node/node_modules/@modelcontextprotocol/conformance/dist/index.js")).args(arguments);
    Some(Outcome::of(suite).await)
}

/// The scenarios that a revision requires of a server.
fn required(listed: &str) -> BTreeSet<String> {
    let server = listed.split("Server scenarios").nth(1).unwrap().split("Client scenarios").next().unwrap();
    server.lines().filter_map(|line| line.trim().strip_prefix("- ")).map(str::to_owned).collect()
}

async fn passes(hall: &Hall, revision: &str) {
    let Some(listed) = suite(&["list", "--requirements", revision]).await else { return };
    let required = required(&listed.ok().stdout);
    assert!(required.len() >= 30, "the suite lists {required:?}");
    let left_out: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(include_str!("conformance_left_out.json")).unwrap();
    let left_out = &left_out[revision];
    let unknown: Vec<&String> = left_out.keys().filter(|name| !required.contains(*name)).collect();
    assert!(unknown.is_empty(), "left out, but the suite has no such scenario for {revision}: {unknown:?}");

    let mut failed = Vec::new();
    let url = format!("{}/mcp?agent=conformance", hall.url());
    for name in required.iter().filter(|name| !left_out.contains_key(*name)) {
        let output = hall.folder().join(format!("conformance-{revision}-{name}"));
        let output = output.to_str().unwrap();
        let arguments =
            ["server", "--url", &url, "--scenario", name, "--spec-version", revision, "--verbose", "-o", output];
        let outcome = suite(&arguments).await.unwrap();
        let (passed, faults) = checks(output);
        if outcome.code != 0 || !faults.is_empty() || passed == 0 {
            failed.push(format!("{name}: {faults:?} (exit code {})", outcome.code));
        }
    }
    assert!(failed.is_empty(), "{} conformance scenarios of {revision} fail:\n{}", failed.len(), failed.join("\n"));
}

/// How many checks passed, and what the others say.
fn checks(output: &str) -> (usize, Vec<String>) {
    let run = std::fs::read_dir(output).unwrap().next().unwrap().unwrap().path();
    let checks: Vec<Value> = serde_json::from_slice(&std::fs::read(run.join("checks.json")).unwrap()).unwrap();
    let (good, bad): (Vec<&Value>, Vec<&Value>) =
        checks.iter().partition(|check| ["SUCCESS", "INFO", "SKIPPED"].contains(&check["status"].as_str().unwrap()));
    let faults = bad.iter().map(|check| format!("{}: {}", check["id"], check["errorMessage"])).collect();
    (good.len(), faults)
}
