//! A domain's memory to an image, and the end of the domain.
//!
//! QEMU migrates into a file that it is handed (`fd:`, so no shell and no path of ours is involved). Only when the
//! memory and its description are on disk is QEMU told to end: what QEMU says of a migration says nothing of the disk.
//! Whatever fails before that, the guest goes on.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use xeno_kept::lock::Lock;
use xeno_model::id::{Digest, SliverId};
use xeno_reconciler::ports::{PortError, PortResult};

use crate::accel::Accel;
use crate::domain::{Domain, RunState, disobeyed, io_failed, lock, run_state};
use crate::driver::{QemuDriver, now};
use crate::images::{Image, Images, Unfinished};
use crate::inventory::find;
use crate::migration::{BANDWIDTH_UNBOUND, Migration, cancel, machine, migration};
use crate::moves::at_home;
use crate::qmp::QmpError;
use crate::record::RecordError;
use crate::{blocking, chain, changing};

/// What an image may have beside the guest's memory: devices, page headers.
const OVERHEAD_MIB: u64 = 64;
/// How often a migration is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A migration that writes nothing for this long is given up: the guest waits for it.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Name under which QEMU gets a file.
pub(crate) const FILE_NAME: &str = "image";

impl QemuDriver {
    /// Stores the memory of a sliver's domain as an image, and ends the domain. Success if that is so already.
    ///
    /// # Errors
    /// If the domain cannot be suspended: it then goes on running, unless it has crashed.
    pub async fn suspend(&self, sliver: &SliverId) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let domain = find(&dir, sliver).await?;
        let stored = self.stored(sliver).await?;
        match (domain, stored) {
            (None, Some(_)) => Ok(()),
            (None, None) => Err(PortError::later(format!(
                "{sliver} has no domain that could be suspended"
            ))),
            (Some(domain), Some(image)) => {
                at_home(&domain)?;
                // An earlier attempt got as far as the image. If the guest has gone on since, it is worth nothing.
                let record = &domain.record;
                let is_other = image.uuid != record.uuid || image.boot != record.boot;
                let state = domain.state().await?;
                if state == Some(RunState::Silent) {
                    // It may be running, and then the image is the past; or not, and then it is all there is.
                    return Err(PortError::later(format!("QEMU of {sliver} does not answer")));
                }
                if is_other || state == Some(RunState::Running) {
                    self.on_images(&lock, sliver, "remove an outdated image", Images::discard)
                        .await?;
                    return self.store(&lock, &domain).await;
                }
                let images = self.images().clone();
                blocking(move || images.settle(&image))
                    .await
                    .map_err(|error| io_failed("sync the image", &error))?;
                self.finish(&lock, &domain).await
            }
            (Some(domain), None) => {
                self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
                    .await?;
                self.store(&lock, &domain).await
            }
        }
    }

    /// Notes durably which state of the disk a stored image belongs to.
    ///
    /// # Errors
    /// If there is no image, or it belongs to another state already.
    pub async fn seal_image(&self, sliver: &SliverId, mark: &Digest) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(image) = self.stored(sliver).await? else {
            return Err(PortError::never(format!(
                "{sliver} has no image that could be sealed"
            )));
        };
        match image.mark {
            Some(sealed) if sealed == *mark => Ok(()),
            Some(_) => Err(PortError::never(format!(
                "the image of {sliver} belongs to another state of its disk"
            ))),
            None => {
                let (images, mark) = (self.images().clone(), *mark);
                changing(&lock, move || images.seal(&image, mark))
                    .await
                    .map_err(|error| PortError::later(chain(&error)))
            }
        }
    }

    /// Deletes the image of a sliver and all remains of others. Success if there is none. A domain is not touched.
    ///
    /// # Errors
    /// Of the file system.
    pub async fn discard_image(&self, sliver: &SliverId) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        self.on_images(&lock, sliver, "delete the image", Images::discard)
            .await
    }

    /// Lets a domain that stands still go on. An image of it is taken out of reach first, since it is the past then.
    ///
    /// # Errors
    /// If it cannot go on, or is not there.
    pub async fn unpause(&self, sliver: &SliverId) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(domain) = find(&dir, sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could go on"
            )));
        };
        at_home(&domain)?;
        match domain.state().await? {
            Some(RunState::Running) => Ok(()),
            Some(RunState::Paused | RunState::Outgone | RunState::Finishing) => {
                self.go_on(&lock, &domain).await
            }
            Some(RunState::Incoming) => {
                // Nobody loads it any more: its image is whole, and the next attempt begins with it.
                domain.end(Duration::ZERO).await?;
                domain.clean(&lock).await?;
                Err(PortError::later(format!(
                    "a resume of {sliver} had been cut off; it has been cleared away"
                )))
            }
            Some(RunState::Crashed) => {
                Err(PortError::never(format!("{sliver} has crashed and cannot go on")))
            }
            Some(RunState::Silent) => Err(PortError::later(format!("QEMU of {sliver} does not answer"))),
            Some(RunState::Stopping) | None => Err(PortError::later(format!("{sliver} is just ending"))),
        }
    }

    /// Lets the guest go on and makes sure that it does. Before that, its image ceases to be one; after it, to exist.
    pub(crate) async fn go_on(&self, lock: &Lock, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        if self.stored(sliver).await?.is_some() {
            self.on_images(lock, sliver, "take the image out of reach", Images::consume)
                .await?;
        }
        self.run_on(domain).await?;
        self.on_images(lock, sliver, "delete the image", Images::clean)
            .await
    }

    /// Stores the memory of a domain that has no image, and ends it.
    async fn store(&self, lock: &Lock, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        self.ready_to_store(domain).await?;
        if let Err(error) = self.room_for(domain).await {
            // An attempt that was cut off may have left it standing still.
            self.revive(domain).await?;
            return Err(error);
        }
        let images = self.images().clone();
        let (of, at) = (sliver.clone(), now());
        let memory = changing(lock, move || images.begin(&of, at)).await;
        let memory = memory.map_err(|error| io_failed("make a file for the image", &error))?;
        let stored = self.write(lock, domain, memory).await;
        if let Err(error) = stored {
            // Before the guest goes on, nothing of what was stored may be left that looks like an image.
            self.on_images(
                lock,
                sliver,
                "remove an image that did not become one",
                Images::discard,
            )
            .await?;
            self.revive(domain).await?;
            return Err(error);
        }
        self.finish(lock, domain).await
    }

    /// Ends a domain whose memory is stored.
    async fn finish(&self, lock: &Lock, domain: &Domain) -> PortResult<()> {
        domain.end(Duration::ZERO).await?;
        self.ungroup(&domain.record.sliver).await;
        domain.clean(lock).await
    }

    /// Finds out whether the domain can be suspended, and clears away an attempt that nobody finished. The guest is not
    /// stopped yet.
    async fn ready_to_store(&self, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        at_home(domain)?;
        let silent = |error: QmpError| disobeyed(sliver, &error);
        let qmp = &mut domain.connect().await.map_err(silent)?;
        match run_state(qmp).await.map_err(silent)? {
            RunState::Running | RunState::Paused | RunState::Outgone | RunState::Finishing => {}
            RunState::Incoming => {
                return Err(PortError::later(format!("{sliver} is being resumed")));
            }
            RunState::Stopping | RunState::Silent => {
                return Err(PortError::later(format!("{sliver} is just ending")));
            }
            RunState::Crashed => {
                return Err(PortError::never(format!(
                    "{sliver} has crashed and cannot be suspended"
                )));
            }
        }
        if migration(qmp).await.map_err(silent)?.is_active() {
            cancel(qmp).await.map_err(silent)?;
        }
        // A guest whose memory has gone out once cannot be stored again before it has run.
        if run_state(qmp).await.map_err(silent)? == RunState::Outgone {
            qmp.execute("cont").await.map_err(silent)?;
        }
        Ok(())
    }

    /// Whether the disk has room for the image, as far as can be told before it is written.
    async fn room_for(&self, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let needs_mib = domain
            .process
            .resident_mib()
            .min(domain.record.memory_max_mib + OVERHEAD_MIB);
        let images = self.images().clone();
        let free = blocking(move || images.free()).await;
        let free_mib = free.map_err(|error| io_failed("look at the disk of images", &error))? >> 20;
        if free_mib < needs_mib + OVERHEAD_MIB {
            return Err(PortError::later(format!(
                "the image of {sliver} needs up to {needs_mib} MiB, and {} has {free_mib} MiB free, of which \
                 {OVERHEAD_MIB} are kept for others: it goes on running",
                self.config().images_dir.display()
            )));
        }
        Ok(())
    }

    /// Stops the guest, writes its memory, and makes an image of that.
    async fn write(&self, lock: &Lock, domain: &Domain, memory: Unfinished) -> PortResult<()> {
        let record = &domain.record;
        let sliver = &record.sliver;
        let silent = |error: QmpError| disobeyed(sliver, &error);
        let mut qmp = domain.connect().await.map_err(silent)?;
        let machine = machine(&mut qmp).await.map_err(silent)?;
        let accel = record.accel.unwrap_or(domain.process.accel());
        qmp.execute("stop").await.map_err(silent)?;
        // One connection at a time is served: whoever wants to see what the domain does gets a turn.
        drop(qmp);
        let bytes = self
            .migrate(domain, &memory)
            .await
            .map_err(|error| not_stored(sliver, &error))?;
        let image = Image {
            sliver: sliver.clone(),
            uuid: record.uuid,
            boot: record.boot,
            memory_mib: record.memory_mib,
            memory_max_mib: record.memory_max_mib,
            vcpus: record.vcpus,
            publish: record.publish.clone(),
            machine,
            accel,
            bytes,
            at: memory.at,
            mark: None,
        };
        let images = self.images().clone();
        changing(lock, move || images.finish(&memory, &image))
            .await
            .map_err(|error| PortError::later(format!("{sliver} goes on running: {}", chain(&error))))
    }

    /// Has QEMU write the memory to its end; says how long it is.
    async fn migrate(&self, domain: &Domain, memory: &Unfinished) -> Result<u64, MigrateError> {
        let bytes_max = (domain.record.memory_max_mib + OVERHEAD_MIB) << 20;
        let rate = self.config().image_rate.unwrap_or(BANDWIDTH_UNBOUND);
        let mut qmp = domain.connect().await?;
        let parameters = json!({ "max-bandwidth": rate });
        qmp.execute_with("migrate-set-parameters", parameters).await?;
        qmp.give_file(FILE_NAME, memory.file.as_fd()).await?;
        let uri = json!({ "uri": format!("fd:{FILE_NAME}") });
        qmp.execute_with("migrate", uri).await?;
        drop(qmp);
        let (mut written, mut since) = (0, Instant::now());
        loop {
            let state = migration(&mut domain.connect().await?).await?;
            let bytes = memory.file.metadata().map_err(MigrateError::File)?.len();
            match state {
                Migration::Completed => return Ok(bytes),
                Migration::Ended { why } => return Err(MigrateError::Failed(why)),
                Migration::Active { .. } if bytes > bytes_max => {
                    return Err(MigrateError::TooLong(bytes_max));
                }
                Migration::Active { .. } => {}
            }
            if bytes != written {
                (written, since) = (bytes, Instant::now());
            } else if since.elapsed() > STALLED_AFTER {
                return Err(MigrateError::Stalled);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets a guest whose memory was not stored go on.
    async fn revive(&self, domain: &Domain) -> PortResult<()> {
        self.run_on(domain).await.map_err(|error| PortError {
            what: format!("not suspended, and not running either: {}", error.what),
            retry: error.retry,
        })
    }

    /// The image of a sliver. An error is not an absence.
    pub(crate) async fn stored(&self, sliver: &SliverId) -> PortResult<Option<Image>> {
        let (images, of) = (self.images().clone(), sliver.clone());
        let image: Result<_, RecordError> = blocking(move || images.read(&of)).await;
        image.map_err(|error| {
            PortError::never(format!("the image of {sliver} is of no use: {}", chain(&error)))
        })
    }

    /// Changes something of a sliver's images.
    pub(crate) async fn on_images(
        &self,
        lock: &Lock,
        sliver: &SliverId,
        what: &str,
        change: fn(&Images, &SliverId) -> std::io::Result<()>,
    ) -> PortResult<()> {
        let (images, of) = (self.images().clone(), sliver.clone());
        changing(lock, move || change(&images, &of))
            .await
            .map_err(|error| io_failed(&format!("{what} of {sliver}"), &error))
    }
}

/// Why the memory of a guest was not written.
#[derive(Debug, thiserror::Error)]
enum MigrateError {
    #[error("asking QEMU")]
    Qmp(#[from] QmpError),
    #[error("looking at the image")]
    File(#[source] std::io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("the image has more than {0} bytes")]
    TooLong(u64),
    #[error("nothing was written for {} s", STALLED_AFTER.as_secs())]
    Stalled,
}

fn not_stored(sliver: &SliverId, error: &MigrateError) -> PortError {
    PortError::later(format!(
        "the memory of {sliver} cannot be stored, and it goes on running: {}",
        chain(error)
    ))
}

/// What executes the guest's code, from QEMU's arguments, for domains whose record does not say.
impl crate::process::QemuProcess {
    pub(crate) fn accel(&self) -> Accel {
        match self.option("accel") {
            Some("kvm") => Accel::Kvm,
            _ => Accel::Tcg,
        }
    }
}
