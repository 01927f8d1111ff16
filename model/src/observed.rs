//! What is: one snapshot of a node, as its drivers saw it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::desired::{Publish, Remote};
use crate::id::{Digest, DomainUuid, Epoch, MigrationId, NodeName, SliverId, Timestamp};
use crate::units::{BitRate, Bytes};

/// One facet of a node. An empty `Known` is a fact; `Unknown` is the lack of one and never leads to a destructive
/// action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// It was looked at, and this is what was there.
    Known(T),
    /// It could not be looked at.
    Unknown {
        /// Why not, in words that fit after "because".
        why: String,
    },
}

impl<T> Seen<T> {
    /// What was there, if it was looked at.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }
}

/// Snapshot of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedNode {
    /// Which node.
    pub node: NodeName,
    /// When.
    pub at: Timestamp,
    /// Its domains.
    pub domains: Seen<Domains>,
    /// Its slivers' storage, by sliver; only those that have any, or that could not be looked at. Each is seen or not by
    /// itself: what one of them lies on must hold up nobody else. Read it through [`Self::storage_of`].
    pub storage: Seen<BTreeMap<SliverId, Seen<ObservedStorage>>>,
    /// Templates whose content is here and whole.
    pub templates: Seen<BTreeSet<Digest>>,
    /// File sets of the repository that have been made into layers here.
    pub file_layers: Seen<BTreeSet<Digest>>,
    /// Directories of remote file systems that we have mounted here, and how they are.
    pub remotes: Seen<BTreeMap<Remote, RemoteState>>,
    /// Verdicts of health checks; a sliver without one has not been asked yet.
    pub health: BTreeMap<SliverId, HealthVerdict>,
}

impl ObservedNode {
    /// Storage of one sliver: `None` if it has none.
    ///
    /// # Errors
    /// Why it could not be looked at. Nothing may be taken for granted about it then, least of all that there is none.
    pub fn storage_of(&self, sliver: &SliverId) -> Result<Option<&ObservedStorage>, &str> {
        let all = match &self.storage {
            Seen::Known(all) => all,
            Seen::Unknown { why } => return Err(why),
        };
        match all.get(sliver) {
            None => Ok(None),
            Some(Seen::Known(storage)) => Ok(Some(storage)),
            Some(Seen::Unknown { why }) => Err(why),
        }
    }

    /// All storage that could be looked at.
    pub fn storage_seen(&self) -> impl Iterator<Item = (&SliverId, &ObservedStorage)> {
        let all = self.storage.known().into_iter().flatten();
        all.filter_map(|(sliver, storage)| Some((sliver, storage.known()?)))
    }
}

/// All domains of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    /// Those we made.
    pub ours: BTreeMap<SliverId, ObservedDomain>,
    /// Memory of domains that were suspended, stored whole. One that is still being written is not among them.
    pub images: BTreeMap<SliverId, ObservedImage>,
    /// What the driver can do here beyond starting and stopping. The planner asks for nothing else.
    pub able: BTreeSet<Ability>,
    /// Those somebody else made: shown, never touched, and their memory is never ours.
    pub strangers: Vec<Stranger>,
}

/// One thing that a driver may be able to do on a node, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// Changes how much memory a running domain may use, up to what it was started with.
    Memory,
    /// Gives a running domain more virtual CPUs, up to what it was started for, or takes some away.
    Vcpus,
    /// Publishes other ports for a running domain.
    Ports,
    /// Keeps the share of CPU time.
    CpuWeight,
    /// Keeps the most CPU time.
    CpuCap,
    /// Keeps the most network traffic.
    NetRate,
    /// Stores the memory of a domain in an image, and resumes it from there.
    Suspend,
    /// Sends the memory of a domain to another node, and receives it.
    Move,
}

/// Limits of a domain that can change while it runs, where the driver keeps them: which ones it does is said by
/// [`Ability`]; the others mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limits {
    /// Share of CPU time against others.
    pub cpu_weight: u32,
    /// Most CPU time, in percent of one CPU.
    pub cpu_cap_percent: Option<u32>,
    /// Most network traffic.
    pub net_rate: Option<BitRate>,
}

impl Default for Limits {
    /// What nobody limits.
    fn default() -> Self {
        Self {
            cpu_weight: 256,
            cpu_cap_percent: None,
            net_rate: None,
        }
    }
}

/// What a writable layer may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerLimits {
    /// Most bytes of what is written; `None`: no limit.
    pub bytes: Option<Bytes>,
    /// Most objects that are made or changed; `None`: as many as come with the bytes.
    pub inodes: Option<u64>,
}

impl fmt::Display for LayerLimits {
    /// `no limit`, `1GiB`, `1GiB and 5000 inodes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bytes, self.inodes) {
            (None, None) => f.write_str("no limit"),
            (Some(bytes), None) => write!(f, "{bytes}"),
            (None, Some(inodes)) => write!(f, "{inodes} inodes"),
            (Some(bytes), Some(inodes)) => write!(f, "{bytes} and {inodes} inodes"),
        }
    }
}

