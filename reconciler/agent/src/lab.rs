//! The agent's loop over ports of somebody's choosing, to be tested and measured. Its journal, its runs and its answers
//! are the real ones; the world below it, and the wall clock, need not be.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use xeno_model::desired::DesiredNode;
use xeno_model::id::{Digest, NodeName, Revision};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_state::StateError;
use xeno_state::board::AnyBoard;
pub use xeno_state::board::scripted::ScriptedBoard;
use xeno_state::node::{Limits, NodeState};
use xeno_state::presence::Presence;

pub use crate::clock::LabClock;
use crate::clock::{Clock, millis};
use crate::dispatch::{BlobReader, Ports};
use crate::event_loop::rights::Rights;
use crate::event_loop::rights::lease::pass_on;
use crate::event_loop::rollouts::{Descends, Rolling};
use crate::event_loop::{Agent, Inputs, Settings, SourceNews};
use crate::fleet::fence::{Fence, Fencing};
use crate::fleet::join::{Ways, become_member, boot_id};
use crate::fleet::peers::{Connecting, Incoming, Network};
use crate::fleet::wire::Wire;
use crate::follow::Follower;
use crate::handle::{AgentHandle, WAITING_MAX, WATCH_EVENTS_MAX};
use crate::health::Probers;
use crate::source::{Credentials, RemoteUrl, Source, SourceConfig};
use crate::start::{AgentError, blob_reader, descends};
use crate::store::Store;

/// What a loop in the laboratory is told once.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Whose state it is.
    pub node: NodeName,
    /// Where the state is.
    pub state_dir: PathBuf,
    /// The repository to follow; without one, commits are told by [`Lab::desire`].
    pub repository: Option<RemoteUrl>,
    /// How often the node is looked at without a reason.
    pub look_every: Duration,
    /// Actions in flight at a time.
    pub parallel: usize,
    /// How long a tombstone is kept.
    pub tombstone: Duration,
    /// What the wall clock shows.
    pub clock: LabClock,
    /// How much the node may remember.
    pub limits: Limits,
    /// Looks at the state after each write.
    pub fuse: Option<Fuse>,
    /// The fleet that it is one of, if it is.
    pub fleet: Option<LabFleet>,
}

/// A fleet in memory: a board, and a network between agents that can be cut.
#[derive(Clone, Debug)]
pub struct LabFleet {
    /// The board, as this node's own client.
    pub board: ScriptedBoard,
    /// The network.
    pub network: LabNetwork,
    /// Which life of its machine this node is in.
    pub life: u8,
    /// How it makes sure that another is off, if it can.
    pub fence: Option<LabFence>,
}

/// A way to make sure that a node is off; says why where it is not certain.
#[derive(Clone)]
pub struct LabFence(Arc<MakesSure>);

type MakesSure = dyn Fn(&NodeName) -> Result<(), String> + Send + Sync;

impl LabFence {
    /// What is done to make sure.
    pub fn new(fence: impl Fn(&NodeName) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fence))
    }
}

impl Fence for LabFence {
    fn fence<'a>(&'a self, node: &'a NodeName) -> Fencing<'a> {
        Box::pin(async move { (self.0)(node) })
    }
}

impl fmt::Debug for LabFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabFence")
    }
}

/// A network between agents in memory.
#[derive(Clone, Default)]
pub struct LabNetwork(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    listeners: BTreeMap<String, mpsc::Sender<Incoming>>,
    /// Carry what is under way.
    carriers: Vec<AbortHandle>,
    down: bool,
}

impl fmt::Debug for LabNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabNetwork")
    }
}

/// Bytes that a wire in memory holds.
const WIRE_LEN: usize = 64 << 10;

impl LabNetwork {
    /// Cuts all wires, and lets nobody connect until it is up again.
    pub fn set_down(&self, down: bool) {
        let mut wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wires.down = down;
        for carrier in wires.carriers.drain(..) {
            carrier.abort();
        }
    }

    fn listen(&self, node: &NodeName) -> mpsc::Receiver<Incoming> {
        let (tell, incoming) = mpsc::channel(16);
        let mut wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wires.listeners.insert(node.to_string(), tell);
        incoming
    }
}

/// One agent's way into it.
struct LabEnd {
    network: LabNetwork,
    certificate: Digest,
}

