//! What the file server says it holds, by sliver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cowfs::control::api::Listing;
use cowfs::export::State;
use cowfs::service::LayerSource as Served;
use xeno_model::id::{Digest, Epoch, SliverId};
use xeno_model::observed::{LayerLimits, Leasing};
use xeno_model::units::Bytes;

use super::names::{Label, read_mount_name};

/// What the file server holds of one sliver, by mount.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) writables: BTreeMap<usize, Opened>,
    pub(super) stacks: BTreeMap<usize, Option<Label>>,
    /// Their shares.
    pub(super) exports: BTreeMap<usize, u32>,
    /// Whether calls of any wait.
    pub(super) parked: bool,
    /// Whether any need a lease, or wait for one.
    pub(super) lease: Leasing,
}

/// A writable layer that the file server has open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub(super) epoch: Epoch,
    pub(super) limit: LayerLimits,
}

pub(super) fn by_sliver(listing: &Listing) -> BTreeMap<SliverId, Parts> {
    let mut all: BTreeMap<SliverId, Parts> = BTreeMap::new();
    for (name, spec) in &listing.writables {
        if let Some((sliver, i)) = read_mount_name(name) {
            let opened = Opened {
                epoch: Epoch(spec.epoch),
                limit: LayerLimits {
                    bytes: spec.quota_bytes.map(Bytes),
                    inodes: spec.quota_inodes,
                },
            };
            all.entry(sliver).or_default().writables.insert(i, opened);
        }
    }
    for (name, spec) in &listing.stacks {
        if let Some((sliver, i)) = read_mount_name(name) {
            let label = spec.label.as_deref().and_then(Label::parse);
            all.entry(sliver).or_default().stacks.insert(i, label);
        }
    }
    for (name, view) in &listing.exports {
        if let Some((sliver, i)) = read_mount_name(name)
            && view.spec.state == State::Active
        {
            let share = view.spec.weight.get();
            let parts = all.entry(sliver).or_default();
            parts.exports.insert(i, share);
            parts.parked |= view.parked;
            parts.lease = parts.lease.max(match (view.spec.leased, view.lapsed) {
                (false, _) => Leasing::Free,
                (true, false) => Leasing::Holds,
                (true, true) => Leasing::Lapsed,
            });
        }
    }
    all
}

impl Parts {
    /// The epoch under which all writable layers are open. Where only some are, or under different epochs, epoch 0,
    /// which no right to run has: something is open, and it has to be closed before anything is built on it.
    pub(super) fn open(&self, wanted: &BTreeSet<usize>) -> Option<Epoch> {
        let first = self.writables.values().next()?.epoch;
        let all = wanted.iter().all(|i| self.writables.contains_key(i));
        let same = self.writables.values().all(|opened| opened.epoch == first);
        Some(if all && same { first } else { Epoch(0) })
    }

    pub(super) fn limits(&self) -> BTreeSet<LayerLimits> {
        self.writables.values().map(|opened| opened.limit).collect()
    }

    /// What all stacks together are; a digest that no sliver has where they do not belong together.
    pub(super) fn stack(&self) -> Option<Digest> {
        let first = self.stacks.values().next()?;
        let whole = first.filter(|label| {
            label.mounts == self.stacks.len() && self.stacks.values().all(|other| *other == Some(*label))
        });
        Some(whole.map_or(Digest([0; 32]), |label| label.stack))
    }

    pub(super) fn exported(&self) -> bool {
        !self.stacks.is_empty() && self.stacks.keys().all(|i| self.exports.contains_key(i))
    }
}

/// Every directory that the file server reads from or writes to, whoever asked for it.
pub(super) fn directories(listing: &Listing) -> BTreeSet<PathBuf> {
    let layers = listing.stacks.values().flat_map(|stack| &stack.layers);
    let layers = layers.filter_map(|layer| match layer {
        Served::Dir(dir) => Some(dir.clone()),
        Served::Template(_) => None,
    });
    let writables = listing.writables.values().map(|writable| writable.path.clone());
    layers.chain(writables).collect()
}
