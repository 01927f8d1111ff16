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
