//! Make before break: one embodiment beside the other, and back to one from wherever it was interrupted.

use xeno_model::desired::WritableKind;
use xeno_model::id::DomainUuid;
use xeno_model::observed::HealthVerdict;

use super::*;

fn web() -> DesiredSliver {
    let mut web = sliver("web/0");
    web.mounts[0].writable = WritableKind::ReadOnly;
    web.health = Some(health());
    web.publish = vec![Publish {
        guest: 80,
        host: 8080,
    }];
    web
}

/// A node that runs web/0, which keeps nothing, and is asked for another page of it.
fn changed() -> World {
    let mut world = World::wanting([web(), sliver("db/0")]).settle();
    world.want("web/0").mounts[0].layers.truncate(1);
    world
}

/// The same, with the new one beside the old.
fn beside(healthy: bool) -> World {
    let mut world = changed();
    let second = id("web/0").beside();
    let wanted = world.want("web/0").clone();
    let mut domain = world.domains().ours[&id("web/0")].clone();
    domain.uuid = DomainUuid::of(&world.desired.fleet, &second);
    domain.booted = xeno_model::normal::boot_digest(&wanted);
    domain.publish = vec![Publish {
        guest: 80,
        host: 40_001,
    }];
    world.domains().ours.insert(second.clone(), domain);
    *world.storage_of(&second) = ObservedStorage {
        open: Some(Epoch(1)),
        stack: Some(xeno_model::normal::stack_digest(&wanted)),
        exported: true,
        ..ObservedStorage::default()
    };
    if healthy {
        world.observed.health.insert(second, HealthVerdict::Healthy);
    }
    world
}

const AFTER: [&str; 5] = [
    "unpublish:web/0",
    "publish:web/0b",
    "shutdown:web/0",
    "unexport:web/0",
    "close:web/0",
];

#[test]
fn what_keeps_nothing_is_replaced_by_one_beside_it() {
    let (class, why, steps) = story(&changed());
    assert_eq!(class, ChangeClass::Replace);
    assert_eq!(
        why[1],
        "starts beside the one that runs (128 MiB of 1792 MiB free), which serves on until the new one is healthy"
    );
    let start = [
        "open:web/0b",
        "stack:web/0b",
        "export:web/0b",
        "boot:web/0b",
        "await:web/0b",
    ];
    assert_eq!(steps, [&start[..], &AFTER].concat());
}

#[test]
fn it_is_rebooted_where_it_keeps_something_or_nothing_says_when_the_new_one_serves() {
    let mut kept = changed();
    kept.want("web/0").mounts[0].writable = WritableKind::Local;
    assert_eq!(story(&kept).0, ChangeClass::Reboot);
    let mut wrote = changed();
    wrote.applied.get_mut(&id("web/0")).unwrap().desired.mounts[0].writable = WritableKind::Local;
    assert_eq!(story(&wrote).0, ChangeClass::Reboot);
    let mut blind = changed();
    blind.want("web/0").health = None;
    assert_eq!(story(&blind).0, ChangeClass::Reboot);
    let mut fixed = changed();
    fixed.domains().able.clear();
    assert_eq!(story(&fixed).0, ChangeClass::Reboot);
}

#[test]
fn without_room_for_both_the_old_one_ends_first() {
    let (class, why, steps) = story(&changed().with_memory(300));
    assert_eq!(class, ChangeClass::Reboot);
    assert_eq!(
        why[1],
        "the old one ends before the new one starts: beside it 128 MiB are needed, and 44 of the node's 300 MiB are \
         free for that"
    );
    assert_eq!(steps.first().map(String::as_str), Some("shutdown:web/0"));
    // What others are going to take is not free.
    let mut world = changed().with_memory(400);
    assert_eq!(story(&world).0, ChangeClass::Replace);
    world.desired.slivers.insert(id("new/0"), sliver("new/0"));
    assert_eq!(story(&world).0, ChangeClass::Reboot);
}

#[test]
fn a_new_one_that_is_not_healthy_leaves_the_old_one_serving() {
    let (class, why, steps) = story(&beside(false));
    assert_eq!(class, ChangeClass::Replace);
    assert_eq!(
        why[1],
        "two domains of it are there since a replacement was interrupted; one of them stays"
    );
    assert_eq!(steps, [&["await:web/0b"][..], &AFTER].concat());
    // What is asked for next takes the place of the new one, not of the old.
    let mut next = beside(false);
    next.want("web/0").resources.vcpus = 3;
    let (class, _, steps) = story(&next);
    assert_eq!(class, ChangeClass::Replace);
    assert_eq!(
        steps,
        [&["shutdown:web/0b", "boot:web/0b", "await:web/0b"][..], &AFTER].concat()
    );
    // And who takes the change back loses the new one only.
    let mut back = beside(false);
    *back.want("web/0") = web();
    let (class, _, steps) = story(&back);
    assert_eq!(class, ChangeClass::Replace);
    assert_eq!(
        steps,
        [
            "unpublish:web/0b",
            "shutdown:web/0b",
            "unexport:web/0b",
            "close:web/0b"
        ]
    );
}

