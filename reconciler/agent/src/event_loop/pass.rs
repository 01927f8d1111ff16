//! One pass: from what was seen to a plan, from the plan to a run, from the run back to a look.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::{Id, JoinError};
use tokio::time::{Duration, Instant};
use xeno_model::desired::{DesiredNode, SliverState};
use xeno_model::id::{Generation, SliverId, Timestamp};
use xeno_model::normal::current_boot;
use xeno_model::observed::{DomainState, ObservedNode, Seen, Stranger};
use xeno_reconciler::action::{Action, ActionKey};
use xeno_reconciler::change::{Change, ChangeClass, Reason};
use xeno_reconciler::exec::{ActionState, Outcome, RetryPolicy, Run, RunState};
use xeno_reconciler::plan::{self, Basis, Plan, PlanInput};
use xeno_reconciler::ports::{Hypervisor, Retry, Storage};
use xeno_reconciler::record::{Settlement, settlements};
use xeno_reconciler::{check, report};
use xeno_state::node::Writer;
use xeno_state::record::{BackOff, ChapterEnd, EventKind, NewEvent, Outcome as Written};
use xeno_state::time::NodeTime;

use super::chapters::chapters;
use super::progress::{InFlight, Progress, Straggler};
use super::{Agent, Purpose, RESTLESS_MAX, Stage};
use crate::dispatch::{Work, carry_out};

/// Longest time for which anything is planned ahead.
const DUE_MS_MAX: u64 = 86_400_000;

/// A plan with all that is decided together with it.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) findings: Vec<String>,
    pub(super) settlements: BTreeMap<SliverId, Settlement>,
    /// When the delete budget has room again, where something waits for that.
    pub(super) room_at: Option<NodeTime>,
}

