//! Six nodes over one etcd, and two guests that pushes send from node to node, while agents, file servers and the etcd are
//! killed in the middle of whatever they do. In the end everything is where the repository says, no guest was rebooted, and
//! every line that a guest said it had synced is there, once.
//!
//! `XENO_CHAOS_SECONDS` says how long (60 without), `XENO_SEED` which misfortunes (1 without): those are the seed's, what they
//! meet is not.
#![cfg(feature = "guest")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xeno_tests::demo::manifests::{self, PORT, Step};
use xeno_tests::demo::{report::Report, report::say, run, stop};
use xeno_tests::lab::dice::Dice;
use xeno_tests::lab::etcd::Etcd;
use xeno_tests::lab::{
    LabResult, ensure, http, node::Node, repository::Repository, scratch::Scratch, wait_for, witness,
};

const DEADLINE: Duration = Duration::from_secs(600);
const FETCH: Duration = Duration::from_secs(5);
const NODES: [&str; 6] = ["cam-01", "cam-02", "cam-03", "nyc-01", "nyc-02", "nyc-03"];
/// The ports of this test's guests, apart from those of other tests.
const OURS: u16 = PORT + 80;
const GUESTS: usize = 2;

/// What a client of one guest remembers.
#[derive(Default)]
struct Witness {
    /// Lines that the guest said it had synced.
    acknowledged: Vec<String>,
    /// The boots that it saw, in order.
    boots: Vec<String>,
}

