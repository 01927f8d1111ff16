//! A copy of a guest on another node, made of what comes from there.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;
use xeno_model::id::MigrationId;
use xeno_reconciler::ports::{DomainSpec, Pipe, PortError, PortResult};

use super::preamble::Preamble;
use super::{PIPE_NAME, broke_off, unless_stopped};
use crate::accel::Accel;
use crate::chain;
use crate::domain::{Domain, RunState, io_failed, lock, run_state};
use crate::driver::QemuDriver;
use crate::images::Images;
use crate::inventory::find;
use crate::migration::{Migration, over, set_capabilities};
use crate::qmp::QmpError;
use crate::record::{Moving, Record};
use crate::spec::Begin;
use crate::start::{Launch, record};

impl QemuDriver {
    /// Makes a copy of the guest that comes from `from`, and returns once it is whole; it stands still, and has no ports.
    ///
    /// How long that takes is up to the other end: an end of `from` ends this.
    ///
    /// # Errors
    /// If there is something of the sliver here already, or what comes does not fit or does not come to its end. Nothing
    /// of it is left then.
    pub async fn arrive(&self, spec: &DomainSpec, migration: MigrationId, from: Pipe) -> PortResult<()> {
        let sliver = &spec.sliver;
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        if find(&dir, sliver).await?.is_some() {
            return Err(PortError::never(format!(
                "{sliver} cannot be received: it has a domain here"
            )));
        }
        if self.stored(sliver).await?.is_some() {
            return Err(PortError::never(format!(
                "{sliver} cannot be received: it has an image here"
            )));
        }
        // What can be refused without a word from the other end is.
        self.qemu()?;
        self.arguments(spec, &dir, Accel::Tcg, Begin::Boot)?;
        self.check_files(spec)?;
        self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
            .await?;
        let moving = Moving::Arriving { migration };
        let mut ticket = self.moves().begin(sliver, moving, lock);
        let (preamble, from) = unless_stopped(&mut ticket, sliver, introduced(from)).await?;
        preamble.fits(spec)?;
        // With the processors it has: QEMU's are as many as it was started with.
        let spec = &DomainSpec {
            vcpus: preamble.vcpus,
            ..spec.clone()
        };
        let launch = Launch {
            spec,
            record: Record {
                memory_mib: preamble.memory_mib,
                memory_max_mib: preamble.memory_max_mib,
                publish: Vec::new(),
                moving: Some(moving),
                ..record(spec, preamble.accel)
            },
            dir: &dir,
            begin: Begin::Copy {
                machine: &preamble.machine,
                memory_max_mib: preamble.memory_max_mib,
            },
        };
        let domain = self.start(ticket.lock(), launch).await?;
        let received = unless_stopped(&mut ticket, sliver, receive(&domain, from)).await;
        if received.is_err() {
            domain.end(Duration::ZERO).await?;
            domain.clean(ticket.lock()).await?;
        }
        received
    }
}

/// Reads what goes before the memory.
async fn introduced(from: Pipe) -> PortResult<(Preamble, Pipe)> {
    let unusable = |error: std::io::Error| io_failed("use the pipe from the other node", &error);
    from.set_nonblocking(true).map_err(unusable)?;
    let mut from = tokio::net::UnixStream::from_std(from).map_err(unusable)?;
    let preamble = Preamble::read(&mut from)
        .await
        .map_err(|error| PortError::later(chain(&error)))?;
    Ok((preamble, from.into_std().map_err(unusable)?))
}

/// Has QEMU load the memory to its end; it stands still then.
async fn receive(domain: &Domain, from: Pipe) -> PortResult<()> {
    let sliver = &domain.record.sliver;
    let what = format!("the copy of {sliver} did not become whole");
    let loaded = async {
        let mut qmp = domain.connect().await?;
        set_capabilities(&mut qmp, &[("events", true)]).await?;
        qmp.give_file(PIPE_NAME, from.as_fd()).await?;
        drop(from);
        let uri = json!({ "uri": format!("fd:{PIPE_NAME}") });
        qmp.execute_with("migrate-incoming", uri).await?;
        let stands = over(&mut qmp, None).await?;
        Ok::<_, QmpError>((stands, run_state(&mut qmp).await?))
    };
    match loaded.await {
        Ok((Migration::Completed, RunState::Paused)) => Ok(()),
        Ok((Migration::Ended { why }, _)) => Err(PortError::later(format!("{what}: {why}"))),
        Ok((stands, state)) => Err(PortError::later(format!("{what}: {stands:?}, {state:?}"))),
        // QEMU ends when it does not like what it reads, and says why in its log.
        Err(error) => Err(broke_off(domain, &what, &error)),
    }
}
