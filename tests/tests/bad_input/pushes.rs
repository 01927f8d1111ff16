//! What people push: refused by `xeno validate` and by the hook with its place, and harmless where there is no hook.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use crate::world::{World, says};

/// A 100 MB manifest costs an agent no more than reading the object once.
const BIG_PEAK_KIB: u64 = 400_000;

#[test]
fn mistakes_in_a_manifest_are_told_all_at_once_with_their_places() {
    let world = World::new();
    let path = "slices/web.yaml";
    world.edit(path, "  state: stopped", "  state: stopped\n  state: suspended");
    world.refuses(&[
        "`state` is given twice",
        "slices/web.yaml:21:3 (spec.state)",
        "slices/web.yaml:20:3",
    ]);
    world.edit(path, "state: stopped\n  state: suspended", "state: stopped");
    world.edit(path, "vcpus: 1, memory: 256MiB", "vcpu: 1, memory: 256MB");
    world.edit(path, "placement:", "colour: red\n  placement:");
    world.refuses(&[
        "there is no field `vcpu` here",
        "slices/web.yaml:18:16",
        "did you mean `vcpus`?",
        "`256MB` is not an amount of bytes",
        "slices/web.yaml:18:33",
        "did you mean `256MiB`?",
        "there is no field `colour` here",
        "slices/web.yaml:19:3",
    ]);
}

fn bomb() -> String {
    let mut text = "apiVersion: xenoslice/v1\nkind: Slice\na0: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        let below = level - 1;
        text.push_str(&format!(
            "a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}]\n"
        ));
    }
    text
}

#[test]
fn an_alias_bomb_is_not_unfolded() {
    let world = World::new();
    world
        .repository
        .write("slices/bomb.yaml", &bomb())
        .expect("written");
    world.refuses(&[
        "more than 250000 values once aliases are unfolded",
        "slices/bomb.yaml:",
        "write fewer aliases",
    ]);
}

#[test]
fn a_hundred_megabytes_are_refused_by_their_size() {
    let world = World::new();
    let node = world.node();
    world
        .repository
        .write("slices/big.yaml", &"a".repeat(100_000_000))
        .expect("written");
    world.refuses(&[
        "a manifest of 100000000 bytes is more than the 4194304 bytes allowed",
        "slices/big.yaml",
    ]);
    world.without_hook();
    assert!(world.push_again());
    node.await_status(&["rejected: commit", "a manifest of 100000000 bytes"]);
    node.is_still_at(&world.good);
    assert!(
        node.agent_peak_kib() < BIG_PEAK_KIB,
        "{} KiB",
        node.agent_peak_kib()
    );
}

#[test]
fn symlinks_and_submodules_are_never_followed() {
    let world = World::new();
    symlink("/etc/passwd", world.repository.work.join("slices/link.yaml")).expect("a link");
    world.refuses(&[
        "a manifest may not be a symbolic link",
        "slices/link.yaml",
        "put the file itself here",
    ]);
    world.repository.take_back().expect("taken back");
    world.git(&["submodule", "--quiet", "add", "../repo.git", "slices/sub.yaml"]);
    world.refuses(&[
        "a manifest may not be a submodule",
        "slices/sub.yaml",
        "put the file itself here",
    ]);
}

#[test]
fn what_is_not_utf_8_is_told_by_its_place() {
    let world = World::new();
    let slices = world.repository.work.join("slices");
    std::fs::write(slices.join("n.yaml"), b"apiVersion: xenoslice/v1\nkind: Sl\xff\n").expect("written");
    let name = std::ffi::OsStr::from_bytes(b"a\xffb.yaml");
    std::fs::write(slices.join(name), "x").expect("written");
    world.refuses(&[
        "the file is not UTF-8 text",
        "slices/n.yaml:2:9",
        "byte 0xff",
        "the name is not plain UTF-8 text",
        "slices/a\u{fffd}b.yaml",
    ]);
}

#[test]
fn a_bad_commit_that_no_hook_saw_leaves_the_last_good_one_in_force() {
    let world = World::new();
    let node = world.node();
    world.without_hook();
    world
        .repository
        .write("slices/bomb.yaml", &bomb())
        .expect("written");
    symlink("/etc/passwd", world.repository.work.join("slices/link.yaml")).expect("a link");
    std::fs::write(world.repository.work.join("slices/n.yaml"), b"\xff").expect("written");
    assert!(world.push("bad").accepted);
    node.await_status(&[
        "rejected: commit",
        "slices/bomb.yaml:",
        "slices/link.yaml",
        "slices/n.yaml:1:1",
    ]);
    // Whoever waits for a push to arrive must not be told that it did.
    node.xeno(&["reconcile", "--wait"])
        .refused(&["was not accepted: see `xeno status`"]);
    node.is_still_at(&world.good);
    assert!(node.agent_peak_kib() < 200_000, "{} KiB", node.agent_peak_kib());
}

#[test]
fn unrelated_history_needs_a_persons_word() {
    let world = World::new();
    let node = world.node();
    world.git(&["checkout", "-q", "--orphan", "other"]);
    world.git(&["commit", "-q", "-m", "unrelated"]);
    let mut git = std::process::Command::new("git");
    git.current_dir(&world.repository.work)
        .args(["push", "-f", "origin", "other:main"]);
    let forced = crate::world::Said::by(&mut git);
    forced.refused(&["does not descend from", "xeno.acceptRewrites"]);
    world.without_hook();
    world.git(&["push", "-q", "-f", "origin", "other:main"]);
    node.await_status(&[
        "failed to accept commit",
        "does not descend from",
        "set `accept_rewrites = true`",
    ]);
    node.xeno(&["reconcile", "--wait"])
        .refused(&["does not descend from"]);
    node.is_still_at(&world.good);
}

#[test]
fn a_repository_that_vanishes_changes_nothing() {
    let world = World::new();
    let node = world.node();
    let aside = world.dir.join("aside.git");
    std::fs::rename(&world.repository.bare, &aside).expect("moved");
    node.xeno(&["reconcile", "--wait"]).refused(&["repo.git"]);
    node.await_status(&["failed to look for a repository at", "No such file or directory"]);
    node.is_still_at(&world.good);
    std::fs::rename(&aside, &world.repository.bare).expect("moved back");
    world.edit("slices/web.yaml", "Welcome to web", "Welcome back");
    let push = world.push("back");
    assert!(push.accepted, "{}", push.output);
    let waited = node.xeno(&["reconcile", "--wait"]);
    assert_eq!(waited.code, Some(0), "{waited:?}");
    node.is_still_at(&push.revision);
}

#[test]
fn a_commit_that_empties_everything_removes_nothing() {
    let world = World::new();
    let node = world.node();
    world.git(&["rm", "-rq", "."]);
    world.refuses_push(&[
        "there is no fleet.yaml",
        "an empty repository never means that nothing is wanted",
    ]);
    world.repository.take_back().expect("taken back");
    world.git(&["rm", "-q", "slices/web.yaml"]);
    let push = world.push("no slices");
    let said = push.output.replace("remote: ", "");
    says(
        &said,
        &[
            "nothing is removed on the word of an empty commit",
            "0 to remove, 1 waiting",
        ],
    );
    node.await_status(&[
        "web/0 waiting",
        "nothing is removed on the word of an empty commit",
    ]);
    world.git(&["revert", "--no-edit", "HEAD"]);
    world.git(&["push", "-q", "origin", "main"]);
    node.0
        .await_converged(crate::world::DEADLINE)
        .expect("web/0 is wanted again");
    let slivers = node.xeno(&["get", "slivers"]);
    says(&slivers.out, &["web/0"]);
}
