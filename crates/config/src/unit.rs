//! Durations and sizes as people write them: a whole number and its unit.

/// From the smallest unit to the largest: how it is written, and how many of the smallest it is.
type Units = [(&'static str, u64)];

const TIME: &Units = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE: &Units = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

fn read(text: &str, units: &Units) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that it is a whole number of.
fn write(amount: u64, units: &Units) -> String {
    let (unit, factor) =
        units.iter().rev().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor)).unwrap_or(&units[0]);
    format!("{}{unit}", amount / factor)
}

pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// `None` for what is no duration, such as `5 minutes` or `1.5h`.
    pub fn parse(text: &str) -> Option<Duration> {
        super::read(text, super::TIME).map(Duration::from_millis)
    }

    pub fn show(time: Duration) -> String {
        super::write(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), super::TIME)
    }

    pub(crate) fn serialize<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&show(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        parse(&text)
            .ok_or_else(|| D::Error::custom("is not a duration; write it like \"500ms\", \"90s\", \"24h\" or \"7d\""))
    }
}

pub(crate) mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::write(*bytes, super::SIZE))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = String::deserialize(d)?;
        super::read(&text, super::SIZE)
            .ok_or_else(|| D::Error::custom("is not a size; write it like \"64KiB\", \"1MiB\" or \"2GiB\""))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_duration_reads_as_it_was_written() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("10 s", 10)] {
            assert_eq!(duration::parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration::parse("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration::show(Duration::from_secs(90)), "90s");
        assert_eq!(duration::show(Duration::from_secs(86_400)), "1d");
        assert_eq!(duration::show(Duration::ZERO), "0ms");
    }

    #[test]
    fn what_is_no_amount_is_refused_instead_of_guessed() {
        for bad in
            ["", "90", "s", "-1s", "1.5h", "1h30m", "5 minutes", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(duration::parse(bad), None, "{bad}");
        }
        assert_eq!(read("1MB", SIZE), None);
        assert_eq!(read("1MiB", SIZE), Some(1 << 20));
        assert_eq!(write(3 << 30, SIZE), "3GiB");
        assert_eq!(write(1536, SIZE), "1536B");
    }
}