#[test]
fn an_interrupted_takeover_is_finished_from_every_step() {
    assert_eq!(story(&beside(true)).2, AFTER);
    let mut world = beside(true);
    let second = id("web/0").beside();
    world
        .domains()
        .ours
        .get_mut(&id("web/0"))
        .unwrap()
        .publish
        .clear();
    assert_eq!(story(&world).2, AFTER[1..]);
    world.domains().ours.get_mut(&second).unwrap().publish = web().publish;
    assert_eq!(story(&world).2, AFTER[2..]);
    world.domains().ours.remove(&id("web/0"));
    assert_eq!(story(&world).2, AFTER[3..]);
    *world.storage("web/0") = ObservedStorage::default();
    check(
        &world,
        ChangeClass::InPlace,
        &["/ loses a layer: template debian-web/current"],
        &[],
    );
}

#[test]
fn the_next_replacement_goes_back_to_the_first_berth() {
    let mut world = beside(true);
    world.domains().ours.remove(&id("web/0"));
    world
        .domains()
        .ours
        .get_mut(&id("web/0").beside())
        .unwrap()
        .publish = web().publish;
    *world.storage("web/0") = ObservedStorage::default();
    let desired = world.want("web/0").clone();
    world.applied.get_mut(&id("web/0")).unwrap().desired = desired;
    assert_eq!(story(&world).0, ChangeClass::Keep);
    world.want("web/0").resources.vcpus = 2;
    let (class, _, steps) = story(&world);
    assert_eq!(class, ChangeClass::Replace);
    assert_eq!(
        steps[3..7],
        ["boot:web/0", "await:web/0", "unpublish:web/0b", "publish:web/0"]
    );
    // What keeps something from now on has it in the first berth, and never beside another.
    world.want("web/0").mounts[0].writable = WritableKind::Local;
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot, "{why:?}");
    assert_eq!(steps[..3], ["shutdown:web/0b", "unexport:web/0b", "close:web/0b"]);
    assert_eq!(steps.last().map(String::as_str), Some("await:web/0"));
    // At rest nothing of it is left in either.
    world.want("web/0").state = SliverState::Stopped;
    assert_eq!(story(&world).2[0], "shutdown:web/0b");
    world.unwant("web/0");
    assert_eq!(
        story(&world).2[..3],
        ["shutdown:web/0b", "unexport:web/0b", "close:web/0b"]
    );
}

#[test]
fn memory_that_is_given_up_with_the_takeover_is_waited_for() {
    let mut world = beside(true).with_memory(768);
    world
        .domains()
        .ours
        .get_mut(&id("web/0").beside())
        .unwrap()
        .memory_mib = 512;
    let mut new = sliver("new/0");
    new.resources.memory = Bytes(256 << 20);
    world.desired.slivers.insert(id("new/0"), new);
    let plan = world.plan();
    assert_eq!(check::check(&plan, &world.input()), []);
    let boot = plan
        .actions
        .iter()
        .find(|planned| planned.action.key().0 == "boot:new/0");
    let after: Vec<_> = boot.unwrap().after.iter().map(ToString::to_string).collect();
    assert!(after.contains(&"publish:web/0b".to_owned()), "{after:?}");
}

#[test]
fn ports_that_pass_from_one_embodiment_to_the_other_are_nobody_elses() {
    let mut world = World::wanting([web()]).settle();
    let second = id("web/0").beside();
    let mut domain = world.domains().ours[&id("web/0")].clone();
    domain.uuid = DomainUuid::of(&world.desired.fleet, &second);
    world.domains().ours.insert(second.clone(), domain);
    *world.storage_of(&second) = world.storage("web/0").clone();
    world
        .domains()
        .ours
        .get_mut(&id("web/0"))
        .unwrap()
        .publish
        .clear();
    world.observed.health.remove(&second);
    world.observed.health.insert(id("web/0"), HealthVerdict::Healthy);
    // Of the two that are as desired the healthy one stays, though the other has the ports.
    let ends = [
        "shutdown:web/0b",
        "unexport:web/0b",
        "close:web/0b",
        "retune:web/0",
    ];
    assert_eq!(story(&world).2, ends);
    let mut api = sliver("api/0");
    api.publish = web().publish;
    world.desired.slivers.insert(id("api/0"), api);
    assert_eq!(story(&world).2, ends);
    let api = &world.plan().changes[&id("api/0")];
    assert_eq!(api.class, ChangeClass::Wait);
    assert_eq!(explain(api)[0], "port 8080 of the node is held by web/0");
}

