//! A run: one attempt to carry out a plan, as a state machine without I/O. Outcomes go in, actions that may start come
//! out; whoever drives it owns the clock, the threads and the ports.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::id::SliverId;

use crate::action::{Action, ActionKey, ActionKind};
use crate::plan::{Plan, PlannedAction};
use crate::ports::Retry;

/// When a failed action is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub tries_max: u32,
    /// Pause after the first failure, in milliseconds; it doubles with every further one.
    pub pause_ms_first: u64,
    /// Longest pause, in milliseconds.
    pub pause_ms_max: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries_max: 4,
            pause_ms_first: 1_000,
            pause_ms_max: 30_000,
        }
    }
}

impl RetryPolicy {
    /// Pause after failure number `tries` (from 1): exponential, of which the upper half is chance, so that what failed
    /// together does not come back together. `seed` is the chance.
    #[must_use]
    pub fn pause_ms(&self, tries: u32, seed: u64) -> u64 {
        let doubled = 1u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX);
        let whole = self.pause_ms_first.saturating_mul(doubled).min(self.pause_ms_max);
        let half = whole / 2;
        half + mix(seed) % (whole - half + 1)
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is so.
    Done,
    /// It is not, or nobody knows.
    Failed {
        /// What went wrong.
        why: String,
        /// Whether doing the same again can help.
        retry: Retry,
    },
}

/// Where one action stands. Times are those that the driver gave, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionState {
    /// Others come first, or nobody has started it.
    Waiting,
    /// It has been started.
    InFlight,
    /// It failed and may be tried again.
    Pausing {
        /// Not before this.
        until_ms: u64,
        /// Tries so far.
        tries: u32,
        /// What went wrong.
        why: String,
    },
    /// It is so.
    Done,
    /// It failed for good.
    Failed {
        /// Tries in all.
        tries: u32,
        /// What went wrong last.
        why: String,
    },
    /// It cannot happen in this run: what it needs failed or was cancelled.
    Blocked {
        /// The action that it waited for.
        by: ActionKey,
    },
    /// A newer commit came before it was started.
    Cancelled,
}

impl ActionState {
    /// Whether nothing more will happen to it in this run.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Done | Self::Failed { .. } | Self::Blocked { .. } | Self::Cancelled => true,
            Self::Waiting | Self::InFlight | Self::Pausing { .. } => false,
        }
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Something is in flight or can still start.
    Running,
    /// Every action is done.
    Done,
    /// It is over, and something failed.
    Failed,
    /// It is over because a newer commit came; something was cancelled.
    Superseded,
}

/// A call that does not fit the state of a run: a mistake of its driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The plan has no such action.
    #[error("record the progress of {0}: the plan has no such action")]
    Unknown(ActionKey),
    /// It was not ready to start.
    #[error("record the start of {0}: it was not ready")]
    NotReady(ActionKey),
    /// It was not in flight.
    #[error("record the end of {0}: it was not in flight")]
    NotInFlight(ActionKey),
}

/// One attempt to carry out a plan.
///
/// At most one action of a sliver is in flight. A failure blocks what depends on it and nothing else. Services that
/// have been taken down come before ones that still run, so that no more are down at once than actions may be in
/// flight.
#[derive(Clone, Debug)]
pub struct Run {
    plan: Plan,
    policy: RetryPolicy,
    seed: u64,
    index: BTreeMap<ActionKey, usize>,
    dependents: Vec<Vec<usize>>,
    /// How many actions each still waits for.
    waits_for: Vec<usize>,
    state: Vec<ActionState>,
    tries: Vec<u32>,
    /// Waiting or pausing, with nothing left to wait for but time.
    free: BTreeSet<usize>,
    in_flight: BTreeSet<usize>,
    busy: BTreeSet<SliverId>,
    /// Slivers of which something destructive was started: from then on they are seen through to their boot.
    committed: BTreeSet<SliverId>,
    /// Slivers of which a checkpoint was made: it gets older until they end.
    kept: BTreeSet<SliverId>,
    superseded: bool,
    open: usize,
}

