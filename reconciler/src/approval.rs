//! Changes that wait until a person approves them, where a fleet asks for that.
//!
//! An approval binds by what it grants and not by a commit: this sliver may go from this to that, and disturb its service at
//! most so. So a later commit that asks for something else finds nothing granted, and the same change asked for by another commit
//! needs no second word. What is not granted is left out of what is desired ([`keep`]): such a sliver is kept, and repaired, as
//! what was last carried through, or what its rollout goes back to. What the planner finds on the node itself it holds to the
//! same ([`Leave`]), and [`check`](mod@crate::check) to that.
//!
//! Nothing waits for approval that mends what came apart, that the owner of a site or the end of a sliver's time asks for, that is
//! new, or that goes back to what was good.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredNode, DesiredSliver, Disturbance, Windows};
use xeno_model::id::{Digest, SliverId, Timestamp};
use xeno_model::normal::{held_back, rollout_digest, slice_revision};

use crate::assume;
use crate::change::{AppliedSliver, Cause, Change, ChangeClass, Disruption, Reason};
use crate::diff::diff;
use crate::effective::effective;
use crate::moving::How;
use crate::plan::{Plan, PlanInput};

/// Stands for what a sliver is of which nothing is written down, as after the loss of a node's state.
const NOT_KNOWN: Digest = Digest([0; 32]);

/// A change that needs approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// What the sliver is: [`slice_revision`].
    pub from: Digest,
    /// What it is to be; `None`: not there.
    pub to: Option<Digest>,
    /// What that does to its service.
    pub disruption: Disruption,
}

/// What somebody approved: the sliver may go from this to that, and disturb its service at most so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant(pub Ask);

impl Grant {
    /// Whether it allows a change.
    #[must_use]
    pub fn covers(&self, ask: &Ask) -> bool {
        self.0.from == ask.from && self.0.to == ask.to && ask.disruption <= self.0.disruption
    }
}

/// How much each sliver's service may be disturbed by what somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leave {
    /// The least that needs leave; `None`: nothing does.
    pub from: Option<Disruption>,
    /// How far slivers have it.
    pub granted: BTreeMap<SliverId, Disruption>,
}

impl Leave {
    /// Whether a change that was asked for may be made.
    #[must_use]
    pub fn allows(&self, change: &Change) -> bool {
        let disruption = change.class.disruption();
        let needs = change.cause == Cause::Change && self.from.is_some_and(|from| disruption >= from);
        let granted = self.granted.get(&change.sliver);
        !needs || granted.is_some_and(|most| disruption <= *most)
    }
}

/// What is desired for now, and what waits for approval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What is desired without what is not granted; `None`: all is.
    pub desired: Option<DesiredNode>,
    /// What waits.
    pub asks: BTreeMap<SliverId, Ask>,
    /// Those of it that their rollouts have let change: approved once, and not any more, as when a later commit came or a change
    /// turned out to disturb more. They serve on as they were, and are no less on their way.
    pub turns: BTreeSet<SliverId>,
    /// What may be done to the others.
    pub leave: Leave,
}

/// The least disruption that needs approval.
#[must_use]
pub fn threshold(disturbance: Disturbance) -> Disruption {
    match disturbance {
        Disturbance::Reconnects => Disruption::Reconnects,
        Disturbance::Interrupts => Disruption::Interrupts,
        Disturbance::Ends => Disruption::Ends,
    }
}

