//! Commands that change what is wanted: by commits, in a real repository.

use crate::world::{World, check, read};

fn log(world: &World) -> Vec<String> {
    let said = world.git("work", &["log", "--format=%s"]);
    said.out.lines().map(str::to_owned).collect()
}

fn clean(world: &World) {
    assert_eq!(world.git("work", &["status", "--porcelain"]).out, "");
}

#[test]
fn suspending_changes_one_word_and_commits_it() {
    let world = World::with_hook();
    world.edit(
        "work/slices/web.yaml",
        "state: running",
        "state:   running     # as ever",
    );
    world.commit("running");
    let before = read(&world, "work/slices/web.yaml");
    let parts = [
        "-  state:   running     # as ever",
        "+  state:   suspended     # as ever",
        "nothing was written",
    ];
    check(&world, &["suspend", "web", "--dry-run"], 0, &parts);
    assert_eq!(read(&world, "work/slices/web.yaml"), before);
    assert_eq!(log(&world).len(), 2);

    check(
        &world,
        &["suspend", "web"],
        0,
        &["committed", "Suspend web", "git push"],
    );
    assert_eq!(
        read(&world, "work/slices/web.yaml"),
        before.replace("  running ", "  suspended ")
    );
    assert_eq!(log(&world)[0], "Suspend web");
    clean(&world);
    check(
        &world,
        &["suspend", "web"],
        0,
        &["nothing to do: web is suspended already"],
    );
    check(
        &world,
        &["resume", "web/0", "-m", "Go on\n\nIt is morning."],
        0,
        &["committed", ": Go on"],
    );
    assert_eq!(read(&world, "work/slices/web.yaml"), before);
    assert_eq!(log(&world)[0], "Go on");
    clean(&world);
    assert_eq!(world.push(&["main"]).code, Some(0));
}

