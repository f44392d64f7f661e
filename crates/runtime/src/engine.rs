//! Living with engines that come and go: waiting for one at start, noticing later that it is away or back.

use std::{fmt::Display, sync::Arc, time::Duration};

use guildhall_domain::{Entropy, Result};
use tokio::time::{Instant, timeout};

use crate::{Backoff, Component, Shutdown};

/// A person who watches the log sees that the process still waits, without a line a try.
const REMIND: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(3);
/// A slower answer to a ping counts as none.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Tries until it succeeds, and says so. `what` names it for people: `postgres at db:5432`.
///
/// Every error is waited out, also one that looks final: a wrong password is put right without a restart as well.
pub async fn wait_for<T, F>(
    component: &Component,
    what: &str,
    entropy: Arc<dyn Entropy>,
    mut attempt: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T>>,
{
    let mut backoff = Backoff::new(entropy);
    let mut said: Option<Instant> = None;
    loop {
        match attempt().await {
            Ok(value) => {
                component.up();
                if said.is_some() {
                    tracing::info!("{what} is there");
                }
                return value;
            }
            Err(error) => {
                let news = component.down(error.message.clone());
                if news || said.is_none_or(|at| at.elapsed() >= REMIND) {
                    tracing::warn!("waiting for {what}: {}", error.message);
                    said = Some(Instant::now());
                }
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}

/// Keeps the health of an engine true by asking it every few seconds, until the shutdown.
pub async fn supervise<F>(
    component: Component,
    what: impl Display,
    shutdown: Shutdown,
    mut ping: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    loop {
        tokio::select! {
            () = shutdown.soft().cancelled() => return Ok(()),
            () = tokio::time::sleep(PING_EVERY) => {}
        }
        let reason = match timeout(PING_TIMEOUT, ping()).await {
            Ok(Ok(())) => {
                if component.up() {
                    tracing::info!("{what} is back");
                }
                continue;
            }
            Ok(Err(error)) => error.message,
            Err(_elapsed) => "it does not answer".into(),
        };
        if component.down(reason.clone()) {
            tracing::warn!("{what} is away: {reason}");
        }
    }
}
