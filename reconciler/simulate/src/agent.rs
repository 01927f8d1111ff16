//! What a node's agent does: look, plan, check the plan, carry it out, look again. The planner, its judge and the run are the
//! real ones; the loop around them is told here in fewer words than in the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{DesiredNode, LayerRef};
use xeno_model::id::{Epoch, Generation, SliverId, Timestamp};
use xeno_model::normal::{boot_digest, held_back};
use xeno_model::observed::{Ability, DomainState, HealthVerdict, ObservedNode, Seen};
use xeno_reconciler::action::{Action, ActionKey, ActionKind};
use xeno_reconciler::assume;
use xeno_reconciler::change::{Cause, ChangeClass, Reason};
use xeno_reconciler::check;
use xeno_reconciler::exec::{ActionState, Outcome, RetryPolicy, Run};
use xeno_reconciler::plan::{self, Basis, Plan, PlanInput};
use xeno_reconciler::ports::PortError;
use xeno_reconciler::ports::Retry;
use xeno_reconciler::record::{Settlement, settlements};
use xeno_reconciler::rollout::{Condition, condition};
use xeno_reconciler::scripted::{Fault as Scripted, ScriptedNode};
use xeno_reconciler::serving;
use xeno_reconciler::tenure::{Journal, Leave};

use crate::node::{BackOff, Ending, Running, Wish};
use crate::trace::Shade;
use crate::world::{BEGIN_MS, Event, World};

