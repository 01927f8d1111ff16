//! What a sliver wrote is kept before it starts as something else, and goes back with it where its slice says so.

use std::collections::BTreeMap;

use xeno_model::desired::{RollbackData, WritableKind};
use xeno_model::id::{Digest, Timestamp};

use super::*;
use crate::action::Action;
use crate::change::AppliedSliver;
use crate::checkpoint::{left_by, went_back};
use crate::plan::holds;

/// `web/0` ran its first image, and runs another one now.
fn moved_on() -> (World, AppliedSliver, AppliedSliver) {
    let mut world = settled();
    let first = world.applied[&id("web/0")].clone();
    world.want("web/0").mounts[0].layers[0] = LayerRef::Files {
        digest: Digest([0xf2; 32]),
    };
    let mut world = world.settle();
    let second = world.applied.get_mut(&id("web/0")).unwrap();
    second.at = Timestamp(first.at.0 + 5);
    let second = second.clone();
    (world, first, second)
}

/// It is asked for as it was first, and what it wrote then is kept in the checkpoints that `there` names.
fn back(data: RollbackData, there: &[(String, u64)]) -> World {
    let (mut world, first, _) = moved_on();
    *world.want("web/0") = first.desired;
    world.want("web/0").rollback = data;
    let there = there.iter().map(|(name, at)| (name.clone(), Timestamp(*at)));
    world.storage("web/0").checkpoints = there.collect();
    if let Seen::Known(files) = &mut world.observed.file_layers {
        files.insert(Digest([0xf1; 32]));
    }
    world
}

fn checkpoints(world: &World) -> (String, bool, Vec<String>) {
    let actions = world.plan().actions;
    let found = actions.into_iter().find_map(|planned| match planned.action {
        Action::Checkpoint {
            name, fresh, drops, ..
        } => Some((name, fresh, drops.into_iter().collect())),
        _ => None,
    });
    found.expect("a checkpoint is made")
}

#[test]
fn it_goes_back_over_what_it_wrote_then() {
    let (_, first, second) = moved_on();
    let world = back(RollbackData::Restore, &[(left_by(&first), 1)]);
    let (class, reasons, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot);
    let goes = format!(
        "goes back to what it had written by 1970-01-01 00:00:00 UTC (checkpoint {}); what it wrote since is kept as {}",
        left_by(&first),
        left_by(&second)
    );
    assert!(reasons.contains(&goes), "{reasons:#?}");
    let order = [
        "checkpoint:web/0",
        "shutdown:web/0",
        "unexport:web/0",
        "close:web/0",
        "open:web/0",
        "restore:web/0",
        "stack:web/0",
        "export:web/0",
        "boot:web/0",
    ];
    assert_eq!(steps, order);
    assert_eq!(checkpoints(&world), (left_by(&second), true, vec![]));
}

#[test]
fn what_it_wrote_stays_unless_its_slice_says_otherwise() {
    let (_, first, _) = moved_on();
    let world = back(RollbackData::Keep, &[(left_by(&first), 1)]);
    let (_, reasons, steps) = story(&world);
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
    assert!(steps.contains(&"checkpoint:web/0".to_owned()), "{steps:?}");
    assert!(
        reasons.iter().all(|reason| !reason.contains("goes back")),
        "{reasons:?}"
    );
}

#[test]
fn without_a_checkpoint_of_that_image_nothing_goes_back() {
    let (_, _, second) = moved_on();
    let others = [("before-the-move".to_owned(), 1), (left_by(&second), 2)];
    let (_, _, steps) = story(&back(RollbackData::Restore, &others));
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
}

/// The guest has run since, and was lost before its run was carried through: what it wrote then stays.
#[test]
fn nobody_goes_back_twice() {
    let (_, first, second) = moved_on();
    let done = [
        (left_by(&first), 1),
        (left_by(&second), 2),
        (went_back(&second), 3),
    ];
    let mut world = back(RollbackData::Restore, &done);
    world.domains().ours.remove(&id("web/0"));
    let (_, _, steps) = story(&world);
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
    let (name, fresh, _) = checkpoints(&world);
    assert_eq!(
        (name, fresh),
        (left_by(&second), false),
        "what was kept stays as it is"
    );
}

#[test]
fn the_youngest_of_an_image_is_what_it_goes_back_to() {
    let (_, mut first, _) = moved_on();
    let old = left_by(&first);
    first.at = Timestamp(77);
    let young = left_by(&first);
    let world = back(RollbackData::Restore, &[(old, 1), (young.clone(), 2)]);
    let actions = world.plan().actions;
    let name = actions.iter().find_map(|planned| match &planned.action {
        Action::Restore { name, .. } => Some(name),
        _ => None,
    });
    assert_eq!(name, Some(&young));
}

#[test]
fn more_than_are_kept_are_dropped_and_never_a_persons() {
    let (_, mut first, second) = moved_on();
    let mut there = vec![("before-the-move".to_owned(), 0)];
    for at in 1..5 {
        first.at = Timestamp(at);
        there.push((left_by(&first), at));
    }
    there.push((went_back(&first), 5));
    let mut world = back(RollbackData::Keep, &there);
    let (name, _, drops) = checkpoints(&world);
    assert_eq!(name, left_by(&second));
    // Three are kept: the one that is made, and the youngest two before it.
    let gone = [went_back(&first), there[1].0.clone(), there[2].0.clone()];
    assert_eq!(drops, BTreeSet::from(gone).into_iter().collect::<Vec<_>>());
    // What it goes back to is not dropped for it, however few are kept.
    world.want("web/0").rollback = RollbackData::Restore;
    world.want("web/0").checkpoints = 0;
    let (_, _, drops) = checkpoints(&world);
    assert!(
        !drops.contains(&there[4].0) && drops.contains(&there[3].0),
        "{drops:?}"
    );
    world.want("web/0").rollback = RollbackData::Keep;
    let (_, _, steps) = story(&world);
    assert!(!steps.contains(&"checkpoint:web/0".to_owned()), "{steps:?}");
}

