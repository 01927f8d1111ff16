//! Steps that take more than one call of a file server.

use xeno_model::desired::DesiredSliver;
use xeno_model::id::{Epoch, SliverId};
use xeno_model::normal::stack_digest;

use super::{ANY_EPOCH, Disk};
use crate::ports::{BootInstant, MountSpec, MoveLayers, PortError, PortResult};

/// Under which epoch this node has the right to run a sliver, if it still has it, and until when its lease lasts.
pub type Warrant<'a> = &'a (dyn Fn() -> Option<(Epoch, BootInstant)> + Send + Sync);

/// Opens the layers of a sliver under `epoch`, and answers its calls; where `lent`, only under the lease. `disk`: how they are.
///
/// # Errors
/// What the file server says.
pub async fn serve<S: MoveLayers>(
    storage: &S,
    sliver: &DesiredSliver,
    epoch: Epoch,
    disk: Disk,
    lent: Option<Warrant<'_>>,
) -> PortResult<()> {
    let id = &sliver.id;
    let mut mounts = MountSpec::of(sliver);
    for mount in &mut mounts {
        mount.leased = lent.is_some();
    }
    let right = |has| has == epoch || (has == ANY_EPOCH && lent.is_some());
    match disk {
        Disk::Parked { epoch: has } if right(has) => {
            if lent.is_some() {
                storage.export(id, &mounts).await?;
                answer(storage, id, lent).await?;
            }
            return storage.unpark(id).await;
        }
        // Opened, and no further.
        Disk::Lapsed { epoch: has } if right(has) => {}
        Disk::Parked { .. } | Disk::Serving { .. } | Disk::Lapsed { .. } => close(storage, id).await?,
        Disk::Closed => {}
    }
    storage.open_writable(id, epoch, &mounts).await?;
    storage.stack(id, &stack_digest(sliver), &mounts).await?;
    storage.export(id, &mounts).await?;
    answer(storage, id, lent).await
}

/// Has what is served answer under the lease. Whether it lasts is looked at only now: what came before may have taken long.
async fn answer<S: MoveLayers>(storage: &S, sliver: &SliverId, lent: Option<Warrant<'_>>) -> PortResult<()> {
    match lent.map(|warrant| warrant()) {
        None => Ok(()),
        Some(Some((epoch, until))) => storage.answer_until(sliver, epoch, until).await,
        Some(None) => Err(PortError::later("the lease of this node has run out meanwhile")),
    }
}

/// Closes the layers of a sliver.
///
/// # Errors
/// What the file server says.
pub async fn close<S: MoveLayers>(storage: &S, sliver: &SliverId) -> PortResult<()> {
    storage.unexport(sliver).await?;
    storage.close_writable(sliver).await
}
