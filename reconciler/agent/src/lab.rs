//! The agent's loop over ports of somebody's choosing, to be tested and measured. Its journal, its runs and its answers
//! are the real ones; the world below it, and the wall clock, need not be.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use xeno_model::desired::DesiredNode;
use xeno_model::id::{NodeName, Revision};
use xeno_reconciler::ports::{Hypervisor, Storage};
use xeno_state::StateError;
use xeno_state::node::{Limits, NodeState};

pub use crate::clock::LabClock;
use crate::clock::{Clock, millis};
use crate::dispatch::{BlobReader, Ports};
use crate::event_loop::{Agent, Inputs, Settings, SourceNews};
use crate::follow::Follower;
use crate::handle::{AgentHandle, WAITING_MAX, WATCH_EVENTS_MAX};
use crate::health::Probers;
use crate::source::{Credentials, RemoteUrl, Source, SourceConfig};
use crate::start::{AgentError, blob_reader};
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
        H: Hypervisor + 'static,
        S: Storage + 'static,
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
        let ports = Arc::new(Ports {
            hypervisor,
            storage,
            blobs,
            probers: Probers::new(clock),
            shutdown_grace: Duration::from_secs(20),
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
        let agent = Agent::new(settings, clock, ports, store, events, refetch);
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
