//! A node in memory, its state directory, and the agent on it while there is one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;
use tokio::time::{Duration, timeout};
use xeno_agent::api::{Phase, PlanView, Status};
use xeno_agent::handle::HandleError;
use xeno_agent::lab::{Fuse, Lab, LabClock, LabConfig, LabFleet};
use xeno_agent::source::RemoteUrl;
use xeno_model::desired::DesiredNode;
use xeno_model::id::{NodeName, SliverId, Timestamp};
use xeno_reconciler::scripted::ScriptedNode;
use xeno_state::node::{Limits, NodeState};
use xeno_state::record::Outcome;
use xeno_state::time::NodeTime;

use crate::fleet::{MEMORY_MIB, NODE, id};

/// 2026-09-21.
pub(crate) const START_MS: u64 = 1_790_000_000_000;

/// How long tombstones are kept here.
pub(crate) const TOMBSTONE: Duration = Duration::from_secs(3 * 3600);

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) node: Arc<ScriptedNode>,
    pub(crate) clock: LabClock,
    pub(crate) parallel: usize,
    pub(crate) look_every: Duration,
    repository: Option<RemoteUrl>,
    /// Which node of the fleet it is.
    name: &'static str,
    fleet: Option<LabFleet>,
    agent: Option<Lab>,
    /// What was pushed last.
    pushed: Option<DesiredNode>,
    trip: Arc<Trip>,
}

/// When the agent is to end: once the journal says that an action of this verb, after this entry, is done.
#[derive(Debug, Default)]
struct Trip {
    armed: Mutex<Option<(&'static str, i64)>>,
    blown: AtomicBool,
}

impl Trip {
    fn blows(&self, state: &NodeState) -> bool {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((verb, after)) = *armed else { return false };
        let done = |entry: &xeno_state::record::JournalEntry| {
            entry.seq > after
                && entry.action.split(':').next() == Some(verb)
                && matches!(entry.outcome, Some((Outcome::Done, _)))
        };
        let blows = state.journal(16).unwrap().iter().any(done);
        if blows {
            *armed = None;
            self.blown.store(true, Ordering::SeqCst);
        }
        blows
    }
}

impl World {
    /// No agent yet.
    pub(crate) fn new() -> Self {
        Self::of_size(MEMORY_MIB)
    }

    fn of_size(memory_mib: u64) -> Self {
        let node = Arc::new(ScriptedNode::new(memory_mib));
        let clock = LabClock::new(START_MS);
        node.follow(move || clock.now());
        node.set_boot_clock(move || clock.boot_now());
        let dir = in_memory_if_possible();
        node.keep_consoles_in(dir.path().join("consoles"));
        std::fs::create_dir(dir.path().join("consoles")).unwrap();
        Self {
            dir,
            node,
            clock,
            parallel: 4,
            look_every: Duration::from_secs(10),
            repository: None,
            name: NODE,
            fleet: None,
            agent: None,
            pushed: None,
            trip: Arc::default(),
        }
    }

    /// One of a fleet, with so much memory for guests.
    pub(crate) fn one_of_size(name: &'static str, fleet: LabFleet, memory_mib: u64) -> Self {
        Self {
            name,
            fleet: Some(fleet),
            ..Self::of_size(memory_mib)
        }
    }

    /// One of a fleet, under this name.
    pub(crate) fn one_of(name: &'static str, fleet: LabFleet) -> Self {
        Self {
            name,
            fleet: Some(fleet),
            ..Self::new()
        }
    }

    /// Has a repository to follow instead of being told, from the next start on.
    pub(crate) fn follow(&mut self, repository: RemoteUrl) {
        self.repository = Some(repository);
    }

    pub(crate) async fn start(&mut self) {
        let trip = Arc::clone(&self.trip);
        let config = LabConfig {
            node: NodeName::new(self.name).unwrap(),
            state_dir: self.dir.path().join("state"),
            repository: self.repository.clone(),
            look_every: self.look_every,
            parallel: self.parallel,
            tombstone: TOMBSTONE,
            clock: self.clock,
            limits: Limits::default(),
            fuse: Some(Fuse::new(move |state| trip.blows(state))),
            fleet: self.fleet.clone(),
        };
        let still = Still::begin();
        let lab = Lab::start(config, Arc::clone(&self.node), Arc::clone(&self.node)).await;
        self.agent = Some(lab.unwrap());
        if self.repository.is_some() {
            // It reads the mirror and the repository by itself; whether that worked is for whoever asks.
            let _ = self.read_repository().await;
        }
        still.end().await;
    }

