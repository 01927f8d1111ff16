//! What a node's agent does: look, plan, check the plan, carry it out (`actions.rs`), look again. The planner, its judge and the
//! run are the real ones; the loop around them is told here in fewer words than in the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::DesiredNode;
use xeno_model::id::{Epoch, Generation, SliverId, Timestamp};
use xeno_model::normal::held_back;
use xeno_model::observed::{Ability, DomainState, HealthVerdict, ObservedNode, Seen};
use xeno_reconciler::action::{Action, ActionKey, ActionKind};
use xeno_reconciler::assume;
use xeno_reconciler::change::Reason;
use xeno_reconciler::check;
use xeno_reconciler::exec::{Outcome, RetryPolicy, Run};
use xeno_reconciler::plan::{self, Basis, Plan, PlanInput};
use xeno_reconciler::ports::Retry;
use xeno_reconciler::record::{Settlement, settlements};
use xeno_reconciler::rollout::{Condition, condition};
use xeno_reconciler::scripted::ScriptedNode;
use xeno_reconciler::serving;
use xeno_reconciler::tenure::{Journal, Leave};

use crate::node::{BackOff, Ending, Running, Wish};
use crate::trace::Shade;
use crate::world::{BEGIN_MS, World};

/// Actions of a node in flight at a time: the agent's default.
const PARALLEL: usize = 4;
/// How long a tombstone is kept: the agent's default.
const TOMBSTONE_MS: u64 = 7 * 24 * 3_600_000;
/// How long after something went wrong a node is looked at without another reason: the agent's default.
const LOOK_MS: u64 = 60_000;
/// Runs in a row that do not come to rest.
const RESTLESS_MAX: u32 = 50;

