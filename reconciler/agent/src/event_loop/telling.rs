//! What a look brings to be told or remembered: what waits, what cannot be seen, what did not last, what has calmed.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::id::SliverId;
use xeno_model::observed::ObservedNode;
use xeno_reconciler::action::ActionKey;
use xeno_reconciler::change::{ChangeClass, Reason};
use xeno_reconciler::plan::Plan;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::report;
use xeno_state::record::{BackOff, EventKind};

use super::Agent;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Makes slivers wait whose actions have just succeeded and are needed again at once: a guest that ends right after
    /// its start, a port that says yes and does nothing. Whether there was any.
    pub(super) async fn hold_what_does_not_stay(&mut self, plan: &Plan) -> bool {
        let time = self.node_time();
        let mut back_offs: BTreeMap<SliverId, BackOff> = BTreeMap::new();
        for planned in &plan.actions {
            let key = planned.action.key();
            if !self.just_done.contains(&key) || key.0.starts_with("await:") {
                continue;
            }
            for sliver in &planned.serves {
                let why = "it succeeded, and did not last";
                let back_off = self.memory.next_back_off(sliver, &key, why, false, time);
                back_offs.entry(sliver.clone()).or_insert(back_off);
            }
        }
        if back_offs.is_empty() {
            return false;
        }
        let text =
            |sliver: &SliverId, back_off: &BackOff| format!("{sliver}: {} {}", back_off.action, back_off.why);
        let events = back_offs
            .iter()
            .map(|(sliver, back_off)| {
                self.event(EventKind::Failed, Some(sliver.clone()), text(sliver, back_off))
            })
            .collect();
        self.memory.backing_off.extend(back_offs.clone());
        self.remember(events, move |w| {
            for (sliver, back_off) in &back_offs {
                w.back_off(sliver, back_off)?;
            }
            Ok(())
        })
        .await;
        true
    }

    /// Forgets the failures of slivers that are as desired.
    pub(super) async fn calm(&mut self, plan: &Plan) {
        let settled = |sliver: &SliverId| {
            plan.changes
                .get(sliver)
                .is_none_or(|c| c.class == ChangeClass::Keep)
        };
        // Right after its own success a failure in a row is not over yet.
        let calmed: Vec<_> = self
            .memory
            .backing_off
            .iter()
            .filter(|(sliver, back_off)| {
                settled(sliver) && !self.just_done.contains(&ActionKey(back_off.action.clone()))
            })
            .map(|(sliver, _)| sliver.clone())
            .collect();
        if calmed.is_empty() {
            return;
        }
        for sliver in &calmed {
            self.memory.backing_off.remove(sliver);
        }
        self.remember(Vec::new(), move |w| {
            for sliver in &calmed {
                w.clear_back_off(Some(sliver))?;
            }
            Ok(())
        })
        .await;
    }

    /// Remembers that a generation has been carried through.
    pub(super) async fn carried(&mut self, plan: &Plan) {
        let all = plan
            .changes
            .values()
            .all(|change| change.class == ChangeClass::Keep);
        let behind = self
            .memory
            .accepted
            .as_ref()
            .is_some_and(|accepted| accepted.carried < plan.generation);
        if all && behind {
            let generation = plan.generation;
            let written = self.remember(Vec::new(), move |w| w.carried(generation)).await;
            if let (Some(()), Some(accepted)) = (written, &mut self.memory.accepted) {
                accepted.carried = generation;
            }
        }
    }

    /// After a failure: whether the state can be written again.
    pub(super) async fn try_to_write(&mut self) {
        if self.memory.failure.is_none() {
            return;
        }
        if self.remember(Vec::new(), |_| Ok(())).await.is_some() {
            self.state_is_back().await;
        }
    }

    /// Says that the state can be written again, with what was wrong.
    pub(super) async fn state_is_back(&mut self) {
        if let Some(why) = self.memory.failure.take() {
            let text = format!("the state can be written again; until now: {why}");
            let event = self.event(EventKind::StateBack, None, text);
            self.remember(vec![event], |_| Ok(())).await;
        }
    }

    /// Says once what waits, and for what.
    pub(super) async fn tell_waiting(&mut self, plan: &Plan) {
        let waits = plan
            .changes
            .values()
            .filter(|change| change.class == ChangeClass::Wait);
        let waiting: BTreeMap<_, _> = waits
            // Failures have told of themselves, and so has what nothing can be seen of at all.
            .filter(|change| match change.reasons.first() {
                Some(Reason::Blind { facet, .. }) => !self.blind.contains(facet),
                Some(Reason::BackingOff { .. }) | None => false,
                Some(_) => true,
            })
            .map(|change| (change.sliver.clone(), report::explain(change).join("; ")))
            .collect();
        let events: Vec<_> = waiting
            .iter()
            .filter(|(sliver, why)| self.waiting.get(*sliver) != Some(why))
            .map(|(sliver, why)| {
                self.event(
                    EventKind::Waiting,
                    Some(sliver.clone()),
                    format!("{sliver} waits: {why}"),
                )
            })
            .collect();
        self.waiting = waiting;
        if !events.is_empty() {
            self.remember(events, |_| Ok(())).await;
        }
    }

    pub(super) async fn tell_blindness(&mut self, observed: &ObservedNode) {
        let facets = super::answers::blind_facets(observed);
        let blind: BTreeSet<_> = facets.keys().copied().collect();
        let mut events = Vec::new();
        for (facet, why) in &facets {
            if !self.blind.contains(facet) {
                events.push(self.event(EventKind::Blind, None, format!("cannot see the {facet}: {why}")));
            }
        }
        for facet in self.blind.difference(&blind) {
            events.push(self.event(EventKind::Seen, None, format!("sees the {facet} again")));
        }
        self.blind = blind;
        if !events.is_empty() {
            self.remember(events, |_| Ok(())).await;
        }
    }
}
