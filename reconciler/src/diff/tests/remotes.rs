//! Layers that lie in remote directories.

use std::collections::BTreeMap;

use xeno_model::desired::Remote;
use xeno_model::id::Timestamp;
use xeno_model::observed::{RemoteState, Seen};

use super::*;
use crate::exec::{ActionState, RetryPolicy, Run, RunState};
use crate::scripted::ScriptedNode;
use crate::testing::{OVERLAY, remote, remote_to_write};

fn silent() -> RemoteState {
    RemoteState::Silent {
        since: Timestamp(1_795_327_848_000),
        why: "it has not answered for 5 s".to_owned(),
    }
}

/// What is planned, and what is said about web/0.
fn check(world: &World, plan: &[&str], class: ChangeClass, reasons: &[&str]) {
    assert_eq!(world.keys(), plan);
    let made = world.plan();
    let change = &made.changes[&id("web/0")];
    assert_eq!(
        (change.class, explain(change)),
        (class, reasons.iter().map(ToString::to_string).collect())
    );
    assert_eq!(check::check(&made, &world.input()), []);
}

#[test]
fn what_lies_afar_is_mounted_once_for_all_that_use_it() {
    let world = World::wanting([remote("web/0"), remote("web/1")]);
    let keys = world.keys();
    let mounts: Vec<_> = keys.iter().filter(|key| key.starts_with("mount:")).collect();
    assert_eq!(mounts, ["mount:nfs://store.example/acme/apache"]);
    let plan = world.plan();
    let mount = plan
        .actions
        .iter()
        .find(|planned| planned.action.verb() == "mount")
        .unwrap();
    assert_eq!(mount.serves, [id("web/0"), id("web/1")].into());
    for sliver in ["web/0", "web/1"] {
        let of = |verb: &str| {
            plan.actions
                .iter()
                .find(|p| p.action.key().0 == format!("{verb}:{sliver}"))
        };
        assert!(of("stack").unwrap().after.contains(&mount.action.key()));
        assert!(of("boot").unwrap().after.contains(&mount.action.key()));
    }
}

#[test]
fn a_writable_layer_afar_is_opened_once_its_directory_is_mounted_to_be_written() {
    let mut world = World::wanting([remote_to_write("web/0")]);
    world.want("web/0").mounts[0].layers.truncate(1);
    check(
        &world,
        &[
            "fetch:d1d1d1d1d1d1",
            "mount:nfs://store.example/acme/apache",
            "mount:nfs://store.example/acme/logs,rw",
            "open:web/0",
            "stack:web/0",
            "export:web/0",
            "boot:web/0",
        ],
        ChangeClass::Create,
        &["new in the repository"],
    );
    let plan = world.plan();
    let open = plan
        .actions
        .iter()
        .find(|planned| planned.action.verb() == "open")
        .unwrap();
    let before: Vec<_> = open.after.iter().map(ToString::to_string).collect();
    assert_eq!(before, ["mount:nfs://store.example/acme/logs,rw"]);
}

#[test]
fn a_server_that_cannot_be_reached_takes_no_running_guest_down() {
    let mut world = World::wanting([sliver("web/0"), sliver("db/0")]).settle();
    let layer = remote("web/0").mounts[0].layers[0].clone();
    world.want("web/0").mounts[0].layers.insert(0, layer);
    let node = ScriptedNode::like(&world.observed, 2048);
    node.silence(OVERLAY);
    let mut run = Run::new(world.plan(), RetryPolicy::default(), 7);
    let mut clock = 0;
    while !run.is_finished() {
        for key in run.ready(2, clock) {
            run.started(&key).unwrap();
            let action = run.action(&key).unwrap().action.clone();
            run.finished(&key, node.perform(&action, &world.desired).unwrap(), clock)
                .unwrap();
        }
        clock += 60_000;
    }
    assert_eq!(run.state(), RunState::Failed);
    let stopped = run
        .actions()
        .find(|(planned, _)| planned.action.key().0 == "shutdown:web/0");
    assert!(matches!(stopped.unwrap().1, ActionState::Blocked { by } if by.0.starts_with("mount:")));
    assert_eq!(node.effects(), Vec::<String>::new());
}

#[test]
fn a_server_that_falls_silent_below_a_guest_is_said_and_nothing_is_done() {
    let mut world = World::wanting([remote("web/0"), sliver("db/0")]).settle();
    world.observed.remotes = Seen::Known(BTreeMap::from([(Remote::to_read(OVERLAY), silent())]));
    check(
        &world,
        &[],
        ChangeClass::Keep,
        &[
            "nfs://store.example/acme/apache does not answer since 2026-11-22 06:10:48 UTC (it has not answered for \
             5 s): the guest goes on, but what it reads from there waits or fails",
        ],
    );
    assert_eq!(world.plan().changes[&id("db/0")].reasons, []);
}

#[test]
fn nothing_that_reads_from_a_silent_server_is_started_again_before_it_answers() {
    let mut world = World::wanting([remote("web/0"), sliver("db/0")]).settle();
    world.observed.remotes = Seen::Known(BTreeMap::from([(Remote::to_read(OVERLAY), silent())]));
    world.want("web/0").resources.vcpus = 2;
    let plan = world.plan();
    assert_eq!(
        keys(&plan),
        [
            "mount:nfs://store.example/acme/apache",
            "checkpoint:web/0",
            "shutdown:web/0",
            "boot:web/0"
        ]
    );
    assert!(plan.actions[2].after.contains(&plan.actions[0].action.key()));
}

#[test]
fn what_is_mounted_and_could_not_be_seen_keeps_only_its_users_waiting() {
    let mut world = World::wanting([remote("web/0"), sliver("db/0")]);
    world.observed.remotes = Seen::Unknown {
        why: "/proc is not there".to_owned(),
    };
    assert_eq!(world.class("web/0"), ChangeClass::Wait);
    assert_eq!(world.class("db/0"), ChangeClass::Create);
}
