//! What people ask of checkpoints: which there are, and to go back to one.

use tokio::time::{Duration, timeout};
use xeno_model::id::{Epoch, SliverId};
use xeno_model::observed::{ObservedNode, ObservedStorage, Seen};
use xeno_reconciler::checkpoint::{is_ours, undone_at, undone_before};
use xeno_reconciler::ports::{MoveLayers, MoveMemory, PortError};
use xeno_state::record::EventKind;

use super::{Agent, Stage};
use crate::api::{CheckpointView, CheckpointsView, FORMAT_VERSION, Restored};
use crate::handle::HandleError;

/// The loop waits for a layer that goes back, so that nobody starts a guest on it meanwhile; it does not wait for ever.
const RESTORE_MAX: Duration = Duration::from_secs(60);

/// The checkpoints of a sliver, oldest first.
pub(super) fn checkpoints(
    observed: &ObservedNode,
    sliver: &SliverId,
) -> Result<CheckpointsView, HandleError> {
    let storage = storage_of(observed, sliver)?;
    let mut checkpoints: Vec<_> = storage
        .checkpoints
        .iter()
        .map(|(name, at)| CheckpointView {
            name: name.clone(),
            at_ms: at.0,
            by_agent: is_ours(name),
        })
        .collect();
    checkpoints.sort_by(|a, b| (a.at_ms, &a.name).cmp(&(b.at_ms, &b.name)));
    Ok(CheckpointsView {
        format_version: FORMAT_VERSION,
        sliver: sliver.to_string(),
        checkpoints,
    })
}

fn storage_of<'a>(observed: &'a ObservedNode, sliver: &SliverId) -> Result<&'a ObservedStorage, HandleError> {
    match observed.storage_of(sliver) {
        Ok(storage) => storage
            .filter(|storage| storage.on_disk)
            .ok_or_else(|| HandleError::NoSuchSliver {
                sliver: sliver.clone(),
            }),
        Err(why) => Err(HandleError::InUse {
            why: format!("storage could not be seen: {why}"),
        }),
    }
}

/// Why a sliver cannot go back now, with the way on.
fn in_use(observed: &ObservedNode, storage: &ObservedStorage, sliver: &SliverId) -> Option<String> {
    let domains = match &observed.domains {
        Seen::Known(domains) => domains,
        Seen::Unknown { why } => return Some(format!("domains could not be seen: {why}")),
    };
    let berths = [sliver.clone(), sliver.beside()];
    if berths.iter().any(|berth| domains.ours.contains_key(berth)) {
        return Some(format!(
            "the guest of {sliver} is there: set `state: stopped` for its slice, push, and go back once it has stopped"
        ));
    }
    if berths.iter().any(|berth| domains.images.contains_key(berth)) {
        return Some(format!(
            "the memory of {sliver} is stored, and fits what it wrote as it is: set `state: stopped` for its slice and push"
        ));
    }
    let used = storage.open.is_some() || storage.stack.is_some() || storage.exported;
    used.then(|| {
        format!("the writable layers of {sliver} are in use: set `state: stopped` for its slice and push")
    })
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Has a sliver that is at rest go back, and keeps what is undone.
    pub(super) async fn restore(
        &mut self,
        observed: &ObservedNode,
        sliver: &SliverId,
        name: &str,
    ) -> Result<Restored, HandleError> {
        let late = self.stragglers.values().any(|one| one.serves.contains(sliver));
        if late || matches!(self.stage, Stage::Running(_)) {
            let why = "a plan is being carried out: ask again once it has ended".to_owned();
            return Err(HandleError::InUse { why });
        }
        let storage = storage_of(observed, sliver)?;
        if let Some(why) = in_use(observed, storage, sliver) {
            return Err(HandleError::InUse { why });
        }
        if !storage.checkpoints.contains_key(name) {
            return Err(HandleError::NoSuchCheckpoint {
                sliver: sliver.clone(),
                name: name.to_owned(),
            });
        }
        let applied = self.memory.applied.get(sliver);
        let epoch = applied.map_or(Epoch(1), |applied| applied.epoch);
        let (kept, drops) = (undone_at(self.clock.now()), undone_before(storage, name));
        let ports = std::sync::Arc::clone(&self.ports);
        let going = async {
            ports
                .storage
                .checkpoint(sliver, epoch, &kept, false, &drops)
                .await?;
            ports.storage.restore(sliver, epoch, name, None).await
        };
        let went = timeout(RESTORE_MAX, going).await.unwrap_or_else(|_| {
            let seconds = RESTORE_MAX.as_secs();
            Err(PortError::later(format!("it did not end within {seconds} s")))
        });
        self.wake();
        went.map_err(|error| HandleError::State { why: error.what })?;
        let text = format!("somebody had {sliver} go back to {name}; what was undone is kept as {kept}");
        let event = self.event(EventKind::Done, Some(sliver.clone()), text);
        self.remember(vec![event], |_| Ok(())).await;
        Ok(Restored {
            format_version: FORMAT_VERSION,
            sliver: sliver.to_string(),
            checkpoint: name.to_owned(),
            kept,
        })
    }
}
