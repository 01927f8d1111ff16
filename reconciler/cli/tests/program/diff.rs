//! What two commits ask for differently.

use crate::world::World;

#[test]
fn a_difference_is_what_nodes_would_read_differently() {
    let world = World::with_hook();
    world.edit("work/slices/web.yaml", "[node-a]", "[node-a, node-a, node-a]");
    world.commit("three");
    let check = |words: &[&str], code: i32, parts: &[&str], none: &[&str]| {
        let said = world.xeno("work", &[&["diff"], words].concat());
        assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
        for part in parts {
            assert!(
                said.all().contains(part),
                "{words:?}: no {part:?} in\n{}",
                said.all()
            );
        }
        for part in none {
            assert!(
                !said.all().contains(part),
                "{words:?}: {part:?} in\n{}",
                said.all()
            );
        }
    };
    check(&[], 0, &[], &["web"]);
    // Layout and comments mean nothing.
    world.edit("work/slices/web.yaml", "vcpus: 1,", "vcpus: 1  ,");
    world.edit("work/sites/home.yaml", "vcpus: 2", "vcpus:    2");
    check(&[], 0, &[], &["web", "Node"]);
    world.edit("work/slices/web.yaml", "vcpus: 1  ,", "vcpus: 2,");
    world.edit("work/sites/home.yaml", "vcpus:    2", "vcpus: 3");
    // Three slivers differ alike, and are shown once.
    check(
        &[],
        1,
        &[
            "+++ web/0 web/1 web/2  files here",
            "-  vcpus: 1\n+  vcpus: 2",
            "--- Node node-a  ",
            "+    vcpus: 3",
        ],
        &["uuid", "\u{1b}"],
    );
    world.commit("more");
    check(&[], 0, &[], &["web"]);
    check(&["HEAD~1"], 1, &["vcpus: 2"], &[]);
    check(&["HEAD~1..HEAD", "--node", "node-a"], 1, &["web/0"], &[]);
    check(&["HEAD..HEAD"], 0, &[], &["web"]);
    check(
        &["HEAD~2..HEAD~1"],
        1,
        &["--- /dev/null\n+++ web/1 web/2", "+node: node-a"],
        &["web/0"],
    );
    check(&["nope..HEAD"], 2, &["named `nope`"], &[]);
    world.edit("work/slices/web.yaml", "vcpus: 2", "vcpus: two");
    check(&[], 2, &["slices/web.yaml:"], &[]);
    let json = world.xeno("work", &["diff", "HEAD~1..HEAD", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["formatVersion"], 1);
    assert_eq!(
        json["differences"][1]["slivers"].as_array().map(Vec::len),
        Some(3),
        "{json}"
    );
}