/// Somebody who keeps writing to one guest.
struct Client {
    seen: Arc<Mutex<Witness>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Client {
    fn of(guest: usize) -> Self {
        let (seen, stop) = (
            Arc::new(Mutex::new(Witness::default())),
            Arc::new(AtomicBool::new(false)),
        );
        let (to, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut number = 0_u32;
            while !until.load(Ordering::SeqCst) {
                let line = format!("guest-{guest}-line-{number}");
                number += 1;
                let said = http::get(port(guest), &format!("/cgi-bin/ledger?{line}"), FETCH);
                if said.is_ok_and(|page| page.body.contains("committed")) {
                    to.lock().expect("nobody panics with it").acknowledged.push(line);
                }
                if let Ok(boot) = boot_id(guest) {
                    let mut to = to.lock().expect("nobody panics with it");
                    if to.boots.last() != Some(&boot) {
                        to.boots.push(boot);
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { seen, stop, thread }
    }

    fn end(self) -> Witness {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it only fetches pages");
        std::mem::take(&mut *self.seen.lock().expect("nobody panics with it"))
    }
}

fn port(guest: usize) -> u16 {
    OURS + u16::try_from(guest).expect("there are few")
}

fn boot_id(guest: usize) -> Result<String, String> {
    witness::says_now(port(guest), "boot_id")
}

/// The fleet, where its guests are to be, and what was done to it.
struct Fleet {
    nodes: Vec<Node>,
    etcd: Etcd,
    dir: PathBuf,
    repository: Repository,
    wanted: [usize; GUESTS],
    moves: u32,
    kills: [u32; 3],
}

impl Fleet {
    fn start(options: &run::Options) -> LabResult<Self> {
        let dir = options.dir.clone();
        let program = std::env::var_os("XENO_ETCD").expect("XENO_ETCD names an etcd: `make guest`");
        let parts = run::import(&mut Report::default(), options, &dir)?;
        let repository = Repository::create(&dir, &parts.xeno)?;
        manifests::write_fleet(&repository, &parts)?;
        manifests::write_nodes(&repository, &NODES)?;
        let etcd = Etcd::start(&PathBuf::from(program), &dir)?;
        let mut fleet = Self {
            nodes: Vec::new(),
            etcd,
            dir,
            repository,
            wanted: [0, 3],
            moves: 0,
            kills: [0; 3],
        };
        fleet.push("Two guests")?;
        for name in NODES {
            let endpoint = fleet.etcd.endpoint();
            let node = Node::start_with_etcd(&fleet.dir, name, &fleet.repository.bare, &parts, &endpoint)?;
            fleet.nodes.push(node);
            fleet.record()?;
        }
        Ok(fleet)
    }

    /// Notes every process, so that a test that fails leaves none.
    fn record(&self) -> LabResult<()> {
        let of_nodes = self.nodes.iter().flat_map(|node| [&node.agent, &node.cowfs]);
        stop::record_all(&self.dir, of_nodes.chain([&self.etcd.daemon]))
    }

    /// Pushes where the guests are wanted.
    fn push(&self, message: &str) -> LabResult<()> {
        let step = Step {
            nonce: "the-only-page",
            nodes: &self.wanted.map(|node| NODES[node]),
            state: "running",
            memory: "192MiB",
        };
        let slice = manifests::slice(&step).replace(&format!("host: {PORT}"), &format!("host: {OURS}"));
        manifests::write_page(&self.repository, &step)?;
        self.repository.write("slices/web.yaml", &slice)?;
        let push = self.repository.push(message)?;
        ensure(push.accepted, || push.output.clone())
    }

    /// One misfortune, or a push.
    fn suffer(&mut self, dice: &mut Dice) -> LabResult<()> {
        let pause = Duration::from_millis(dice.below(4000) as u64);
        let node = dice.below(self.nodes.len());
        match dice.below(10) {
            0 | 1 => {
                self.kills[0] += 1;
                self.nodes[node].kill_agent()?;
                std::thread::sleep(pause);
                self.nodes[node].restart_agent()?;
            }
            2 => {
                // One that has a guest: there are more who wait for it.
                let node = self.wanted[dice.below(GUESTS)];
                self.kills[0] += 1;
                self.nodes[node].kill_agent()?;
                std::thread::sleep(pause);
                self.nodes[node].restart_agent()?;
            }
            3 => {
                let node = self.wanted[dice.below(GUESTS)];
                self.kills[1] += 1;
                self.nodes[node].kill_cowfs()?;
                std::thread::sleep(pause);
                self.nodes[node].restart_cowfs()?;
            }
            4 => {
                let node = &mut self.nodes[node];
                self.kills[0] += 1;
                self.kills[1] += 1;
                node.kill_cowfs()?;
                node.kill_agent()?;
                std::thread::sleep(pause);
                node.restart_cowfs()?;
                node.restart_agent()?;
            }
            5 => {
                self.kills[2] += 1;
                self.etcd.daemon.kill()?;
                std::thread::sleep(pause);
                self.etcd.restart()?;
            }
            _ => {
                let guest = dice.below(GUESTS);
                self.wanted[guest] = node;
                self.moves += 1;
                // A push may change nothing, and a commit must.
                self.repository.write("turn", &format!("{}\n", self.moves))?;
                self.push(&format!("Guest {guest} to {}", NODES[node]))?;
            }
        }
        self.record()
    }

    /// Waits until each guest runs where it is wanted and nowhere else, and no node has anything left to do.
    fn await_calm(&self) -> LabResult<()> {
        for (guest, wanted) in self.wanted.into_iter().enumerate() {
            let sliver = format!("web-{guest}");
            wait_for(
                &format!("web/{guest} to be on {}", NODES[wanted]),
                DEADLINE,
                || {
                    let found: Vec<_> = self.nodes.iter().map(|node| node.guests(&sliver).len()).collect();
                    let mut right = vec![0; self.nodes.len()];
                    right[wanted] = 1;
                    if found == right {
                        Ok(())
                    } else {
                        Err(format!("it is here: {found:?}"))
                    }
                },
            )?;
            wait_for(&format!("web/{guest} to speak"), DEADLINE, || boot_id(guest))?;
        }
        for node in &self.nodes {
            node.await_converged(DEADLINE)?;
        }
        Ok(())
    }

    /// What each node has to say of what happened to it.
    fn told(&self) -> String {
        let mut told = String::new();
        for node in &self.nodes {
            for question in [
                &["why", "web/0"][..],
                &["why", "web/1"],
                &["events", "--limit", "60"],
            ] {
                let Ok(said) = node.xeno(question) else { continue };
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                told += &format!("== {}: xeno {}\n{said}", node.name, question.join(" "));
            }
        }
        told
    }
}

#[test]
fn nothing_is_lost_and_nobody_is_rebooted() -> LabResult<()> {
    Scratch::on_disk().tell(|scratch| story(&scratch.options()))
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Err(_) => otherwise,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    }
}

fn story(options: &run::Options) -> LabResult<()> {
    let (seconds, seed) = (number("XENO_CHAOS_SECONDS", 60), number("XENO_SEED", 1));
    let mut fleet = Fleet::start(options)?;
    let outcome = endure(&mut fleet, Duration::from_secs(seconds), seed);
    if outcome.is_err() {
        say(&fleet.told());
        say(&format!(
            "again: make test-chaos SECONDS={seconds} SEED={seed}; its nodes are in {}",
            fleet.dir.display()
        ));
    }
    for node in &mut fleet.nodes {
        node.stop()?;
    }
    outcome
}

fn endure(fleet: &mut Fleet, how_long: Duration, seed: u64) -> LabResult<()> {
    fleet.await_calm()?;
    let clients: Vec<_> = (0..GUESTS).map(Client::of).collect();
    let mut dice = Dice::of(seed);
    let start = Instant::now();
    let mut suffered = Ok(());
    while suffered.is_ok() && start.elapsed() < how_long {
        suffered = fleet.suffer(&mut dice);
        std::thread::sleep(Duration::from_millis(dice.below(2500) as u64));
    }
    let calm = suffered.and_then(|()| fleet.await_calm());
    let witnesses: Vec<_> = clients.into_iter().map(Client::end).collect();
    calm?;

    let [agents, servers, boards] = fleet.kills;
    say(&format!(
        "seed {seed}, {} s: {} pushes, {agents} agents, {servers} file servers and {boards} times the etcd killed",
        start.elapsed().as_secs(),
        fleet.moves
    ));
    for (guest, witness) in witnesses.into_iter().enumerate() {
        say(&format!(
            "web/{guest}: {} lines synced",
            witness.acknowledged.len()
        ));
        ensure(!witness.acknowledged.is_empty(), || {
            format!("web/{guest} never wrote a line")
        })?;
        ensure(witness.boots.len() == 1, || {
            format!("web/{guest} was rebooted: {:?}", witness.boots)
        })?;
        let ledger = witness::ledger(port(guest), DEADLINE)?;
        let mut kept = BTreeSet::new();
        for line in &ledger {
            ensure(kept.insert(line.as_str()), || {
                format!("web/{guest} has {line} twice")
            })?;
        }
        let lost: Vec<_> = witness
            .acknowledged
            .iter()
            .filter(|line| !kept.contains(line.as_str()))
            .collect();
        ensure(lost.is_empty(), || format!("web/{guest} lost {lost:?}"))?;
    }
    Ok(())
}
