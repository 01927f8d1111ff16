//! One node: a real agent that a push wakes, and an agent with a hundred slivers that has nothing to do.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use xeno_tests::lab::node::Node;
use xeno_tests::lab::repository::Repository;
use xeno_tests::lab::{Parts, wait_for};

use crate::measure::{Times, memory};
use crate::plan::megabytes;
use crate::report::{Figure, Goal};
use crate::{Failure, Setting};

/// Generous: what takes longer than this is broken, not slow.
const DEADLINE: Duration = Duration::from_secs(120);

/// Digest of a template that nobody has: fetching it is the first thing a new sliver needs.
const TEMPLATE: &str = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

/// From `git push` to the moment the node begins on it: real programs, a repository with the hook, found by its file
/// system's notifications.
pub(crate) fn push_to_action(setting: &Setting) -> Result<Vec<Figure>, Failure> {
    let name = "git push → first action";
    let Some(xeno) = &setting.xeno else {
        return Ok(vec![
            Figure::missing(name, "ms", "no xeno program was built").goal(Goal::AtMost(1000.0)),
        ]);
    };
    let mut whole = Times::default();
    let mut after = Times::default();
    let mut resident = 0;
    for run in 0..setting.runs.min(5) {
        let dir = setting.dir.join(format!("node-{run}"));
        std::fs::create_dir_all(&dir)?;
        let pushed = one_push(xeno, &dir)?;
        whole.add(pushed.whole, Duration::ZERO);
        after.add(pushed.after, Duration::ZERO);
        resident = resident.max(pushed.resident);
    }
    Ok(vec![
        Figure::new(name, whole.best(), "ms")
            .median(whole.median())
            .goal(Goal::AtMost(1000.0))
            .note("the hook's answer with the plan included"),
        Figure::new("end of git push → first action", after.best(), "ms")
            .median(after.median())
            .note("what of it is the agent's"),
        Figure::new("idle agent, one stopped sliver, QEMU", megabytes(resident), "MB").note("resident"),
    ])
}

struct Pushed {
    whole: Duration,
    after: Duration,
    resident: u64,
}

fn one_push(xeno: &Path, dir: &Path) -> Result<Pushed, Failure> {
    let repository = Repository::create(dir, xeno)?;
    for (path, text) in [
        ("fleet.yaml", document("Fleet", "bench", "{}")),
        ("site.yaml", document("Site", "here", "{}")),
        (
            "node.yaml",
            document(
                "Node",
                "node",
                "{ site: here, capacity: { memory: 8GiB, vcpus: 8 } }",
            ),
        ),
        (
            "template.yaml",
            document(
                "Template",
                "t",
                &format!("{{ channels: {{ current: \"{TEMPLATE}\" }} }}"),
            ),
        ),
        ("slices/old.yaml", slice("old", "stopped")),
    ] {
        repository.write(path, &text)?;
    }
    accepted(&repository, "begin")?;
    let parts = Parts {
        xeno: xeno.to_owned(),
        template: TEMPLATE.to_owned(),
        published: dir.join("published"),
    };
    let mut node = Node::start(dir, "node", &repository.bare, &parts)?;
    let result = woken(&repository, &node);
    node.stop()?;
    result
}

fn woken(repository: &Repository, node: &Node) -> Result<Pushed, Failure> {
    node.await_converged(DEADLINE)?;
    let resident = memory(node.agent.pid(), "VmRSS:").unwrap_or(0);
    let seen = last_event(&events(node, 0)?);
    repository.write("slices/new.yaml", &slice("new", "running"))?;
    let begun = now()?;
    accepted(repository, "a service")?;
    let ended = now()?;
    // The agent notes when it begins; how often it is asked does not matter.
    let first = wait_for("the first action", DEADLINE, || {
        let events = events(node, seen).map_err(|error| error.to_string())?;
        let planned = events.iter().find(|event| event["kind"] == "planned");
        let at = planned.and_then(|event| event["at_ms"].as_u64().or_else(|| event["atMs"].as_u64()));
        at.map(Duration::from_millis).ok_or_else(|| format!("{events:?}"))
    })?;
    Ok(Pushed {
        whole: first.saturating_sub(begun),
        // The agent may well have begun before git has told whoever pushed.
        after: first.saturating_sub(ended),
        resident,
    })
}

fn accepted(repository: &Repository, message: &str) -> Result<(), Failure> {
    let push = repository.push(message)?;
    if push.accepted {
        Ok(())
    } else {
        Err(format!("the push was refused: {}", push.output).into())
    }
}

fn events(node: &Node, since: u64) -> Result<Vec<Value>, Failure> {
    let since = since.to_string();
    let answer = node.json(&["events", "-o", "json", "--since", &since])?;
    Ok(answer["events"].as_array().cloned().unwrap_or_default())
}

fn last_event(events: &[Value]) -> u64 {
    events
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .max()
        .unwrap_or(0)
}

fn now() -> Result<Duration, Failure> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: xenoslice/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n")
}

fn slice(name: &str, state: &str) -> String {
    let spec = format!(
        "{{ image: {{ kernel: t/current, mounts: [{{ path: /, layers: [{{ files: {{ /etc/motd: {{ text: hello }} }} }}, {{ \
         template: t/current }}], writable: local }}] }}, resources: {{ memory: 64MiB }}, placement: {{ nodes: [node] }}, \
         state: {state} }}"
    );
    document("Slice", name, &spec)
}
