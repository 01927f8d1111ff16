//! Plans that somebody has read and wants carried out, exactly these.

use serde::{Deserialize, Serialize};

/// `POST /v1/apply`: carry out this plan, if the agent still makes the same one. Answers 409 where it does not, with the
/// reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// The node it was made for.
    pub node: String,
    /// The commit.
    pub revision: String,
    /// The generation.
    pub generation: u64,
    /// The actions, in the order of the plan.
    pub actions: Vec<ApplyAction>,
}

/// One action of a plan, as far as it has to be the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyAction {
    /// Its key.
    pub key: String,
    /// The keys of those that come before.
    pub after: Vec<String>,
}

/// What came of it: the plan is being carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// Actions in all.
    pub actions: usize,
    /// The plan in one line.
    pub summary: String,
}
