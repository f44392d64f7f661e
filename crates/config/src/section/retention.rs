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
    #[serde(with = "duration")]
    pub mail_age: Duration,
    /// Bytes of bodies and what is kept beside them, estimated.
    #[serde(with = "size")]
    pub mail_size: u64,
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
        // A repeat of a message is known again for a day, and tells of the message that it repeats.
        faults.expect(
            self.mail_age >= Duration::from_secs(24 * 60 * 60),
            "retention.mail_age",
            "mail would be gone before a repeat of it can be recognized",
            "keep it for 24h at least",
        );
        // One message is 768 KiB at most.
        faults.expect(
            self.mail_size >= 16 << 20,
            "retention.mail_size",
            "hardly a message could be kept",
            "allow 16 MiB at least",
        );
    }
}
