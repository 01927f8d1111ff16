//! Puts an agent together from its configuration, and runs it.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use xeno_qemu::{QemuConfig, QemuDriver};
use xeno_reconciler::ports::{MoveMemory, PortError};
use xeno_state::StateError;
use xeno_state::node::{Limits, NodeState};
use xeno_state::record::Accepted;
use xeno_state::time::BootMoment;
use xeno_xen::{XenConfig, XenDriver};

use crate::adapters::storage::{NodeStorage, ServerUser, StoragePaths};
use crate::api_server::{self, SocketError};
use crate::clock::{Clock, boot_moment, millis};
use crate::config::{AgentConfig, HypervisorConfig};
use crate::dispatch::{BlobReader, Ports};
use crate::event_loop::rights::Rights;
use crate::event_loop::rights::lease::pass_on;
use crate::event_loop::rollouts::{Descends, Rolling};
use crate::event_loop::{Agent, Inputs, Settings};
use crate::fleet::fence::{Fence, FenceCommand};
use crate::fleet::join;
use crate::follow::Follower;
use crate::handle::{AgentHandle, WAITING_MAX, WATCH_EVENTS_MAX};
use crate::health::Probers;
use crate::source::{self, Credentials, Source, SourceConfig, SourceError};
use crate::store::Store;
use crate::watch::watch_socket;

/// Commits that may wait for the loop at a time.
const NEWS_MAX: usize = 4;

/// How long one fetch of the repository may take.
const FETCH_MAX: Duration = Duration::from_secs(120);

/// How long actions in flight may take to end when the agent ends.
const FAREWELL: Duration = Duration::from_secs(10);

/// Pause before a state on a full or read-only disk is tried again.
const STATE_PAUSE: Duration = Duration::from_secs(10);