impl Run {
    /// Begins a run. `seed` is the chance in its pauses.
    #[must_use]
    pub fn new(plan: Plan, policy: RetryPolicy, seed: u64) -> Self {
        let index: BTreeMap<_, _> = plan
            .actions
            .iter()
            .enumerate()
            .map(|(i, planned)| (planned.action.key(), i))
            .collect();
        let count = plan.actions.len();
        let mut dependents = vec![Vec::new(); count];
        let mut waits_for = vec![0; count];
        for (i, planned) in plan.actions.iter().enumerate() {
            for before in &planned.after {
                // `build` makes no edge to what is not in the plan; one made by hand counts as met.
                if let Some(before) = index.get(before) {
                    dependents[*before].push(i);
                    waits_for[i] += 1;
                }
            }
        }
        let free = (0..count).filter(|i| waits_for[*i] == 0).collect();
        Self {
            plan,
            policy,
            seed,
            index,
            dependents,
            waits_for,
            state: vec![ActionState::Waiting; count],
            tries: vec![0; count],
            free,
            in_flight: BTreeSet::new(),
            busy: BTreeSet::new(),
            committed: BTreeSet::new(),
            kept: BTreeSet::new(),
            superseded: false,
            open: count,
        }
    }

    /// The plan being carried out.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Actions that may start now, so that no more than `limit` are in flight; fetches are counted apart, since one
    /// that hangs must not take the place of what others need. Until [`Run::started`] is told they are offered again.
    #[must_use]
    pub fn ready(&self, limit: usize, now_ms: u64) -> Vec<ActionKey> {
        let fetches = |i: &usize| matches!(self.plan.actions[*i].action, Action::FetchTemplate { .. });
        let fetching = self.in_flight.iter().filter(|i| fetches(i)).count();
        let mut left = limit.saturating_sub(self.in_flight.len() - fetching);
        let mut left_to_fetch = limit.saturating_sub(fetching);
        let mut taken = BTreeSet::new();
        let mut ready = Vec::new();
        for committed in [true, false] {
            for i in &self.free {
                let left = if fetches(i) { &mut left_to_fetch } else { &mut left };
                if *left == 0 {
                    continue;
                }
                let action = &self.plan.actions[*i].action;
                let due = match &self.state[*i] {
                    ActionState::Pausing { until_ms, .. } => *until_ms <= now_ms,
                    ActionState::Waiting => true,
                    ActionState::InFlight
                    | ActionState::Done
                    | ActionState::Failed { .. }
                    | ActionState::Blocked { .. }
                    | ActionState::Cancelled => false,
                };
                let sliver = action.sliver().map(SliverId::itself);
                let urgent = sliver
                    .as_ref()
                    .is_some_and(|sliver| self.committed.contains(sliver) || self.kept.contains(sliver));
                let free = sliver
                    .as_ref()
                    .is_none_or(|sliver| !self.busy.contains(sliver) && !taken.contains(sliver));
                if due && free && urgent == committed {
                    taken.extend(sliver);
                    ready.push(action.key());
                    *left -= 1;
                }
            }
        }
        ready
    }

    /// The earliest time at which a pausing action may be tried again.
    #[must_use]
    pub fn next_try_ms(&self) -> Option<u64> {
        let pauses = self.free.iter().filter_map(|i| match &self.state[*i] {
            ActionState::Pausing { until_ms, .. } => Some(*until_ms),
            ActionState::Waiting
            | ActionState::InFlight
            | ActionState::Done
            | ActionState::Failed { .. }
            | ActionState::Blocked { .. }
            | ActionState::Cancelled => None,
        });
        pauses.min()
    }

    /// The action of that name.
    #[must_use]
    pub fn action(&self, key: &ActionKey) -> Option<&PlannedAction> {
        self.place(key).map(|i| &self.plan.actions[i])
    }

