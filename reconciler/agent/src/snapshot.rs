//! All that a node plans from, except what is desired, as one document: what it sees, what it applied last, and what it
//! remembers. `GET /v1/observed` tells it, `xeno plan --observed` reads it back, so that a plan can be made elsewhere.
//!
//! The form is versioned and its own: nothing of the core is stored as it is. Fields are only added within a version.

mod form;

use std::collections::BTreeMap;

use xeno_model::id::{Generation, NameError, Revision, SliverId, Timestamp};
use xeno_model::normal::NormalError;
use xeno_model::observed::ObservedNode;
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::freeze::Freeze;

/// Version of the form.
pub const FORMAT_VERSION: u32 = 1;

/// Longest document that is read.
pub const LEN_MAX: usize = 256 << 20;

/// What a node plans from, except what is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it sees.
    pub observed: ObservedNode,
    /// What was last carried through, by sliver.
    pub applied: BTreeMap<SliverId, AppliedSliver>,
    /// The commit in force, if any.
    pub revision: Option<Revision>,
    /// The generation of that commit; 0: none yet.
    pub generation: Generation,
    /// The generation that was last carried through; 0: none yet.
    pub applied_generation: Generation,
    /// Removals that count against the delete budget now.
    pub removed_recently: u32,
    /// How long a tombstone is kept, in milliseconds.
    pub tombstone_ms: u64,
    /// When slivers were started again because they had ended by themselves, oldest first.
    pub restarts: BTreeMap<SliverId, Vec<Timestamp>>,
    /// What is to be left alone.
    pub freezes: Vec<Freeze>,
}

/// Why a document is no snapshot. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is far too long.
    #[error("read the observation: it has {len} bytes, more than {LEN_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It is not of this form.
    #[error("read the observation")]
    Json(#[source] serde_json::Error),
    /// It is of another version.
    #[error("read the observation: its form is version {found}, this program knows {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u64,
    },
    /// A name, digest or the like in it is none.
    #[error("read the observation: {what}")]
    Name {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// An applied sliver in it cannot be read.
    #[error("read the observation: what was applied of {sliver}")]
    Applied {
        /// Which.
        sliver: SliverId,
        /// What is wrong with it.
        #[source]
        source: NormalError,
    },
}

impl Snapshot {
    /// The document.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        form::write(self)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn from_json(text: &str) -> Result<Self, SnapshotError> {
        if text.len() > LEN_MAX {
            return Err(SnapshotError::TooLong { len: text.len() });
        }
        let value: serde_json::Value = serde_json::from_str(text).map_err(SnapshotError::Json)?;
        let found = value.get("formatVersion").and_then(serde_json::Value::as_u64);
        match found {
            Some(found) if found != u64::from(FORMAT_VERSION) => Err(SnapshotError::Version { found }),
            // Without one it is not of this form, which reading it says in better words.
            Some(_) | None => form::read(value),
        }
    }
}

#[cfg(test)]
mod tests;
