//! What was measured, as JSON for machines and as a table for people.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use serde::Serialize;

use super::{Figures, median};

const JSON: &str = "docs/benchmarks/hall.json";
const PAGE: &str = "docs/benchmarks.md";

#[derive(Serialize)]
struct Report<'a> {
    commit: String,
    machine: String,
    configuration: &'a str,
    rounds: usize,
    /// Of all runs. A bench that does not count them ends at the first one, and then there is no report.
    errors: f64,
    medians: BTreeMap<&'a str, f64>,
    runs: &'a Figures,
}

/// What was promised, and how the page says it.
const GOALS: [(&str, &str); 15] = [
    ("in_process.cpu_us_per_call.in_process", "≤ 5"),
    ("list_agents.cpu_us_per_call.in_process", "≤ 5"),
    ("registration/sqlite.ops_per_s", "≥ 1,000"),
    ("startup.ready_s", "< 0.5"),
    ("startup.resident_mb", "< 50"),
    ("mail_port/sqlite/256.of_baseline", "≥ 0.5"),
    ("mail_port/postgres/256.of_baseline", "≥ 0.4"),
    ("publish/jetstream.of_baseline", "≥ 0.5"),
    ("mail_rest/sqlite.per_s", "≥ 5,000"),
    ("mail_rest/postgres.per_s", "≥ 3,000"),
    ("mail_to_socket.p50_us", "≤ bare commit + 1,500"),
    ("mail_mailboxes/100000.resident_mb", "< 300"),
    ("mail_mailboxes/100000.check_inbox_p50_us", "≤ 3,000"),
    ("mail_sockets.lost", "0"),
    ("mail_sockets.p99_us", "< 250,000"),
];

/// How much was measured rather than what came out: in the JSON alone.
const SETTINGS: [&str; 10] = [
    ".agents",
    ".at_once",
    ".calls",
    ".content_bytes",
    ".errors",
    ".mailboxes",
    ".message_bytes",
    ".ops",
    ".seconds",
    ".sent",
];

const CONFIGURATION: &str = "release profile as shipped (thin LTO); SQLite WAL, answered once synced; default.toml; mail_* \
    beyond the port: tokens asked for, policy, audit, metrics and traces on, the rate limit raised";

pub(super) fn write(figures: &Figures, commit: &str, rounds: usize) -> Result<(), String> {
    let medians: BTreeMap<&str, f64> = figures.iter().map(|(name, runs)| (name.as_str(), median(runs))).collect();
    let report = Report {
        commit: commit.trim().to_owned(),
        machine: machine(),
        configuration: CONFIGURATION,
        rounds,
        errors: errors(figures),
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

fn errors(figures: &Figures) -> f64 {
    let counted = |name: &str| name.ends_with(".errors") || name.ends_with(".lost");
    figures.iter().filter(|(name, _)| counted(name)).flat_map(|(_, runs)| runs).sum()
}

fn page(report: &Report<'_>) -> String {
    let mut page = format!(
        "# Benchmarks\n\n`make bench` writes this page and [hall.json](benchmarks/hall.json): medians of {} rounds, \
         product and baseline in\nthe same run. Figures of one machine say little; processor time and ratios say more.\n\n\
         Commit {}, {}.\nConfiguration: {}.\n\n| figure | goal | median | runs |\n|---|---|---|---|\n",
        report.rounds, report.commit, report.machine, report.configuration
    );
    let figures = report.medians.iter().filter(|(name, _)| !SETTINGS.iter().any(|setting| name.ends_with(setting)));
    for (name, median) in figures {
        let runs = &report.runs[*name];
        let shown: Vec<String> = runs.iter().map(|run| short(*run)).collect();
        let goal = GOALS.iter().find(|(of, _)| of == name).map_or("", |(_, goal)| goal);
        let _ = writeln!(page, "| `{name}` | {goal} | {} | {} |", short(*median), shown.join(" · "));
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
