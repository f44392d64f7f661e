//! The baselines: programs beside this repository that show what the disk and the engines themselves allow. They are
//! copied and built under `target/bench`; `LIMITS` names the folder they are in.

use std::{
    env, fs,
    path::{Path, PathBuf, absolute},
    process::Command,
};

use super::{Figures, output};

const DEFAULT_LIMITS: &str = "../shared/bench/limits";
const COPY: &str = "target/bench/message";

/// The program, or `None` where there are no baselines: then the product is measured alone, and the report says so.
pub(super) fn build() -> Result<Option<PathBuf>, String> {
    let limits = env::var("LIMITS").unwrap_or_else(|_| DEFAULT_LIMITS.to_owned());
    let source = Path::new(&limits).join("message");
    if !source.is_dir() {
        eprintln!("no baselines in {limits}: measuring the product alone (LIMITS names another folder)");
        return Ok(None);
    }
    copy(&source, Path::new(COPY)).map_err(|error| format!("copying {}: {error}", source.display()))?;
    output(Command::new("cargo").args(["build", "--release", "--quiet"]).current_dir(COPY))?;
    let program = format!("{COPY}/target/release/bench");
    absolute(&program).map(Some).map_err(|error| format!("{program}: {error}"))
}

/// Durable rows a second of a bare SQLite writer with group commit, 64 in flight, on the same disk.
pub(super) fn measure(program: Option<&Path>, figures: &mut Figures) -> Result<(), String> {
    let Some(program) = program else { return Ok(()) };
    eprintln!("  sqlite-gc (baseline)");
    let printed =
        output(Command::new(program).args(["sqlite-gc", "20000", "FULL", "512", "64", "target/bench/gc.db"]))?;
    let rate = printed
        .split('\t')
        .find_map(|field| field.strip_suffix("msg/s")?.parse::<f64>().ok())
        .ok_or_else(|| format!("sqlite-gc printed no rate: {printed}"))?;
    figures.entry("baseline.sqlite_group_commit_per_s".into()).or_default().push(rate);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            // Written anew rather than copied: the source may be read-only, and the copy's lock file is not.
            fs::write(&target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
