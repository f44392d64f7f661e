//! The baselines of a bench: the program that `BASELINE` names shows what the disk and the engines themselves allow,
//! in the same minute as the product.

use std::process::Command;

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
