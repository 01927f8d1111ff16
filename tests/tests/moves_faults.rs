//! A real guest that moves between two nodes while something goes wrong, at each step at which something can: an agent is killed,
//! a node ends as in a power failure, the line between them is cut or loses answers, the board is away. In the end one guest
//! runs, where the repository says, and everything that it synced is there; it was rebooted only where its node ended.
#![cfg(feature = "guest")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, report::say, run, stop};
use xeno_tests::lab::etcd::Etcd;
use xeno_tests::lab::link::{Line, Link};
use xeno_tests::lab::{
    LabResult, Parts, ensure, node::Node, repository::Repository, scratch::Scratch, wait_for, witness,
};

const DEADLINE: Duration = Duration::from_secs(300);
/// The port of this test's guest, apart from those of other tests.
const OURS: u16 = PORT + 100;
const NODES: [&str; 2] = ["cam-01", "nyc-01"];
/// How long something is away.
const AWAY: Duration = Duration::from_secs(4);

/// What goes wrong in a move.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The agent at the source, or the one at the target, is killed after it has done this.
    AgentKilled { at_source: bool, after: &'static str },
    /// As when its power fails: everything of a node ends, guests too. At that moment its agent has done this.
    NodeEnds { at_source: bool, after: &'static str },
    /// The line to the target is no more what it was, from when the source has said this on.
    Line { becomes: Line, once: &'static str },
    /// The board is away from when the source has said this on.
    NoBoard { once: &'static str },
}

const LAYERS_AND_MEMORY: &str = "layers and memory go over while it runs";
const HANDED_OVER: &str = "the right to run it is there now";

/// Every one that a move of a guest with its memory and a writable layer on the node's disk can meet.
const FAULTS: [Fault; 21] = [
    Fault::AgentKilled {
        at_source: true,
        after: "send",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "depart",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "park",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "travel",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "hand-over",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "pass-go",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "destroy",
    },
    Fault::AgentKilled {
        at_source: true,
        after: "close",
    },
    Fault::AgentKilled {
        at_source: false,
        after: "receive",
    },
    Fault::AgentKilled {
        at_source: false,
        after: "arrive",
    },
    Fault::AgentKilled {
        at_source: false,
        after: "serve",
    },
    Fault::AgentKilled {
        at_source: false,
        after: "clear",
    },
    Fault::AgentKilled {
        at_source: false,
        after: "settle",
    },
    Fault::Line {
        becomes: Line::Cut,
        once: LAYERS_AND_MEMORY,
    },
    Fault::Line {
        becomes: Line::Cut,
        once: HANDED_OVER,
    },
    Fault::Line {
        becomes: Line::NoAnswers,
        once: LAYERS_AND_MEMORY,
    },
    Fault::NoBoard {
        once: LAYERS_AND_MEMORY,
    },
    Fault::NoBoard { once: HANDED_OVER },
    Fault::NodeEnds {
        at_source: false,
        after: "arrive",
    },
    Fault::NodeEnds {
        at_source: true,
        after: "hand-over",
    },
    Fault::NodeEnds {
        at_source: false,
        after: "clear",
    },
];

struct Lab {
    nodes: Vec<Node>,
    links: Vec<Link>,
    etcd: Etcd,
    repository: Repository,
    parts: Parts,
    dir: PathBuf,
    /// Where the guest is.
    place: usize,
    written: Vec<String>,
    boot: String,
}

impl Lab {
    fn start(options: &run::Options) -> LabResult<Self> {
        let dir = options.dir.clone();
        let program = std::env::var_os("XENO_ETCD").expect("XENO_ETCD names an etcd: `make test-crash`");
        let parts = run::import(&mut Report::default(), options, &dir)?;
        let repository = Repository::create(&dir, &parts.xeno)?;
        manifests::write_fleet(&repository, &parts)?;
        manifests::write_nodes(&repository, &NODES)?;
        let etcd = Etcd::start(Path::new(&program), &dir)?;
        let mut lab = Self {
            nodes: Vec::new(),
            links: Vec::new(),
            etcd,
            repository,
            parts,
            dir,
            place: 0,
            written: Vec::new(),
            boot: String::new(),
        };
        lab.push("One guest")?;
        for name in NODES {
            let endpoint = lab.etcd.endpoint();
            let (node, link) =
                Node::start_at_a_line(&lab.dir, name, &lab.repository.bare, &lab.parts, &endpoint)?;
            lab.nodes.push(node);
            lab.links.push(link);
            lab.record()?;
        }
        lab.await_calm()?;
        lab.boot = witness::says(OURS, "boot_id", DEADLINE)?;
        Ok(lab)
    }

    fn record(&self) -> LabResult<()> {
        let of_nodes = self.nodes.iter().flat_map(|node| [&node.agent, &node.cowfs]);
        stop::record_all(&self.dir, of_nodes.chain([&self.etcd.daemon]))
    }

    /// Pushes where the guest is to be.
    fn push(&self, message: &str) -> LabResult<()> {
        let step = Step {
            nonce: "the-only-page",
            nodes: &[NODES[self.place]],
            state: "running",
            memory: "160MiB",
        };
        let slice = manifests::slice(&step).replace(&format!("host: {PORT}"), &format!("host: {OURS}"));
        manifests::write_page(&self.repository, &step)?;
        self.repository.write("slices/web.yaml", &slice)?;
        let push = self.repository.push(message)?;
        ensure(push.accepted, || push.output.clone())
    }

    /// Waits until the guest runs where it should and nowhere else, and nothing is left to do.
    fn await_calm(&self) -> LabResult<()> {
        wait_for(&format!("one guest, on {}", NODES[self.place]), DEADLINE, || {
            let found = [0, 1].map(|node| self.nodes[node].guests("web-0").len());
            let mut right = [0, 0];
            right[self.place] = 1;
            if found == right {
                Ok(())
            } else {
                Err(format!("there are {found:?}"))
            }
        })?;
        for node in &self.nodes {
            node.await_converged(DEADLINE)?;
        }
        Ok(())
    }

    /// Ends an agent, and has one in its place that ends after something in a move.
    fn arm(&mut self, node: usize, after: &str) -> LabResult<()> {
        let node = &mut self.nodes[node];
        node.kill_agent()?;
        let at = format!("{after}:of-a-move");
        let program = self.parts.xeno.to_string_lossy().into_owned();
        let variables = [("XENO_CRASH_AT", at.as_str()), ("XENO_PROGRAM", program.as_str())];
        node.start_as_agent(Path::new(env!("CARGO_BIN_EXE_xeno-crash-agent")), &variables)?;
        self.record()
    }

    /// Waits until an armed agent has ended.
    fn await_crash(&mut self, node: usize, after: &str) -> LabResult<()> {
        let ended = self.nodes[node].agent.await_end(DEADLINE)?;
        ensure(ended == Some(9), || {
            format!("{after}: the agent ended otherwise: {ended:?}")
        })
    }

    /// Moves the guest to the other node, with a fault.
    fn suffer(&mut self, fault: Fault) -> LabResult<()> {
        let source = self.place;
        let target = 1 - source;
        let at = |at_source: bool| if at_source { source } else { target };
        match fault {
            Fault::AgentKilled { at_source, after } | Fault::NodeEnds { at_source, after } => {
                self.arm(at(at_source), after)?;
            }
            Fault::Line { .. } | Fault::NoBoard { .. } => {}
        }
        self.place = target;
        let before = match fault {
            Fault::Line { once, .. } | Fault::NoBoard { once } => self.nodes[source].times_said(once)?,
            Fault::AgentKilled { .. } | Fault::NodeEnds { .. } => 0,
        };
        self.push(&format!("To {}", NODES[target]))?;
        match fault {
            Fault::AgentKilled { at_source, after } => {
                let node = at(at_source);
                self.await_crash(node, after)?;
                self.nodes[node].restart_agent()?;
            }
            Fault::NodeEnds { at_source, after } => {
                let node = at(at_source);
                self.await_crash(node, after)?;
                self.nodes[node].kill_cowfs()?;
                for guest in self.nodes[node].guests("web-0") {
                    stop::kill_guest(guest)?;
                }
                std::thread::sleep(AWAY);
                self.nodes[node].restart_cowfs()?;
                self.nodes[node].restart_agent()?;
            }
            Fault::Line { becomes, once } => {
                self.nodes[source].await_event(once, before + 1, DEADLINE)?;
                self.links[target].turn(becomes);
                std::thread::sleep(AWAY);
                self.links[target].turn(Line::Whole);
            }
            Fault::NoBoard { once } => {
                self.nodes[source].await_event(once, before + 1, DEADLINE)?;
                self.etcd.daemon.kill()?;
                std::thread::sleep(AWAY);
                self.etcd.restart()?;
            }
        }
        self.record()
    }

    /// What must be so after each move.
    fn check(&mut self, fault: Fault) -> LabResult<()> {
        self.await_calm()?;
        let boot = witness::says(OURS, "boot_id", DEADLINE)?;
        let may_reboot = matches!(fault, Fault::NodeEnds { .. });
        ensure(boot == self.boot || may_reboot, || {
            "the guest was rebooted".to_owned()
        })?;
        let rebooted = boot != self.boot;
        self.boot = boot;
        let line = format!("{fault:?}").replace([' ', '{', '}', '"', ','], "");
        witness::write(OURS, &line, DEADLINE)?;
        self.written.push(line);
        let kept = witness::ledger(OURS, DEADLINE)?;
        ensure(kept == self.written, || {
            format!("it holds {kept:?} and not {:?}", self.written)
        })?;
        say(&format!(
            "{fault:?}: right{}",
            if rebooted { ", and rebooted" } else { "" }
        ));
        Ok(())
    }
}

#[test]
fn whatever_goes_wrong_in_a_move_one_guest_runs_and_remembers() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn story(options: &run::Options) -> LabResult<()> {
    let mut lab = Lab::start(options)?;
    for fault in FAULTS {
        let outcome = lab.suffer(fault).and_then(|()| lab.check(fault));
        if outcome.is_err() {
            say(&format!("{fault:?}, to {}:", NODES[lab.place]));
            for node in &lab.nodes {
                for question in [&["why", "web/0"][..], &["events", "--limit", "60"]] {
                    let said = node.xeno(question)?;
                    say(&format!(
                        "== {}\n{}",
                        node.name,
                        String::from_utf8_lossy(&said.stdout)
                    ));
                }
            }
            return outcome;
        }
    }
    for node in &mut lab.nodes {
        node.stop()?;
    }
    Ok(())
}