impl Network for LabEnd {
    fn connect<'a>(&'a self, to: &'a Presence) -> Connecting<'a> {
        Box::pin(async move {
            let (near, mut a) = tokio::io::duplex(WIRE_LEN);
            let (mut b, far) = tokio::io::duplex(WIRE_LEN);
            let listener = {
                let mut wires = self.network.0.lock().unwrap_or_else(PoisonError::into_inner);
                let address = to.address.as_deref().unwrap_or_default();
                let listener = wires.listeners.get(address).filter(|_| !wires.down).cloned();
                let carrier = tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
                });
                wires.carriers.push(carrier.abort_handle());
                listener
            };
            let listener = listener.ok_or("nobody listens there")?;
            let far: Wire = Box::new(far);
            listener
                .send((self.certificate, far))
                .await
                .map_err(|_| "nobody listens there any more".to_owned())?;
            let near: Wire = Box::new(near);
            Ok(near)
        })
    }
}

/// Ends what an agent does at the moment at which something has been written: where it blows, the write is on disk,
/// and never returns to whoever asked for it.
#[derive(Clone)]
pub struct Fuse(Arc<dyn Fn(&NodeState) -> bool + Send + Sync>);

impl Fuse {
    /// Blows when `blows` says so of the state after a write.
    pub fn new(blows: impl Fn(&NodeState) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(blows))
    }

    pub(crate) fn blows(&self, state: &NodeState) -> bool {
        (self.0)(state)
    }
}

impl fmt::Debug for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fuse")
    }
}

/// A loop that runs.
#[derive(Debug)]
pub struct Lab {
    handle: AgentHandle,
    news: mpsc::Sender<SourceNews>,
    hint: mpsc::Sender<()>,
    stop: oneshot::Sender<()>,
    agent: JoinHandle<Result<(), StateError>>,
    follower: Option<JoinHandle<()>>,
    /// Its membership of the fleet ends with it.
    _together: JoinSet<()>,
}

