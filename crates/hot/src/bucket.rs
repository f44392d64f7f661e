//! The token bucket's arithmetic, for memory. `redis/take.lua` does the same sums inside Redis.

use std::time::Duration;

use guildhall_domain::{
    Timestamp,
    ports::hot::{Rate, Slice},
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Timestamp) -> Self {
        Self { tokens: f64::from(rate.burst), at: now }
    }

    pub(crate) fn take(&mut self, want: u32, rate: Rate, now: Timestamp) -> Slice {
        // A clock that went back must not refill the same second twice.
        let refilled = now.since(self.at).as_secs_f64() * rate.per_second;
        self.at = self.at.max(now);
        self.tokens = (self.tokens + refilled).min(f64::from(rate.burst));
        let granted = whole(self.tokens).min(want);
        self.tokens -= f64::from(granted);
        let missing = if granted > 0 { 0.0 } else { (1.0 - self.tokens).max(0.0) };
        Slice { granted, wait: Duration::from_secs_f64(missing / rate.per_second) }
    }

    /// From then on it is full, and as good as one that nobody has touched.
    pub(crate) fn full_at(&self, rate: Rate) -> Timestamp {
        let missing = (f64::from(rate.burst) - self.tokens).max(0.0);
        self.at + Duration::from_secs_f64(missing / rate.per_second) + Duration::from_millis(1)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a burst, which is a u32")]
fn whole(tokens: f64) -> u32 {
    tokens.floor() as u32
}