    /// Has the repository read.
    pub(crate) async fn read_repository(&self) -> Result<(), HandleError> {
        let still = Still::begin();
        let handle = self.agent().handle();
        // A reading under way answers as well, and may have begun before what is to be read was there.
        let _ = handle.refetch().await;
        let read = handle.refetch().await;
        still.end().await;
        read
    }

    pub(crate) fn agent(&self) -> &Lab {
        self.agent.as_ref().unwrap()
    }

    /// Ends the agent as `kill -9` would.
    pub(crate) async fn kill(&mut self) {
        self.agent.take().unwrap().kill().await;
    }

    /// Starts another agent, which reads the last commit again as one does: from its mirror, then from the repository.
    pub(crate) async fn start_again(&mut self) {
        self.start().await;
        if let Some(pushed) = &self.pushed {
            self.agent().restore(pushed.clone()).await;
            self.agent().desire(pushed.clone()).await;
        }
    }

    pub(crate) async fn push(&mut self, desired: DesiredNode) {
        self.pushed = Some(desired.clone());
        self.agent().desire(desired).await;
    }

    pub(crate) async fn status(&self) -> Status {
        self.agent().handle().status().await.unwrap()
    }

    pub(crate) async fn plan(&self) -> PlanView {
        self.agent().handle().plan().await.unwrap()
    }

