//! The loop over a node in memory, on a clock that only moves when everybody waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};
use xeno_model::desired::*;
use xeno_model::id::*;
use xeno_model::units::{Bytes, Millis};
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::{Fault, ScriptedNode};
use xeno_state::StateError;
use xeno_state::node::{Limits, NodeState};
use xeno_state::time::BootMoment;

use super::{Agent, Inputs, Settings, SourceNews};
use crate::api::{
    ApplyAction, ApplyRequest, FactState, FreezeRequest, HealthWord, Phase, ScopeView, SliverPhase, Status,
};
use crate::clock::Clock;
use crate::dispatch::Ports;
use crate::handle::{AgentHandle, HandleError, WATCH_EVENTS_MAX};
use crate::health::Probers;
use crate::store::Store;

mod desired;
mod failing;
mod figures;
mod freezing;
mod passing;
mod restarting;
mod state;

const START_MS: u64 = 1_790_000_000_000;

fn id(text: &str) -> SliverId {
    SliverId::parse(text).unwrap()
}

fn revision(number: u8) -> Revision {
    Revision::new(&format!("{number:02x}").repeat(20)).unwrap()
}

pub(crate) fn sliver(name: &str) -> DesiredSliver {
    let id = id(name);
    let template = TemplateRef {
        name: TemplateName::new("debian").unwrap(),
        channel: None,
        digest: Digest([0xd1; 32]),
        sources: vec!["file:///templates".to_owned()],
    };
    DesiredSliver {
        uuid: DomainUuid::of(&FleetName::new("acme").unwrap(), &id),
        id,
        kernel: template.clone(),
        mounts: vec![Mount {
            path: "/".to_owned(),
            layers: vec![LayerRef::Template(template)],
            writable: WritableKind::Local,
        }],
        resources: Resources {
            vcpus: 1,
            vcpus_max: None,
            memory: Bytes(128 << 20),
            memory_max: None,
            cpu_weight: 256,
            cpu_cap_percent: None,
            disk: None,
            inodes: None,
            net_rate: None,
        },
        state: SliverState::Running,
        health: None,
        publish: vec![],
        addresses: vec![],
        tenant: None,
        start: Start::Boot,
        expires: None,
        failover: false,
        moved_from: None,
        rollout: Rollout::default(),
        migration: Migration::default(),
        rollback: RollbackData::Keep,
        checkpoints: 3,
    }
}

/// What commit `number` asks for.
fn commit(number: u8, slivers: impl IntoIterator<Item = DesiredSliver>) -> SourceNews {
    let elsewhere = BTreeSet::from([id("other/0")]);
    desired(number, slivers, elsewhere)
}

fn desired(
    number: u8,
    slivers: impl IntoIterator<Item = DesiredSliver>,
    elsewhere: BTreeSet<SliverId>,
) -> SourceNews {
    SourceNews::Desired(Box::new(DesiredNode {
        node: NodeName::new("cam-01").unwrap(),
        fleet: FleetName::new("acme").unwrap(),
        nodes: 2,
        revision: revision(number),
        standing: Standing::Named(Node {
            site: SiteName::new("cambridge").unwrap(),
            address: None,
            labels: BTreeMap::new(),
            hypervisor: HypervisorKind::Qemu,
            memory: Bytes(2 << 30),
            vcpus: 8,
        }),
        delete_budget: DeleteBudget::default(),
        approval: None,
        site: SitePolicy::default(),
        ruled_out: BTreeMap::new(),
        slivers: slivers.into_iter().map(|s| (s.id.clone(), s)).collect(),
        elsewhere: elsewhere
            .into_iter()
            .map(|sliver| (sliver, NodeName::new("nyc-02").unwrap()))
            .collect(),
        files: BTreeMap::new(),
        turns: Arc::default(),
        transit: BTreeMap::new(),
        slices: BTreeMap::new(),
        whereabouts: Arc::default(),
    }))
}

/// A node in memory, its state directory, and the agent on it while there is one.
struct World {
    dir: TempDir,
    node: Arc<ScriptedNode>,
    agent: Option<Running>,
    limits: Limits,
    clock: Clock,
}

