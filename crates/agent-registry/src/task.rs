//! The registry's loops in the background, and how they wait for an engine that is away.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use guildhall_domain::Error;
use tokio_util::sync::CancellationToken;

/// A loop that runs until it is told to stop. If it ends before, something is wrong with the process.
pub struct Task {
    pub name: &'static str,
    pub run: Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>,
}

impl Task {
    pub(crate) fn new<F>(name: &'static str, run: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, run: Box::new(|stop| Box::pin(run(stop))) }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).finish_non_exhaustive()
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
/// An engine that comes back is noticed this late at most.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Waits longer after each failure, and says once that there is one and once that it is over.
pub(crate) struct Backoff {
    what: &'static str,
    wait: Option<Duration>,
}

impl Backoff {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, wait: None }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn failed(&mut self, error: &Error) -> Duration {
        if self.wait.is_none() {
            tracing::warn!(%error, "{}; trying again until it works", self.what);
        }
        let wait = self.wait.map_or(FIRST_WAIT, |wait| (wait * 2).min(LONGEST_WAIT));
        self.wait = Some(wait);
        wait
    }

    pub(crate) fn ends(&mut self) {
        if self.wait.take().is_some() {
            tracing::info!("over: {}", self.what);
        }
    }
}
