//! The right to run a sliver: who has it, and how it changes hands without there ever being two.
//!
//! A sliver has one [`Holder`] record on the fleet's board, changed only by compare-and-swap. Beside it a node knows what it
//! wrote down itself ([`Journal`]), what is left of the guest here ([`Guest`]), how its writable layers are served
//! ([`Disk`]), and the migration that is under way ([`Session`]). [`next()`] looks at all of it ([`View`]) and says the one
//! thing to do next, or why there is nothing to do. There is no other memory: after a crash the node looks again, and the
//! same function that carries a move forward finds the way out of what is left of one.
//!
//! # What keeps a sliver from running twice
//!
//! 1. A guest runs here only under an epoch for which the record names this node, and writable layers are opened under
//!    that epoch: what an earlier holder appends later does not count.
//! 2. A holder lets go in this order: the guest stands still where nothing but an order of this node can wake it, the
//!    file server has parked its calls and flushed, the journal says *offered*, the record changes. From *offered* on the guest
//!    wakes here only under a later epoch: a change of the record that was sent and not answered may still arrive, and only
//!    another change keeps it out.
//! 3. What takes over writes *began* into its journal before the guest's first instruction. Memory that was handed over is gone on
//!    with only by a holder that has not begun otherwise, so never over a disk that has changed since.
//! 4. A holder that others may replace (`failover`) answers its guest only while its lease lasts, by a clock that knows no
//!    jumps, and is replaced only once its lease is gone from the board *and* a fence is confirmed. That it may be replaced is in
//!    the record, said after it is bound by its lease and taken back before it is not: others may have read another commit.
//!
//! [`Sight`] makes a view of what was observed, [`leave()`] says what the planner may do meanwhile, [`Order`] whose turn it is where a
//! commit says so, and [`Host`] whether what is offered can be taken: agents and simulated nodes go by the same.
//!
//! `model.rs` beside this file plays every interleaving of two nodes, the board, storage, a link and a person through
//! [`next()`], with crashes, lost and late messages, and processes that stop between deciding and doing.

mod doing;
mod failover;
mod holding;
mod leave;
#[cfg(test)]
mod model;
mod next;
mod offer;
mod order;
mod sight;
#[cfg(test)]
mod tests;

pub use doing::{Warrant, close, serve};
pub use failover::Failover;
pub use leave::{Leave, is_the_planners, leave};
pub use next::next;
pub use offer::{Host, Offer, Taking};
pub use order::{Keeps, Order, seat};
pub use sight::{ANY_EPOCH, Facets, Sight, has_forgotten, place};

pub use xeno_model::id::MigrationId;
use xeno_model::id::{Epoch, NodeName};

/// Which life of a node's machine: its kernel's boot id (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub [u8; 16]);

/// Who has the right to run a sliver. One record a sliver on the board; it is never deleted while any writable layer of the
/// sliver can exist, since epochs must never come again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The node, or nobody: given up, or abandoned by a person.
    pub node: Option<NodeName>,
    /// The life of that node in which it took the right.
    pub boot: BootId,
    /// Grows with each change of hands.
    pub epoch: Epoch,
    /// The guest's memory, where the holder is to go on with it and has not yet said that it did.
    pub memory: Option<Memory>,
    /// Whether the holder answers its guest only while its lease lasts, so that others may take over. Said only once it is so, and
    /// so until nobody says it any more.
    pub failover: bool,
}

/// The memory of a guest that stands still while the right to run changes hands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    /// Which attempt to move it.
    pub migration: MigrationId,
    /// The epoch under which the guest last ran.
    pub epoch: Epoch,
    /// The node that keeps what the move started from.
    pub keeper: NodeName,
}

/// What a node has written down about a sliver, durably, before it did it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Journal {
    /// The last epoch under which the guest may have run here.
    pub began: Option<Epoch>,
    /// The last epoch that this node may have asked the board to give to another.
    pub offered: Option<Epoch>,
}

