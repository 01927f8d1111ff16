//! A run: what may start is started, what ends is written down, and what hangs is left behind.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::{Id, JoinError};
use tokio::time::Instant;
use xeno_model::desired::DesiredNode;
use xeno_model::id::SliverId;
use xeno_model::observed::{ObservedNode, Seen, Stranger};
use xeno_reconciler::action::{Action, ActionKey};
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::exec::{ActionState, Outcome, RetryPolicy, Run, RunState};
use xeno_reconciler::ports::{MoveLayers, MoveMemory, Retry};
use xeno_reconciler::record::Settlement;
use xeno_state::node::Writer;
use xeno_state::record::{BackOff, ChapterEnd, EventKind, NewEvent, Outcome as Written};

use super::chapters::chapters;
use super::pass::Planned;
use super::progress::{InFlight, Progress, Straggler};
use super::{Agent, Purpose, RESTLESS_MAX, Stage};
use crate::crash::{self, Moment};
use crate::dispatch::{Work, carry_out};

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
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
        // What is about to come to be is known from now on: whoever ends it, or sends it away, before it was seen whole has to
        // know what it was made of.
        let begun: Vec<_> = planned
            .settlements
            .iter()
            .filter(|(sliver, _)| !self.memory.applied.contains_key(sliver))
            .filter_map(|(_, settlement)| match settlement {
                Settlement::Record(applied) => Some(AppliedSliver {
                    complete: false,
                    at: now,
                    ..applied.clone()
                }),
                Settlement::Forget => None,
            })
            .collect();
        let to_know = begun.clone();
        let number = self.remember(events, move |w| {
            let run = w.begin_run(generation, &revision, actions, now)?;
            for applied in &begun {
                w.apply(applied)?;
            }
            for chapter in chapters(&to_begin, run, now) {
                w.begin_chapter(&chapter)?;
            }
            Ok(run)
        });
        let Some(number) = number.await else {
            return self.rest();
        };
        for applied in to_know {
            self.memory.applied.insert(applied.desired.id.clone(), applied);
        }
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

    pub(super) async fn start(&mut self, key: ActionKey, run: i64) {
        let Stage::Running(progress) = &self.stage else {
            return;
        };
        let Some(planned) = progress.run.action(&key) else {
            return;
        };
        let sliver = planned.action.sliver().map(SliverId::itself);
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
        let (key, began) = (in_flight.key, in_flight.began);
        let outcome = outcome_of(outcome);
        self.tally.action(&key, &outcome);
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
        let sliver = planned.and_then(|planned| planned.action.sliver().map(SliverId::itself));
        let done = planned
            .filter(|_| state == ActionState::Done)
            .map(|planned| planned.action.kind());
        let serves = planned.map(|planned| planned.serves.clone()).unwrap_or_default();
        let settled = progress.take_settled();
        let mut events = Vec::new();
        let mut back_offs = Vec::new();
        match state {
            ActionState::Done => {
                progress.done.insert(key.clone());
                let done = self.event(EventKind::Done, sliver, key.0.clone());
                events.push(NewEvent {
                    data: Some(serde_json::json!({ "beganMs": began.0 })),
                    ..done
                });
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
        if self.settle(settled, Some(record), events).await {
            if let Some(kind) = done {
                crash::at(kind, Moment::AfterRecord);
            }
        } else if let Stage::Running(progress) = &mut self.stage {
            progress.abandoned = true;
        }
        self.pump().await;
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
                    Settlement::Record(applied) => w.apply(applied)?,
                    Settlement::Forget => {
                        w.forget(sliver)?;
                        w.leave_rollouts(sliver)?;
                    }
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
                Settlement::Forget => {
                    self.memory.applied.remove(&sliver);
                    self.memory.stands.remove(&sliver);
                }
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

    pub(super) async fn end_run(&mut self) {
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
        self.tally.run(outcome);
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

    /// The node as it will be once the starts that were left behind have an effect: their memory is not to be given to
    /// others meanwhile.
    pub(super) fn with_straggling_starts<'a>(&self, observed: &'a ObservedNode) -> Cow<'a, ObservedNode> {
        let Seen::Known(domains) = &observed.domains else {
            return Cow::Borrowed(observed);
        };
        let starting: Vec<_> = self
            .stragglers
            .values()
            .filter(|one| {
                one.memory_mib > 0
                    && !one
                        .berth
                        .as_ref()
                        .is_some_and(|berth| domains.ours.contains_key(berth))
            })
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
    pub(super) fn leave_behind(&mut self) {
        let elapsed = self.clock.elapsed_ms();
        if let Stage::Running(progress) = &mut self.stage {
            let left = progress.leave_behind(elapsed);
            self.stragglers.extend(left);
        }
    }

    /// Takes the outcome of an action that its run left behind. What is left to do for its slivers the next look says.
    pub(super) async fn straggler_ended(
        &mut self,
        straggler: Straggler,
        outcome: Result<Outcome, JoinError>,
    ) {
        let (key, time, now) = (straggler.key, self.node_time(), self.clock.now());
        let outcome = outcome_of(outcome);
        self.tally.action(&key, &outcome);
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

/// The outcome of an action, and what it makes wait.
struct Record {
    intent: i64,
    outcome: Written,
    back_offs: Vec<(SliverId, BackOff)>,
}