/// Why an agent could not be started, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its state.
    #[error("open the node's state")]
    State(#[source] StateError),
    /// Its socket.
    #[error("offer the API")]
    Socket(#[source] SocketError),
    /// Its socket, later.
    #[error("serve the API")]
    Serve(#[source] std::io::Error),
    /// Its repository.
    #[error("follow the repository")]
    Source(#[source] SourceError),
    /// Its storage.
    #[error("set up storage")]
    Storage(#[source] PortError),
    /// Its hypervisor.
    #[error("set up QEMU")]
    Qemu(#[source] xeno_qemu::ConfigError),
    /// Its hypervisor.
    #[error("set up Xen")]
    Xen(#[source] xeno_xen::ConfigError),
    /// The board, or where other agents reach it.
    #[error("join the fleet: {why}")]
    Fleet {
        /// Why not.
        why: String,
    },
    /// A thread of it.
    #[error("start: a thread ended: {why}")]
    Thread {
        /// Why.
        why: String,
    },
}

/// Runs an agent until `shutdown` ends, then leaves: actions in flight get a moment, guests keep running.
///
/// `xeno` is the program that guests' forwards are run by: this one, as a rule.
///
/// # Errors
/// [`AgentError`] where it cannot be started: another agent on the same state, a socket in use, a directory that cannot
/// be made. A repository or file server out of reach is no reason: both may come.
pub async fn run(
    config: AgentConfig,
    xeno: PathBuf,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let (began, clock) = (boot_moment(), Clock::system());
    tokio::pin!(shutdown);
    // First of all: whoever holds the state is the agent here.
    let state = tokio::select! {
        state = open_state(&config) => state?,
        () = &mut shutdown => return Ok(()),
    };
    let store = Store::new(state);
    let accepted = store.read(NodeState::accepted).await;
    // What cannot be read now is made anew by the loop, which then has a word to say about it.
    let accepted = accepted.unwrap_or_default();
    let listener = api_server::bind(&config.socket).map_err(AgentError::Socket)?;

    let source = Source::start(SourceConfig {
        url: config.repository.clone(),
        branch: config.branch.clone(),
        mirror: config.state_dir.join("mirror.git"),
        credentials: Credentials {
            ssh_key: config.ssh_key.clone(),
            ..Credentials::from_env()
        },
        accept_rewrites: config.accept_rewrites,
        timeout: FETCH_MAX,
        limits: source::Limits::default(),
    })
    .map_err(AgentError::Source)?;
    let server = match &config.cowfs_user {
        Some(user) => ServerUser::named(user).map_err(AgentError::Storage)?,
        None => None,
    };
    let storage = NodeStorage::open(
        StoragePaths {
            state: config.state_dir.clone(),
            templates: config.templates.clone(),
            cowfs: config.cowfs_socket.clone(),
            overlay_roots: config.overlay_roots.clone(),
            remotes: config.remotes.clone(),
            writable_roots: config.writable_roots.clone(),
            server,
        },
        store.clone(),
        clock,
    )
    .map_err(AgentError::Storage)?;
    let parts = Parts {
        store,
        accepted,
        listener,
        source,
        storage,
        clock,
        began,
    };
    match &config.hypervisor {
        HypervisorConfig::Qemu { accel, cgroup } => {
            let driver = QemuDriver::new(QemuConfig {
                accel: *accel,
                cgroup: cgroup.clone(),
                ..QemuConfig::new(config.state_dir.join("qemu"), xeno)
            })
            .map_err(AgentError::Qemu)?;
            run_on(
                &config,
                parts,
                Arc::new(driver),
                |_| std::future::ready(()),
                shutdown,
            )
            .await
        }
        HypervisorConfig::Xen {
            guest,
            dom0_reserve_mib,
            xl,
            console_dir,
        } => {
            let usual = XenConfig::new(config.state_dir.join("xen"));
            let driver = XenDriver::new(XenConfig {
                guest: *guest,
                dom0_reserve_mib: *dom0_reserve_mib,
                xl: xl.clone(),
                console_dir: console_dir.clone().unwrap_or_else(|| usual.console_dir.clone()),
                ..usual
            })
            .map_err(AgentError::Xen)?;
            let driver = Arc::new(driver);
            let watching = Arc::clone(&driver);
            let watch = |hint| async move { watching.watch(hint).await };
            run_on(&config, parts, driver, watch, shutdown).await
        }
    }
}

/// What an agent is made of, whatever runs its guests.
struct Parts {
    store: Store,
    accepted: Option<Accepted>,
    listener: UnixListener,
    source: Source,
    storage: NodeStorage,
    clock: Clock,
    began: BootMoment,
}

/// Runs an agent on a hypervisor; `watch` hints when a domain comes or goes, where that can be noticed.
async fn run_on<H, W>(
    config: &AgentConfig,
    parts: Parts,
    hypervisor: Arc<H>,
    watch: impl FnOnce(mpsc::Sender<()>) -> W,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError>
where
    H: MoveMemory + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let Parts {
        store,
        accepted,
        listener,
        source,
        storage,
        clock,
        began,
    } = parts;
    let storage = Arc::new(storage);
    let mut joined = None;
    if let Some(board) = &config.board {
        let boot = join::boot_id(&began.boot);
        let fence = config.fence.clone().map(|words| {
            let fence: Arc<dyn Fence> = Arc::new(FenceCommand { words });
            fence
        });
        let ways = (fence, clock);
        let of = join::join(
            board.clone(),
            config.peers.as_ref(),
            &config.node,
            boot,
            &store,
            ways,
        )
        .await;
        joined = Some(of.map_err(|why| AgentError::Fleet { why })?);
    }
    let mut together = JoinSet::new();
    let rights = joined.map(|joined| {
        together = joined.tasks;
        Rights::new(joined.fleet, joined.calls)
    });
    let ports = Arc::new(Ports {
        hypervisor,
        storage: Arc::clone(&storage),
        blobs: blob_reader(source.clone()),
        probers: Probers::new(clock),
        shutdown_grace: config.shutdown_grace,
        member: rights.as_ref().map(Rights::member),
    });
    if let Some(member) = &ports.member {
        together.spawn(pass_on(Arc::clone(member), Arc::clone(&storage)));
    }
    let (news, sources) = mpsc::channel(NEWS_MAX);
    let (asking, requests) = mpsc::channel(WAITING_MAX);
    let (events, _) = broadcast::channel(WATCH_EVENTS_MAX);
    let handle = AgentHandle::new(asking, &events);
    let refetch = Arc::new(Notify::new());
    let descends = descends(source.clone());
    let follower = Follower {
        source,
        node: config.node.clone(),
        folder: config.folder.clone(),
        local: config.repository.local_path().map(ToOwned::to_owned),
        poll: config.poll,
        news,
        refetch: Arc::clone(&refetch),
    };
    let settings = Settings {
        node: config.node.clone(),
        repository: config.repository.to_string(),
        branch: config.branch.clone(),
        hypervisor: config.hypervisor.kind().to_owned(),
        look_every: config.look,
        parallel: config.parallel,
        tombstone_ms: millis(config.tombstone),
        farewell: FAREWELL,
        began,
    };
    let rolling = rights
        .as_ref()
        .map(|rights| Rolling::new(rights.rollouts(), &settings.node, descends));
    let agent = Agent::new(settings, clock, ports, store, events, refetch)
        .with_rights(rights)
        .with_rollouts(rolling);

    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // A dropped sender ends it as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let mut server = tokio::spawn(api_server::serve(listener, handle, until(stopped)));
    let following = tokio::spawn(follower.follow(accepted.map(|accepted| accepted.revision)));
    // One place: many hints that nobody has followed yet are one.
    let (hint, hints) = mpsc::channel(1);
    let _watching = watch_socket(&config.cowfs_socket, hint.clone());
    let remotes = tokio::spawn(storage.watch_remotes(hint.clone()));
    let domains = tokio::spawn(watch(hint));
    let inputs = Inputs {
        sources,
        requests,
        hints,
    };
    let ended = tokio::select! {
        ended = agent.run(inputs, shutdown) => ended.map_err(AgentError::State),
        served = &mut server => match served {
            Ok(Ok(())) => Err(AgentError::Thread { why: "the API ended by itself".to_owned() }),
            Ok(Err(error)) => Err(AgentError::Serve(error)),
            Err(error) => Err(AgentError::Thread { why: error.to_string() }),
        },
    };
    following.abort();
    domains.abort();
    remotes.abort();
    together.abort_all();
    let _ = stop.send(true);
    if !server.is_finished() {
        // Answers under way get a moment; a watcher that stays does not keep the agent.
        let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    }
    let _ = tokio::fs::remove_file(&config.socket).await;
    ended
}

/// Opens the state. A disk that is full or read-only is waited for: guests run on without us, and whoever has to see to
/// it is told in the log.
async fn open_state(config: &AgentConfig) -> Result<NodeState, AgentError> {
    loop {
        let (dir, node) = (config.state_dir.clone(), config.node.clone());
        let opened = tokio::task::spawn_blocking(move || NodeState::open(&dir, &node, Limits::default()));
        let opened = opened.await.map_err(|error| AgentError::Thread {
            why: error.to_string(),
        })?;
        match opened {
            Err(error) if error.may_pass() => {
                let why = xeno_state::error::chain(&error);
                tracing::error!("failed to {why}; trying again in {} s", STATE_PAUSE.as_secs());
                tokio::time::sleep(STATE_PAUSE).await;
            }
            opened => return opened.map_err(AgentError::State),
        }
    }
}

/// Asks the mirror whether a commit comes after another. What cannot be told has not been read.
pub(crate) fn descends(source: Source) -> Descends {
    Arc::new(move |new, old| {
        let source = source.clone();
        Box::pin(async move { source.is_descendant(new, old).await.unwrap_or(false) })
    })
}

pub(crate) fn blob_reader(source: Source) -> BlobReader {
    Arc::new(move |id| {
        let source = source.clone();
        Box::pin(async move {
            let blob = source.blob(&id).await;
            blob.map_err(|error| xeno_state::error::chain(&error))
        })
    })
}