    /// Where in the plan an action stands.
    #[must_use]
    pub fn place(&self, key: &ActionKey) -> Option<usize> {
        self.index.get(key).copied()
    }

    /// Records that an action was started.
    ///
    /// # Errors
    /// [`RunError`] if it was not ready.
    pub fn started(&mut self, key: &ActionKey) -> Result<(), RunError> {
        let i = self.find(key)?;
        let action = &self.plan.actions[i].action;
        let sliver = action.sliver().map(SliverId::itself);
        let busy = sliver.as_ref().is_some_and(|sliver| self.busy.contains(sliver));
        if busy || !self.free.remove(&i) {
            return Err(RunError::NotReady(key.clone()));
        }
        if let Some(sliver) = sliver {
            if action.is_destructive() {
                self.committed.insert(sliver.clone());
            } else if action.kind() == ActionKind::Checkpoint {
                self.kept.insert(sliver.clone());
            }
            self.busy.insert(sliver);
        }
        self.in_flight.insert(i);
        self.state[i] = ActionState::InFlight;
        self.tries[i] = self.tries[i].saturating_add(1);
        Ok(())
    }

    /// Records how an action ended; returns its state, which says whether and when it is tried again.
    ///
    /// # Errors
    /// [`RunError`] if it was not in flight.
    pub fn finished(
        &mut self,
        key: &ActionKey,
        outcome: Outcome,
        now_ms: u64,
    ) -> Result<&ActionState, RunError> {
        let i = self.find(key)?;
        if !self.in_flight.remove(&i) {
            return Err(RunError::NotInFlight(key.clone()));
        }
        if let Some(sliver) = self.plan.actions[i].action.sliver() {
            self.busy.remove(&sliver.itself());
        }
        let tries = self.tries[i];
        match outcome {
            Outcome::Done => {
                self.end(i, ActionState::Done);
                for dependent in self.dependents[i].clone() {
                    self.waits_for[dependent] -= 1;
                    if self.waits_for[dependent] == 0 && !self.state[dependent].is_final() {
                        self.free.insert(dependent);
                    }
                }
            }
            Outcome::Failed { why, retry } => {
                if retry == Retry::Later && tries < self.policy.tries_max && !self.superseded {
                    let salt = self.seed ^ mix(u64::try_from(i).unwrap_or(0)) ^ u64::from(tries);
                    let until_ms = now_ms.saturating_add(self.policy.pause_ms(tries, salt));
                    self.state[i] = ActionState::Pausing { until_ms, tries, why };
                    self.free.insert(i);
                } else {
                    self.end(i, ActionState::Failed { tries, why });
                    self.block_dependents(i);
                }
            }
        }
        if self.superseded {
            self.cancel_what_can_wait();
        }
        Ok(&self.state[i])
    }

    /// Tells the run that a newer commit came. From now on nothing begins but what a sliver needs that has been taken
    /// down: such a sliver is seen through to its boot, or to its end.
    pub fn supersede(&mut self) {
        self.superseded = true;
        self.cancel_what_can_wait();
    }

    /// Where the run stands.
    #[must_use]
    pub fn state(&self) -> RunState {
        if !self.is_finished() {
            return RunState::Running;
        }
        let any = |test: fn(&ActionState) -> bool| self.state.iter().any(test);
        if any(|state| matches!(state, ActionState::Cancelled)) {
            RunState::Superseded
        } else if any(|state| matches!(state, ActionState::Failed { .. } | ActionState::Blocked { .. })) {
            RunState::Failed
        } else {
            RunState::Done
        }
    }

