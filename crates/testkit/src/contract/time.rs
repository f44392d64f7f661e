//! How time passes for an engine under test.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_domain::{Clock, Timestamp};

use crate::clock::FixedClock;

pub enum Time {
    /// By this clock, which the engine was given.
    Fixed(Arc<FixedClock>),
    /// By itself.
    Real(Instant),
}

impl Time {
    pub fn real() -> Self {
        Self::Real(Instant::now())
    }

    pub async fn pass(&self, by: Duration) {
        match self {
            Self::Fixed(clock) => clock.advance(by),
            Self::Real(_) => tokio::time::sleep(by).await,
        }
    }

    /// Since some moment in the past.
    pub fn now(&self) -> Duration {
        match self {
            Self::Fixed(clock) => clock.now().since(Timestamp::default()),
            Self::Real(start) => start.elapsed(),
        }
    }
}
