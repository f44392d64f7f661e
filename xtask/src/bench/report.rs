//! What was measured, as JSON for machines and as a table for people.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command};

use serde::Serialize;

use super::{Figures, ROUNDS, median, output};

const JSON: &str = "docs/benchmarks/hall.json";
const PAGE: &str = "docs/benchmarks.md";

#[derive(Serialize)]
struct Report<'a> {
    commit: String,
    machine: String,
    configuration: &'a str,
    rounds: usize,
    medians: BTreeMap<&'a str, f64>,
    runs: &'a Figures,
}

const CONFIGURATION: &str = "release profile as shipped (thin LTO); SQLite WAL with synchronous=FULL; default.toml";

pub(super) fn write(figures: &Figures) -> Result<(), String> {
    let medians: BTreeMap<&str, f64> = figures.iter().map(|(name, runs)| (name.as_str(), median(runs))).collect();
    let report = Report {
        commit: output(Command::new("git").args(["describe", "--always", "--dirty"]))?.trim().to_owned(),
        machine: machine(),
        configuration: CONFIGURATION,
        rounds: ROUNDS,
        medians,
        runs: figures,
    };
    let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    let page = page(&report);
    print!("{page}");
    fs::create_dir_all("docs/benchmarks")
        .and_then(|()| fs::write(JSON, json + "\n"))
        .and_then(|()| fs::write(PAGE, page))
        .map_err(|error| format!("writing the report: {error}"))
}

fn page(report: &Report<'_>) -> String {
    let mut page = format!(
        "# Benchmarks\n\n`make bench` writes this page and [hall.json](benchmarks/hall.json): medians of {ROUNDS} rounds, \
         product and baseline in\nthe same run. Figures of one machine say little; processor time and ratios say more.\n\n\
         Commit {}, {}.\nConfiguration: {}.\n\n| figure | median | of | runs |\n|---|---|---|---|\n",
        report.commit, report.machine, report.configuration
    );
    for (name, median) in &report.medians {
        let runs = &report.runs[*name];
        let shown: Vec<String> = runs.iter().map(|run| short(*run)).collect();
        let _ = writeln!(page, "| `{name}` | {} | {} | {} |", short(*median), runs.len(), shown.join(" · "));
    }
    page
}

fn short(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.3}") }
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{} × {}", cores, model.unwrap_or("unknown processor"))
}