/// How long the repository is left alone unless somebody asks: for ever, since here somebody always does.
const POLL: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Lab {
    /// Starts a loop on these ports, in the runtime this is called in.
    ///
    /// # Errors
    /// [`AgentError`] where its state or its repository's mirror cannot be opened. A killed loop's last visit to the
    /// state may still be ending on its thread: that is waited for.
    pub async fn start<H, S>(
        config: LabConfig,
        hypervisor: Arc<H>,
        storage: Arc<S>,
    ) -> Result<Self, AgentError>
    where
        H: MoveMemory + 'static,
        S: MoveLayers + 'static,
    {
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(move || open(&opening)).await;
        let state = opened
            .map_err(|error| AgentError::Thread {
                why: error.to_string(),
            })?
            .map_err(AgentError::State)?;
        let accepted = state.accepted().map_err(AgentError::State)?;
        let mut store = Store::new(state);
        if let Some(fuse) = config.fuse.clone() {
            store = store.fused(fuse);
        }
        let clock = Clock::lab(config.clock);
        let refetch = Arc::new(Notify::new());
        let (news, sources) = mpsc::channel(4);
        let source = match &config.repository {
            Some(repository) => Some(follow(&config, repository)?),
            None => None,
        };
        let blobs: BlobReader = match &source {
            Some(source) => blob_reader(source.clone()),
            None => Arc::new(|id| Box::pin(async move { Ok(id.into_bytes()) })),
        };
        let source_of_order = source.clone();
        let follower = source.map(|source| {
            let follower = Follower {
                source,
                node: config.node.clone(),
                folder: String::new(),
                local: None,
                poll: POLL,
                news: news.clone(),
                refetch: Arc::clone(&refetch),
            };
            tokio::spawn(follower.follow(accepted.map(|accepted| accepted.revision)))
        });
        let settings = Settings {
            node: config.node,
            repository: "fleet.git".to_owned(),
            branch: "main".to_owned(),
            hypervisor: "qemu".to_owned(),
            look_every: config.look_every,
            parallel: config.parallel,
            tombstone_ms: millis(config.tombstone),
            farewell: Duration::from_secs(5),
            began: config.clock.boot_moment(),
        };
        let (events, _) = broadcast::channel(WATCH_EVENTS_MAX);
        let (asking, requests) = mpsc::channel(WAITING_MAX);
        let (hint, hints) = mpsc::channel(1);
        let handle = AgentHandle::new(asking, &events);
        let mut together = JoinSet::new();
        let mut rights = None;
        if let Some(fleet) = config.fleet {
            let name = settings.node.clone();
            let life = boot_id(&format!("{name} {}", fleet.life));
            let certificate = Digest::of(format!("{name} {:?}", tokio::time::Instant::now()).as_bytes());
            let presence = Presence {
                boot: life,
                address: Some(name.to_string()),
                certificate,
            };
            let incoming = fleet.network.listen(&name);
            let end = Arc::new(LabEnd {
                network: fleet.network,
                certificate,
            });
            let ways = Ways {
                board: AnyBoard::Scripted(fleet.board),
                network: end,
                fence: fleet.fence.map(|fence| -> Arc<dyn Fence> { Arc::new(fence) }),
                clock,
            };
            let joined = become_member(ways, presence, &name, incoming, &store, JoinSet::new()).await;
            together = joined.tasks;
            rights = Some(Rights::new(joined.fleet, joined.calls));
        }
        let ports = Arc::new(Ports {
            hypervisor,
            storage: Arc::clone(&storage),
            blobs,
            probers: Probers::new(clock),
            shutdown_grace: Duration::from_secs(20),
            member: rights.as_ref().map(Rights::member),
        });
        if let Some(member) = &ports.member {
            together.spawn(pass_on(Arc::clone(member), storage));
        }
        let descends: Descends = match source_of_order {
            Some(source) => descends(source),
            // Commits that are told have no history: their names say which comes after which.
            None => Arc::new(|new, old| Box::pin(std::future::ready(new > old))),
        };
        let rolling = rights
            .as_ref()
            .map(|rights| Rolling::new(rights.rollouts(), &settings.node, descends));
        let agent = Agent::new(settings, clock, ports, store, events, refetch)
            .with_rights(rights)
            .with_rollouts(rolling);
        let (stop, stopped) = oneshot::channel::<()>();
        let inputs = Inputs {
            sources,
            requests,
            hints,
        };
        let agent = tokio::spawn(async move {
            // A dropped sender is no wish to stop.
            let shutdown = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            agent.run(inputs, shutdown).await
        });
        Ok(Self {
            handle,
            news,
            hint,
            stop,
            agent,
            follower,
            _together: together,
        })
    }

    /// Asks it questions.
    #[must_use]
    pub fn handle(&self) -> &AgentHandle {
        &self.handle
    }

    /// A commit was read, and asks for this.
    pub async fn desire(&self, desired: DesiredNode) {
        self.tell(SourceNews::Desired(Box::new(desired))).await;
    }

    /// The commit last accepted was read again from the mirror, after a restart.
    pub async fn restore(&self, desired: DesiredNode) {
        self.tell(SourceNews::Restored(Box::new(desired))).await;
    }

    /// A commit was read, and cannot be acted on.
    pub async fn reject(&self, revision: Revision, why: &str) {
        let why = why.to_owned();
        self.tell(SourceNews::Rejected { revision, why }).await;
    }

    /// Says that something around the node has changed.
    pub async fn hint(&self) {
        // A loop that has ended needs no hint.
        let _ = self.hint.send(()).await;
    }

    async fn tell(&self, news: SourceNews) {
        // What a loop that has ended is told is lost, as it would be.
        let _ = self.news.send(news).await;
    }

    /// Ends it as `kill -9` would: nothing of it happens any more, wherever it was.
    pub async fn kill(self) {
        self.agent.abort();
        if let Some(follower) = self.follower {
            follower.abort();
        }
        // It was told to end, so how it did is known.
        let _ = self.agent.await;
    }

    /// Ends it as its service manager would.
    ///
    /// # Errors
    /// Where it could not read its state.
    ///
    /// # Panics
    /// If the loop panicked.
    pub async fn stop(self) -> Result<(), StateError> {
        let _ = self.stop.send(());
        let ended = self.agent.await;
        if let Some(follower) = self.follower {
            follower.abort();
        }
        ended.expect("the loop ended by a mistake of its own")
    }
}

fn open(config: &LabConfig) -> Result<NodeState, StateError> {
    const PATIENCE: u32 = 1_000;
    for _ in 0..PATIENCE {
        match NodeState::open(&config.state_dir, &config.node, config.limits) {
            Err(StateError::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
    NodeState::open(&config.state_dir, &config.node, config.limits)
}

fn follow(config: &LabConfig, repository: &RemoteUrl) -> Result<Source, AgentError> {
    let config = SourceConfig {
        url: repository.clone(),
        branch: "main".to_owned(),
        mirror: config.state_dir.join("mirror.git"),
        credentials: Credentials::default(),
        accept_rewrites: false,
        // Git works on a thread that a paused clock does not wait for.
        timeout: POLL,
        limits: crate::source::Limits::default(),
    };
    Source::start(config).map_err(AgentError::Source)
}
