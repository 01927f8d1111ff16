//! Reading of single values: the one place that says what a text must look like to be a name, an amount, a path.
//!
//! The structural check uses these to report everything at once, the typed decoder to make the values; so the two
//! cannot disagree.

mod place;

pub(crate) use place::{Address, Overlay, SLIVER_PLACE, TemplateSource, Writable};

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::desired::{AddressRange, NamePattern, Share, is_reachable};
use crate::id::{
    ChannelName, Digest, FleetName, NameError, NodeName, SiteName, SliceName, SliverId, TemplateName,
    TenantName, Timestamp,
};
use crate::time;
use crate::units::{BitRate, ByteRate, Bytes, Millis, UnitError};

/// Why a text is not the value it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextError {
    /// What is wrong.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: Option<String>,
}

impl TextError {
    pub(crate) fn new(text: &str, what: &str, help: &str) -> Self {
        let shown: String = text.chars().take(80).collect();
        Self {
            message: format!("`{shown}` is not {what}"),
            help: Some(help.to_owned()),
        }
    }
}

impl From<NameError> for TextError {
    fn from(error: NameError) -> Self {
        Self {
            message: format!("`{}` is not a name", error.text),
            help: Some(error.why.to_owned()),
        }
    }
}

impl From<UnitError> for TextError {
    fn from(error: UnitError) -> Self {
        Self {
            message: format!("`{}` is not {}", error.text, error.what),
            help: Some(match error.meant {
                Some(meant) => format!("did you mean `{meant}`? (units: {})", error.units),
                None => format!("write it as {} (units: {})", error.example, error.units),
            }),
        }
    }
}

/// A value that is written as one text.
pub(crate) trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, TextError>;
}

macro_rules! from_text {
    ($($type:ident :: $read:ident),+ $(,)?) => {
        $(impl FromText for $type {
            fn from_text(text: &str) -> Result<Self, TextError> {
                Ok($type::$read(text)?)
            }
        })+
    };
}

from_text!(
    FleetName::new,
    SiteName::new,
    NodeName::new,
    SliceName::new,
    TemplateName::new,
    ChannelName::new,
    TenantName::new,
    NamePattern::parse,
    SliverId::parse,
    Bytes::parse,
    Millis::parse,
    BitRate::parse,
    ByteRate::parse,
);

impl FromText for Digest {
    fn from_text(text: &str) -> Result<Self, TextError> {
        Self::parse(text).map_err(|error| TextError::new(text, "a digest", error.why))
    }
}

/// Checks without keeping the value.
pub(crate) fn reads<T: FromText>(text: &str) -> Result<(), TextError> {
    T::from_text(text).map(drop)
}

/// A decoded text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text<T>(pub(crate) T);

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);

        impl<T: FromText> Visitor<'_> for Reader<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(|error| E::custom(error.message))
            }
        }

        deserializer.deserialize_str(Reader(PhantomData)).map(Text)
    }
}

/// A template as a manifest names it: `debian-web/current` or `debian-web@sha256:…`, `template:` before it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateChoice {
    pub(crate) name: TemplateName,
    pub(crate) content: TemplateContent,
}

/// How a manifest says which content of a template it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplateContent {
    Channel(ChannelName),
    Digest(Digest),
}

impl FromText for TemplateChoice {
    fn from_text(text: &str) -> Result<Self, TextError> {
        let bare = text.strip_prefix("template:").unwrap_or(text);
        if let Some((name, digest)) = bare.split_once('@') {
            return Ok(Self {
                name: TemplateName::from_text(name)?,
                content: TemplateContent::Digest(Digest::from_text(digest)?),
            });
        }
        let (name, channel) = bare.split_once('/').ok_or_else(|| {
            TextError::new(
                text,
                "a template",
                "write NAME/CHANNEL, as debian-web/current, or NAME@sha256:DIGEST",
            )
        })?;
        Ok(Self {
            name: TemplateName::from_text(name)?,
            content: TemplateContent::Channel(ChannelName::from_text(channel)?),
        })
    }
}

