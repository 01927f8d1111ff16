//! Checkpoints of a sliver's writable layers, and going back to one.

use serde::{Deserialize, Serialize};

/// `GET /v1/slivers/{slice}/{number}/checkpoints`: what there is to go back to, oldest first, from a look at the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointsView {
    /// Version of this answer's form.
    pub format_version: u32,
    /// The sliver.
    pub sliver: String,
    /// The checkpoints.
    pub checkpoints: Vec<CheckpointView>,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointView {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub at_ms: u64,
    /// Whether an agent made it, and drops it in time.
    pub by_agent: bool,
}

/// `POST /v1/slivers/{slice}/{number}/restore`: have a sliver that does not run go back. Answers 409 where it runs, or
/// something is being done for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreRequest {
    /// Name of the checkpoint.
    pub checkpoint: String,
}

/// A sliver has gone back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Version of this answer's form.
    pub format_version: u32,
    /// The sliver.
    pub sliver: String,
    /// Where it is.
    pub checkpoint: String,
    /// The checkpoint that keeps what was undone.
    pub kept: String,
}
