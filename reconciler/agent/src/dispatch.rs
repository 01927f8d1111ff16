//! Carries out one action through the ports, under a deadline. Chooses nothing: what to do is in the action and in the
//! sliver it was planned for.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::time::{Duration, timeout};
use xeno_model::desired::{CarriedContent, DesiredNode, DesiredSliver, FileSet};
use xeno_model::id::{Digest, SliverId};
use xeno_model::normal::boot_digest;
use xeno_model::observed::{ObservedStorage, Seen};
use xeno_reconciler::action::{Action, PortsFrom};
use xeno_reconciler::exec::Outcome;
use xeno_reconciler::ports::{
    DomainSpec, Grace, Hypervisor, MountSpec, MoveLayers, PortError, PortResult, Retry, Storage, Tuning,
};

use crate::crash::{self, Moment};
use crate::fleet::member::Member;
use crate::health::{self, Probers};

/// Most bytes that the files of one layer may have in memory while it is made.
const FILES_BYTES_MAX: usize = 256 << 20;

/// What takes longer than this may hang.
const LATE_AFTER: Duration = Duration::from_secs(5);

/// A disk that is slower than this is given up.
const IMAGE_MIB_PER_SECOND: u64 = 10;

/// Memory of a guest about which nothing is asked, for the deadline of its image.
const IMAGE_MIB_UNKNOWN: u64 = 16 << 10;

/// Reads the content of a blob of the repository.
pub(crate) type BlobReader =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>> + Send + Sync>;

/// Everything that actions act on.
pub(crate) struct Ports<H, S> {
    pub(crate) hypervisor: Arc<H>,
    pub(crate) storage: Arc<S>,
    pub(crate) blobs: BlobReader,
    pub(crate) probers: Probers,
    /// How long a guest may take to stop by itself.
    pub(crate) shutdown_grace: Duration,
    /// This node's lease, under which others may take slivers over; `None`: it is alone.
    pub(crate) member: Option<Arc<Member>>,
}

/// An action with what it needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    action: Action,
    sliver: Option<DesiredSliver>,
    files: Option<FileSet>,
}

impl Work {
    /// Takes from the desired state what the action needs.
    pub(crate) fn new(action: &Action, desired: &DesiredNode) -> Self {
        let sliver = action.sliver().and_then(|sliver| desired.embodied(sliver));
        let files = match action {
            Action::ImportFiles { digest } => desired.files.get(digest).cloned(),
            Action::FetchTemplate { .. }
            | Action::MountRemote { .. }
            | Action::OpenWritable { .. }
            | Action::Limit { .. }
            | Action::Checkpoint { .. }
            | Action::Restore { .. }
            | Action::Stack { .. }
            | Action::Export { .. }
            | Action::Boot { .. }
            | Action::AwaitHealthy { .. }
            | Action::Shutdown { .. }
            | Action::Unexport { .. }
            | Action::CloseWritable { .. }
            | Action::Tombstone { .. }
            | Action::Resume { .. }
            | Action::Unpause { .. }
            | Action::Retune { .. }
            | Action::Unpublish { .. }
            | Action::Publish { .. }
            | Action::Suspend { .. }
            | Action::Seal { .. }
            | Action::DiscardImage { .. }
            | Action::Revive { .. }
            | Action::Adopt { .. }
            | Action::Purge { .. } => None,
        };
        Self {
            action: action.clone(),
            sliver,
            files,
        }
    }

    /// How long all of the guest's memory may take to or from the disk.
    fn time_for_image(&self) -> Duration {
        // One that is not asked for any more is as large as it is; nobody here knows how large.
        let memory = self.sliver.as_ref().map_or(IMAGE_MIB_UNKNOWN, |sliver| {
            let resources = &sliver.resources;
            resources
                .memory
                .max(resources.memory_max.unwrap_or(resources.memory))
                .mib()
        });
        Duration::from_secs(60 + memory / IMAGE_MIB_PER_SECOND)
    }

    /// After how long it is late: from then on nobody else waits for it, though it goes on until its deadline.
    pub(crate) fn late_after(&self, shutdown_grace: Duration) -> Duration {
        if matches!(self.action, Action::Shutdown { .. }) {
            // A guest may take all of its grace to end.
            return shutdown_grace + LATE_AFTER;
        }
        LATE_AFTER.min(self.deadline(shutdown_grace))
    }