/// Leaves out of what is desired what is not granted. `goes_back`: what slivers are to be again whose rollouts go back.
#[must_use]
pub fn keep(
    desired: &DesiredNode,
    applied: &BTreeMap<SliverId, AppliedSliver>,
    goes_back: &BTreeMap<SliverId, DesiredSliver>,
    grants: &BTreeMap<SliverId, Grant>,
    now: Timestamp,
) -> Kept {
    let Some(from) = desired.approval.map(threshold) else {
        return Kept::default();
    };
    let bases: BTreeMap<SliverId, DesiredSliver> = applied
        .iter()
        .map(|(sliver, applied)| {
            let good = goes_back.get(sliver);
            let base = good.map_or_else(
                || applied.desired.clone(),
                |good| held_back(good, &applied.desired),
            );
            (sliver.clone(), base)
        })
        .collect();
    let disruptions = disruptions(desired, &bases, now);
    let mut kept = Kept {
        leave: Leave {
            from: Some(from),
            granted: BTreeMap::new(),
        },
        ..Kept::default()
    };
    for (sliver, base) in &bases {
        let Some(disruption) = disruptions.get(sliver) else {
            // Going on with what it was, or back to what was good, is repair.
            kept.leave.granted.insert(sliver.clone(), Disruption::Destroys);
            continue;
        };
        let to = desired.slivers.get(sliver).map(slice_revision);
        let ask = Ask {
            from: slice_revision(base),
            to,
            disruption: *disruption,
        };
        match grants.get(sliver).filter(|grant| grant.covers(&ask)) {
            Some(grant) => drop(kept.leave.granted.insert(sliver.clone(), grant.0.disruption)),
            None if ask.disruption >= from => {
                if has_turn(base, desired.slivers.get(sliver)) {
                    kept.turns.insert(sliver.clone());
                }
                kept.asks.insert(sliver.clone(), ask);
                kept.leave.granted.insert(sliver.clone(), Disruption::Destroys);
            }
            None => {}
        }
    }
    for (sliver, wanted) in desired
        .slivers
        .iter()
        .filter(|(sliver, _)| !bases.contains_key(*sliver))
    {
        let grant = grants.get(sliver);
        let grant =
            grant.filter(|grant| grant.0.from == NOT_KNOWN && grant.0.to == Some(slice_revision(wanted)));
        kept.leave
            .granted
            .extend(grant.map(|grant| (sliver.clone(), grant.0.disruption)));
    }
    if !kept.asks.is_empty() {
        kept.desired = Some(without(desired, &bases, &kept.asks));
    }
    kept
}

/// Whether something waits that a rollout has to let change, and has.
fn has_turn(base: &DesiredSliver, wanted: Option<&DesiredSliver>) -> bool {
    wanted.is_some_and(|wanted| rollout_digest(wanted) != rollout_digest(base))
}

/// What is desired, with these slivers as they were.
fn without(
    desired: &DesiredNode,
    bases: &BTreeMap<SliverId, DesiredSliver>,
    asks: &BTreeMap<SliverId, Ask>,
) -> DesiredNode {
    let mut without = desired.clone();
    for (sliver, base) in bases.iter().filter(|(sliver, _)| asks.contains_key(*sliver)) {
        // Whoever is to go on with what it wrote comes after it.
        without
            .slivers
            .retain(|heir, wanted| wanted.moved_from.as_ref() != Some(sliver) || bases.contains_key(heir));
        without.elsewhere.welcome(sliver.clone());
        without.slivers.insert(sliver.clone(), base.clone());
    }
    without
}

/// What is done to the services of slivers by what is asked for, on a node that is as it was asked to be and has nothing in its way.
/// Slivers that stay what they are, or that the owner of the site or their own end keeps down, have no entry.
fn disruptions(
    desired: &DesiredNode,
    bases: &BTreeMap<SliverId, DesiredSliver>,
    now: Timestamp,
) -> BTreeMap<SliverId, Disruption> {
    let mut calm = desired.clone();
    calm.site.windows = Windows::default();
    calm.delete_budget.slivers = u32::MAX;
    let before = DesiredNode {
        slivers: bases.clone(),
        ..calm.clone()
    };
    let (observed, applied) = assume::observed_from(&before, now);
    let changes = diff(&PlanInput::plain(&calm, &applied, &observed, now));
    let of = |(sliver, base): (&SliverId, &DesiredSliver)| {
        let wanted = desired.slivers.get(sliver);
        if wanted.is_some_and(|wanted| slice_revision(wanted) == slice_revision(base)) {
            return None;
        }
        if wanted.is_some_and(|wanted| effective(desired, wanted, now).1.is_some()) {
            return None;
        }
        let disruption = match changes.get(sliver) {
            _ if wanted.is_none() && desired.elsewhere.contains(sliver) => How::of(base, base).disruption(),
            // It cannot be done. Should it become possible, the plan shows how, and is held to what is granted.
            Some(change) if change.class == ChangeClass::Wait => Disruption::None,
            Some(change) => change.class.disruption(),
            None => Disruption::None,
        };
        Some((sliver.clone(), disruption))
    };
    bases.iter().filter_map(of).collect()
}

