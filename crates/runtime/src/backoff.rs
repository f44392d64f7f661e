//! Waits between tries: doubling, bounded, and spread so that replicas do not all come at once.

use std::{sync::Arc, time::Duration};

use guildhall_domain::Entropy;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

pub struct Backoff {
    entropy: Arc<dyn Entropy>,
    next: Duration,
}

impl Backoff {
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, next: FIRST }
    }

    /// How long to wait now: 0.2 s the first time, then twice as long each time up to 5 s, less up to a quarter.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(LONGEST);
        let mut byte = [0_u8];
        self.entropy.fill(&mut byte);
        wait - wait * u32::from(byte[0]) / 1024
    }

    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u8);
    impl Entropy for Always {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let mut plain = Backoff::new(Arc::new(Always(0)));
        let waits: Vec<_> = (0..7).map(|_| plain.next_wait().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        plain.reset();
        assert_eq!(plain.next_wait(), FIRST);
        let spread = Backoff::new(Arc::new(Always(255))).next_wait();
        assert!(spread < FIRST && spread >= FIRST * 3 / 4, "{spread:?}");
    }
}
