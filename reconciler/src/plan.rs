//! A plan: an immutable graph of actions on a stated basis, and what it will cost.

mod actions;
mod cost;
mod next;
mod order;

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredNode, DesiredSliver};
use xeno_model::id::{Epoch, Generation, NodeName, Revision, SliverId, Timestamp};
use xeno_model::observed::{DomainState, HealthVerdict, ObservedNode, ObservedStorage, RemoteState};

use crate::action::{Action, ActionKey, Condition, Ingredients};
use crate::approval::Leave;
use crate::capacity;
use crate::change::{AppliedSliver, Change, Reason};
use crate::diff::study;
use crate::freeze::Freeze;
use crate::moving::Moving;
use crate::situation::mistuned;

use actions::Actions;

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
    /// The generation that was last carried through; 0: none yet.
    pub applied_generation: Generation,
    /// Whether `observed` was looked at or made up from the commit before.
    pub basis: Basis,
    /// Slivers removed within the delete budget's window so far.
    pub removed_recently: u32,
    /// How long a tombstone is kept, in milliseconds.
    pub tombstone_ms: u64,
    /// Slivers that are left alone, each with its reason: the last action failed and waits before the next try, something is
    /// under way, or the right to run it is not here.
    pub backing_off: &'a BTreeMap<SliverId, Reason>,
    /// The epochs under which this node has the right to run slivers, where a board says so.
    pub epochs: &'a BTreeMap<SliverId, Epoch>,
    /// When slivers were started again because they had ended by themselves, oldest first.
    pub restarts: &'a BTreeMap<SliverId, Vec<Timestamp>>,
    /// What is to be left alone.
    pub freezes: &'a [Freeze],
    /// How far services may be disturbed by what somebody asked for.
    pub leave: &'a Leave,
    /// Now.
    pub now: Timestamp,
}

impl<'a> PlanInput<'a> {
    /// Three sides and the time, and nothing else that could hold anything back: no removals, failures, restarts or
    /// freezes, on generation 0, with tombstones that are kept for a day.
    #[must_use]
    pub fn plain(
        desired: &'a DesiredNode,
        applied: &'a BTreeMap<SliverId, AppliedSliver>,
        observed: &'a ObservedNode,
        now: Timestamp,
    ) -> Self {
        Self {
            desired,
            applied,
            observed,
            generation: Generation(0),
            applied_generation: Generation(0),
            basis: Basis::Observed,
            removed_recently: 0,
            tombstone_ms: 86_400_000,
            backing_off: const { &BTreeMap::new() },
            epochs: const { &BTreeMap::new() },
            restarts: const { &BTreeMap::new() },
            freezes: &[],
            leave: const {
                &Leave {
                    from: None,
                    granted: BTreeMap::new(),
                }
            },
            now,
        }
    }
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
    /// What it will cost.
    pub cost: Cost,
}

/// What an action is predicted to cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that will be brought or written; `None` where nobody can know before it is done.
    pub bytes: Option<u64>,
    /// Memory of guests that it takes, or gives back where negative, in MiB.
    pub memory_mib: i64,
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
    /// The generation that was last carried through; 0: none yet.
    pub applied_generation: Generation,
    /// Where its observation comes from.
    pub basis: Basis,
    /// What happens to each sliver, by name; slivers that stay as they are included.
    pub changes: BTreeMap<SliverId, Change>,
    /// Slivers that go to or come from another node, where the plan leads from one commit to another; not among the changes.
    /// See [`moving`](crate::moving).
    pub moves: BTreeMap<SliverId, Moving>,
    /// The actions, in the order in which they are ranked.
    pub actions: Vec<PlannedAction>,
    /// Predicted memory of guests, in MiB: now and after; `None` where the domains could not be seen.
    pub memory_mib: Option<MemoryForecast>,
    /// The earliest moment at which time alone may change the plan: a window opens, a pause ends, something expires.
    pub next: Option<Timestamp>,
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

/// Why no plan could be made. Each is a mistake of the planner, not of the input: whatever the node looks like, slivers
/// that cannot be helped wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Actions wait for each other.
    #[error("order the plan: {} wait for each other", list(keys))]
    Cycle {
        /// All actions on the cycle.
        keys: Vec<ActionKey>,
    },
    /// An action needs what is not so and nothing provides.
    #[error("order the plan: {action} needs {condition}, which is not so and nothing provides")]
    Unmet {
        /// The action.
        action: ActionKey,
        /// What it needs.
        condition: Condition,
    },
    /// Two different actions have the same key.
    #[error("order the plan: two different actions are called {key}")]
    Ambiguous {
        /// The key.
        key: ActionKey,
    },
}

