//! The hot store as the path of a call uses it: never waited for long, and left alone for a moment after it failed,
//! so that a hall whose hot store is away is not slow for it.

use std::{sync::Arc, time::Duration};

use guildhall_domain::{Result, ports::Hot};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// A Redis that is well answers within a millisecond.
const WITHIN: Duration = Duration::from_millis(250);
const RESTS: Duration = Duration::from_secs(1);

pub(crate) struct Brief {
    hot: Arc<dyn Hot>,
    rests_until: Mutex<Option<Instant>>,
}

impl Brief {
    pub(crate) fn new(hot: Arc<dyn Hot>) -> Self {
        Self { hot, rests_until: Mutex::default() }
    }

    /// `None` when the hot store failed, was too slow, or is still resting from that.
    pub(crate) async fn ask<'a, T, F>(&'a self, question: impl FnOnce(&'a dyn Hot) -> F) -> Option<T>
    where
        F: Future<Output = Result<T>>,
    {
        if self.rests_until.lock().is_some_and(|until| Instant::now() < until) {
            return None;
        }
        match timeout(WITHIN, question(&*self.hot)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) if !error.retryable => {
                tracing::warn!(%error, "the hot store refused what it was asked");
                None
            }
            Ok(Err(_)) | Err(_) => {
                *self.rests_until.lock() = Some(Instant::now() + RESTS);
                None
            }
        }
    }
}
