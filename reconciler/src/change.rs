//! What differs, in which class, and why: all of it data, so that a plan can explain itself.

use xeno_model::id::{Digest, SliverId, Timestamp};

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The repository asks for it and it was never here.
    New,
    /// An earlier run began it and did not finish.
    Unfinished,
    /// The domain is not there though it should run.
    DomainMissing,
    /// The domain is there but does not run.
    DomainNotRunning,
    /// The domain was started as something else than was last applied.
    DomainForeignBoot {
        /// What it was started as.
        booted: Digest,
    },
    /// The stacks are not assembled or not served though a domain needs them.
    StorageMissing,
    /// The state asked for is `stopped` or `suspended`.
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
    },
}

/// What happens to one sliver, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which sliver.
    pub sliver: SliverId,
    /// What happens.
    pub class: ChangeClass,
    /// Who or what asked.
    pub cause: Cause,
    /// Why; at least one unless the class is [`ChangeClass::Keep`].
    pub reasons: Vec<Reason>,
}
