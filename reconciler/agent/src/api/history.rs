//! What a node has been through.

use serde::{Deserialize, Serialize};

/// `GET /v1/history?sliver=web/0&limit=N`: what was accepted and carried through, newest first; without `sliver`, of the
/// node as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// The node.
    pub node: String,
    /// Newest first.
    pub entries: Vec<HistoryEntry>,
}

/// One thing that was accepted or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When.
    pub at_ms: u64,
    /// In which generation.
    pub generation: u64,
    /// By which commit.
    pub revision: String,
    /// What kind of thing, as in events.
    pub kind: String,
    /// For people.
    pub text: String,
    /// The sliver, where it is about one.
    #[serde(default)]
    pub sliver: Option<String>,
    /// Class of the change, where it is about a sliver.
    #[serde(default)]
    pub class: Option<String>,
    /// What brought it about: `change`, `drift` or `schedule`.
    #[serde(default)]
    pub cause: Option<String>,
    /// When it ended; `None` while it is under way.
    #[serde(default)]
    pub ended_ms: Option<u64>,
}