impl Kept {
    /// Has a plan say of slivers that are kept as they were what they wait for, and asks for what it holds up by itself.
    pub fn tell(&mut self, plan: &mut Plan, input: &PlanInput<'_>) {
        for (sliver, ask) in &self.asks {
            if let Some(change) = plan.changes.get_mut(sliver) {
                if change.class == ChangeClass::Keep {
                    change.class = ChangeClass::Wait;
                }
                change.reasons.push(ask.reason());
            }
        }
        let held = plan.changes.values().filter_map(|change| {
            let disruption = change.reasons.iter().find_map(Reason::unapproved)?;
            let applied = input.applied.get(&change.sliver);
            let from = applied.map_or(NOT_KNOWN, |applied| slice_revision(&applied.desired));
            let wanted = input.desired.slivers.get(&change.sliver);
            let ask = Ask {
                from,
                to: wanted.map(slice_revision),
                disruption,
            };
            let turn = applied.is_some_and(|applied| has_turn(&applied.desired, wanted));
            Some((change.sliver.clone(), ask, turn))
        });
        let held: Vec<_> = held
            .filter(|(sliver, ..)| !self.asks.contains_key(sliver))
            .collect();
        for (sliver, ask, turn) in held {
            if turn {
                self.turns.insert(sliver.clone());
            }
            self.asks.insert(sliver, ask);
        }
    }
}

impl Ask {
    /// Why a change waits that nobody has approved.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::Unapproved {
            disruption: self.disruption,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::check::check;
    use crate::plan::build;
    use crate::properties::{sides, surroundings, world};
    use crate::render;
    use crate::testing::{World, id, sliver};

    /// A node that runs web/0 and db/0, of which web/0 is asked to boot as something else and db/0 is not desired any more.
    fn asked() -> World {
        let mut world = World::wanting([sliver("web/0"), sliver("db/0"), sliver("api/0")]).settle();
        world.want("web/0").resources.vcpus = 2;
        world.unwant("db/0");
        world.desired.approval = Some(Disturbance::Interrupts);
        world
    }

    /// What is kept, and the plan with it.
    fn plan(world: &World, grants: &BTreeMap<SliverId, Grant>) -> (Kept, Plan) {
        let now = Timestamp(world.now);
        let mut kept = keep(&world.desired, &world.applied, &BTreeMap::new(), grants, now);
        let desired = kept.desired.clone().unwrap_or_else(|| world.desired.clone());
        let leave = kept.leave.clone();
        let input = PlanInput {
            desired: &desired,
            leave: &leave,
            ..world.input()
        };
        let mut plan = build(&input).unwrap();
        let text = render::text(&plan, render::Colour::Plain);
        assert_eq!(check(&plan, &input), [], "{text}");
        kept.tell(&mut plan, &input);
        (kept, plan)
    }

    fn granted(kept: &Kept) -> BTreeMap<SliverId, Grant> {
        let asks = kept.asks.iter();
        asks.map(|(sliver, ask)| (sliver.clone(), Grant(*ask))).collect()
    }

    #[test]
    fn what_disturbs_waits_and_what_is_granted_happens() {
        let world = asked();
        let (kept, waits) = plan(&world, &BTreeMap::new());
        assert!(waits.actions.is_empty(), "{waits:#?}");
        for sliver in ["web/0", "db/0"] {
            let change = &waits.changes[&id(sliver)];
            assert_eq!(change.class, ChangeClass::Wait);
            assert!(change.reasons.iter().any(|reason| reason.unapproved().is_some()));
        }
        assert_eq!(waits.changes[&id("api/0")].class, ChangeClass::Keep);
        let disruptions: Vec<_> = kept.asks.values().map(|ask| ask.disruption).collect();
        assert_eq!(disruptions, [Disruption::Ends, Disruption::Interrupts]);
        // Each is granted by itself.
        let mut one = granted(&kept);
        one.remove(&id("db/0"));
        let (_, happens) = plan(&world, &one);
        assert_eq!(happens.changes[&id("web/0")].class, ChangeClass::Reboot);
        assert_eq!(happens.changes[&id("db/0")].class, ChangeClass::Wait);
        let (_, happens) = plan(&world, &granted(&kept));
        assert_eq!(happens.changes[&id("db/0")].class, ChangeClass::Remove);
    }

    #[test]
    fn a_later_commit_finds_nothing_granted() {
        let mut world = asked();
        let (kept, _) = plan(&world, &BTreeMap::new());
        let grants = granted(&kept);
        world.want("web/0").resources.vcpus = 3;
        let (_, later) = plan(&world, &grants);
        assert_eq!(later.changes[&id("web/0")].class, ChangeClass::Wait);
        // And one that asks for the same again finds it granted.
        world.want("web/0").resources.vcpus = 2;
        let (_, again) = plan(&world, &grants);
        assert_eq!(again.changes[&id("web/0")].class, ChangeClass::Reboot);
    }

