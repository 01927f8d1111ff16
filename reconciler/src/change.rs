//! What differs, in which class, and why: all of it data, so that a plan can explain itself.

mod examples;
mod reason;

use xeno_model::id::SliverId;

pub use reason::{ImageMisfit, Reason};

/// What the last run that went through left behind: the third side of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedSliver {
    /// As it was desired then.
    pub desired: xeno_model::desired::DesiredSliver,
    /// Under which right to run its writable layers were opened.
    pub epoch: xeno_model::id::Epoch,
    /// Whether it has been carried through; `false`: begun, and something of it may exist.
    pub complete: bool,
    /// Since when this is so. It tells this state from every other that the sliver was carried to.
    pub at: xeno_model::id::Timestamp,
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
    /// It goes on from the image of its memory.
    Resume,
    /// Another domain starts beside its own and takes over once it is healthy; then its own ends.
    Replace,
    /// It stops and starts again, on the same writable layer.
    Reboot,
    /// It ends under this name, and another sliver goes on with its writable layer.
    HandOver,
    /// Its memory is stored in an image, and it stays away.
    Suspend,
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

/// What happens to one sliver, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which sliver.
    pub sliver: SliverId,
    /// What happens.
    pub class: ChangeClass,
    /// Who or what asked; [`Cause::Change`] where nothing happens.
    pub cause: Cause,
    /// Why; at least one unless the class is [`ChangeClass::Keep`], which has one only where the sliver is kept from
    /// what the repository asks for. Where it waits, what it waits for comes first, and
    /// after that what would be done.
    pub reasons: Vec<Reason>,
}

/// What a change does to a service that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disruption {
    /// Nothing that anybody could notice.
    None,
    /// It is never away, but connections to it end, and what it had in memory is gone.
    Reconnects,
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
            Self::Keep | Self::InPlace | Self::Create | Self::Start | Self::Resume | Self::Wait => {
                Disruption::None
            }
            Self::Replace => Disruption::Reconnects,
            Self::Reboot | Self::HandOver => Disruption::Interrupts,
            Self::Suspend | Self::Stop | Self::Remove => Disruption::Ends,
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
            Self::Resume => "resume",
            Self::Replace => "replace",
            Self::Reboot => "reboot",
            Self::HandOver => "hand over",
            Self::Suspend => "suspend",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::Purge => "purge",
            Self::Wait => "wait",
        }
    }
}