/// What a node knows of the record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// Nothing: the board has not been read since this agent started, or what became of a change is not known.
    Unknown,
    /// There is none.
    Absent,
    /// What was read last, or told by the holder that changed it.
    Is(Holder),
}

impl Record {
    /// Whether it is known that this node has the right.
    #[must_use]
    pub fn is_with(&self, node: &NodeName) -> bool {
        matches!(self, Self::Is(holder) if holder.is(node))
    }
}

/// What is left of a guest on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guest {
    /// Nothing.
    Absent,
    /// It runs, or is about to by itself.
    Running,
    /// It stands still after it ran here under `epoch`, or lies in an image of that epoch.
    Kept {
        /// Under which it ran.
        epoch: Epoch,
    },
    /// A copy that came from elsewhere and has not run.
    Copy {
        /// Which attempt brought it.
        migration: MigrationId,
    },
}

/// How the writable layers of a sliver are on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disk {
    /// Not open.
    Closed,
    /// Open under `epoch`, and answering.
    Serving {
        /// Under which they are open.
        epoch: Epoch,
    },
    /// Open under `epoch`; the lease ended under which it answered. Calls wait, but one may still be under way.
    Lapsed {
        /// Under which they are open.
        epoch: Epoch,
    },
    /// Open under `epoch`; calls wait, none is under way, and all that was answered is durable.
    Parked {
        /// Under which they are open.
        epoch: Epoch,
    },
}

/// Where intent, which lies in git, wants a sliver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On this node.
    Here,
    /// On another node.
    At(NodeName),
    /// On no node, or nobody knows.
    Nowhere,
}

/// One end of a migration under way, as the agent that drives it sees it. It dies with the agent or the link, and then what
/// is left of it is [`Guest::Kept`] or [`Guest::Copy`] without a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Session {
    /// The sliver leaves this node.
    Leaving {
        /// For which node.
        to: NodeName,
        /// The life of that node, as it said itself.
        boot: BootId,
        /// Which attempt.
        migration: MigrationId,
        /// How far it is.
        stage: Leaving,
        /// Whether the other end has all of the writable layers; true from the start where they are shared.
        travelled: bool,
        /// A person, a deadline or a newer commit wants it here after all.
        called_off: bool,
    },
    /// It arrives.
    Arriving {
        /// Which attempt.
        migration: MigrationId,
        /// Whether the copy is whole.
        whole: bool,
    },
}

/// How far a guest is on its way from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaving {
    /// Its memory goes over while it runs.
    Streaming,
    /// It stands still, and the copy is whole. The hypervisor wakes it here by itself if the agent dies.
    Held,
    /// The hypervisor has been told that the copy is whole, and has not answered.
    Asked,
    /// It wakes here only if this node says so. A sliver that leaves without memory is here from the start.
    Given,
    /// The other end has been told to run it.
    Passed,
}

/// What the board says of the node that holds a sliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rival {
    /// Whether its lease is there. Unknown counts as there.
    pub alive: bool,
    /// Whether a fence of it has been confirmed since it took the right.
    pub fenced: bool,
}

/// All that a decision about one sliver on one node rests on.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Its life.
    pub boot: BootId,
    /// Whether others may take the sliver over without this node, as far as it knows, or are to be able to: its calls are answered
    /// only under a lease.
    pub failover: bool,
    /// Whether others are to be able to: what the record is to say of it in the end. Never without `failover`.
    pub promise: bool,
    /// Whether this node's lease lasts, and the record was read since it began; only asked where `failover`.
    pub leased: bool,
    /// Where the sliver is wanted.
    pub place: Place,
    /// The record.
    pub record: Record,
    /// What this node wrote down.
    pub journal: Journal,
    /// The guest here.
    pub guest: Guest,
    /// The writable layers here.
    pub disk: Disk,
    /// The migration under way here.
    pub session: Option<Session>,
    /// What the board says of the node that the record names, or that keeps the memory it names.
    pub rival: Rival,
}

