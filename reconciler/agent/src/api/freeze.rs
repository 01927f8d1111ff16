//! Freezes: somebody said that reconciling is to leave something alone for a while.

use serde::{Deserialize, Serialize};

/// What a freeze is about. Written as `{"kind":"node"}`, `{"kind":"slice","name":"web"}` or
/// `{"kind":"sliver","name":"web/0"}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "camelCase")]
pub enum ScopeView {
    /// All of the node.
    Node,
    /// All slivers of a slice on the node.
    Slice(String),
    /// One sliver.
    Sliver(String),
}

/// `POST /v1/freeze`: leave something alone. One freeze for each scope: another replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeRequest {
    /// What.
    pub scope: ScopeView,
    /// Why, for whoever wonders.
    pub reason: String,
    /// Who says so.
    pub by: String,
    /// For how long from now; `None`: until somebody thaws it.
    pub for_ms: Option<u64>,
}

/// `POST /v1/thaw`: go on with something that was frozen. Answers 404 where it was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ThawRequest {
    /// What.
    pub scope: ScopeView,
}

/// `GET /v1/freezes`, and the answer to freeze and thaw: all that are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freezes {
    /// [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// By scope.
    pub freezes: Vec<FreezeView>,
}

/// A freeze in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreezeView {
    /// What.
    pub scope: ScopeView,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub since_ms: u64,
    /// Until when; `None`: until somebody thaws it.
    pub until_ms: Option<u64>,
}

impl std::fmt::Display for ScopeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node => f.pad("node"),
            Self::Slice(name) | Self::Sliver(name) => f.pad(name),
        }
    }
}
