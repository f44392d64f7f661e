//! The official MCP conformance suite, for the revisions of both eras.
//!
//! What it asks of a server made for it (a tool `test_simple_text`, a resource `test://static-text`) a hall does not
//! have: those scenarios, and those checks of others (`scenario/check`), are in `conformance_left_out.json`, each with
//! the fixture it needs. All else must pass, warnings included.

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
    let mut left_out = left_out(revision);

    let mut failed = Vec::new();
    let url = format!("{}/mcp?agent=conformance", hall.url());
    for name in &required {
        if left_out.remove(name) {
            continue;
        }
        let output = hall.folder().join(format!("conformance-{revision}-{name}"));
        let output = output.to_str().unwrap();
        let arguments =
            ["server", "--url", &url, "--scenario", name, "--spec-version", revision, "--verbose", "-o", output];
        suite(&arguments).await.unwrap();
        let checks = checks(output);
        let passed = checks.iter().filter(|check| passes_check(check)).count();
        let faults = checks.iter().filter(|check| !passes_check(check));
        let unexpected = faults.filter(|check| !left_out.remove(&format!("{name}/{}", check["id"].as_str().unwrap())));
        let faults: Vec<_> = unexpected.map(|check| format!("  {}: {}", check["id"], check["errorMessage"])).collect();
        if !faults.is_empty() || passed == 0 {
            failed.push(format!("{name}: {passed} checks passed\n{}", faults.join("\n")));
        }
    }
    assert!(failed.is_empty(), "{} conformance scenarios of {revision} fail:\n{}", failed.len(), failed.join("\n"));
    assert!(left_out.is_empty(), "left out of {revision}, but the suite has it not, or it passes: {left_out:?}");
}

/// What cannot pass without a fixture.
fn left_out(revision: &str) -> BTreeSet<String> {
    let file = include_str!("conformance_left_out.json");
    let by_revision: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(file).unwrap();
    by_revision[revision].keys().cloned().collect()
}

fn checks(output: &str) -> Vec<Value> {
    let run = std::fs::read_dir(output).unwrap().next().unwrap().unwrap().path();
    serde_json::from_slice(&std::fs::read(run.join("checks.json")).unwrap()).unwrap()
}

fn passes_check(check: &Value) -> bool {
    ["SUCCESS", "INFO", "SKIPPED"].contains(&check["status"].as_str().unwrap())
}
