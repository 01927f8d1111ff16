//! What the state holds, read once: the loop is its only writer.

use std::collections::BTreeMap;

use xeno_model::id::{Generation, Revision, SliverId, Timestamp};
use xeno_reconciler::action::ActionKey;
use xeno_reconciler::change::{AppliedSliver, Reason};
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::ports::Retry;
use xeno_state::StateError;
use xeno_state::record::{Accepted, BackOff, Rejection};

use crate::store::Store;

/// Pauses after an action failed for good: longer than those within a run, since only the world can help.
pub(super) const BACK_OFF: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 15_000,
    pause_ms_max: 600_000,
};

/// A mirror of the state.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) accepted: Option<Accepted>,
    pub(super) rejected: Option<Rejection>,
    pub(super) applied: BTreeMap<SliverId, AppliedSliver>,
    /// Entries stay when their time has come, since they count the failures in a row.
    pub(super) backing_off: BTreeMap<SliverId, BackOff>,
    /// Why the state could not be written last.
    pub(super) failure: Option<String>,
}

impl Memory {
    pub(super) async fn read(store: &Store) -> Result<Self, StateError> {
        let read = store.read(|state| {
            Ok(Self {
                accepted: state.accepted()?,
                rejected: state.rejected()?,
                applied: state.applied()?,
                backing_off: state.backing_off()?,
                failure: None,
            })
        });
        read.await
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

    /// Slivers that wait, as the planner takes them.
    pub(super) fn reasons(&self, now: Timestamp) -> BTreeMap<SliverId, Reason> {
        let waits = self
            .backing_off
            .iter()
            .filter(|(_, back_off)| back_off.until > now);
        let reason = |(sliver, back_off): (&SliverId, &BackOff)| {
            let reason = Reason::BackingOff {
                action: ActionKey(back_off.action.clone()),
                why: back_off.why.clone(),
                until: back_off.until,
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
        now: Timestamp,
    ) -> BackOff {
        let held = self
            .backing_off
            .get(sliver)
            .filter(|back_off| back_off.action == action.0);
        let attempts = held.map_or(0, |back_off| back_off.attempts).saturating_add(1);
        // What only a person can change is tried seldom, so that it is noticed when somebody did.
        let pause = if permanent {
            BACK_OFF.pause_ms(u32::from(u16::MAX), now.0)
        } else {
            BACK_OFF.pause_ms(attempts, now.0)
        };
        BackOff {
            action: action.0.clone(),
            why: why.to_owned(),
            attempts,
            permanent,
            until: Timestamp(now.0.saturating_add(pause)),
        }
    }
}
