//! What a role may do. The hall knows `admin`, `agent` and `observer`; here they are changed and others added.

use guildhall_guard::policy::Pattern;
use serde::{Deserialize, Serialize};

use super::Section;
use crate::Faults;

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

impl Role {
    pub(crate) fn check(&self, name: &str, faults: &mut Faults) {
        for (list, words) in [("allow", &self.allow), ("deny", &self.deny)] {
            for error in words.iter().filter_map(|word| Pattern::new(word).err()) {
                faults.add_message(format!("roles.{name}.{list}"), &error.message, "correct or remove the word");
            }
        }
    }
}
