//! What must never be, watched after every event.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::id::{Epoch, SliverId};

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after {} s: {what}", at_ms / 1000)]
pub struct Broken {
    /// When.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// What is watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Safety {
    /// Where each sliver runs.
    running: BTreeMap<SliverId, BTreeSet<usize>>,
    /// Under which epoch each sliver's layers were last opened, anywhere.
    epochs: BTreeMap<SliverId, (Epoch, usize)>,
    /// Which writable layers slivers that change nodes had at the beginning.
    pub(crate) layers: BTreeMap<SliverId, u64>,
    /// The epoch of each record.
    pub(crate) held: BTreeMap<SliverId, Epoch>,
    /// When each node removed a sliver.
    removals: BTreeMap<usize, BTreeMap<SliverId, u64>>,
    /// How many it may remove, within which time.
    pub(crate) delete_budget: (u32, u64),
    broken: Option<String>,
}

impl Safety {
    /// A sliver runs on a node from the beginning.
    pub(crate) fn begins(&mut self, n: usize, sliver: &SliverId, epoch: Epoch) {
        self.running.entry(sliver.clone()).or_default().insert(n);
        self.epochs.entry(sliver.clone()).or_insert((epoch, n));
    }

    /// What must not be is so.
    pub(crate) fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// A sliver runs on a node, or does not any more.
    pub(crate) fn runs(&mut self, n: usize, sliver: &SliverId, runs: bool) {
        let nodes = self.running.entry(sliver.clone()).or_default();
        if runs {
            nodes.insert(n);
        } else {
            nodes.remove(&n);
        }
        if nodes.len() > 1 {
            let what = format!("{sliver} runs on {} nodes", nodes.len());
            self.broken(what);
        }
    }

    /// Layers of a sliver are opened under an epoch.
    pub(crate) fn opens(&mut self, n: usize, sliver: &SliverId, epoch: Epoch) {
        let (last, by) = *self.epochs.entry(sliver.clone()).or_insert((epoch, n));
        if epoch < last {
            return self.broken(format!("{sliver}: epoch {} after {}", epoch.0, last.0));
        }
        if epoch == last && by != n {
            return self.broken(format!(
                "{sliver}: two nodes open its layers under epoch {}",
                epoch.0
            ));
        }
        self.epochs.insert(sliver.clone(), (epoch, n));
    }

    /// A node removes a sliver.
    pub(crate) fn removed(&mut self, n: usize, sliver: &SliverId, at_ms: u64) {
        let (slivers, window) = self.delete_budget;
        let removals = self.removals.entry(n).or_default();
        // Tried again it is the same removal.
        removals.entry(sliver.clone()).or_insert(at_ms);
        let recent = removals
            .values()
            .filter(|removed| **removed + window > at_ms)
            .count();
        if recent > usize::try_from(slivers).unwrap_or(usize::MAX) {
            self.broken(format!(
                "a node removed {recent} slivers, and its budget is {slivers}"
            ));
        }
    }

    /// Whether all is well so far.
    pub(crate) fn verdict(&self, at_ms: u64) -> Result<(), Broken> {
        match &self.broken {
            None => Ok(()),
            Some(what) => Err(Broken {
                at_ms,
                what: what.clone(),
            }),
        }
    }
}
