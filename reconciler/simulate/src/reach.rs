//! Which branches a simulation has reached, and how often.

use std::collections::BTreeMap;

use xeno_reconciler::action::ActionKind;

/// How often what was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    branches: BTreeMap<&'static str, u64>,
    actions: BTreeMap<ActionKind, u64>,
}

impl Reach {
    /// A branch was reached.
    pub(crate) fn hit(&mut self, branch: &'static str) {
        *self.branches.entry(branch).or_default() += 1;
    }

    /// An action was carried out.
    pub(crate) fn action(&mut self, kind: ActionKind) {
        *self.actions.entry(kind).or_default() += 1;
    }

    /// How often a branch was reached.
    #[must_use]
    pub fn count(&self, branch: &str) -> u64 {
        self.branches.get(branch).copied().unwrap_or(0)
    }

    /// Every branch that was reached, by name.
    pub fn branches(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.branches.iter().map(|(branch, count)| (*branch, *count))
    }

    /// How many actions of each kind were carried out.
    pub fn actions(&self) -> impl Iterator<Item = (ActionKind, u64)> {
        self.actions.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Adds what another simulation has reached.
    pub fn merge(&mut self, other: &Self) {
        for (branch, count) in other.branches() {
            *self.branches.entry(branch).or_default() += count;
        }
        for (kind, count) in other.actions() {
            *self.actions.entry(kind).or_default() += count;
        }
    }
}