impl<H, S> Agent<H, S>
where
    H: Hypervisor + 'static,
    S: Storage + 'static,
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
            restarts: &restarts,
            freezes: &freezes,
            now,
        };
        let plan = plan::build(&input).map_err(|error| error.to_string())?;
        let findings = check::check(&plan, &input)
            .iter()
            .map(ToString::to_string)
            .collect();
        let settlements = settlements(&input, &plan);
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
        })
    }

    /// Takes guests that an earlier version of the agent started for what they are.
    pub(super) fn recognise(&self, observed: &mut ObservedNode) {
        let Seen::Known(domains) = &mut observed.domains else {
            return;
        };
        for (id, domain) in &mut domains.ours {
            let applied = self.memory.applied.get(id).map(|applied| &applied.desired);
            let desired = self.desired.as_ref().and_then(|desired| desired.slivers.get(id));
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
                .slivers
                .get(sliver)
                .filter(|wanted| wanted.state == SliverState::Running);
            domain.zip(wanted)
        };
        // One in flight may have been started since the look.
        let in_flight = |sliver: &SliverId| match &self.stage {
            Stage::Running(_) => true,
            Stage::Idle | Stage::Looking => runs(sliver).is_some(),
        };
        self.ports.probers.retain(in_flight);
        for sliver in desired.slivers.keys() {
            if let Some((domain, wanted)) = runs(sliver) {
                let console = self.ports.hypervisor.console_log(sliver);
                self.ports.probers.ask(wanted, domain.booted, console);
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

    pub(super) async fn begin_run(&mut self, desired: Arc<DesiredNode>, planned: Planned) {
        self.restless += 1;
        if self.restless > RESTLESS_MAX {
            tracing::error!("{RESTLESS_MAX} passes in a row did not come to rest; waiting for the next look");
            return self.rest();
        }
        let plan = planned.plan;
        let now = self.clock.now();
        let (generation, revision, actions) = (plan.generation, plan.revision.clone(), plan.actions.len());
        let counted = match actions {
            1 => "1 action".to_owned(),
            n => format!("{n} actions"),
        };
        let text = format!(
            "{counted} for {} towards {}",
            self.settings.node,
            revision.short()
        );
        let events = if actions == 0 {
            Vec::new()
        } else {
            vec![self.event(EventKind::Planned, None, text)]
        };
        let to_begin = plan.clone();
        let begun = self.remember(events, move |w| {
            let run = w.begin_run(generation, &revision, actions, now)?;
            for chapter in chapters(&to_begin, run, now) {
                w.begin_chapter(&chapter)?;
            }
            Ok(run)
        });
        let Some(number) = begun.await else {
            return self.rest();
        };
        // Chance only spreads retries; the node's name makes it differ between nodes.
        let seed = now.0 ^ u64::from(std::process::id());
        let mut progress = Progress {
            run: Run::new(plan, RetryPolicy::default(), seed),
            number,
            began: now,
            desired,
            settlements: planned.settlements,
            in_flight: Default::default(),
            done: BTreeSet::new(),
            restarted: BTreeSet::new(),
            superseded: false,
            abandoned: false,
        };
        let settled = progress.take_settled();
        self.stage = Stage::Running(Box::new(progress));
        self.state_is_back().await;
        if !self.settle(settled, None, Vec::new()).await
            && let Stage::Running(progress) = &mut self.stage
        {
            progress.abandoned = true;
        }
        self.pump().await;
    }

    /// Starts what may start; ends the run when nothing is left.
    pub(super) async fn pump(&mut self) {
        loop {
            let now_ms = self.clock.elapsed_ms();
            let Stage::Running(progress) = &self.stage else {
                return;
            };
            // What is late does not take the place of others.
            let parallel = self.settings.parallel.saturating_add(progress.late());
            if self.stopping || progress.abandoned {
                break;
            }
            let (Some(key), number) = (
                progress.run.ready(parallel, now_ms).into_iter().next(),
                progress.number,
            ) else {
                break;
            };
            self.start(key, number).await;
        }
        let Stage::Running(progress) = &self.stage else {
            return;
        };
        let quiet = progress.in_flight.is_empty();
        if quiet && (progress.run.is_finished() || progress.abandoned || self.stopping) {
            self.end_run().await;
        }
    }

    async fn start(&mut self, key: ActionKey, run: i64) {
        let Stage::Running(progress) = &self.stage else {
            return;
        };
        let Some(planned) = progress.run.action(&key) else {
            return;
        };
        let sliver = planned.action.sliver().cloned();
        let work = Work::new(&planned.action, &progress.desired);
        if matches!(planned.action, Action::Boot { .. } | Action::Resume { .. })
            && let Some(sliver) = &sliver
        {
            self.count_restart(sliver).await;
        }
        let now = self.clock.now();
        let name = key.0.clone();
        let intent = self
            .remember(Vec::new(), move |w| w.intent(run, &name, sliver.as_ref(), now))
            .await;
        let Stage::Running(progress) = &mut self.stage else {
            return;
        };
        let Some(intent) = intent else {
            // Without its intent on disk an action is not begun.
            progress.abandoned = true;
            return;
        };
        if let Err(error) = progress.run.started(&key) {
            // A mistake of ours: it ends the pass and leaves everything alone.
            tracing::error!("{error}");
            progress.abandoned = true;
            return;
        }
        let ports = Arc::clone(&self.ports);
        let late_at = Instant::now() + work.late_after(ports.shutdown_grace);
        let abort = self.tasks.spawn(async move { carry_out(&ports, work).await });
        let in_flight = InFlight {
            key,
            intent,
            began: now,
            abort: abort.clone(),
            given_up: false,
            late_at,
        };
        progress.in_flight.insert(abort.id(), in_flight);
    }

    /// Takes the outcome of an action.
    pub(super) async fn action_ended(&mut self, id: Id, outcome: Result<Outcome, JoinError>) {
        let time = self.node_time();
        let elapsed = self.clock.elapsed_ms();
        if let Some(straggler) = self.stragglers.remove(&id) {
            return self.straggler_ended(straggler, outcome).await;
        }
        let Stage::Running(progress) = &mut self.stage else {
            return;
        };
        let Some(in_flight) = progress.in_flight.remove(&id) else {
            return;
        };
        let key = in_flight.key;
        let outcome = outcome_of(outcome);
        let permanent = matches!(
            outcome,
            Outcome::Failed {
                retry: Retry::Never,
                ..
            }
        ) && !key.0.starts_with("await:");
        let written = to_write(&outcome);
        let state = match progress.run.finished(&key, outcome, elapsed) {
            Ok(state) => state.clone(),
            Err(error) => {
                tracing::error!("{error}");
                progress.abandoned = true;
                return self.pump().await;
            }
        };
        let planned = progress.run.action(&key);
        let sliver = planned.and_then(|planned| planned.action.sliver().cloned());
        let serves = planned.map(|planned| planned.serves.clone()).unwrap_or_default();
        let settled = progress.take_settled();
        let mut events = Vec::new();
        let mut back_offs = Vec::new();
        match state {
            ActionState::Done => {
                progress.done.insert(key.clone());
                events.push(self.event(EventKind::Done, sliver, key.0.clone()));
            }
            ActionState::Pausing { until_ms, tries, why } => {
                let seconds = until_ms.saturating_sub(elapsed).div_ceil(1000);
                let text = format!("{key} failed (try {tries}): {why}; trying again in {seconds} s");
                events.push(self.event(EventKind::Failed, sliver, text));
            }
            ActionState::Failed { tries, why } if !in_flight.given_up => {
                let text = format!("{key} failed after {tries} tries: {why}");
                events.push(self.event(EventKind::Failed, sliver, text));
                for sliver in serves {
                    let back_off = self.memory.next_back_off(&sliver, &key, &why, permanent, time);
                    back_offs.push((sliver, back_off));
                }
            }
            ActionState::Failed { .. }
            | ActionState::Blocked { .. }
            | ActionState::Cancelled
            | ActionState::Waiting
            | ActionState::InFlight => {}
        }
        let record = Record {
            intent: in_flight.intent,
            outcome: written,
            back_offs,
        };
        if !self.settle(settled, Some(record), events).await
            && let Stage::Running(progress) = &mut self.stage
        {
            progress.abandoned = true;
        }
        self.pump().await;
    }

    /// The node as it will be once the starts that were left behind have an effect: their memory is not to be given to
    /// others meanwhile.
    fn with_straggling_starts<'a>(&self, observed: &'a ObservedNode) -> Cow<'a, ObservedNode> {
        let Seen::Known(domains) = &observed.domains else {
            return Cow::Borrowed(observed);
        };
        let starting: Vec<_> = self
            .stragglers
            .values()
            .filter(|one| one.memory_mib > 0 && !one.serves.iter().any(|s| domains.ours.contains_key(s)))
            .map(|one| Stranger {
                name: one.key.to_string(),
                memory_mib: one.memory_mib,
            })
            .collect();
        if starting.is_empty() {
            return Cow::Borrowed(observed);
        }
        let mut observed = observed.clone();
        if let Seen::Known(domains) = &mut observed.domains {
            domains.strangers.extend(starting);
        }
        Cow::Owned(observed)
    }

    /// Lets the run go on without what is late.
    fn leave_behind(&mut self) {
        let elapsed = self.clock.elapsed_ms();
        if let Stage::Running(progress) = &mut self.stage {
            let left = progress.leave_behind(elapsed);
            self.stragglers.extend(left);
        }
    }

    /// Takes the outcome of an action that its run left behind. What is left to do for its slivers the next look says.
    async fn straggler_ended(&mut self, straggler: Straggler, outcome: Result<Outcome, JoinError>) {
        let (key, time, now) = (straggler.key, self.node_time(), self.clock.now());
        let outcome = outcome_of(outcome);
        let written = to_write(&outcome);
        let mut back_offs = Vec::new();
        let event = match outcome {
            Outcome::Done => self.event(EventKind::Done, None, key.0.clone()),
            Outcome::Failed { why, retry } => {
                for sliver in &straggler.serves {
                    let permanent = retry == Retry::Never;
                    let back_off = self.memory.next_back_off(sliver, &key, &why, permanent, time);
                    back_offs.push((sliver.clone(), back_off));
                }
                self.event(EventKind::Failed, None, format!("{key} failed: {why}"))
            }
        };
        let event = NewEvent {
            sliver: straggler.serves.iter().next().cloned(),
            ..event
        };
        self.memory.backing_off.extend(back_offs.iter().cloned());
        self.remember(vec![event], move |w| {
            w.outcome(straggler.intent, &written, now)?;
            for (sliver, back_off) in &back_offs {
                w.back_off(sliver, back_off)?;
            }
            Ok(())
        })
        .await;
        self.wake();
    }

    /// Writes down an outcome, what it settled and what it made wait, in one transaction. `false` where that failed:
    /// then only the record is missing, and the next look finds out what is so.
    async fn settle(
        &mut self,
        settled: BTreeMap<SliverId, Settlement>,
        record: Option<Record>,
        mut events: Vec<NewEvent>,
    ) -> bool {
        let now = self.clock.now();
        for (sliver, settlement) in &settled {
            let text = match settlement {
                Settlement::Record(_) => format!("{sliver} is as desired"),
                Settlement::Forget => format!("{sliver} is removed"),
            };
            events.push(self.event(EventKind::Converged, Some(sliver.clone()), text));
        }
        if record.is_none() && settled.is_empty() {
            return true;
        }
        let run = match &self.stage {
            Stage::Running(progress) => Some(progress.number),
            Stage::Idle | Stage::Looking => None,
        };
        let (to_write, back_offs) = (
            settled.clone(),
            record.as_ref().map(|r| r.back_offs.clone()).unwrap_or_default(),
        );
        let body = move |w: &mut Writer<'_>| {
            if let Some(record) = &record {
                w.outcome(record.intent, &record.outcome, now)?;
                for (sliver, back_off) in &record.back_offs {
                    w.back_off(sliver, back_off)?;
                    let why = format!("{} failed: {}", back_off.action, back_off.why);
                    w.end_chapters(run, Some(sliver), ChapterEnd::Failed, Some(&why), now)?;
                }
            }
            for (sliver, settlement) in &to_write {
                w.end_chapters(run, Some(sliver), ChapterEnd::Done, None, now)?;
                match settlement {
                    Settlement::Record(applied) => w.apply(applied, now)?,
                    Settlement::Forget => w.forget(sliver)?,
                }
            }
            Ok(())
        };
        if self.remember(events, body).await.is_none() {
            return false;
        }
        self.memory.backing_off.extend(back_offs);
        for (sliver, settlement) in settled {
            match settlement {
                Settlement::Record(applied) => drop(self.memory.applied.insert(sliver, applied)),
                Settlement::Forget => drop(self.memory.applied.remove(&sliver)),
            }
        }
        true
    }

    /// Lets a run under way give way: what it has not begun is cancelled, what only waits is given up.
    pub(super) async fn supersede(&mut self) {
        let Stage::Running(progress) = &mut self.stage else {
            return;
        };
        if !progress.superseded {
            progress.superseded = true;
            progress.run.supersede();
            progress.give_up_waiting();
        }
        self.pump().await;
    }

    async fn end_run(&mut self) {
        let Stage::Running(progress) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return;
        };
        let state = progress.run.state();
        let outcome = match state {
            _ if progress.abandoned => "abandoned",
            RunState::Running => "stopped",
            RunState::Done => "done",
            RunState::Failed => "failed",
            RunState::Superseded => "superseded",
        };
        let mut events = Vec::new();
        if state == RunState::Superseded && !self.stopping {
            let text = format!("the run towards {} gave way", progress.desired.revision.short());
            events.push(self.event(EventKind::Superseded, None, text));
        }
        let (number, now) = (progress.number, self.clock.now());
        let rest = if state == RunState::Superseded {
            ChapterEnd::Superseded
        } else {
            ChapterEnd::Unfinished
        };
        let written = self
            .remember(events, move |w| {
                w.end_chapters(Some(number), None, rest, None, now)?;
                w.end_run(number, outcome, now)
            })
            .await;
        if self.stopping {
            return;
        }
        if progress.abandoned || written.is_none() {
            // Again with the next tick, once the state may be written.
            return self.rest();
        }
        let same = self
            .desired
            .as_ref()
            .is_some_and(|desired| Arc::ptr_eq(desired, &progress.desired));
        self.just_done = if same && !progress.superseded {
            progress.done
        } else {
            BTreeSet::new()
        };
        self.look(Purpose::Pass);
    }

    /// Makes slivers wait whose actions have just succeeded and are needed again at once: a guest that ends right after
    /// its start, a port that says yes and does nothing. Whether there was any.
    async fn hold_what_does_not_stay(&mut self, plan: &Plan) -> bool {
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
    async fn calm(&mut self, plan: &Plan) {
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
    async fn carried(&mut self, plan: &Plan) {
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
    async fn try_to_write(&mut self) {
        if self.memory.failure.is_none() {
            return;
        }
        if self.remember(Vec::new(), |_| Ok(())).await.is_some() {
            self.state_is_back().await;
        }
    }

    /// Says that the state can be written again, with what was wrong.
    async fn state_is_back(&mut self) {
        if let Some(why) = self.memory.failure.take() {
            let text = format!("the state can be written again; until now: {why}");
            let event = self.event(EventKind::StateBack, None, text);
            self.remember(vec![event], |_| Ok(())).await;
        }
    }

    /// Says once what waits, and for what.
    async fn tell_waiting(&mut self, plan: &Plan) {
        let waits = plan
            .changes
            .values()
            .filter(|change| change.class == ChangeClass::Wait);
        let waiting: BTreeMap<_, _> = waits
            // Failures have told of themselves, and blindness is told once for all.
            .filter(|change| {
                !matches!(
                    change.reasons.first(),
                    Some(Reason::BackingOff { .. } | Reason::Blind { .. }) | None
                )
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

    async fn tell_blindness(&mut self, observed: &ObservedNode) {
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

fn outcome_of(ended: Result<Outcome, JoinError>) -> Outcome {
    match ended {
        Ok(outcome) => outcome,
        Err(error) if error.is_cancelled() => Outcome::Failed {
            why: "given up for something newer".to_owned(),
            retry: Retry::Later,
        },
        Err(error) => Outcome::Failed {
            why: format!("a mistake in this program ended it: {error}"),
            retry: Retry::Never,
        },
    }
}

fn to_write(outcome: &Outcome) -> Written {
    match outcome {
        Outcome::Done => Written::Done,
        Outcome::Failed { why, .. } => Written::Failed { why: why.clone() },
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

/// The outcome of an action, and what it makes wait.
struct Record {
    intent: i64,
    outcome: Written,
    back_offs: Vec<(SliverId, BackOff)>,
}
