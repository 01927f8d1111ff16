//! A domain's memory to an image, and the end of the domain.
//!
//! `xl save -p` leaves the domain standing where it could go on. Only when the memory and its description are on disk is
//! it destroyed: what xl says of a save says nothing of the disk. Whatever fails before that, the guest goes on.

use std::time::Duration;

use xeno_kept::lock::Lock;
use xeno_model::id::{Digest, SliverId};
use xeno_reconciler::ports::{PortError, PortResult};

use crate::domain::{Domain, RunState};
use crate::driver::{XenDriver, io_failed, now};
use crate::images::{Image, Images, Unfinished};
use crate::moves::at_home;
use crate::xl::XlError;
use crate::{blocking, chain, changing};

/// What an image may have beside the guest's memory: page headers, its configuration.
const OVERHEAD_MIB: u64 = 64;
/// How long storing may take; libxl itself gives a guest 60 s to stand still.
const SAVE_LIMIT: Duration = Duration::from_secs(1800);

impl XenDriver {
    /// Stores the memory of a sliver's domain as an image, and ends the domain. Success if that is so already.
    ///
    /// # Errors
    /// If the domain cannot be suspended: it then goes on running, unless it has crashed.
    pub async fn suspend(&self, sliver: &SliverId) -> PortResult<()> {
        let lock = self.lock(sliver).await?;
        let domain = self.find(sliver).await?;
        if let Some(domain) = &domain {
            at_home(domain)?;
        }
        let stored = self.stored(sliver).await?;
        match (domain, stored) {
            (None, Some(_)) => Ok(()),
            (None, None) => Err(PortError::later(format!(
                "{sliver} has no domain that could be suspended"
            ))),
            (Some(domain), Some(image)) => {
                // An earlier attempt got as far as the image. If the guest has gone on since, it is worth nothing.
                let record = &domain.record;
                let is_other = image.uuid != record.uuid || image.boot != record.boot;
                match domain.state {
                    RunState::Leaving => return Err(PortError::later(format!("{sliver} is just ending"))),
                    // Its image is being loaded, or was when whoever did that died.
                    RunState::Unfinished => {
                        return Err(PortError::later(format!("{sliver} is being resumed")));
                    }
                    RunState::Paused | RunState::Suspended | RunState::Stopped if !is_other => {
                        let images = self.images().clone();
                        blocking(move || images.settle(&image))
                            .await
                            .map_err(|error| io_failed("sync the image", &error))?;
                        return self.finish(&lock, &domain).await;
                    }
                    RunState::Running | RunState::Paused | RunState::Suspended | RunState::Stopped => {}
                }
                self.on_images(&lock, sliver, "remove an outdated image", Images::discard)
                    .await?;
                self.store_memory(&lock, &domain).await
            }
            (Some(domain), None) => {
                self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
                    .await?;
                self.store_memory(&lock, &domain).await
            }
        }
    }

    /// Notes durably which state of the disk a stored image belongs to.
    ///
    /// # Errors
    /// If there is no image, or it belongs to another state already.
    pub async fn seal_image(&self, sliver: &SliverId, mark: &Digest) -> PortResult<()> {
        let lock = self.lock(sliver).await?;
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
        let lock = self.lock(sliver).await?;
        self.on_images(&lock, sliver, "delete the image", Images::discard)
            .await
    }