struct Running {
    handle: AgentHandle,
    sources: mpsc::Sender<SourceNews>,
    hint: mpsc::Sender<()>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let node = ScriptedNode::new(2048);
        node.set_now(Timestamp(START_MS));
        Self {
            dir,
            node: Arc::new(node),
            agent: None,
            limits: Limits::default(),
            clock: Clock::from_ms(START_MS),
        }
    }

    fn started() -> Self {
        let mut world = Self::new();
        world.start();
        world
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Opens the state; a killed agent's last visit to it may still be ending on its thread.
    fn open(&self) -> NodeState {
        let node = NodeName::new("cam-01").unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            match NodeState::open(&self.state_dir(), &node, self.limits) {
                Err(StateError::Locked { .. }) if std::time::Instant::now() < deadline => {
                    std::thread::yield_now()
                }
                opened => return opened.unwrap(),
            }
        }
    }

    fn start(&mut self) {
        let node = NodeName::new("cam-01").unwrap();
        let state = self.open();
        let clock = self.clock.again();
        let ports = Arc::new(Ports {
            member: None,
            hypervisor: Arc::clone(&self.node),
            storage: Arc::clone(&self.node),
            blobs: Arc::new(|id| Box::pin(async move { Ok(id.into_bytes()) })),
            probers: Probers::new(clock),
            shutdown_grace: Duration::from_secs(20),
        });
        let settings = Settings {
            node,
            repository: "/fleet.git".to_owned(),
            branch: "main".to_owned(),
            hypervisor: "qemu".to_owned(),
            look_every: Duration::from_secs(10),
            parallel: 4,
            tombstone_ms: 3 * 3_600_000,
            farewell: Duration::from_secs(5),
            began: BootMoment {
                boot: "test".to_owned(),
                ms: self.clock.elapsed_ms(),
            },
        };
        let (events, _) = broadcast::channel(WATCH_EVENTS_MAX);
        let (request_sender, requests) = mpsc::channel(16);
        let (sources, source_receiver) = mpsc::channel(16);
        let (hint, hints) = mpsc::channel(1);
        let handle = AgentHandle::new(request_sender, &events);
        let refetch = Arc::new(Notify::new());
        let agent = Agent::new(settings, clock, ports, Store::new(state), events, refetch);
        let (stop, stopped) = oneshot::channel::<()>();
        let inputs = Inputs {
            sources: source_receiver,
            requests,
            hints,
        };
        let task = tokio::spawn(async move {
            // A dropped sender is not a wish to stop: tests abort the task for that.
            let shutdown = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            agent.run(inputs, shutdown).await.unwrap();
        });
        self.agent = Some(Running {
            handle,
            sources,
            hint,
            stop,
            task,
        });
    }

    fn running(&self) -> &Running {
        self.agent.as_ref().unwrap()
    }

    /// Ends the agent as `kill -9` would.
    async fn kill(&mut self) {
        let Running { task, .. } = self.agent.take().unwrap();
        task.abort();
        task.await.unwrap_err();
    }

    async fn stop(&mut self) {
        let Running { stop, task, .. } = self.agent.take().unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
    }

    /// Does something to the state's file behind the agent's back, once all that was written has reached it.
    fn harm_state(&self, harm: impl FnOnce(&mut Vec<u8>)) {
        let path = self.state_dir().join("state.db");
        let other = rusqlite::Connection::open(&path).unwrap();
        // Also makes the agent's connection forget what it has read.
        other
            .execute_batch("UPDATE node SET carried = carried; PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        harm(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        // Its own view of the file is no longer true: it must not write that into it.
        std::mem::forget(other);
    }

    async fn push(&self, news: SourceNews) {
        self.running().sources.send(news).await.unwrap();
    }

    async fn status(&self) -> Status {
        self.running().handle.status().await.unwrap()
    }

    /// Waits until the status is as wanted; generous, and free on a paused clock.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let wait = async {
            let mut pause = Duration::from_millis(50);
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(pause).await;
                // Hours are looked through in fewer steps than seconds.
                pause = (pause * 9 / 8).min(Duration::from_secs(5));
            }
        };
        match timeout(Duration::from_secs(36_000), wait).await {
            Ok(status) => status,
            Err(_) => panic!(
                "waiting for {what}: {:#?}\n{:#?}",
                self.status().await,
                self.node.calls()
            ),
        }
    }

    /// Waits until everything is as commit `number` asks, and checks that planning again finds nothing to do.
    async fn converged(&self, number: u8) {
        let revision = revision(number);
        self.until("convergence", |status| {
            let accepted = status
                .accepted
                .as_ref()
                .is_some_and(|accepted| accepted.revision == revision.as_str());
            accepted && status.phase == Phase::Converged
        })
        .await;
        let plan = self.running().handle.plan().await.unwrap();
        assert!(plan.empty, "{}", plan.text);
        assert_eq!(self.node.violations(), [""; 0]);
    }

    fn calls(&self, of: &str) -> usize {
        self.node.calls().iter().filter(|call| *call == of).count()
    }

    async fn events(&self, kind: &str) -> Vec<String> {
        let events = self.running().handle.events(0, 1000).await.unwrap().events;
        events
            .into_iter()
            .filter(|event| event.kind == kind)
            .map(|event| event.text)
            .collect()
    }
}
