//! Values of a document that may have mistakes: what was left out is not the same as what is wrong.
//!
//! The structural check puts nothing (`null`) where something is wrong; these types read that back. So a mistake stays
//! where it is, and nobody takes a wrong value for a default and reports what only follows from that.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A field that may be left out, as far as it could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stated<T> {
    /// It was left out: a default applies.
    #[default]
    Absent,
    /// It is wrong, or may have been meant by something that is: nothing may be concluded from it.
    Unclear,
    /// It was given.
    Given(T),
}

impl<T> Stated<T> {
    /// The value, if there is one.
    pub(crate) fn given(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Unclear => None,
        }
    }

    /// What to go by: something made of the value, or a default; `None` if that is unclear.
    pub(crate) fn read<U>(&self, default: U, of: impl FnOnce(&T) -> Option<U>) -> Option<U> {
        match self {
            Self::Absent => Some(default),
            Self::Unclear => None,
            Self::Given(value) => of(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Stated<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Only a field that is there is read at all.
        Option::deserialize(deserializer).map(|value| value.map_or(Self::Unclear, Self::Given))
    }
}

/// A mapping from names that the author chose, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entries<K, V> {
    /// Entries whose keys read; `None` for a value that does not.
    pub(crate) known: BTreeMap<K, Option<V>>,
    /// Whether these are all keys.
    pub(crate) whole: bool,
}

impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<K, V>(PhantomData<(K, V)>);

        impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Reader<K, V> {
            type Value = Entries<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Entries {
                    known: BTreeMap::new(),
                    whole: true,
                };
                while let Some((key, value)) = map.next_entry::<Option<K>, Option<V>>()? {
                    match key {
                        Some(key) => {
                            entries.known.insert(key, value);
                        }
                        None => entries.whole = false,
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Reader(PhantomData))
    }
}
