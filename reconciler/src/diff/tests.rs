//! What the comparison decides, story by story.

mod back;
mod beside;
mod hold;
mod remotes;
mod suspend;

use xeno_model::desired::{HypervisorKind, LayerRef, Publish};
use xeno_model::id::{Digest, Timestamp};
use xeno_model::observed::{LayerLimits, ObservedStorage};
use xeno_model::units::{BitRate, Bytes};

use xeno_model::observed::DomainState;

use super::*;
use crate::check;
use crate::enforce::usual;
use crate::report::explain;
use crate::testing::{World, health, id, keys, other_node, sliver};

/// A node that runs web/0 and db/0 as desired.
fn settled() -> World {
    World::wanting([sliver("web/0"), sliver("db/0")]).settle()
}

/// The class of web/0, its reasons, and all actions.
fn story(world: &World) -> (ChangeClass, Vec<String>, Vec<String>) {
    let plan = world.plan();
    assert_eq!(check::check(&plan, &world.input()), []);
    let change = &plan.changes[&id("web/0")];
    (change.class, explain(change), keys(&plan))
}

fn check(world: &World, class: ChangeClass, reasons: &[&str], actions: &[&str]) {
    let (found, why, steps) = story(world);
    assert_eq!(
        (found, why, steps),
        (
            class,
            reasons.iter().map(|s| (*s).to_owned()).collect(),
            actions.iter().map(|s| (*s).to_owned()).collect()
        )
    );
}

#[test]
fn what_is_as_desired_is_kept() {
    check(&settled(), ChangeClass::Keep, &[], &[]);
}

#[test]
fn what_only_the_record_knows_changes_in_place() {
    let mut world = settled();
    world.want("web/0").resources.cpu_weight = 512;
    world.want("web/0").resources.net_rate = Some(BitRate(10_000_000));
    if let Standing::Named(node) = &mut world.desired.standing {
        node.hypervisor = HypervisorKind::Qemu;
    }
    world.domains().able = usual(HypervisorKind::Qemu);
    let note = "not enforced by qemu on this node: cpu weight 512, network rate 10Mbit";
    let changes = ["cpu weight 256 → 512", "network rate no limit → 10Mbit", note];
    check(&world, ChangeClass::InPlace, &changes, &["limit:web/0"]);
    let mut back = world.settle();
    back.want("web/0").resources.net_rate = None;
    back.want("web/0").resources.cpu_weight = 256;
    let changes = ["cpu weight 512 → 256", "network rate 10Mbit → no limit"];
    check(&back, ChangeClass::InPlace, &changes, &["limit:web/0"]);
}

#[test]
fn another_weight_is_another_share_of_the_file_server_too() {
    let mut world = settled();
    world.domains().able.clear();
    world.want("web/0").resources.cpu_weight = 512;
    // Also where nobody keeps shares of CPU time.
    let (_, _, steps) = story(&world);
    assert_eq!(steps, ["limit:web/0"]);
    let mut settled = world.settle();
    check(&settled, ChangeClass::Keep, &[], &[]);
    settled.storage("web/0").shares = BTreeSet::from([512, 100]);
    check(
        &settled,
        ChangeClass::InPlace,
        &["its share of the file server is 100, which nobody asked for"],
        &["limit:web/0"],
    );
    // More than the file server knows of is the most that it does.
    settled.want("web/0").resources.cpu_weight = 60_000;
    let settled = settled.settle();
    assert_eq!(
        settled.observed.storage_of(&id("web/0")).unwrap().unwrap().shares,
        [10_000].into()
    );
    check(&settled, ChangeClass::Keep, &[], &[]);
}

#[test]
fn another_disk_size_is_given_to_the_layers_that_are_open() {
    let mut world = settled();
    world.want("web/0").resources.disk = Some(Bytes(2 << 30));
    check(
        &world,
        ChangeClass::InPlace,
        &["disk no limit → 2GiB"],
        &["limit:web/0"],
    );
    let mut settled = world.settle();
    check(&settled, ChangeClass::Keep, &[], &[]);
    settled.storage("web/0").limits = BTreeSet::from([LayerLimits::default()]);
    check(
        &settled,
        ChangeClass::InPlace,
        &["its writable layers have no limit"],
        &["limit:web/0"],
    );
    assert_eq!(settled.plan().changes[&id("web/0")].cause, Cause::Drift);
    // Layers that are opened anew are opened with it.
    settled.domains().ours.remove(&id("web/0"));
    *settled.storage("web/0") = ObservedStorage::default();
    let (_, _, steps) = story(&settled);
    assert!(!steps.contains(&"limit:web/0".to_owned()), "{steps:?}");
}

