//! How much mail may wait.

use serde::{Deserialize, Serialize};

use super::Section;
use crate::Faults;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// Messages that may wait in one mailbox.
    pub mailbox_messages: u64,
}

impl Section for Mail {
    const KEY: &'static str = "mail";

    fn validate(&self, faults: &mut Faults) {
        faults.expect(
            self.mailbox_messages > 0,
            "mail.mailbox_messages",
            "every message would be refused",
            "make it 1 at least",
        );
    }
}
