//! Guests that move between two machines with real Xen, by pushes alone; and what is done to them on the way.
//!
//! The board is an etcd outside of both machines, which lend its port: so it can stand still or be gone at a moment of the
//! test's choice, and a move with it.

mod by_hand;
mod faults;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use xeno_tests::demo::report::say;
use xeno_tests::lab::etcd::Etcd;
use xeno_tests::lab::process::Daemon as Process;
use xeno_tests::lab::repository::Repository;
use xeno_tests::lab::{LabError, LabResult, ensure, wait_for};
use xeno_tests::xen_lab::machine::{DEADLINE, Machine};
use xeno_tests::xen_lab::node::{REPOSITORY, XenNode};

use crate::pushes::data;

const NAMES: [&str; 2] = ["xen-01", "xen-02"];
const PORT: u16 = 8080;
const DOMAIN: &str = "xeno.web-0";

/// How long a step of a move may take to be seen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

fn fleet(digest: &str) -> String {
    let nodes: String = NAMES
        .iter()
        .map(|name| {
            format!(
                "---\napiVersion: xenoslice/v1\nkind: Node\nmetadata: {{ name: {name} }}\nspec:\n  site: here\n  hypervisor: xen\n  \
                 capacity: {{ memory: 1400MiB, vcpus: 4 }}\n  reserved: {{ memory: 640MiB }}\n"
            )
        })
        .collect();
    format!(
        "apiVersion: xenoslice/v1\nkind: Fleet\nmetadata: {{ name: xen }}\n---\n\
         apiVersion: xenoslice/v1\nkind: Site\nmetadata: {{ name: here }}\n{nodes}---\n\
         apiVersion: xenoslice/v1\nkind: Template\nmetadata: {{ name: small }}\nspec:\n  channels: {{ current: \"{digest}\" }}\n  \
         sources: [file:///srv/data/templates]\n"
    )
}

fn slice(node: &str, policy: &str) -> String {
    format!(
        "apiVersion: xenoslice/v1
kind: Slice
metadata: {{ name: web }}
spec:
  image:
    kernel: small/current
    mounts:
      - path: /
        layers:
          - template: small/current
        writable: local
  resources: {{ vcpus: 1, memory: 96MiB, disk: 64MiB }}
  placement: {{ nodes: [{node}] }}
  migration: {{ policy: {policy} }}
  publish: [{{ guest: 80, host: {PORT} }}]
"
    )
}

/// What a node shows of the guest in `xl list`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// Its own name, and its state: running, or standing still.
    Here {
        stands: bool,
    },
    /// Given away by xl.
    Away,
}

/// The board, which ends with the test.
struct Board(Etcd);

impl Drop for Board {
    fn drop(&mut self) {
        // Nobody is left to hear of it.
        let _ended = self.0.daemon.kill();
    }
}

struct Story<'a> {
    repository: Repository,
    nodes: [XenNode<'a>; 2],
    etcd: Board,
    ports: [Process; 2],
    /// Where the guest is to be.
    at: usize,
    boot: String,
    lines: Vec<String>,
    began: Instant,
}

impl<'a> Story<'a> {
    /// Two nodes with a board, and a guest on the first.
    fn begin(machines: &'a [Machine; 2], scratch: &std::path::Path, digest: &str) -> LabResult<Self> {
        let began = Instant::now();
        let program = std::env::var_os("XENO_ETCD").map(PathBuf::from);
        let program = program
            .ok_or_else(|| LabError::Check("XENO_ETCD is not set: run make test-xen-moves".to_owned()))?;
        let etcd = Board(Etcd::start(&program, scratch)?);
        let install = |at: usize| -> LabResult<(XenNode<'a>, Process)> {
            let machine = &machines[at];
            let lent = machine.lend_port(etcd.0.port())?;
            let (address, endpoint) = (machine.id(), etcd.0.endpoint());
            let more = format!(
                "\n[board]\nkind = \"etcd\"\nendpoints = [\"{endpoint}\"]\n\n[peers]\nlisten = \"10.99.0.{address}:7046\"\n"
            );
            Ok((XenNode::install_as(machine, NAMES[at], &more)?, lent))
        };
        let [first, second] = side_by_side(|| install(0), || install(1))?;
        let repository = Repository::work_on(scratch, &machines[0].git_url(REPOSITORY))?;
        repository.push_to_both(&machines[0].git_url(REPOSITORY), &machines[1].git_url(REPOSITORY))?;
        let mut story = Self {
            repository,
            nodes: [first.0, second.0],
            etcd,
            ports: [first.1, second.1],
            at: 0,
            boot: String::new(),
            lines: Vec::new(),
            began,
        };
        story.say("two nodes, and a board between them");
        story.repository.write("fleet.yaml", &fleet(digest))?;
        story.push("live", "One sliver")?;
        story.nodes[0].await_converged()?;
        story.boot = story.nodes[0].guest(PORT)?.boot;
        story.settled("it runs on the first")?;
        Ok(story)
    }

    fn say(&self, what: &str) {
        say(&format!("[{:4} s] {what}", self.began.elapsed().as_secs()));
    }

    /// Says where the sliver is to be.
    fn push(&self, policy: &str, why: &str) -> LabResult<()> {
        self.repository
            .write("slices/web.yaml", &slice(NAMES[self.at], policy))?;
        let push = self.repository.push(why)?;
        ensure(push.accepted, || push.output.clone())
    }

    /// Says that the sliver is to be on the other node; the one it comes from, and the one it goes to.
    fn send(&mut self, policy: &str, why: &str) -> LabResult<(usize, usize)> {
        let from = self.at;
        self.at = 1 - from;
        self.push(policy, why)?;
        Ok((from, self.at))
    }

