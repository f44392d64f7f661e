//! The baselines of a bench: the program that `BASELINE` names shows what the disk and the engines themselves allow,
//! in the same minute as the product.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

/// What it printed a second, on the line that begins with `line`; `None` where there is no such program.
pub fn rate(arguments: &[&str], environment: &[(&str, &str)], line: &str) -> Option<f64> {
    let program = std::env::var_os("BASELINE")?;
    let output = Command::new(program).args(arguments).envs(environment.iter().copied()).output();
    let output = output.expect("BASELINE names a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = printed.lines().find(|printed| printed.starts_with(line));
    let rate = line.and_then(|line| line.split('\t').find_map(|field| field.strip_suffix("/s")));
    let rate = rate.and_then(|rate| rate.trim_end_matches(char::is_alphabetic).parse().ok());
    Some(rate.unwrap_or_else(|| panic!("the baseline printed no rate: {printed}")))
}

/// What a bench prints of as many calls as `latencies` says, which together took `seconds`, beside what is bare.
pub fn beside(bare: Option<f64>, mut latencies: Vec<Duration>, seconds: f64) -> Value {
    latencies.sort_unstable();
    let (ops, within) = (latencies.len(), |percent: usize| latencies[latencies.len() * percent / 100]);
    let per_s = ops as f64 / seconds;
    json!({
        "ops_per_s": per_s.round(),
        "baseline_per_s": bare,
        "of_baseline": bare.map(|bare| per_s / bare),
        "ops": ops,
        "p50_us": within(50).as_secs_f64() * 1e6,
        "p99_us": within(99).as_secs_f64() * 1e6,
        "seconds": seconds,
    })
}
