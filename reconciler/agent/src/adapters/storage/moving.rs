//! Writable layers go to another node, and come from one.
//!
//! The file server reads and writes them, since they are its own; this end names them, carries the bytes between the file
//! server and the pipe, and puts in place what has arrived.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use cowfs::control::api::{LayerToReceive, LayerToSend, LeaseSpec, ReceiveSpec, SendSpec};
use cowfs::writable::travel::{Refusal, in_place, refused as refused_layers};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use xeno_model::id::{Epoch, MigrationId, SliverId};
use xeno_reconciler::ports::{BootInstant, MountSpec, MoveLayers, Pipe, PortError, PortResult, Retry};

use super::names::mount_name;
use super::{NodeStorage, blocking, names_of, refused};

/// Room for a layer beyond its quota: its log, and what its checkpoints keep (64 at most, each as much as a layer may hold).
const QUOTAS: u64 = 66;
/// The same for one whose quota is very small.
const AT_LEAST: u64 = 1 << 30;

/// Slivers whose layers are arriving just now.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiving(Arc<Mutex<BTreeSet<SliverId>>>);

struct Held {
    all: Receiving,
    sliver: SliverId,
}

impl Receiving {
    fn hold(&self, sliver: &SliverId) -> PortResult<Held> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.insert(sliver.clone()) {
            return Err(PortError::later(format!(
                "layers of {sliver} are arriving already"
            )));
        }
        Ok(Held {
            all: self.clone(),
            sliver: sliver.clone(),
        })
    }

    pub(super) fn has(&self, sliver: &SliverId) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains(sliver)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.sliver);
    }
}

impl MoveLayers for NodeStorage {
    async fn park(&self, sliver: &SliverId) -> PortResult<()> {
        let [exports, _, _] = self.open_of(sliver).await?;
        for name in exports {
            if let Err(error) = self.client.park(&name).await {
                // A guest that is held still by halves is stuck, and nobody knows of it.
                if let Err(error) = self.unpark(sliver).await {
                    tracing::warn!(%sliver, error = error.what, "not let go on after a failure");
                }
                return Err(refused(&error));
            }
        }
        Ok(())
    }

    async fn unpark(&self, sliver: &SliverId) -> PortResult<()> {
        let [exports, _, _] = self.open_of(sliver).await?;
        let mut outcome = Ok(());
        for name in exports {
            if let Err(error) = self.client.unpark(&name).await {
                outcome = Err(refused(&error));
            }
        }
        outcome
    }

    async fn renew_lease(&self, until: BootInstant) -> PortResult<()> {
        let lease = LeaseSpec { until_nanos: until.0 };
        self.client
            .renew_lease(lease)
            .await
            .map_err(|error| refused(&error))
    }

    async fn answer_until(&self, sliver: &SliverId, epoch: Epoch, until: BootInstant) -> PortResult<()> {
        let listing = self.listing().await?;
        let [exports, _, open] = names_of(&listing, sliver);
        if open.iter().any(|name| listing.writables[name].epoch != epoch.0) {
            return Err(PortError::later(format!(
                "the writable layers of {sliver} are open under another epoch than {}",
                epoch.0
            )));
        }
        let lease = LeaseSpec { until_nanos: until.0 };
        for name in exports {
            let entered = self.client.enter_lease(&name, lease).await;
            entered.map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    async fn send_layers(&self, sliver: &SliverId, last: bool, pipe: Pipe) -> PortResult<u64> {
        let (disk, of) = (self.disk.clone(), sliver.clone());
        let layers = blocking(move || {
            let mut layers = disk.layers_of(&of)?;
            // What lies elsewhere is reached from there too.
            layers.retain(|mount, _| disk.place(&of, *mount).is_none());
            Ok(layers)
        });
        let layers = layers.await?.into_iter().map(|(mount, path)| LayerToSend {
            name: mount_name(sliver, mount),
            path,
        });
        let spec = SendSpec {
            layers: layers.collect(),
            last,
        };
        if spec.layers.is_empty() {
            return Ok(0);
        }
        let mut pipe = own(pipe)?;
        let sent = self.client.send_layers(&spec, &mut pipe).await;
        Ok(sent.map_err(|error| refused(&error))?.bytes)
    }

    async fn receive_layers(
        &self,
        sliver: &SliverId,
        migration: MigrationId,
        mounts: &[MountSpec],
        pipe: Pipe,
    ) -> PortResult<()> {
        let local = mounts.iter().enumerate();
        let local: Vec<(usize, Option<u64>)> = local
            .filter(|(_, mount)| mount.writable && mount.place.is_none())
            .map(|(i, mount)| (i, mount.quota_bytes))
            .collect();
        if local.is_empty() {
            return Ok(());
        }
        let mut pipe = own(pipe)?;
        let taken = self.take_layers(sliver, migration, &local, &mut pipe).await;
        let last_word = match &taken {
            Ok(()) => in_place(),
            // The file server may have said so already, and then this is not heard.
            Err(error) => refused_here(error),
        };
        let told = async {
            pipe.write_all(&last_word).await?;
            pipe.shutdown().await
        };
        let told = told.await;
        taken.and_then(|()| told.map_err(|error| broken(&error)))
    }
}

impl NodeStorage {
    /// Takes what comes of the layers with these numbers and quotas, and puts it in its place.
    async fn take_layers(
        &self,
        sliver: &SliverId,
        migration: MigrationId,
        local: &[(usize, Option<u64>)],
        pipe: &mut UnixStream,
    ) -> PortResult<()> {
        let numbers: Vec<usize> = local.iter().map(|(i, _)| *i).collect();
        let _held = self.receiving.hold(sliver)?;
        self.closed(sliver).await?;
        let (disk, of, wanted) = (self.disk.clone(), sliver.clone(), numbers.clone());
        let staging = blocking(move || disk.expect(&of, migration, &wanted)).await?;
        let layers = local
            .iter()
            .zip(staging)
            .map(|((i, quota), staging)| LayerToReceive {
                staging,
                place: self.disk.layer(sliver, *i),
                bytes_max: quota.map(|quota| quota.saturating_mul(QUOTAS).max(AT_LEAST)),
            });
        let spec = ReceiveSpec {
            layers: layers.collect(),
        };
        let arrived = self.client.receive_layers(&spec, pipe).await;
        if arrived.map_err(|error| refused(&error))?.last {
            // Once more: whatever has been opened meanwhile stays where it is.
            self.closed(sliver).await?;
            let (disk, of, now) = (self.disk.clone(), sliver.clone(), self.clock.now());
            blocking(move || disk.put_in_place(&of, migration, &numbers, now)).await?;
        }
        Ok(())
    }
}

/// Why layers are not taken here, for the file server of the other node.
fn refused_here(error: &PortError) -> Vec<u8> {
    let why = match error.retry {
        Retry::Later => Refusal::Open,
        Retry::Never => Refusal::Layers,
    };
    refused_layers(why, &error.what)
}

fn own(pipe: Pipe) -> PortResult<UnixStream> {
    let set = pipe
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(pipe));
    set.map_err(|error| broken(&error))
}

fn broken(error: &std::io::Error) -> PortError {
    PortError::later(format!("the pipe to the other node: {error}"))
}
