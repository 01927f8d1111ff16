//! A plan as programs read it (`xeno plan -o json`), read back: what graphs are drawn from, whoever made the plan.

use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// One plan, as far as a picture of it needs to know. Fields that are not named here are ignored: within a
/// `formatVersion` fields are only added.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanDocument {
    /// Version of the form.
    pub(crate) format_version: u32,
    /// The node.
    pub(crate) node: String,
    /// The commit.
    pub(crate) revision: String,
    /// The generation.
    pub(crate) generation: u64,
    /// `observed` or `assumed`.
    pub(crate) basis: String,
    /// The closing line of the text.
    pub(crate) summary: String,
    /// What happens to each sliver.
    pub(crate) changes: Vec<ChangeDocument>,
    /// What is done, in order.
    pub(crate) actions: Vec<ActionDocument>,
}

/// What happens to a sliver.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ChangeDocument {
    /// Which.
    pub(crate) sliver: String,
    /// In which class.
    pub(crate) class: String,
    /// Why; what a `wait` waits for comes first.
    pub(crate) reasons: Vec<ReasonDocument>,
}

/// Why something happens or waits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ReasonDocument {
    /// In words.
    pub(crate) text: String,
}

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ActionDocument {
    /// Its name within the plan.
    pub(crate) key: String,
    /// What it does.
    pub(crate) verb: String,
    /// The sliver it is about; `None` where several share it.
    pub(crate) sliver: Option<String>,
    /// The keys of those that come before.
    pub(crate) after: Vec<String>,
    /// Bytes it brings or writes, where that is known.
    pub(crate) bytes: Option<u64>,
    /// Memory of guests it takes or gives back.
    pub(crate) memory_mib: i64,
}

impl PlanDocument {
    /// Reads one.
    pub(crate) fn read(value: &Value) -> Outcome<Self> {
        let document =
            Self::deserialize(value).map_err(|error| Failure::doing("read the plan as JSON", &error))?;
        if document.format_version != xeno_reconciler::render::FORMAT_VERSION {
            return Err(Failure::said(format!(
                "the plan has format {}, and this program knows format {}",
                document.format_version,
                xeno_reconciler::render::FORMAT_VERSION
            )));
        }
        Ok(document)
    }

    /// What stands above it in a picture.
    pub(crate) fn title(&self) -> String {
        let short: String = self.revision.chars().take(8).collect();
        format!("node {}, revision {short} ({})", self.node, self.basis)
    }
}
