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
        let granted = u32::try_from(whole(self.tokens)).expect("at most a burst, which is a u32").min(want);
        self.tokens -= f64::from(granted);
        let missing = if granted > 0 { 0.0 } else { (1.0 - self.tokens).max(0.0) };
        Slice { granted, wait: time_for(missing, rate) }
    }

    /// From then on it is full, and as good as one that nobody has touched.
    pub(crate) fn full_at(&self, rate: Rate) -> Timestamp {
        let missing = (f64::from(rate.burst) - self.tokens).max(0.0);
        self.at + time_for(missing, rate) + Duration::from_millis(1)
    }
}

/// Up to the next whole millisecond, so that whoever waits has waited long enough.
fn time_for(tokens: f64, rate: Rate) -> Duration {
    Duration::from_millis(whole((tokens / rate.per_second * 1_000.0).ceil()))
}

#[expect(clippy::cast_possible_truncation, reason = "a burst at the slowest rate is 4e15 ms")]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_and_forth_refills_no_second_twice() {
        let rate = Rate { per_second: 1.0, burst: 10 };
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let mut bucket = Bucket::full(rate, at(100));
        assert_eq!(bucket.take(10, rate, at(100)).granted, 10);
        assert_eq!(bucket.take(10, rate, at(105)).granted, 5);
        assert_eq!(bucket.take(10, rate, at(101)).granted, 0);
        assert_eq!(bucket.take(10, rate, at(105)).granted, 0);
        assert_eq!(bucket.take(10, rate, at(106)).granted, 1);
    }
}