/// Longest path, as Linux has it (PATH_MAX, limits.h), and longest name in one.
const PATH_LEN_MAX: usize = 4095;
const COMPONENT_LEN_MAX: usize = 255;

/// Whether a path, without its leading `/`, is one that says what it means: no empty, `.` or `..` component.
fn normal(path: &str) -> bool {
    path.len() < PATH_LEN_MAX
        && !path.chars().any(char::is_control)
        && path
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= COMPONENT_LEN_MAX)
}

/// An absolute path in a guest; `/` alone is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GuestPath(pub(crate) String);

impl FromText for GuestPath {
    fn from_text(text: &str) -> Result<Self, TextError> {
        match text.strip_prefix('/') {
            Some(rest) if rest.is_empty() || normal(rest) => Ok(Self(text.to_owned())),
            Some(_) | None => Err(TextError::new(
                text,
                "a path in the guest",
                "write it from the root, without `.`, `..`, `//` or a `/` at the end: /var/www/html",
            )),
        }
    }
}

/// An absolute path of a file in a mount, kept without its leading `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FilePath(pub(crate) String);

impl FromText for FilePath {
    fn from_text(text: &str) -> Result<Self, TextError> {
        match text.strip_prefix('/') {
            Some(rest) if normal(rest) => Ok(Self(rest.to_owned())),
            Some(_) | None => Err(TextError::new(
                text,
                "a path of a file in the mount",
                "write it from the mount's root, without `.`, `..` or `//`: /etc/motd",
            )),
        }
    }
}

/// A path below the fleet's root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RepositoryPath(pub(crate) String);

impl FromText for RepositoryPath {
    fn from_text(text: &str) -> Result<Self, TextError> {
        // The slash at the end that people put behind directories is no mistake.
        let bare = text.strip_suffix('/').unwrap_or(text);
        if normal(bare) {
            return Ok(Self(bare.to_owned()));
        }
        Err(TextError::new(
            text,
            "a path in the repository",
            "write it from the directory of fleet.yaml, without a leading `/`, `.`, `..` or `//`: sites/web",
        ))
    }
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) Timestamp);

impl FromText for Moment {
    fn from_text(text: &str) -> Result<Self, TextError> {
        time::parse(text).map(Self).ok_or_else(|| {
            let help = match time::parse(&format!("{text}T00:00:00Z")) {
                Some(_) => format!("did you mean `{text}T00:00:00Z`?"),
                None => "write it in UTC, to the second: 2026-12-31T00:00:00Z".to_owned(),
            };
            TextError::new(text, "a moment", &help)
        })
    }
}

/// An address that a guest is reached at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicAddress(pub(crate) IpAddr);

impl FromText for PublicAddress {
    fn from_text(text: &str) -> Result<Self, TextError> {
        let fail = |help: &str| TextError::new(text, "a public address", help);
        let read = text.parse::<IpAddr>();
        let address = read.map_err(|_| fail("write an IPv4 or IPv6 address: 203.0.113.7, 2001:db8::7"))?;
        match is_reachable(address) {
            true => Ok(Self(address)),
            false => Err(fail(
                "nobody is reached there from other machines; 100.64.0.0/10 is for private addresses of guests",
            )),
        }
    }
}

impl FromText for AddressRange {
    fn from_text(text: &str) -> Result<Self, TextError> {
        Self::parse(text).ok_or_else(|| {
            let help = "write its first address, and how many bits all have in common: 203.0.113.0/24";
            TextError::new(text, "a range of addresses", help)
        })
    }
}

/// A time of day, in minutes since midnight; 24:00 is its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock(pub(crate) u32);

impl FromText for Clock {
    fn from_text(text: &str) -> Result<Self, TextError> {
        let read = || {
            let (hour, minute) = text.split_once(':')?;
            let two = |part: &str| {
                let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| part.parse::<u32>().ok())?
            };
            let minutes = two(hour)? * 60 + two(minute).filter(|minute| *minute < 60)?;
            (minutes <= 24 * 60).then_some(Self(minutes))
        };
        read().ok_or_else(|| TextError::new(text, "a time of day", "write it as HH:MM, in UTC: 22:00"))
    }
}