/// A domain that we made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDomain {
    /// Its identity.
    pub uuid: DomainUuid,
    /// What it does.
    pub state: DomainState,
    /// What it was started as (`boot_digest` of the sliver that was booted).
    pub booted: Digest,
    /// Memory it may use now, in MiB.
    pub memory_mib: u64,
    /// Memory it was started with, in MiB: up to here `memory_mib` can grow while it runs.
    pub memory_max_mib: u64,
    /// Virtual CPUs that it may use now.
    pub vcpus: u32,
    /// The limits it has now.
    pub limits: Limits,
    /// Ports published for it.
    pub publish: Vec<Publish>,
}

/// Memory of a suspended domain, stored on the node. It is complete and on stable storage, and it can be resumed once
/// at most: the driver takes it away before the first instruction of the resumed guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedImage {
    /// Identity of the domain.
    pub uuid: DomainUuid,
    /// What the domain was started as (`boot_digest`).
    pub boot: Digest,
    /// Memory that it could use, in MiB.
    pub memory_mib: u64,
    /// Memory that it was started with, in MiB.
    pub memory_max_mib: u64,
    /// Ports that were published for it.
    pub publish: Vec<Publish>,
    /// What the sliver's writable layers were like when it was suspended ([`ObservedStorage::mark_of`]); `None`: not
    /// sealed yet, so nobody can say whether they are still like that.
    pub mark: Option<Digest>,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was stored.
    pub at: Timestamp,
}

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DomainState {
    /// Runs.
    Running,
    /// Exists, does not run, can go on. One that is still being loaded from an image is not that but [`Self::Crashed`]:
    /// its image is still there.
    Paused,
    /// Has been asked to stop and has not yet.
    Stopping,
    /// Has crashed; its memory may still be held.
    Crashed,
    /// Stands still after its memory went to another node, and runs only if that is ordered: it ran under this epoch.
    Kept {
        /// Under which it ran.
        epoch: Epoch,
    },
    /// A copy of one that runs, or ran, on another node: it has not run, and has no ports. Also while it arrives.
    Copy {
        /// Which attempt brings it.
        migration: MigrationId,
    },
}

/// A domain that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stranger {
    /// As the hypervisor calls it.
    pub name: String,
    /// Memory it holds, in MiB.
    pub memory_mib: u64,
}

/// Storage of one sliver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedStorage {
    /// Whether writable layers of it lie on disk.
    pub on_disk: bool,
    /// Under which epoch its writable layers are open, all of them.
    pub open: Option<Epoch>,
    /// What its open writable layers may hold each; empty where none is open.
    pub limits: BTreeSet<LayerLimits>,
    /// The shares of the file server that its exports have; empty where nothing is served.
    pub shares: BTreeSet<u32>,
    /// Which stacks are assembled, as `stack_digest` of the sliver they were made for.
    pub stack: Option<Digest>,
    /// Whether every mount is being served.
    pub exported: bool,
    /// Whether the calls of its guest wait, and nothing is under way.
    pub parked: bool,
    /// Whether they are answered only under a lease.
    pub lease: Leasing,
    /// Bytes its writable layers hold.
    pub bytes: u64,
    /// Set aside by a removal, at this time.
    pub tombstone: Option<Timestamp>,
    /// Changes whenever anything in its writable layers does, and not when they are opened, closed or set aside;
    /// `None` where it could not be told.
    pub mark: Option<Digest>,
    /// Checkpoints of its writable layers, by name, whoever made them, and when.
    pub checkpoints: BTreeMap<String, Timestamp>,
}

impl ObservedStorage {
    /// What the writable layers of a sliver are like, to be compared with [`ObservedImage::mark`]: a sliver that has
    /// none is always the same.
    #[must_use]
    pub fn mark_of(storage: Option<&Self>) -> Option<Digest> {
        match storage {
            Some(storage) if storage.on_disk || storage.tombstone.is_some() => storage.mark,
            Some(_) | None => Some(Digest::of(b"no writable layer")),
        }
    }
}

/// Whether the calls of a guest are answered only while its node has a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leasing {
    /// They need none.
    #[default]
    Free,
    /// They are, and one lasts.
    Holds,
    /// They wait: none lasts under which they may be answered.
    Lapsed,
}

/// How a mounted remote directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteState {
    /// Its server answers.
    Answers,
    /// Its server does not: whoever reads from it waits, or is told of an error, as the node's configuration says.
    Silent {
        /// Since when, as far as is known.
        since: Timestamp,
        /// How that shows.
        why: String,
    },
}

/// Verdict of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthVerdict {
    /// Enough good answers in a row.
    Healthy,
    /// Not enough answers yet, or still in its grace.
    Starting,
    /// Enough bad answers in a row.
    Unhealthy {
        /// What the last one was.
        why: String,
    },
}
