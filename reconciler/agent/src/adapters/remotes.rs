//! Directories of remote file systems: mounted by the kernel once for each URL, watched, and unmounted when idle.
//!
//! ```text
//! DIR/5f3c…        a mount point, named by a hash of URL and access
//! DIR/5f3c….json   whose it is: written before anything is mounted
//! ```
//!
//! A mount is ours if its record, its place and what the kernel says that it is agree. Everything else there is
//! somebody else's: not seen, not used, not unmounted.

mod mounting;
mod pulse;
mod request;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use xeno_model::desired::{Access, Remote};
use xeno_model::observed::RemoteState;
use xeno_reconciler::ports::{DriverFact, PortError, PortResult, Soundness};

use crate::clock::Clock;
use crate::config::RemotesConfig;
use mounting::Refusal;
use pulse::{Pulse, Question};
use request::{Kind, Request};
use table::{Mounted, mounted_in};

/// Mounts at most: each has a thread that asks.
const MOUNTS_MAX: usize = 128;

/// Tries to mount that go on at the same time; one may be a child that cannot even be killed.
const MOUNTING_MAX: usize = 4;

/// How often servers are asked.
const BEAT: Duration = Duration::from_secs(3);

/// How long a name may take to be resolved.
const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// A mount that nobody uses and whose server is silent this many times as long as a mount may be idle is given up.
const GIVEN_UP: u32 = 10;

/// The port that is asked for by NFS. Only for the resolver: the kernel knows it.
const NFS_PORT: u16 = 2049;

/// What the world outside does for us; tests have another.
#[derive(Clone, Copy, Debug)]
struct World {
    question: Question,
    unmount: fn(&Path, bool) -> io::Result<()>,
    /// Whether this process may mount at all.
    privileged: bool,
}

/// The remote directories of one node.
#[derive(Clone, Debug)]
pub(crate) struct NodeRemotes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: RemotesConfig,
    /// What the kernel has mounted.
    table: PathBuf,
    clock: Clock,
    world: World,
    watched: Mutex<BTreeMap<Remote, Watched>>,
    mounting: Semaphore,
}

#[derive(Clone, Debug)]
struct Watched {
    pulse: Arc<Pulse>,
    /// When somebody was last seen to use it.
    used: Instant,
    /// Whether it is being unmounted.
    leaving: bool,
}

/// What is written beside a mount point.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    format_version: u32,
    url: String,
    writable: bool,
}

/// How far a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It lies on the node, or in a remote directory that answers.
    Answers,
    /// Its remote directory is not mounted, so that nothing is there.
    NotMounted,
    /// Its remote directory does not answer.
    Silent,
}

/// What is at a mount point.
enum There {
    Nothing,
    Ours,
    Foreign(Mounted),
}

impl NodeRemotes {
    /// The remote directories below the configured directory. Looks at nothing yet.
    pub(crate) fn new(config: RemotesConfig, clock: Clock) -> Self {
        let world = World {
            question: pulse::statfs,
            unmount: mounting::unmount,
            privileged: rustix::process::geteuid().is_root(),
        };
        Self::with(config, PathBuf::from("/proc/self/mountinfo"), clock, world)
    }