#[test]
fn an_image_that_nobody_will_resume_is_no_reason_to_disturb_what_serves() {
    let mut world = World::wanting([web()]).settle();
    world.want("web/0").state = SliverState::Suspended;
    let suspended = world.clone().settle();
    world.want("web/0").state = SliverState::Running;
    let image = suspended.observed.domains.known().unwrap().images[&id("web/0")].clone();
    world.domains().images.insert(id("web/0"), image);
    world.want("web/0").resources.memory_max = Some(Bytes(1 << 30));
    world.close_windows();
    let (class, why, steps) = story(&world);
    assert_eq!(
        (class, &steps[..]),
        (ChangeClass::InPlace, &["discard:web/0".to_owned()][..]),
        "{why:?}"
    );
    // Ending one of two embodiments may end connections: that waits.
    let second = id("web/0").beside();
    let mut domain = world.domains().ours[&id("web/0")].clone();
    domain.publish.clear();
    world.domains().ours.insert(second, domain);
    let (class, why, steps) = story(&world);
    assert_eq!((class, steps.len()), (ChangeClass::Wait, 0), "{why:?}");
}

#[test]
fn what_keeps_something_has_no_business_in_the_second_berth() {
    let mut world = World::wanting([sliver("web/0")]).settle();
    let second = id("web/0").beside();
    let mut domain = world.domains().ours[&id("web/0")].clone();
    domain.uuid = DomainUuid::of(&world.desired.fleet, &second);
    world.domains().ours.insert(second.clone(), domain);
    *world.storage_of(&second) = ObservedStorage {
        on_disk: false,
        ..world.storage("web/0").clone()
    };
    world.applied.clear();
    world.domains().ours.get_mut(&id("web/0")).unwrap().booted = Digest([9; 32]);
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot, "{why:?}");
    assert_eq!(steps[..3], ["shutdown:web/0b", "unexport:web/0b", "close:web/0b"]);
}

#[test]
fn what_keeps_something_and_runs_twice_is_mended_outside_the_window() {
    let mut world = World::wanting([sliver("web/0")]).settle();
    let second = id("web/0").beside();
    let mut domain = world.domains().ours[&id("web/0")].clone();
    domain.uuid = DomainUuid::of(&world.desired.fleet, &second);
    world.domains().ours.insert(second.clone(), domain);
    *world.storage_of(&second) = world.storage("web/0").clone();
    world.storage_of(&second).on_disk = false;
    world.storage("web/0").exported = false;
    world.want("web/0").resources.memory_max = Some(Bytes(1 << 30));
    world.close_windows();
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Replace, "{why:?}");
    assert_eq!(
        steps,
        [
            "shutdown:web/0b",
            "unexport:web/0b",
            "close:web/0b",
            "export:web/0"
        ]
    );
}

#[test]
fn what_was_set_aside_is_revived_though_it_runs_in_the_second_berth() {
    let mut world = World::wanting([web()]).settle();
    let second = id("web/0").beside();
    let mut domain = world.domains().ours.remove(&id("web/0")).unwrap();
    domain.uuid = DomainUuid::of(&world.desired.fleet, &second);
    world.domains().ours.insert(second.clone(), domain);
    *world.storage_of(&second) = world.storage("web/0").clone();
    *world.storage("web/0") = ObservedStorage::default();
    assert_eq!(story(&world).0, ChangeClass::Keep);
    world.storage("web/0").tombstone = Some(Timestamp(1));
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot, "{why:?}");
    assert!(steps.contains(&"revive:web/0".to_owned()), "{steps:?}");
}

#[test]
fn one_that_cannot_take_over_yet_does_not_end_what_was_carried_through() {
    let mut world = beside(true).with_memory(384);
    world.want("web/0").resources.memory = Bytes(256 << 20);
    let second = id("web/0").beside();
    // Not even where the one that serves is the only one that is not healthy.
    world.observed.health.insert(
        id("web/0"),
        HealthVerdict::Unhealthy {
            why: "slow".to_owned(),
        },
    );
    let (_, why, steps) = story(&world);
    assert_eq!(steps.first(), Some(&format!("shutdown:{second}")), "{why:?}");
}

#[test]
fn a_service_that_is_up_in_the_other_berth_is_not_broken() {
    let mut world = World::wanting([web()]).settle();
    // It is to keep what it writes from now on; one that does has been started, and nobody serves its files.
    world.want("web/0").mounts[0].writable = WritableKind::Local;
    let wanted = world.want("web/0").clone();
    let second = id("web/0").beside();
    let mut domain = world.domains().ours[&id("web/0")].clone();
    domain.uuid = DomainUuid::of(&world.desired.fleet, &second);
    world.domains().ours.insert(second.clone(), domain);
    *world.storage_of(&second) = world.storage("web/0").clone();
    *world.storage("web/0") = ObservedStorage::default();
    let first = world.domains().ours.get_mut(&id("web/0")).unwrap();
    first.publish.clear();
    first.booted = xeno_model::normal::boot_digest(&wanted);
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Replace, "{why:?}");
    assert_eq!(steps.first().map(String::as_str), Some("shutdown:web/0b"));
    world.close_windows();
    let (class, why, steps) = story(&world);
    assert_eq!((class, steps.len()), (ChangeClass::Wait, 0), "{why:?}");
}
