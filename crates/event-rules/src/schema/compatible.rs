//! Whether what fits one schema fits another.

use serde_json::Value;

pub(super) fn reasons(old: &Value, new: &Value) -> Vec<String> {
    if old == new { Vec::new() } else { vec!["at /: cannot be shown to be compatible".to_owned()] }
}
