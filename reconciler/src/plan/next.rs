//! When time alone may change a plan.

use xeno_model::id::Timestamp;

use super::PlanInput;
use crate::change::{Change, Reason};

/// The earliest moment after now at which the same node, asked for the same, may get another plan: a window opens, a
/// freeze or a pause ends, a sliver expires, a tombstone has been kept long enough.
pub(super) fn next<'a>(
    input: &PlanInput<'_>,
    changes: impl Iterator<Item = &'a Change>,
) -> Option<Timestamp> {
    let waits = changes.flat_map(|change| &change.reasons).filter_map(until);
    let expiries = input.desired.slivers.values().filter_map(|sliver| sliver.expires);
    let tombstones = input
        .observed
        .storage_seen()
        .filter(|(sliver, _)| !input.desired.slivers.contains_key(*sliver))
        .filter_map(|(_, storage)| storage.tombstone)
        .map(|since| Timestamp(since.0.saturating_add(input.tombstone_ms)));
    waits
        .chain(expiries)
        .chain(tombstones)
        .filter(|at| *at > input.now)
        .min()
}

/// The moment for which a reason says to wait.
fn until(reason: &Reason) -> Option<Timestamp> {
    match reason {
        Reason::Frozen { until, .. } => *until,
        Reason::OutsideWindow { opens, .. } => Some(*opens),
        Reason::Crashing { until, .. }
        | Reason::BackingOff { until, .. }
        | Reason::MoveFailed { until, .. } => Some(*until),
        Reason::RolloutWaits { .. }
        | Reason::New
        | Reason::Differs(_)
        | Reason::Revived { .. }
        | Reason::Unfinished
        | Reason::DomainMissing
        | Reason::DomainNotRunning { .. }
        | Reason::DomainPaused
        | Reason::DomainForeignUuid { .. }
        | Reason::DomainForeignBoot { .. }
        | Reason::StorageMissing
        | Reason::StackForeign { .. }
        | Reason::LimitForeign { .. }
        | Reason::ShareForeign { .. }
        | Reason::GoesBack { .. }
        | Reason::Mistuned { .. }
        | Reason::NotHealthyYet
        | Reason::NotStopped
        | Reason::StateStopped
        | Reason::StateSuspended
        | Reason::ImageBesideDomain
        | Reason::ImageUnsealed
        | Reason::ImageLost
        | Reason::ImageDiscarded { .. }
        | Reason::Vetoed { .. }
        | Reason::SiteCap { .. }
        | Reason::Expired { .. }
        | Reason::MovedFrom { .. }
        | Reason::MovedTo { .. }
        | Reason::NotDesired
        | Reason::PlacedElsewhere
        | Reason::TombstoneExpired { .. }
        | Reason::NotEnforced { .. }
        | Reason::RemoteSilent { .. }
        | Reason::MadeBeforeBroken { .. }
        | Reason::NoRoomBeside { .. }
        | Reason::EmbodiedTwice
        | Reason::Blind { .. }
        | Reason::DeleteBudget { .. }
        | Reason::NodeNotNamed
        | Reason::NothingDesired
        | Reason::NoRoom { .. }
        | Reason::PortTaken { .. }
        | Reason::NotSupported { .. }
        | Reason::ImageStale { .. }
        | Reason::Unapproved { .. }
        | Reason::Together { .. }
        | Reason::HeldElsewhere { .. }
        | Reason::Unfenced { .. }
        | Reason::RightUnknown { .. }
        | Reason::LeaseLapsed { .. }
        | Reason::RightChanges { .. }
        | Reason::RunUnderway { .. }
        | Reason::RunQueued { .. }
        | Reason::RunPausing { .. }
        | Reason::RunFailed { .. }
        | Reason::RunBlocked { .. }
        | Reason::RunGaveWay { .. } => None,
    }
}
