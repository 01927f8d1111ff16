//! A real guest whose node is replaced by another: its agent stands still, so that its lease runs out while the guest and its file
//! server go on. The guest gets no answers any more, and goes on where it was when the agent does; or somebody makes sure of the
//! node, and another boots the guest with every line that it had synced.
#![cfg(feature = "guest")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, report::say, run, stop};
use xeno_tests::lab::etcd::Etcd;
use xeno_tests::lab::{
    LabError, LabResult, ensure, http, node::Node, repository::Repository, scratch::Scratch, wait_for,
    witness, write,
};

const DEADLINE: Duration = Duration::from_secs(300);
const FETCH: Duration = Duration::from_secs(3);
/// The port of this test's guest, apart from those of other tests.
const OURS: u16 = PORT + 120;
const NODES: [&str; 2] = ["cam-01", "nyc-01"];

/// The switch of each node's power: it ends all that runs there, if it knows the node.
const SWITCH: &str = "#!/bin/sh
pids=\"$(dirname \"$0\")/$1.pids\"
[ -e \"$pids\" ] || { echo \"no line to the switch of $1\" >&2; exit 1; }
for pid in $(cat \"$pids\"); do kill -9 \"$pid\"; done
";

struct Lab {
    nodes: Vec<Node>,
    etcd: Etcd,
    repository: Repository,
    dir: PathBuf,
    written: Vec<String>,
}

impl Lab {
    fn start(options: &run::Options) -> LabResult<Self> {
        let dir = options.dir.clone();
        let program = std::env::var_os("XENO_ETCD").expect("XENO_ETCD names an etcd: `make guest`");
        let parts = run::import(&mut Report::default(), options, &dir)?;
        let repository = Repository::create(&dir, &parts.xeno)?;
        manifests::write_fleet(&repository, &parts)?;
        manifests::write_nodes(&repository, &NODES)?;
        std::fs::create_dir(dir.join("shared")).expect("a directory that both nodes reach");
        let switch = dir.join("switch");
        write(&switch, SWITCH)?;
        let runs = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&switch, runs).expect("a program");
        let etcd = Etcd::start(Path::new(&program), &dir)?;
        let mut lab = Self {
            nodes: Vec::new(),
            etcd,
            repository,
            dir,
            written: Vec::new(),
        };
        lab.push(0)?;
        for name in NODES {
            let endpoint = lab.etcd.endpoint();
            let node =
                Node::start_with_fence(&lab.dir, name, &lab.repository.bare, &parts, (&endpoint, &switch))?;
            lab.nodes.push(node);
            lab.record()?;
        }
        Ok(lab)
    }

    fn record(&self) -> LabResult<()> {
        let of_nodes = self.nodes.iter().flat_map(|node| [&node.agent, &node.cowfs]);
        stop::record_all(&self.dir, of_nodes.chain([&self.etcd.daemon]))
    }

    /// Pushes where the guest is to be.
    fn push(&self, place: usize) -> LabResult<()> {
        let step = Step {
            nonce: "the-only-page",
            nodes: &[NODES[place]],
            state: "running",
            memory: "160MiB",
        };
        let shared = format!(
            "writable: file://{}/{{sliver}}\n",
            self.dir.join("shared").display()
        );
        let slice = manifests::slice(&step)
            .replace(&format!("host: {PORT}"), &format!("host: {OURS}"))
            .replace("writable: local\n", &shared)
            .replace("  state: running\n", "  state: running\n  failover: true\n");
        manifests::write_page(&self.repository, &step)?;
        self.repository.write("slices/web.yaml", &slice)?;
        let push = self.repository.push(&format!("To {}", NODES[place]))?;
        ensure(push.accepted, || push.output.clone())
    }

    fn note(&mut self, line: &str) -> LabResult<()> {
        witness::write(OURS, line, DEADLINE)?;
        self.written.push(line.to_owned());
        Ok(())
    }

    /// Has the first node's agent stand still, until its file server answers its guest no more.
    fn lose_lease(&mut self) -> LabResult<()> {
        self.nodes[0].agent.freeze(true)?;
        let mut number = 0_u32;
        let mut last = Vec::new();
        wait_for("a guest without answers", DEADLINE, || {
            number += 1;
            let line = format!("meanwhile-{}-{number}", self.written.len());
            let said = http::get(OURS, &format!("/cgi-bin/ledger?{line}"), FETCH);
            if said.is_ok_and(|page| page.body.contains("committed")) {
                last.push(line);
                return Err("it is answered".to_owned());
            }
            Ok(())
        })?;
        self.written.append(&mut last);
        ensure(self.nodes[0].guests("web-0").len() == 1, || {
            "the guest has ended by itself".to_owned()
        })?;
        let seen = self.nodes[0].file_server()?;
        ensure(seen["exports"]["web-0.0"]["lapsed"] == true, || seen.to_string())
    }

    /// Every line that was said to be synced is there; of those that were not, some may be.
    fn holds_all(&self) -> LabResult<()> {
        let kept = witness::ledger(OURS, DEADLINE)?;
        let lost: Vec<_> = self.written.iter().filter(|line| !kept.contains(line)).collect();
        ensure(lost.is_empty(), || format!("{lost:?} are lost of {kept:?}"))
    }
}

#[test]
fn a_node_that_is_certainly_off_is_replaced_and_nothing_synced_is_lost() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn story(options: &run::Options) -> LabResult<()> {
    let mut lab = Lab::start(options)?;
    let outcome = told(&mut lab);
    if outcome.is_err() {
        for node in &lab.nodes {
            for question in [&["why", "web/0"][..], &["events", "--limit", "60"]] {
                let said = node.xeno(question)?;
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                say(&format!("== {}: xeno {}\n{said}", node.name, question.join(" ")));
            }
        }
    }
    outcome
}

fn told(lab: &mut Lab) -> LabResult<()> {
    lab.note("first")?;
    let boot = witness::says(OURS, "boot_id", DEADLINE)?;
    lab.nodes[0].await_converged(DEADLINE)?;

    lab.lose_lease()?;
    say("without a lease the guest gets no answers");
    lab.nodes[0].agent.freeze(false)?;
    lab.note("second")?;
    let now = witness::says(OURS, "boot_id", DEADLINE)?;
    ensure(now == boot, || "the guest was rebooted".to_owned())?;
    lab.holds_all()?;
    say("with a lease again it goes on where it was");

    lab.lose_lease()?;
    lab.push(1)?;
    wait_for("the other node to say what it waits for", DEADLINE, || {
        let said = lab.nodes[1]
            .xeno(&["why", "web/0"])
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let words: Vec<&str> = said.split_whitespace().collect();
        let said = words.join(" ");
        if said.contains("no line to the switch of cam-01") {
            Ok(())
        } else {
            Err(said)
        }
    })?;
    ensure(lab.nodes[1].guests("web-0").is_empty(), || {
        "it runs on the other node, and nobody has made sure of the first".to_owned()
    })?;
    say("without a fence the other node waits");

    let mut pids = lab.nodes[0].guests("web-0");
    pids.extend([lab.nodes[0].agent.pid(), lab.nodes[0].cowfs.pid()]);
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    write(&lab.dir.join("cam-01.pids"), &pids.join("\n"))?;
    wait_for("the guest on the other node", DEADLINE, || {
        match lab.nodes[1].guests("web-0").len() {
            1 => Ok(()),
            other => Err(format!("there are {other}")),
        }
    })?;
    ensure(lab.nodes[0].guests("web-0").is_empty(), || {
        "two of it run".to_owned()
    })?;
    let now = witness::says(OURS, "boot_id", DEADLINE)?;
    ensure(now != boot, || "it remembers what it cannot".to_owned())?;
    lab.holds_all()?;
    lab.note("third")?;
    lab.nodes[1].await_converged(DEADLINE)?;
    say("the other node has it, and every line that was synced");

    lab.nodes[0].kill_agent()?;
    lab.nodes[0].kill_cowfs()?;
    lab.nodes[0].restart_cowfs()?;
    lab.nodes[0].restart_agent()?;
    lab.record()?;
    lab.nodes[0].await_event("web/0 is forgotten here: it goes on elsewhere", 1, DEADLINE)?;
    lab.nodes[0].await_converged(DEADLINE)?;
    let left = std::fs::read_dir(lab.dir.join("cam-01/state/writable"));
    let left: Vec<_> = left.map_err(LabError::io("look for what is left"))?.collect();
    ensure(left.is_empty(), || format!("{left:?} are left"))?;
    say("the first node is back, and done with it");
    ensure(lab.nodes[0].guests("web-0").is_empty(), || {
        "it runs where it has no right to".to_owned()
    })?;
    lab.note("fourth")?;
    lab.holds_all()?;
    for node in &mut lab.nodes {
        node.stop()?;
    }
    Ok(())
}
