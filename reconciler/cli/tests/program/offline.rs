//! Commands that need no agent.

use crate::world::World;

fn check(world: &World, directory: &str, arguments: &[&str], code: i32, parts: &[&str]) {
    let said = world.xeno(directory, arguments);
    assert_eq!(said.code, Some(code), "xeno {arguments:?}: {said:?}");
    for part in parts {
        assert!(
            said.all().contains(part),
            "xeno {arguments:?}: no {part:?} in\n{}",
            said.all()
        );
    }
}

#[test]
fn a_new_fleet_is_valid_from_anywhere_inside_it() {
    let world = World::new();
    check(
        &world,
        ".",
        &["init", "fleet", "--fleet", "demo"],
        0,
        &["wrote fleet/fleet.yaml", "fleet demo: 1 site"],
    );
    check(&world, ".", &["validate", "fleet"], 0, &["ok: fleet demo"]);
    check(&world, "fleet/slices", &["validate"], 0, &["ok: fleet demo"]);
    check(
        &world,
        ".",
        &["init", "fleet"],
        1,
        &["is there already; nothing was written"],
    );
}

#[test]
fn mistakes_come_all_at_once_with_their_lines_and_as_json() {
    let world = World::new();
    check(&world, ".", &["init", "fleet", "--fleet", "demo"], 0, &[]);
    world.edit("fleet/slices/web.yaml", "memory:", "memroy:");
    std::os::unix::fs::symlink("/etc/passwd", world.path("fleet/link.yaml")).expect("a link");
    let parts = [
        "slices/web.yaml:",
        "did you mean `memory`?",
        "link.yaml",
        "2 mistakes in 2 files",
    ];
    check(&world, ".", &["validate", "fleet"], 1, &parts);
    let said = world.xeno(".", &["validate", "fleet", "-o", "json"]);
    assert_eq!(said.code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(json["formatVersion"], 1);
    assert_eq!(json["diagnostics"].as_array().map(Vec::len), Some(2), "{json}");
    check(
        &world,
        ".",
        &["validate", "nowhere"],
        1,
        &["error: failed to read nowhere"],
    );
    std::fs::create_dir(world.path("empty")).expect("a directory");
    check(
        &world,
        ".",
        &["validate", "empty"],
        1,
        &["there is no fleet.yaml"],
    );
}

#[test]
fn a_plan_leads_from_commit_to_commit() {
    let world = World::with_hook();
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("more");
    check(
        &world,
        "work",
        &["validate", "--rev", "HEAD~1"],
        0,
        &["ok: fleet demo"],
    );
    check(
        &world,
        "work",
        &["plan", "--repo", "."],
        0,
        &["node node-a", "(assumed)", "reboot   web/0"],
    );
    check(
        &world,
        "work",
        &["plan", "--repo", ".", "--rev", "HEAD~1"],
        0,
        &["create   web/0"],
    );
    let same = ["plan", "--repo", ".", "--base", "HEAD", "--detailed-exitcode"];
    check(&world, "work", &same, 0, &["Nothing to do"]);
    check(
        &world,
        "work",
        &["plan", "--repo", ".", "--detailed-exitcode"],
        2,
        &[],
    );
    check(
        &world,
        "work",
        &["plan", "--repo", ".", "--rev", "nope", "--detailed-exitcode"],
        1,
        &["named `nope`"],
    );
    check(
        &world,
        "work",
        &["plan", "--repo", ".", "--node", "node-b"],
        1,
        &["no commit names a node `node-b`", "node-a"],
    );
    let one = world.xeno("work", &["plan", "--repo", ".", "--node", "node-a", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&one.out).expect("JSON");
    assert_eq!(
        (json["formatVersion"].as_u64(), json["node"].as_str()),
        (Some(1), Some("node-a")),
        "{json}"
    );
    let all = world.xeno("work", &["plan", "--repo", ".", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&all.out).expect("JSON");
    assert_eq!(json["plans"].as_array().map(Vec::len), Some(1), "{json}");
}

#[test]
fn templates_are_made_listed_shown_and_verified() {
    let world = World::new();
    std::fs::create_dir_all(world.path("root/etc")).expect("a tree");
    std::fs::write(world.path("root/etc/motd"), "hello\n").expect("a file");
    let imported = world.xeno(
        ".",
        &["template", "import", "root", "--store", "store", "--name", "tiny"],
    );
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let digest = imported.out.strip_suffix('\n').expect("one line");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest:?}");
    check(
        &world,
        ".",
        &["template", "list", "--store", "store"],
        0,
        &["NAME", "tiny", &digest[..19], "a layer only"],
    );
    let show = ["template", "show", "tiny", "--store", "store", "-o", "json"];
    let json: serde_json::Value = serde_json::from_str(&world.xeno(".", &show).out).expect("JSON");
    assert_eq!(
        (json["bytes"].as_u64(), json["digest"].as_str()),
        (Some(6), Some(digest)),
        "{json}"
    );
    check(
        &world,
        ".",
        &["template", "show", &digest[7..15], "--store", "store"],
        0,
        &["6 B as a guest sees it"],
    );
    check(
        &world,
        ".",
        &["template", "verify", "--store", "store"],
        0,
        &["ok"],
    );
    check(
        &world,
        ".",
        &["template", "show", "other", "--store", "store"],
        1,
        &["there is no template `other`"],
    );
    check(
        &world,
        ".",
        &["template", "list", "--store", "none"],
        1,
        &["there is no template store in none"],
    );
    check(
        &world,
        ".",
        &["template", "import", "nowhere", "--store", "store"],
        1,
        &["failed to find nowhere"],
    );
}

#[test]
fn without_an_agent_the_way_to_one_is_named() {
    let world = World::new();
    let socket = world.path("none.sock");
    let socket = socket.to_str().expect("text");
    for command in ["status", "plan", "reconcile"] {
        let parts = [
            "error: failed to reach the agent at",
            "none.sock",
            "help: start it with `xeno agent",
        ];
        check(&world, ".", &[command, "--socket", socket], 1, &parts);
    }
    check(
        &world,
        ".",
        &["why", "web/0", "--socket", socket],
        1,
        &["failed to reach"],
    );
    check(
        &world,
        ".",
        &["why", "web", "--socket", socket],
        2,
        &["as in web/0"],
    );
    check(
        &world,
        ".",
        &["doctor", "--socket", socket],
        1,
        &["fail", "agent", "nobody answers", "disk"],
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let world = World::new();
    let said = world.sh(
        ".",
        "\"$XENO\" completion bash | head -n 1; \"$XENO\" completion zsh 2>&1 >/dev/full; true",
    );
    assert!(
        !said.all().contains("Broken pipe") && !said.all().contains("panicked"),
        "{said:?}"
    );
    assert!(said.all().contains("failed to write the output"), "{said:?}");
}

#[test]
fn the_program_tells_its_version_and_forwards_a_guest() {
    let world = World::new();
    check(
        &world,
        ".",
        &["version"],
        0,
        &[concat!("xeno ", env!("CARGO_PKG_VERSION"))],
    );
    check(
        &world,
        ".",
        &["guestfwd", "none.sock"],
        1,
        &["failed to forward to none.sock"],
    );
    let listener = std::os::unix::net::UnixListener::bind(world.path("echo.sock")).expect("a socket");
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        std::io::copy(&mut &stream, &mut &stream).expect("echoed");
    });
    let said = world.sh(".", "printf 'over the wire' | \"$XENO\" guestfwd echo.sock");
    assert_eq!(said.out, "over the wire", "{said:?}");
    server.join().expect("it ends");
}
