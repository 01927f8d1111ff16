//! Every rule is broken at least once: each kind of finding by a plan that is broken by hand, and every rule of the play
//! by breaking good plans in every small way there is.

use xeno_model::desired::{Publish, RollbackData, SliverState, Start, WritableKind};
use xeno_model::id::Digest;
use xeno_model::observed::{DomainState, LayerLimits};

use super::*;
use crate::change::{Disruption, Reason};

macro_rules! kinds {
    ($($name:ident)+) => {
        /// A finding without what it is about. One that is missing here does not compile.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        enum Kind {
            $($name,)+
        }

        impl Kind {
            const ALL: &[Self] = &[$(Self::$name),+];

            fn of(finding: &Finding) -> Self {
                match finding {
                    $(Finding::$name { .. } => Self::$name,)+
                }
            }
        }
    };
}

kinds! {
    Twice Order Blind NoChange Misfit NoReason Lacking Unsafe Memory Port Frozen OutsideWindow Unapproved Removals
}

/// A good plan and the node that it is for, before they are broken.
fn good(world: World) -> (World, Plan) {
    let plan = world.plan();
    assert_eq!(check(&plan, &world.input()), []);
    assert!(!plan.actions.is_empty(), "nothing to break");
    (world, plan)
}

/// A broken plan of this kind. A kind without one does not compile.
fn broken_by_hand(kind: Kind) -> (World, Plan) {
    let (mut world, mut plan) = good(match kind {
        Kind::Port => {
            let publish = |name: &str, host| {
                let mut sliver = sliver(name);
                sliver.publish = vec![Publish { guest: 80, host }];
                sliver
            };
            let mut world = World::wanting([publish("a/0", 8080)]).settle();
            world.unwant("a/0");
            world.desired.slivers.insert(id("b/0"), publish("b/0", 8080));
            world
        }
        Kind::Removals => {
            let mut world = World::wanting(["a/0", "b/0", "c/0"].map(sliver)).settle();
            world.unwant("a/0");
            world.unwant("b/0");
            world
        }
        Kind::Twice
        | Kind::Order
        | Kind::Blind
        | Kind::NoChange
        | Kind::Misfit
        | Kind::NoReason
        | Kind::Lacking
        | Kind::Unsafe
        | Kind::Memory
        | Kind::Frozen
        | Kind::OutsideWindow
        | Kind::Unapproved => rebooting(),
    });
    match kind {
        Kind::Twice => plan.actions.push(plan.actions[1].clone()),
        Kind::Order => plan.actions.reverse(),
        Kind::Blind => {
            world.observed.domains = Seen::Unknown {
                why: "it hangs".to_owned(),
            }
        }
        Kind::NoChange => plan.actions.push(shutdown("db/0")),
        Kind::Misfit => plan.changes.get_mut(&id("web/0")).unwrap().class = ChangeClass::InPlace,
        Kind::NoReason => plan.changes.get_mut(&id("web/0")).unwrap().reasons.clear(),
        Kind::Lacking => drop(plan.actions.pop()),
        Kind::Unsafe => drop(plan.actions.remove(0)),
        Kind::Memory | Kind::Port => {
            for planned in &mut plan.actions {
                planned.after.clear();
            }
        }
        Kind::Frozen => world.freeze("web/0"),
        Kind::OutsideWindow => world.close_windows(),
        Kind::Unapproved => world.leave.from = Some(Disruption::Interrupts),
        Kind::Removals => world.removed_recently = 1,
    }
    (world, plan)
}

#[test]
fn every_finding_is_found_in_a_plan_broken_by_hand() {
    for kind in Kind::ALL {
        let (world, plan) = broken_by_hand(*kind);
        let found = check(&plan, &world.input());
        let kinds: BTreeSet<_> = found.iter().map(Kind::of).collect();
        assert!(kinds.contains(kind), "{kind:?}: {found:?}");
    }
}

/// A node on which web/0 is suspended, and wanted to run again.
fn woken() -> World {
    let mut world = World::wanting([sliver("web/0"), sliver("db/0")]).settle();
    world.want("web/0").state = SliverState::Suspended;
    let mut world = world.settle();
    world.want("web/0").state = SliverState::Running;
    world
}

#[test]
fn an_image_is_not_to_be_resumed_twice() {
    let found = broken(&woken(), |plan| {
        let resume = plan.actions.last().unwrap().clone();
        assert_eq!(resume.action.verb(), "resume");
        plan.actions.push(resume);
    });
    assert_eq!(
        found,
        [
            "resume:web/0 is planned twice",
            "resume:web/0 is not held behind the step before it",
            "resume:web/0 resumes an image that does not fit",
            "resume:web/0 resumes an image that is not sealed",
            "resume:web/0 starts a second domain",
        ]
    );
}

