//! Amounts as people write them: `128MiB`, `5s`, `10Mbit`.

use std::fmt;

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: write it as {} (units: {units})", .meant.as_deref().unwrap_or(.example))]
pub struct UnitError {
    /// The text, shortened to at most 80 characters.
    pub text: String,
    /// What was expected, with its article.
    pub what: &'static str,
    /// How it should look.
    pub example: &'static str,
    /// The units there are.
    pub units: &'static str,
    /// What was probably meant; always an amount that reads.
    pub meant: Option<String>,
}

/// Splits `128MiB` into 128 and `MiB`; only whole numbers, and nothing between the two.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Splits what only looks like an amount, with a fraction or a space: digits, digits after the point, unit.
fn split_loosely(text: &str) -> Option<(&str, &str, &str)> {
    let end = |text: &str| {
        let other = text.bytes().position(|b| !b.is_ascii_digit());
        other.unwrap_or(text.len())
    };
    let (whole, rest) = text.split_at(end(text));
    let (part, unit) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(end(rest)),
        None => ("", rest),
    };
    let usual = !whole.is_empty() && part.len() <= 3 && unit.len() <= 20;
    usual.then(|| (whole, part, unit.trim()))
}

/// `whole.part` times `factor`, if that is a whole number.
fn scaled(whole: &str, part: &str, factor: u64) -> Option<u64> {
    let parts = 10_u64.pow(u32::try_from(part.len()).ok()?);
    let number = format!("{whole}{part}")
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)?;
    (number % parts == 0).then_some(number / parts)
}

macro_rules! amount {
    (
        $(#[$doc:meta])* $name:ident, $what:literal, $example:literal, $units:literal,
        [$(($unit:literal, $factor:expr)),+ $(,)?], others: $others:expr, bare: $bare:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            const UNITS: &'static [(&'static str, u64)] = &[$(($unit, $factor)),+];

            /// Reads a whole number directly followed by its unit.
            ///
            /// # Errors
            /// [`UnitError`] if there is no unit, an unknown one, a fraction, or more than 64 bits hold.
            pub fn parse(text: &str) -> Result<Self, UnitError> {
                let fail = || UnitError {
                    text: text.chars().take(80).collect(),
                    what: $what,
                    example: $example,
                    units: $units,
                    meant: Self::meant(text),
                };
                let (number, unit) = split(text).ok_or_else(fail)?;
                let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(fail)?;
                Ok(Self(number.checked_mul(*factor).ok_or_else(fail)?))
            }

            /// The amount that a wrong text was probably meant to be, where that is plain.
            fn meant(text: &str) -> Option<String> {
                let others: fn(&str) -> Option<&'static str> = $others;
                let bare: fn(u64) -> Option<&'static str> = $bare;
                let (whole, part, unit) = split_loosely(text)?;
                let known = || Self::UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
                let unit = if unit.is_empty() && part.is_empty() {
                    bare(whole.parse().ok()?)?
                } else {
                    others(unit).or_else(|| Some(known()?.0))?
                };
                let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit)?;
                let amount = scaled(whole, part, *factor)?;
                // The number stays as it was written, unless the unit has to change.
                let plain = format!("{whole}{unit}");
                let large = unit == Self::UNITS[0].0 || !part.is_empty();
                Some(if large { Self(amount).to_string() } else { plain })
            }
        }

        impl fmt::Display for $name {
            /// The largest unit that leaves a whole number.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let best = Self::UNITS.iter().rev().find(|(_, factor)| self.0 != 0 && self.0 % factor == 0);
                let (unit, factor) = best.unwrap_or(&Self::UNITS[0]);
                f.pad(&format!("{}{unit}", self.0 / factor))
            }
        }
    };
}

