//! How calls to a node in memory go wrong, and what calls have changed.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::Remote;
use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::{Domains, ObservedStorage, RemoteState};

use super::State;
use super::shared::Shared;
use crate::ports::PortError;

/// How a call goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and it says so.
    Fails(PortError),
    /// Nothing is done, and it never returns.
    Hangs,
    /// It is done, and never returns.
    HangsAfter,
    /// It is done, and says that it is not.
    SucceedsUnsaid,
    /// Nothing is done, and it says that all is well; a look says that there is nothing.
    SeesNothing,
    /// It says that it is not done, and rightly so until the node has been looked at this often; then it is done after
    /// all.
    Late {
        /// Looks that do not see it yet.
        looks: u32,
    },
}

/// All that a call may change.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    domains: Shared<Domains>,
    storage: Shared<BTreeMap<SliverId, ObservedStorage>>,
    templates: Shared<BTreeSet<Digest>>,
    files: Shared<BTreeSet<Digest>>,
    remotes: Shared<BTreeMap<Remote, RemoteState>>,
    written: Shared<BTreeMap<SliverId, u64>>,
}

/// What a call has done that does not show yet.
#[derive(Clone, Debug)]
pub(super) struct Hidden {
    looks: u32,
    key: String,
    before: Kept,
    after: Kept,
}

impl State {
    pub(super) fn kept(&self) -> Kept {
        Kept {
            domains: self.domains.clone(),
            storage: self.storage.clone(),
            templates: self.templates.clone(),
            files: self.files.clone(),
            remotes: self.remotes.clone(),
            written: self.written.clone(),
        }
    }

    fn restore(&mut self, kept: Kept) {
        let Kept {
            domains,
            storage,
            templates,
            files,
            remotes,
            written,
        } = kept;
        (self.domains, self.storage, self.remotes) = (domains, storage, remotes);
        (self.templates, self.files, self.written) = (templates, files, written);
    }

    /// Does what a call does, and notes its key if that changed anything. Calls about one object are served one after
    /// the other: what an earlier call of the same key has done late has been done by then.
    pub(super) fn change(&mut self, key: String, effect: impl FnOnce(&mut Self)) {
        self.hidden.retain(|hidden| hidden.key != key);
        let before = self.kept();
        self.refused = None;
        effect(self);
        if self.refused.is_some() {
            self.restore(before);
        } else if self.kept() != before {
            self.effects.push(key);
        }
    }

    /// Does what a call does, to be seen only after so many looks.
    pub(super) fn change_late(&mut self, key: String, looks: u32, effect: impl FnOnce(&mut Self)) {
        let before = self.kept();
        effect(self);
        let after = self.kept();
        self.restore(before.clone());
        let refused = self.refused.take().is_some();
        if after != before && !refused {
            self.hidden.push(Hidden {
                looks,
                key,
                before,
                after,
            });
        }
    }

    /// The node has been looked at.
    pub(super) fn looked_at(&mut self) {
        self.unseen = false;
        for hidden in std::mem::take(&mut self.hidden) {
            let looks = hidden.looks.saturating_sub(1);
            if looks > 0 {
                self.hidden.push(Hidden { looks, ..hidden });
            } else {
                self.show(hidden);
            }
        }
    }

    fn show(
        &mut self,
        Hidden {
            key, before, after, ..
        }: Hidden,
    ) {
        self.unseen = true;
        self.change(key, |state| {
            merge(&mut state.domains.ours, &before.domains.ours, &after.domains.ours);
            let (images, then) = (&before.domains.images, &after.domains.images);
            merge(&mut state.domains.images, images, then);
            merge_storage(&mut state.storage, &before.storage, &after.storage);
            merge(&mut state.written, &before.written, &after.written);
            state
                .templates
                .extend(after.templates.difference(&before.templates));
            state.files.extend(after.files.difference(&before.files));
        });
    }
}

/// As [`merge`], but of storage that is there before, after and now only what the call itself has changed: what others
/// have done to it since stays.
fn merge_storage(
    now: &mut BTreeMap<SliverId, ObservedStorage>,
    before: &BTreeMap<SliverId, ObservedStorage>,
    after: &BTreeMap<SliverId, ObservedStorage>,
) {
    let nothing = ObservedStorage::default();
    for sliver in before.keys().chain(after.keys()) {
        let old = before.get(sliver).unwrap_or(&nothing);
        let Some(new) = after.get(sliver) else {
            now.remove(sliver);
            continue;
        };
        if old == new {
            continue;
        }
        let kept = now.entry(sliver.clone()).or_default();
        macro_rules! changed {
            ($($field:ident)+) => {
                $(if old.$field != new.$field {
                    kept.$field = new.$field.clone();
                })+
            };
        }
        changed!(on_disk open limits shares stack exported parked lease bytes tombstone mark checkpoints);
    }
}

/// Makes of `now` what `before` has become in `after`, where that differs.
fn merge<K: Ord + Clone, V: PartialEq + Clone>(
    now: &mut BTreeMap<K, V>,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) {
    for key in before.keys().chain(after.keys()) {
        if before.get(key) == after.get(key) {
            continue;
        }
        match after.get(key) {
            Some(value) => drop(now.insert(key.clone(), value.clone())),
            None => drop(now.remove(key)),
        }
    }
}
