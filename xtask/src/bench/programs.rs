//! What is measured: the shipped program, and the benches of single crates.

use std::process::Command;

/// Package and bench; each prints lines of JSON.
pub(super) const BENCHES: [(&str, &str); 3] =
    [("guildhall-rpc", "in_process"), ("guildhall-agent-registry", "list_agents"), ("guildhall-store", "registration")];

pub(super) const HALL: &str = "target/release/guildhall";

pub(super) fn build() -> Result<(), String> {
    let built = Command::new("cargo").args(["build", "--release", "--package", "guildhall"]).status();
    match built {
        Ok(status) if status.success() => Ok(()),
        _ => Err("cargo build --release --package guildhall failed".into()),
    }
}
