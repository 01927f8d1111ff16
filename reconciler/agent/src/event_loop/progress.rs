//! A run under way, and what the loop has to remember about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::task::{AbortHandle, Id};
use xeno_model::desired::DesiredNode;
use xeno_model::id::{SliverId, Timestamp};
use xeno_reconciler::action::{Action, ActionKey};
use xeno_reconciler::exec::Run;
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
}

impl Progress {
    /// Whether all that is in flight waits, for a guest to become healthy or for a template to come, and nothing else
    /// can be done in this run.
    pub(super) fn only_waits(&self) -> bool {
        !self.in_flight.is_empty()
            && self.run.next_try_ms().is_none()
            && self.in_flight.values().all(|one| self.waits(one))
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
