//! Commands that say where slivers are: by commits, in a real repository.

use crate::world::{World, check, read};

/// Four nodes at two sites, and the slice `web` on the first.
fn world() -> World {
    let world = World::with_hook();
    let mut nodes = String::from(
        "apiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: away }\n\
         spec: { policy: { vetoes: { slices: [web] } } }\n",
    );
    for (node, site, memory) in [
        ("node-b", "home", "1GiB"),
        ("node-c", "home", "128MiB"),
        ("far-1", "away", "1GiB"),
    ] {
        nodes.push_str(&format!(
            "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {node} }}   # this one\n\
             spec: {{ site: {site}, capacity: {{ memory: {memory}, vcpus: 4 }} }}\n"
        ));
    }
    std::fs::write(world.path("work/sites/more.yaml"), nodes).expect("a manifest");
    world
}

fn commits(world: &World) -> Vec<String> {
    let said = world.git("work", &["log", "--format=%s"]);
    said.out.lines().map(str::to_owned).collect()
}

/// Nothing was written, nothing committed.
fn untouched(world: &World, commits_before: usize) {
    assert_eq!(world.git("work", &["status", "--porcelain"]).out, "");
    assert_eq!(commits(world).len(), commits_before);
}

#[test]
fn a_sliver_moves_by_one_word_of_its_slice() {
    let world = world();
    world.edit(
        "work/slices/web.yaml",
        "placement: { nodes: [node-a] }",
        "placement:\n    nodes:\n      - node-a   # by the door\n      - node-b   # upstairs",
    );
    world.commit("two");
    let before = read(&world, "work/slices/web.yaml");
    check(
        &world,
        &["migrate", "web/1", "--to", "node-a", "--dry-run"],
        0,
        &[
            "-      - node-b   # upstairs",
            "+      - node-a   # upstairs",
            "nothing was written",
        ],
    );
    untouched(&world, 2);
    check(
        &world,
        &["migrate", "web/0", "--to", "node-b"],
        0,
        &[
            "committed",
            "Move web/0 from node-a to node-b",
            "git push",
            "live",
        ],
    );
    assert_eq!(
        read(&world, "work/slices/web.yaml"),
        before.replace("node-a ", "node-b ")
    );
    check(
        &world,
        &["migrate", "web/0", "--to", "node-b"],
        0,
        &["nothing to do: web/0 is on node-b already"],
    );
    untouched(&world, 3);
    let pushed = world.push(&["main"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
}

#[test]
fn a_sliver_with_a_lock_moves_by_its_line_there() {
    let world = world();
    world.edit("work/slices/web.yaml", "nodes: [node-a]", "replicas: 1");
    check(&world, &["place"], 0, &[]);
    world.commit("placed");
    let lock = "work/placement/web.lock.yaml";
    let before = read(&world, lock);
    let from = before.trim_end().rsplit(' ').next().expect("a node").to_owned();
    let to = if from == "node-a" { "node-b" } else { "node-a" };
    check(
        &world,
        &["migrate", "web/0", "--to", to, "-m", "Nearer to the door"],
        0,
        &["committed", "Nearer to the door"],
    );
    assert_eq!(
        read(&world, lock),
        before.replace(&format!("web/0: {from}"), &format!("web/0: {to}"))
    );
    // And it stays there when everything is placed anew.
    check(&world, &["place", "--check"], 0, &["ok: "]);
    untouched(&world, 3);
    // With what is not committed yet, nothing is mixed.
    let mut text = read(&world, lock);
    text.push_str("# mine\n");
    std::fs::write(world.path(lock), text).expect("written");
    check(
        &world,
        &["migrate", "web/0", "--to", &from],
        1,
        &["has changes that are not committed"],
    );
}

#[test]
fn what_would_not_fit_is_refused_with_the_reason() {
    let story = |replicas: bool| {
        let world = world();
        if replicas {
            world.edit("work/slices/web.yaml", "nodes: [node-a]", "replicas: 1");
            check(&world, &["place"], 0, &[]);
        }
        world.commit("as it is");
        let refuse = |words: &[&str], parts: &[&str]| {
            check(&world, &[&["migrate"], words].concat(), 1, parts);
            untouched(&world, 2);
        };
        refuse(
            &["web/0", "--to", "node-x"],
            &["there is no node node-x", "did you mean"],
        );
        refuse(&["web/7", "--to", "node-b"], &["there is no sliver web/7"]);
        refuse(&["wbe/0", "--to", "node-b"], &["did you mean `web`?"]);
        refuse(
            &["web/0", "--to", "node-c"],
            &["MiB", "node-c", "nothing was written"],
        );
        refuse(
            &["web/0", "--to", "far-1"],
            &["away", "does not run the slice web", "nothing was written"],
        );
    };
    story(false);
    story(true);
}

#[test]
fn a_port_that_is_taken_there_is_said() {
    let world = world();
    let web = read(&world, "work/slices/web.yaml");
    let api = web
        .replace("name: web", "name: api")
        .replace("nodes: [node-a]", "nodes: [node-b]");
    std::fs::write(world.path("work/slices/api.yaml"), api).expect("written");
    world.commit("another one on the same port");
    check(
        &world,
        &["migrate", "web/0", "--to", "node-b"],
        1,
        &[
            "port 18080 of node `node-b` is wanted by both",
            "nothing was written",
        ],
    );
    untouched(&world, 2);
}

#[test]
fn a_cordoned_node_gets_nothing_new_until_it_is_not() {
    let world = world();
    world.commit("as it is");
    check(
        &world,
        &["cordon", "node-x"],
        1,
        &["there is no node node-x", "did you mean"],
    );
    check(
        &world,
        &["uncordon", "node-b"],
        0,
        &["nothing to do: node-b is not cordoned"],
    );
    let before = read(&world, "work/sites/more.yaml");
    check(
        &world,
        &["cordon", "node-b"],
        0,
        &[
            "cordoned: true",
            "Cordon node-b",
            "git push",
            "0 slivers on it stay there",
        ],
    );
    check(
        &world,
        &["cordon", "node-b"],
        0,
        &["nothing to do: node-b is cordoned already"],
    );
    check(
        &world,
        &["migrate", "web/0", "--to", "node-b"],
        1,
        &["node-b is cordoned", "xeno uncordon node-b"],
    );
    untouched(&world, 3);
    // Nothing new is placed there, and what is there stays.
    world.edit("work/slices/web.yaml", "nodes: [node-a]", "replicas: 2");
    let said = check(&world, &["place"], 0, &["web/0 → node-a", "web/1 → node-a"]);
    assert!(!said.all().contains("node-b"), "{said:?}");
    world.commit("placed");
    check(
        &world,
        &["cordon", "node-a"],
        0,
        &["Cordon node-a", "2 slivers on it stay there"],
    );
    check(&world, &["place", "--check"], 0, &["ok: "]);
    check(&world, &["uncordon", "node-b"], 0, &["-", "cordoned: false"]);
    check(
        &world,
        &["migrate", "web/0", "--to", "node-b"],
        0,
        &["Move web/0 from node-a to node-b"],
    );
    let after = read(&world, "work/sites/more.yaml");
    assert_eq!(after.replace(" cordoned: false,", ""), before);
    assert_eq!(world.git("work", &["status", "--porcelain"]).out, "");
    let pushed = world.push(&["main"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
}

#[test]
fn a_node_is_emptied_and_stays_empty() {
    let world = world();
    world.edit(
        "work/slices/web.yaml",
        "placement: { nodes: [node-a] }",
        "placement: { nodes: [node-a, node-b] }   # two",
    );
    let web = read(&world, "work/slices/web.yaml");
    let api = web
        .replace("name: web", "name: api")
        .replace("18080", "19080")
        .replace("nodes: [node-a, node-b]", "replicas: 1");
    std::fs::write(world.path("work/slices/api.yaml"), api).expect("written");
    std::fs::create_dir_all(world.path("work/placement")).expect("made");
    std::fs::write(
        world.path("work/placement/api.lock.yaml"),
        "apiVersion: xenoslice/v1\nkind: Placement\nmetadata: { name: api }\nspec:\n  slivers:\n    api/0: node-a\n",
    )
    .expect("written");
    world.commit("three slivers");
    let parts = [
        "STEP SLIVER FROM TO TAKES LEFT THERE AFTER",
        "api/0 node-a far-1",
        "web/0 node-a node-b",
        "nothing was written (--dry-run)",
    ];
    let said = check(&world, &["evacuate", "node-a", "--dry-run"], 0, &[]);
    let words = said.all().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(words.contains(part), "no {part:?} in\n{}", said.all());
    }
    untouched(&world, 2);
    check(
        &world,
        &["evacuate", "node-a"],
        0,
        &["cordoned: true", "committed", "Evacuate node-a", "git push"],
    );
    assert_eq!(
        read(&world, "work/slices/web.yaml"),
        web.replace("[node-a, node-b]", "[node-b, node-b]")
    );
    assert!(read(&world, "work/placement/api.lock.yaml").contains("api/0: far-1\n"));
    let order = read(&world, "work/placement/moves.yaml");
    let steps = "kind: Moves\nmetadata: { name: node-a }\nspec:\n  steps:\n    \
                 - { sliver: api/0, from: node-a, to: far-1 }\n    - { sliver: web/0, from: node-a, to: node-b }\n";
    assert!(order.ends_with(steps), "{order}");
    check(&world, &["place", "--check"], 0, &["ok: "]);
    check(
        &world,
        &["evacuate", "node-a"],
        0,
        &["nothing to do: node-a is empty, and cordoned"],
    );
    untouched(&world, 3);
    // What has no place is told with what is missing, and nothing moves.
    check(&world, &["cordon", "node-b"], 0, &["2 slivers on it stay there"]);
    let said = check(&world, &["evacuate", "node-b"], 1, &["nothing was written"]);
    let words = said.all().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "error: web/0 has no place (",
        "missing on node-c",
        "node-a: node is cordoned",
        "site away does not run the slice web",
    ] {
        assert!(words.contains(part), "no {part:?} in\n{}", said.all());
    }
    untouched(&world, 4);
    let pushed = world.push(&["main"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
}

#[test]
fn a_push_tells_who_is_in_whose_way_and_what_helps() {
    let world = world();
    let big = |name: &str, memory: &str, node: &str, port: u32| {
        let text = read(&world, "work/slices/web.yaml")
            .replace("name: web", &format!("name: {name}"))
            .replace("18080", &port.to_string())
            .replace("memory: 256MiB", &format!("memory: {memory}"))
            .replace("nodes: [node-a]", &format!("nodes: [{node}]"));
        std::fs::write(world.path(&format!("work/slices/{name}.yaml")), text).expect("written");
    };
    big("api", "768MiB", "node-a", 19080);
    big("db", "640MiB", "node-b", 19090);
    world.commit("two that fill their nodes");
    assert_eq!(world.push(&["main"]).code, Some(0));
    world.edit("work/slices/api.yaml", "[node-a]", "[node-b]");
    world.edit("work/slices/db.yaml", "[node-b]", "[node-a]");
    world.commit("change places");
    let parts = [
        "These stay where they are for want of room:",
        "api/0 on node-a: it needs 768 MiB on node-b, where 384 are left: 384 MiB are missing",
        "1. db/0 is stopped on node-b",
        "2. api/0 goes from node-a to node-b, after 1",
        "3. db/0 goes from node-b to node-a, after 2",
        "as placement/moves.yaml",
    ];
    check(&world, &["plan", "--fleet", "--rev", "HEAD"], 0, &parts);
    check(
        &world,
        &["plan", "--fleet", "--rev", "HEAD", "-o", "markdown"],
        0,
        &[&parts[..], &["```text"]].concat(),
    );
    let json = check(
        &world,
        &["plan", "--fleet", "--rev", "HEAD", "-o", "json"],
        0,
        &[],
    );
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    let order = &json["order"];
    assert_eq!(order["steps"], serde_json::json!([]));
    assert_eq!(order["stuck"][0]["sliver"], "api/0");
    assert_eq!(
        order["stuck"][0]["why"],
        "it needs 768 MiB on node-b, where 384 are left: 384 MiB are missing"
    );
    let step =
        serde_json::json!({ "sliver": "db/0", "from": "node-b", "to": null, "after": [], "leftMib": 1024 });
    assert_eq!(order["wayOut"][0], step, "{order}");
    assert_eq!(order["wayOut"][2]["after"], serde_json::json!([1]));
    let planned = check(&world, &["plan", "--rev", "HEAD"], 0, &parts);
    let order = planned.all();
    let order = order.split_once("# Written by").expect("the order itself").1;
    let pushed = world.push(&["main"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    for part in parts {
        assert!(pushed.err.contains(part), "no {part:?} in\n{}", pushed.err);
    }
    // What it says to write is taken, and is an order in which everything goes.
    std::fs::create_dir_all(world.path("work/placement")).expect("made");
    std::fs::write(
        world.path("work/placement/moves.yaml"),
        format!("# Written by{order}"),
    )
    .expect("written");
    world.commit("one steps back");
    let planned = check(
        &world,
        &["plan", "--rev", "HEAD~2..HEAD"],
        0,
        &["Slivers move in this order"],
    );
    assert!(!planned.all().contains("for want of room"), "{}", planned.all());
    let pushed = world.push(&["main"]);
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
}

#[test]
fn others_make_room_first_and_what_cannot_be_is_told() {
    let world = world();
    // 768 MiB on a node of 1 GiB, 384 of the other are taken, by what also fits on the third.
    world.edit("work/slices/web.yaml", "memory: 256MiB", "memory: 768MiB");
    let web = read(&world, "work/slices/web.yaml");
    let small = |name: &str, port: u32| {
        let text = web
            .replace("name: web", &format!("name: {name}"))
            .replace("18080", &port.to_string())
            .replace("memory: 768MiB", "memory: 128MiB")
            .replace("nodes: [node-a]", "nodes: [node-b, node-b, node-b]");
        std::fs::write(world.path(&format!("work/slices/{name}.yaml")), text).expect("written");
    };
    small("small", 19080);
    world.commit("crowded");
    let said = check(&world, &["evacuate", "node-a", "--dry-run"], 0, &[]);
    let words = said.all().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["2 web/0 node-a node-b 768 MiB", "1 small/0 node-b", "0 MiB 1"] {
        assert!(words.contains(part), "no {part:?} in\n{}", said.all());
    }
    untouched(&world, 2);
    check(&world, &["cordon", "far-1"], 0, &[]);
    check(&world, &["cordon", "node-c"], 0, &[]);
    let said = check(&world, &["evacuate", "node-a"], 1, &["nothing was written"]);
    let words = said.all().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "error: web/0 has no place (128 MiB missing on node-b)",
        "without node-a the fleet has 128 MiB too little memory",
        "there is no way, whatever else moves",
    ] {
        assert!(words.contains(part), "no {part:?} in\n{}", said.all());
    }
}
