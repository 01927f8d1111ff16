//! Freezes: somebody said that reconciling is to leave something alone for a while.

use xeno_model::id::{SliceName, SliverId, Timestamp};

use crate::change::Reason;

/// Reconciling is to leave something alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// What.
    pub scope: FreezeScope,
    /// Why, in the words of whoever said so.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; `None`: until somebody thaws it.
    pub until: Option<Timestamp>,
}

/// What a freeze is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FreezeScope {
    /// All of the node.
    Node,
    /// All slivers of a slice.
    Slice(SliceName),
    /// One sliver.
    Sliver(SliverId),
}

impl Freeze {
    /// Whether it is in force for a sliver.
    #[must_use]
    pub fn holds(&self, sliver: &SliverId, now: Timestamp) -> bool {
        self.in_force(now)
            && match &self.scope {
                FreezeScope::Node => true,
                FreezeScope::Slice(slice) => *slice == sliver.slice,
                FreezeScope::Sliver(only) => only == sliver,
            }
    }

    /// Whether its time is not over.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// It, as what a sliver waits for.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::Frozen {
            by: self.by.clone(),
            why: self.reason.clone(),
            until: self.until,
        }
    }
}
