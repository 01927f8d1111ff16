//! An agent without guests: that it answers, keeps its place, and leaves when asked.

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::World;

/// Machines are shared: generous, and only reached when something is wrong.
const DEADLINE: Duration = Duration::from_secs(60);

struct Agent(Child);

impl Agent {
    fn start(world: &World) -> Self {
        let log = std::fs::File::create(world.path("agent.log")).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_xeno"))
            .args(["agent", "--config"])
            .arg(world.path("agent.toml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        let agent = Self(child);
        let until = Instant::now() + DEADLINE;
        while UnixStream::connect(world.path("agent.sock")).is_err() {
            let said = || std::fs::read_to_string(world.path("agent.log")).unwrap_or_default();
            assert!(Instant::now() < until, "it does not listen: {}", said());
            std::thread::yield_now();
        }
        agent
    }

    fn terminate(mut self, world: &World) -> Option<i32> {
        assert_eq!(
            world.sh(".", &format!("kill -TERM {}", self.0.id())).code,
            Some(0)
        );
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Where a test fails in between. One that has ended already cannot be killed, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_answers_keeps_its_place_and_leaves_when_asked() {
    let world = World::with_hook();
    let config = format!(
        "node = \"node-a\"\nrepository = \"{}\"\nstate_dir = \"state\"\nsocket = \"agent.sock\"\n\n\
         [cowfs]\nsocket = \"cowfs.sock\"\nstore = \"templates\"\n",
        world.path("repo.git").display()
    );
    std::fs::write(world.path("agent.toml"), &config).expect("written");
    let agent = Agent::start(&world);
    let at = ["--socket", "agent.sock"];
    let xeno = |words: &[&str]| world.xeno(".", &[words, &at[..]].concat());

    let status = xeno(&["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(
        status.out.contains("node-a") && status.out.contains("no slivers"),
        "{}",
        status.out
    );
    let plan = xeno(&["plan"]);
    assert_eq!(plan.code, Some(1), "{plan:?}");
    assert!(plan.err.contains("no commit is in force yet"), "{}", plan.err);

    // What was pushed is there as soon as somebody asks with --refresh, without waiting for a poll.
    world.edit("work/slices/web.yaml", "state: running", "state: stopped");
    world.commit("stopped");
    assert_eq!(world.push(&["main"]).code, Some(0));
    let plan = xeno(&["plan", "--refresh"]);
    assert_eq!(plan.code, Some(0), "{plan:?}");
    let slivers = xeno(&["get", "slivers", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&slivers.out).expect("JSON");
    assert_eq!(json["slivers"][0]["sliver"], "web/0", "{json}");
    let described = xeno(&["describe", "web/0"]);
    assert!(described.out.contains("debian-web/current"), "{described:?}");
    let unknown = xeno(&["why", "web/9"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("there is no sliver web/9"), "{unknown:?}");
    assert!(xeno(&["events"]).out.contains("accepted"));

    // Everything it plans from goes into a file, and makes the same plan elsewhere.
    let seen = xeno(&["get", "observed", "-o", "json"]);
    assert_eq!(seen.code, Some(0), "{seen:?}");
    std::fs::write(world.path("seen.json"), &seen.out).expect("written");
    let offline = ["plan", "--observed", "seen.json", "--repo", "work"];
    let away = world.xeno(".", &offline);
    assert_eq!(away.code, Some(0), "{away:?}");
    let without_marks = away
        .out
        .replace("  observed\n", "\n")
        .replace("  (observed)\n\n", "\n\n");
    let here = xeno(&["plan"]).out;
    let changes = |text: &str| {
        text.lines()
            .skip(1)
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let (away_lines, here_lines) = (changes(&without_marks), changes(&here));
    assert_eq!(
        away_lines[..away_lines.len() - 1],
        here_lines[..here_lines.len() - 1],
        "{}\n{here}",
        away.out
    );
    world.edit("seen.json", "\"formatVersion\": 1", "\"formatVersion\": 99");
    let newer = world.xeno(".", &offline);
    assert!(
        newer.code == Some(1) && newer.err.contains("version 99"),
        "{newer:?}"
    );

    // A plan in a file is carried out as long as the agent makes the same one.
    assert_eq!(xeno(&["plan", "--out", "plan.json"]).code, Some(0));
    let applied = xeno(&["apply", "plan.json"]);
    // The file server does not run, so everything waits.
    assert!(
        applied.out.contains("nothing to carry out: ") && applied.out.contains("1 waiting"),
        "{applied:?}"
    );

    // What is frozen is left alone, and says so.
    let frozen = xeno(&["freeze", "--reason", "an audit", "--for", "2h", "--by", "eve"]);
    assert!(frozen.out.contains("node is frozen until"), "{frozen:?}");
    assert!(xeno(&["get", "freezes"]).out.contains("an audit"));
    assert!(
        xeno(&["status"]).out.contains("frozen     node by eve, "),
        "{}",
        xeno(&["status"]).out
    );
    let reconcile = xeno(&["reconcile"]);
    assert!(
        reconcile.code == Some(1) && reconcile.err.contains("an audit"),
        "{reconcile:?}"
    );
    assert_eq!(xeno(&["thaw"]).code, Some(0));
    assert_eq!(xeno(&["thaw"]).code, Some(1));
    assert_eq!(xeno(&["reconcile"]).code, Some(0));

    for (what, text) in [
        ("tombstones", "nothing is set aside"),
        ("images", "no memory is stored"),
    ] {
        assert!(xeno(&["get", what]).out.contains(text), "{what}");
    }
    assert!(
        xeno(&["history"]).out.contains("accepted"),
        "{:?}",
        xeno(&["history"])
    );
    let why = xeno(&["why", "web/0", "-o", "json"]);
    let why: serde_json::Value = serde_json::from_str(&why.out).expect("JSON");
    for reason in why["reasons"].as_array().expect("reasons") {
        assert!(reason["next"].is_string() && reason["sinceMs"].is_u64(), "{why}");
    }
    let tree = world.xeno("work", &["tree", "--socket", "../agent.sock"]);
    assert!(tree.out.contains("web/0  "), "{tree:?}");

    // A hook that may ask the agent answers with what the node looks like.
    let hook = world.xeno(
        ".",
        &[
            "hook",
            "install",
            "repo.git",
            "--agent",
            "agent.sock",
            "--agent",
            "none.sock",
        ],
    );
    assert_eq!(hook.code, Some(0), "{hook:?}");
    world.edit("work/slices/web.yaml", "vcpus: 1", "vcpus: 2");
    world.commit("another");
    let push = world.push(&["main"]);
    assert_eq!(push.code, Some(0), "{push:?}");
    assert!(
        push.err.contains("(observed)") && !push.err.contains("assumed"),
        "{}",
        push.err
    );
    assert!(
        push.err
            .contains("none.sock was not asked what its node looks like: failed to reach"),
        "{}",
        push.err
    );
    assert_eq!(xeno(&["plan", "--refresh"]).code, Some(0));
    let stale = xeno(&["apply", "plan.json"]);
    assert!(
        stale.code == Some(1) && flat(&stale.err).contains("plan.json is stale"),
        "{stale:?}"
    );

    let second = world.xeno(".", &["agent", "--config", "agent.toml"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(flat(&second.err).contains("another agent"), "{}", second.err);
    std::fs::write(world.path("other.toml"), config.replace("\"state\"", "\"other\"")).expect("written");
    let other = world.xeno(".", &["agent", "--config", "other.toml"]);
    assert_eq!(other.code, Some(1), "{other:?}");
    let said = flat(&other.err);
    assert!(said.contains("another process answers on that socket"), "{said}");

    assert_eq!(agent.terminate(&world), Some(0));
    assert!(!world.path("agent.sock").exists());
}

/// Without the line breaks that make long messages readable.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