    /// How long it may take. What takes longer is given up, and what became of it is looked at.
    fn deadline(&self, shutdown_grace: Duration) -> Duration {
        let seconds = Duration::from_secs;
        match &self.action {
            Action::FetchTemplate { .. } => seconds(3600),
            Action::ImportFiles { .. } => seconds(300),
            Action::MountRemote { .. } => seconds(60),
            // Replays the log of the writable layer.
            Action::OpenWritable { .. } => seconds(300),
            // Writes, or reads, the whole state of a layer.
            Action::Checkpoint { .. } | Action::Restore { .. } => seconds(300),
            // A directory layer is walked when it is stacked.
            Action::Stack { .. } => seconds(300),
            Action::Limit { .. } | Action::Export { .. } | Action::Unexport { .. } => seconds(30),
            Action::CloseWritable { .. } => seconds(120),
            Action::Boot { .. } | Action::Unpause { .. } => seconds(60),
            // A guest gives memory back at its own pace.
            Action::Retune { .. } | Action::Publish { .. } => seconds(120),
            Action::Unpublish { .. } => seconds(30),
            Action::Suspend { .. } | Action::Resume { .. } => self.time_for_image(),
            Action::Seal { .. } | Action::DiscardImage { .. } => seconds(120),
            Action::Shutdown { .. } => shutdown_grace + seconds(30),
            Action::Tombstone { .. } | Action::Revive { .. } | Action::Adopt { .. } => seconds(60),
            Action::Purge { .. } => seconds(600),
            Action::AwaitHealthy { .. } => {
                let health = self.sliver.as_ref().and_then(|sliver| sliver.health.as_ref());
                health.map_or(seconds(0), health::patience)
            }
        }
    }
}

/// Carries out one action.
pub(crate) async fn carry_out<H: Hypervisor, S: MoveLayers>(ports: &Ports<H, S>, work: Work) -> Outcome {
    let deadline = work.deadline(ports.shutdown_grace);
    let kind = work.action.kind();
    crash::at(kind, Moment::BeforeEffect);
    let result = match timeout(deadline, act(ports, &work)).await {
        Ok(result) => result,
        Err(_) => Err(late(ports, &work, deadline)),
    };
    match result {
        Ok(()) => {
            crash::at(kind, Moment::AfterEffect);
            Outcome::Done
        }
        Err(PortError { what, retry }) => Outcome::Failed { why: what, retry },
    }
}

fn late<H, S>(ports: &Ports<H, S>, work: &Work, deadline: Duration) -> PortError {
    let seconds = deadline.as_secs();
    let Action::AwaitHealthy { sliver } = &work.action else {
        return PortError::later(format!("it did not end within {seconds} s"));
    };
    let last = match ports.probers.verdicts().remove(sliver) {
        Some(xeno_model::observed::HealthVerdict::Unhealthy { why }) => format!(": {why}"),
        Some(_) | None => String::new(),
    };
    // The run does not wait as long again; the next one does, after a pause.
    PortError::never(format!("it was not healthy within {seconds} s{last}"))
}

/// The mounts of a sliver, which are answered under a lease only where there is one.
fn mounts<H, S>(ports: &Ports<H, S>, sliver: &DesiredSliver) -> Vec<MountSpec> {
    let mut mounts = MountSpec::of(sliver);
    for mount in &mut mounts {
        mount.leased &= ports.member.is_some();
    }
    mounts
}

/// Has what is served of a sliver answer, where that needs the lease of this node.
async fn answer<H, S: MoveLayers>(
    ports: &Ports<H, S>,
    sliver: &DesiredSliver,
    mounts: &[MountSpec],
) -> PortResult<()> {
    let Some(member) = ports
        .member
        .as_ref()
        .filter(|_| mounts.iter().any(|mount| mount.leased))
    else {
        return Ok(());
    };
    let (epoch, until) = member.warrant(&sliver.id.itself()).ok_or_else(|| {
        PortError::later("the lease of this node has run out, or its right to run it is not known")
    })?;
    ports.storage.answer_until(&sliver.id, epoch, until).await
}

