//! `cargo xtask check`: what must hold in this repository and no linter knows. `cargo xtask bench`: what it costs.

mod bench;
mod direction;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(),
        ["bench"] => match bench::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("cargo xtask bench: {fault}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: cargo xtask check | bench");
            ExitCode::from(2)
        }
    }
}

fn check() -> ExitCode {
    let faults = [direction::faults(), words::faults()].concat();
    for fault in &faults {
        eprintln!("{fault}");
    }
    match faults.len() {
        0 => ExitCode::SUCCESS,
        count => {
            eprintln!("cargo xtask check: {count} to mend");
            ExitCode::FAILURE
        }
    }
}
