//! Slots of slivers that a commit has placed on other nodes. A slot that nobody needs any more would count as one that is down for
//! as long as the rollout lasts, and hold up those who wait for it.

use std::collections::BTreeSet;

use tokio::time::Instant;
use xeno_model::desired::{DesiredNode, SliverState};
use xeno_model::id::{SliceName, SliverId};
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};

use super::{Agent, Rolling};
use crate::event_loop::Stage;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// The slices of slivers that have changed here, and that `read` places elsewhere.
    pub(super) fn left(&self, read: &DesiredNode) -> BTreeSet<SliceName> {
        let stood = self.memory.stands.keys();
        let left = stood.filter(|sliver| !read.slivers.contains_key(*sliver));
        left.map(|sliver| sliver.slice.clone()).collect()
    }

    /// Gives back slots that slivers were changed with before a commit has placed them elsewhere.
    pub(super) fn give_back_left(&self, rolling: &mut Rolling, read: &DesiredNode) {
        let now = Instant::now();
        for slice in rolling.left.clone() {
            let Some(seen) = rolling
                .board
                .seen(&slice)
                .filter(|_| rolling.asking.is_free(&slice, now))
            else {
                continue;
            };
            let Some(record) = &seen.known.record else {
                continue;
            };
            let left = |number: &u32| {
                let sliver = SliverId::new(slice.clone(), *number);
                !read.slivers.contains_key(&sliver) && self.leaves_alone(&sliver)
            };
            let mine = record.slots.iter().filter(|(_, by)| **by == self.settings.node);
            let given = mine.map(|(number, _)| *number).find(left);
            if let Some(next) = given.and_then(|number| record.give_back(number, &self.settings.node).ok()) {
                rolling.swap(&slice, seen.known.clone(), next);
            }
        }
    }

    /// Whether a sliver that is placed elsewhere serves here as long as it is here, or is gone, and no run concerns it.
    fn leaves_alone(&self, sliver: &SliverId) -> bool {
        if let Stage::Running(progress) = &self.stage
            && progress.run.concerns(sliver)
        {
            return false;
        }
        let Some(domains) = self
            .observed
            .as_ref()
            .and_then(|observed| observed.domains.known())
        else {
            return false;
        };
        let mut here = domains.ours.iter().filter(|(berth, _)| berth.itself() == *sliver);
        let serves = here.any(|(_, domain)| domain.state == DomainState::Running);
        let applied = self.memory.applied.get(sliver);
        serves || applied.is_none_or(|applied| applied.desired.state != SliverState::Running)
    }
}
