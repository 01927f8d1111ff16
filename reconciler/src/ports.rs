//! What the reconciler needs of the world, in its own words. Drivers and the agent implement these traits; the
//! scripted versions that tests use do too.

mod moving;

pub use moving::{BootInstant, Departure, MoveLayers, MoveMemory, Pipe};

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;

use xeno_model::desired::{DesiredSliver, FileSet, LayerRef, Place, Publish, Remote, WritableKind};
use xeno_model::id::{Digest, DomainUuid, Epoch, SliverId};
use xeno_model::observed::{Domains, Limits, ObservedStorage, RemoteState, Seen};

/// A port call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct PortError {
    /// What went wrong, with its causes, in one line.
    pub what: String,
    /// Whether doing the same again can help.
    pub retry: Retry,
}

/// Whether doing the same again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may: the world can change by itself.
    Later,
    /// Not until somebody changes something.
    Never,
}

impl PortError {
    /// A failure that may pass.
    pub fn later(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            retry: Retry::Later,
        }
    }

    /// A failure that stays until somebody changes something.
    pub fn never(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            retry: Retry::Never,
        }
    }
}

/// Result of a port call.
pub type PortResult<T> = Result<T, PortError>;

/// A domain to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec {
    /// Which sliver it embodies.
    pub sliver: SliverId,
    /// Its identity.
    pub uuid: DomainUuid,
    /// What it is started as, to be found again in the observation.
    pub boot: Digest,
    /// Virtual CPUs that it may use.
    pub vcpus: u32,
    /// Virtual CPUs that it is started for, at least `vcpus`: up to here it can be given more while it runs.
    pub vcpus_max: u32,
    /// Memory that it may use, in MiB.
    pub memory_mib: u64,
    /// Memory that it is started with, in MiB, at least `memory_mib`: up to here it can grow while it runs.
    pub memory_max_mib: u64,
    /// Its other limits, as far as the driver keeps them.
    pub limits: Limits,
    /// Kernel image on this node.
    pub kernel: PathBuf,
    /// Initramfs on this node.
    pub initramfs: PathBuf,
    /// Words of the kernel command line that the template and the sliver ask for; the driver adds what its own
    /// devices need (console, network, root).
    pub cmdline: Vec<String>,
    /// What it mounts, `/` first.
    pub mounts: Vec<GuestMount>,
    /// Ports to publish.
    pub publish: Vec<Publish>,
    /// Addresses that it has beside its private one.
    pub addresses: Vec<std::net::IpAddr>,
}

/// What can change about a domain while it runs. A driver carries out what it is able to
/// ([`Ability`](xeno_model::observed::Ability)) and passes over the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuning {
    /// Virtual CPUs that it may use; never more than it was started for.
    pub vcpus: u32,
    /// Memory that it may use, in MiB; never more than it was started with.
    pub memory_mib: u64,
    /// Its other limits.
    pub limits: Limits,
    /// All ports that are published for it; those it has beyond these are taken back.
    pub publish: Vec<Publish>,
}

impl Tuning {
    /// What a sliver should have.
    #[must_use]
    pub fn of(sliver: &DesiredSliver) -> Self {
        let resources = &sliver.resources;
        Self {
            vcpus: resources.vcpus,
            memory_mib: resources.memory.mib(),
            limits: Limits {
                cpu_weight: resources.cpu_weight,
                cpu_cap_percent: resources.cpu_cap_percent,
                net_rate: resources.net_rate,
            },
            publish: sliver.publish.clone(),
        }
    }
}

/// One mount of a guest, and where it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestMount {
    /// Absolute path in the guest.
    pub path: String,
    /// The path that MOUNT asks for, where the guest has a link of its own to the file server: `/web-0.0`.
    pub export: String,
    /// Unix socket on which its export is served to this guest alone.
    pub socket: PathBuf,
}

/// How a domain is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// How long it may take to stop by itself, in milliseconds; then it is destroyed.
    pub ms: u64,
}

/// One thing that a driver knows about its own soundness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverFact {
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// How it is.
    pub soundness: Soundness,
    /// What was found, and what to do where something can be done.
    pub text: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Soundness {
    /// As it should be.
    Good,
    /// Guests run, but something could be better.
    Fair,
    /// Guests cannot run.
    Bad,
}

/// Runs domains. Every call is idempotent: what is already so is success.
pub trait Hypervisor: Send + Sync {
    /// All domains: ours and strangers'. An error means "not seen", never "none".
    fn observe(&self) -> impl Future<Output = PortResult<Domains>> + Send;

    /// Starts a domain; returns once the hypervisor runs it (not once the guest has booted). Success if it runs
    /// already with this `boot`.
    fn boot(&self, spec: &DomainSpec) -> impl Future<Output = PortResult<()>> + Send;

