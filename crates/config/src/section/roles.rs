//! What a role may do. The hall knows `admin`, `agent` and `observer`; here they are changed and others added.

use serde::{Deserialize, Serialize};

use super::Section;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    #[serde(default)]
    pub allow: Vec<String>,
    /// Wins over `allow`.
    #[serde(default)]
    pub deny: Vec<String>,
}

impl Section for Role {
    const KEY: &'static str = "roles";
}
