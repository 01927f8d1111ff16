//! A domain from its image.
//!
//! A QEMU with the same devices loads the memory and stands still. Then the image is taken out of everybody's reach,
//! durably, and only then the guest goes on. If QEMU dies between these two, nobody can say whether the guest ran, and
//! the image is not used again: the sliver boots from its disk, as after a power failure.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use xeno_kept::lock::Lock;
use xeno_model::id::SliverId;
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult};

use crate::domain::{Domain, RunState, SOON_STEP, disobeyed, io_failed, lock, run_state};
use crate::driver::QemuDriver;
use crate::images::{Image, Images};
use crate::inventory::find;
use crate::moves::at_home;
use crate::qmp::QmpError;
use crate::record::Record;
use crate::run_dir::RunDir;
use crate::spec::Begin;
use crate::start::{Launch, record};
use crate::suspend::FILE_NAME;
use crate::{blocking, chain};

/// A QEMU that reads nothing more of its image for this long is given up.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

impl QemuDriver {
    /// Starts a sliver's domain from its stored and sealed image; returns once the guest runs, and the image is gone
    /// then. Success if the domain runs already.
    ///
    /// # Errors
    /// If the image does not fit, or cannot be loaded: then it stays. A guest that may have run is never resumed again.
    pub async fn resume(&self, spec: &DomainSpec) -> PortResult<()> {
        let sliver = &spec.sliver;
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let stored = self.stored(sliver).await?;
        if let Some(domain) = find(&dir, sliver).await? {
            at_home(&domain)?;
            let is_wanted = domain.record.boot == spec.boot && domain.record.uuid == spec.uuid;
            match (domain.state().await?, &stored) {
                (Some(RunState::Running), _) if is_wanted => {
                    return self
                        .on_images(&lock, sliver, "delete the image", Images::discard)
                        .await;
                }
                (Some(RunState::Paused | RunState::Outgone | RunState::Finishing), None) if is_wanted => {
                    return self.go_on(&lock, &domain).await;
                }
                // An attempt that was cut off before its guest ran, or a suspend that did not end its QEMU.
                (
                    Some(RunState::Paused | RunState::Outgone | RunState::Finishing | RunState::Incoming),
                    _,
                ) => {
                    domain.end(Duration::ZERO).await?;
                    domain.clean(&lock).await?;
                }
                (Some(RunState::Running | RunState::Stopping | RunState::Crashed), _) => {
                    return Err(PortError::never(format!(
                        "{sliver} has a domain: shut it down first"
                    )));
                }
                (Some(RunState::Silent), _) => {
                    return Err(PortError::later(format!("QEMU of {sliver} does not answer")));
                }
                (None, _) => domain.clean(&lock).await?,
            }
        }
        let Some(image) = stored else {
            return Err(self.nothing_stored(sliver).await);
        };
        fits(&image, spec)?;
        self.load(&lock, spec, &dir, &image).await
    }

    async fn nothing_stored(&self, sliver: &SliverId) -> PortError {
        let (images, of) = (self.images().clone(), sliver.clone());
        match blocking(move || images.is_consumed(&of)).await {
            Ok(true) => PortError::never(format!(
                "the image of {sliver} was being resumed when its QEMU died; its guest may have run, so it is not resumed \
                 twice: it can only boot"
            )),
            Ok(false) => PortError::never(format!("{sliver} has no image")),
            Err(error) => io_failed("look for the image", &error),
        }
    }

    async fn load(&self, lock: &Lock, spec: &DomainSpec, dir: &RunDir, image: &Image) -> PortResult<()> {
        let sliver = &spec.sliver;
        self.check_files(spec)?;
        let path = self.images().memory(image);
        let memory = blocking(move || File::open(path))
            .await
            .map_err(|error| io_failed("open the image", &error))?;
        // With the processors it had: QEMU's are as many as it was started with.
        let spec = &DomainSpec {
            vcpus: image.vcpus,
            ..spec.clone()
        };
        let record = Record {
            memory_mib: image.memory_mib,
            memory_max_mib: image.memory_max_mib,
            ..record(spec, image.accel)
        };
        let begin = Begin::Image {
            machine: &image.machine,
            memory_max_mib: image.memory_max_mib,
        };
        let launch = Launch {
            spec,
            record,
            dir,
            begin,
        };
        let domain = self.start(lock, launch).await?;
        if let Err(error) = self.take_in(&domain, &memory).await {
            // The guest has not run: the image is as good as before.
            domain.end(Duration::ZERO).await?;
            domain.clean(lock).await?;
            return Err(error);
        }
        self.on_images(lock, sliver, "take the image out of reach", Images::consume)
            .await?;
        let went_on = match domain.connect().await {
            Ok(mut qmp) => qmp.execute("cont").await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(QmpError::Refused { description, .. }) = &went_on {
            // It said no, so the guest has not run.
            domain.end(Duration::ZERO).await?;
            domain.clean(lock).await?;
            self.on_images(lock, sliver, "keep the image", Images::put_back)
                .await?;
            return Err(PortError::later(format!(
                "{sliver} was loaded, and cannot go on: {description}"
            )));
        }
        went_on.map_err(|error| disobeyed(sliver, &error))?;
        self.go_on(lock, &domain).await?;
        self.after_start(lock, spec, &domain).await
    }

    /// Has QEMU load the memory to its end; it stands still then.
    async fn take_in(&self, domain: &Domain, memory: &File) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let loading = async {
            let mut qmp = domain.connect().await?;
            qmp.give_file(FILE_NAME, memory.as_fd()).await?;
            let uri = json!({ "uri": format!("fd:{FILE_NAME}") });
            qmp.execute_with("migrate-incoming", uri).await?;
            drop(qmp);
            let until = Instant::now() + LOAD_LIMIT;
            loop {
                let state = run_state(&mut domain.connect().await?).await?;
                if state != RunState::Incoming || Instant::now() >= until {
                    return Ok(state);
                }
                sleep(SOON_STEP).await;
            }
        };
        let not_loaded =
            |why: String| PortError::later(format!("the image of {sliver} cannot be loaded: {why}"));
        match timeout(LOAD_LIMIT, loading).await {
            Ok(Ok(RunState::Paused)) => Ok(()),
            Ok(Ok(state)) => Err(not_loaded(format!("QEMU is {state:?}"))),
            Ok(Err::<_, QmpError>(error)) => {
                // QEMU ends when it does not like what it reads, and says why in its log.
                let log = domain.dir.qemu_log_tail();
                let why = if log.is_empty() { chain(&error) } else { log };
                Err(not_loaded(why))
            }
            Err(_) => Err(not_loaded(format!(
                "it took more than {} s",
                LOAD_LIMIT.as_secs()
            ))),
        }
    }
}

/// Whether a domain as `spec` says can go on from `image`.
fn fits(image: &Image, spec: &DomainSpec) -> PortResult<()> {
    let sliver = &spec.sliver;
    let other = |what: &str| {
        Err(PortError::never(format!(
            "the image of {sliver} is of another {what}: resume it as it was, or discard it"
        )))
    };
    if image.mark.is_none() {
        return Err(PortError::never(format!(
            "the image of {sliver} is not sealed: nobody noted which state of the disk it belongs to"
        )));
    }
    if image.uuid != spec.uuid {
        return other("domain");
    }
    if image.boot != spec.boot {
        return other("kernel, stack or number of CPUs");
    }
    if image.vcpus > spec.vcpus_max {
        return other("number of CPUs");
    }
    Ok(())
}
