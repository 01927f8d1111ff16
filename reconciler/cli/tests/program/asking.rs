//! What is asked of an agent, and how its answers read.

use serde_json::{Value, json};

use crate::scripted::Scripted;
use crate::world::{Said, World};

fn check(world: &World, words: &[&str], code: i32, parts: &[&str]) -> Said {
    let said = world.xeno(".", &[words, &["--socket", "agent.sock"]].concat());
    assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
    let flat = said.all().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(
            said.all().contains(part) || flat.contains(part),
            "{words:?}: no {part:?} in\n{}",
            said.all()
        );
    }
    said
}

fn freezes(scope: &Value) -> Value {
    json!({ "formatVersion": 1, "freezes": [
        { "scope": scope, "reason": "an audit", "by": "eve", "sinceMs": 1_000, "untilMs": null },
    ]})
}

#[test]
fn freezing_says_what_why_who_and_how_long() {
    let world = World::new();
    let agent = Scripted::new(&world);
    let scopes = [
        (
            &[][..],
            json!({"kind": "node"}),
            "node is frozen until somebody thaws it",
        ),
        (&["node-a"], json!({"kind": "node"}), "node is frozen"),
        (&["web"], json!({"kind": "slice", "name": "web"}), "web is frozen"),
        (
            &["web/0"],
            json!({"kind": "sliver", "name": "web/0"}),
            "web/0 is frozen",
        ),
    ];
    for (what, scope, said) in scopes {
        agent.answer("POST /v1/freeze", 200, freezes(&scope));
        let words = [
            &["freeze"],
            what,
            &["--reason", "an audit", "--for", "2h", "--by", "eve"],
        ]
        .concat();
        check(&world, &words, 0, &[said]);
        let expected = json!({ "scope": scope, "reason": "an audit", "by": "eve", "forMs": 7_200_000 });
        assert_eq!(agent.asked(), [("POST /v1/freeze".to_owned(), expected)]);
    }
    check(&world, &["freeze", "web"], 2, &["--reason"]);
    check(
        &world,
        &["freeze", "web", "--reason", " "],
        1,
        &["needs a reason"],
    );
    check(
        &world,
        &["freeze", "web", "--reason", "x", "--for", "soon"],
        2,
        &["as in 30m or 2h"],
    );
    agent.answer(
        "GET /v1/freezes",
        200,
        freezes(&json!({"kind": "slice", "name": "web"})),
    );
    check(
        &world,
        &["get", "freezes"],
        0,
        &["FROZEN", "web", "eve", "thawed", "an audit"],
    );
    check(
        &world,
        &["get", "freezes", "-o", "json"],
        0,
        &["\"formatVersion\": 1", "\"kind\": \"slice\""],
    );
    agent.answer("POST /v1/thaw", 200, freezes(&json!({"kind": "node"})));
    check(
        &world,
        &["thaw", "web"],
        0,
        &["web is thawed", "still frozen: node by eve"],
    );
    agent.answer(
        "POST /v1/thaw",
        404,
        json!({ "formatVersion": 1, "error": "not frozen" }),
    );
    check(&world, &["thaw"], 1, &["node is not frozen", "xeno get freezes"]);
    let frozen = json!({ "formatVersion": 1, "error": "node-a is frozen by eve: an audit" });
    agent.answer("POST /v1/reconcile", 409, frozen);
    check(
        &world,
        &["reconcile"],
        1,
        &["error: node-a is frozen by eve: an audit", "xeno thaw"],
    );
    check(
        &world,
        &["reconcile", "--wait"],
        1,
        &["node-a is frozen by eve: an audit"],
    );
}

