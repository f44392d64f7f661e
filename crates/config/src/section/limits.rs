//! How much one agent may ask.

use serde::{Deserialize, Serialize};

use super::Section;
use crate::Faults;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub requests_per_second: f64,
    pub burst: u32,
}

impl Section for Limits {
    const KEY: &'static str = "limits";

    fn validate(&self, faults: &mut Faults) {
        faults.expect(
            self.requests_per_second.is_finite() && self.requests_per_second > 0.0,
            "limits.requests_per_second",
            "every call would be refused",
            "make it more than 0",
        );
        faults.expect(self.burst > 0, "limits.burst", "every call would be refused", "make it 1 at least");
    }
}
