//! What is measured: the shipped program, and the benches of single crates.

use std::{
    path::{PathBuf, absolute},
    process::Command,
};

/// Package and bench; each prints lines of JSON.
pub(super) const BENCHES: [(&str, &str); 9] = [
    ("guildhall-rpc", "in_process"),
    ("guildhall-agent-registry", "list_agents"),
    ("guildhall-store", "registration"),
    ("guildhall-store", "sealing"),
    ("guildhall-store", "mail_send"),
    ("guildhall-mail", "in_process"),
    ("guildhall-mail", "send"),
    ("guildhall-mail", "publish"),
    ("guildhall-tests", "mail"),
];

pub(super) const HALL: &str = "target/release/guildhall";

/// As the benches find it, which run in other folders.
pub(super) fn hall() -> Result<PathBuf, String> {
    absolute(HALL).map_err(|error| format!("{HALL}: {error}"))
}

/// Where the files of benches lie: on the disk that the baselines write to.
pub(super) fn folder() -> Result<PathBuf, String> {
    absolute("target/bench").map_err(|error| format!("target/bench: {error}"))
}

pub(super) fn build() -> Result<(), String> {
    let built = Command::new("cargo").args(["build", "--release", "--package", "guildhall"]).status();
    match built {
        Ok(status) if status.success() => Ok(()),
        _ => Err("cargo build --release --package guildhall failed".into()),
    }
}
