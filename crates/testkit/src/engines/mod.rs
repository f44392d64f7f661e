//! The real engines, for tests: each on a free port, in a folder of its own, gone when the test is.
//!
//! `make engines` puts their programs into `target/engines/bin`. A constructor gives `None` only when the run was
//! asked to go without (`ENGINES=none`), and says so where a person sees it; an engine that should be there and is
//! not fails the test.

mod nats;
mod port;
mod postgres;
mod process;
mod redis;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

pub use nats::Nats;
pub use port::free_port;
pub use postgres::{Disk, Postgres};
pub use process::{Process, Signal, eventually};
pub use redis::Redis;

/// Where `make engines` puts what it installs.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/engines")
}

/// The program of this name; `None` when the run goes without engines.
///
/// # Panics
/// When it is not installed: a test that needs an engine does not pass without one.
pub fn program(name: &str) -> Option<PathBuf> {
    if std::env::var("ENGINES").is_ok_and(|engines| engines == "none") {
        report_skipped(name);
        return None;
    }
    let path = folder().join("bin").join(name);
    assert!(
        path.exists(),
        "{name} is not in target/engines/bin: run `make engines` to install it, \
         or set ENGINES=none to skip the tests that need it"
    );
    // One step only: a program may be a link itself, and act by the name it is called.
    Some(path.read_link().unwrap_or(path))
}

/// Shown past the capture of test output, and counted: `make test` ends with the number of lines in this file.
fn report_skipped(name: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED (ENGINES=none): {} needs {name}\n", thread.name().unwrap_or("a test"));
    let counted = fs::create_dir_all(folder())
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(folder().join("skipped")))
        .and_then(|mut file| file.write_all(line.as_bytes()));
    counted.expect("target/ can be written");
    // A closed standard error changes nothing about the count.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
