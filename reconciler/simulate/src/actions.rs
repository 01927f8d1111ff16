//! One action of a node: how long it takes, how it ends, and what it does to the machine.

use std::sync::Arc;

use xeno_model::desired::DesiredNode;
use xeno_model::id::SliverId;
use xeno_model::normal::boot_digest;
use xeno_reconciler::action::{Action, ActionKind};
use xeno_reconciler::change::{Cause, ChangeClass};
use xeno_reconciler::exec::{ActionState, Outcome, RetryPolicy};
use xeno_reconciler::ports::PortError;
use xeno_reconciler::ports::Retry;
use xeno_reconciler::rollout::Condition;
use xeno_reconciler::scripted::Fault as Scripted;

use crate::node::{BackOff, Ending};
use crate::trace::Shade;
use crate::world::{Event, World};

/// Pauses after an action failed for good: those of the agent.
const BACK_OFF: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 15_000,
    pause_ms_max: 600_000,
};

impl World<'_> {
    /// Begins an action: how long it takes and how it ends is chance.
    pub(crate) fn launch(&mut self, n: usize, number: u32, at: usize, action: &Action) {
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
}

fn failed(why: &str) -> Outcome {
    let error = PortError::later(why);
    Outcome::Failed {
        why: error.what,
        retry: error.retry,
    }
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
