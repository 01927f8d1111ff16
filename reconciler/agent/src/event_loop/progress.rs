//! A run under way, and what the loop has to remember about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;
use xeno_model::desired::DesiredNode;
use xeno_model::id::{SliverId, Timestamp};
use xeno_reconciler::action::{Action, ActionKey};
use xeno_reconciler::exec::{Outcome, Run};
use xeno_reconciler::ports::Retry;
use xeno_reconciler::record::Settlement;

/// A run under way.
pub(super) struct Progress {
    pub(super) run: Run,
    /// Its number in the journal.
    pub(super) number: i64,
    pub(super) began: Timestamp,
    /// What it was planned for.
    pub(super) desired: Arc<DesiredNode>,
    /// What to write down of each sliver once its actions are done; what has been written is taken out.
    pub(super) settlements: BTreeMap<SliverId, Settlement>,
    pub(super) in_flight: HashMap<Id, InFlight>,
    pub(super) done: BTreeSet<ActionKey>,
    /// Slivers whose restart has been counted.
    pub(super) restarted: BTreeSet<SliverId>,
    /// A newer commit came.
    pub(super) superseded: bool,
    /// The state cannot be written: nothing more is begun.
    pub(super) abandoned: bool,
}

/// An action in flight.
pub(super) struct InFlight {
    pub(super) key: ActionKey,
    pub(super) intent: i64,
    pub(super) began: Timestamp,
    pub(super) abort: AbortHandle,
    /// It only waits, and was told to stop.
    pub(super) given_up: bool,
    /// From then on it may hang, and nobody else waits for it.
    pub(super) late_at: Instant,
}

/// An action that hangs, or may: the run that began it went on without it. Its slivers are left alone until it ends.
pub(super) struct Straggler {
    pub(super) key: ActionKey,
    pub(super) intent: i64,
    pub(super) began: Timestamp,
    pub(super) serves: BTreeSet<SliverId>,
    /// The sliver that it is about, in its berth.
    pub(super) berth: Option<SliverId>,
    /// Memory in MiB that a domain takes whose start this is.
    pub(super) memory_mib: u64,
}

impl Progress {
    /// Whether all that is in flight waits, for a guest to become healthy or for a template to come, or is late, and
    /// nothing else can be done in this run.
    pub(super) fn only_waits(&self) -> bool {
        let now = Instant::now();
        !self.in_flight.is_empty()
            && self.run.next_try_ms().is_none()
            && self
                .in_flight
                .values()
                .all(|one| self.waits(one) || one.late_at <= now)
    }

    /// How many are late. They do not take the place of others.
    pub(super) fn late(&self) -> usize {
        let now = Instant::now();
        let late = |one: &&InFlight| one.late_at <= now && !self.waits(one);
        self.in_flight.values().filter(late).count()
    }

    /// When the next one will be late.
    pub(super) fn next_late(&self) -> Option<Instant> {
        let now = Instant::now();
        let times = self.in_flight.values().filter(|one| !self.waits(one));
        times.map(|one| one.late_at).filter(|at| *at > now).min()
    }

    /// Slivers of which something is in flight that may change them, by what. Waiting for a guest to become healthy
    /// changes nothing: what it needs meanwhile, as a file server that came back, must not wait as long.
    pub(super) fn busy(&self) -> BTreeMap<SliverId, ActionKey> {
        let one = |one: &InFlight| {
            let action = &self.run.action(&one.key)?.action;
            let sliver = action.sliver()?.itself();
            (!matches!(action, Action::AwaitHealthy { .. })).then(|| (sliver, one.key.clone()))
        };
        self.in_flight.values().filter_map(one).collect()
    }

    /// Goes on without those that are late: they end by themselves, and count no more in this run.
    pub(super) fn leave_behind(&mut self, elapsed_ms: u64) -> Vec<(Id, Straggler)> {
        let now = Instant::now();
        let late = |one: &InFlight| one.late_at <= now && !self.waits(one);
        let ids: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, one)| late(one))
            .map(|(id, _)| *id)
            .collect();
        let mut left = Vec::new();
        for id in ids {
            let Some(one) = self.in_flight.remove(&id) else {
                continue;
            };
            let planned = self.run.action(&one.key);
            let straggler = Straggler {
                serves: planned.map(|planned| planned.serves.clone()).unwrap_or_default(),
                berth: planned.and_then(|planned| planned.action.sliver().cloned()),
                memory_mib: planned
                    .and_then(|planned| u64::try_from(planned.cost.memory_mib).ok())
                    .unwrap_or(0),
                key: one.key.clone(),
                intent: one.intent,
                began: one.began,
            };
            let outcome = Outcome::Failed {
                why: "it is late, and the run goes on without it".to_owned(),
                retry: Retry::Never,
            };
            if let Err(error) = self.run.finished(&one.key, outcome, elapsed_ms) {
                tracing::error!("{error}");
                self.abandoned = true;
            }
            left.push((id, straggler));
        }
        left
    }

    fn waits(&self, in_flight: &InFlight) -> bool {
        let planned = self.run.action(&in_flight.key);
        planned.is_some_and(|planned| {
            matches!(
                planned.action,
                Action::AwaitHealthy { .. } | Action::FetchTemplate { .. }
            )
        })
    }

    /// Whether an action of that name is in flight.
    pub(super) fn is_in_flight(&self, key: &ActionKey) -> bool {
        self.in_flight.values().any(|one| one.key == *key)
    }

    /// Stops whatever only waits: it changes nothing, so nothing is left half done. A fetch goes on by itself, and
    /// whoever asks for it next waits for the same one.
    pub(super) fn give_up_waiting(&mut self) {
        let waiting: Vec<_> = self
            .in_flight
            .iter()
            .filter(|(_, one)| self.waits(one))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            if let Some(one) = self.in_flight.get_mut(&id) {
                one.given_up = true;
                one.abort.abort();
            }
        }
    }

    /// Settlements of slivers all of whose actions are done, each once.
    pub(super) fn take_settled(&mut self) -> BTreeMap<SliverId, Settlement> {
        let settled = self.run.settled();
        let (now, later) = std::mem::take(&mut self.settlements)
            .into_iter()
            .partition(|(sliver, _)| settled.contains(sliver));
        self.settlements = later;
        now
    }
}
