//! A domain from its image.
//!
//! xl builds a domain of the memory, which stands still. Then the image is taken out of everybody's reach, durably, and
//! only then the guest goes on. Who dies between these two leaves a domain that is whole and can go on; if that is lost
//! too, nobody can say whether it ran, and the image is not used again: the sliver boots from its disk, as after a power
//! failure.

use std::time::Duration;

use xeno_kept::lock::Lock;
use xeno_model::id::SliverId;
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult, Tuning};

use crate::domain::{Domain, RunState};
use crate::driver::{Build, Memory, XenDriver, in_the_way, io_failed};
use crate::images::{Image, Images};
use crate::moves::at_home;
use crate::record::{Phase, Record};
use crate::{blocking, chain, spec as xl_spec};

impl XenDriver {
    /// Starts a sliver's domain from its stored and sealed image; returns once the guest runs, and the image is gone
    /// then. Success if the domain runs already.
    ///
    /// # Errors
    /// If the image does not fit, or cannot be loaded: then it stays. A guest that may have run is never resumed again.
    pub async fn resume(&self, spec: &DomainSpec) -> PortResult<()> {
        let sliver = &spec.sliver;
        let lock = self.lock(sliver).await?;
        let stored = self.stored(sliver).await?;
        let inventory = self.take_roll().await?;
        if let Some(domain) = inventory.of(sliver) {
            at_home(domain)?;
            let is_wanted = domain.record.boot == spec.boot && domain.record.uuid == spec.uuid;
            match (domain.state, &stored) {
                (RunState::Running, _) if is_wanted => {
                    return self
                        .on_images(&lock, sliver, "delete the image", Images::discard)
                        .await;
                }
                (RunState::Paused | RunState::Suspended, None) if is_wanted => {
                    self.go_on(&lock, domain).await?;
                    return self.tell(spec).await;
                }
                // An attempt that was cut off before its guest ran, or a suspend that did not end its domain.
                (RunState::Paused | RunState::Suspended | RunState::Unfinished, _) => {
                    self.end(domain, Duration::ZERO).await?;
                    self.clean(&lock, sliver, &domain.record.uuid).await?;
                }
                (RunState::Running | RunState::Stopped, _) => {
                    return Err(PortError::never(format!(
                        "{sliver} has a domain: shut it down first"
                    )));
                }
                (RunState::Leaving, _) => return Err(PortError::later(format!("{sliver} is just ending"))),
            }
        }
        if let Some(other) = inventory.in_the_way(sliver, &spec.uuid) {
            return Err(in_the_way(sliver, &other.name));
        }
        let Some(image) = stored else {
            return Err(self.nothing_stored(sliver).await);
        };
        fits(&image, spec)?;
        self.check_link(spec, &inventory)?;
        self.load(&lock, spec, &image).await?;
        if image.memory_mib == spec.memory_mib {
            // All else it has from its configuration.
            return Ok(());
        }
        self.tell(spec).await
    }

    async fn nothing_stored(&self, sliver: &SliverId) -> PortError {
        let (images, of) = (self.images().clone(), sliver.clone());
        match blocking(move || images.is_consumed(&of)).await {
            Ok(true) => PortError::never(format!(
                "the image of {sliver} was being resumed when its domain was lost; its guest may have run, so it is not \
                 resumed twice: it can only boot"
            )),
            Ok(false) => PortError::never(format!("{sliver} has no image")),
            Err(error) => io_failed("look for the image", &error),
        }
    }

    async fn load(&self, lock: &Lock, spec: &DomainSpec, image: &Image) -> PortResult<()> {
        let sliver = &spec.sliver;
        // With the processors and the memory it had: it gets what it should have once it runs.
        let as_it_was = DomainSpec {
            vcpus: image.vcpus,
            memory_mib: image.memory_mib,
            memory_max_mib: image.memory_max_mib,
            ..spec.clone()
        };
        let wire = self.wire(&spec.uuid);
        let config = xl_spec::render(&as_it_was, image.guest, &spec.kernel, &wire)
            .map_err(|error| PortError::never(format!("cannot resume {sliver}: {}", chain(&error))))?;
        self.check_memory(&as_it_was, image.memory_mib, image.guest)
            .await?;
        let record = self.new_record(&as_it_was, image.guest, Phase::Loading);
        let memory = self.images().memory(image);
        let build = Build {
            config: &config,
            addresses: &spec.addresses,
            memory: Memory::Stored(&memory),
        };
        let mut domain = self.build(lock, &record, build).await?;
        self.on_images(lock, sliver, "take the image out of reach", Images::consume)
            .await?;
        self.make_whole(&domain).await?;
        domain.record.phase = Phase::Whole;
        self.give_ports(&mut domain.record, &spec.publish).await?;
        // Where this fails nobody knows whether the guest has run: the image is not put back.
        self.set_free(sliver, &domain).await?;
        self.on_images(lock, sliver, "delete the image", Images::clean)
            .await
    }

    /// Notes that a domain is whole: from here on it can go on whatever becomes of its image.
    pub(crate) async fn make_whole(&self, domain: &Domain) -> PortResult<()> {
        if domain.record.phase == Phase::Whole {
            return Ok(());
        }
        let whole = Record {
            phase: Phase::Whole,
            ..domain.record.clone()
        };
        self.remember(&whole).await
    }

    /// What a domain that goes on from an image is told in addition.
    async fn tell(&self, spec: &DomainSpec) -> PortResult<()> {
        let tuning = Tuning {
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            limits: spec.limits,
            publish: spec.publish.clone(),
        };
        let Some(domain) = self.find(&spec.sliver).await? else {
            return Ok(());
        };
        self.tune(&domain, &tuning).await
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
    if spec.memory_mib > image.memory_max_mib {
        return Err(PortError::never(format!(
            "the image of {sliver} was started with {} MiB and cannot have {}: discard it, and it boots",
            image.memory_max_mib, spec.memory_mib
        )));
    }
    Ok(())
}
