//! What the node is reconciled towards: the commit that was read, with each sliver as its rollout has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::desired::DesiredNode;
use xeno_model::id::SliverId;
use xeno_model::normal::held_back;
use xeno_reconciler::change::{AppliedSliver, ChangeClass, Reason};
use xeno_reconciler::plan::Plan;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};

use super::super::Agent;
use super::super::rights::Rights;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Has the node be reconciled towards what is wanted for now, as far as rollouts have come.
    pub(in crate::event_loop) async fn regate(&mut self) {
        if self.gate_staged() {
            self.refused.clear();
            self.supersede().await;
        }
        self.wake();
    }

    /// Whether that is something else than before. Whoever goes by the same pointer goes on undisturbed otherwise.
    pub(in crate::event_loop) fn gate_staged(&mut self) -> bool {
        let Some(staged) = self.staged.clone() else {
            return false;
        };
        let gated = self.gate(&staged).map_or(staged, Arc::new);
        let desired = self.keep_unapproved(gated);
        if self.desired.as_deref() == Some(&*desired) {
            return false;
        }
        self.desired = Some(desired);
        true
    }

    /// The commit with slivers as they stand; `None`: all stand where it wants them, or there is nobody to wait for.
    fn gate(&self, read: &DesiredNode) -> Option<DesiredNode> {
        let rolling = self.rolling.as_ref()?;
        // Files that the commit which was read has not, and that who was about to bring them here could not.
        let nothing = BTreeMap::new();
        let before = self.desired.as_ref().map_or(&nothing, |before| &before.files);
        let mut gated = None;
        for (sliver, wanted) in &read.slivers {
            let Some(outline) = rolling.slices.get(&sliver.slice) else {
                continue;
            };
            let Some(stand) = self.stand(wanted, outline.revision) else {
                continue;
            };
            if stand.at.0 != outline.revision {
                let gated = gated.get_or_insert_with(|| read.clone());
                gated.hold(held_back(&stand.at.1, wanted), before);
            }
        }
        gated
    }

    /// New slivers whose turn has yet to come.
    pub(in crate::event_loop) fn held_by_rollouts(&self) -> Vec<(SliverId, Reason)> {
        let Some(read) = &self.placed else {
            return Vec::new();
        };
        let held = read.slivers.keys().filter_map(|sliver| {
            let why = self.waits_for_rollout(sliver)?;
            Some((sliver.clone(), Reason::RolloutWaits { why }))
        });
        held.collect()
    }

    /// What a sliver waits for that is new here and whose turn has yet to come.
    pub(in crate::event_loop) fn waits_for_rollout(&self, sliver: &SliverId) -> Option<String> {
        let (rolling, read) = (self.rolling.as_ref()?, self.placed.as_ref()?);
        let moves = |rights: &Rights| rights.is_on_its_way(sliver);
        let is_new = read.slivers.contains_key(sliver)
            && !self.memory.stands.contains_key(sliver)
            && self.made_of(sliver).is_none()
            && !self.rights.as_ref().is_some_and(moves);
        let why = || rolling.waits.get(sliver).cloned();
        is_new.then(|| why().unwrap_or_else(|| "the board is asked how far it is".to_owned()))
    }

    /// What a sliver of this node was last made of. What was only written down for one that was to come here, and that another
    /// node has still, is nothing: had it counted, the sliver would be let in at the next try, whosever turn it is.
    pub(in crate::event_loop) fn made_of(&self, sliver: &SliverId) -> Option<&AppliedSliver> {
        let mine = |rights: &Rights| rights.fleet.member.record(sliver).is_with(&self.settings.node);
        let applied = self.memory.applied.get(sliver)?;
        (applied.complete || self.rights.as_ref().is_none_or(mine)).then_some(applied)
    }

    /// Says in a plan what those wait for that are kept as they were.
    pub(in crate::event_loop) fn tell_rollouts(&self, plan: &mut Plan) {
        let Some(rolling) = &self.rolling else { return };
        for (sliver, why) in &rolling.waits {
            if let Some(change) = plan.changes.get_mut(sliver)
                && change.class == ChangeClass::Keep
            {
                change.class = ChangeClass::Wait;
                change.reasons.push(Reason::RolloutWaits { why: why.clone() });
            }
        }
    }
}