async fn act<H: Hypervisor, S: MoveLayers>(ports: &Ports<H, S>, work: &Work) -> PortResult<()> {
    let storage = &*ports.storage;
    match &work.action {
        Action::FetchTemplate { digest, sources } => storage.fetch_template(digest, sources).await,
        Action::ImportFiles { digest } => {
            let files = work.files.as_ref().ok_or_else(|| gone("the files"))?;
            let blobs = read_blobs(&ports.blobs, files).await?;
            storage.import_files(digest, files, &blobs).await
        }
        Action::MountRemote { remote } => storage.mount_remote(remote).await,
        Action::OpenWritable { sliver, epoch, .. } => {
            storage
                .open_writable(sliver, *epoch, &MountSpec::of(work.sliver()?))
                .await
        }
        Action::Checkpoint {
            sliver,
            epoch,
            name,
            fresh,
            drops,
            ..
        } => storage.checkpoint(sliver, *epoch, name, *fresh, drops).await,
        Action::Restore {
            sliver,
            epoch,
            name,
            done,
            ..
        } => storage.restore(sliver, *epoch, name, Some(done)).await,
        Action::Limit { sliver, epoch, .. } => {
            let wanted = work.sliver()?;
            let mounts = mounts(ports, wanted);
            storage.limit(sliver, *epoch, &mounts).await?;
            answer(ports, wanted, &mounts).await
        }
        Action::Stack { sliver, stack, .. } => {
            storage.stack(sliver, stack, &MountSpec::of(work.sliver()?)).await
        }
        Action::Export { sliver, .. } => {
            let wanted = work.sliver()?;
            let mounts = mounts(ports, wanted);
            storage.export(sliver, &mounts).await?;
            answer(ports, wanted, &mounts).await
        }
        Action::Boot {
            boot,
            kernel,
            ports: from,
            ..
        } => {
            let mut wanted = work.sliver()?.clone();
            if *from == PortsFrom::Takeover {
                wanted.publish = health::ports_to_ask(&wanted)?;
            }
            let spec = domain_spec(ports, &wanted, boot, kernel).await?;
            ports.probers.forget(&spec.sliver);
            ports.hypervisor.boot(&spec).await?;
            ask(ports, &wanted, boot);
            Ok(())
        }
        Action::Unpublish { sliver } => ports.hypervisor.unpublish(sliver).await,
        Action::Publish { sliver, tuning } => {
            ports.hypervisor.publish(sliver, tuning).await?;
            let wanted = work.sliver()?;
            // Until now it was asked by a port of its own.
            ask(ports, wanted, &boot_digest(wanted));
            Ok(())
        }
        Action::Resume {
            sliver,
            boot,
            kernel,
            mark,
            ..
        } => {
            let spec = domain_spec(ports, work.sliver()?, boot, kernel).await?;
            // The plan compared them too, but since then the layers were opened: an image over another disk would
            // destroy what is on it.
            let disk = disk_mark(ports, sliver).await?;
            if mark.is_some() && *mark != disk {
                let why = match disk {
                    Some(_) => "the writable layers have changed since it was suspended",
                    // The file server says so as long as nothing has changed since it opened them.
                    None => {
                        "the writable layers, or the directories below them, are not what they were when opened"
                    }
                };
                return Err(PortError::never(why));
            }
            ports.probers.forget(&spec.sliver);
            ports.hypervisor.resume(&spec).await?;
            ask(ports, work.sliver()?, boot);
            Ok(())
        }
        Action::Unpause { sliver, .. } => {
            // What it answered before it stood still says nothing about now.
            ports.probers.forget(sliver);
            ports.hypervisor.unpause(sliver).await?;
            let wanted = work.sliver()?;
            ask(ports, wanted, &boot_digest(wanted));
            Ok(())
        }
        Action::Retune { sliver, tuning } => {
            ports.hypervisor.retune(sliver, tuning).await?;
            let wanted = work.sliver()?;
            ask(ports, wanted, &boot_digest(wanted));
            Ok(())
        }
        Action::Suspend { sliver } => {
            ports.probers.forget(sliver);
            ports.hypervisor.suspend(sliver).await
        }
        Action::Seal { sliver } => {
            let mark = disk_mark(ports, sliver).await?;
            let mark =
                mark.ok_or_else(|| PortError::later("what its writable layers are like cannot be told"))?;
            ports.hypervisor.seal_image(sliver, &mark).await
        }
        Action::DiscardImage { sliver } => ports.hypervisor.discard_image(sliver).await,
        Action::Revive { sliver } => storage.revive(sliver).await,
        Action::Adopt { sliver, from } => storage.adopt(from, sliver).await,
        Action::AwaitHealthy { sliver } => {
            ports.probers.healthy(sliver).await;
            Ok(())
        }
        Action::Shutdown { sliver, .. } => {
            ports.probers.forget(sliver);
            let ms = crate::clock::millis(ports.shutdown_grace);
            ports.hypervisor.shutdown(sliver, Grace { ms }).await
        }
        Action::Unexport { sliver } => storage.unexport(sliver).await,
        Action::CloseWritable { sliver } => storage.close_writable(sliver).await,
        Action::Tombstone { sliver } => storage.tombstone(sliver).await,
        Action::Purge { sliver } => storage.purge(sliver).await,
    }
}

