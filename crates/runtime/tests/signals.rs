//! What a signal does to a process. In a program of its own: signals reach all of it.

use std::{process::Command, time::Duration};

use guildhall_runtime::Shutdown;

fn send_to_myself(signal: &str) {
    let status = Command::new("kill").args([signal, &std::process::id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn the_first_signal_ends_softly_and_the_second_at_once() {
    let shutdown = Shutdown::with_grace(Duration::from_secs(600));
    shutdown.listen_for_signals().expect("signals can be heard");
    let soon = Duration::from_secs(5);
    send_to_myself("-TERM");
    tokio::time::timeout(soon, shutdown.soft().cancelled()).await.expect("SIGTERM begins the shutdown");
    assert!(!shutdown.hard().is_cancelled());
    send_to_myself("-INT");
    tokio::time::timeout(soon, shutdown.hard().cancelled()).await.expect("a second signal ends it");
}
