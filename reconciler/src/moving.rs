//! Moves in the plans of single nodes: a sliver that two commits place on different nodes goes from the one to the other, with
//! what it wrote. Seen from one node alone it would be new there, and removed here.

pub mod order;

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredFleet, DesiredSliver, MigrationPolicy, SliverState};
use xeno_model::id::{NodeName, SliverId};

use crate::change::{ChangeClass, Disruption};
use crate::plan::Plan;

/// A sliver that goes from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Where it is.
    pub from: NodeName,
    /// Where it is to be.
    pub to: NodeName,
    /// How.
    pub how: How,
}

/// How a sliver goes to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It runs, and goes in the way that its slice asks for.
    Running(MigrationPolicy),
    /// It does not run: what it wrote goes.
    AtRest,
}

impl How {
    /// How a sliver goes that is the one before and the other after.
    #[must_use]
    pub fn of(was: &DesiredSliver, is: &DesiredSliver) -> Self {
        match (was.state, is.state) {
            (SliverState::Running, SliverState::Running) => Self::Running(is.migration.policy),
            _ => Self::AtRest,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running(policy) => policy.word(),
            Self::AtRest => "at rest",
        }
    }

    /// What it does to a service that is up.
    #[must_use]
    pub fn disruption(self) -> Disruption {
        match self {
            Self::Running(MigrationPolicy::Restart | MigrationPolicy::Suspend) => Disruption::Interrupts,
            Self::Running(MigrationPolicy::Live) | Self::AtRest => Disruption::None,
        }
    }
}

/// Where a commit places a sliver, and as what.
type Placed<'a> = Option<&'a (NodeName, DesiredSliver)>;

/// How a sliver goes from where one commit places it to where another does; `None`: it does not go.
#[must_use]
pub fn between(before: &DesiredFleet, after: &DesiredFleet, sliver: &SliverId) -> Option<Moving> {
    let place = |fleet| -> Placed<'_> { place(fleet, sliver) };
    let ((from, was), (to, is)) = (place(before)?, place(after)?);
    (from != to).then(|| Moving {
        from: from.clone(),
        to: to.clone(),
        how: How::of(was, is),
    })
}

fn place<'a>(fleet: &'a DesiredFleet, sliver: &SliverId) -> Placed<'a> {
    fleet.slices.get(&sliver.slice)?.slivers.get(&sliver.number)
}

/// Has plans that lead from one commit to another say of slivers that move that they do. What is done for them alone as if they
/// were new or removed is left out: the move does it in its own way. What is fetched for them stays.
pub fn tell(before: &DesiredFleet, after: &DesiredFleet, plans: &mut [Plan]) {
    for plan in plans {
        let comes_or_goes = |class| {
            matches!(
                class,
                ChangeClass::Create | ChangeClass::Remove | ChangeClass::Wait
            )
        };
        let changes = plan.changes.values().filter(|change| comes_or_goes(change.class));
        let moves: BTreeMap<SliverId, Moving> = changes
            .filter_map(|change| {
                let moving = between(before, after, &change.sliver)?;
                // One that cannot come yet says so. One that cannot be removed has not to be: it is handed over.
                let tells = change.class == ChangeClass::Create || moving.from == plan.node;
                tells.then(|| (change.sliver.clone(), moving))
            })
            .collect();
        if moves.is_empty() {
            continue;
        }
        plan.changes.retain(|sliver, _| !moves.contains_key(sliver));
        let mut left_out = BTreeSet::new();
        plan.actions.retain(|planned| {
            let of = planned.action.sliver().map(SliverId::itself);
            let stays = of.is_none_or(|sliver| !moves.contains_key(&sliver));
            if !stays {
                left_out.insert(planned.action.key());
            }
            stays
        });
        for planned in &mut plan.actions {
            planned.after.retain(|key| !left_out.contains(key));
        }
        plan.moves = moves;
    }
}
