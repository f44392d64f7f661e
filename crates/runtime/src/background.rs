//! Loops in the background, as a service hands them to its process, and how they wait for an engine that is away.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use guildhall_domain::{Entropy, Error};
use tokio_util::sync::CancellationToken;

use crate::Backoff;

/// A loop that runs until it is told to stop. If it ends before, something is wrong with the process.
pub struct Task {
    pub name: &'static str,
    pub run: Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>,
}

impl Task {
    pub fn new<F>(name: &'static str, run: impl FnOnce(CancellationToken) -> F + Send + 'static) -> Self
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

/// What a loop cannot do for now: said once when it begins and once when it is over, and tried again in between.
pub struct Trouble {
    what: &'static str,
    waits: Backoff,
    is_on: bool,
}

impl Trouble {
    pub fn new(what: &'static str, entropy: Arc<dyn Entropy>) -> Self {
        Self { what, waits: Backoff::new(entropy), is_on: false }
    }

    /// How long to wait before the next attempt.
    pub fn is(&mut self, error: &Error) -> Duration {
        if !self.is_on {
            tracing::warn!(%error, "{}; trying again until it works", self.what);
        }
        self.is_on = true;
        self.waits.next_wait()
    }

    pub fn is_over(&mut self) {
        if self.is_on {
            tracing::info!("over: {}", self.what);
        }
        self.is_on = false;
        self.waits.reset();
    }
}