fn list(keys: &[ActionKey]) -> String {
    keys.iter()
        .map(ActionKey::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Makes the plan that carries a node from what is to what should be.
///
/// # Shape
/// Every need of an action is met by what was observed or by an action of the plan, which then comes before it. An
/// action that takes away what another needs comes after that one, or before what provides it anew. A boot whose memory
/// or ports are not free yet comes after the shutdowns that free them. The steps of one sliver never change places.
/// Actions iterate in an order that respects all of
/// this, and beyond it by rank, sliver and [`ActionKey`].
///
/// # Errors
/// [`PlanError::Cycle`] lists every action on the cycle; [`PlanError::Unmet`] names a need that nothing provides.
pub fn build(input: &PlanInput<'_>) -> Result<Plan, PlanError> {
    let studies = study(input);
    let mut actions = Actions::default();
    for (sliver, study) in &studies {
        actions.add_sliver(input, sliver, study)?;
    }
    actions.connect(input)?;
    actions.connect_claims(&capacity::claims(input, &studies));
    actions.connect_moves();
    actions.connect_berths(&studies);
    let memory_mib = capacity::forecast(input, &studies);
    let next = next::next(input, studies.values().map(|study| &study.change));
    let actions = order::in_order(actions.planned)?;
    Ok(Plan {
        node: input.desired.node.clone(),
        revision: input.desired.revision.clone(),
        generation: input.generation,
        applied_generation: input.applied_generation,
        basis: input.basis,
        changes: studies
            .into_iter()
            .map(|(sliver, study)| (sliver, study.change))
            .collect(),
        moves: BTreeMap::new(),
        actions,
        memory_mib,
        next,
    })
}

/// What brings here all that a sliver is made of, but for its writable layers. Each is done at once where it is here.
#[must_use]
pub fn ingredients(desired: &DesiredSliver) -> Vec<Action> {
    actions::ingredients(desired, &Ingredients::of(desired))
}

/// Whether an observation shows that `condition` holds. What could not be seen does not hold.
#[must_use]
pub fn holds(observed: &ObservedNode, condition: &Condition) -> bool {
    let nothing = ObservedStorage::default();
    let storage = |sliver: &SliverId, test: &dyn Fn(&ObservedStorage) -> bool| {
        let known = observed.storage_of(sliver);
        known.is_ok_and(|storage| test(storage.unwrap_or(&nothing)))
    };
    let domain = |sliver: &SliverId| observed.domains.known().map(|domains| domains.ours.get(sliver));
    let image = |sliver: &SliverId| observed.domains.known().map(|domains| domains.images.get(sliver));
    match condition {
        Condition::TemplatePresent(digest) => observed.templates.known().is_some_and(|t| t.contains(digest)),
        Condition::FilesPresent(digest) => observed.file_layers.known().is_some_and(|f| f.contains(digest)),
        Condition::RemoteMounted(remote) => {
            let known = observed.remotes.known();
            known.is_some_and(|remotes| remotes.get(remote) == Some(&RemoteState::Answers))
        }
        Condition::WritableOpen(sliver) => storage(sliver, &|s| s.open.is_some()),
        Condition::Limited(sliver, limits, share) => storage(sliver, &|s| {
            s.limits.iter().all(|limit| limit == limits) && s.shares.iter().all(|has| has == share)
        }),
        Condition::Checkpointed(sliver, name) => storage(sliver, &|s| s.checkpoints.contains_key(name)),
        Condition::Stacked(sliver, stack) => storage(sliver, &|s| s.stack == Some(*stack)),
        Condition::Exported(sliver, stack) => storage(sliver, &|s| s.exported && s.stack == Some(*stack)),
        Condition::Unexported(sliver) => storage(sliver, &|s| !s.exported),
        Condition::Released(sliver) => storage(sliver, &|s| s.open.is_none() && s.stack.is_none()),
        Condition::SetAside(sliver) => storage(sliver, &|s| s.tombstone.is_some()),
        Condition::Running(sliver) => {
            domain(sliver).is_some_and(|d| d.is_some_and(|d| d.state == DomainState::Running))
        }
        Condition::DomainGone(sliver) => domain(sliver).is_some_and(|d| d.is_none()),
        Condition::Tuned(sliver, tuning) => domain(sliver).flatten().is_some_and(|domain| {
            let able = observed.domains.known().map(|domains| &domains.able);
            able.is_some_and(|able| mistuned(domain, tuning, able).is_empty())
        }),
        Condition::ImageGone(sliver) => image(sliver).is_some_and(|image| image.is_none()),
        Condition::ImageStored(sliver) => image(sliver).flatten().is_some(),
        Condition::ImageSealed(sliver) => image(sliver).flatten().is_some_and(|image| {
            // Where it cannot be told what the layers hold, whoever resumes compares: a directory may have to be mounted
            // first.
            let disk = observed.storage_of(sliver).map(ObservedStorage::mark_of);
            image.mark.is_some() && disk.is_ok_and(|disk| disk.is_none() || image.mark == disk)
        }),
        Condition::Healthy(sliver) => observed.health.get(sliver) == Some(&HealthVerdict::Healthy),
    }
}

#[cfg(test)]
mod tests;
