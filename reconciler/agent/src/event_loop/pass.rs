//! One pass: from what was seen to a plan, from the plan to a run, from the run back to a look.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Duration, Instant};
use xeno_model::desired::{DesiredNode, SliverState};
use xeno_model::id::{Generation, SliverId, Timestamp};
use xeno_model::normal::current_boot;
use xeno_model::observed::{DomainState, ObservedNode, Seen};
use xeno_reconciler::action::{Action, ActionKey};
use xeno_reconciler::approval::Kept;
use xeno_reconciler::change::{Change, Reason};
use xeno_reconciler::check;
use xeno_reconciler::plan::{self, Basis, Plan, PlanInput};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::record::{Settlement, settlements};
use xeno_reconciler::tenure::Leave;
use xeno_state::record::EventKind;
use xeno_state::time::NodeTime;

use super::{Agent, Stage};
use crate::health;

/// Longest time for which anything is planned ahead.
const DUE_MS_MAX: u64 = 86_400_000;

/// A plan with all that is decided together with it.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) findings: Vec<String>,
    pub(super) settlements: BTreeMap<SliverId, Settlement>,
    /// When the delete budget has room again, where something waits for that.
    pub(super) room_at: Option<NodeTime>,
    /// What waits for approval, whatever held it up.
    pub(super) kept: Kept,
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Removals within the delete budget's window, and when the first of them was.
    pub(super) async fn removed_recently(&self, desired: &DesiredNode) -> (u32, Option<NodeTime>) {
        let (time, window) = (self.node_time(), desired.delete_budget.window.0);
        let from = NodeTime(time.0.saturating_sub(window));
        let removals = self.store.read(move |state| state.removals_since(from)).await;
        let allowed = desired.delete_budget.slivers;
        match removals {
            Ok(removals) => {
                let known = u32::try_from(removals.known.len()).unwrap_or(u32::MAX);
                let first = removals.known.first().copied();
                if removals.forgotten {
                    (known.max(allowed), removals.rebuilt.or(first))
                } else {
                    (known, first)
                }
            }
            // What cannot be counted counts as used up.
            Err(_) => (allowed, None),
        }
    }

    pub(super) fn restarts_by_the_wall(&self) -> BTreeMap<SliverId, Vec<Timestamp>> {
        let restarts = self.memory.restarts.iter();
        let by_the_wall = |times: &Vec<NodeTime>| times.iter().map(|at| self.by_the_wall(*at)).collect();
        restarts
            .map(|(sliver, times)| (sliver.clone(), by_the_wall(times)))
            .collect()
    }

    /// Plans from an observation; `Err` is a mistake of the planner. Slivers that are `busy` are left alone, as are those
    /// of actions that were left behind.
    pub(super) async fn make_plan(
        &self,
        desired: &DesiredNode,
        observed: &ObservedNode,
        busy: &BTreeMap<SliverId, ActionKey>,
    ) -> Result<Planned, String> {
        let (now, time) = (self.clock.now(), self.node_time());
        let (removed_recently, room_at) = self.removed_recently(desired).await;
        let (restarts, freezes) = (self.restarts_by_the_wall(), self.freezes());
        let accepted = self.memory.accepted.as_ref();
        let mut held = self.memory.reasons(now, time);
        let stragglers = self.stragglers.values();
        let stragglers = stragglers.flat_map(|one| one.serves.iter().map(|sliver| (sliver, &one.key)));
        for (sliver, action) in busy.iter().chain(stragglers) {
            let action = action.clone();
            held.insert(sliver.clone(), Reason::RunUnderway { action });
        }
        held.extend(self.held_by_rollouts());
        held.extend(self.held_unread());
        let mut epochs = BTreeMap::new();
        for (sliver, verdict) in self.verdicts(observed) {
            match verdict {
                Leave::Held(epoch) => {
                    epochs.insert(sliver, epoch);
                }
                Leave::Not(reason) => {
                    held.insert(sliver, reason);
                }
            }
        }
        let observed = &self.with_straggling_starts(observed);
        let input = PlanInput {
            desired,
            applied: &self.memory.applied,
            observed,
            generation: accepted.map_or(Generation(0), |accepted| accepted.generation),
            applied_generation: accepted.map_or(Generation(0), |accepted| accepted.carried),
            basis: Basis::Observed,
            removed_recently,
            tombstone_ms: self.settings.tombstone_ms,
            backing_off: &held,
            epochs: &epochs,
            restarts: &restarts,
            freezes: &freezes,
            leave: &self.approvals.kept.leave,
            now,
        };
        let mut plan = plan::build(&input).map_err(|error| error.to_string())?;
        let findings = check::check(&plan, &input)
            .iter()
            .map(ToString::to_string)
            .collect();
        let settlements = settlements(&input, &plan);
        self.tell_rollouts(&mut plan);
        let mut kept = self.approvals.kept.clone();
        kept.tell(&mut plan, &input);
        let waits_for_room = |change: &Change| {
            let mut reasons = change.reasons.iter();
            reasons.any(|reason| matches!(reason, Reason::DeleteBudget { .. }))
        };
        // One millisecond later the window does not reach back to the first removal any more.
        let room_at = room_at
            .filter(|_| plan.changes.values().any(waits_for_room))
            .map(|first| first.plus(desired.delete_budget.window.0.saturating_add(1)));
        Ok(Planned {
            plan,
            findings,
            settlements,
            room_at,
            kept,
        })
    }

    /// Takes guests that an earlier version of the agent started for what they are.
    pub(super) fn recognise(&self, observed: &mut ObservedNode) {
        let Seen::Known(domains) = &mut observed.domains else {
            return;
        };
        for (id, domain) in &mut domains.ours {
            let id = id.itself();
            let applied = self.memory.applied.get(&id).map(|applied| &applied.desired);
            let desired = self.desired.as_ref().and_then(|desired| desired.slivers.get(&id));
            // The ports that such a guest was started with are part of what it is recognised by: it starts again when they
            // change, as it would have under that version, and not without a reason at the look after.
            if desired.is_some_and(|desired| desired.publish != domain.publish) {
                continue;
            }
            domain.booted = current_boot(domain, applied.into_iter().chain(desired));
        }
    }

    /// When time alone may change a plan.
    fn due(&self, plan: &Plan) -> Option<Instant> {
        let after = plan.next?.0.saturating_sub(self.clock.now().0);
        // Farther off than any look; also keeps the sum from overflowing.
        Some(Instant::now() + Duration::from_millis(after.min(DUE_MS_MAX)))
    }

    /// Goes on from a look.
    pub(super) async fn looked(&mut self, observed: ObservedNode) {
        self.tell_blindness(&observed).await;
        self.end_freezes().await;
        // What is carried through by now needs approval no more.
        if self
            .staged
            .as_ref()
            .is_some_and(|staged| staged.approval.is_some())
        {
            self.gate_staged();
        }
        let Some(desired) = self.desired.clone() else {
            self.observed = Some(observed);
            self.rest();
            return;
        };
        self.probe(&desired, &observed);
        let planned = self.make_plan(&desired, &observed, &BTreeMap::new()).await;
        self.observed = Some(observed);
        let planned = match planned {
            Ok(planned) => planned,
            Err(why) => return self.refuse(vec![why]).await,
        };
        let idle = planned.plan.actions.is_empty() && planned.settlements.is_empty();
        self.tell_waiting(&planned.plan).await;
        self.since.note(&planned.plan, self.clock.now());
        self.calm(&planned.plan).await;
        self.plan = Some(planned.plan.clone());
        self.rollouts_seen();
        self.note_unapproved(planned.kept.clone());
        self.room_at = planned.room_at;
        self.due_at = self.due(&planned.plan);
        self.forget_restarts(&planned.plan).await;
        if !planned.findings.is_empty() {
            return self.refuse(planned.findings).await;
        }
        self.refused.clear();
        if idle {
            self.carried(&planned.plan).await;
            self.try_to_write().await;
            self.rest();
        } else if self.stopping || self.hold_what_does_not_stay(&planned.plan).await {
            self.rest();
            // The failures just written make the next plan wait.
            self.next_look = Instant::now() + self.settings.look_every;
        } else {
            self.begin_run(desired, planned).await;
        }
    }

    /// Sees whether a run that only waits keeps something else from being done.
    pub(super) async fn peeked(&mut self, observed: ObservedNode) {
        let (Some(desired), Stage::Running(progress)) = (self.desired.clone(), &self.stage) else {
            return;
        };
        if !progress.only_waits() {
            return;
        }
        let waits = |action: &Action| {
            matches!(action, Action::AwaitHealthy { .. }) || progress.is_in_flight(&action.key())
        };
        let planned = self.make_plan(&desired, &observed, &progress.busy()).await;
        let more = planned.is_ok_and(|planned| can_go_on(&planned.plan, waits));
        self.observed = Some(observed);
        if more {
            self.leave_behind();
            self.supersede().await;
        }
    }

    /// Asks those slivers how they are that run as they should.
    fn probe(&self, desired: &DesiredNode, observed: &ObservedNode) {
        let Seen::Known(domains) = &observed.domains else {
            return;
        };
        let runs = |sliver: &SliverId| {
            let domain = domains
                .ours
                .get(sliver)
                .filter(|domain| domain.state == DomainState::Running);
            let wanted = desired
                .embodied(sliver)
                .filter(|wanted| wanted.state == SliverState::Running);
            domain.zip(wanted)
        };
        // One in flight may have been started since the look.
        let in_flight = |sliver: &SliverId| match &self.stage {
            Stage::Running(_) => true,
            Stage::Idle | Stage::Looking => runs(sliver).is_some(),
        };
        self.ports.probers.retain(in_flight);
        for sliver in domains.ours.keys() {
            if let Some((domain, mut wanted)) = runs(sliver) {
                wanted.publish = health::asked_at(&wanted, &domain.publish);
                let console = self.ports.hypervisor.console_log(sliver);
                self.ports.probers.ask(&wanted, domain.booted, console);
            }
        }
    }

    async fn refuse(&mut self, findings: Vec<String>) {
        if self.refused != findings {
            let text = format!("the plan is not carried out: {}", findings.join("; "));
            let event = self.event(EventKind::PlanRefused, None, text);
            self.refused = findings;
            self.remember(vec![event], |_| Ok(())).await;
        }
        self.rest();
    }
}

/// Whether a plan has an action that neither waits nor comes after one that does.
fn can_go_on(plan: &Plan, waits: impl Fn(&Action) -> bool) -> bool {
    let mut held = BTreeSet::new();
    plan.actions.iter().any(|planned| {
        // The plan's order has what comes before first.
        let behind = planned.after.iter().any(|before| held.contains(before));
        let holds = behind || waits(&planned.action);
        if holds {
            held.insert(planned.action.key());
        }
        !holds
    })
}