#[test]
fn new_files_restack_and_reboot_once_they_are_here() {
    let mut world = settled();
    let mut other = sliver("web/0");
    other.mounts[0].layers[0] = LayerRef::Files {
        digest: Digest([0xf2; 32]),
    };
    world.desired.slivers.insert(id("web/0"), other);
    check(
        &world,
        ChangeClass::Reboot,
        &["files in / changed f1f1f1f1f1f1 → f2f2f2f2f2f2"],
        &[
            "import:f2f2f2f2f2f2",
            "checkpoint:web/0",
            "shutdown:web/0",
            "unexport:web/0",
            "close:web/0",
            "open:web/0",
            "stack:web/0",
            "export:web/0",
            "boot:web/0",
        ],
    );
    let plan = world.plan();
    let shutdown = &plan.actions[2];
    assert!(
        shutdown.after.contains(&plan.actions[0].action.key()),
        "a failed import takes nothing down"
    );
}

#[test]
fn more_memory_reboots_on_the_same_stack() {
    let mut world = settled();
    world.want("web/0").resources.memory = Bytes(256 << 20);
    check(
        &world,
        ChangeClass::Reboot,
        &["memory 128MiB → 256MiB"],
        &["shutdown:web/0", "boot:web/0"],
    );
}

#[test]
fn stopping_keeps_what_was_written() {
    let mut world = settled();
    world.want("web/0").state = SliverState::Stopped;
    check(
        &world,
        ChangeClass::Stop,
        &[
            "state running → stopped",
            "should be stopped; what it wrote is kept",
        ],
        &["shutdown:web/0", "unexport:web/0", "close:web/0"],
    );
    let stopped = world.settle();
    check(&stopped, ChangeClass::Keep, &[], &[]);
    let mut again = stopped;
    again.want("web/0").state = SliverState::Running;
    check(
        &again,
        ChangeClass::Start,
        &["state stopped → running"],
        &["open:web/0", "stack:web/0", "export:web/0", "boot:web/0"],
    );
}

#[test]
fn a_lost_domain_is_started_on_the_stack_that_is_there() {
    let mut world = settled();
    world.domains().ours.remove(&id("web/0"));
    check(
        &world,
        ChangeClass::Start,
        &["its domain is gone"],
        &["boot:web/0"],
    );
    assert_eq!(world.plan().changes[&id("web/0")].cause, Cause::Drift);
}

#[test]
fn a_crashed_domain_is_cleared_away_first() {
    let mut world = settled();
    world.domains().ours.get_mut(&id("web/0")).unwrap().state = DomainState::Crashed;
    check(
        &world,
        ChangeClass::Start,
        &["its domain has crashed"],
        &["shutdown:web/0", "boot:web/0"],
    );
}

#[test]
fn a_lost_file_server_is_repaired_below_the_running_domain() {
    let mut world = settled();
    *world.storage("web/0") = ObservedStorage {
        on_disk: true,
        ..ObservedStorage::default()
    };
    check(
        &world,
        ChangeClass::InPlace,
        &["its files are not being served"],
        &["open:web/0", "stack:web/0", "export:web/0"],
    );
    assert_eq!(world.plan().changes[&id("web/0")].cause, Cause::Drift);
}

#[test]
fn a_domain_of_an_unknown_boot_is_rebooted() {
    let mut world = settled();
    world.domains().ours.get_mut(&id("web/0")).unwrap().booted = Digest([9; 32]);
    check(
        &world,
        ChangeClass::Reboot,
        &["its domain was started as something else (090909090909)"],
        &["shutdown:web/0", "boot:web/0"],
    );
}

#[test]
fn foreign_files_below_a_domain_are_taken_apart() {
    let mut world = settled();
    world.storage("web/0").stack = Some(Digest([9; 32]));
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Reboot);
    assert_eq!(
        why,
        ["its files are not those it was started on (stack 090909090909)"]
    );
    assert_eq!(steps[0], "shutdown:web/0");
}

#[test]
fn removal_is_shutdown_then_a_tombstone_then_a_purge_when_its_time_comes() {
    let mut world = settled();
    world.unwant("web/0");
    check(
        &world,
        ChangeClass::Remove,
        &["no longer in the repository"],
        &[
            "shutdown:web/0",
            "unexport:web/0",
            "close:web/0",
            "tombstone:web/0",
        ],
    );
    world.desired.elsewhere.insert(id("web/0"), other_node());
    assert_eq!(story(&world).1, ["the repository places it on another node"]);

    let mut world = world.settle();
    world.storage("web/0").on_disk = true;
    world.storage("web/0").tombstone = Some(Timestamp(world.now - 999));
    assert!(
        !world.plan().changes.contains_key(&id("web/0")),
        "waiting for its time is not a change"
    );
    world.now += 1;
    check(
        &world,
        ChangeClass::Purge,
        &["removed on 1970-01-01 02:46:39 UTC, and kept for as long as was promised"],
        &["purge:web/0"],
    );
}

