//! How long what piles up is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Section;
use crate::{
    Faults,
    unit::{duration, size},
};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    #[serde(with = "duration")]
    pub events_age: Duration,
    /// Bytes of all topics together.
    #[serde(with = "size")]
    pub events_size: u64,
}

impl Section for Retention {
    const KEY: &'static str = "retention";

    fn validate(&self, faults: &mut Faults) {
        // A repeat of a publication is known again for two minutes; its event must live as long.
        faults.expect(
            self.events_age >= Duration::from_secs(120),
            "retention.events_age",
            "events would be gone before a repeat of them can be recognized",
            "keep them for 2 minutes at least",
        );
        // One event is 64 KiB at most.
        faults.expect(
            self.events_size >= 1 << 20,
            "retention.events_size",
            "hardly an event could be kept",
            "allow 1 MiB at least",
        );
    }
}
