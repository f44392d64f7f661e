//! The program under test, run once as a command: `guildhall <arguments>`.

use std::{path::PathBuf, process::Stdio, time::Duration};

pub use guildhall_testkit::engines::Signal;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// The binary that was built beside the tests; `GUILDHALL_BIN` names another.
pub fn guildhall() -> PathBuf {
    if let Some(named) = std::env::var_os("GUILDHALL_BIN") {
        return named.into();
    }
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/scenarios-…
    let built = test.ancestors().nth(2).unwrap().join("guildhall");
    assert!(built.exists(), "{} is not there: `cargo build -p guildhall` builds it", built.display());
    built
}

/// A command in an environment of its own. Ends with the test.
pub fn command(program: impl Into<PathBuf>, environment: &[(String, String)]) -> Command {
    let mut command = Command::new(program.into());
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a command left behind.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Runs it to its end, with nothing on standard input.
    pub async fn of(command: Command) -> Self {
        Self::with_input(command, "").await
    }

    pub async fn with_input(mut command: Command, input: &str) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end without reading, which closes the pipe.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("the command ends");
        let output = output.unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().expect("no signal ended it"),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Failed, and said so to people, not to scripts.
    #[track_caller]
    pub fn failed(self) -> Self {
        assert_ne!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("not JSON: {}\n{}", self.stdout, self.stderr))
    }
}
