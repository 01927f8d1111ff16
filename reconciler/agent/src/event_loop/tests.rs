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

use super::{Agent, Inputs, Settings, SourceNews};
use crate::api::{FactState, HealthWord, Phase, SliverPhase, Status};
use crate::clock::Clock;
use crate::dispatch::Ports;
use crate::handle::{AgentHandle, HandleError, WATCH_EVENTS_MAX};
use crate::health::Probers;
use crate::store::Store;

const START_MS: u64 = 1_790_000_000_000;

fn id(text: &str) -> SliverId {
    SliverId::parse(text).unwrap()
}

fn revision(number: u8) -> Revision {
    Revision::new(&format!("{number:02x}").repeat(20)).unwrap()
}

fn sliver(name: &str) -> DesiredSliver {
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
            memory: Bytes(128 << 20),
            memory_max: None,
            cpu_weight: 256,
            cpu_cap_percent: None,
            disk: None,
            net_rate: None,
        },
        state: SliverState::Running,
        health: None,
        publish: vec![],
        tenant: None,
        start: Start::Boot,
        expires: None,
        moved_from: None,
        rollout: Rollout::default(),
        migration: Migration::default(),
        rollback: RollbackData::Keep,
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
        site: SitePolicy::default(),
        ruled_out: BTreeMap::new(),
        slivers: slivers.into_iter().map(|s| (s.id.clone(), s)).collect(),
        elsewhere,
        files: BTreeMap::new(),
    }))
}

