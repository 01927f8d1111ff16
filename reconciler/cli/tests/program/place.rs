//! Locks: written, checked, and asked for by the answer to a push.

use crate::world::{Said, World};

/// Where `web` lies in the fleet that tests begin with.
const LOCK: &str = "work/placement/web.lock.yaml";

/// A fleet of five nodes at two sites, with a slice that wants four slivers; nothing is committed but what `xeno init` wrote.
fn world() -> World {
    let world = World::with_hook();
    let mut nodes = String::from("apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: away }\n");
    for (node, site) in [
        ("node-b", "home"),
        ("node-c", "home"),
        ("far-1", "away"),
        ("far-2", "away"),
    ] {
        nodes.push_str(&format!(
            "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {node} }}\n\
             spec: {{ site: {site}, capacity: {{ memory: 1GiB, vcpus: 4 }} }}\n"
        ));
    }
    std::fs::write(world.path("work/sites/more.yaml"), nodes).expect("a manifest");
    world.edit("work/slices/web.yaml", "nodes: [node-a]", "replicas: 4");
    world
}

fn check(world: &World, arguments: &[&str], code: i32, parts: &[&str]) -> Said {
    let said = world.xeno("work", arguments);
    assert_eq!(said.code, Some(code), "xeno {arguments:?}: {said:?}");
    for part in parts {
        assert!(
            said.all().contains(part),
            "xeno {arguments:?}: no {part:?} in\n{}",
            said.all()
        );
    }
    said
}

fn lock(world: &World) -> String {
    std::fs::read_to_string(world.path(LOCK)).expect("a lock")
}

/// Takes a node out of the fleet.
fn lose(world: &World, node: &str) {
    let path = world.path("work/sites/more.yaml");
    let text = std::fs::read_to_string(&path).expect("a manifest");
    let kept: Vec<&str> = text
        .split("---\n")
        .filter(|part| !part.contains(&format!("name: {node} ")))
        .collect();
    assert_eq!(kept.len() + 1, text.split("---\n").count());
    std::fs::write(path, kept.join("---\n")).expect("written");
}

/// The node of a sliver by the lock.
fn node_of(world: &World, sliver: &str) -> String {
    let lock = lock(world);
    let line = lock
        .lines()
        .find_map(|line| line.trim().strip_prefix(&format!("{sliver}: ")));
    line.expect("it has a place").to_owned()
}

#[test]
fn locks_are_written_once_and_hold() {
    let world = world();
    check(
        &world,
        &["place", "--check"],
        1,
        &["+ web/3 → ", "1 lock is out of date", "xeno place && git add"],
    );
    check(
        &world,
        &["place", "--dry-run"],
        0,
        &["+ web/0 → ", "nothing was written"],
    );
    assert!(!world.path(LOCK).exists());
    check(
        &world,
        &["place"],
        0,
        &["placement/web.lock.yaml", "+ web/0 → ", "commit it"],
    );
    let first = lock(&world);
    assert!(
        first.starts_with("# Written by `xeno place`; commit it."),
        "{first}"
    );
    check(
        &world,
        &["place"],
        0,
        &["ok: 1 slice, 4 slivers: nothing has to move"],
    );
    check(&world, &["place", "--check"], 0, &["ok: "]);
    check(&world, &["validate"], 0, &["1 slice with 4 slivers"]);
    assert_eq!(lock(&world), first);
    // From deeper inside, and from elsewhere.
    assert_eq!(world.xeno("work/slices", &["place", "--check"]).code, Some(0));
    assert_eq!(
        world.xeno(".", &["place", "--check", "--repo", "work"]).code,
        Some(0)
    );
    let left: Vec<_> = std::fs::read_dir(world.path("work/placement"))
        .expect("locks")
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_lost_node_moves_what_was_on_it_and_says_so() {
    let world = world();
    check(&world, &["place"], 0, &[]);
    let lost = node_of(&world, "web/0");
    if lost == "node-a" {
        world.edit("work/sites/home.yaml", "name: node-a ", "name: node-z ");
    } else {
        lose(&world, &lost);
    }
    let gone = format!("> web/0 {lost} → ");
    check(
        &world,
        &["place", "--check"],
        1,
        &[&gone, ": node gone", "= 3 stay"],
    );
    check(
        &world,
        &["validate"],
        1,
        &["error[E01", "out of date", &format!("web/0 on {lost}: node gone")],
    );
    let said = check(&world, &["place", "-o", "json"], 0, &[]);
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (&json["formatVersion"], &json["changed"]),
        (&1.into(), &true.into()),
        "{json}"
    );
    let moves = json["slices"][0]["moves"].as_array().expect("moves");
    assert_eq!(moves.len(), 1, "{json}");
    assert_eq!(
        (&moves[0]["from"], &moves[0]["why"]),
        (&lost.into(), &"node gone".into()),
        "{json}"
    );
    check(&world, &["place", "--check"], 0, &[]);
}