fn plan() -> Value {
    let plan = json!({
        "formatVersion": 1, "node": "node-a", "revision": "4c1e9a70aaaa", "generation": 3, "appliedGeneration": 2,
        "basis": "observed", "summary": "1 to start", "memoryMib": null,
        "changes": [{ "sliver": "web/0", "class": "start", "cause": "drift", "disruption": "none", "reasons": [] }],
        "actions": [
            { "key": "export:web/0", "verb": "export", "sliver": "web/0", "serves": ["web/0"], "after": [], "bytes": 0,
              "memoryMib": 0 },
            { "key": "boot:web/0", "verb": "boot", "sliver": "web/0", "serves": ["web/0"], "after": ["export:web/0"],
              "bytes": 0, "memoryMib": 256 },
        ],
    });
    json!({ "formatVersion": 1, "node": "node-a", "revision": "4c1e9a70aaaa", "generation": 3, "empty": false,
            "text": "node node-a\n\n> start    web/0\n", "findings": [], "plan": plan })
}

#[test]
fn a_plan_is_applied_as_it_was_written_or_not_at_all() {
    let world = World::new();
    let agent = Scripted::new(&world);
    agent.answer("GET /v1/plan?refresh=false", 200, plan());
    check(
        &world,
        &["plan", "--out", "p.json"],
        0,
        &["> start    web/0", "`xeno apply p.json`"],
    );
    let applied = json!({ "formatVersion": 1, "actions": 2, "summary": "1 to start" });
    agent.answer("POST /v1/apply", 200, applied);
    check(
        &world,
        &["apply", "p.json"],
        0,
        &["applying 2 actions: 1 to start"],
    );
    let asked = agent.asked();
    assert_eq!(
        asked[0].1["actions"][1],
        json!({ "key": "boot:web/0", "after": ["export:web/0"] })
    );
    assert_eq!(
        (&asked[0].1["revision"], &asked[0].1["generation"]),
        (&json!("4c1e9a70aaaa"), &json!(3))
    );

    let stale = json!({ "formatVersion": 1, "error": "the desired state is another: generation 4" });
    agent.answer("POST /v1/apply", 409, stale);
    let parts = [
        "p.json is stale, and nothing of it is done: the desired state is another",
        "plan again",
    ];
    check(&world, &["apply", "p.json"], 1, &parts[..1]);
    agent.asked();
    world.edit("p.json", "boot:web/0", "purge:web/0");
    check(
        &world,
        &["apply", "p.json"],
        1,
        &["p.json was edited: it is not the plan that was made"],
    );
    assert_eq!(agent.asked(), []);
    check(&world, &["apply", "none.json"], 1, &["failed to read none.json"]);
    check(&world, &["plan", "--out", "p.json"], 0, &["`xeno apply p.json`"]);
    std::fs::write(world.path("letter"), "Dear all").expect("written");
    check(
        &world,
        &["plan", "--out", "letter"],
        1,
        &["is there already, and is no plan"],
    );
    check(
        &world,
        &["plan", "-o", "dot"],
        0,
        &["\"node-a export:web/0\" -> \"node-a boot:web/0\";"],
    );
    check(
        &world,
        &["plan", "-o", "mermaid"],
        0,
        &["flowchart LR", "p0_1 --> p0_2"],
    );
}

#[test]
fn undelete_says_what_the_node_still_keeps() {
    let world = World::with_hook();
    let agent = Scripted::new(&world);
    assert_eq!(world.git("work", &["rm", "-q", "slices/web.yaml"]).code, Some(0));
    world.commit("web is over");
    let tombstone =
        json!({ "sliver": "web/0", "sinceMs": 1_000, "purgeMs": 4_102_444_800_000_u64, "bytes": 2048 });
    agent.answer(
        "GET /v1/tombstones",
        200,
        json!({ "formatVersion": 1, "tombstones": [tombstone] }),
    );
    let parts = [
        "node-a keeps what web/0 wrote (2.0 KiB) until 2100-",
        "nothing was written",
    ];
    check(
        &world,
        &["undelete", "web", "--repo", "work", "--dry-run"],
        0,
        &parts,
    );
    check(&world, &["get", "tombstones"], 0, &["SLIVER", "web/0", "2.0 KiB"]);
    agent.answer(
        "GET /v1/tombstones",
        200,
        json!({ "formatVersion": 1, "tombstones": [] }),
    );
    check(
        &world,
        &["undelete", "web", "--repo", "work"],
        0,
        &["node-a has set nothing of web/0 aside"],
    );
}