#[test]
fn what_a_removal_kept_is_used_again() {
    let mut world = World::wanting([sliver("web/0")]);
    world.storage("web/0").on_disk = true;
    world.storage("web/0").tombstone = Some(Timestamp(0));
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Create);
    assert_eq!(
        why,
        ["removed on 1970-01-01 00:00:00 UTC, and taken into use again with what it wrote"]
    );
    assert!(steps.contains(&"open:web/0".to_owned()), "{steps:?}");
}

#[test]
fn removals_beyond_the_budget_wait_in_order() {
    let mut world = World::wanting(["a/0", "b/0", "web/0"].map(sliver)).settle();
    for name in ["a/0", "b/0", "web/0"] {
        world.unwant(name);
    }
    world.removed_recently = 1;
    let (class, why, steps) = story(&world);
    assert_eq!(class, ChangeClass::Wait);
    assert_eq!(
        why[0],
        "removing it would exceed the delete budget (2 allowed, 1 used, 3 asked for)"
    );
    assert_eq!(
        steps,
        ["shutdown:a/0", "unexport:a/0", "close:a/0", "tombstone:a/0"]
    );
}

#[test]
fn an_empty_commit_and_a_forgotten_node_remove_nothing() {
    let mut world = settled();
    world.desired.slivers.clear();
    world.desired.elsewhere.clear();
    assert_eq!(story(&world).0, ChangeClass::Wait);
    assert_eq!(
        world.plan().changes[&id("web/0")].reasons[0],
        Reason::NothingDesired
    );
    world.desired.standing = Standing::NotNamed;
    world.desired.elsewhere.insert(id("other/0"), other_node());
    assert_eq!(
        world.plan().changes[&id("web/0")].reasons[0],
        Reason::NodeNotNamed
    );
    assert_eq!(world.keys().len(), 0);
}

#[test]
fn what_cannot_be_seen_is_left_alone() {
    let mut world = settled();
    world.want("web/0").resources.memory = Bytes(256 << 20);
    world.unwant("db/0");
    world.observed.domains = Seen::Unknown {
        why: "the hypervisor does not answer".to_owned(),
    };
    check(
        &world,
        ChangeClass::Wait,
        &["domains could not be seen because the hypervisor does not answer"],
        &[],
    );
    assert_eq!(world.class("db/0"), ChangeClass::Wait);

    let mut world = settled();
    world.want("web/0").resources.memory = Bytes(256 << 20);
    world.observed.templates = Seen::Unknown {
        why: "the disk is gone".to_owned(),
    };
    assert_eq!(story(&world).0, ChangeClass::Wait);
    assert_eq!(
        world.class("db/0"),
        ChangeClass::Keep,
        "what needs no template need not see any"
    );
}

#[test]
fn storage_of_one_that_cannot_be_seen_holds_up_nobody_else() {
    let mut world = World::wanting([sliver("web/0"), sliver("db/0"), sliver("old/0")]).settle();
    for changed in ["web/0", "db/0"] {
        world.want(changed).resources.memory = Bytes(512 << 20);
    }
    world.unwant("old/0");
    world.hide_storage(&id("web/0"), "permission denied");
    world.hide_storage(&id("old/0"), "permission denied");
    let blind = "storage could not be seen because permission denied";
    let plan = world.plan();
    for waits in ["web/0", "old/0"] {
        let change = &plan.changes[&id(waits)];
        assert_eq!(
            (change.class, explain(change)),
            (ChangeClass::Wait, vec![blind.to_owned()])
        );
    }
    assert_eq!(world.class("db/0"), ChangeClass::Reboot);
    let touched: BTreeSet<_> = plan.actions.iter().filter_map(|p| p.action.sliver()).collect();
    assert_eq!(touched, [&id("db/0")].into());
    assert_eq!(check::check(&plan, &world.input()), []);
}

#[test]
fn nobody_begins_anew_where_what_it_is_to_go_on_with_cannot_be_seen() {
    let mut heir = sliver("new/0");
    heir.moved_from = Some(id("web/0"));
    let mut world = settled();
    world.unwant("web/0");
    world.desired.slivers.insert(id("new/0"), heir);
    world.hide_storage(&id("web/0"), "permission denied");
    assert_eq!(world.keys().len(), 0);
    assert_eq!(world.class("new/0"), ChangeClass::Wait);
    assert_eq!(world.class("web/0"), ChangeClass::Wait);
}

