//! What should be: the valid desired model, without positions, defaults filled in, references resolved.

mod address;
mod matching;
mod project;
mod remote;
mod service;
mod site;
mod tenant;
mod turns;

pub use address::{AddressRange, is_reachable};
pub use matching::{Matching, Whereabouts};
pub use project::{ByNode, Elsewhere};
pub use remote::{Access, Place, Remote};
pub use service::{
    CHECKPOINTS, Migration, MigrationPolicy, OnFailure, RollbackData, Rollout, Share, Start, Wave,
};
pub use site::{SiteCaps, SitePolicy, SiteRule, Vetoes, Weekday, Window, Windows};
pub use tenant::{NamePattern, Quota, Tenant};
pub use turns::{Seat, Stage, Transit, Turn, Turns, Wait};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::id::{
    Berth, ChannelName, Digest, DomainUuid, FleetName, NodeName, Revision, SiteName, SliceName, SliverId,
    TemplateName, TenantName, Timestamp,
};
use crate::observed::{LayerLimits, Stranger};
use crate::units::{BitRate, Bytes, Millis};

/// All that one commit asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFleet {
    /// The fleet's name.
    pub name: FleetName,
    /// How much may be removed at once.
    pub delete_budget: DeleteBudget,
    /// The least disturbance of a service that waits until a person approves it; `None`: none does.
    pub approval: Option<Disturbance>,
    /// Sites by name.
    pub sites: BTreeMap<SiteName, Site>,
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Those of them that get nothing new; what is there stays.
    pub cordoned: BTreeSet<NodeName>,
    /// Tenants by name.
    pub tenants: BTreeMap<TenantName, Tenant>,
    /// Templates by name.
    pub templates: BTreeMap<TemplateName, Template>,
    /// Slices by name. One that two commits have in common is one in memory.
    pub slices: BTreeMap<SliceName, Arc<Slice>>,
    /// Files that slices carry in the repository, by the digest their layers name.
    pub files: BTreeMap<Digest, FileSet>,
    /// In which order slivers go there.
    pub turns: Arc<Turns>,
    /// What they are on nodes that they come by.
    pub transit: Transit,
}

/// What a change does to a service that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    /// It is never away, but connections to it end.
    Reconnects,
    /// It is away for a short time.
    Interrupts,
    /// It is away for good.
    Ends,
}

/// How many slivers of a node may be removed within a window of time; what is above it waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteBudget {
    /// At most this many slivers ...
    pub slivers: u32,
    /// ... within this time.
    pub window: Millis,
}

impl Default for DeleteBudget {
    fn default() -> Self {
        Self {
            slivers: 2,
            window: Millis(3_600_000),
        }
    }
}

/// A place with nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Part of the world, for people and for matching.
    pub region: Option<String>,
    /// How long a packet takes to other sites and back, as far as anybody has said.
    pub distances: BTreeMap<SiteName, Millis>,
    /// What its owner allows there.
    pub policy: SitePolicy,
}

/// One machine with one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it stands.
    pub site: SiteName,
    /// Where others reach it: a host name or an IP address.
    pub address: Option<String>,
    /// For matching.
    pub labels: BTreeMap<String, String>,
    /// What runs its guests.
    pub hypervisor: HypervisorKind,
    /// Memory for guests: capacity less what is kept back.
    pub memory: Bytes,
    /// Virtual CPUs it offers; may be shared by more.
    pub vcpus: u32,
}

impl Standing {
    /// Memory that domains of strangers take from what the node has for guests, in MiB.
    ///
    /// On Xen all domains share the memory that is declared. A node with QEMU declares what it gives to Xenoslice, and
    /// whatever else the machine does, other people's virtual machines included, comes out of the rest.
    #[must_use]
    pub fn taken_by_strangers(&self, strangers: &[Stranger]) -> u64 {
        match self {
            Self::Named(Node {
                hypervisor: HypervisorKind::Qemu,
                ..
            }) => 0,
            Self::Named(Node {
                hypervisor: HypervisorKind::Xen,
                ..
            })
            | Self::NotNamed => strangers
                .iter()
                .fold(0, |sum, stranger| sum.saturating_add(stranger.memory_mib)),
        }
    }
}

/// What runs a node's guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HypervisorKind {
    /// Xen, by `xl`: production.
    Xen,
    /// QEMU without privileges: the embedded default.
    Qemu,
}

/// A published image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Channels and the digests they point at.
    pub channels: BTreeMap<ChannelName, Digest>,
    /// Where the content can be fetched, tried in order: URLs. Content is checked against its digest in any case.
    pub sources: Vec<String>,
}

/// One service, many places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its slivers by number; each on one node.
    pub slivers: BTreeMap<u32, (NodeName, DesiredSliver)>,
}