amount!(
    /// An amount of memory or disk, in bytes.
    Bytes, "an amount of bytes", "128MiB", "B, KiB, MiB, GiB, TiB",
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)],
    others: |unit| match unit.to_ascii_lowercase().as_str() {
        "byte" | "bytes" => Some("B"),
        "k" | "kb" | "ki" => Some("KiB"),
        "m" | "mb" | "mi" => Some("MiB"),
        "g" | "gb" | "gi" => Some("GiB"),
        "t" | "tb" | "ti" => Some("TiB"),
        _ => None,
    },
    // Nobody means 128 bytes, nor 134217728 mebibytes.
    bare: |number| match number {
        0..0x1_0000 => Some("MiB"),
        0x1_0000..0x10_0000 => None,
        0x10_0000.. => Some("B"),
    }
);
amount!(
    /// A span of time, in milliseconds.
    Millis, "a span of time", "5s", "ms, s, m, h, d",
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)],
    others: |unit| match unit.to_ascii_lowercase().as_str() {
        "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => Some("ms"),
        "sec" | "secs" | "second" | "seconds" => Some("s"),
        "min" | "mins" | "minute" | "minutes" => Some("m"),
        "hr" | "hrs" | "hour" | "hours" => Some("h"),
        "day" | "days" => Some("d"),
        _ => None,
    },
    // 5000 may be milliseconds as well.
    bare: |number| (number <= 300).then_some("s")
);
amount!(
    /// A network rate, in bits per second.
    BitRate, "a network rate", "10Mbit", "bit, Kbit, Mbit, Gbit",
    [("bit", 1), ("Kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)],
    // Whether 10MB are bytes or bits is anybody's guess.
    others: |unit| match unit.to_ascii_lowercase().as_str() {
        "bits" | "bps" | "bit/s" => Some("bit"),
        "kbits" | "kbps" | "kbit/s" => Some("Kbit"),
        "mbits" | "mbps" | "mbit/s" => Some("Mbit"),
        "gbits" | "gbps" | "gbit/s" => Some("Gbit"),
        _ => None,
    },
    bare: |number| (number >= 1_000_000).then_some("bit")
);
amount!(
    /// A rate of transfer, in bytes per second.
    ByteRate, "a rate of transfer", "64MiB/s", "B/s, KiB/s, MiB/s, GiB/s",
    [("B/s", 1), ("KiB/s", 1 << 10), ("MiB/s", 1 << 20), ("GiB/s", 1 << 30)],
    // Whether 100Mbit are bits of a network or a misspelling is plain, but how many bytes that makes is not.
    others: |unit| match unit.to_ascii_lowercase().as_str() {
        "bps" => Some("B/s"),
        "kb/s" | "kib" | "kibps" => Some("KiB/s"),
        "mb/s" | "mib" | "mibps" => Some("MiB/s"),
        "gb/s" | "gib" | "gibps" => Some("GiB/s"),
        _ => None,
    },
    bare: |number| (number >= 1 << 20).then_some("B/s")
);

impl Bytes {
    /// Whole mebibytes, rounded up.
    #[must_use]
    pub fn mib(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_and_print_alike() {
        for text in ["1B", "128MiB", "3GiB", "1000B", "0B"] {
            assert_eq!(Bytes::parse(text).unwrap().to_string(), text);
        }
        for text in ["250ms", "5s", "90m", "2h", "7d"] {
            assert_eq!(Millis::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_amounts_say_what_is_right() {
        for text in [
            "",
            "128",
            "MiB",
            "128 MiB",
            "128MB",
            "1.5GiB",
            "-1MiB",
            "99999999999999999999MiB",
            "16777216TiB",
        ] {
            let error = Bytes::parse(text).unwrap_err();
            assert!(error.to_string().contains("iB (units: B, KiB"), "{error}");
        }
    }

    #[test]
    fn what_was_meant_is_named_where_it_is_plain() {
        let bytes = |text| Bytes::parse(text).unwrap_err().meant;
        let time = |text| Millis::parse(text).unwrap_err().meant;
        let rate = |text| BitRate::parse(text).unwrap_err().meant;
        let said = [
            bytes("192MB"),
            bytes("1024mib"),
            bytes("128 MiB"),
            bytes("128"),
            bytes("134217728"),
            bytes("1.5GiB"),
            bytes("2Gi"),
            time("5"),
            time("2 minutes"),
            time("0.5s"),
            rate("10mbit"),
            rate("1.5Gbps"),
            rate("10000000"),
        ];
        let meant = [
            "192MiB", "1024MiB", "128MiB", "128MiB", "128MiB", "1536MiB", "2GiB", "5s", "2m", "500ms",
            "10Mbit", "1500Mbit", "10Mbit",
        ];
        assert_eq!(said.map(Option::unwrap), meant);
        let unclear = [
            bytes(""),
            bytes("lots"),
            bytes("-1MiB"),
            bytes("100000"),
            bytes("1.5B"),
            bytes("99999999999999999999MB"),
            time("5000"),
            rate("10"),
            rate("10MB"),
        ];
        assert!(unclear.iter().all(Option::is_none), "{unclear:?}");
    }

    #[test]
    fn what_was_meant_is_an_amount() {
        for number in ["0", "007", "1", "0.25", "18446744073709551615", "17179869184"] {
            for unit in [
                "", "B", "kb", " MB", "gib", "tb", "sec", "min", "MBPS", "bits", "é",
            ] {
                let text = format!("{number}{unit}");
                let read = [
                    Bytes::parse(&text)
                        .err()
                        .and_then(|e| e.meant)
                        .map(|t| Bytes::parse(&t).err()),
                    Millis::parse(&text)
                        .err()
                        .and_then(|e| e.meant)
                        .map(|t| Millis::parse(&t).err()),
                    BitRate::parse(&text)
                        .err()
                        .and_then(|e| e.meant)
                        .map(|t| BitRate::parse(&t).err()),
                ];
                assert!(read.iter().flatten().all(Option::is_none), "{text}: {read:?}");
            }
        }
    }
}
