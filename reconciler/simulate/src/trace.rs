//! What became of every sliver, and when: what pictures and tables are made from.

use std::collections::BTreeSet;

use xeno_model::id::SliverId;

/// How a sliver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shade {
    /// As before the push.
    Old,
    /// Something is done to it.
    Changing,
    /// As the push asks.
    New,
    /// Something failed.
    Failed,
    /// It was removed.
    Gone,
}

/// A sliver came to be in another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// On which node.
    pub node: usize,
    /// Which sliver.
    pub sliver: SliverId,
    /// How it is since.
    pub shade: Shade,
}

/// All steps, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// What ran where at the beginning.
    pub(crate) begin: Vec<(usize, SliverId)>,
    steps: Vec<Step>,
    reach: Vec<(u64, usize, bool)>,
    /// Those of which something failed, and nothing has come right since.
    failed: BTreeSet<(usize, SliverId)>,
}

impl Trace {
    /// A sliver comes to be in another way.
    pub(crate) fn shade(&mut self, at_ms: u64, node: usize, sliver: &SliverId, shade: Shade) {
        let key = (node, sliver.clone());
        if shade == Shade::Failed {
            self.failed.insert(key);
        } else {
            self.failed.remove(&key);
        }
        self.steps.push(Step {
            at_ms,
            node,
            sliver: sliver.clone(),
            shade,
        });
    }

    /// Whether something of a sliver failed, and nothing has come right since.
    pub(crate) fn has_failed(&self, node: usize, sliver: &SliverId) -> bool {
        self.failed.contains(&(node, sliver.clone()))
    }

    /// A node comes to be out of reach, or in reach again.
    pub(crate) fn in_reach(&mut self, at_ms: u64, node: usize, reaches: bool) {
        self.reach.push((at_ms, node, reaches));
    }

    /// When which node came to be out of reach (`false`) or in reach again.
    #[must_use]
    pub fn reach(&self) -> &[(u64, usize, bool)] {
        &self.reach
    }

    /// All steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