/// One sliver as it should be: the slice as it applies to one number on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredSliver {
    /// Which one.
    pub id: SliverId,
    /// Identity of its domain.
    pub uuid: DomainUuid,
    /// Template whose kernel and initramfs boot it.
    pub kernel: TemplateRef,
    /// Mounts, the first always `/`.
    pub mounts: Vec<Mount>,
    /// What it gets.
    pub resources: Resources,
    /// What it should be doing.
    pub state: SliverState,
    /// When it counts as healthy; `None`: as soon as it runs.
    pub health: Option<Health>,
    /// Ports of the guest that the node publishes.
    pub publish: Vec<Publish>,
    /// Addresses that it has beside its private one, and is reached at from outside.
    pub addresses: Vec<std::net::IpAddr>,
    /// Who owns it; `None`: whoever owns the fleet.
    pub tenant: Option<TenantName>,
    /// How it starts.
    pub start: Start,
    /// From then on it is stopped, and keeps its data.
    pub expires: Option<Timestamp>,
    /// Which sliver it was before its slice got another name: it takes over that one's writable layers.
    pub moved_from: Option<SliverId>,
    /// How its slice changes.
    pub rollout: Rollout,
    /// How it moves to another node.
    pub migration: Migration,
    /// Whether another node may take it over without the word of the one that runs it: see [`Self::fails_over`].
    pub failover: bool,
    /// What going back to an earlier revision does with what it has written.
    pub rollback: RollbackData,
    /// How many checkpoints are kept of those that are made before it boots as something else.
    pub checkpoints: u32,
}

impl DesiredSliver {
    /// Whether it writes to layers on the node's disk.
    #[must_use]
    pub fn writes(&self) -> bool {
        let mut mounts = self.mounts.iter();
        mounts.any(|mount| mount.writable == WritableKind::Local)
    }

    /// Whether another node may take it over: that is asked for, and nothing of it lies on the node's own disk. A sliver that waits
    /// for its turn in a rollout may still have layers there. One that is in its second berth keeps nothing, and goes home first.
    #[must_use]
    pub fn fails_over(&self) -> bool {
        self.failover && !self.writes() && self.id.berth() == Berth::First
    }

    /// Whether nothing that it writes outlives its domain: two of it at once can do each other no harm.
    #[must_use]
    pub fn keeps_nothing(&self) -> bool {
        !self.mounts.iter().any(|mount| mount.writable.is_kept())
    }
}

/// A template as a slice names it, resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateRef {
    /// The name in the repository.
    pub name: TemplateName,
    /// The channel it was found by; `None` where the digest was written out.
    pub channel: Option<ChannelName>,
    /// The content.
    pub digest: Digest,
    /// Where it can be fetched, in order.
    pub sources: Vec<String>,
}

/// One mount point of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the guest.
    pub path: String,
    /// Layers, nearest the guest first.
    pub layers: Vec<LayerRef>,
    /// What the guest's writes go to.
    pub writable: WritableKind,
}

/// One read-only layer of a mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerRef {
    /// A published image.
    Template(TemplateRef),
    /// A directory of the node, absolute.
    Directory {
        /// Path on the node.
        path: String,
    },
    /// Files carried in the repository: see [`DesiredFleet::files`].
    Files {
        /// Digest of the set.
        digest: Digest,
    },
    /// A directory of a remote file system.
    Remote {
        /// Where: `nfs://…` or `afs:…`.
        url: String,
    },
}

/// Where a mount's writes go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WritableKind {
    /// A writable layer on the node's disk.
    Local,
    /// None: the mount is read-only.
    ReadOnly,
    /// Memory of the node: gone when the guest stops.
    Memory,
    /// A writable layer on storage that outlives the node.
    Remote {
        /// Where, for this sliver alone: `nfs://…`, `afs:…` or `file:///…`.
        url: String,
    },
}

/// What a sliver gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Most virtual CPUs that it can be given while it runs; `None`: what it boots with.
    pub vcpus_max: Option<u32>,
    /// Memory.
    pub memory: Bytes,
    /// Most memory that it can be given while it runs; `None`: what it boots with.
    pub memory_max: Option<Bytes>,
    /// Share of CPU time against others; default 256.
    pub cpu_weight: u32,
    /// Most CPU time, in percent of one CPU.
    pub cpu_cap_percent: Option<u32>,
    /// Most bytes that each of its writable layers may hold.
    pub disk: Option<Bytes>,
    /// Most objects that each of its writable layers may hold; `None`: as many as come with `disk`.
    pub inodes: Option<u64>,
    /// Most network traffic.
    pub net_rate: Option<BitRate>,
}

impl Resources {
    /// Most virtual CPUs that it may come to have without a boot.
    #[must_use]
    pub fn vcpus_most(&self) -> u32 {
        self.vcpus_max.map_or(self.vcpus, |most| most.max(self.vcpus))
    }

    /// Most memory that it may come to hold without a boot.
    #[must_use]
    pub fn memory_most(&self) -> Bytes {
        self.memory_max.map_or(self.memory, |most| most.max(self.memory))
    }

    /// What each of its writable layers may hold.
    #[must_use]
    pub fn layer_limits(&self) -> LayerLimits {
        LayerLimits {
            bytes: self.disk,
            inodes: self.inodes,
        }
    }
}

/// What a sliver should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SliverState {
    /// Run.
    Running,
    /// Keep the memory in an image, no domain.
    Suspended,
    /// Keep the writable layer, no domain.
    Stopped,
}

