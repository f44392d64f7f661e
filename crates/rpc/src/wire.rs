//! What every service's conversions between domain types and messages share.

use std::time::Duration;

use guildhall_domain::{Error, Result};

/// What a message must have, though the protocol lets it be absent.
pub fn present<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| {
        Error::invalid(format!("the message between two services lacks {name}: run one version of every service"))
    })
}

pub fn unknown(what: &str) -> Error {
    Error::unsupported(format!("a {what} came that is not known here: run one version of every service"))
}

pub fn bad_json(name: &str) -> Error {
    Error::invalid(format!("{name} in a message between two services is not JSON of the right form"))
}

pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
