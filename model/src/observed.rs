//! What is: one snapshot of a node, as its drivers saw it.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Publish;
use crate::id::{Digest, DomainUuid, Epoch, NodeName, SliverId, Timestamp};
use crate::units::Bytes;

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
    /// Its slivers' storage, by sliver; only those that have any.
    pub storage: Seen<BTreeMap<SliverId, ObservedStorage>>,
    /// Templates whose content is here and whole.
    pub templates: Seen<BTreeSet<Digest>>,
    /// File sets of the repository that have been made into layers here.
    pub file_layers: Seen<BTreeSet<Digest>>,
    /// Verdicts of health checks; a sliver without one has not been asked yet.
    pub health: BTreeMap<SliverId, HealthVerdict>,
}

/// All domains of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    /// Those we made.
    pub ours: BTreeMap<SliverId, ObservedDomain>,
    /// Those somebody else made: shown, never touched, and their memory is never ours.
    pub strangers: Vec<Stranger>,
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
    /// Memory it holds, in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Ports published for it.
    pub publish: Vec<Publish>,
}

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DomainState {
    /// Runs.
    Running,
    /// Exists, does not run, can go on.
    Paused,
    /// Has been asked to stop and has not yet.
    Stopping,
    /// Has crashed; its memory may still be held.
    Crashed,
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
    /// What its open writable layers may hold each (`None`: no limit); empty where none is open.
    pub limits: BTreeSet<Option<Bytes>>,
    /// Which stacks are assembled, as `stack_digest` of the sliver they were made for.
    pub stack: Option<Digest>,
    /// Whether every mount is being served.
    pub exported: bool,
    /// Bytes its writable layers hold.
    pub bytes: u64,
    /// Set aside by a removal, at this time.
    pub tombstone: Option<Timestamp>,
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