    /// Lets a domain that stands still go on. An image of it is taken out of reach first, since it is the past then.
    ///
    /// # Errors
    /// If it cannot go on, or is not there.
    pub async fn unpause(&self, sliver: &SliverId) -> PortResult<()> {
        let lock = self.lock(sliver).await?;
        let Some(domain) = self.spot(sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could go on"
            )));
        };
        at_home(&domain)?;
        match domain.state {
            RunState::Running => Ok(()),
            RunState::Paused | RunState::Suspended => self.go_on(&lock, &domain).await,
            RunState::Unfinished => {
                // Nobody works on it any more. If it was being loaded its image is whole, and the next attempt begins
                // with it.
                self.end(&domain, Duration::ZERO).await?;
                self.clean(&lock, sliver, &domain.record.uuid).await?;
                Err(PortError::later(format!(
                    "a start of {sliver} had been cut off; it has been cleared away"
                )))
            }
            RunState::Stopped => Err(PortError::never(format!("{sliver} has stopped and cannot go on"))),
            RunState::Leaving => Err(PortError::later(format!("{sliver} is just ending"))),
        }
    }

    /// Lets the guest go on and makes sure that it does. Before that, its image ceases to be one; after it, to exist.
    pub(crate) async fn go_on(&self, lock: &Lock, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        if self.stored(sliver).await?.is_some() {
            self.on_images(lock, sliver, "take the image out of reach", Images::consume)
                .await?;
        }
        self.make_whole(domain).await?;
        self.let_go(sliver, domain).await?;
        self.on_images(lock, sliver, "delete the image", Images::clean)
            .await
    }

    /// Stores the memory of a domain that has no image, and ends it.
    async fn store_memory(&self, lock: &Lock, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        match domain.state {
            RunState::Running => {}
            // Only a guest that runs can make itself ready.
            RunState::Paused | RunState::Suspended => {
                self.make_whole(domain).await?;
                self.let_go(sliver, domain).await?;
            }
            RunState::Leaving => return Err(PortError::later(format!("{sliver} is just ending"))),
            RunState::Stopped | RunState::Unfinished => {
                return Err(PortError::never(format!(
                    "{sliver} has stopped and cannot be suspended"
                )));
            }
        }
        self.room_for(domain).await?;
        let images = self.images().clone();
        let (of, at) = (sliver.clone(), now());
        let memory = changing(lock, move || images.begin(&of, at)).await;
        let memory = memory.map_err(|error| io_failed("make a file for the image", &error))?;
        if let Err(error) = self.write(lock, domain, memory).await {
            if matches!(error, NotStored::AtWork(_)) {
                return Err(error.port());
            }
            // Before the guest goes on, nothing of what was stored may be left that looks like an image.
            self.on_images(
                lock,
                sliver,
                "remove an image that did not become one",
                Images::discard,
            )
            .await?;
            // xl lets it go on where the save failed; where storing failed after that, it stands.
            if let Some(domain) = self.spot(sliver).await?
                && matches!(domain.state, RunState::Paused | RunState::Suspended)
            {
                self.let_go(sliver, &domain).await?;
            }
            return Err(error.port());
        }
        self.finish(lock, domain).await
    }

    /// Ends a domain whose memory is stored.
    async fn finish(&self, lock: &Lock, domain: &Domain) -> PortResult<()> {
        self.end(domain, Duration::ZERO).await?;
        self.take_ports(&domain.record).await?;
        self.clean(lock, &domain.record.sliver, &domain.record.uuid).await
    }

    /// Whether the disk has room for the image, as far as can be told before it is written.
    async fn room_for(&self, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let needs_mib = domain.listed.memory_mib.max(domain.memory_mib()) + OVERHEAD_MIB;
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

    /// Has xl write the memory, and makes an image of it.
    async fn write(&self, lock: &Lock, domain: &Domain, memory: Unfinished) -> Result<(), NotStored> {
        let record = &domain.record;
        let sliver = record.sliver.clone();
        let (domid, path) = (domain.domid(), memory.path.display().to_string());
        let args = ["save", "-p", &domid, &path];
        let saved = self
            .xl()
            .change(&args, &self.run_dir(&sliver).log(), SAVE_LIMIT)
            .await;
        match saved {
            Ok(()) => {}
            Err(error @ XlError::Slow { .. }) => {
                return Err(NotStored::AtWork(
                    error.port(&format!("{sliver} is still being suspended")),
                ));
            }
            Err(error) => {
                return Err(NotStored::Failed(
                    error.port(&format!("the memory of {sliver} cannot be stored")),
                ));
            }
        }
        let not_stored =
            |why: String| NotStored::Failed(PortError::later(format!("{sliver} goes on running: {why}")));
        let bytes = memory
            .file
            .metadata()
            .map_err(|error| not_stored(error.to_string()))?
            .len();
        let image = Image {
            sliver: sliver.clone(),
            uuid: record.uuid,
            boot: record.boot,
            memory_mib: domain.memory_mib(),
            memory_max_mib: record.memory_max_mib,
            vcpus: record.vcpus,
            publish: record.publish.clone(),
            guest: record.guest,
            bytes,
            at: memory.at,
            mark: None,
        };
        let images = self.images().clone();
        changing(lock, move || images.finish(&memory, &image))
            .await
            .map_err(|error| not_stored(chain(&error)))
    }
}

/// Why the memory of a guest was not stored.
enum NotStored {
    /// It is not.
    Failed(PortError),
    /// It is being stored.
    AtWork(PortError),
}

impl NotStored {
    fn port(self) -> PortError {
        match self {
            Self::Failed(error) | Self::AtWork(error) => error,
        }
    }
}
