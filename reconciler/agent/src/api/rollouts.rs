//! Rollouts, as a node sees those of its own slices.

use serde::{Deserialize, Serialize};

/// `GET /v1/rollouts`, and the answer to `POST /v1/rollout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutsView {
    /// [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// The node that sees them so.
    pub node: String,
    /// Why it sees less than there is; `None`: it sees all.
    pub problem: Option<String>,
    /// By slice.
    pub rollouts: Vec<RolloutView>,
}

/// How far the rollout of a slice is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutView {
    /// The slice.
    pub slice: String,
    /// The commit that began it.
    pub commit: String,
    /// The commit of what it goes back to, where that is known.
    pub good: Option<String>,
    /// Whether it goes on.
    pub verdict: VerdictWord,
    /// The same in words.
    pub says: String,
    /// What the wave that is under way waits for, as this node sees it.
    pub holds: Option<String>,
    /// The wave that is under way, from 1 on.
    pub wave: u32,
    /// All waves in order.
    pub waves: Vec<WaveView>,
    /// All slivers, in the order in which they change.
    pub slivers: Vec<RolloutSliverView>,
    /// What happened, oldest first.
    pub history: Vec<RolloutLine>,
}

/// Whether a rollout goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerdictWord {
    /// It does.
    Rolling,
    /// A person stopped it.
    Paused,
    /// Too many failed, and a person has to decide.
    Held,
    /// Too many failed, and all go back.
    Failed,
    /// A person had all go back.
    Aborted,
    /// All waves are through.
    Done,
}

/// A wave, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaveView {
    /// Whether it is that of the canaries.
    pub canary: bool,
    /// Whom it takes, as manifests write it, where its policy says that.
    #[serde(default)]
    pub of: Option<String>,
    /// How many slivers it has.
    pub all: u32,
    /// How many are as they should be, and healthy.
    pub there: u32,
    /// How many are being changed.
    pub changing: u32,
    /// How many failed.
    pub failed: u32,
    /// How many are on nodes that are out of reach.
    pub away: u32,
    /// How many wait.
    pub waiting: u32,
}

/// A sliver in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSliverView {
    /// Which.
    pub sliver: String,
    /// Its node.
    pub node: String,
    /// Its wave, from 1 on.
    pub wave: u32,
    /// How it is.
    pub state: RolloutState,
    /// What it waits for, or what went wrong.
    pub why: Option<String>,
}

/// How a sliver is in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RolloutState {
    /// It is as it should be, and healthy.
    There,
    /// It is being changed.
    Changing,
    /// It failed.
    Failed,
    /// Its node is out of reach.
    Away,
    /// It waits.
    Waiting,
}

/// One line of a rollout's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutLine {
    /// When, by the clock of whoever wrote it.
    pub at_ms: u64,
    /// Who: a node, or a person.
    pub by: String,
    /// What.
    pub what: String,
}

/// `POST /v1/rollout`: what a person does to the rollout of a slice. Answers 409 where that cannot be done to it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutRequest {
    /// The slice.
    pub slice: String,
    /// What.
    pub what: RolloutVerb,
    /// Who.
    pub by: String,
}

/// What a person can do to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RolloutVerb {
    /// Nothing new begins.
    Pause,
    /// It goes on, or is tried again.
    Resume,
    /// The next wave begins now.
    Promote,
    /// All waves begin now.
    PromoteAll,
    /// All go back, before it is through.
    Abort,
    /// All go back, after it was through.
    Undo,
}