#[test]
fn an_image_is_not_to_be_resumed_over_a_changed_disk() {
    let (mut world, plan) = good(woken());
    world.storage("web/0").mark = Some(Digest([9; 32]));
    let found = check(&plan, &world.input());
    let found: Vec<_> = found.iter().map(Finding::to_string).collect();
    assert_eq!(found, ["resume:web/0 resumes an image that does not fit"]);
}

#[test]
fn nothing_is_disturbed_outside_a_window() {
    let (mut world, plan) = good(rebooting());
    world.close_windows();
    let found = check(&plan, &world.input());
    let found: Vec<_> = found.iter().map(Finding::to_string).collect();
    assert_eq!(found, ["`reboot` disturbs web/0 outside the maintenance windows"]);
}

#[test]
fn what_is_frozen_is_not_to_be_touched() {
    let (mut world, plan) = good(rebooting());
    world.freeze("web/0");
    let found = check(&plan, &world.input());
    let found: Vec<_> = found.iter().map(Finding::to_string).collect();
    assert_eq!(
        found,
        [
            "boot:web/0 is for a sliver that is frozen",
            "shutdown:web/0 is for a sliver that is frozen",
        ]
    );
}

#[test]
fn removals_of_an_earlier_run_count() {
    let (world, plan) = broken_by_hand(Kind::Removals);
    assert_eq!(
        check(&plan, &world.input()),
        [Finding::Removals {
            planned: 2,
            allowed: 1
        }]
    );
}

/// Nodes with something to do, of every sort.
fn worlds() -> Vec<World> {
    let settled = || World::wanting([sliver("web/0"), sliver("db/0")]).settle();
    let mut all = vec![
        World::wanting([sliver("web/0"), sliver("db/0")]),
        settled(),
        rebooting(),
        woken(),
    ];
    let mut add = |change: &dyn Fn(&mut World)| {
        let mut world = settled();
        change(&mut world);
        all.push(world);
    };
    add(&|world| world.want("web/0").mounts[0].layers.truncate(1));
    add(&|world| {
        let first = world.applied[&id("web/0")].clone();
        world.want("web/0").mounts[0].layers.truncate(1);
        *world = world.clone().settle();
        *world.want("web/0") = first.desired.clone();
        world.want("web/0").rollback = RollbackData::Restore;
        let left = crate::checkpoint::left_by(&first);
        world.storage("web/0").checkpoints.insert(left, Timestamp(1));
    });
    add(&|world| world.want("web/0").kernel = crate::testing::template("fedora", 0xd7));
    add(&|world| world.want("web/0").state = SliverState::Suspended);
    add(&|world| world.want("web/0").state = SliverState::Stopped);
    add(&|world| world.want("web/0").resources.cpu_weight = 512);
    add(&|world| world.want("web/0").resources.memory = Bytes(64 << 20));
    add(&|world| world.want("web/0").resources.disk = Some(Bytes(1 << 30)));
    add(&|world| world.want("web/0").health = Some(crate::testing::health()));
    add(&|world| {
        world.want("web/0").health = Some(crate::testing::health());
        world.want("web/0").resources.vcpus = 2;
    });
    add(&|world| world.unwant("web/0"));
    add(&|world| drop(world.domains().ours.remove(&id("web/0"))));
    add(&|world| world.storage("web/0").exported = false);
    add(&|world| world.storage("web/0").stack = Some(Digest([3; 32])));
    for state in [DomainState::Paused, DomainState::Crashed] {
        add(&move |world| world.domains().ours.get_mut(&id("web/0")).unwrap().state = state);
    }
    add(&|world| {
        world.unwant("web/0");
        let mut site = sliver("site/0");
        site.moved_from = Some(id("web/0"));
        world.desired.slivers.insert(id("site/0"), site);
    });
    let replaced = || {
        let mut web = sliver("web/0");
        web.mounts[0].writable = WritableKind::ReadOnly;
        web.health = Some(crate::testing::health());
        web.publish = vec![Publish {
            guest: 80,
            host: 8080,
        }];
        let mut world = World::wanting([web, sliver("db/0")]).settle();
        world.want("web/0").mounts[0].layers.truncate(1);
        world
    };
    all.push(replaced());
    let mut kept = replaced();
    kept.storage("web/0").limits = BTreeSet::from([LayerLimits::default()]);
    all.push(kept);
    let mut afar = World::wanting([crate::testing::remote_to_write("web/0"), sliver("db/0")]);
    all.push(afar.clone());
    afar = afar.settle();
    afar.want("web/0").mounts[0].layers.truncate(2);
    all.push(afar.clone());
    afar = afar.settle();
    afar.domains().ours.remove(&id("web/0"));
    afar.observed.remotes = Seen::Known(std::collections::BTreeMap::new());
    all.push(afar);
    let mut stale = woken();
    stale.storage("web/0").mark = Some(Digest([9; 32]));
    stale.want("web/0").start = Start::Resume;
    all.push(stale.clone());
    stale.want("web/0").state = SliverState::Stopped;
    stale.want("web/0").start = Start::Boot;
    all.push(stale);
    let mut unsealed = woken();
    unsealed.domains().images.get_mut(&id("web/0")).unwrap().mark = None;
    all.push(unsealed);
    let mut gone = settled();
    gone.unwant("web/0");
    gone.domains().ours.remove(&id("web/0"));
    *gone.storage("web/0") = xeno_model::observed::ObservedStorage {
        tombstone: Some(Timestamp(0)),
        ..Default::default()
    };
    gone.applied.remove(&id("web/0"));
    all.push(gone.clone());
    gone.desired.slivers.insert(id("web/0"), sliver("web/0"));
    all.push(gone);
    all
}