impl FromText for Share {
    fn from_text(text: &str) -> Result<Self, TextError> {
        let fail = || {
            TextError::new(
                text,
                "a share",
                "write a number of slivers or a percentage: 2, 25%",
            )
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok())?
        };
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = number(percent).ok_or_else(fail)?;
                let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
                percent.map(Self::Percent).ok_or_else(|| TextError {
                    message: format!("{text} is out of range"),
                    help: Some("it may be 0% to 100%".to_owned()),
                })
            }
            None => number(text)
                .filter(|count| *count <= SHARE_MAX)
                .map(Self::Count)
                .ok_or_else(fail),
        }
    }
}

/// Most slivers that a share counts: as many as a slice may have.
const SHARE_MAX: u32 = 100_000;

/// Numbers of slivers, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumberRange {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl FromText for NumberRange {
    fn from_text(text: &str) -> Result<Self, TextError> {
        let fail = || TextError::new(text, "a number or a range of them", "write 0, or 2-5");
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok())?
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: number(first).ok_or_else(fail)?,
            last: number(last).ok_or_else(fail)?,
        };
        (range.first <= range.last).then_some(range).ok_or_else(fail)
    }
}

/// The path of an HTTP request (RFC 9110 §4.2.1, RFC 3986 §3.3): sent as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestPath(pub(crate) String);

impl FromText for RequestPath {
    fn from_text(text: &str) -> Result<Self, TextError> {
        if text.starts_with('/')
            && text.len() <= 1024
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
        {
            return Ok(Self(text.to_owned()));
        }
        Err(TextError::new(
            text,
            "a path of a web page",
            "write it as /, or /status?full=1; at most 1024 ASCII characters",
        ))
    }
}

/// A text on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker(pub(crate) String);

impl FromText for Marker {
    fn from_text(text: &str) -> Result<Self, TextError> {
        if text.trim().is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
            return Err(TextError::new(
                text,
                "a text on one line",
                "write 1 to 200 characters of what the guest prints when it is ready",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A short text for people: a region, a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Short(pub(crate) String);

impl FromText for Short {
    fn from_text(text: &str) -> Result<Self, TextError> {
        if text.is_empty() || text.len() > 100 || text.chars().any(char::is_control) {
            return Err(TextError::new(
                text,
                "a short text",
                "write 1 to 100 characters on one line",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Content of a file, written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) String);

impl FromText for Content {
    fn from_text(text: &str) -> Result<Self, TextError> {
        Ok(Self(text.to_owned()))
    }
}

macro_rules! within {
    ($name:ident, $type:ident, $min:literal, $max:literal) => {
        pub(crate) fn $name(text: &str) -> Result<(), TextError> {
            let value = $type::from_text(text)?;
            let bound = |text: &str| $type::parse(text).unwrap_or_default();
            if value < bound($min) || value > bound($max) {
                return Err(TextError {
                    message: format!("{value} is out of range"),
                    help: Some(concat!("it may be ", $min, " to ", $max).to_owned()),
                });
            }
            Ok(())
        }
    };
}

within!(disk, Bytes, "1MiB", "64TiB");
within!(rate, BitRate, "8Kbit", "1000Gbit");
within!(interval, Millis, "100ms", "1h");
within!(grace, Millis, "0ms", "1d");
within!(window, Millis, "1s", "7d");
within!(bake, Millis, "0ms", "7d");
within!(downtime, Millis, "1ms", "1m");
within!(distance, Millis, "0ms", "1m");
within!(bandwidth, ByteRate, "1MiB/s", "1024GiB/s");
within!(quota, Bytes, "0B", "1048576TiB");
within!(memory_range, Bytes, "1MiB", "64TiB");

/// Memory is handed out in whole mebibytes.
pub(crate) fn memory(text: &str) -> Result<(), TextError> {
    memory_range(text)?;
    let bytes = Bytes::from_text(text)?;
    if bytes.0 % (1 << 20) != 0 {
        return Err(TextError::new(
            text,
            "a whole number of mebibytes",
            "round it: 128MiB",
        ));
    }
    Ok(())
}
