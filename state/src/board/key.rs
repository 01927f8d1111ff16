//! What entries are called, and how long they may be.

use std::fmt;
use std::sync::Arc;

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 256;

/// The longest value, in bytes. Eight of them fit in a request of etcd, whose bound is 1.5 MiB.
pub const VALUE_LEN_MAX: usize = 64 << 10;

/// The name of an entry: segments with slashes between them, as `fleet/holder/web/0`.
///
/// A segment is made of ASCII letters, digits and `-._:@+`, and is neither empty nor `.` or `..`, so keys can be printed,
/// typed and used as file names, and a prefix never ends within a segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// What the keys of a folder begin with: `fleet/holder/`, or nothing for all keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

/// Why something is no key or prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is too long.
    #[error("a key of {0} bytes is too long: {KEY_LEN_MAX} is the most")]
    TooLong(usize),
    /// A segment is empty, or made of what segments are not made of.
    #[error("`{key}` is no key: `{segment}` is no segment of one")]
    Segment {
        /// The whole.
        key: String,
        /// The wrong part.
        segment: String,
    },
}

impl Key {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        segments(text)?;
        Ok(Self(text.into()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Prefix {
    /// Checks and takes a prefix: empty, or segments with a slash at the end.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        match text.strip_suffix('/') {
            Some(folder) => segments(folder)?,
            None if text.is_empty() => {}
            // Without the slash, `fleet/holder/web` would take in `fleet/holder/web2/0`.
            None => {
                return Err(KeyError::Segment {
                    key: shortened(text),
                    segment: "without a slash at the end".to_owned(),
                });
            }
        }
        Ok(Self(text.into()))
    }

    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self("".into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a key lies below this.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        key.as_str().starts_with(self.as_str())
    }

    /// The key called `rest` below this.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn key(&self, rest: impl fmt::Display) -> Result<Key, KeyError> {
        Key::new(format!("{}{rest}", self.0))
    }

    /// What comes after this in a key that lies below it.
    #[must_use]
    pub fn rest<'k>(&self, key: &'k Key) -> Option<&'k str> {
        key.as_str().strip_prefix(self.as_str())
    }

    /// The first text after every key below this; `None` if there is none.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        // A slash and all that may follow it are below `0`, the character after the slash.
        Some(format!("{}0", self.0.strip_suffix('/')?))
    }
}

fn segments(text: &str) -> Result<(), KeyError> {
    if text.len() > KEY_LEN_MAX {
        return Err(KeyError::TooLong(text.len()));
    }
    let taken = |c: char| c.is_ascii_alphanumeric() || "-._:@+".contains(c);
    let wrong = |segment: &&str| matches!(*segment, "" | "." | "..") || !segment.chars().all(taken);
    match text.split('/').find(wrong) {
        None => Ok(()),
        Some(segment) => Err(KeyError::Segment {
            key: shortened(text),
            segment: shortened(segment),
        }),
    }
}

/// For messages: what came from outside may hold anything.
fn shortened(text: &str) -> String {
    text.chars()
        .take(KEY_LEN_MAX)
        .flat_map(char::escape_debug)
        .collect()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.0)
    }
}

/// What an entry holds: bytes that mean nothing here. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<[u8]>);

/// More than [`VALUE_LEN_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of {0} bytes is too long for the board: {VALUE_LEN_MAX} is the most")]
pub struct ValueTooLong(pub usize);

impl Value {
    /// Checks and takes a value.
    ///
    /// # Errors
    /// [`ValueTooLong`].
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, ValueTooLong> {
        let bytes = bytes.as_ref();
        match bytes.len() {
            0..=VALUE_LEN_MAX => Ok(Self(bytes.into())),
            len => Err(ValueTooLong(len)),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match str::from_utf8(&self.0) {
            Ok(text) if text.len() <= 200 => write!(f, "{text:?}"),
            _ => write!(f, "{} bytes", self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_plain_paths() {
        let check = |text: &str, good: bool| assert_eq!(Key::new(text).is_ok(), good, "{text}");
        check("fleet/holder/web/0", true);
        check("a", true);
        check("node/cam-01.example:7@x+y_z", true);
        for wrong in ["", "/", "a/", "/a", "a//b", "a/./b", "a/..", "a b", "ä", "a\0"] {
            check(wrong, false);
        }
        check(&"k".repeat(KEY_LEN_MAX), true);
        check(&"k".repeat(KEY_LEN_MAX + 1), false);
    }

    #[test]
    fn a_prefix_ends_where_a_segment_ends() {
        let prefix = Prefix::new("fleet/holder/").unwrap();
        let key = prefix.key("web/0").unwrap();
        assert!(prefix.holds(&key) && Prefix::all().holds(&key));
        assert_eq!(prefix.rest(&key), Some("web/0"));
        assert!(!prefix.holds(&Key::new("fleet/holders/web").unwrap()));
        let end = prefix.end().unwrap();
        assert!(key.as_str() < end.as_str() && *"fleet/holder/zz" < *end && *"fleet/holder0" >= *end);
        assert!(Prefix::new("fleet/holder").is_err() && Prefix::new("/").is_err());
        assert_eq!(Prefix::new("").unwrap(), Prefix::all());
        assert!(prefix.key("").is_err());
    }

    #[test]
    fn values_have_a_bound() {
        assert!(Value::new(vec![0; VALUE_LEN_MAX]).is_ok());
        let error = Value::new(vec![0; VALUE_LEN_MAX + 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a value of 65537 bytes is too long for the board: 65536 is the most"
        );
    }
}