    /// Stops the domain of a sliver: asks it, waits for `grace`, then destroys it. Returns once it is gone. Success
    /// if it is not there. Never touches a domain that is not ours.
    fn shutdown(&self, sliver: &SliverId, grace: Grace) -> impl Future<Output = PortResult<()>> + Send;

    /// Gives the running domain of a sliver other limits and ports, and returns once it has them.
    fn retune(&self, sliver: &SliverId, tuning: &Tuning) -> impl Future<Output = PortResult<()>> + Send;

    /// Takes all published ports from the domain of a sliver, which another replaces. Success if it has none, or is not
    /// there.
    fn unpublish(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Gives a domain that takes over from another what [`Hypervisor::retune`] gives, its ports above all.
    fn publish(&self, sliver: &SliverId, tuning: &Tuning) -> impl Future<Output = PortResult<()>> + Send;

    /// Stores the memory of the domain in an image and ends the domain. The image is complete and on stable storage
    /// before the domain is gone, and is observed only from then on. An image from before is replaced; while a domain is
    /// there, no image says anything about it. Success if there is no domain and an image.
    fn suspend(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Writes into the description of the image, durably, what the writable layers are like.
    fn seal_image(&self, sliver: &SliverId, mark: &Digest) -> impl Future<Output = PortResult<()>> + Send;

    /// Goes on from the sealed image: a domain with what `spec` says and the memory of the image. Returns once it runs.
    /// The image is taken away durably before the first instruction of the guest, so whatever fails, it is never resumed
    /// twice; what dies before that leaves the image, and what dies after it leaves a paused domain.
    /// Success if the domain runs already with this `boot`.
    fn resume(&self, spec: &DomainSpec) -> impl Future<Output = PortResult<()>> + Send;

    /// Deletes the image. Success if there is none.
    fn discard_image(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Lets a paused domain go on. Success if it runs.
    fn unpause(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Where the console of a sliver's domain is written, as a file that grows.
    fn console_log(&self, sliver: &SliverId) -> PathBuf;

    /// A stream to type into the console of a running domain, as a unix socket.
    fn console_socket(&self, sliver: &SliverId) -> PathBuf;

    /// What guests need here, and whether it is there. Changes nothing.
    fn facts(&self) -> impl Future<Output = Vec<DriverFact>> + Send;
}

/// Mounts directories of remote file systems. Every call is idempotent.
///
/// Nothing here waits for a server that does not answer longer than the implementation says: what hangs is told by
/// [`RemoteState::Silent`], and whatever else the node does goes on.
pub trait Remotes: Send + Sync {
    /// What is mounted of ours, and whether it answers. An error means "not seen", never "none". What somebody else has
    /// mounted is not among it.
    fn remotes(&self) -> impl Future<Output = PortResult<BTreeMap<Remote, RemoteState>>> + Send;

    /// Mounts a directory, and returns once its server has answered. Success if it is mounted and answers. What nobody
    /// uses any more is unmounted by the implementation in its own time: that takes nothing from anybody.
    fn mount_remote(&self, remote: &Remote) -> impl Future<Output = PortResult<()>> + Send;

    /// What mounting needs here, and whether it is there. Changes nothing.
    fn remote_facts(&self) -> impl Future<Output = Vec<DriverFact>> + Send;
}

/// One mount to be assembled and served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Absolute path in the guest.
    pub path: String,
    /// Layers, nearest the guest first.
    pub layers: Vec<LayerSource>,
    /// Whether writes go to a writable layer.
    pub writable: bool,
    /// Where that lies, if not on the node's own disk.
    pub place: Option<Place>,
    /// Most bytes the writable layer may hold.
    pub quota_bytes: Option<u64>,
    /// Most objects it may hold; `None`: as many as come with the bytes.
    pub quota_inodes: Option<u64>,
    /// Its share of the file server beside other busy guests: see [`share`].
    pub share: u32,
    /// Whether it is answered only under a lease, since others may take it over: see [`MoveLayers::answer_until`].
    pub leased: bool,
}

/// Most that the file server knows of a share.
const SHARE_MAX: u32 = 10_000;

/// A sliver's share of the file server beside other busy guests: the weight that it has for processors. A service that is
/// to come first does so in all that its node shares out, and nobody has a second number to keep in step.
#[must_use]
pub fn share(sliver: &DesiredSliver) -> u32 {
    sliver.resources.cpu_weight.clamp(1, SHARE_MAX)
}

impl MountSpec {
    /// All mounts of a sliver, in its order.
    #[must_use]
    pub fn of(sliver: &DesiredSliver) -> Vec<Self> {
        let layer = |layer: &LayerRef| match layer {
            LayerRef::Template(template) => LayerSource::Template(template.digest),
            LayerRef::Directory { path } => LayerSource::Directory(PathBuf::from(path)),
            LayerRef::Files { digest } => LayerSource::Files(*digest),
            LayerRef::Remote { url } => LayerSource::Remote(Remote::to_read(url)),
        };
        let mounts = sliver.mounts.iter().map(|mount| Self {
            path: mount.path.clone(),
            layers: mount.layers.iter().map(layer).collect(),
            writable: match mount.writable {
                WritableKind::Local | WritableKind::Memory | WritableKind::Remote { .. } => true,
                WritableKind::ReadOnly => false,
            },
            place: match &mount.writable {
                WritableKind::Remote { url } => Place::of(url),
                WritableKind::Local | WritableKind::Memory | WritableKind::ReadOnly => None,
            },
            quota_bytes: sliver.resources.disk.map(|disk| disk.0),
            quota_inodes: sliver.resources.inodes,
            share: share(sliver),
            leased: sliver.fails_over(),
        });
        mounts.collect()
    }
}

/// Where one layer comes from, on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerSource {
    /// A template in the node's store.
    Template(Digest),
    /// A directory of the node.
    Directory(PathBuf),
    /// A file set that has been made into a layer.
    Files(Digest),
    /// A directory of a remote file system.
    Remote(Remote),
}

/// Keeps templates, writable layers, stacks and exports, of which some lie in remote directories. Every call is
/// idempotent.
pub trait Storage: Remotes + Send + Sync {
    /// Storage of every sliver that has any. An error means "not seen", never "none"; what could not be looked at of one
    /// sliver only is unknown for that sliver.
    fn observe(&self) -> impl Future<Output = PortResult<BTreeMap<SliverId, Seen<ObservedStorage>>>> + Send;

    /// Templates that are here and whole.
    fn templates(&self) -> impl Future<Output = PortResult<BTreeSet<Digest>>> + Send;

    /// File sets that have been made into layers.
    fn file_layers(&self) -> impl Future<Output = PortResult<BTreeSet<Digest>>> + Send;

    /// Brings a template here from the first source that has it, and checks it.
    fn fetch_template(
        &self,
        digest: &Digest,
        sources: &[String],
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Makes a layer of files; `blobs` holds the content of those that lie in the repository, by blob id.
    fn import_files(
        &self,
        digest: &Digest,
        files: &FileSet,
        blobs: &BTreeMap<String, Vec<u8>>,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Opens the writable layers of a sliver's mounts under `epoch`, making them when missing.
    fn open_writable(
        &self,
        sliver: &SliverId,
        epoch: Epoch,
        mounts: &[MountSpec],
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Gives the writable layers, which are open under `epoch` (`None`: there are none) and may be in use, the limits of
    /// `mounts`, and what is served their share.
    fn limit(
        &self,
        sliver: &SliverId,
        epoch: Option<Epoch>,
        mounts: &[MountSpec],
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Makes checkpoints called `name` of all writable layers that the sliver has on disk, in use or not; those that are
    /// closed are opened under `epoch` for it, and closed again. Where `fresh`, ones of that name are replaced, otherwise
    /// they stay as they are. Before, those called as in `drops` are deleted, as far as they are there.
    fn checkpoint(
        &self,
        sliver: &SliverId,
        epoch: Epoch,
        name: &str,
        fresh: bool,
        drops: &BTreeSet<String>,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Has those writable layers that have a checkpoint `name` go back to it, and makes of each the checkpoint `done` then;
    /// success for one that has `done`. They are part of no stack; those that are closed are opened under `epoch` for it,
    /// and closed again.
    fn restore(
        &self,
        sliver: &SliverId,
        epoch: Epoch,
        name: &str,
        done: Option<&str>,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Assembles the stacks of a sliver's mounts; `stack` is what they will be observed as.
    fn stack(
        &self,
        sliver: &SliverId,
        stack: &Digest,
        mounts: &[MountSpec],
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Serves the stacks, each mount on a unix socket of its own; see [`Storage::guest_mounts`].
    fn export(&self, sliver: &SliverId, mounts: &[MountSpec]) -> impl Future<Output = PortResult<()>> + Send;

    /// Stops serving, closing connections.
    fn unexport(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Takes the stacks apart and closes the writable layers.
    fn close_writable(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Sets the writable layers aside.
    fn tombstone(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Takes the writable layers that were set aside last into use again, closed. Success if none are set aside and some
    /// are there.
    fn revive(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Makes the closed writable layers of `from` those of `to`, which has none, durably and at once. Success if `from`
    /// has none.
    fn adopt(&self, from: &SliverId, to: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Deletes the writable layers that were set aside.
    fn purge(&self, sliver: &SliverId) -> impl Future<Output = PortResult<()>> + Send;

    /// Where the exports of a sliver's mounts are served.
    fn guest_mounts(&self, sliver: &SliverId, mounts: &[MountSpec]) -> Vec<GuestMount>;

    /// Kernel, initramfs and command line words that a template boots with.
    fn boot_files(&self, template: &Digest) -> impl Future<Output = PortResult<BootFiles>> + Send;
}

/// What a template boots with, on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// Words for the kernel command line.
    pub cmdline: Vec<String>,
}