/// When a sliver counts as healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// How often.
    pub interval: Millis,
    /// How many answers in a row change the verdict.
    pub threshold: u32,
    /// How long after a start an unhealthy answer means nothing yet.
    pub grace: Millis,
}

/// What a health check asks. Ports are the guest's and must be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP answer with this status.
    Http {
        /// Port in the guest.
        port: u16,
        /// Absolute path.
        path: String,
        /// Status code.
        expect: u16,
    },
    /// A TCP connection that the guest keeps open for a moment.
    Tcp {
        /// Port in the guest.
        port: u16,
    },
    /// A line on the console that contains this.
    Console {
        /// The text.
        marker: String,
    },
}

/// A port of the guest that the node publishes on its loopback or public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    /// Port in the guest, TCP.
    pub guest: u16,
    /// Port on the node: the manifest's plus the sliver's number.
    pub host: u16,
}

/// Files carried in the repository, as one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSet {
    /// By absolute path in the mount, without the leading `/`.
    pub files: BTreeMap<String, CarriedFile>,
}

/// One file carried in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedFile {
    /// Whether it may be executed (mode 0755, else 0644).
    pub executable: bool,
    /// Its content.
    pub content: CarriedContent,
}

/// Where the content of a carried file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarriedContent {
    /// In the manifest itself.
    Inline(String),
    /// In the repository, by git blob id (40 hexadecimal digits).
    Blob {
        /// The blob.
        id: String,
        /// Its length in bytes.
        size: u64,
    },
}

/// What one node should be doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredNode {
    /// Which node.
    pub node: NodeName,
    /// The fleet.
    pub fleet: FleetName,
    /// How many nodes the repository names.
    pub nodes: u32,
    /// The commit this was read from.
    pub revision: Revision,
    /// Whether the repository names the node at all.
    pub standing: Standing,
    /// How much may be removed at once.
    pub delete_budget: DeleteBudget,
    /// The least disturbance of a service that waits until a person approves it; `None`: none does.
    pub approval: Option<Disturbance>,
    /// What the owner of its site allows.
    pub site: SitePolicy,
    /// Its slivers.
    pub slivers: BTreeMap<SliverId, DesiredSliver>,
    /// Those of its slivers that the site does not run, and why not.
    pub ruled_out: BTreeMap<SliverId, SiteRule>,
    /// Slivers that the repository places on other nodes.
    pub elsewhere: Elsewhere,
    /// In which order slivers go where they are placed.
    pub turns: Arc<Turns>,
    /// What those are here that only come by.
    pub transit: BTreeMap<SliverId, DesiredSliver>,
    /// The slices that its slivers are of, all slivers included.
    pub slices: BTreeMap<SliceName, Arc<Slice>>,
    /// Where all nodes are.
    pub whereabouts: Arc<BTreeMap<NodeName, Arc<Whereabouts>>>,
    /// Files its slivers carry.
    pub files: BTreeMap<Digest, FileSet>,
}

impl DesiredNode {
    /// Identity of the domain of a sliver in one of its berths.
    #[must_use]
    pub fn uuid_of(&self, embodiment: &SliverId) -> Option<DomainUuid> {
        let desired = self.slivers.get(&embodiment.itself())?;
        Some(match embodiment.berth() {
            Berth::First => desired.uuid,
            Berth::Second => DomainUuid::of(&self.fleet, embodiment),
        })
    }

    /// A sliver as it should be in one of its berths: the same, under another name.
    #[must_use]
    pub fn embodied(&self, embodiment: &SliverId) -> Option<DesiredSliver> {
        let mut desired = self.slivers.get(&embodiment.itself())?.clone();
        desired.uuid = self.uuid_of(embodiment)?;
        desired.id = embodiment.clone();
        Some(desired)
    }
}

/// Whether the repository names a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does, as this.
    Named(Node),
    /// It does not: the node freezes, and removes nothing.
    NotNamed,
}

impl fmt::Display for TemplateRef {
    /// `debian-web/current`, or `debian-web@sha256:…` where the digest was written out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.channel {
            Some(channel) => write!(f, "{}/{channel}", self.name),
            None => write!(f, "{}@sha256:{}…", self.name, self.digest.short()),
        }
    }
}

impl fmt::Display for LayerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(template) => write!(f, "template {template}"),
            Self::Directory { path } => write!(f, "directory {path}"),
            Self::Files { digest } => write!(f, "files {}", digest.short()),
            Self::Remote { url } => write!(f, "remote {url}"),
        }
    }
}

impl WritableKind {
    /// Whether what is written there outlives the domain that wrote it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        match self {
            Self::Local | Self::Remote { .. } => true,
            Self::ReadOnly | Self::Memory => false,
        }
    }
}

impl fmt::Display for WritableKind {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Local => "local",
            Self::ReadOnly => "none",
            Self::Memory => "memory",
            Self::Remote { url } => url,
        })
    }
}

impl fmt::Display for SliverState {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for HypervisorKind {
    /// As manifests write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Xen => "xen",
            Self::Qemu => "qemu",
        })
    }
}
