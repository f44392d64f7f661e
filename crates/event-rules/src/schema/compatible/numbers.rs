//! Numbers of schemas, compared as exactly as JSON writes them.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::Keywords;

pub(super) fn number<'s>(keywords: &'s Keywords, name: &str) -> Option<&'s Number> {
    keywords.get(name).and_then(Value::as_number)
}

/// A count, such as `minLength`; what is too large to count never limits anything from above and always from below.
pub(super) fn count(keywords: &Keywords, name: &str) -> Option<u64> {
    number(keywords, name).map(|number| {
        number.as_u64().unwrap_or_else(|| if number.as_f64().is_some_and(|n| n < 1.0) { 0 } else { whole(number) })
    })
}

/// 3.0 is 3.
fn whole(number: &Number) -> u64 {
    number.as_f64().and_then(|number| format!("{number:.0}").parse().ok()).unwrap_or(u64::MAX)
}

pub(super) fn compare(one: &Number, other: &Number) -> Option<Ordering> {
    match (integer(one), integer(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

fn integer(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

/// Whether each multiple of one is a multiple of the other.
pub(super) fn is_multiple(of_this: &Number, number: &Number) -> bool {
    of_this == number
        || match (integer(of_this), integer(number)) {
            (Some(of_this), Some(number)) if of_this > 0 => number % of_this == 0,
            _ => false,
        }
}