/// A plan with one small thing wrong, in every place where it can be.
fn breakages<'a>(plan: &'a Plan, words: &'a [PlannedAction]) -> impl Iterator<Item = Plan> + 'a {
    let count = plan.actions.len();
    let edited = |edit: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        edit(&mut plan);
        plan
    };
    let mut all = Vec::new();
    for at in 0..count {
        all.push(edited(&|plan| drop(plan.actions.remove(at))));
        all.push(edited(&|plan| plan.actions[at].after.clear()));
        all.push(edited(&|plan| plan.actions.truncate(at)));
        if at > 0 {
            all.push(edited(&|plan| plan.actions.swap(at - 1, at)));
        }
    }
    let classes = [ChangeClass::InPlace, ChangeClass::Purge, ChangeClass::Remove];
    for class in classes
        .into_iter()
        .chain([ChangeClass::HandOver, ChangeClass::Stop])
    {
        all.push(edited(&|plan| {
            for change in plan.changes.values_mut() {
                change.class = class;
                change.reasons = vec![Reason::New];
            }
        }));
    }
    let inserted = words.iter().flat_map(move |word| {
        (0..=count).map(move |at| {
            let mut plan = plan.clone();
            plan.actions.insert(at, word.clone());
            plan
        })
    });
    all.into_iter().chain(inserted)
}

/// Everything that is done anywhere, and the same to something else than is desired.
fn words(worlds: &[World]) -> Vec<PlannedAction> {
    let mut words = Vec::new();
    for planned in worlds.iter().flat_map(|world| world.plan().actions) {
        let mut other = planned.clone();
        match &mut other.action {
            Action::Stack { stack, .. } | Action::Export { stack, .. } | Action::Unpause { stack, .. } => {
                *stack = Digest([4; 32]);
            }
            Action::Boot { boot, .. } | Action::Resume { boot, .. } => *boot = Digest([4; 32]),
            Action::Limit { limits, .. } => limits.inodes = Some(7),
            Action::Restore { name, .. } => "before-the-move".clone_into(name),
            Action::Retune { tuning, .. } => tuning.memory_mib = 1 << 20,
            Action::Adopt { from, .. } => *from = id("db/0"),
            _ => {}
        }
        for word in [planned, other] {
            if !words
                .iter()
                .any(|known: &PlannedAction| known.action == word.action)
            {
                words.push(word);
            }
        }
    }
    words
}

#[test]
fn every_rule_is_broken_by_some_small_mistake() {
    let worlds = worlds();
    let words = words(&worlds);
    let (mut rules, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut blind = worlds[2].clone();
    blind.domains().able.clear();
    for (i, world) in worlds.iter().enumerate() {
        let plan = world.plan();
        assert_eq!(check(&plan, &world.input()), [], "world {i}");
        let mut note = |plan: &Plan, world: &World| {
            for finding in check(plan, &world.input()) {
                match finding {
                    Finding::Unsafe { rule, .. } => drop(rules.insert(rule)),
                    Finding::Lacking { left: how, .. } => drop(left.insert(how)),
                    _ => {}
                }
            }
        };
        for broken in breakages(&plan, &words) {
            note(&broken, world);
        }
        // Carried out somewhere else than it was made for.
        for other in worlds.iter().chain([&blind]) {
            note(&plan, other);
        }
    }
    let missed: Vec<_> = Rule::ALL.iter().filter(|rule| !rules.contains(rule)).collect();
    assert!(missed.is_empty(), "nothing breaks {missed:?}");
    let missed: Vec<_> = Left::ALL.iter().filter(|how| !left.contains(how)).collect();
    assert!(missed.is_empty(), "nothing leaves anything {missed:?}");
}
