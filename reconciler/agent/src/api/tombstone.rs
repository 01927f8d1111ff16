//! What removals have set aside.

use serde::{Deserialize, Serialize};

/// `GET /v1/tombstones`: slivers that were removed, and whose writes are kept until they are purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstones {
    /// [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// By sliver.
    pub tombstones: Vec<TombstoneView>,
}

/// What one removal has set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TombstoneView {
    /// Whose.
    pub sliver: String,
    /// Since when.
    pub since_ms: u64,
    /// When it is purged, unless the sliver is asked for again.
    pub purge_ms: u64,
    /// What its writable layers hold, in bytes.
    pub bytes: u64,
}