    /// Whether nothing is in flight and nothing can start any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.open == 0
    }

    /// All actions in the order of the plan, and where each stands.
    pub fn actions(&self) -> impl Iterator<Item = (&PlannedAction, &ActionState)> {
        self.plan.actions.iter().zip(&self.state)
    }

    /// Whether this run has begun, or is to begin, anything that changes a sliver. Waiting for its guest to become healthy does
    /// not.
    #[must_use]
    pub fn concerns(&self, sliver: &SliverId) -> bool {
        self.actions().any(|(planned, state)| {
            let of = planned.action.sliver().map(SliverId::itself);
            !state.is_final()
                && of.as_ref() == Some(sliver)
                && !matches!(planned.action, Action::AwaitHealthy { .. })
        })
    }

    /// What keeps a sliver's change from being done: its first action that failed, was blocked or is trying again.
    #[must_use]
    pub fn trouble(&self, sliver: &SliverId) -> Option<(ActionKey, &ActionState)> {
        self.actions()
            .filter(|(planned, _)| planned.serves.contains(sliver))
            .find(|(_, state)| match state {
                ActionState::Failed { .. } | ActionState::Blocked { .. } | ActionState::Pausing { .. } => {
                    true
                }
                ActionState::Waiting | ActionState::InFlight | ActionState::Done | ActionState::Cancelled => {
                    false
                }
            })
            .map(|(planned, state)| (planned.action.key(), state))
    }

    /// Slivers all of whose actions are done; those whose change needs no action are among them from the beginning.
    #[must_use]
    pub fn settled(&self) -> BTreeSet<SliverId> {
        let mut settled: BTreeSet<_> = self.plan.changes.keys().cloned().collect();
        for (planned, state) in self.actions() {
            if *state != ActionState::Done {
                for sliver in &planned.serves {
                    settled.remove(sliver);
                }
            }
        }
        settled
    }

    fn find(&self, key: &ActionKey) -> Result<usize, RunError> {
        self.index
            .get(key)
            .copied()
            .ok_or_else(|| RunError::Unknown(key.clone()))
    }

    fn end(&mut self, i: usize, state: ActionState) {
        debug_assert!(!self.state[i].is_final(), "an action ends once");
        self.free.remove(&i);
        self.state[i] = state;
        self.open -= 1;
    }

    fn block_dependents(&mut self, failed: usize) {
        let mut stack = vec![failed];
        while let Some(i) = stack.pop() {
            let by = self.plan.actions[i].action.key();
            for dependent in self.dependents[i].clone() {
                if self.state[dependent] == ActionState::Waiting {
                    self.end(dependent, ActionState::Blocked { by: by.clone() });
                    stack.push(dependent);
                }
            }
        }
    }

    /// Cancels what need not happen now that a newer commit came, and what then cannot.
    fn cancel_what_can_wait(&mut self) {
        let mut cancelled = vec![false; self.state.len()];
        for i in 0..self.state.len() {
            if matches!(self.state[i], ActionState::Done | ActionState::InFlight) {
                continue;
            }
            let action = &self.plan.actions[i].action;
            let seen_through = action
                .sliver()
                .is_some_and(|sliver| self.committed.contains(&sliver.itself()))
                && !matches!(action, Action::AwaitHealthy { .. });
            // The plan's order has what comes before at lower indexes.
            let befores = self.plan.actions[i].after.iter();
            let possible = befores
                .filter_map(|before| self.index.get(before))
                .all(|before| !cancelled[*before]);
            let pausing = matches!(self.state[i], ActionState::Pausing { .. });
            if self.state[i].is_final() {
                cancelled[i] = true;
            } else if !seen_through || !possible || pausing {
                cancelled[i] = true;
                let state = match std::mem::replace(&mut self.state[i], ActionState::Waiting) {
                    ActionState::Pausing { tries, why, .. } => ActionState::Failed { tries, why },
                    ActionState::Waiting
                    | ActionState::InFlight
                    | ActionState::Done
                    | ActionState::Failed { .. }
                    | ActionState::Blocked { .. }
                    | ActionState::Cancelled => ActionState::Cancelled,
                };
                self.end(i, state);
            }
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): spreads a seed over all bits.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
