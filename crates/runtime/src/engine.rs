//! Living with engines that come and go: waiting for one at start, noticing later that it is away or back.

use std::{fmt::Display, pin::pin, sync::Arc, time::Duration};

use guildhall_domain::{Entropy, Result};
use tokio::time::{Instant, timeout};

use crate::{Backoff, Component, Shutdown};

/// A person who watches the log sees that the process still waits, without a line a try.
const REMIND: Duration = Duration::from_secs(10);
const NO_ANSWER: &str = "it does not answer";
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
    attempt: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T>>,
{
    wait_reminding(REMIND, component, what, entropy, attempt).await
}

async fn wait_reminding<T, F>(
    remind: Duration,
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
        let mut tried = pin!(attempt());
        let result = loop {
            match timeout(remind, &mut tried).await {
                Ok(result) => break result,
                Err(_elapsed) => {
                    component.down(NO_ANSWER);
                    tracing::warn!("waiting for {what}: {NO_ANSWER}");
                    said = Some(Instant::now());
                }
            }
        };
        match result {
            Ok(value) => {
                component.up();
                if said.is_some() {
                    tracing::info!("{what} is there");
                }
                return value;
            }
            Err(error) => {
                let news = component.down(error.message.clone());
                if news || said.is_none_or(|at| at.elapsed() >= remind) {
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
    ping: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    supervise_every(PING_EVERY, component, what, shutdown, ping).await
}

async fn supervise_every<F>(
    interval: Duration,
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
            () = tokio::time::sleep(interval) => {}
        }
        let reason = match timeout(PING_TIMEOUT, ping()).await {
            Ok(Ok(())) => {
                if component.up() {
                    tracing::info!("{what} is back");
                }
                continue;
            }
            Ok(Err(error)) => error.message,
            Err(_elapsed) => NO_ANSWER.into(),
        };
        if component.down(reason.clone()) {
            tracing::warn!("{what} is away: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use guildhall_domain::Error;
    use parking_lot::Mutex;

    use super::*;
    use crate::{Health, OsEntropy, SystemClock, telemetry::tests::Lines};

    fn health() -> Health {
        Health::new(Arc::new(SystemClock), Shutdown::default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_is_away_at_start_is_waited_for_and_named_once() {
        let lines = Lines::capture();
        let health = health();
        let component = health.component("database", "postgres");
        let mut tries = 0;
        let value = wait_for(&component, "postgres at db:5432", Arc::new(OsEntropy), || {
            tries += 1;
            let result = if tries < 4 { Err(Error::unavailable("connection refused")) } else { Ok(tries) };
            let ready = health.not_ready();
            async move {
                assert!(!ready.is_empty(), "ready before the engine is there");
                result
            }
        });
        assert_eq!(value.await, 4);
        assert!(component.is_up() && health.not_ready().is_empty());
        let text = lines.text();
        assert_eq!(text.matches("waiting for postgres at db:5432: connection refused").count(), 1, "{text}");
        assert_eq!(text.matches("postgres at db:5432 is there").count(), 1, "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_is_spoken_of_and_not_broken_off() {
        let lines = Lines::capture();
        let health = health();
        let component = health.component("database", "postgres");
        let attempt = || async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert!(health.not_ready()[0].ends_with("it does not answer"), "{health:?}");
            Ok(())
        };
        wait_reminding(Duration::from_millis(100), &component, "postgres", Arc::new(OsEntropy), attempt).await;
        let text = lines.text();
        assert_eq!(text.matches("waiting for postgres: it does not answer").count(), 2, "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_goes_away_later_is_seen_and_seen_again_when_it_is_back() {
        let health = health();
        let shutdown = Shutdown::default();
        let component = health.component("bus", "nats");
        component.up();
        let answer = Arc::new(Mutex::new(Ok(())));
        let ping = {
            let answer = answer.clone();
            move || std::future::ready(answer.lock().clone())
        };
        let every = Duration::from_millis(10);
        let watch = tokio::spawn(supervise_every(every, component.clone(), "nats", shutdown.clone(), ping));
        *answer.lock() = Err(Error::unavailable("broken pipe"));
        eventually(|| health.not_ready().iter().any(|reason| reason.contains("broken pipe"))).await;
        *answer.lock() = Ok(());
        eventually(|| health.not_ready().is_empty()).await;
        shutdown.begin("test");
        watch.await.unwrap().unwrap();
    }

    async fn eventually(condition: impl Fn() -> bool) {
        for _ in 0..200 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not happen");
    }
}