    /// Waits until the status is as wanted; generous, and free on a paused clock.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut pause = Duration::from_millis(50);
        let wait = async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        };
        match timeout(Duration::from_secs(6 * 3600), wait).await {
            Ok(status) => status,
            Err(_) => panic!(
                "waiting for {what}: {:#?}\n{}\n{:#?}",
                self.status().await,
                self.plan().await.text,
                self.node.calls()
            ),
        }
    }

    /// Waits until something is so of the node itself, looking closely.
    pub(crate) async fn until_node(&self, what: &str, wanted: impl Fn(&ScriptedNode) -> bool) {
        let wait = async {
            while !wanted(&self.node) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(Duration::from_secs(3600), wait).await.is_err() {
            panic!(
                "waiting for {what}: {:#?}\n{:#?}",
                self.status().await,
                self.node.calls()
            );
        }
    }

    /// Waits until the last commit is carried through, and checks that planning again finds nothing to do.
    pub(crate) async fn converged(&self) {
        let wanted = self.pushed.as_ref().map(|pushed| pushed.revision.to_string());
        self.until("convergence", |status| {
            let accepted = status.accepted.as_ref().map(|accepted| &accepted.revision);
            accepted == wanted.as_ref() && status.phase == Phase::Converged
        })
        .await;
        let plan = self.plan().await;
        assert!(
            plan.empty && plan.findings.is_empty(),
            "{}\n{:?}",
            plan.text,
            plan.findings
        );
        assert_eq!(self.node.violations(), [""; 0]);
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn settled(&self) {
        self.until("rest", |status| status.phase == Phase::Converged)
            .await;
        assert_eq!(self.node.violations(), [""; 0]);
    }

    /// Waits until all that is desired runs; what is not may wait for its removal.
    pub(crate) async fn settled_but_for_removals(&self) {
        use xeno_agent::api::SliverPhase;
        let settled = |status: &Status| {
            let mut wanted = status.slivers.iter().filter(|sliver| sliver.memory_mib > 0);
            status.run.is_none() && wanted.all(|sliver| sliver.phase == SliverPhase::Settled)
        };
        self.until("all that is desired", settled).await;
    }

    /// Waits until what a sliver has written is set aside.
    pub(crate) async fn until_removed(&self, sliver: &str) {
        let set_aside = |node: &ScriptedNode| {
            let observed = node.observed(&NodeName::new(NODE).unwrap());
            let storage = observed.storage_of(&id(sliver)).ok().flatten();
            storage.is_some_and(|storage| storage.tombstone.is_some())
        };
        self.until("a removal", |_| set_aside(&self.node)).await;
    }

    /// Lets the agent end once an action of this verb has been recorded as done.
    pub(crate) async fn end_after_record(&self, verb: &'static str) {
        let after = self.last_intent();
        *self.trip.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((verb, after));
        self.trip.blown.store(false, Ordering::SeqCst);
    }

    pub(crate) fn has_ended_after_record(&self) -> bool {
        self.trip.blown.load(Ordering::SeqCst)
    }

    fn last_intent(&self) -> i64 {
        let db = rusqlite::Connection::open(self.dir.path().join("state/state.db")).unwrap();
        let sql = "SELECT coalesce(max(seq), 0) FROM journal";
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// What a guest says on its console.
    pub(crate) fn guest_says(&self, sliver: &SliverId, line: &str) {
        let path = self.node_console(sliver);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, format!("{before}{line}\n")).unwrap();
    }

    fn node_console(&self, sliver: &SliverId) -> std::path::PathBuf {
        xeno_reconciler::ports::Hypervisor::console_log(&*self.node, sliver)
    }

    pub(crate) async fn events(&self, kind: &str) -> Vec<String> {
        let events = self.agent().handle().events(0, 1000).await.unwrap().events;
        let of_kind = events.into_iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.text).collect()
    }

    pub(crate) async fn all_events(&self) -> Vec<String> {
        let events = self.agent().handle().events(0, 1000).await.unwrap().events;
        events.into_iter().map(|event| event.text).collect()
    }

    /// How often each action really changed something.
    pub(crate) fn all_effects(&self) -> BTreeMap<String, usize> {
        let mut counted = BTreeMap::new();
        for effect in self.node.effects() {
            *counted.entry(effect).or_default() += 1;
        }
        counted
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The node and its records, without times.
    pub(crate) fn end(self) -> End {
        assert!(
            self.agent.is_none(),
            "its state can be read once the agent has ended"
        );
        let node = NodeName::new(NODE).unwrap();
        let mut observed = self.node.observed(&node);
        observed.at = Timestamp(0);
        observed.health.clear();
        if let xeno_model::observed::Seen::Known(domains) = &mut observed.domains {
            for image in domains.images.values_mut() {
                image.at = Timestamp(0);
            }
        }
        if let xeno_model::observed::Seen::Known(storage) = &mut observed.storage {
            for storage in storage.values_mut() {
                let xeno_model::observed::Seen::Known(storage) = storage else {
                    continue;
                };
                storage.tombstone = storage.tombstone.map(|_| Timestamp(0));
                // Their names say what they are of; when they were made depends on what went wrong.
                for at in storage.checkpoints.values_mut() {
                    *at = Timestamp(0);
                }
            }
        }
        let state = NodeState::open(&self.dir.path().join("state"), &node, Limits::default()).unwrap();
        let accepted = state.accepted().unwrap().unwrap();
        assert_eq!(
            accepted.carried, accepted.generation,
            "the last commit is not carried through"
        );
        assert_eq!(state.unfinished().unwrap(), [], "intents that nobody settled");
        let mut applied = state.applied().unwrap();
        for applied in applied.values_mut() {
            applied.at = Timestamp(0);
        }
        End {
            node: format!("{observed:#?}"),
            applied: format!("{applied:#?}"),
            generation: accepted.generation.0,
            removals: state.removals_since(NodeTime(0)).unwrap().known.len(),
            backing_off: state.backing_off().unwrap().into_keys().collect(),
        }
    }

    /// Ends the agent in peace.
    pub(crate) async fn stop(&mut self) {
        self.agent.take().unwrap().stop().await.unwrap();
    }
}

/// Keeps the clock standing: git works on a thread that it does not wait for.
struct Still {
    moving: std::sync::mpsc::Sender<()>,
    standing: tokio::task::JoinHandle<bool>,
}

impl Still {
    fn begin() -> Self {
        let (moving, still) = std::sync::mpsc::channel();
        // A paused clock does not move by itself while a thread of the runtime works.
        let standing = tokio::task::spawn_blocking(move || still.recv().is_err());
        Self { moving, standing }
    }

    async fn end(self) {
        drop(self.moving);
        self.standing.await.unwrap();
    }
}

/// A directory in memory where there is one: what is tested here is the order of things, not the disk.
fn in_memory_if_possible() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// How a story ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    node: String,
    applied: String,
    generation: u64,
    removals: usize,
    backing_off: Vec<SliverId>,
}
