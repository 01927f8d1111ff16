//! What the state holds, read once: the loop is its only writer.

use std::collections::BTreeMap;

use xeno_model::id::{Generation, Revision, SliverId, Timestamp};
use xeno_model::observed::{ObservedNode, ObservedStorage, Seen};
use xeno_reconciler::action::ActionKey;
use xeno_reconciler::change::{AppliedSliver, Reason};
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::ports::Retry;
use xeno_reconciler::tenure::Journal;
use xeno_state::StateError;
use xeno_state::node::Writer;
use xeno_state::record::{Accepted, BackOff, Freeze, Rebuilt, Rejection, Stand, Tombstone};
use xeno_state::time::{BootMoment, NodeTime};

use crate::store::Store;

/// Pauses after an action failed for good: longer than those within a run, since only the world can help.
pub(super) const BACK_OFF: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 15_000,
    pause_ms_max: 600_000,
};

/// A mirror of the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) accepted: Option<Accepted>,
    pub(super) rejected: Option<Rejection>,
    pub(super) applied: BTreeMap<SliverId, AppliedSliver>,
    /// Entries stay when their time has come, since they count the failures in a row.
    pub(super) backing_off: BTreeMap<SliverId, BackOff>,
    pub(super) freezes: Vec<Freeze>,
    pub(super) tombstones: BTreeMap<SliverId, Tombstone>,
    /// What this node has done about the right to run its slivers.
    pub(super) tenure: BTreeMap<SliverId, Journal>,
    /// Where its slivers stand in the rollouts of their slices.
    pub(super) stands: BTreeMap<SliverId, Stand>,
    /// When guests were started again because they had ended by themselves, oldest first.
    pub(super) restarts: BTreeMap<SliverId, Vec<NodeTime>>,
    /// That the state was damaged and made anew.
    pub(super) rebuilt: Option<Rebuilt>,
    /// Node time at the moment at which the agent's own clock began.
    pub(super) time_began: NodeTime,
    /// Why the state could not be written last.
    pub(super) failure: Option<String>,
}

/// How far the wall clock and node time may be apart about the age of a tombstone. It is seen some time after it was
/// made, and clocks are set by little amounts all the time.
const APART_MS_MAX: u64 = 60_000;

impl Memory {
    /// Reads the state; `began` is the moment at which the agent's clock began. A record that cannot be read is damage:
    /// the state is then made anew, once.
    pub(super) async fn read(store: &Store, began: &BootMoment) -> Result<Self, StateError> {
        match Self::read_once(store, began.clone()).await {
            Err(error) if error.is_damage() => {
                store
                    .rebuild(xeno_state::error::chain(&error), |_| Ok(()))
                    .await?;
                Self::read_once(store, began.clone()).await
            }
            read => read,
        }
    }

    async fn read_once(store: &Store, began: BootMoment) -> Result<Self, StateError> {
        let read = store.read(move |state| {
            let (known, then) = state.lived()?;
            let time_began = began.node_time(known, then.as_ref());
            Ok(Self {
                accepted: state.accepted()?,
                rejected: state.rejected()?,
                applied: state.applied()?,
                backing_off: state.backing_off()?,
                freezes: state.freezes()?,
                tombstones: state.tombstones()?,
                restarts: state.restarts()?,
                tenure: state.tenure()?,
                stands: state.stands()?,
                // The first thing that is written gives it its time.
                rebuilt: state.rebuilt()?.map(|rebuilt| Rebuilt {
                    time: rebuilt.time.or(Some(time_began)),
                    ..rebuilt
                }),
                time_began,
                failure: None,
            })
        });
        read.await
    }

    /// Writes everything into a state that was made anew. What was removed lately is not known any more.
    pub(super) fn write_all(&self, w: &mut Writer<'_>) -> Result<(), StateError> {
        if let Some(accepted) = &self.accepted {
            w.restore_accepted(accepted)?;
        }
        w.reject(self.rejected.as_ref())?;
        for applied in self.applied.values() {
            w.apply(applied)?;
        }
        for (sliver, back_off) in &self.backing_off {
            w.back_off(sliver, back_off)?;
        }
        for freeze in &self.freezes {
            w.freeze(freeze)?;
        }
        for (sliver, journal) in &self.tenure {
            w.tenure(sliver, *journal)?;
        }
        for stand in self.stands.values() {
            w.stand(stand)?;
        }
        for (sliver, times) in &self.restarts {
            for time in times {
                w.restart(sliver, *time)?;
            }
        }
        for (sliver, tombstone) in &self.tombstones {
            w.tombstone(sliver, Some(tombstone))?;
        }
        Ok(())
    }

