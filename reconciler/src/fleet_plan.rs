//! What a commit does to a whole fleet, in one view: which slivers of each slice, in which wave and at which site, and what that
//! does to the service.
//!
//! The plans of the nodes say what happens where; what only shows in all of them is put together here: a sliver that leaves one
//! node and comes to be on another moves, and changes of a slice that a rollout carries out come wave by wave.

mod found;
mod json;
mod markdown;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{DesiredFleet, Matching, Rollout, Slice};
use xeno_model::id::{FleetName, NodeName, Revision, SiteName, SliceName, SliverId};
use xeno_model::normal::rollout_revision;

use crate::approval::threshold;
use crate::change::{Cause, Change, ChangeClass, Disruption};
use crate::moving::order::{Course, course, way_out};
use crate::moving::{self, How};
use crate::plan::{Basis, Plan};
use crate::report;
use crate::rollout::{Placed, RolloutKey, Waves};

pub use found::{Failed, Found, NodeSaid, RolloutSaid, Said, Unknown, commits, find};
pub use json::json;
pub use markdown::markdown;
pub use text::{summary, text};

/// The plan of a fleet.
#[derive(Clone, Debug)]
pub struct FleetPlan {
    /// The fleet.
    pub name: FleetName,
    /// The commit that all nodes are thought to have carried out; `None`: nothing runs anywhere.
    pub from: Option<Revision>,
    /// The commit.
    pub to: Revision,
    /// How many nodes there are.
    pub nodes: usize,
    /// Those of them on which something happens.
    pub touched: BTreeSet<NodeName>,
    /// Nodes without a sign of life, with what happens there all the same, once they are back.
    pub silent: BTreeSet<NodeName>,
    /// Slivers of which nobody knows what they are, and why not; the commit that is planned from stands in for them.
    pub unknown: BTreeMap<SliverId, Unknown>,
    /// Slivers that are not as they should be now, whatever is planned.
    pub failed: BTreeMap<SliverId, Failed>,
    /// The least disruption that waits until somebody approves it; `None`: nothing does.
    pub approval: Option<Disruption>,
    /// Whether all of it is assumed, or some of it was seen.
    pub basis: Basis,
    /// What happens to slices, by name; those that stay as they are left out.
    pub slices: BTreeMap<SliceName, SlicePlan>,
    /// How many slivers stay as they are.
    pub kept: usize,
    /// In which order slivers that move find room, and which of them never do.
    pub course: Course,
    /// An order in which those go too, one of them stopped meanwhile; `None`: there is none, or none is needed.
    pub way_out: Option<Course>,
}

/// What happens to a slice.
#[derive(Clone, Debug)]
pub struct SlicePlan {
    /// How many slivers it has afterwards.
    pub slivers: usize,
    /// Groups of slivers to which the same happens for the same reasons, what disturbs more first.
    pub groups: Vec<Group>,
}

/// What happens to a sliver, seen from the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// Something on its node.
    Change(ChangeClass),
    /// It goes to another node, in this way.
    Move(How),
}

/// Slivers of one slice to which the same happens, for the same reasons.
#[derive(Clone, Debug)]
pub struct Group {
    /// What.
    pub happening: Happening,
    /// Why, for people; what holds it up first.
    pub reasons: Vec<String>,
    /// How the rollout goes that brings it, where one does.
    pub rollout: Option<Rollout>,
    /// Slivers by wave, or all in the wave `None` where no rollout orders them.
    pub waves: BTreeMap<Option<Wave>, Vec<Affected>>,
}

/// A wave of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wave {
    /// Its number; 0 is the first.
    pub number: u32,
    /// Whether it is that of the canaries.
    pub canary: bool,
    /// Whom it takes, where the policy says that.
    pub of: Option<Matching>,
}

/// A sliver to which something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affected {
    /// Which.
    pub sliver: SliverId,
    /// Where it is afterwards, or was.
    pub node: NodeName,
    /// Where it comes from, if it moves.
    pub from: Option<NodeName>,
    /// The site of `node`, as far as any commit says.
    pub site: Option<SiteName>,
    /// Whether it is known what it is now.
    pub basis: Basis,
}

impl Happening {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Change(class) => class.word(),
            Self::Move(_) => "move",
        }
    }

    /// What it does to a service that is up.
    #[must_use]
    pub fn disruption(self) -> Disruption {
        match self {
            Self::Change(class) => class.disruption(),
            Self::Move(how) => how.disruption(),
        }
    }
}

/// A commit and what it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The commit.
    pub revision: &'a Revision,
    /// What it asks for.
    pub fleet: &'a DesiredFleet,
}