impl World<'_> {
    /// Makes the machine of a node as the first commit asks, unless something was done there already.
    pub(crate) fn materialise(&mut self, n: usize) {
        if self.nodes[n].machine.is_some() {
            return;
        }
        let (hypervisor, memory) = self.hardware(n);
        let view = &self.views[0];
        let before = view.by_node.project(&self.nodes[n].name, view.revision);
        let (mut observed, applied) = assume::observed_from(&before, Timestamp(BEGIN_MS));
        if let Seen::Known(domains) = &mut observed.domains {
            domains.able = xeno_reconciler::enforce::usual(hypervisor);
            domains.able.insert(Ability::Move);
        }
        let node = &mut self.nodes[n];
        for (sliver, applied) in &applied {
            node.epochs.insert(sliver.clone(), applied.epoch);
            self.safety.begins(n, sliver, applied.epoch);
            if self.movers.contains_key(sliver) {
                let journal = Journal {
                    began: Some(applied.epoch),
                    offered: None,
                };
                node.rights.journals.insert(sliver.clone(), journal);
            }
        }
        let machine = ScriptedNode::like(&observed, memory);
        for sliver in &self.movers_on[n] {
            let keeps = applied.get(sliver).is_some_and(|applied| {
                let mut mounts = applied.desired.mounts.iter();
                mounts.any(|mount| mount.writable.is_kept())
            });
            if keeps && let Some(layers) = machine.written(sliver) {
                self.safety.layers.insert(sliver.clone(), layers);
            }
        }
        node.machine = Some(machine);
        node.applied = applied;
    }

    /// What a node's commit asks of it, as far as moves have come.
    pub(crate) fn placed_on(&self, n: usize) -> DesiredNode {
        let node = &self.nodes[n];
        let view = &self.views[node.head];
        let desired = view.by_node.project(&node.name, view.revision);
        if node.rights.order.stages.is_empty() {
            return desired;
        }
        desired.staged(&node.rights.order.stages)
    }

    /// What is wanted of a node: the same, without what nobody has approved.
    pub(crate) fn wanted(&self, n: usize) -> DesiredNode {
        self.approved(n).0
    }

    /// What its commit asks for, and of slivers whose turn has not come what was asked before.
    pub(crate) fn followed(&self, n: usize) -> DesiredNode {
        let node = &self.nodes[n];
        let mut desired = self.placed_on(n);
        for (sliver, follows) in &node.follows {
            let (Some(now), Some(then)) = (desired.slivers.get(sliver), self.asked(sliver, *follows)) else {
                continue;
            };
            if *follows == node.head {
                continue;
            }
            let held = held_back(then, now);
            desired.hold(held, &self.views[*follows].commit.fleet.files);
        }
        desired
    }

    /// The same, kept from one look of a node to the next.
    fn wish(&mut self, n: usize) -> Arc<DesiredNode> {
        let node = &self.nodes[n];
        let stages = &node.rights.order.stages;
        let known = node
            .wish
            .as_ref()
            .filter(|wish| wish.head == node.head && wish.follows == node.follows && wish.stages == *stages);
        if let Some(wish) = known {
            return Arc::clone(&wish.desired);
        }
        let wish = Wish {
            head: node.head,
            follows: node.follows.clone(),
            stages: stages.clone(),
            desired: Arc::new(self.followed(n)),
        };
        let desired = Arc::clone(&wish.desired);
        self.nodes[n].wish = Some(wish);
        desired
    }

    /// What a node sees when it looks at itself.
    pub(crate) fn look(&self, n: usize) -> Option<ObservedNode> {
        let mut observed = self.look_at_all(n)?;
        if self.nodes[n].blind {
            observed.domains = Seen::Unknown {
                why: "the hypervisor does not answer".to_owned(),
            };
        }
        Some(observed)
    }

    /// What there is to see on a node.
    pub(crate) fn look_at_all(&self, n: usize) -> Option<ObservedNode> {
        let node = &self.nodes[n];
        let mut observed = node.machine.as_ref()?.observed(&node.name);
        observed.at = self.wall(n);
        if let Seen::Known(domains) = &observed.domains {
            for (sliver, domain) in &domains.ours {
                if domain.state == DomainState::Running
                    && self.bad.contains(&(sliver.itself(), domain.booted))
                {
                    let why = "no answer".to_owned();
                    observed
                        .health
                        .insert(sliver.clone(), HealthVerdict::Unhealthy { why });
                }
            }
        }
        Some(observed)
    }

    /// A node's wall clock.
    pub(crate) fn wall(&self, n: usize) -> Timestamp {
        Timestamp((BEGIN_MS + self.now).saturating_add_signed(self.nodes[n].skew_ms))
    }

    /// A node looks at itself, plans, and begins what is to be done.
    pub(crate) fn turn(&mut self, n: usize) {
        if self.nodes[n].turn_at != Some(self.now) {
            return;
        }
        self.nodes[n].turn_at = None;
        if !self.nodes[n].agent {
            return;
        }
        self.materialise(n);
        self.advance(n);
        if self.nodes[n].run.is_some() {
            return self.pump(n);
        }
        let followed = self.wish(n);
        let mut kept = self.kept(n, &followed);
        let desired = kept.desired.take().map_or(followed, Arc::new);
        let Some(observed) = self.look(n) else { return };
        let now = self.wall(n);
        if let Some(machine) = &self.nodes[n].machine {
            machine.set_now(now);
        }
        let (mut held, again) = self.held(n);
        self.hold_unread(n, &kept, &mut held);
        let epochs = self.held_elsewhere(n, &desired, &observed, &mut held);
        let node = &mut self.nodes[n];
        let window = desired.delete_budget.window.0;
        let at = self.now;
        node.removals.retain(|_, removed| *removed + window >= at);
        let leave = kept.leave.clone();
        let input = PlanInput {
            desired: &desired,
            leave: &leave,
            applied: &node.applied,
            observed: &observed,
            generation: Generation(node.generation),
            applied_generation: Generation(node.generation - 1),
            basis: Basis::Observed,
            removed_recently: u32::try_from(node.removals.len()).unwrap_or(u32::MAX),
            tombstone_ms: TOMBSTONE_MS,
            backing_off: &held,
            epochs: &epochs,
            ..PlanInput::plain(&desired, &node.applied, &observed, now)
        };
        let mut plan = match plan::build(&input) {
            Ok(plan) => plan,
            Err(error) => return self.safety.broken(format!("{}: {error}", node.name)),
        };
        let findings = check::check(&plan, &input);
        let settlements = settlements(&input, &plan);
        if let Some(finding) = findings.first() {
            return self
                .safety
                .broken(format!("{}: the judge refuses the plan: {finding}", node.name));
        }
        kept.tell(&mut plan, &input);
        let room = node.removals.values().min().map(|first| first + window + 1);
        self.count_reasons(&plan);
        if desired.approval.is_some() {
            self.ask_people(n, kept);
            self.look_when_unread(n);
        }
        self.learn_conditions(n, &plan, &observed);
        let again = again
            .into_iter()
            .chain(room.filter(|_| waits_for_room(&plan)))
            .chain(self.paused_until(n))
            .chain(plan.next.map(|next| at + next.0.saturating_sub(now.0)))
            .filter(|then| *then > at)
            .min();
        if let Some(then) = again {
            self.wake(n, then - at);
        }
        if self.nodes[n].blind {
            self.wake(n, LOOK_MS);
        }
        if plan.actions.is_empty() && settlements.is_empty() {
            self.rest(n);
            return;
        }
        self.begin_run(n, desired, plan, settlements);
    }

    /// Slivers that are left alone for now, and when the first of them is not any more.
    fn held(&self, n: usize) -> (BTreeMap<SliverId, Reason>, Option<u64>) {
        let node = &self.nodes[n];
        let waits = node
            .back_off
            .iter()
            .filter(|(_, back_off)| back_off.until_ms > self.now);
        let wall = self.wall(n);
        let reason = |(sliver, back_off): (&SliverId, &BackOff)| {
            let reason = Reason::BackingOff {
                action: back_off.action.clone(),
                why: back_off.why.clone(),
                until: Timestamp(wall.0 + (back_off.until_ms - self.now)),
                retry: Retry::Later,
            };
            (sliver.clone(), reason)
        };
        let first = waits.clone().map(|(_, back_off)| back_off.until_ms).min();
        (waits.map(reason).collect(), first)
    }

    /// The epochs under which a node may run slivers. Those that it may not go to the `held`, as do those that are new here and wait
    /// for their rollouts.
    pub(crate) fn held_elsewhere(
        &self,
        n: usize,
        desired: &DesiredNode,
        observed: &ObservedNode,
        held: &mut BTreeMap<SliverId, Reason>,
    ) -> BTreeMap<SliverId, Epoch> {
        let node = &self.nodes[n];
        for sliver in node.newcomers.iter().filter(|sliver| node.awaits(sliver)) {
            let why = "the board is asked how far it is".to_owned();
            held.insert(sliver.clone(), Reason::RolloutWaits { why });
        }
        let mut epochs = node.epochs.clone();
        for (sliver, leave) in self.may_plan(n, desired, observed) {
            match leave {
                Leave::Held(epoch) => {
                    epochs.insert(sliver, epoch);
                }
                Leave::Not(reason) => {
                    held.insert(sliver, reason);
                }
            }
        }
        epochs
    }

    /// What a plan says of how slivers are.
    fn learn_conditions(&mut self, n: usize, plan: &Plan, observed: &ObservedNode) {
        for sliver in self.nodes[n].active.keys().cloned().collect::<Vec<_>>() {
            let node = &self.nodes[n];
            let held = node.back_off.get(&sliver).filter(|held| held.until_ms > self.now);
            let failure = held.map(|held| held.why.clone());
            // Nothing of it is wanted here.
            let change = plan.changes.get(&sliver);
            if failure.is_none() && change.is_none() {
                continue;
            }
            let domains = observed.domains.known();
            let serving = domains.map_or_else(|| sliver.clone(), |domains| serving(domains, &sliver));
            let condition = match node.turns.contains(&sliver) {
                true => Condition::Changing,
                false => condition(failure, change, observed.health.get(&serving)),
            };
            self.condition(n, &sliver, condition);
        }
    }

    fn count_reasons(&mut self, plan: &Plan) {
        for reason in plan.changes.values().flat_map(|change| &change.reasons) {
            match reason {
                Reason::DeleteBudget { .. } => self.reach.hit("delete budget"),
                Reason::BackingOff { .. } => self.reach.hit("backing off"),
                Reason::Blind { .. } => self.reach.hit("blind"),
                Reason::NoRoomBeside { .. } => self.reach.hit("no room beside"),
                Reason::Unapproved { .. } => self.reach.hit("unapproved"),
                Reason::MadeBeforeBroken { .. } => self.reach.hit("made before broken"),
                _ => {}
            }
        }
    }

    fn begin_run(
        &mut self,
        n: usize,
        desired: Arc<DesiredNode>,
        plan: Plan,
        settlements: BTreeMap<SliverId, Settlement>,
    ) {
        let node = &mut self.nodes[n];
        node.idle = false;
        node.restless += 1;
        if node.restless > RESTLESS_MAX {
            let name = &node.name;
            return self.safety.broken(format!(
                "{name}: {RESTLESS_MAX} runs in a row did not come to rest"
            ));
        }
        node.runs += 1;
        let running = Running {
            number: node.runs,
            run: Run::new(plan, RetryPolicy::default(), node.draw.number()),
            desired,
            settlements,
            in_flight: BTreeMap::new(),
            stale: BTreeSet::new(),
            changing: BTreeSet::new(),
        };
        node.run = Some(Box::new(running));
        self.settle(n);
        self.pump(n);
    }

    /// Starts what may start; ends the run when nothing is left.
    pub(crate) fn pump(&mut self, n: usize) {
        let now = self.now;
        let mut started = Vec::new();
        let node = &mut self.nodes[n];
        let Some(running) = &mut node.run else { return };
        while let Some(key) = running.run.ready(PARALLEL, now).into_iter().next() {
            if let Err(error) = running.run.started(&key) {
                return self.safety.broken(format!("{}: {error}", node.name));
            }
            let Some((at, action)) = place(&running.run, &key) else {
                return self
                    .safety
                    .broken(format!("{}: {key} is not in its plan", node.name));
            };
            started.push((at, action.clone()));
            running.in_flight.insert(at, Ending::Well);
        }
        let number = running.number;
        let next_try = running.run.next_try_ms();
        let over = running.in_flight.is_empty() && running.run.is_finished();
        for (at, action) in started {
            self.launch(n, number, at, &action);
        }
        if over {
            return self.end_run(n);
        }
        if let Some(then) = next_try.filter(|then| *then > now) {
            self.wake(n, then - now);
        }
    }

    fn end_run(&mut self, n: usize) {
        self.nodes[n].run = None;
        if let Some(machine) = &self.nodes[n].machine {
            machine.forget_calls();
        }
        if self.has_left_slivers(n) {
            self.consider_soon(n, 0);
        }
        self.wake(n, 0);
    }

    /// Something new is wanted: what has not begun is left, and the next look says what is to be done.
    pub(crate) fn supersede(&mut self, n: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        let Some(running) = &mut node.run else {
            return self.wake(n, 0);
        };
        running.run.supersede();
        let waiting: Vec<usize> = running
            .in_flight
            .keys()
            .copied()
            .filter(|at| {
                let action = running
                    .run
                    .plan()
                    .actions
                    .get(*at)
                    .map(|planned| planned.action.kind());
                matches!(action, Some(ActionKind::AwaitHealthy | ActionKind::FetchTemplate))
            })
            .collect();
        for at in waiting {
            running.in_flight.remove(&at);
            let key = running.run.plan().actions[at].action.key();
            let outcome = Outcome::Failed {
                why: "a newer commit came".to_owned(),
                retry: Retry::Never,
            };
            if let Err(error) = running.run.finished(&key, outcome, now) {
                return self.safety.broken(format!("{}: {error}", node.name));
            }
        }
        self.pump(n);
    }

    /// Writes down what is done.
    pub(crate) fn settle(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(running) = &mut node.run else { return };
        let settled = running.run.settled();
        let first = &self.views[0].commit.fleet.slices;
        let desired = Arc::clone(&running.desired);
        // What went back to what it was before the push is as before, whatever became of it meanwhile.
        let shade = |sliver: &SliverId| {
            let before = first
                .get(&sliver.slice)
                .and_then(|slice| slice.slivers.get(&sliver.number));
            let wanted = desired.slivers.get(sliver);
            let same = before
                .zip(wanted)
                .is_some_and(|((_, before), wanted)| before == wanted);
            if same { Shade::Old } else { Shade::New }
        };
        let done: Vec<SliverId> = running
            .settlements
            .keys()
            .filter(|sliver| settled.contains(*sliver))
            .cloned()
            .collect();
        let (mut healthy, mut left) = (Vec::new(), false);
        for sliver in done {
            match running.settlements.remove(&sliver) {
                Some(Settlement::Record(applied)) => {
                    node.epochs.insert(sliver.clone(), applied.epoch);
                    node.applied.insert(sliver.clone(), applied);
                    node.newcomers.remove(&sliver);
                    if !running.stale.contains(&sliver) {
                        node.back_off.remove(&sliver);
                        self.trace.shade(self.now, n, &sliver, shade(&sliver));
                        healthy.push(sliver);
                    }
                }
                Some(Settlement::Forget) => {
                    node.applied.remove(&sliver);
                    left = true;
                    self.trace.shade(self.now, n, &sliver, Shade::Gone);
                }
                None => {}
            }
        }
        if left {
            self.consider_soon(n, 0);
        }
        // Nothing is written down of what came right and is what it was known to be.
        for sliver in &settled {
            if self.trace.has_failed(n, sliver) {
                self.trace.shade(self.now, n, sliver, shade(sliver));
            }
        }
        for sliver in healthy {
            let node = &self.nodes[n];
            if node.active.contains_key(&sliver) && !node.turns.contains(&sliver) {
                self.condition(n, &sliver, Condition::Healthy);
            }
        }
    }

    /// Nothing is to be done.
    fn rest(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.idle = true;
        node.restless = 0;
    }
}

/// Where an action stands in its plan.
fn place<'a>(run: &'a Run, key: &ActionKey) -> Option<(usize, &'a Action)> {
    let at = run.place(key)?;
    Some((at, &run.plan().actions[at].action))
}

fn waits_for_room(plan: &Plan) -> bool {
    let mut reasons = plan.changes.values().flat_map(|change| &change.reasons);
    reasons.any(|reason| matches!(reason, Reason::DeleteBudget { .. }))
}
