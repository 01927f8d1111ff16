//! What actions are predicted to cost.

use xeno_model::desired::{CarriedContent, FileSet, Mount, WritableKind};
use xeno_model::id::SliverId;

use super::{Cost, PlanInput};
use crate::action::Action;
use crate::diff::domains;

/// Bytes that opening the writable layers of a new sliver writes: the head of a log per mount.
const NEW_WRITABLE_BYTES: u64 = 4096;

pub(super) fn cost(input: &PlanInput<'_>, action: &Action) -> Cost {
    let mib = |mib: u64| i64::try_from(mib).unwrap_or(i64::MAX);
    let (bytes, memory_mib) = match action {
        // Only the template's own index, which is not here yet, says how long it is.
        Action::FetchTemplate { .. } => (None, 0),
        Action::ImportFiles { digest } => (input.desired.files.get(digest).map(file_bytes), 0),
        Action::OpenWritable { sliver, .. } => {
            let kept = input.observed.storage_of(sliver).ok().flatten();
            let kept = kept.is_some_and(|s| s.on_disk || s.tombstone.is_some());
            let desired = input.desired.slivers.get(&sliver.itself());
            let writes = |mount: &&Mount| mount.writable != WritableKind::ReadOnly;
            let mounts = desired.map_or(0, |d| d.mounts.iter().filter(writes).count());
            let new = NEW_WRITABLE_BYTES.saturating_mul(u64::try_from(mounts).unwrap_or(u64::MAX));
            (Some(if kept { 0 } else { new }), 0)
        }
        Action::Boot { sliver, .. } | Action::Resume { sliver, .. } => {
            let desired = input.desired.slivers.get(&sliver.itself());
            (Some(0), mib(desired.map_or(0, |d| d.resources.memory.mib())))
        }
        Action::Shutdown { sliver, .. } => (Some(0), -mib(held(input, sliver))),
        // Pages that the guest never touched take no room: nobody knows how many.
        Action::Suspend { sliver } => (Some(held(input, sliver) << 20), -mib(held(input, sliver))),
        Action::Retune { sliver, tuning } | Action::Publish { sliver, tuning } => {
            // One that this plan starts has what it gets from its start.
            let held = Some(held(input, sliver)).filter(|held| *held > 0);
            (Some(0), held.map_or(0, |held| mib(tuning.memory_mib) - mib(held)))
        }
        // A checkpoint shares what is there: all it writes is the state, a few bytes for each object. What is overwritten
        // later is what it costs.
        Action::Checkpoint { .. }
        | Action::Limit { .. }
        | Action::Restore { .. }
        | Action::MountRemote { .. }
        | Action::Stack { .. }
        | Action::Export { .. }
        | Action::AwaitHealthy { .. }
        | Action::Unexport { .. }
        | Action::CloseWritable { .. }
        | Action::Seal { .. }
        | Action::DiscardImage { .. }
        | Action::Revive { .. }
        | Action::Adopt { .. }
        | Action::Unpause { .. }
        | Action::Unpublish { .. }
        | Action::Tombstone { .. }
        | Action::Purge { .. } => (Some(0), 0),
    };
    Cost { bytes, memory_mib }
}

/// Memory that the domain of a sliver holds, in MiB.
fn held(input: &PlanInput<'_>, sliver: &SliverId) -> u64 {
    let domain = domains(input).and_then(|domains| domains.ours.get(sliver));
    domain.map_or(0, |domain| domain.memory_mib)
}

fn file_bytes(set: &FileSet) -> u64 {
    let sizes = set.files.values().map(|file| match &file.content {
        CarriedContent::Inline(text) => u64::try_from(text.len()).unwrap_or(u64::MAX),
        CarriedContent::Blob { size, .. } => *size,
    });
    sizes.fold(0, u64::saturating_add)
}
