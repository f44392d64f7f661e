//! The end of a process in two stages. Soft: take nothing new, finish what is in flight. Hard: stop now.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{Error, Result};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time between soft and hard: shorter than the 30 s after which Kubernetes kills, with room for the last flush.
const GRACE: Duration = Duration::from_secs(10);

/// Cheap to clone; every clone speaks of the same end.
#[derive(Debug, Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    grace: Duration,
    reason: Arc<Mutex<Option<String>>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::with_grace(GRACE)
    }
}

impl Shutdown {
    pub fn with_grace(grace: Duration) -> Self {
        Self { soft: CancellationToken::new(), hard: CancellationToken::new(), grace, reason: Arc::default() }
    }

    /// SIGTERM or SIGINT begins the shutdown; a second one ends it.
    pub fn listen_for_signals(&self) -> Result<()> {
        let handler = |kind| signal(kind).map_err(|e| Error::internal(format!("cannot listen for signals: {e}")));
        let mut terminate = handler(SignalKind::terminate())?;
        let mut interrupt = handler(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            for first in [true, false] {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if first {
                    shutdown.begin(name);
                } else {
                    tracing::warn!("{name} again: stopping without waiting for what is in flight");
                    shutdown.hard.cancel();
                }
            }
        });
        Ok(())
    }

    /// Begins the soft stage; after the grace period comes the hard one. Only the first call has an effect.
    pub fn begin(&self, reason: impl Into<String>) {
        let reason = reason.into();
        {
            let mut known = self.reason.lock();
            if known.is_some() {
                return;
            }
            tracing::info!("shutting down: {reason}");
            *known = Some(reason);
        }
        self.soft.cancel();
        let (hard, grace) = (self.hard.clone(), self.grace);
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            hard.cancel();
        });
    }

    pub fn has_begun(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Cancelled when nothing new is to be taken.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when there is no more time to finish anything.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hard_comes_only_after_the_grace_period() {
        let grace = Duration::from_millis(200);
        let shutdown = Shutdown::with_grace(grace);
        let begun = std::time::Instant::now();
        shutdown.begin("test");
        assert!(shutdown.has_begun() && !shutdown.hard().is_cancelled());
        shutdown.hard().cancelled().await;
        assert!(begun.elapsed() >= grace, "{:?}", begun.elapsed());
    }
}
