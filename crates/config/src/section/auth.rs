//! Who may call, and how long a token is good.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Section;
use crate::{Faults, unit::duration};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Nobody proves who they are; on loopback only.
    Open,
    Required,
}

impl AuthMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Required => "required",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub mode: AuthMode,
    #[serde(with = "duration")]
    pub token_ttl: Duration,
}

impl Section for Auth {
    const KEY: &'static str = "auth";

    fn validate(&self, faults: &mut Faults) {
        faults.expect(
            self.token_ttl >= Duration::from_secs(60),
            "auth.token_ttl",
            "a token would end before it can be used",
            "give it a minute at least",
        );
    }
}
