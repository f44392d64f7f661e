//! The real clock and the real randomness: the only place that asks the operating system for them.

use std::time::{SystemTime, UNIX_EPOCH};

use guildhall_domain::{Clock, Entropy, Timestamp};

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that is passed to everyone else")]
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        #[expect(clippy::disallowed_methods, reason = "this is the randomness that is passed to everyone else")]
        getrandom::fill(bytes).expect("the operating system gives randomness: without it no key is safe");
    }
}
