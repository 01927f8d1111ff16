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
