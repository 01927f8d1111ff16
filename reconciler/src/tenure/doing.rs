//! Steps that take more than one call of a file server.

use xeno_model::desired::DesiredSliver;
use xeno_model::id::{Epoch, SliverId};
use xeno_model::normal::stack_digest;

use super::Disk;
use crate::ports::{MountSpec, MoveLayers, PortResult};

/// Opens the layers of a sliver under `epoch`, and answers its calls. `disk`: how they are.
///
/// # Errors
/// What the file server says.
pub async fn serve<S: MoveLayers>(
    storage: &S,
    sliver: &DesiredSliver,
    epoch: Epoch,
    disk: Disk,
) -> PortResult<()> {
    let id = &sliver.id;
    match disk {
        Disk::Parked { epoch: has } if has == epoch => return storage.unpark(id).await,
        // Opened, and no further.
        Disk::Lapsed { epoch: has } if has == epoch => {}
        Disk::Parked { .. } | Disk::Serving { .. } | Disk::Lapsed { .. } => close(storage, id).await?,
        Disk::Closed => {}
    }
    let mounts = MountSpec::of(sliver);
    storage.open_writable(id, epoch, &mounts).await?;
    storage.stack(id, &stack_digest(sliver), &mounts).await?;
    storage.export(id, &mounts).await
}

/// Closes the layers of a sliver.
///
/// # Errors
/// What the file server says.
pub async fn close<S: MoveLayers>(storage: &S, sliver: &SliverId) -> PortResult<()> {
    storage.unexport(sliver).await?;
    storage.close_writable(sliver).await
}