    /// What has changed about tombstones since they were last seen: new ones with when they were seen, and ones that are
    /// gone.
    pub(super) fn tombstone_news(
        &self,
        observed: &ObservedNode,
        time: NodeTime,
    ) -> Vec<(SliverId, Option<Tombstone>)> {
        let Seen::Known(storage) = &observed.storage else {
            return Vec::new();
        };
        let since = |sliver: &SliverId| storage.get(sliver)?.known()?.tombstone;
        // One that cannot be looked at is not gone: it keeps its age.
        let unseen = |sliver: &SliverId| matches!(storage.get(sliver), Some(Seen::Unknown { .. }));
        let known = self.tombstones.keys();
        let gone = known.filter(|sliver| since(sliver).is_none() && !unseen(sliver));
        let gone = gone.map(|sliver| (sliver.clone(), None));
        let new = storage.keys().filter_map(|sliver| {
            let since = since(sliver)?;
            let known = self.tombstones.get(sliver);
            let tombstone = Tombstone { since, seen: time };
            known
                .is_none_or(|known| known.since != since)
                .then(|| (sliver.clone(), Some(tombstone)))
        });
        gone.chain(new).collect()
    }

    /// Gives tombstones the age that they certainly have, where the wall clock says another: by that one, what a removal
    /// kept would be purged early after a jump forwards, or never after one backwards.
    pub(super) fn age_by_node_time(&self, observed: &mut ObservedNode, time: NodeTime) {
        let now = observed.at;
        let Seen::Known(storage) = &mut observed.storage else {
            return;
        };
        for (sliver, storage) in storage {
            let Seen::Known(ObservedStorage {
                tombstone: Some(since),
                ..
            }) = storage
            else {
                continue;
            };
            let known = self.tombstones.get(sliver).filter(|known| known.since == *since);
            let age = known.map_or(0, |known| time.since(known.seen));
            let aged = Timestamp(now.0.saturating_sub(age));
            if aged.0.abs_diff(since.0) > APART_MS_MAX {
                // Whole minutes: said again with every look, it must not differ by the moment of looking.
                *since = Timestamp(aged.0.next_multiple_of(APART_MS_MAX));
            }
        }
    }

    pub(super) fn accept(
        &mut self,
        revision: Revision,
        generation: Generation,
        carried: Generation,
        at: Timestamp,
    ) {
        self.rejected = None;
        self.accepted = Some(Accepted {
            generation,
            carried,
            revision,
            at,
        });
    }

    /// Slivers that wait, as the planner takes them. `now` and `time` are the same moment by both clocks.
    pub(super) fn reasons(&self, now: Timestamp, time: NodeTime) -> BTreeMap<SliverId, Reason> {
        let waits = self
            .backing_off
            .iter()
            .filter(|(_, back_off)| back_off.until > time);
        let reason = |(sliver, back_off): (&SliverId, &BackOff)| {
            let reason = Reason::BackingOff {
                action: ActionKey(back_off.action.clone()),
                why: back_off.why.clone(),
                until: Timestamp(now.0.saturating_add(back_off.until.since(time))),
                retry: if back_off.permanent {
                    Retry::Never
                } else {
                    Retry::Later
                },
            };
            (sliver.clone(), reason)
        };
        waits.map(reason).collect()
    }

    /// The next back-off of a sliver whose action failed for good.
    pub(super) fn next_back_off(
        &self,
        sliver: &SliverId,
        action: &ActionKey,
        why: &str,
        permanent: bool,
        time: NodeTime,
    ) -> BackOff {
        let held = self
            .backing_off
            .get(sliver)
            .filter(|back_off| back_off.action == action.0);
        let attempts = held.map_or(0, |back_off| back_off.attempts).saturating_add(1);
        // What only a person can change is tried seldom, so that it is noticed when somebody did.
        let pause = if permanent {
            BACK_OFF.pause_ms(u32::from(u16::MAX), time.0)
        } else {
            BACK_OFF.pause_ms(attempts, time.0)
        };
        BackOff {
            action: action.0.clone(),
            why: why.to_owned(),
            attempts,
            permanent,
            until: time.plus(pause),
        }
    }
}