/// A node in memory, its state directory, and the agent on it while there is one.
struct World {
    dir: TempDir,
    node: Arc<ScriptedNode>,
    agent: Option<Running>,
    limits: Limits,
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
        let clock = Clock::from_ms(START_MS);
        let ports = Arc::new(Ports {
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

    async fn push(&self, news: SourceNews) {
        self.running().sources.send(news).await.unwrap();
    }

    async fn status(&self) -> Status {
        self.running().handle.status().await.unwrap()
    }

    /// Waits until the status is as wanted; generous, and free on a paused clock.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let wait = async {
            loop {
                let status = self.status().await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
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

#[tokio::test(start_paused = true)]
async fn a_commit_becomes_running_slivers_and_then_there_is_nothing_to_do() {
    let world = World::started();
    assert_eq!(world.status().await.phase, Phase::NoDesired);
    let why = world.running().handle.plan().await.unwrap_err();
    assert_eq!(why, HandleError::NoDesired { why: None });

    world.push(commit(1, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(1).await;
    assert_eq!((world.calls("boot:web/0"), world.calls("boot:web/1")), (1, 1));
    let status = world.status().await;
    assert_eq!(status.slivers.len(), 2);
    assert!(
        status
            .slivers
            .iter()
            .all(|s| s.phase == SliverPhase::Settled && s.domain == "running")
    );
    assert_eq!(status.slivers[0].health.verdict, HealthWord::NotAsked);
    assert_eq!(status.node.fleet.as_deref(), Some("acme"));

    // A commit that changes nothing here is accepted, and does nothing.
    let before = world.node.calls();
    world.push(commit(2, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(2).await;
    assert_eq!(world.node.calls(), before);
    assert_eq!(world.status().await.accepted.unwrap().generation, 2);

    let why = world.running().handle.why(id("web/0")).await.unwrap();
    assert!(why.settled, "{why:?}");
    assert_eq!(why.sentences, ["It is as desired."]);
    let unknown = world.running().handle.describe(id("db/0")).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no sliver db/0 on this node");
    let described = world.running().handle.describe(id("web/1")).await.unwrap();
    assert_eq!(described.observed.domain.unwrap().booted_as_desired, Some(true));
    assert!(described.applied.unwrap().complete);
    let doctor = world.running().handle.doctor().await.unwrap();
    assert!(
        doctor.facts.iter().any(|fact| fact.what == "acceleration"),
        "the driver is asked"
    );
    assert!(
        doctor.facts.iter().all(|fact| fact.state == FactState::Good),
        "{doctor:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn limits_change_in_place_where_they_can_and_are_owned_up_to_where_not() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let mut bounded = sliver("web/0");
    bounded.resources.disk = Some(Bytes(1 << 30));
    bounded.resources.cpu_cap_percent = Some(50);
    world.push(commit(2, [bounded])).await;
    world.converged(2).await;
    assert_eq!((world.calls("limit:web/0"), world.calls("boot:web/0")), (1, 1));
    let why = world.running().handle.why(id("web/0")).await.unwrap();
    let honest = "Besides, not enforced by qemu on this node: cpu cap 50%.";
    assert_eq!(why.sentences, ["It is as desired.", honest]);
    let doctor = world.running().handle.doctor().await.unwrap();
    let limits = doctor.facts.iter().find(|fact| fact.what == "limits").unwrap();
    assert_eq!(limits.state, FactState::Fair);
    assert!(limits.text.starts_with("web/0: not enforced"), "{limits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_falls_over_is_put_up_again() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    world.node.lose_domain(&id("web/0"));
    world
        .until("drift to be seen", |_| world.calls("boot:web/0") == 2)
        .await;
    world.converged(1).await;
    world.node.lose_file_server();
    world
        .until("the file server's loss to be seen", |_| {
            world.calls("export:web/0") == 2
        })
        .await;
    world.converged(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_at_once_also_while_a_guest_becomes_healthy() {
    let world = World::started();
    let mut asked = sliver("web/0");
    asked.health = Some(Health {
        probe: Probe::Console {
            marker: "never".to_owned(),
        },
        interval: Millis(1_000),
        threshold: 1,
        grace: Millis(180_000),
    });
    world.push(commit(1, [asked, sliver("web/1")])).await;
    for exports in 2..5 {
        let up = |status: &Status| status.slivers.iter().all(|sliver| sliver.domain == "running");
        world.until("both to be up", up).await;
        let before = world.status().await.node.now_ms;
        world.node.lose_file_server();
        world.running().hint.send(()).await.unwrap();
        world
            .until("the export to be back", |_| {
                world.calls("export:web/1") == exports
            })
            .await;
        assert!(world.status().await.node.now_ms - before < 1_000);
    }
}

#[tokio::test(start_paused = true)]
async fn questions_keep_nothing_from_being_repaired_and_end_no_wait() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(1).await;
    let permanent = PortError::never("the kernel is no kernel");
    world.node.script("boot", Fault::Fails(permanent));
    world.node.lose_domain(&id("web/0"));
    world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    let handle = world.running().handle.clone();
    for _ in 0..60 {
        assert!(!handle.plan().await.unwrap().empty);
        let read = tokio::spawn({
            let handle = handle.clone();
            async move { handle.refetch().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let head = revision(1);
        world.push(SourceNews::Unchanged { head }).await;
        read.await.unwrap().unwrap();
    }
    assert_eq!(world.calls("boot:web/0"), 2, "a question ended the wait");

    world.node.lose_domain(&id("web/1"));
    for _ in 0..3 {
        let _any = handle.plan().await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    assert_eq!(world.calls("boot:web/1"), 2, "questions put off the repair");
}

#[tokio::test(start_paused = true)]
async fn before_the_last_commit_is_read_again_nothing_is_called_left_over() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    world.stop().await;
    world.start();
    let status = world.status().await;
    let short = revision(1).short().to_owned();
    let why = format!("{short} was accepted, and has not been read again since the agent started");
    assert_eq!(
        status.summary,
        format!("cam-01 leaves everything as it is: {why}")
    );
    assert_eq!(status.slivers[0].phase, SliverPhase::Pending);
    let told = world.running().handle.why(id("web/0")).await.unwrap();
    assert_eq!(told.sentences, [format!("Nothing is done: {why}.")]);
    let plan = world.running().handle.plan().await.unwrap_err();
    assert_eq!(plan.to_string(), format!("no commit is in force yet: {why}"));
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_as_desired_is_not_called_failing_for_what_it_failed_at_before() {
    let world = World::started();
    for _ in 0..5 {
        let taken = PortError::later("port 80 is in use");
        world.node.script("boot", Fault::Fails(taken));
    }
    world.push(commit(1, [sliver("web/0")])).await;
    let status = world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    assert_eq!(status.slivers[0].phase, SliverPhase::Failing);
    let status = world
        .until("convergence", |status| status.phase == Phase::Converged)
        .await;
    assert_eq!(status.slivers[0].phase, SliverPhase::Settled);
    let why = world.running().handle.why(id("web/0")).await.unwrap();
    assert_eq!(why.sentences, ["It is as desired."]);
}

#[tokio::test(start_paused = true)]
async fn one_failing_sliver_delays_no_other() {
    let world = World::started();
    for _ in 0..4 {
        let full = PortError::later("no space left");
        world.node.script("open", Fault::Fails(full));
    }
    // The first try of each; web/0 comes first in order, and takes all the faults of its retries or shares them.
    world
        .push(commit(1, [sliver("a/0"), sliver("b/0"), sliver("c/0")]))
        .await;
    world
        .until("somebody to be up", |status| {
            status.slivers.iter().any(|s| s.phase == SliverPhase::Settled)
        })
        .await;
    world.converged(1).await;
    assert!(!world.events("failed").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_waits_says_why_and_is_forgotten_with_the_next_commit() {
    let world = World::started();
    world
        .node
        .script("boot", Fault::Fails(PortError::never("the kernel is no kernel")));
    world.push(commit(1, [sliver("web/0")])).await;
    let status = world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    assert_eq!(status.slivers[0].phase, SliverPhase::Failing);
    let why = world.running().handle.why(id("web/0")).await.unwrap();
    assert!(
        why.sentences[0].starts_with("boot:web/0 failed once: the kernel is no kernel. That does not pass"),
        "{why:?}"
    );
    assert!(status.slivers[0].note.ends_with("(does not pass by itself)"));
    assert_eq!(world.calls("boot:web/0"), 1);

    let mut larger = sliver("web/0");
    larger.resources.memory = Bytes(256 << 20);
    world.push(commit(2, [larger])).await;
    world.converged(2).await;
    assert_eq!(world.calls("boot:web/0"), 2);
}

#[tokio::test(start_paused = true)]
async fn reconcile_tries_again_at_once() {
    let world = World::started();
    world.node.script(
        "boot",
        Fault::Fails(PortError::never("somebody has to do something")),
    );
    world.push(commit(1, [sliver("web/0")])).await;
    world
        .until("the failure", |status| status.phase == Phase::Waiting)
        .await;
    let before = world.status().await.node.now_ms;
    world.running().handle.reconcile().await.unwrap();
    world.converged(1).await;
    assert!(world.status().await.node.now_ms - before < 2_000);
}

#[tokio::test(start_paused = true)]
async fn an_action_that_hangs_is_given_up_and_looked_at() {
    let world = World::started();
    world.node.script("boot", Fault::Hangs);
    world.node.script("boot", Fault::SucceedsUnsaid);
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let failed = world.events("failed").await;
    assert!(failed[0].contains("did not end within 60 s"), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ends_right_after_its_start_is_not_started_in_a_tight_loop() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let mut watch = world.running().handle.watch().unwrap();
    let node = Arc::clone(&world.node);
    // Whenever it is said to be up, it goes.
    let killer = tokio::spawn(async move {
        while let Ok(event) = watch.recv().await {
            if event.kind == "done" && event.text == "boot:web/0" {
                node.lose_domain(&id("web/0"));
            }
        }
    });
    world.node.lose_domain(&id("web/0"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let boots = world.calls("boot:web/0");
    assert!((3..=70).contains(&boots), "{boots} starts in ten minutes");
    killer.abort();
    world.converged(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_commit_keeps_the_last_good_one() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    for _ in 0..2 {
        world
            .push(SourceNews::Rejected {
                revision: revision(2),
                why: "error[E0107]: no such template".to_owned(),
            })
            .await;
    }
    let status = world
        .until("the rejection", |status| status.rejected.is_some())
        .await;
    assert_eq!(status.accepted.unwrap().revision, revision(1).as_str());
    assert_eq!(status.phase, Phase::Converged);
    assert_eq!(world.events("rejected").await.len(), 1);
    world.stop().await;

    // It is still known after a restart, and gone with the next good commit.
    world.start();
    let SourceNews::Desired(good) = commit(1, [sliver("web/0")]) else {
        unreachable!("a commit asks for something")
    };
    world.push(SourceNews::Restored(good)).await;
    let status = world
        .until("the last good commit", |status| status.phase == Phase::Converged)
        .await;
    assert!(status.rejected.unwrap().why.contains("E0107"));
    assert_eq!(status.source.read_ms, None);
    world.push(commit(3, [sliver("web/0")])).await;
    world.converged(3).await;
    assert_eq!(world.status().await.rejected, None);
    assert_eq!(world.node.calls(), before);
}

#[tokio::test(start_paused = true)]
async fn an_empty_commit_removes_nothing() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    world.push(desired(2, [], BTreeSet::new())).await;
    let empty = revision(2);
    world
        .until("the empty commit", |status| {
            status.phase == Phase::Waiting && status.accepted.as_ref().unwrap().revision == empty.as_str()
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.node.calls(), before);
    assert_eq!(world.events("waiting").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn removals_keep_to_the_budget_and_come_back_when_wanted_again() {
    let world = World::started();
    world
        .push(commit(1, ["a/0", "b/0", "c/0", "d/0"].map(sliver)))
        .await;
    world.converged(1).await;
    world.push(commit(2, [sliver("d/0")])).await;
    world
        .until("two removals", |_| {
            world.calls("tombstone:a/0") + world.calls("tombstone:b/0") == 2
        })
        .await;
    world
        .until("the third to wait", |status| status.phase == Phase::Waiting)
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.calls("shutdown:c/0"), 0);
    // An hour later the budget's window has passed.
    world
        .until("the third removal", |_| world.calls("tombstone:c/0") == 1)
        .await;
    world.push(commit(3, ["a/0", "d/0"].map(sliver))).await;
    world.converged(3).await;
    assert_eq!(world.calls("purge:a/0"), 0);
    // What is not wanted again is purged in time.
    world
        .until("the purge", |_| {
            world.calls("purge:b/0") == 1 && world.calls("purge:c/0") == 1
        })
        .await;
    assert_eq!(world.calls("purge:a/0"), 0);
    assert_eq!(world.node.violations(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_commit_supersedes_a_run_that_waits() {
    let world = World::started();
    let mut unhealthy = sliver("web/0");
    unhealthy.health = Some(Health {
        probe: Probe::Console {
            marker: "never printed".to_owned(),
        },
        interval: Millis(1_000),
        threshold: 1,
        grace: Millis(3_600_000),
    });
    world.push(commit(1, [unhealthy])).await;
    let waiting = |status: &Status| {
        let run = status.run.as_ref();
        run.is_some_and(|run| run.in_flight.iter().any(|one| one.action == "await:web/0"))
    };
    world.until("the wait for health", waiting).await;
    let before = world.status().await.node.now_ms;
    world.push(commit(2, [sliver("web/0"), sliver("web/1")])).await;
    world.converged(2).await;
    assert!(world.status().await.node.now_ms - before < 60_000);
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn drift_elsewhere_does_not_wait_for_a_guest_to_become_healthy() {
    let world = World::started();
    world.push(commit(1, [sliver("db/0")])).await;
    world.converged(1).await;
    let mut unhealthy = sliver("web/0");
    unhealthy.health = Some(Health {
        probe: Probe::Console {
            marker: "never printed".to_owned(),
        },
        interval: Millis(1_000),
        threshold: 1,
        grace: Millis(3_600_000),
    });
    world.push(commit(2, [sliver("db/0"), unhealthy])).await;
    world
        .until("web/0 to be started", |_| world.calls("boot:web/0") == 1)
        .await;
    let before = world.status().await.node.now_ms;
    world.node.lose_domain(&id("db/0"));
    world
        .until("db/0 to be started again", |_| world.calls("boot:db/0") == 2)
        .await;
    assert!(world.status().await.node.now_ms - before < 60_000);
    assert_eq!(world.calls("boot:web/0"), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_else_waits_for_a_fetch_that_hangs() {
    let world = World::started();
    world.push(commit(1, [sliver("db/0")])).await;
    world.converged(1).await;
    let mut larger = sliver("web/0");
    larger.kernel.digest = Digest([0xd2; 32]);
    for _ in 0..20 {
        world.node.script("fetch", Fault::Hangs);
    }
    world.push(commit(2, [sliver("db/0"), larger.clone()])).await;
    let fetching = |status: &Status| {
        let run = status.run.as_ref();
        run.is_some_and(|run| {
            run.in_flight
                .iter()
                .any(|one| one.action.starts_with("fetch:d2d2"))
        })
    };
    world.until("the fetch", fetching).await;
    let began = world.status().await.node.now_ms;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let fetches = |world: &World| world.calls(&format!("fetch:{}", Digest([0xd2; 32]).short()));
    assert_eq!(fetches(&world), 1, "nothing to do but wait");

    // Somebody else's domain dies: it is started again, and the fetch is waited for again.
    world.node.lose_domain(&id("db/0"));
    world
        .until("db/0 to be started again", |_| world.calls("boot:db/0") == 2)
        .await;
    world.until("the fetch", fetching).await;
    // A newer commit does not wait either.
    world
        .push(commit(3, [sliver("db/0"), sliver("db/1"), larger]))
        .await;
    world
        .until("db/1 to be up", |_| world.calls("boot:db/1") == 1)
        .await;
    assert!(world.status().await.node.now_ms - began < 180_000);
    assert!(world.events("failed").await.is_empty(), "giving up is no failure");
    world.push(commit(4, [sliver("db/0"), sliver("db/1")])).await;
    world
        .until("the plan without it", |status| {
            status.phase == Phase::Converged || status.run.is_none()
        })
        .await;
    assert_eq!(world.calls("boot:web/0"), 0);
    assert_eq!(world.node.violations(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_blind_node_leaves_everything_alone() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    for _ in 0..8 {
        world
            .node
            .script("observe", Fault::Fails(PortError::later("nobody answers")));
    }
    world.push(commit(2, [sliver("db/0")])).await;
    world
        .until("blindness", |status| status.phase == Phase::Blind)
        .await;
    assert_eq!(world.node.calls(), before);
    assert!(!world.events("blind").await.is_empty());
    world.converged(2).await;
    assert!(!world.events("seen").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_agent_is_not_the_end_of_its_guests() {
    let mut world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let handle = world.running().handle.clone();
    world.stop().await;
    assert_eq!(handle.status().await.unwrap_err(), HandleError::Stopping);
    handle.watch().unwrap_err();
    assert_eq!(world.calls("shutdown:web/0"), 0);
    let before = world.node.calls();
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    assert_eq!(world.node.calls(), before, "a restarted agent adopts what runs");
    assert_eq!(world.status().await.accepted.unwrap().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let world = World::started();
    let node = NodeName::new("cam-01").unwrap();
    let refused = NodeState::open(&world.state_dir(), &node, Limits::default()).unwrap_err();
    assert!(refused.to_string().contains("another agent"), "{refused}");
}

/// Kills the agent when event number `k` after the commit shows, and lets another finish.
async fn killed_after(k: u64, first: &SourceNews, second: &SourceNews) -> bool {
    let mut world = World::started();
    world.push(first.clone()).await;
    world.converged(1).await;
    let seen = world
        .running()
        .handle
        .events(0, 1000)
        .await
        .unwrap()
        .events
        .last()
        .unwrap()
        .seq;
    let mut watch = world.running().handle.watch().unwrap();
    world.push(second.clone()).await;
    let reached = loop {
        let event = tokio::select! {
            event = watch.recv() => event.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(60)) => break false,
        };
        if event.seq >= seen + k {
            break true;
        }
    };
    world.kill().await;
    world.start();
    world.push(second.clone()).await;
    world.converged(2).await;
    for sliver in ["web/0", "web/1", "db/0"] {
        let boots = world.calls(&format!("boot:{sliver}"));
        assert!(
            boots <= 2,
            "killed after event {k}: {sliver} was started {boots} times\n{:#?}",
            world.node.calls()
        );
    }
    reached
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_it_converges_without_starting_twice() {
    let mut larger = sliver("web/0");
    larger.resources.memory = Bytes(256 << 20);
    let first = commit(1, [sliver("web/0"), sliver("db/0")]);
    let second = commit(2, [larger, sliver("web/1")]);
    let mut k = 1;
    while killed_after(k, &first, &second).await {
        k += 1;
        assert!(k < 100);
    }
    assert!(k > 10, "only {k} moments");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_and_passes() {
    let mut world = World::new();
    world.limits.pages_max = 60;
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let long = "x".repeat(4000);
    for number in 2..40 {
        let why = format!("{number}{long}");
        let revision = revision(number);
        world.push(SourceNews::Rejected { revision, why }).await;
    }
    let full = |status: &Status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains("no space left"))
    };
    world.until("the full disk", full).await;
    world.kill().await;
    world.limits = Limits::default();
    world.start();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_that_cannot_be_written_down() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    let before = world.node.calls();
    // Stands for a disk that refuses: no intent can be written.
    let other = rusqlite::Connection::open(world.state_dir().join("state.db")).unwrap();
    other
        .execute_batch("ALTER TABLE journal RENAME TO hidden")
        .unwrap();
    world.node.lose_domain(&id("web/0"));
    let broken = |status: &Status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains("nothing new is begun"))
    };
    world.until("the failure", broken).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.node.calls(), before);
    other
        .execute_batch("ALTER TABLE hidden RENAME TO journal")
        .unwrap();
    world
        .until("the domain to be back", |_| world.calls("boot:web/0") == 2)
        .await;
    world.converged(1).await;
    assert!(!broken(&world.status().await));
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_the_repository_is_told_once_and_changes_nothing() {
    let world = World::started();
    world.push(commit(1, [sliver("web/0")])).await;
    world.converged(1).await;
    for n in 0..3 {
        world
            .push(SourceNews::Failed {
                why: format!("no route to host ({n})"),
            })
            .await;
    }
    let status = world
        .until("the loss", |status| status.source.failure.is_some())
        .await;
    assert_eq!(status.phase, Phase::Converged);
    world.push(commit(1, [sliver("web/0")])).await;
    world
        .until("the return", |status| status.source.failure.is_none())
        .await;
    assert_eq!(world.events("source-failed").await.len(), 1);
    // Who wants it read now is told at once.
    let handle = world.running().handle.clone();
    let read = tokio::spawn(async move { handle.refetch().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let why = "no route to host".to_owned();
    world.push(SourceNews::Failed { why: why.clone() }).await;
    assert_eq!(read.await.unwrap(), Err(HandleError::Source { why }));
    world.push(commit(1, [sliver("web/0")])).await;
    world
        .until("the second return", |status| status.source.failure.is_none())
        .await;
    assert_eq!(world.events("source-back").await.len(), 2);
}
