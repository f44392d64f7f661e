//! `cargo xtask check`: what must hold in this repository and no linter knows.

mod direction;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().skip(1).ne(["check".to_owned()]) {
        eprintln!("usage: cargo xtask check");
        return ExitCode::from(2);
    }
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