#[test]
fn one_sliver_of_many_is_suspended_by_an_override_that_goes_again() {
    let world = World::with_hook();
    world.edit("work/slices/web.yaml", "[node-a]", "[node-a, node-a]");
    world.commit("two");
    let before = read(&world, "work/slices/web.yaml");
    let added = "+    - { match: { number: 1 }, patch: { state: suspended } }";
    check(
        &world,
        &["suspend", "web/1"],
        0,
        &["+  overrides:", added, "Suspend web/1"],
    );
    check(
        &world,
        &["suspend", "web/1"],
        0,
        &["nothing to do: web/1 is suspended already"],
    );
    check(
        &world,
        &["tree", "web/1"],
        0,
        &["web/1  suspended on node node-a"],
    );
    check(&world, &["tree", "web/0"], 0, &["web/0  running on node node-a"]);
    check(&world, &["resume", "web/1"], 0, &["Resume web/1"]);
    assert_eq!(read(&world, "work/slices/web.yaml"), before);
    // Where an override says more than that, only its state changes.
    let richer = "spec:\n  overrides:\n    - match: { number: 1 }   # the odd one\n      patch: { state: suspended, resources: { vcpus: 2 } }\n";
    world.edit("work/slices/web.yaml", "spec:\n", richer);
    world.commit("richer");
    check(
        &world,
        &["resume", "web/1"],
        0,
        &["+      patch: { state: running, resources: { vcpus: 2 } }"],
    );
    check(
        &world,
        &["suspend", "web"],
        0,
        &["Suspend web", "web/1 stays running: an override says so"],
    );
    clean(&world);
    assert_eq!(world.push(&["main"]).code, Some(0));
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_written() {
    let world = World::with_hook();
    check(
        &world,
        &["suspend", "wbe"],
        1,
        &["there is no slice wbe", "did you mean `web`?"],
    );
    check(
        &world,
        &["suspend", "web/7"],
        1,
        &["there is no sliver web/7", "has 1 sliver"],
    );
    world.edit("work/slices/web.yaml", "state: running", "state: stopped");
    world.commit("stopped");
    check(
        &world,
        &["suspend", "web"],
        1,
        &["web is stopped, not running", "no memory"],
    );
    check(
        &world,
        &["resume", "web"],
        1,
        &["web is stopped, not suspended", "it boots"],
    );
    world.edit("work/slices/web.yaml", "state: stopped", "state: running");
    let parts = ["slices/web.yaml has changes that are not committed", "git stash"];
    check(&world, &["suspend", "web"], 1, &parts);
    world.commit("running");
    // Whatever else is changed or staged stays as it is, and out of the commit.
    world.edit("work/sites/home.yaml", "vcpus: 2", "vcpus: 3");
    assert_eq!(world.git("work", &["add", "-A"]).code, Some(0));
    check(&world, &["suspend", "web"], 0, &["committed"]);
    assert_eq!(
        world.git("work", &["status", "--porcelain"]).out,
        "M  sites/home.yaml\n"
    );
    assert_eq!(
        world.git("work", &["show", "--format=", "--name-only"]).out,
        "slices/web.yaml\n"
    );
    // A hook that says no leaves nothing behind.
    let hook = "printf '#!/bin/sh\\necho not today; exit 1\\n' >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit";
    assert_eq!(world.sh("work", hook).code, Some(0));
    check(
        &world,
        &["resume", "web"],
        1,
        &["git commit failed: not today", "nothing was changed"],
    );
    assert_eq!(
        world.git("work", &["status", "--porcelain"]).out,
        "M  sites/home.yaml\n"
    );
    check(
        &world,
        &["suspend", "web", "--repo", "../repo.git"],
        1,
        &["has no files to edit"],
    );
    world.edit("work/slices/web.yaml", "memory:", "memroy:");
    check(&world, &["resume", "web"], 1, &["did you mean `memory`?"]);
}

#[test]
fn what_was_deleted_comes_back_with_all_it_needs() {
    let world = World::with_hook();
    let (web, page) = (
        read(&world, "work/slices/web.yaml"),
        read(&world, "work/content/web/index.html"),
    );
    assert_eq!(
        world
            .git("work", &["rm", "-q", "slices/web.yaml", "content/web/index.html"])
            .code,
        Some(0)
    );
    world.commit("web is over");
    world.edit("work/sites/home.yaml", "vcpus: 2", "vcpus: 3");
    world.commit("more");
    let parts = [
        "from commit ",
        "first",
        "+++ b/slices/web.yaml",
        "b/content/web/index.html",
        "nothing was written",
    ];
    check(&world, &["undelete", "web", "--dry-run"], 0, &parts);
    clean(&world);
    check(
        &world,
        &["undelete", "web"],
        0,
        &[
            "committed",
            "not asked whether what they wrote is still kept: node-a",
        ],
    );
    assert_eq!(read(&world, "work/slices/web.yaml"), web);
    assert_eq!(read(&world, "work/content/web/index.html"), page);
    assert_eq!(log(&world)[0], "Undelete web");
    clean(&world);
    check(
        &world,
        &["undelete", "web"],
        0,
        &["nothing to do: web is asked for"],
    );
    check(
        &world,
        &["undelete", "db"],
        1,
        &["no commit before", "asks for db"],
    );
    assert_eq!(world.push(&["main"]).code, Some(0));
}

#[test]
fn a_document_comes_back_into_the_file_it_shared() {
    let world = World::with_hook();
    let web = read(&world, "work/slices/web.yaml");
    let db = web.replace("name: web", "name: db").replace("18080", "19090");
    std::fs::write(world.path("work/slices/web.yaml"), format!("{}---\n{db}", &web)).expect("written");
    world.commit("two in one");
    std::fs::write(world.path("work/slices/web.yaml"), &db).expect("written");
    world.commit("web is over");
    check(&world, &["undelete", "web"], 0, &["committed"]);
    assert_eq!(read(&world, "work/slices/web.yaml"), format!("{db}---\n{web}"));
}

#[test]
fn a_sliver_is_placed_again_where_it_was() {
    let world = World::with_hook();
    world.edit("work/slices/web.yaml", "[node-a]", "[node-a, node-a, node-a]");
    world.commit("three");
    world.edit("work/slices/web.yaml", "[node-a, node-a, node-a]", "[node-a]");
    world.commit("one");
    check(
        &world,
        &["undelete", "web/2"],
        1,
        &["the next one is web/1", "undelete web/1 first"],
    );
    check(
        &world,
        &["undelete", "web/1"],
        0,
        &["+  placement: { nodes: [node-a, node-a] }"],
    );
    check(&world, &["undelete", "web/2"], 0, &["committed"]);
    assert!(read(&world, "work/slices/web.yaml").contains("nodes: [node-a, node-a, node-a] }"));
    check(&world, &["undelete", "web/3"], 1, &["no commit before"]);
}

#[test]
fn history_tells_which_commits_touched_a_slice() {
    let world = World::with_hook();
    world.edit("work/slices/web.yaml", "memory: 256MiB", "memory: 128MiB");
    world.edit("work/slices/web.yaml", "[node-a]", "[node-a, node-a]");
    world.commit("smaller, twice");
    world.edit("work/sites/home.yaml", "vcpus: 2", "vcpus: 3");
    world.commit("nothing of web");
    world.edit("work/slices/web.yaml", "memory:", "memroy:");
    world.commit("broken");
    world.edit("work/slices/web.yaml", "memroy:", "memory:");
    world.commit("mended");
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("faster");
    let said = check(
        &world,
        &["history", "web"],
        0,
        &[
            "web: vcpus 1 → 2",
            "web/0: memory 256MiB → 128MiB",
            "web/1: placed on node-a",
            "web/0: placed on node-a",
        ],
    );
    for quiet in ["nothing of web", "broken", "mended"] {
        assert!(!said.out.contains(quiet), "{}", said.out);
    }
    let one = check(&world, &["history", "web/1"], 0, &["faster", "smaller, twice"]);
    assert!(!one.out.contains("first"), "{}", one.out);
    check(&world, &["history", "web", "--limit", "1"], 0, &["faster"]);
    check(&world, &["history", "db"], 1, &["asks for db"]);
    let json: serde_json::Value =
        serde_json::from_str(&world.xeno("work", &["history", "web", "-o", "json"]).out).expect("JSON");
    assert_eq!(
        (
            json["formatVersion"].as_u64(),
            json["commits"].as_array().map(Vec::len)
        ),
        (Some(1), Some(3))
    );
}

#[test]
fn a_tree_shows_who_runs_what_made_of_what() {
    let world = World::with_hook();
    let parts = [
        "fleet demo\n└─ site home\n   └─ node node-a  qemu, 1536 MiB for guests, 1 sliver\n      └─ web/0  running\n         └─ /  local over files ",
        " over template debian-web/current\n",
    ];
    check(&world, &["tree"], 0, &parts);
    let parts = [
        "web/0  running on node node-a\n├─ kernel  debian-web/current  sha256:2d71",
        "└─ /\n   ├─ local what the guest writes\n   ├─ files ",
        "   └─ template debian-web/current  sha256:2d71",
    ];
    check(&world, &["tree", "web/0"], 0, &parts);
    check(&world, &["tree", "web/9"], 1, &["there is no sliver web/9"]);
    check(
        &world,
        &["tree", "--node", "node-b"],
        1,
        &["there is no node node-b"],
    );
    check(
        &world,
        &["tree", "--rev", "HEAD", "--node", "node-a"],
        0,
        &["web/0"],
    );
    let json: serde_json::Value =
        serde_json::from_str(&world.xeno("work", &["tree", "-o", "json"]).out).expect("JSON");
    assert_eq!(
        json["sites"][0]["nodes"][0]["slivers"][0]["sliver"], "web/0",
        "{json}"
    );
    assert_eq!(json["formatVersion"], 1);
}
