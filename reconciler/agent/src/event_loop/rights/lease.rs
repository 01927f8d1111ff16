//! The node's lease on the board, as far as guests are answered under it: what others may take over is served only as long as
//! it lasts.

use std::sync::Arc;

use tokio::time::{Duration, sleep, timeout};
use xeno_model::id::SliverId;
use xeno_model::observed::{Leasing, ObservedNode};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::tenure::{Failover, Record};

use super::{Agent, Rights};
use crate::fleet::member::Member;

/// How long the file server may take to hear of a renewal.
const PASS_ON_MAX: Duration = Duration::from_secs(2);

/// How long after the end of a lease it is seen that guests are not answered any more.
const LAPSED: Duration = Duration::from_millis(50);

/// How soon it is told again that did not hear.
const PASS_ON_AGAIN: Duration = Duration::from_millis(500);

/// Tells the file server of each renewal, as long as it serves anything under the lease, and the loop once it has run out. On a
/// task of its own: the loop may be busy for longer than a lease lasts.
pub(crate) async fn pass_on<S: MoveLayers>(member: Arc<Member>, storage: Arc<S>) {
    let mut lease = member.lease();
    loop {
        let until = *lease.borrow_and_update();
        let mut told = true;
        if let Some(until) = until.filter(|_| member.lends()) {
            match timeout(PASS_ON_MAX, storage.renew_lease(until)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!("the file server was not told of the lease: {}", error.what);
                    told = false;
                }
                Err(_) => {
                    tracing::warn!("the file server does not answer, and was not told of the lease");
                    told = false;
                }
            }
        }
        let left = member.lease_left().filter(|_| member.lends());
        tokio::select! {
            changed = lease.changed() => if changed.is_err() { return },
            () = sleep(PASS_ON_AGAIN), if !told => {}
            () = sleep(left.unwrap_or_default() + LAPSED), if left.is_some() => member.tell(),
        }
    }
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Whether others may take a sliver over, as far as this node knows, and whether they are to be able to.
    pub(super) fn failover(&self, sliver: &SliverId, record: &Record) -> Failover {
        let desired = self.desired.as_ref();
        let wanted = desired.and_then(|desired| desired.slivers.get(sliver));
        let applied = self.memory.applied.get(sliver);
        Failover::of(wanted, applied.map(|applied| &applied.desired), record)
    }

    /// The same, by the record as it was read last.
    pub(super) fn failover_of(&self, sliver: &SliverId) -> Failover {
        let rights = self.rights.as_ref();
        rights.map_or_else(Failover::default, |rights| {
            self.failover(sliver, &rights.fleet.member.record(sliver))
        })
    }
}

/// Has renewals passed on to the file server if anything is served under the lease, as by an agent before this one.
pub(super) fn note(rights: &Rights, observed: &ObservedNode) {
    let leased = observed
        .storage_seen()
        .any(|(_, storage)| storage.lease != Leasing::Free);
    if leased {
        rights.fleet.member.lend();
    }
}
