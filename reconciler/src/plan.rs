//! A plan: an immutable graph of actions on a stated basis, and what it will cost.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::DesiredNode;
use xeno_model::id::{Generation, NodeName, Revision, SliverId, Timestamp};
use xeno_model::observed::ObservedNode;

use crate::action::{Action, ActionKey};
use crate::change::{AppliedSliver, Change, Reason};

/// All that a plan is made from. Equal inputs give equal plans, byte for byte.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// What should be.
    pub desired: &'a DesiredNode,
    /// What was last carried through, by sliver.
    pub applied: &'a BTreeMap<SliverId, AppliedSliver>,
    /// What is.
    pub observed: &'a ObservedNode,
    /// The generation this plan would carry the node to.
    pub generation: Generation,
    /// Whether `observed` was looked at or made up from the commit before.
    pub basis: Basis,
    /// Slivers removed within the delete budget's window so far.
    pub removed_recently: u32,
    /// How long a tombstone is kept, in milliseconds.
    pub tombstone_ms: u64,
    /// Slivers whose last action failed and that wait before the next try, each with its reason.
    pub backing_off: &'a BTreeMap<SliverId, Reason>,
    /// Now.
    pub now: Timestamp,
}

/// Where the observation of a plan comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// A node looked at itself.
    Observed,
    /// Nobody looked: taken to be what an earlier commit asks for.
    Assumed,
}

/// One action in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedAction {
    /// What to do.
    pub action: Action,
    /// Actions that must have succeeded before.
    pub after: BTreeSet<ActionKey>,
    /// The slivers it is for; several may share a fetch.
    pub serves: BTreeSet<SliverId>,
}

/// What to do on one node, in an order that is safe, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which node.
    pub node: NodeName,
    /// The commit.
    pub revision: Revision,
    /// The generation it carries the node to.
    pub generation: Generation,
    /// Where its observation comes from.
    pub basis: Basis,
    /// What happens to each sliver, by name; slivers that stay as they are included.
    pub changes: BTreeMap<SliverId, Change>,
    /// The actions, in the order in which they are ranked.
    pub actions: Vec<PlannedAction>,
    /// Predicted memory of guests, in MiB: now and after.
    pub memory_mib: MemoryForecast,
}

/// Memory of a node's guests around a plan, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryForecast {
    /// For guests in all.
    pub capacity: u64,
    /// Held now, strangers included.
    pub now: u64,
    /// Held afterwards.
    pub after: u64,
}