    #[test]
    fn what_is_not_granted_is_repaired_as_it_was() {
        let mut world = asked();
        world.domains().ours.remove(&id("web/0"));
        let (_, repair) = plan(&world, &BTreeMap::new());
        let change = &repair.changes[&id("web/0")];
        assert_eq!((change.class, change.cause), (ChangeClass::Start, Cause::Drift));
        assert!(change.reasons.iter().any(|reason| reason.unapproved().is_some()));
    }

    #[test]
    fn going_back_to_what_was_good_needs_nobody() {
        let mut world = asked();
        // Its rollout goes back from what runs to what is desired.
        let good = world.desired.slivers[&id("web/0")].clone();
        let back = [(id("web/0"), good)].into();
        let now = Timestamp(world.now);
        let kept = keep(&world.desired, &world.applied, &back, &BTreeMap::new(), now);
        assert_eq!(kept.asks.keys().collect::<Vec<_>>(), [&id("db/0")]);
        // That it is to be stopped as well is another matter.
        world.want("web/0").state = xeno_model::desired::SliverState::Stopped;
        let kept = keep(&world.desired, &world.applied, &back, &BTreeMap::new(), now);
        assert_eq!(kept.asks.len(), 2);
        let kept = kept.desired.unwrap();
        let web = &kept.slivers[&id("web/0")];
        assert_eq!(web.resources.vcpus, 2);
        assert_eq!(web.state, xeno_model::desired::SliverState::Running);
    }

    #[test]
    fn who_takes_over_waits_for_whom_it_takes_over_from() {
        let mut world = asked();
        let mut heir = sliver("shop/0");
        heir.moved_from = Some(id("db/0"));
        world.desired.slivers.insert(heir.id.clone(), heir);
        let (kept, waits) = plan(&world, &BTreeMap::new());
        assert!(waits.actions.is_empty(), "{waits:#?}");
        let mut grants = granted(&kept);
        grants.remove(&id("web/0"));
        let (_, happens) = plan(&world, &grants);
        assert_eq!(happens.changes[&id("db/0")].class, ChangeClass::HandOver);
        assert_eq!(happens.changes[&id("shop/0")].class, ChangeClass::Create);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        /// Executed is a part of granted and repair, whatever the node looks like and whatever was granted.
        #[test]
        fn what_is_done_is_granted_or_repair(
            sides in sides(),
            around in surroundings(),
            from in prop::sample::select(vec![Disturbance::Reconnects, Disturbance::Interrupts, Disturbance::Ends]),
            which in any::<u8>(),
            less in any::<u8>(),
        ) {
            let mut world = world(&sides, &around);
            world.desired.approval = Some(from);
            let (kept, _) = plan(&world, &BTreeMap::new());
            // Some of it is granted, and some less than is asked for.
            let bit = |bits: u8, n: usize| bits & (1 << (n % 8)) != 0;
            let grants: BTreeMap<_, _> = granted(&kept)
                .into_iter()
                .enumerate()
                .filter(|(n, _)| bit(which, *n))
                .map(|(n, (sliver, mut grant))| {
                    if bit(less, n) {
                        grant.0.disruption = Disruption::Reconnects;
                    }
                    (sliver, grant)
                })
                .collect();
            let (kept, plan) = plan(&world, &grants);
            let used = kept.desired.as_ref().unwrap_or(&world.desired);
            let acts: BTreeSet<SliverId> = plan
                .actions
                .iter()
                .flat_map(|planned| planned.serves.iter().cloned())
                .collect();
            for change in plan.changes.values().filter(|change| acts.contains(&change.sliver)) {
                let disruption = change.class.disruption();
                if disruption < threshold(from) || change.cause != Cause::Change {
                    continue;
                }
                let applied = world.applied.get(&change.sliver).map(|applied| &applied.desired);
                let wanted = world.desired.slivers.get(&change.sliver);
                let now = Timestamp(world.now);
                let same = used.slivers.get(&change.sliver).map(slice_revision) == applied.map(slice_revision);
                let repair = applied.is_some() && same
                    || wanted.is_some_and(|wanted| effective(&world.desired, wanted, now).1.is_some());
                let grant = grants.get(&change.sliver).is_some_and(|grant| {
                    grant.0.from == applied.map_or(NOT_KNOWN, slice_revision)
                        && grant.0.to == wanted.map(slice_revision)
                        && disruption <= grant.0.disruption
                });
                prop_assert!(repair || grant, "{change:#?}");
            }
        }
    }
}