#[test]
fn what_keeps_nothing_or_only_gets_something_else_has_nothing_to_keep() {
    let mut tuned = settled();
    tuned.want("web/0").resources.cpu_weight = 7;
    let mut read_only = sliver("web/0");
    read_only.mounts[0].writable = WritableKind::ReadOnly;
    let mut read_only = World::wanting([read_only]).settle();
    read_only.want("web/0").resources.vcpus = 2;
    for world in [tuned, read_only] {
        let (_, _, steps) = story(&world);
        assert!(!steps.contains(&"checkpoint:web/0".to_owned()), "{steps:?}");
    }
}

#[test]
fn other_processors_are_another_start_and_no_way_back() {
    let mut world = settled();
    let left = left_by(&world.applied[&id("web/0")]);
    world.storage("web/0").checkpoints = BTreeMap::from([(left.clone(), Timestamp(1))]);
    world.want("web/0").resources.vcpus = 2;
    world.want("web/0").rollback = RollbackData::Restore;
    let plan = world.plan();
    let condition = crate::action::Condition::Checkpointed(id("web/0"), left.clone());
    assert!(holds(&world.observed, &condition));
    assert_eq!(checkpoints(&world).0, left);
    assert!(
        plan.actions
            .iter()
            .all(|planned| !matches!(planned.action, Action::Restore { .. }))
    );
}

/// `web/0` was to be something else, which booted, and was never carried through; it is to be as before, which goes back.
fn failed(there: &[(String, u64)]) -> (World, AppliedSliver, Digest) {
    let (mut world, first, _) = moved_on();
    let booted = world.domains().ours[&id("web/0")].booted;
    world.applied.insert(id("web/0"), first.clone());
    *world.want("web/0") = first.desired.clone();
    world.want("web/0").rollback = RollbackData::Restore;
    let there = there.iter().map(|(name, at)| (name.clone(), Timestamp(*at)));
    world.storage("web/0").checkpoints = there.collect();
    if let Seen::Known(files) = &mut world.observed.file_layers {
        files.insert(Digest([0xf1; 32]));
    }
    (world, first, booted)
}

#[test]
fn it_goes_back_from_what_booted_and_was_never_carried_through() {
    let (_, first, _) = moved_on();
    let (mut world, _, booted) = failed(&[(left_by(&first), 1)]);
    let (class, reasons, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot);
    let keeps = format!("xeno-failed-{}-{}", booted.short(), first.at.0);
    let goes = format!(
        "goes back to what it had written by 1970-01-01 00:00:00 UTC (checkpoint {}); what it wrote since is kept as {keeps}",
        left_by(&first),
    );
    assert!(reasons.contains(&goes), "{reasons:#?}");
    let first_steps = ["checkpoint:web/0", "shutdown:web/0"];
    assert_eq!(steps[..2], first_steps);
    assert!(steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
    assert_eq!(checkpoints(&world), (keeps.clone(), true, vec![]));

    // Its domain has ended on the way: what it left says the same.
    world.domains().ours.remove(&id("web/0"));
    let at = Timestamp(2);
    world.storage("web/0").checkpoints.insert(keeps.clone(), at);
    let (_, _, steps) = story(&world);
    assert!(steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
    assert_eq!(checkpoints(&world), (keeps, false, vec![]));

    // It has gone back, and booted, and was lost before that was written down.
    let done = format!("xeno-back-{}-{}", booted.short(), first.at.0);
    world.storage("web/0").checkpoints.insert(done, at);
    let (_, _, steps) = story(&world);
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
}

#[test]
fn nothing_goes_back_where_nobody_knows_that_anything_else_booted() {
    let (_, first, _) = moved_on();
    let (mut world, ..) = failed(&[(left_by(&first), 1)]);
    world.domains().ours.remove(&id("web/0"));
    let (_, _, steps) = story(&world);
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
    let (world, ..) = failed(&[]);
    let (_, _, steps) = story(&world);
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
    let (mut world, ..) = failed(&[(left_by(&first), 1)]);
    world.want("web/0").rollback = RollbackData::Keep;
    let (_, _, steps) = story(&world);
    assert!(!steps.contains(&"restore:web/0".to_owned()), "{steps:?}");
}

/// A third comes after one that failed: what the first left is kept as it was, not as the failed one made it.
#[test]
fn what_was_left_is_not_made_anew_by_what_failed() {
    let (_, first, _) = moved_on();
    let (mut world, ..) = failed(&[(left_by(&first), 1)]);
    world.want("web/0").mounts[0].layers[0] = LayerRef::Files {
        digest: Digest([0xf3; 32]),
    };
    if let Seen::Known(files) = &mut world.observed.file_layers {
        files.insert(Digest([0xf3; 32]));
    }
    assert_eq!(checkpoints(&world), (left_by(&first), false, vec![]));
}
