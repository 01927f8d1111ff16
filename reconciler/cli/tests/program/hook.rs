//! What a push is answered.

use crate::world::World;

#[test]
fn a_push_is_answered_with_the_plan_of_every_node() {
    let world = World::with_hook();
    let first = world.push(&["main"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    for part in [
        "remote: node node-a",
        "(assumed)",
        "remote: + create   web/0",
        "1 to create",
    ] {
        assert!(first.err.contains(part), "no {part:?} in\n{}", first.err);
    }
    assert_every_statement_is_marked(&first.err);
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("more");
    let second = world.push(&["main"]);
    assert_every_statement_is_marked(&second.err);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.err.contains("reboot   web/0"), "{}", second.err);
    std::fs::write(world.path("work/README"), "nothing that matters").expect("a file");
    world.commit("a note");
    let third = world.push(&["main"]);
    assert!(third.err.contains("Nothing to do on any node"), "{}", third.err);
    assert_every_statement_is_marked(&third.err);
}

/// A line that says what happens to something, or to all of it, says what it is based on.
fn assert_every_statement_is_marked(said: &str) {
    let lines = said.lines().filter_map(|line| line.strip_prefix("remote: "));
    let statements: Vec<&str> = lines
        .filter(|line| {
            line.starts_with(['+', '±', '=', '-', '!', '~', '>', 'o', 'x'])
                || line.contains(" to create,")
                || line.starts_with("Nothing")
        })
        .collect();
    assert!(!statements.is_empty(), "{said}");
    for line in statements {
        assert!(
            line.ends_with(" assumed") || line.ends_with(" (assumed)"),
            "{line:?} in\n{said}"
        );
    }
}

#[test]
fn a_broken_push_is_refused_with_every_mistake_and_leaves_nothing() {
    let world = World::with_hook();
    world.edit("work/slices/web.yaml", "memory:", "memroy:");
    world.edit("work/sites/home.yaml", "kind: Site", "kind: Sight");
    world.commit("broken");
    let push = world.push(&["main"]);
    assert_eq!(push.code, Some(1), "{push:?}");
    for part in [
        "slices/web.yaml:",
        "did you mean `memory`?",
        "sites/home.yaml:",
        "refused: nothing of commit",
    ] {
        assert!(push.err.contains(part), "no {part:?} in\n{}", push.err);
    }
    assert!(!push.err.contains('\u{1b}'), "colours nobody asked for");
    assert_ne!(
        world
            .git("repo.git", &["rev-parse", "-q", "--verify", "main"])
            .code,
        Some(0)
    );
    // Put right by a further commit on top, as people do.
    world.edit("work/slices/web.yaml", "memroy:", "memory:");
    world.edit("work/sites/home.yaml", "kind: Sight", "kind: Site");
    world.commit("mended");
    assert_eq!(world.push(&["main"]).code, Some(0));
}

#[test]
fn the_branch_cannot_be_deleted_or_rewritten_and_others_are_free() {
    let world = World::with_hook();
    assert_eq!(world.push(&["main"]).code, Some(0));
    let deleted = world.push(&[":main"]);
    assert_eq!(deleted.code, Some(1), "{deleted:?}");
    assert!(deleted.err.contains("cannot be deleted"), "{}", deleted.err);

    assert_eq!(
        world.git("work", &["checkout", "-q", "--orphan", "other"]).code,
        Some(0)
    );
    world.commit("unrelated");
    let rewritten = world.push(&["--force", "other:main"]);
    assert_eq!(rewritten.code, Some(1), "{rewritten:?}");
    assert!(
        rewritten.err.contains("does not descend from"),
        "{}",
        rewritten.err
    );
    assert!(rewritten.err.contains("xeno.acceptRewrites"), "{}", rewritten.err);

    let aside = world.push(&["other:wip"]);
    assert_eq!(aside.code, Some(0), "{aside:?}");
    assert_eq!(world.push(&[":wip"]).code, Some(0));

    assert_eq!(
        world
            .git("repo.git", &["config", "xeno.acceptRewrites", "true"])
            .code,
        Some(0)
    );
    assert_eq!(world.push(&["--force", "other:main"]).code, Some(0));
}

#[test]
fn a_hook_of_somebody_else_stays() {
    let world = World::with_hook();
    // Our own may be written anew.
    assert_eq!(
        world
            .xeno(".", &["hook", "install", "repo.git", "--branch", "prod"])
            .code,
        Some(0)
    );
    let hook = world.path("repo.git/hooks/pre-receive");
    std::fs::write(&hook, "#!/bin/sh\nexit 0\n").expect("a hook");
    let refused = world.xeno(".", &["hook", "install", "repo.git"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("is not ours") && refused.err.contains("hook run --branch="),
        "{}",
        refused.err
    );
    assert_eq!(
        std::fs::read_to_string(&hook).expect("a hook"),
        "#!/bin/sh\nexit 0\n"
    );
}

#[test]
fn a_fleet_may_lie_deeper_in_its_repository() {
    let world = World::with_hook();
    assert_eq!(
        world
            .xeno(".", &["hook", "install", "repo.git", "--path", "infra/fleet"])
            .code,
        Some(0)
    );
    assert_eq!(world.git("work", &["rm", "-rq", "."]).code, Some(0));
    let made = world.xeno(
        "work",
        &[
            "init",
            "infra/fleet",
            "--fleet",
            "demo",
            "--template",
            crate::world::TEMPLATE,
        ],
    );
    assert_eq!(made.code, Some(0), "{made:?}");
    std::fs::write(world.path("work/other.yaml"), "not: a manifest\n").expect("a file");
    world.commit("moved");
    let push = world.push(&["main"]);
    assert_eq!(push.code, Some(0), "{push:?}");
    assert!(push.err.contains("create   web/0"), "{}", push.err);
}

#[test]
fn what_waits_for_approval_is_said() {
    let world = World::with_hook();
    world.edit("work/fleet.yaml", "spec:\n", "spec:\n  approval: interrupts\n");
    world.commit("careful");
    let first = world.push(&["main"]);
    assert!(
        !first.err.contains("until somebody approves"),
        "what is new disturbs nobody: {}",
        first.err
    );
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("more");
    let second = world.push(&["main"]);
    assert_eq!(second.code, Some(0), "{second:?}");
    let part = "1 sliver waits until somebody approves what disturbs it: `xeno approve`";
    assert!(second.err.contains(part), "{}", second.err);
    let plan = world.xeno("work", &["plan", "--fleet"]);
    let part = "interrupts the service, waits for approval";
    assert!(plan.out.contains(part), "{plan:?}");
}
