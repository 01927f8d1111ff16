//! What differs, in which class, and why: all of it data, so that a plan can explain itself.

use xeno_model::desired::HypervisorKind;
use xeno_model::id::{Digest, SliverId, Timestamp};
use xeno_model::normal::Difference;
use xeno_model::observed::DomainState;
use xeno_model::units::Bytes;

use crate::ports::Retry;

/// What the last run that went through left behind: the third side of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedSliver {
    /// As it was desired then.
    pub desired: xeno_model::desired::DesiredSliver,
    /// Under which right to run its writable layers were opened.
    pub epoch: xeno_model::id::Epoch,
    /// Whether it has been carried through; `false`: begun, and something of it may exist.
    pub complete: bool,
}

/// What happens to one sliver. The order is that of how much it disturbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeClass {
    /// Nothing.
    Keep,
    /// Something about it, while it runs.
    InPlace,
    /// It comes to be.
    Create,
    /// Its domain is missing and is started.
    Start,
    /// It stops and starts again, on the same writable layer.
    Reboot,
    /// It stops and stays stopped.
    Stop,
    /// It goes away.
    Remove,
    /// What a removal kept is deleted.
    Purge,
    /// Nothing yet: it waits for something.
    Wait,
}

/// Whether someone asked for it, or something came apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Desired differs from applied: somebody changed the repository.
    Change,
    /// Applied differs from observed: something happened to the node.
    Drift,
    /// Time has come for something decided earlier.
    Schedule,
}

/// Why a change happens or waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The repository asks for it and it was never here.
    New,
    /// The repository asks for something else than was last applied.
    Differs(Difference),
    /// It was removed before, and what the removal kept is taken into use again.
    Revived {
        /// When it was set aside.
        since: Timestamp,
    },
    /// An earlier run began it and did not finish.
    Unfinished,
    /// The domain is not there though it should run.
    DomainMissing,
    /// The domain is there but does not run.
    DomainNotRunning {
        /// What it does instead.
        state: DomainState,
    },
    /// The domain was started as something else than was last applied.
    DomainForeignBoot {
        /// What it was started as.
        booted: Digest,
    },
    /// The stacks are not assembled or not served though a domain needs them.
    StorageMissing,
    /// The stacks assembled for it are not those that its domain was started on.
    StackForeign {
        /// What is assembled.
        stack: Digest,
    },
    /// Its writable layers are limited to something else than was last applied.
    LimitForeign {
        /// What they may hold; `None`: no limit.
        limit: Option<Bytes>,
    },
    /// Something of it runs or is served although it was stopped.
    NotStopped,
    /// The state asked for is `stopped`.
    StateStopped,
    /// The repository names it no more.
    NotDesired,
    /// The repository places it on another node.
    PlacedElsewhere,
    /// What a removal set aside has been kept long enough.
    TombstoneExpired {
        /// When it was set aside.
        since: Timestamp,
    },
    /// To be known: limits that it asks for, and that the node's hypervisor does not keep.
    NotEnforced {
        /// Which, as people know them.
        limits: Vec<String>,
        /// The hypervisor.
        by: HypervisorKind,
    },
    /// Waits: it could not be seen.
    Blind {
        /// Which facet.
        facet: &'static str,
        /// Why not.
        why: String,
    },
    /// Waits: removing it would go beyond the delete budget.
    DeleteBudget {
        /// Removals that the budget allows in its window.
        allowed: u32,
        /// Removals within the window so far.
        used: u32,
        /// Removals that this commit asks for.
        asked: u32,
    },
    /// Waits: the repository does not name this node.
    NodeNotNamed,
    /// Waits: the commit asks for no sliver at all, on no node. Nothing is removed on the word of an empty commit.
    NothingDesired,
    /// Waits: the node has not the memory for it.
    NoRoom {
        /// What it needs, in MiB.
        needed: u64,
        /// What will be free for it, in MiB.
        free: u64,
        /// What the node has for guests, in MiB.
        capacity: u64,
    },
    /// Waits: a port that it publishes is held by a domain that stays.
    PortTaken {
        /// The port on the node.
        port: u16,
        /// Who holds it.
        by: SliverId,
    },
    /// Waits: what it asks for cannot be done on this node.
    NotSupported {
        /// What.
        what: String,
    },
    /// Waits: an action failed, and is tried again later.
    BackingOff {
        /// The action.
        action: super::action::ActionKey,
        /// What went wrong.
        why: String,
        /// Not before this.
        until: Timestamp,
        /// Whether that can help by itself.
        retry: Retry,
    },
}

