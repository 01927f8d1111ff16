//! Plans that need no agent.

use crate::world::{Said, World};

/// A fleet of two nodes and two commits: the second changes both slivers of `web`, and brings `db`.
fn two_commits() -> World {
    let world = World::with_hook();
    world.edit("work/sites/home.yaml", "---", "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: { name: node-b }\nspec: { site: home, capacity: { memory: 1GiB, vcpus: 1 } }\n---");
    world.edit(
        "work/slices/web.yaml",
        "nodes: [node-a]",
        "nodes: [node-a, node-b]",
    );
    world.commit("two nodes");
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    let web = std::fs::read_to_string(world.path("work/slices/web.yaml")).expect("a slice");
    let db = web
        .replace("name: web", "name: db")
        .replace("[node-a, node-b]", "[node-b]")
        .replace("18080", "19090");
    std::fs::write(world.path("work/slices/db.yaml"), db).expect("written");
    world.commit("more");
    world
}

fn plan(world: &World, words: &[&str]) -> Said {
    world.xeno("work", &[&["plan"], words].concat())
}

#[test]
fn every_statement_of_a_plan_between_commits_is_marked_as_assumed() {
    let world = two_commits();
    let check = |words: &[&str], code: i32, parts: &[&str]| {
        let said = plan(&world, words);
        assert_eq!(said.code, Some(code), "{said:?}");
        for part in parts {
            assert!(
                said.all().contains(part),
                "{words:?}: no {part:?} in\n{}",
                said.all()
            );
        }
        for line in said
            .out
            .lines()
            .filter(|line| line.starts_with(['+', '±', '=', '-', '!', '~', '>', 'o']))
        {
            assert!(line.ends_with("  assumed"), "{line}");
        }
        assert!(!said.out.contains("observed"), "{}", said.out);
    };
    check(
        &["--rev", "HEAD~1..HEAD"],
        0,
        &[
            "± reboot   web/0  interrupts the service",
            "+ create   db/0 ",
            "node node-b",
        ],
    );
    check(
        &["--rev", "HEAD~2..HEAD", "--node", "node-b"],
        0,
        &["+ create   web/1", "+ create   db/0"],
    );
    // From the future to the past, too.
    check(
        &["--rev", "HEAD..HEAD~1", "--node", "node-b"],
        0,
        &["- remove   db/0"],
    );
    check(
        &["--rev", "HEAD..HEAD", "--detailed-exitcode"],
        0,
        &["Nothing to do", "(assumed)"],
    );
    check(&["--rev", "HEAD", "--detailed-exitcode"], 2, &["reboot   web/1"]);
    check(&["--rev", "HEAD~1.."], 0, &["create   db/0"]);
    check(&["--rev", "HEAD~1...HEAD"], 1, &["three dots"]);
    check(&["--rev", "a..b"], 1, &["`b`"]);
    check(&["--rev", "A..B", "--base", "C"], 1, &["leave out --base"]);
    check(&["--rev", "HEAD", "--socket", "x"], 2, &["cannot be used with"]);
    check(&["--node", "node-a"], 2, &["required"]);
}

