//! A copy of a guest on another node, made of what comes from there.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use xeno_kept::lock::Lock;
use xeno_model::id::{DomainUuid, MigrationId, SliverId};
use xeno_reconciler::ports::{DomainSpec, Pipe, PortError, PortResult};

use super::preamble::Preamble;
use super::unless_stopped;
use crate::chain;
use crate::domain::Domain;
use crate::driver::{Build, Memory, XenDriver, in_the_way, io_failed, store_failed};
use crate::images::Images;
use crate::record::{Moving, Phase, Record, path_of};

/// Bytes taken from the other node at a time.
const CHUNK: usize = 256 << 10;

impl XenDriver {
    /// Makes a copy of the guest that comes from `from`, and returns once it is whole; it stands still, and has no ports.
    ///
    /// How long that takes is up to the other end: an end of `from` ends this. The configuration that comes along is not
    /// looked at: what the domain is here, this node says.
    ///
    /// # Errors
    /// If there is something of the sliver here already, or what comes does not fit or does not come to its end. Nothing
    /// of it is left then.
    pub async fn arrive(&self, spec: &DomainSpec, migration: MigrationId, from: Pipe) -> PortResult<()> {
        let sliver = &spec.sliver;
        let lock = self.lock(sliver).await?;
        let inventory = self.take_roll().await?;
        if inventory.of(sliver).is_some() {
            return Err(PortError::never(format!(
                "{sliver} cannot be received: it has a domain here"
            )));
        }
        if let Some(other) = inventory.in_the_way(sliver, &spec.uuid) {
            return Err(in_the_way(sliver, &other.name));
        }
        if self.stored(sliver).await?.is_some() {
            return Err(PortError::never(format!(
                "{sliver} cannot be received: it has an image here"
            )));
        }
        // What can be refused without a word from the other end is.
        self.check_link(spec, &inventory)?;
        self.configuration(spec, self.kind().await?, &spec.kernel).await?;
        self.check_files(spec).await?;
        self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
            .await?;
        self.sweep(&lock, sliver).await?;
        let mut ticket = self
            .moves()
            .begin(sliver, Moving::Arriving { migration }, lock.clone());
        let received = unless_stopped(&mut ticket, sliver, self.receive(&lock, spec, migration, from)).await;
        if received.is_err() {
            self.undo(&lock, sliver, &spec.uuid).await?;
        }
        received
    }

    async fn receive(
        &self,
        lock: &Lock,
        spec: &DomainSpec,
        migration: MigrationId,
        from: Pipe,
    ) -> PortResult<()> {
        let sliver = &spec.sliver;
        let unusable = |error: std::io::Error| io_failed("use the pipe from the other node", &error);
        from.set_nonblocking(true).map_err(unusable)?;
        let mut from = UnixStream::from_std(from).map_err(unusable)?;
        let preamble = Preamble::read(&mut from)
            .await
            .map_err(|error| PortError::later(chain(&error)))?;
        preamble.fits(spec)?;
        let info = self.node().await?;
        if !preamble.guest.runs_on(info) {
            return Err(PortError::never(format!(
                "{sliver} cannot be received: it is a guest of type {}, which does not run here",
                preamble.guest.word()
            )));
        }
        // With the processors and the memory it has: it gets what it should have once it runs.
        let as_it_is = DomainSpec {
            vcpus: preamble.vcpus,
            memory_mib: preamble.memory_mib,
            memory_max_mib: preamble.memory_max_mib,
            ..spec.clone()
        };
        self.check_memory(&as_it_is, preamble.memory_mib, preamble.guest)
            .await?;
        let config = self
            .configuration(&as_it_is, preamble.guest, &spec.kernel)
            .await?;
        let record = Record {
            moving: Some(Moving::Arriving { migration }),
            ..self.new_record(&as_it_is, preamble.guest, Phase::Loading)
        };
        self.new_log(sliver).await;
        let (mut writing, reading) = pipe::pipe().map_err(unusable)?;
        let reading: OwnedFd = reading.into_blocking_fd().map_err(unusable)?;
        let build = Build {
            config: &config,
            addresses: &spec.addresses,
            memory: Memory::Comes(reading),
        };
        let carrying = async {
            let mut chunk = vec![0; CHUNK];
            loop {
                match from.read(&mut chunk).await {
                    Ok(0) | Err(_) => break,
                    Ok(len) => {
                        if writing.write_all(&chunk[..len]).await.is_err() {
                            break;
                        }
                    }
                }
            }
            // xl has it all, or sees the end, and says what is missing.
            drop((writing, from));
            std::future::pending::<()>().await;
        };
        let mut domain = tokio::select! {
            built = self.build(lock, &record, build) => built?,
            () = carrying => return Err(PortError::later(format!("nothing comes of {sliver}"))),
        };
        domain.record.phase = Phase::Whole;
        self.remember(&domain.record).await?;
        self.arrived().insert(sliver.clone(), spec.uuid);
        Ok(())
    }

    /// The copy of this migration, if it arrived while this driver has been there, and stands still since. Its guest waits: no
    /// listing is made.
    pub(super) async fn has_arrived(
        &self,
        sliver: &SliverId,
        migration: MigrationId,
    ) -> PortResult<Option<Domain>> {
        let Some(uuid) = self.arrived().remove(sliver) else {
            return Ok(None);
        };
        let mut store = self.store().await?;
        let stored = store.read(&path_of(&uuid)).await;
        let stored = stored.map_err(|error| store_failed(&error))?;
        let record = stored.and_then(|stored| Record::read(&stored).ok());
        let is_it = |record: &Record| {
            record.owner == self.owner()
                && record.sliver == *sliver
                && record.phase == Phase::Whole
                && record.moving == Some(Moving::Arriving { migration })
        };
        match record.filter(is_it) {
            Some(record) => self.just_made(&record).await,
            None => Ok(None),
        }
    }

    /// Takes away what came of a guest that did not arrive. Its xl has lost its pipe.
    async fn undo(&self, lock: &Lock, sliver: &SliverId, uuid: &DomainUuid) -> PortResult<()> {
        self.await_end_of_work(sliver).await?;
        if let Some(domain) = self.spot(sliver).await? {
            self.end(&domain, Duration::ZERO).await?;
        }
        self.clean(lock, sliver, uuid).await
    }
}
