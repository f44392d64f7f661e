//! What both engines refuse, in one place, so that they refuse the same.

use std::time::Duration;

use guildhall_domain::{Error, ErrorCode, Result, ports::hot::Rate};

/// One value; as large as the largest request may be.
pub const VALUE_MAX_BYTES: usize = 1024 * 1024;

/// Nothing hot is meant to last longer, and engines count in milliseconds that must not overflow.
const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Redis keeps marks as doubles, which are exact up to here.
const MARK_MAX: u64 = 1 << 53;

/// One token in about a quarter of an hour: slower is no rate but a ban, and waits would overflow.
const PER_SECOND_MIN: f64 = 0.001;

pub(crate) fn check_value(value: &[u8]) -> Result<()> {
    if value.len() <= VALUE_MAX_BYTES {
        return Ok(());
    }
    let message = format!("a value of {} bytes is too large for the hot store: at most {VALUE_MAX_BYTES}", value.len());
    Err(Error::new(ErrorCode::PayloadTooLarge, message))
}

/// At least a millisecond: what has no time to live would be an error to Redis.
pub(crate) fn whole_millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.clamp(Duration::from_millis(1), TTL_MAX).as_millis()).expect("a year of milliseconds fits")
}

pub(crate) fn check_marks(marks: &[(String, i64)]) -> Result<()> {
    match marks.iter().find(|(_, number)| number.unsigned_abs() > MARK_MAX) {
        None => Ok(()),
        Some((_, number)) => Err(Error::invalid(format!("the mark {number} is out of range: at most 2^53 either way"))),
    }
}

pub(crate) fn check_rate(rate: Rate) -> Result<()> {
    if rate.per_second.is_finite() && rate.per_second >= PER_SECOND_MIN && rate.burst >= 1 {
        return Ok(());
    }
    Err(Error::invalid("a rate needs at least 0.001 a second and a burst of at least 1"))
}