    fn with(config: RemotesConfig, table: PathBuf, clock: Clock, world: World) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                table,
                clock,
                world,
                watched: Mutex::default(),
                mounting: Semaphore::new(MOUNTING_MAX),
            }),
        }
    }

    /// What is mounted, and how it is. Waits for no server but for a first answer.
    pub(crate) async fn observe(&self) -> PortResult<BTreeMap<Remote, RemoteState>> {
        let mounted = self.mounted().await?;
        self.watch_these(&mounted);
        let pulses: Vec<_> = {
            let watched = self.watched();
            let pulse = |remote: &Remote| Some((remote.clone(), Arc::clone(&watched.get(remote)?.pulse)));
            mounted.iter().filter_map(pulse).collect()
        };
        let mut all = BTreeMap::new();
        // One after the other: all were asked before, so the waits pass together.
        for (remote, pulse) in pulses {
            all.insert(remote, pulse.first_state().await);
        }
        Ok(all)
    }

    /// Mounts a directory, unless it is, and waits for its server's answer.
    pub(crate) async fn mount(&self, remote: &Remote) -> PortResult<()> {
        let request = Request::of(remote).map_err(|error| PortError::never(error.to_string()))?;
        let target = self.target(&request);
        match self.there(&request).await? {
            There::Ours => {}
            There::Nothing => self.mount_anew(&request, &target).await?,
            There::Foreign(is) => {
                return Err(PortError::never(format!(
                    "{} is mounted at {}, and not by this agent: unmount it",
                    is.source,
                    target.display()
                )));
            }
        }
        self.watch_these(&BTreeSet::from([remote.clone()]));
        let pulse = self.watched().get_mut(remote).map(|watched| {
            watched.used = Instant::now();
            Arc::clone(&watched.pulse)
        });
        let Some(pulse) = pulse else {
            return Err(PortError::later(format!("{} went away meanwhile", remote.url)));
        };
        pulse.ask(self.shared.clock.now());
        match pulse.first_state().await {
            RemoteState::Answers => Ok(()),
            RemoteState::Silent { why, .. } => {
                Err(PortError::later(format!("{} does not answer: {why}", remote.url)))
            }
        }
    }

    /// The directory of a layer in what is mounted. An error where it is not.
    pub(crate) async fn layer(&self, remote: &Remote) -> PortResult<PathBuf> {
        let request = Request::of(remote).map_err(|error| PortError::never(error.to_string()))?;
        match self.there(&request).await? {
            There::Ours => {}
            There::Nothing | There::Foreign(_) => {
                return Err(PortError::later(format!("{} is not mounted", remote.url)));
            }
        }
        if let Some(watched) = self.watched().get_mut(remote) {
            watched.used = Instant::now();
        }
        Ok(request.layer(&self.target(&request)))
    }

    /// Whether what lies at a path can be looked at. Looks at nothing, and knows what was last observed.
    pub(crate) fn reach(&self, path: &Path) -> Reach {
        if !path.starts_with(&self.shared.config.dir) {
            return Reach::Answers;
        }
        let here = |remote: &Remote| {
            Request::of(remote).is_ok_and(|request| path.starts_with(self.target(&request)))
        };
        let watched = self.watched();
        match watched.iter().find(|(remote, _)| here(remote)) {
            None => Reach::NotMounted,
            Some((_, watched)) if watched.pulse.state() == Some(RemoteState::Answers) => Reach::Answers,
            Some(_) => Reach::Silent,
        }
    }

    /// Hears which directories the file server reads, and unmounts what it has not read for long.
    pub(crate) fn used(&self, paths: &BTreeSet<PathBuf>) {
        let config = &self.shared.config;
        let mut idle = Vec::new();
        for (remote, watched) in self.watched().iter_mut() {
            let Ok(request) = Request::of(remote) else {
                continue;
            };
            let target = self.target(&request);
            if paths.iter().any(|path| path.starts_with(&target)) {
                watched.used = Instant::now();
            }
            let unused = watched.used.elapsed();
            let silent = !matches!(watched.pulse.state(), Some(RemoteState::Answers));
            let patience = if silent {
                config.idle * GIVEN_UP
            } else {
                config.idle
            };
            if unused >= patience && !watched.leaving {
                watched.leaving = true;
                idle.push((remote.clone(), target, silent));
            }
        }
        for (remote, target, silent) in idle {
            let this = self.clone();
            // Unmounting writes back and says goodbye to the server: it may take its time.
            let leave = move || match (this.shared.world.unmount)(&target, silent) {
                Ok(()) => {
                    tracing::info!(url = remote.url, "unmounted: nobody uses it");
                    this.watched().remove(&remote);
                    let _ = fs::remove_dir(&target);
                    let _ = fs::remove_file(target.with_extension("json"));
                }
                // Somebody uses it after all.
                Err(error) => {
                    tracing::debug!(url = remote.url, %error, "not unmounted");
                    if let Some(watched) = this.watched().get_mut(&remote) {
                        watched.leaving = false;
                    }
                }
            };
            drop(tokio::task::spawn_blocking(leave));
        }
    }

    /// Asks all servers again and again, and hints when one falls silent or answers again.
    pub(crate) async fn watch(self, hint: mpsc::Sender<()>) {
        let mut before = BTreeMap::new();
        loop {
            tokio::time::sleep(BEAT).await;
            let pulses: Vec<_> = {
                let watched = self.watched();
                let pulse = |(remote, one): (&Remote, &Watched)| (remote.clone(), Arc::clone(&one.pulse));
                watched.iter().map(pulse).collect()
            };
            let now = self.shared.clock.now();
            let mut states = BTreeMap::new();
            for (remote, pulse) in pulses {
                states.insert(remote, matches!(pulse.state(), Some(RemoteState::Silent { .. })));
                pulse.ask(now);
            }
            if states != before && hint.try_send(()).is_err() && hint.is_closed() {
                return;
            }
            before = states;
        }
    }

    /// What mounting needs here.
    pub(crate) async fn facts(&self) -> Vec<DriverFact> {
        let fact = |soundness, text: String| DriverFact {
            what: "remotes",
            soundness,
            text,
        };
        if !self.shared.world.privileged {
            let text =
                "overlays at nfs:// and afs: need an agent that runs as root; layers of file:// do not";
            return vec![fact(Soundness::Fair, text.to_owned())];
        }
        let known = blocking(|| {
            fs::read_to_string("/proc/filesystems").map_err(|error| later(&"/proc/filesystems", &error))
        });
        let known = known.await.unwrap_or_default();
        let clients: Vec<_> = ["nfs4", "nfs", "afs"]
            .into_iter()
            .filter(|kind| {
                known
                    .lines()
                    .any(|line| line.split_whitespace().last() == Some(kind))
            })
            .collect();
        let dir = self.shared.config.dir.display();
        vec![if clients.is_empty() {
            let text = format!(
                "this kernel has loaded no client for NFS or AFS: overlays at nfs:// need `modprobe nfsv4` (Debian's \
                 kernel has it), and are mounted below {dir}"
            );
            fact(Soundness::Fair, text)
        } else {
            fact(
                Soundness::Good,
                format!("mounts {} below {dir}", clients.join(", ")),
            )
        }]
    }

    fn target(&self, request: &Request) -> PathBuf {
        self.shared.config.dir.join(request.name())
    }

    fn watched(&self) -> MutexGuard<'_, BTreeMap<Remote, Watched>> {
        // Every change of it is whole.
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to ask those that are not asked yet, and forgets those that are gone.
    fn watch_these(&self, mounted: &BTreeSet<Remote>) {
        let now = self.shared.clock.now();
        let mut watched = self.watched();
        for remote in mounted {
            if watched.contains_key(remote) || watched.len() >= MOUNTS_MAX {
                continue;
            }
            let Ok(request) = Request::of(remote) else {
                continue;
            };
            let pulse = Pulse::new(self.target(&request), self.shared.world.question);
            pulse.ask(now);
            let used = Instant::now();
            let leaving = false;
            watched.insert(remote.clone(), Watched { pulse, used, leaving });
        }
    }

    /// Everything of ours that is mounted.
    async fn mounted(&self) -> PortResult<BTreeSet<Remote>> {
        let (table, dir) = (self.shared.table.clone(), self.shared.config.dir.clone());
        let found = blocking(move || {
            let mounts = mounted_in(&table, &dir).map_err(|error| later(&table.display(), &error))?;
            let mut ours = BTreeSet::new();
            for (name, is) in mounts {
                let record = read_record(&dir.join(format!("{name}.json")))?;
                let request = record.as_ref().and_then(|remote| Request::of(remote).ok());
                match request {
                    Some(request) if request.name() == name && request.is(&is.fstype, &is.source) => {
                        ours.insert(request.remote);
                    }
                    Some(_) | None => {}
                }
            }
            Ok(ours)
        });
        let ours = found.await?;
        self.watched().retain(|remote, _| ours.contains(remote));
        Ok(ours)
    }

    async fn there(&self, request: &Request) -> PortResult<There> {
        let (table, dir) = (self.shared.table.clone(), self.shared.config.dir.clone());
        let request = request.clone();
        blocking(move || {
            let mut mounts = mounted_in(&table, &dir).map_err(|error| later(&table.display(), &error))?;
            let name = request.name();
            let Some(is) = mounts.remove(&name) else {
                return Ok(There::Nothing);
            };
            let record = read_record(&dir.join(format!("{name}.json")))?;
            let ours = record.as_ref() == Some(&request.remote) && request.is(&is.fstype, &is.source);
            Ok(if ours { There::Ours } else { There::Foreign(is) })
        })
        .await
    }

    async fn mount_anew(&self, request: &Request, target: &Path) -> PortResult<()> {
        let Shared { config, world, .. } = &*self.shared;
        if !world.privileged {
            return Err(PortError::never(format!(
                "mounting {} needs an agent that runs as root: mount it yourself and name it as file:///…",
                request.remote.url
            )));
        }
        if self.watched().len() >= MOUNTS_MAX {
            return Err(PortError::later(format!(
                "{MOUNTS_MAX} remote directories are mounted already"
            )));
        }
        let address = resolve(&request.kind).await?;
        let (dir, at, remote) = (config.dir.clone(), target.to_owned(), request.remote.clone());
        blocking(move || make_ready(&dir, &at, &remote)).await?;
        let Ok(_turn) = self.shared.mounting.acquire().await else {
            return Err(PortError::later("the agent ends"));
        };
        let mut last = None;
        for one in request.tries(address, config) {
            match mounting::mount(&config.mount, &one, target).await {
                Ok(()) => {
                    tracing::info!(url = request.remote.url, "mounted");
                    return Ok(());
                }
                Err(Refusal::Version(what)) => last = Some(PortError::later(what)),
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            PortError::never("`nfs` in [remotes] names no version that can be written with: add \"4.2\"")
        }))
    }
}