#[test]
fn fewer_more_and_too_many() {
    let world = world();
    check(&world, &["place"], 0, &[]);
    world.edit("work/slices/web.yaml", "replicas: 4", "replicas: 3");
    let third = node_of(&world, "web/3");
    check(
        &world,
        &["place"],
        0,
        &[&format!("- web/3 from {third}: only 3 wanted"), "= 3 stay"],
    );
    world.edit("work/slices/web.yaml", "replicas: 3", "replicas: 99");
    let before = lock(&world);
    let said = check(
        &world,
        &["place"],
        1,
        &[
            "of 99 slivers of web have no place",
            "too little memory left",
            "nothing was written",
        ],
    );
    assert!(
        said.err.contains("help: add a node, ask for less memory"),
        "{}",
        said.err
    );
    check(&world, &["place", "--check"], 1, &["have no place"]);
    assert_eq!(lock(&world), before);
    world.edit("work/slices/web.yaml", "replicas: 99", "replicas: [");
    check(
        &world,
        &["place"],
        1,
        &["slices/web.yaml:", "1 mistake in 1 file"],
    );
    assert_eq!(lock(&world), before);
}

#[test]
fn only_the_slices_that_are_named_move() {
    let world = world();
    let web = std::fs::read_to_string(world.path("work/slices/web.yaml")).expect("a manifest");
    let api = web
        .replace("name: web", "name: api")
        .replace("host: 18080", "host: 19080");
    std::fs::write(world.path("work/slices/api.yaml"), api).expect("written");
    check(&world, &["place", "api"], 0, &["placement/api.lock.yaml"]);
    assert!(!world.path(LOCK).exists());
    check(&world, &["place", "--check", "api"], 0, &["ok: 1 slice"]);
    check(&world, &["place", "--check"], 1, &["1 lock is out of date"]);
    check(
        &world,
        &["place", "wbe"],
        1,
        &["there is no slice wbe", "did you mean `web`?"],
    );
    world.edit("work/slices/api.yaml", "replicas: 4", "nodes: [node-a]");
    check(&world, &["place", "api"], 1, &["names its nodes itself"]);
    // What is left behind goes when everything is placed.
    check(
        &world,
        &["place"],
        0,
        &["placement/web.lock.yaml", "no slice api wants a lock"],
    );
    assert!(!world.path("work/placement/api.lock.yaml").exists());
    check(&world, &["validate"], 0, &[]);
}

#[test]
fn a_slice_with_a_new_name_stays_where_it_is() {
    let world = world();
    check(&world, &["place"], 0, &[]);
    let nodes: Vec<String> = (0..4).map(|n| node_of(&world, &format!("web/{n}"))).collect();
    world.edit(
        "work/slices/web.yaml",
        "metadata: { name: web }",
        "metadata: { name: site, movedFrom: web }",
    );
    check(
        &world,
        &["place"],
        0,
        &[
            "placement/site.lock.yaml",
            "= 4 stay",
            "no slice web wants a lock",
        ],
    );
    assert!(!world.path(LOCK).exists());
    let new = std::fs::read_to_string(world.path("work/placement/site.lock.yaml")).expect("a lock");
    for (n, node) in nodes.iter().enumerate() {
        assert!(new.contains(&format!("site/{n}: {node}\n")), "{new}");
    }
    check(&world, &["validate"], 0, &[]);
}

#[test]
fn a_lock_among_other_documents_is_not_rewritten() {
    let world = world();
    check(&world, &["place"], 0, &[]);
    let slice = std::fs::read_to_string(world.path("work/slices/web.yaml")).expect("a manifest");
    std::fs::write(
        world.path("work/slices/web.yaml"),
        format!("{slice}---\n{}", lock(&world)),
    )
    .expect("written");
    std::fs::remove_file(world.path(LOCK)).expect("removed");
    check(&world, &["validate"], 0, &[]);
    world.edit("work/slices/web.yaml", "replicas: 4", "replicas: 5");
    check(
        &world,
        &["place"],
        1,
        &["slices/web.yaml together with other documents"],
    );
}

#[test]
fn a_push_with_a_stale_lock_is_refused_and_told_the_command() {
    let world = world();
    world.commit("replicas without a lock");
    let none = world.push(&["main"]);
    assert_eq!(none.code, Some(1), "{none:?}");
    for part in [
        "slices/web.yaml:",
        "xeno place && git add placement",
        "refused: nothing of commit",
    ] {
        assert!(none.err.contains(part), "no {part:?} in\n{}", none.err);
    }
    check(&world, &["place"], 0, &[]);
    world.commit("with its lock");
    let placed = world.push(&["main"]);
    assert_eq!(placed.code, Some(0), "{placed:?}");
    assert!(placed.err.contains("+ create   web/3"), "{}", placed.err);
    let lost = ["far-1", "far-2"]
        .into_iter()
        .find(|node| lock(&world).contains(node))
        .expect("both sites are used");
    lose(&world, lost);
    world.commit("a node goes");
    let stale = world.push(&["main"]);
    assert_eq!(stale.code, Some(1), "{stale:?}");
    for part in [
        "placement/web.lock.yaml:",
        "node gone",
        "xeno place && git add placement",
    ] {
        assert!(stale.err.contains(part), "no {part:?} in\n{}", stale.err);
    }
    // Exactly what it said.
    let done = world.sh(
        "work",
        "\"$XENO\" place && git add placement && git commit -qm placed && git push -q origin main",
    );
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("web/"), "{}", done.err);
}