/// Actions of a node in flight at a time: the agent's default.
const PARALLEL: usize = 4;
/// How long a tombstone is kept: the agent's default.
const TOMBSTONE_MS: u64 = 7 * 24 * 3_600_000;
/// How long after something went wrong a node is looked at without another reason: the agent's default.
const LOOK_MS: u64 = 60_000;
/// Pauses after an action failed for good: those of the agent.
const BACK_OFF: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 15_000,
    pause_ms_max: 600_000,
};
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
            for layer in held.mounts.iter().flat_map(|mount| &mount.layers) {
                if let LayerRef::Files { digest } = layer
                    && let Some(set) = self.views[*follows].commit.fleet.files.get(digest)
                {
                    desired.files.insert(*digest, set.clone());
                }
            }
            desired.slivers.insert(sliver.clone(), held);
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

    /// Begins an action: how long it takes and how it ends is chance.
    fn launch(&mut self, n: usize, number: u32, at: usize, action: &Action) {
        let ending = self.ending(n, action);
        let (class, cause) = action
            .sliver()
            .and_then(|sliver| {
                let run = &self.nodes[n].run.as_ref()?.run;
                run.plan()
                    .changes
                    .get(&sliver.itself())
                    .map(|change| (change.class, change.cause))
            })
            .unwrap_or((ChangeClass::Keep, Cause::Change));
        if let Some(sliver) = action.sliver() {
            self.needs_approval(n, &sliver.itself(), class, cause);
        }
        if action.is_destructive()
            && let Some(sliver) = action.sliver()
        {
            self.disturbs(n, &sliver.itself(), class, cause);
        }
        let wall = self.wall(n);
        let bad = match action {
            Action::AwaitHealthy { sliver } => self.is_bad(n, sliver),
            _ => false,
        };
        let node = &mut self.nodes[n];
        let takes = match &ending {
            Ending::Hangs | Ending::HangsAfter => 60_000,
            Ending::Fails(_) if bad => patience(node.run.as_ref().map(|run| &*run.desired), action),
            Ending::Well | Ending::Fails(_) | Ending::Unsaid => takes(action.kind(), &mut node.draw),
        };
        if let Some(running) = &mut node.run {
            running.in_flight.insert(at, ending);
            if let Some(sliver) = action.sliver().map(SliverId::itself)
                && running.changing.insert(sliver.clone())
                && cause == Cause::Change
            {
                self.classes.insert(sliver.clone(), class);
                self.trace.shade(self.now, n, &sliver, Shade::Changing);
            }
        }
        if let Action::Tombstone { sliver } = action {
            let set_aside = node.machine.as_ref().is_some_and(|machine| {
                let seen = machine.observed(&node.name);
                seen.storage_of(sliver)
                    .is_ok_and(|storage| storage.is_some_and(|s| s.tombstone.is_some()))
            });
            if !set_aside {
                node.removals.entry(sliver.itself()).or_insert(self.now);
                self.safety.removed(n, &sliver.itself(), self.now);
            }
        }
        if let Some(machine) = &node.machine {
            machine.set_now(wall);
        }
        self.after(
            takes,
            Event::Ended {
                node: n,
                run: number,
                action: at,
            },
        );
    }

    /// Whether what runs of a sliver on a node never becomes healthy.
    pub(crate) fn is_bad(&self, n: usize, sliver: &SliverId) -> bool {
        if self.bad.is_empty() {
            return false;
        }
        let Some(machine) = &self.nodes[n].machine else {
            return false;
        };
        let observed = machine.observed(&self.nodes[n].name);
        let domains = observed.domains.known();
        let domain = domains.and_then(|domains| domains.ours.get(sliver));
        domain.is_some_and(|domain| self.bad.contains(&(sliver.itself(), domain.booted)))
    }

    /// Whether what is asked of a sliver on a node never becomes healthy.
    pub(crate) fn is_hopeless(&self, n: usize, sliver: &SliverId) -> bool {
        if self.bad.is_empty() {
            return false;
        }
        let wanted = self.wanted(n);
        let asked = wanted.slivers.get(sliver).map(boot_digest);
        asked.is_some_and(|asked| self.bad.contains(&(sliver.clone(), asked)))
    }

    fn ending(&mut self, n: usize, action: &Action) -> Ending {
        if let Action::AwaitHealthy { sliver } = action
            && self.is_bad(n, sliver)
        {
            self.reach.hit("never healthy");
            return Ending::Fails(Outcome::Failed {
                why: "it did not become healthy".to_owned(),
                retry: Retry::Never,
            });
        }
        self.some_ending(n)
    }

    /// How a call of a driver ends.
    pub(crate) fn some_ending(&mut self, n: usize) -> Ending {
        let node = &mut self.nodes[n];
        if node.drivers_permille == 0 || !node.draw.permille(node.drivers_permille) {
            return Ending::Well;
        }
        let (word, ending) = match node.draw.below(4) {
            0 => (
                "action fails",
                Ending::Fails(Outcome::Failed {
                    why: "the driver failed".to_owned(),
                    retry: Retry::Later,
                }),
            ),
            1 => ("action unsaid", Ending::Unsaid),
            2 => ("action hangs", Ending::Hangs),
            _ => ("action hangs after", Ending::HangsAfter),
        };
        self.reach.hit(word);
        ending
    }

    /// An action has ended.
    pub(crate) fn ended(&mut self, n: usize, number: u32, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[n];
        let Some(running) = node.run.as_mut().filter(|running| running.number == number) else {
            return;
        };
        // Given up meanwhile.
        let Some(ending) = running.in_flight.remove(&at) else {
            return;
        };
        let action = running.run.plan().actions[at].action.clone();
        let (key, desired) = (action.key(), Arc::clone(&running.desired));
        let outcome = self.carry_out(n, &action, &desired, &ending);
        let node = &mut self.nodes[n];
        let Some(running) = &mut node.run else { return };
        let state = match running.run.finished(&key, outcome, now) {
            Ok(state) => state.clone(),
            Err(error) => return self.safety.broken(format!("{}: {error}", node.name)),
        };
        let mut failures = Vec::new();
        let mut reason = String::new();
        match state {
            ActionState::Done => self.reach.action(action.kind()),
            ActionState::Failed { why, .. } => {
                reason.clone_from(&why);
                let serves = running.run.plan().actions[at].serves.clone();
                for sliver in serves
                    .into_iter()
                    .filter(|sliver| !running.stale.contains(sliver))
                {
                    let held = node.back_off.get(&sliver).filter(|held| held.action == key);
                    let attempts = held.map_or(0, |held| held.attempts) + 1;
                    let until_ms = now + BACK_OFF.pause_ms(attempts, node.draw.number());
                    let back_off = BackOff {
                        action: key.clone(),
                        why: why.clone(),
                        attempts,
                        until_ms,
                    };
                    node.back_off.insert(sliver.clone(), back_off);
                    failures.push(sliver.clone());
                    self.trace.shade(now, n, &sliver, Shade::Failed);
                }
            }
            ActionState::Pausing { .. }
            | ActionState::Blocked { .. }
            | ActionState::Cancelled
            | ActionState::Waiting
            | ActionState::InFlight => {}
        }
        for sliver in failures {
            self.condition(n, &sliver, Condition::Failed { why: reason.clone() });
        }
        self.settle(n);
        self.pump(n);
    }

    /// Carries an action out on the machine, as well or badly as was drawn.
    pub(crate) fn carry_out(
        &mut self,
        n: usize,
        action: &Action,
        desired: &DesiredNode,
        ending: &Ending,
    ) -> Outcome {
        let node = &self.nodes[n];
        let Some(machine) = &node.machine else {
            return failed("there is no machine");
        };
        let outcome = match ending {
            Ending::Fails(outcome) => return outcome.clone(),
            Ending::Hangs => return failed("no answer in time"),
            Ending::Well => machine.perform(action, desired),
            Ending::Unsaid | Ending::HangsAfter => {
                machine.script(action.verb(), Scripted::SucceedsUnsaid);
                machine.perform(action, desired)
            }
        };
        if let Some(sliver) = action.sliver() {
            self.note_running(n, sliver);
            if let Action::OpenWritable { epoch, .. } = action {
                self.safety.opens(n, &sliver.itself(), *epoch);
            }
        } else if let Some(violation) = machine.violations().into_iter().next() {
            self.safety.broken(format!("{}: {violation}", node.name));
        }
        outcome.unwrap_or_else(|| failed("no answer in time"))
    }

    /// Writes down what is done.
    fn settle(&mut self, n: usize) {
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

fn failed(why: &str) -> Outcome {
    let error = PortError::later(why);
    Outcome::Failed {
        why: error.what,
        retry: error.retry,
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

/// How long a sliver that does not become healthy is waited for.
fn patience(desired: Option<&DesiredNode>, action: &Action) -> u64 {
    let sliver = action
        .sliver()
        .and_then(|sliver| desired?.slivers.get(&sliver.itself()));
    let health = sliver.and_then(|sliver| sliver.health.as_ref());
    health.map_or(1_000, |health| {
        health.grace.0 + health.interval.0 * u64::from(health.threshold)
    })
}

/// How long an action takes that goes well, in milliseconds: as measured on real nodes, roughly.
fn takes(kind: ActionKind, draw: &mut crate::draw::Draw) -> u64 {
    let (low, high) = match kind {
        ActionKind::FetchTemplate => (5_000, 60_000),
        ActionKind::Boot | ActionKind::Resume => (800, 4_000),
        ActionKind::AwaitHealthy => (3_000, 25_000),
        ActionKind::Shutdown => (500, 8_000),
        ActionKind::Suspend => (2_000, 12_000),
        ActionKind::Checkpoint | ActionKind::Restore | ActionKind::MountRemote => (50, 1_500),
        ActionKind::ImportFiles
        | ActionKind::Unpublish
        | ActionKind::Unexport
        | ActionKind::CloseWritable
        | ActionKind::Seal
        | ActionKind::Tombstone
        | ActionKind::DiscardImage
        | ActionKind::Revive
        | ActionKind::Adopt
        | ActionKind::OpenWritable
        | ActionKind::Limit
        | ActionKind::Stack
        | ActionKind::Export
        | ActionKind::Unpause
        | ActionKind::Retune
        | ActionKind::Publish
        | ActionKind::Purge => (10, 300),
    };
    draw.between(low, high)
}