#[test]
fn a_plan_is_drawn_as_a_graph_that_graphviz_reads() {
    let world = two_commits();
    let said = plan(&world, &["--rev", "HEAD~1..HEAD", "-o", "dot"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let json = plan(&world, &["--rev", "HEAD~1..HEAD", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    let plans = json["plans"].as_array().expect("plans");
    let mut edges = 0;
    for plan in plans {
        for action in plan["actions"].as_array().expect("actions") {
            let id = |key: &serde_json::Value| {
                format!(
                    "\"{} {}\"",
                    plan["node"].as_str().expect("a name"),
                    key.as_str().expect("a key")
                )
            };
            assert!(
                said.out.contains(&format!("{} [label=", id(&action["key"]))),
                "{}",
                said.out
            );
            for before in action["after"].as_array().expect("keys") {
                edges += 1;
                let edge = format!("  {} -> {};\n", id(before), id(&action["key"]));
                assert!(said.out.contains(&edge), "no {edge} in\n{}", said.out);
            }
        }
    }
    assert!(edges > 6, "{}", said.out);
    assert_eq!(said.out.matches(" -> ").count(), edges);
    assert_eq!(said.out.matches('{').count(), said.out.matches('}').count());
    // Where Graphviz is installed, it has the last word.
    std::fs::write(world.path("plan.dot"), &said.out).expect("written");
    let drawn = world.sh(
        ".",
        "command -v dot >/dev/null || exit 42; dot -Tsvg plan.dot >plan.svg",
    );
    assert!(
        matches!(drawn.code, Some(0 | 42)) && drawn.err.is_empty(),
        "{drawn:?}"
    );

    let mermaid = plan(&world, &["--rev", "HEAD~1..HEAD", "-o", "mermaid"]);
    assert!(mermaid.out.starts_with("flowchart LR\n"), "{mermaid:?}");
    assert_eq!(mermaid.out.matches(" --> ").count(), edges);
    assert_eq!(
        mermaid.out.lines().filter(|line| line.trim() == "end").count(),
        mermaid.out.matches("subgraph ").count()
    );
}

/// A fleet of eight nodes at two sites, and a commit after which everything happens that a commit can have happen.
fn a_busy_commit() -> World {
    let world = World::with_hook();
    let mut nodes = String::new();
    for (site, letter) in [("home", 'h'), ("away", 'a')] {
        if site == "away" {
            nodes += "---\napiVersion: xenoslice/v1\nkind: Site\nmetadata: { name: away }\n";
        }
        for number in 0..4 {
            nodes += &format!(
                "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {letter}{number} }}\nspec: {{ site: {site}, capacity: {{ memory: 4GiB, vcpus: 4 }} }}\n"
            );
        }
    }
    std::fs::write(world.path("work/nodes.yaml"), nodes).expect("written");
    world.edit(
        "work/slices/web.yaml",
        "nodes: [node-a]",
        "nodes: [h0, h1, h2, h3, a0, a1, a2, a3]",
    );
    let web = std::fs::read_to_string(world.path("work/slices/web.yaml")).expect("a slice");
    let slice = |name: &str, nodes: &str, port: &str| {
        let text = web
            .replace("name: web", &format!("name: {name}"))
            .replace("[h0, h1, h2, h3, a0, a1, a2, a3]", nodes)
            .replace("18080", port);
        std::fs::write(world.path(&format!("work/slices/{name}.yaml")), text).expect("written");
    };
    slice("db", "[h0]", "19090");
    slice("old", "[h1, a1]", "19190");
    world.commit("eight nodes");
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.edit(
        "work/slices/web.yaml",
        "spec:",
        "spec:\n  rollout: { waves: [50%, 100%], maxUnavailable: 2, bake: 10s }",
    );
    slice("db", "[a0]", "19090");
    slice("shop", "[h3]", "19290");
    std::fs::remove_file(world.path("work/slices/old.yaml")).expect("it was there");
    world.commit("much");
    world
}

#[test]
fn a_fleet_is_shown_slice_by_slice_and_wave_by_wave() {
    let world = a_busy_commit();
    let said = plan(&world, &["--fleet", "--rev", "HEAD~1..HEAD"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for part in [
        "- remove   old  2 slivers, ends the service",
        "± reboot   web  8 of 8 slivers, interrupts the service",
        "at most 2 down at once; each wave bakes 10s; if more than 0 fail, all go back",
        "canary     1  web/",
        "wave 2     3  web/",
        "wave 3     4  web/",
        "> move     db  1 of 1 sliver, live",
        "db/0 h0 -> a0",
        "+ create   shop  1 of 1 sliver",
        "2 to remove, 8 to reboot, 1 to create, 1 to move; 0 unchanged; on 8 of 9 nodes",
    ] {
        assert!(said.out.contains(part), "no {part:?} in\n{}", said.out);
    }

    let said = plan(
        &world,
        &[
            "--fleet",
            "--rev",
            "HEAD~1..HEAD",
            "-o",
            "json",
            "--detailed-exitcode",
        ],
    );
    assert_eq!(said.code, Some(2), "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let changes = json["changes"].as_array().expect("a list");
    let of = |change: &'static str| changes.iter().filter(move |row| row["change"] == change);
    let waves: Vec<_> = of("reboot")
        .map(|row| (row["wave"].as_u64(), row["canary"].as_bool()))
        .collect();
    assert_eq!(
        waves,
        [
            (Some(0), Some(true)),
            (Some(1), Some(false)),
            (Some(2), Some(false))
        ]
    );
    let moved = of("move").next().expect("one moves");
    assert_eq!(moved["slivers"][0]["from"], "h0");
    assert_eq!(moved["policy"], "live");

    let said = plan(&world, &["--fleet", "--rev", "HEAD~1..HEAD", "-o", "markdown"]);
    for part in [
        "### Plan for the fleet",
        "| `db` | move, live |",
        "db/0 h0 \u{2192} a0",
        "| canary | 1 |",
    ] {
        assert!(said.out.contains(part), "no {part:?} in\n{}", said.out);
    }
    let said = plan(&world, &["--fleet", "--rev", "HEAD..HEAD"]);
    assert!(
        said.out
            .contains("Nothing to do: all 10 slivers stay as they are"),
        "{}",
        said.out
    );
    let said = plan(&world, &["--rev", "HEAD", "-o", "markdown"]);
    assert!(said.err.contains("add --fleet"), "{said:?}");
}

#[test]
fn waves_by_site_and_by_label_are_named() {
    let world = a_busy_commit();
    world.edit(
        "work/slices/web.yaml",
        "waves: [50%, 100%]",
        "waves: [{ match: { site: away } }, { match: { node: h2 } }]",
    );
    world.edit("work/slices/web.yaml", "vcpus: 2", "vcpus: 1");
    world.commit("site by site");
    let said = plan(&world, &["--fleet", "--rev", "HEAD~1..HEAD"]);
    for part in [
        "canary                   1  web/",
        "wave 2 { site: away }    3  web/",
        "wave 3 { node: h2 }      1  web/2                home",
        "wave 4                   3  web/0, web/1, web/3  home",
    ] {
        assert!(said.out.contains(part), "no {part:?} in\n{}", said.out);
    }
    let said = plan(&world, &["--fleet", "--rev", "HEAD~1..HEAD", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    let changes = json["changes"].as_array().expect("a list");
    let of: Vec<_> = changes.iter().map(|row| row["of"].as_str()).collect();
    assert_eq!(of, [None, Some("{ site: away }"), Some("{ node: h2 }"), None]);
}

#[test]
fn a_sliver_that_is_placed_on_another_node_moves_there() {
    let world = a_busy_commit();
    let said = plan(&world, &["--rev", "HEAD~1..HEAD", "--node", "h0"]);
    for part in [
        "> move     db/0",
        "goes to a0 while it runs, with what it wrote",
        "0 to remove, 1 to move",
    ] {
        assert!(said.out.contains(part), "no {part:?} in\n{}", said.out);
    }
    let said = plan(&world, &["--rev", "HEAD~1..HEAD", "--node", "a0"]);
    for part in [
        "> move     db/0",
        "comes from h0 while it runs, with what it wrote",
        "0 to create, 1 to reboot, 0 to remove, 1 to move",
    ] {
        assert!(said.out.contains(part), "no {part:?} in\n{}", said.out);
    }
    let json = ["--rev", "HEAD~1..HEAD", "--node", "a0", "-o", "json"];
    let json: serde_json::Value = serde_json::from_str(&plan(&world, &json).out).expect("JSON");
    let changes = json["changes"].as_array().expect("a list");
    let moved = changes
        .iter()
        .find(|change| change["class"] == "move")
        .expect("one moves");
    assert_eq!(
        (
            &moved["sliver"],
            &moved["from"],
            &moved["to"],
            &moved["disruption"]
        ),
        (&"db/0".into(), &"h0".into(), &"a0".into(), &"none".into())
    );
    // Nothing else is there for it that a move would not do by itself.
    let actions = json["actions"].as_array().expect("a list");
    assert!(actions.iter().all(|action| action["sliver"] != "db/0"), "{json}");

    // One that moves and has no more memory than it had is nothing else; the answer to a push says so, too.
    world.git("work", &["push", "-q", "origin", "HEAD~1:refs/heads/main"]);
    let push = world.push(&["main"]);
    assert_eq!(push.code, Some(0), "{push:?}");
    for part in [
        "remote: > move     db/0",
        "remote: Slivers move by way of the fleet's board.",
    ] {
        assert!(push.err.contains(part), "no {part:?} in\n{}", push.err);
    }
    assert!(
        !push.err.contains("create   db/0") && !push.err.contains("remove   db/0"),
        "{}",
        push.err
    );
}