impl Work {
    fn sliver(&self) -> PortResult<&DesiredSliver> {
        self.sliver.as_ref().ok_or_else(|| gone("the sliver"))
    }
}

/// The plan was made from the desired state it is carried out with, so this is a mistake of ours.
fn gone(what: &str) -> PortError {
    PortError::never(format!("{what} it is for is not in the desired state"))
}

pub(crate) async fn domain_spec<H: Hypervisor, S: Storage>(
    ports: &Ports<H, S>,
    sliver: &DesiredSliver,
    boot: &Digest,
    kernel: &Digest,
) -> PortResult<DomainSpec> {
    let files = ports.storage.boot_files(kernel).await?;
    let tuning = Tuning::of(sliver);
    Ok(DomainSpec {
        sliver: sliver.id.clone(),
        uuid: sliver.uuid,
        boot: *boot,
        vcpus: sliver.resources.vcpus,
        vcpus_max: sliver.resources.vcpus_most(),
        memory_mib: tuning.memory_mib,
        memory_max_mib: sliver.resources.memory_most().mib(),
        limits: tuning.limits,
        kernel: files.kernel,
        initramfs: files.initramfs,
        cmdline: files.cmdline,
        mounts: ports.storage.guest_mounts(&sliver.id, &MountSpec::of(sliver)),
        publish: tuning.publish,
        addresses: sliver.addresses.clone(),
    })
}

/// Begins to ask a sliver that was started how it is.
fn ask<H: Hypervisor, S: Storage>(ports: &Ports<H, S>, sliver: &DesiredSliver, boot: &Digest) {
    let console = ports.hypervisor.console_log(&sliver.id);
    ports.probers.ask(sliver, *boot, console);
}

/// What the sliver's writable layers are like now.
async fn disk_mark<H, S: Storage>(ports: &Ports<H, S>, sliver: &SliverId) -> PortResult<Option<Digest>> {
    let storage = ports.storage.observe().await?;
    match storage.get(sliver) {
        None => Ok(ObservedStorage::mark_of(None)),
        Some(Seen::Known(storage)) => Ok(ObservedStorage::mark_of(Some(storage))),
        Some(Seen::Unknown { why }) => Err(PortError::later(format!("storage could not be seen: {why}"))),
    }
}

async fn read_blobs(blobs: &BlobReader, files: &FileSet) -> PortResult<BTreeMap<String, Vec<u8>>> {
    let ids: BTreeSet<_> = files
        .files
        .values()
        .filter_map(|file| match &file.content {
            CarriedContent::Inline(_) => None,
            CarriedContent::Blob { id, .. } => Some(id),
        })
        .collect();
    let mut total = 0;
    let mut read = BTreeMap::new();
    for id in ids {
        let content = blobs(id.clone()).await;
        let content = content.map_err(|why| PortError {
            what: format!("reading {id} from the repository: {why}"),
            retry: Retry::Later,
        })?;
        total += content.len();
        if total > FILES_BYTES_MAX {
            return Err(PortError::never(format!(
                "the files have more than {FILES_BYTES_MAX} bytes"
            )));
        }
        read.insert(id.clone(), content);
    }
    Ok(read)
}