    /// What there is of the guest on a node.
    fn shown(&self, on: usize) -> LabResult<Shown> {
        let said = self.nodes[on].machine.run("xl list")?;
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, _, _, _, state, ..] = words.as_slice() {
                if *name == DOMAIN {
                    let stands = state.contains('p') || state.contains('s');
                    return Ok(Shown::Here { stands });
                }
                if name.starts_with(DOMAIN) {
                    return Ok(Shown::Away);
                }
            }
        }
        Ok(Shown::Nothing)
    }

    /// Waits until there is this of the guest on a node.
    fn await_shown(&self, on: usize, what: &str, right: impl Fn(&Shown) -> bool) -> LabResult<()> {
        wait_for(&format!("{what} on {}", NAMES[on]), DEADLINE, || {
            let shown = self.shown(on).map_err(|error| error.to_string())?;
            if right(&shown) {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
            Err(format!("{shown:?}"))
        })
    }

    /// Waits until memory comes to a node.
    fn await_copy(&self, on: usize) -> LabResult<()> {
        self.await_shown(on, "a copy", |shown| *shown != Shown::Nothing)
    }

    /// Waits until the guest has been given away by xl: its memory has gone.
    fn await_gone(&self, from: usize) -> LabResult<()> {
        self.await_shown(from, "a guest that has left", |shown| {
            matches!(shown, Shown::Away | Shown::Nothing)
        })
    }

    /// Waits until `xeno why` says this on a node.
    fn why(&self, on: usize, expected: &str) -> LabResult<()> {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.nodes[on].machine.await_output(
            &format!("why to say {expected:?} on {}", NAMES[on]),
            "NO_COLOR=1 xeno why web/0 2>&1",
            |said| words(said).contains(expected).then_some(()),
        )
    }

    /// Lets a machine that was booted again reach the board.
    fn lend_again(&mut self, at: usize) -> LabResult<()> {
        // Its connection may not have noticed yet.
        self.ports[at].kill()?;
        self.ports[at] = self.nodes[at].machine.lend_port(self.etcd.0.port())?;
        self.nodes[at].await_daemon(xeno_tests::xen_lab::node::Daemon::Agent)
    }

    /// Has both nodes try again at once what they would try later.
    fn hurry(&self) -> LabResult<()> {
        for node in &self.nodes {
            // One that is busy does so anyway.
            node.machine.output("xeno reconcile")?;
        }
        Ok(())
    }

    /// The guest runs where it is to be and nowhere else, as the same boot as ever, with all that it wrote; nothing is left to do
    /// on either node.
    fn settled(&mut self, what: &str) -> LabResult<()> {
        let (here, there) = (self.at, 1 - self.at);
        self.await_shown(here, "a guest that runs", |shown| {
            *shown == Shown::Here { stands: false }
        })?;
        // Looked at after the other: one that ran here before ran nowhere else since.
        let elsewhere = self.shown(there)?;
        ensure(elsewhere != Shown::Here { stands: false }, || {
            format!("{what}: it runs on both nodes")
        })?;
        self.hurry()?;
        for node in &self.nodes {
            node.await_converged()?;
        }
        self.await_shown(there, "nothing", |shown| *shown == Shown::Nothing)?;
        let guest = self.nodes[here].guest(PORT)?;
        ensure(guest.boot == self.boot, || {
            format!("{what}: it was booted again: {guest:?}")
        })?;
        let line = format!("line-{}", self.lines.len());
        self.nodes[here].commit(PORT, &line)?;
        self.lines.push(line);
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        self.nodes[here].ensure_kept(PORT, &lines)?;
        self.say(what);
        Ok(())
    }
}

/// Does two things at a time: most of what machines do is waiting.
fn side_by_side<T: Send>(
    first: impl FnOnce() -> LabResult<T> + Send,
    second: impl FnOnce() -> LabResult<T> + Send,
) -> LabResult<[T; 2]> {
    std::thread::scope(|scope| {
        let second = scope.spawn(second);
        let first = first();
        match second.join() {
            Ok(second) => Ok([first?, second?]),
            Err(_) => Err(LabError::Check("one of two things at a time panicked".to_owned())),
        }
    })
}

fn story() -> LabResult<()> {
    let scratch = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let (data, digest) = data(scratch.path())?;
    let machines = side_by_side(|| Machine::start(1, &data), || Machine::start(2, &data))?;
    let mut story = Story::begin(&machines, scratch.path(), &digest)?;
    let told = told_by(&mut story);
    // What each agent says of itself is on a machine that ends with this.
    if told.is_err() {
        for node in &story.nodes {
            if let Ok(said) = node.machine.output(
                "tail -n 60 /var/log/xeno-agent.log; xl list; NO_COLOR=1 xeno events 2>&1 | tail -n 30; cat /var/lib/xenoslice/state/xen/web-0/xl.log",
            ) {
                say(&format!("--- {}\n{}", node.name, String::from_utf8_lossy(&said.stdout)));
            }
        }
    }
    told
}

fn told_by(story: &mut Story<'_>) -> LabResult<()> {
    let wanted = std::env::var("XENO_LAB_STORY").ok();
    for (name, tell) in faults::ALL {
        if wanted
            .as_deref()
            .is_none_or(|wanted| wanted.split(',').any(|wanted| wanted == *name))
        {
            tell(story)?;
        }
    }
    Ok(())
}

#[test]
fn guests_move_between_machines_whatever_happens_meanwhile() {
    story().unwrap_or_else(|error| panic!("{error}"));
}