/// The address of the host that a URL names, where the kernel does not find it by itself.
async fn resolve(kind: &Kind) -> PortResult<Option<IpAddr>> {
    let Kind::Nfs { host, .. } = kind else {
        return Ok(None);
    };
    if let Ok(address) = host.parse() {
        return Ok(Some(address));
    }
    let failed = |why: String| PortError::later(format!("the host {host} cannot be found: {why}"));
    match timeout(RESOLVE_MAX, tokio::net::lookup_host((host.as_str(), NFS_PORT))).await {
        Ok(Ok(mut found)) => match found.next() {
            Some(address) => Ok(Some(address.ip())),
            None => Err(failed("it has no address".to_owned())),
        },
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", RESOLVE_MAX.as_secs()))),
    }
}

/// Makes the place for a mount, and says whose it is. Nobody else may have a hand in the directory above it.
fn make_ready(dir: &Path, target: &Path, remote: &Remote) -> PortResult<()> {
    let made = DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(|error| later(&dir.display(), &error))?;
    let is = fs::symlink_metadata(dir).map_err(|error| later(&dir.display(), &error))?;
    let own = rustix::process::geteuid().as_raw();
    if !is.is_dir() || is.uid() != own || is.mode() & 0o022 != 0 {
        return Err(PortError::never(format!(
            "{} must be a directory of the agent's own, which nobody else can write to",
            dir.display()
        )));
    }
    // Whatever the umask: the file server passes through.
    let passable = fs::set_permissions(dir, fs::Permissions::from_mode(0o711));
    passable.map_err(|error| later(&dir.display(), &error))?;
    write_record(&target.with_extension("json"), remote)?;
    match DirBuilder::new().mode(0o700).create(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| later(&target.display(), &error)),
    }
}

fn write_record(path: &Path, remote: &Remote) -> PortResult<()> {
    let record = Record {
        format_version: 1,
        url: remote.url.clone(),
        writable: remote.access == Access::ReadWrite,
    };
    let bytes = serde_json::to_vec(&record).map_err(|error| PortError::never(error.to_string()))?;
    let fresh = path.with_extension("json.new");
    // No power failure outlives it: what is mounted does not either.
    let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path));
    written.map_err(|error| later(&path.display(), &error))
}

/// What a record says; `None` where there is none that we know how to read.
fn read_record(path: &Path) -> PortResult<Option<Remote>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(later(&path.display(), &error)),
    };
    let record: Option<Record> = serde_json::from_slice(&bytes).ok();
    Ok(record
        .filter(|record| record.format_version == 1)
        .map(|record| Remote {
            url: record.url,
            access: if record.writable {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            },
        }))
}

fn later(what: &dyn std::fmt::Display, error: &io::Error) -> PortError {
    PortError::later(format!("{what}: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> PortResult<T> + Send + 'static) -> PortResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PortError::later(format!("a thread ended: {error}"))))
}