impl FleetPlan {
    /// Puts the plans of all nodes together. Where a board was asked, `found` is what it told, the plans lead from there, and `before`
    /// only names the commit that stands in for what is unknown.
    #[must_use]
    pub fn of(before: Option<Asked<'_>>, after: Asked<'_>, plans: &[Plan], found: Option<&Found>) -> Self {
        let old = found
            .map(|found| &found.fleet)
            .or(before.map(|before| before.fleet));
        let mut fleet = Self {
            name: after.fleet.name.clone(),
            from: before.map(|before| before.revision.clone()),
            to: after.revision.clone(),
            nodes: after.fleet.nodes.len(),
            touched: BTreeSet::new(),
            silent: found.map_or_else(BTreeSet::new, |found| found.silent.clone()),
            unknown: found.map_or_else(BTreeMap::new, |found| found.unknown.clone()),
            failed: found.map_or_else(BTreeMap::new, |found| found.failed.clone()),
            approval: after.fleet.approval.map(threshold),
            basis: if found.is_some() || plans.iter().any(|plan| plan.basis == Basis::Observed) {
                Basis::Observed
            } else {
                Basis::Assumed
            },
            slices: BTreeMap::new(),
            kept: 0,
            course: Course::default(),
            way_out: None,
        };
        if let Some(old) = old {
            fleet.course = course(old, after.fleet);
            fleet.way_out = way_out(old, after.fleet, &fleet.course);
        }
        let mut waves: BTreeMap<&SliceName, Option<Waves>> = BTreeMap::new();
        for plan in plans {
            for change in plan.changes.values() {
                if change.class == ChangeClass::Keep {
                    fleet.kept += 1;
                    continue;
                }
                fleet.touched.insert(plan.node.clone());
                let moves = old.and_then(|old| moving::between(old, after.fleet, &change.sliver));
                let (happening, from) = match moves {
                    // Told once, by the node it goes to.
                    Some(moving) if moving.from == plan.node => continue,
                    Some(moving) if change.class == ChangeClass::Create => {
                        (Happening::Move(moving.how), Some(moving.from))
                    }
                    Some(_) | None => (Happening::Change(change.class), None),
                };
                let slice = &change.sliver.slice;
                let ordered = waves
                    .entry(slice)
                    .or_insert_with(|| rolled_out(old, after, slice))
                    .as_ref()
                    .filter(|_| is_rolled_out(happening, change));
                fleet.add(after.fleet, old, plan, change, (happening, from), ordered);
            }
        }
        for (name, slice) in &mut fleet.slices {
            let held = found.and_then(|found| found.held.get(name));
            for group in slice.groups.iter_mut().filter(|group| group.rollout.is_some()) {
                let held = held.map(|held| format!("nothing of it begins: its rollout is {held}"));
                group.reasons.splice(0..0, held);
            }
            for affected in slice.groups.iter_mut().flat_map(|group| group.waves.values_mut()) {
                affected.sort_by(|a, b| a.sliver.cmp(&b.sliver));
            }
            slice.groups.sort_by(|a, b| {
                (b.happening.disruption(), a.happening).cmp(&(a.happening.disruption(), b.happening))
            });
        }
        fleet
    }

    /// Whether something waits until somebody approves it.
    #[must_use]
    pub fn needs_approval(&self, happening: Happening) -> bool {
        self.approval.is_some_and(|from| happening.disruption() >= from)
    }

    /// Whether nothing happens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    fn add(
        &mut self,
        after: &DesiredFleet,
        before: Option<&DesiredFleet>,
        plan: &Plan,
        change: &Change,
        (happening, from): (Happening, Option<NodeName>),
        waves: Option<&Waves>,
    ) {
        let name = &change.sliver.slice;
        let asked = after.slices.get(name);
        let slice = self.slices.entry(name.clone()).or_insert_with(|| SlicePlan {
            slivers: asked.map_or(0, |slice| slice.slivers.len()),
            groups: Vec::new(),
        });
        // Of a move, that it is new at one place and gone from the other is no reason.
        let reasons = if from.is_some() {
            Vec::new()
        } else {
            report::explain(change)
        };
        let rollout = waves
            .and_then(|_| asked?.slivers.get(&change.sliver.number))
            .map(|(_, sliver)| sliver.rollout.clone());
        let group = slice.groups.iter().position(|group| {
            (group.happening, &group.reasons, &group.rollout) == (happening, &reasons, &rollout)
        });
        let group = group.unwrap_or_else(|| {
            slice.groups.push(Group {
                happening,
                reasons,
                rollout,
                waves: BTreeMap::new(),
            });
            slice.groups.len() - 1
        });
        let wave = waves.and_then(|waves| {
            let number = waves.of(change.sliver.number, &BTreeSet::new())?;
            Some(Wave {
                number,
                canary: waves.is_of_canaries(number),
                of: waves.matching(number).cloned(),
            })
        });
        let site = [Some(after), before]
            .into_iter()
            .flatten()
            .find_map(|fleet| fleet.nodes.get(&plan.node))
            .map(|node| node.site.clone());
        slice.groups[group].waves.entry(wave).or_default().push(Affected {
            sliver: change.sliver.clone(),
            node: plan.node.clone(),
            from,
            site,
            basis: if self.basis == Basis::Observed && !self.unknown.contains_key(&change.sliver) {
                Basis::Observed
            } else {
                Basis::Assumed
            },
        });
    }
}

/// The waves in which a slice changes, if the commit has it roll out.
fn rolled_out(before: Option<&DesiredFleet>, after: Asked<'_>, slice: &SliceName) -> Option<Waves> {
    let (was, is) = (before?.slices.get(slice)?, after.fleet.slices.get(slice)?);
    let revision = |slice: &Slice| rollout_revision(slice.slivers.values().map(|(_, sliver)| sliver));
    let to = revision(is);
    if revision(was) == to {
        return None;
    }
    let key = RolloutKey {
        revision: to,
        commit: after.revision.clone(),
    };
    let whereabouts = after.fleet.whereabouts();
    let placed = is.slivers.iter().filter_map(|(number, (node, _))| {
        let (node, at) = (node.clone(), Arc::clone(whereabouts.get(node)?));
        Some((*number, Placed { node, at }))
    });
    let policy = &is.slivers.values().next()?.1.rollout;
    Some(Waves::new(policy, &placed.collect(), Waves::seed(&key)))
}

/// Whether it is one of the changes that wait for their turn in a rollout.
fn is_rolled_out(happening: Happening, change: &Change) -> bool {
    let class = match happening {
        Happening::Change(class) => class,
        Happening::Move(_) => return false,
    };
    change.cause == Cause::Change
        && matches!(
            class,
            ChangeClass::InPlace | ChangeClass::Replace | ChangeClass::Reboot
        )
}