/// What to do next about a sliver on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Next {
    /// This, and then look again.
    Do(Step),
    /// It may run here under `epoch`: its layers are open, and the journal says so.
    Run {
        /// The epoch.
        epoch: Epoch,
    },
    /// Nothing, and why.
    Wait(Why),
}

/// One step. Each can be done again without harm, and may fail or succeed without saying so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Changes the record from what was read to this: refused where it has changed since.
    Swap {
        /// What it becomes.
        to: Holder,
        /// What this change means, and what else must hold for it.
        act: Act,
    },
    /// Writes this down, durably.
    Note(Journal),
    /// Opens the writable layers under `epoch`, replaying what is there, and answers. Where `failover`, only until the lease
    /// ends that the view was taken under: once it has ended calls wait, and only a new `Serve` changes that.
    Serve {
        /// The epoch.
        epoch: Epoch,
    },
    /// Lets calls wait, and makes durable all that was answered. Calls that still come are not carried out.
    Park,
    /// Closes the writable layers.
    Close,
    /// Sends what the other end lacks of the writable layers.
    Travel,
    /// Begins to send the sliver to `to`, which must be ready to receive it and have nothing of it.
    Depart {
        /// The node.
        to: NodeName,
    },
    /// Tells the hypervisor here that the copy is whole.
    PassReady,
    /// Tells the other end that it may run the copy, under the record `holder`.
    PassGo {
        /// The record.
        holder: Holder,
    },
    /// Ends the migration that is under way. A guest that has nothing offered may wake here by that; a copy is destroyed.
    CallOff,
    /// Ends this side of the migration that is under way. What stands still here goes on standing still.
    LetGo,
    /// Wakes the guest that stands still here.
    Wake,
    /// Lets the copy run.
    Clear,
    /// Destroys what there is of the guest here: it has no right to run, or what it remembers is not true any more.
    Destroy,
}

/// What a change of the record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Nobody has the right, or only an earlier life of this node: this node takes it.
    Claim,
    /// The right goes to the other end of a migration.
    HandOver,
    /// The right stays, under a later epoch: an offer that may be under way finds nothing to change any more.
    TakeBack,
    /// The right returns to the keeper of the memory, since the copy came to nothing.
    HandBack,
    /// The memory is gone on with, or will not be: whoever keeps it may forget it.
    Settle,
    /// The holder says that others may take over from now on, or may not.
    Promise,
    /// The right is taken from a holder that cannot have it any more. In the same transaction its lease must be absent.
    TakeOver,
}

/// Why nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// All is as it should be.
    Settled,
    /// Another node has the right.
    HeldBy(NodeName),
    /// Another node has the right, its lease has run out, and no fence is confirmed.
    Unfenced(NodeName),
    /// The other node has been given the right and has not said yet what became of the memory.
    Outcome(NodeName),
    /// The board has not answered, and without it nobody knows who has the right.
    Board,
    /// This node's lease has run out, and others may take over.
    Lease,
    /// A migration is under way; the other side's turn.
    Underway,
    /// Nobody has the right, and it is not wanted here.
    Vacant,
}

impl Holder {
    /// Whether `node` has the right.
    #[must_use]
    pub fn is(&self, node: &NodeName) -> bool {
        self.node.as_ref() == Some(node)
    }
}

/// The record once a person has declared its holder lost. `travels`: the writable layers lay on the holder's own disk, which is
/// lost with it; who kept the memory of a move to it has the layers of then, too, and goes on from there. Layers on shared
/// storage go to whoever claims them: what the holder still appends does not count, should it be alive after all.
#[must_use]
pub fn abandoned(holder: &Holder, travels: bool) -> Holder {
    let memory = holder.memory.as_ref();
    let kept = memory.filter(|memory| travels && !holder.is(&memory.keeper));
    Holder {
        node: kept.map(|memory| memory.keeper.clone()),
        boot: BootId::default(),
        epoch: after(holder.epoch),
        memory: kept.cloned(),
        // Whoever has it next says it anew.
        failover: false,
    }
}

/// The epoch after this one.
fn after(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 + 1)
}