#[test]
fn a_boot_waits_for_the_memory_that_others_free() {
    let mut big = sliver("web/0");
    big.resources.memory = Bytes(512 << 20);
    let mut world = World::wanting([sliver("a/0"), sliver("b/0"), sliver("c/0"), sliver("d/0")])
        .with_memory(640)
        .settle();
    for name in ["b/0", "c/0", "d/0"] {
        world.unwant(name);
    }
    world.desired.delete_budget.slivers = 3;
    world.desired.slivers.insert(id("web/0"), big);
    let plan = world.plan();
    assert_eq!(check::check(&plan, &world.input()), []);
    let boot = plan
        .actions
        .iter()
        .find(|a| a.action.key().0 == "boot:web/0")
        .unwrap();
    let after: Vec<_> = boot.after.iter().map(|key| key.0.as_str()).collect();
    assert_eq!(
        after,
        ["export:web/0", "shutdown:b/0", "shutdown:c/0", "shutdown:d/0"]
    );
    let forecast = plan.memory_mib.unwrap();
    assert_eq!((forecast.now, forecast.after, forecast.capacity), (512, 640, 640));
}

#[test]
fn what_will_never_fit_waits_with_the_numbers_and_stays_up() {
    let mut world = settled().with_memory(384);
    world.domains().strangers.push(xeno_model::observed::Stranger {
        name: "laptop-vm".to_owned(),
        memory_mib: 64,
    });
    world.want("web/0").resources.memory = Bytes(256 << 20);
    check(
        &world,
        ChangeClass::Wait,
        &[
            "needs 256 MiB, and 192 of the node's 384 MiB are free for it",
            "memory 128MiB → 256MiB",
        ],
        &[],
    );
}

#[test]
fn a_port_is_handed_over_or_waited_for() {
    let port = Publish {
        guest: 80,
        host: 8080,
    };
    let mut db = sliver("db/0");
    db.publish = vec![port];
    let mut world = World::wanting([db]).settle();
    let mut web = sliver("web/0");
    web.publish = vec![port];
    world.desired.slivers.insert(id("web/0"), web);
    world.unwant("db/0");
    let plan = world.plan();
    let boot = plan
        .actions
        .iter()
        .find(|a| a.action.key().0 == "boot:web/0")
        .unwrap();
    assert!(
        boot.after
            .contains(&crate::action::ActionKey("shutdown:db/0".to_owned()))
    );
    assert_eq!(check::check(&plan, &world.input()), []);
    world.desired.delete_budget.slivers = 0;
    let (class, why, _) = story(&world);
    assert_eq!(class, ChangeClass::Wait);
    assert_eq!(
        why,
        ["port 8080 of the node is held by db/0", "new in the repository"]
    );
}

#[test]
fn an_unfinished_boot_is_only_waited_for() {
    let mut web = sliver("web/0");
    web.health = Some(health());
    let mut world = World::wanting([web]).settle();
    world.applied.clear();
    world.observed.health.clear();
    check(
        &world,
        ChangeClass::InPlace,
        &[
            "an earlier run began it and did not finish",
            "it runs as asked, and has not been healthy since",
        ],
        &["await:web/0"],
    );
    let mut world = World::wanting([world.desired.slivers[&id("web/0")].clone()]).settle();
    world
        .applied
        .get_mut(&id("web/0"))
        .unwrap()
        .desired
        .resources
        .vcpus = 2;
    world.observed.health.clear();
    let never_healthy = "it runs as asked, and has not been healthy since";
    check(
        &world,
        ChangeClass::InPlace,
        &["vcpus 2 → 1", never_healthy],
        &["await:web/0"],
    );
}

#[test]
fn a_failed_sliver_waits_and_says_why() {
    let mut world = settled();
    world.want("web/0").resources.vcpus = 2;
    let reason = Reason::BackingOff {
        action: crate::action::ActionKey("boot:web/0".to_owned()),
        why: "no kernel".to_owned(),
        retry: crate::ports::Retry::Later,
        until: Timestamp(0),
    };
    world.backing_off.insert(id("web/0"), reason.clone());
    world.backing_off.insert(id("db/0"), reason);
    let (class, why, steps) = story(&world);
    assert_eq!((class, steps.len()), (ChangeClass::Wait, 0));
    assert_eq!(why[1], "vcpus 1 → 2");
    assert_eq!(
        world.class("db/0"),
        ChangeClass::Keep,
        "what has nothing to do does not wait"
    );
}
