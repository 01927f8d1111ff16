//! Amounts as people write them: `128MiB`, `5s`, `10Mbit`.

use std::fmt;

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: write it as {example}")]
pub struct UnitError {
    /// The text, shortened to at most 80 characters.
    pub text: String,
    /// What was expected, with its article.
    pub what: &'static str,
    /// How it should look.
    pub example: &'static str,
}

/// Splits `128MiB` into 128 and `MiB`; only whole numbers, and nothing between the two.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident, $what:literal, $example:literal, [$(($unit:literal, $factor:expr)),+ $(,)?]) => {
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
                let fail = || UnitError { text: text.chars().take(80).collect(), what: $what, example: $example };
                let (number, unit) = split(text).ok_or_else(fail)?;
                let (_, factor) = Self::UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(fail)?;
                Ok(Self(number.checked_mul(*factor).ok_or_else(fail)?))
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
    Bytes, "an amount of bytes", "128MiB (units: B, KiB, MiB, GiB, TiB)",
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)]
);
amount!(
    /// A span of time, in milliseconds.
    Millis, "a span of time", "5s (units: ms, s, m, h, d)",
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
);
amount!(
    /// A network rate, in bits per second.
    BitRate, "a network rate", "10Mbit (units: bit, Kbit, Mbit, Gbit)",
    [("bit", 1), ("Kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)]
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
            assert!(error.to_string().contains("128MiB"), "{error}");
        }
    }
}