/// What happens to one sliver, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which sliver.
    pub sliver: SliverId,
    /// What happens.
    pub class: ChangeClass,
    /// Who or what asked; [`Cause::Change`] where nothing happens.
    pub cause: Cause,
    /// Why; at least one unless the class is [`ChangeClass::Keep`]. Where it waits, what it waits for comes first, and
    /// after that what would be done.
    pub reasons: Vec<Reason>,
}

/// What a change does to a service that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disruption {
    /// Nothing that anybody could notice.
    None,
    /// It is away for a short time, and comes back with what it wrote.
    Interrupts,
    /// It is away for good; what it wrote is kept.
    Ends,
    /// What it wrote is gone.
    Destroys,
}

impl ChangeClass {
    /// What it does to a service that is up.
    #[must_use]
    pub fn disruption(self) -> Disruption {
        match self {
            Self::Keep | Self::InPlace | Self::Create | Self::Start | Self::Wait => Disruption::None,
            Self::Reboot => Disruption::Interrupts,
            Self::Stop | Self::Remove => Disruption::Ends,
            Self::Purge => Disruption::Destroys,
        }
    }

    /// The word for it, as people and JSON read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::InPlace => "in place",
            Self::Create => "create",
            Self::Start => "start",
            Self::Reboot => "reboot",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::Purge => "purge",
            Self::Wait => "wait",
        }
    }
}

impl Reason {
    /// A word for programs, as in JSON: it stays the same when the sentence is put in better words.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Differs(_) => "differs",
            Self::Revived { .. } => "revived",
            Self::Unfinished => "unfinished",
            Self::DomainMissing => "domainMissing",
            Self::DomainNotRunning { .. } => "domainNotRunning",
            Self::DomainForeignBoot { .. } => "domainForeignBoot",
            Self::StorageMissing => "storageMissing",
            Self::StackForeign { .. } => "stackForeign",
            Self::LimitForeign { .. } => "limitForeign",
            Self::NotStopped => "notStopped",
            Self::StateStopped => "stateStopped",
            Self::NotDesired => "notDesired",
            Self::PlacedElsewhere => "placedElsewhere",
            Self::TombstoneExpired { .. } => "tombstoneExpired",
            Self::NotEnforced { .. } => "notEnforced",
            Self::Blind { .. } => "blind",
            Self::DeleteBudget { .. } => "deleteBudget",
            Self::NodeNotNamed => "nodeNotNamed",
            Self::NothingDesired => "nothingDesired",
            Self::NoRoom { .. } => "noRoom",
            Self::PortTaken { .. } => "portTaken",
            Self::NotSupported { .. } => "notSupported",
            Self::BackingOff { .. } => "backingOff",
        }
    }

    /// Whether it is what a sliver waits for, rather than why something happens.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Blind { .. }
            | Self::DeleteBudget { .. }
            | Self::NodeNotNamed
            | Self::NothingDesired
            | Self::NoRoom { .. }
            | Self::PortTaken { .. }
            | Self::NotSupported { .. }
            | Self::BackingOff { .. } => true,
            Self::New
            | Self::Differs(_)
            | Self::Revived { .. }
            | Self::Unfinished
            | Self::DomainMissing
            | Self::DomainNotRunning { .. }
            | Self::DomainForeignBoot { .. }
            | Self::StorageMissing
            | Self::StackForeign { .. }
            | Self::LimitForeign { .. }
            | Self::NotStopped
            | Self::StateStopped
            | Self::NotDesired
            | Self::PlacedElsewhere
            | Self::TombstoneExpired { .. }
            | Self::NotEnforced { .. } => false,
        }
    }
}
