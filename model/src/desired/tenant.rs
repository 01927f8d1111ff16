//! Who may own slices, and how much.

use std::collections::BTreeSet;
use std::fmt;

use crate::id::{NameError, SliceName};
use crate::units::Bytes;

/// Somebody who owns slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// How much all its slices may have together, over the whole fleet.
    pub quota: Quota,
    /// The names that its slices may have, and that no one else's may; empty: any that no tenant has claimed.
    pub slices: BTreeSet<NamePattern>,
}

/// How much a tenant may have; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Slivers, running or not.
    pub slivers: Option<u32>,
    /// Memory of slivers that are not stopped, with their room to grow.
    pub memory: Option<Bytes>,
    /// Virtual CPUs of slivers that are not stopped.
    pub vcpus: Option<u32>,
    /// Disk of all slivers: what each of their writable layers on a node's disk may hold.
    pub disk: Option<Bytes>,
}

/// Names of slices: one, or all that begin alike (`shop-*`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    /// This name.
    Exactly(SliceName),
    /// Every name that begins with this.
    BeginsWith(String),
}

impl NamePattern {
    /// Reads a name, or the beginning of names with `*` after it.
    ///
    /// # Errors
    /// [`NameError`] if no name could match.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(beginning) = text.strip_suffix('*') else {
            return SliceName::new(text).map(Self::Exactly);
        };
        // What begins a name is a name once a letter follows; only then can a name match.
        SliceName::new(&format!("{beginning}x")).map_err(|error| NameError {
            text: text.chars().take(80).collect(),
            why: error.why,
        })?;
        Ok(Self::BeginsWith(beginning.to_owned()))
    }

    /// Whether a name is meant.
    #[must_use]
    pub fn matches(&self, name: &SliceName) -> bool {
        match self {
            Self::Exactly(exactly) => exactly == name,
            Self::BeginsWith(beginning) => name.as_str().starts_with(beginning.as_str()),
        }
    }
}

impl fmt::Display for NamePattern {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => write!(f, "{name}"),
            Self::BeginsWith(beginning) => write!(f, "{beginning}*"),
        }
    }
}
