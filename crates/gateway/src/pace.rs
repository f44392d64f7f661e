//! How long the gateway waits for others.

use std::time::Duration;

use guildhall_domain::mail::delivery::LEASE;

use crate::identity::LOOK_AGAIN;

/// What is promised is the default; tests that wait for the end of a patience shorten it.
#[derive(Debug, Clone)]
pub struct Pace {
    /// From one walk over all live sockets to the next. Every twentieth pings a client.
    pub walk: Duration,
    /// Of mail that is pushed; renewed when half of it is over.
    pub lease: Duration,
    /// A client that takes nothing of what waits for it for so long does not read, and is cut off.
    pub reads_within: Duration,
    /// A stream between two agents that nobody accepts by then ends.
    pub accepts_within: Duration,
    /// How often a gateway tells the others that it is there. One that was not heard of for three times as long is gone.
    pub here_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            walk: LOOK_AGAIN,
            lease: LEASE,
            reads_within: Duration::from_secs(30),
            accepts_within: Duration::from_secs(10),
            here_every: Duration::from_secs(5),
        }
    }
}
