//! `cargo xtask bench`: measures what the hall promises, three times over, beside the baselines of the same minute,
//! and writes `docs/benchmarks/hall.json` and the table in `docs/benchmarks.md`: after each round, for they take long.
//!
//! Nothing here fails because a machine is slow: it measures and writes down.

mod baseline;
mod programs;
mod report;
mod startup;

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Odd, so that the median is a run that happened.
const ROUNDS: usize = 3;

/// One figure's runs, by `<bench>.<field>`.
type Figures = BTreeMap<String, Vec<f64>>;

pub(crate) fn run() -> Result<(), String> {
    programs::build()?;
    let baseline = baseline::build()?;
    let mut figures = Figures::new();
    // Before the report itself is a change that is not committed.
    let commit = output(Command::new("git").args(["describe", "--always", "--dirty"]))?;
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        startup::measure(&mut figures)?;
        baseline::measure(baseline.as_deref(), &mut figures)?;
        for (package, bench) in programs::BENCHES {
            eprintln!("  {bench}");
            let mut command = Command::new("cargo");
            command.args(["bench", "--quiet", "-p", package, "--bench", bench]);
            command.env("GUILDHALL_BIN", programs::hall()?).env("GUILDHALL_BENCH_DIR", programs::folder()?);
            if let Some(baseline) = &baseline {
                command.env("BASELINE", baseline);
            }
            let printed = output(&mut command)?;
            let lines: Vec<Value> =
                printed.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect();
            if lines.is_empty() {
                return Err(format!("{bench} printed no line of JSON: {printed}"));
            }
            for line in &lines {
                // A bench that measures several things names each.
                let name = line["name"].as_str().unwrap_or(bench);
                collect(name, line, &mut figures);
            }
        }
        report::write(&figures, &commit, round)?;
    }
    Ok(())
}

/// Every number of `value`, under the path to it.
fn collect(path: &str, value: &Value, figures: &mut Figures) {
    match value {
        Value::Number(number) => {
            figures.entry(path.to_owned()).or_default().push(number.as_f64().unwrap_or(f64::NAN));
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(&format!("{path}.{name}"), value, figures);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) => {}
    }
}

fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn output(command: &mut Command) -> Result<String, String> {
    let said = format!("{command:?}");
    let done = command.output().map_err(|error| format!("{said}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{said} failed: {}", String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
