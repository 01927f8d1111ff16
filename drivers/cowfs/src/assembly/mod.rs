//! What is open: writable layers, stacks made with them, exports of those; and the order in which they come and go.
//!
//! Every step is idempotent: putting what is there already, or deleting what is not there, succeeds. Putting something
//! *else* under a name that is taken is a conflict, except that an export's state and weight and a writable layer's quotas may change. Opening can take long
//! (a log is replayed, a directory walked), so no lock is held meanwhile; the names involved are marked busy, and
//! whoever touches one of them is told to come back.

mod exports;
mod journeys;
mod writables;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::control::api::{
    ExportSpec, ExportStats, ExportView, LayerStats, Listing, StackSpec, WritableSpec,
};
use crate::export::{ClientAddress, Export, check_name};
use crate::metrics::procedure_name;
use crate::quota::Quota;
use crate::server::{Listening, Server};
use crate::service::{FileService, StackOpener};
use crate::writable::mark::Mark;
use crate::writable::travel::Ledgers;

pub use journeys::JourneyError;

/// How long a change of state waits for calls that run to end.
const QUIESCE_MAX: Duration = Duration::from_secs(20);

/// Between looks whether a stack is let go of.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Why a step was refused.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// Nothing of that name.
    #[error("there is no {kind} `{name}`")]
    Missing {
        /// What was looked for.
        kind: Kind,
        /// Under which name.
        name: String,
    },
    /// Another step is at work on the same thing.
    #[error("{kind} `{name}` is being changed just now")]
    Busy {
        /// What.
        kind: Kind,
        /// Which.
        name: String,
    },
    /// Carrying it out failed.
    #[error("{kind} `{name}`")]
    Failed {
        /// What was attempted on.
        kind: Kind,
        /// Which.
        name: String,
        /// Whether trying again can help.
        retryable: bool,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What an assembly is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A writable layer.
    Writable,
    /// A stack.
    Stack,
    /// An export.
    Export,
    /// A checkpoint of a writable layer.
    Checkpoint,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Writable => "writable layer",
            Self::Stack => "stack",
            Self::Export => "export",
            Self::Checkpoint => "checkpoint",
        })
    }
}

/// Result of a step.
pub type AssemblyResult<T> = Result<T, AssemblyError>;

/// Everything that is open on one server.
pub struct Assembly<O: StackOpener> {
    server: Arc<Server>,
    opener: Arc<O>,
    parts: Mutex<Parts<O::Writable>>,
    /// Names somebody is at work on. Locked after `parts` where both are.
    busy: Busy,
    /// What is remembered of layers that are arriving.
    ledgers: Ledgers,
}

type Busy = Mutex<BTreeSet<(Kind, String)>>;

struct Parts<W> {
    writables: BTreeMap<String, WritablePart<W>>,
    stacks: BTreeMap<String, StackPart>,
    exports: BTreeMap<String, ExportPart>,
}

struct WritablePart<W> {
    spec: WritableSpec,
    /// What the open layer keeps to, wherever it is.
    quota: Quota,
    /// `None` while it is part of a stack.
    open: Option<W>,
}

/// A writable layer on its way into a stack.
struct TakenWritable<W> {
    name: String,
    spec: WritableSpec,
    quota: Quota,
    /// `None` where it has to be opened anew.
    open: Option<W>,
}

/// A writable layer wherever it is.
enum Place<W> {
    /// Part of a stack.
    Stacked(Arc<dyn FileService>),
    /// Open by itself.
    Alone(W),
}

struct StackPart {
    spec: StackSpec,
    service: Arc<dyn FileService>,
}

struct ExportPart {
    spec: ExportSpec,
    export: Arc<Export>,
    /// Its own socket; dropping it stops listening.
    _listening: Option<Listening>,
}

/// Names marked busy until this is dropped.
struct Held<'a> {
    busy: &'a Busy,
    names: Vec<(Kind, String)>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            busy.remove(name);
        }
    }
}

impl<O: StackOpener> Assembly<O> {
    /// Nothing open yet.
    #[must_use]
    pub fn new(server: Arc<Server>, opener: O) -> Arc<Self> {
        Arc::new(Self {
            server,
            opener: Arc::new(opener),
            parts: Mutex::new(Parts {
                writables: BTreeMap::new(),
                stacks: BTreeMap::new(),
                exports: BTreeMap::new(),
            }),
            busy: Mutex::default(),
            ledgers: Ledgers::default(),
        })
    }

    /// The server that answers for the exports.
    #[must_use]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    fn lock(&self) -> MutexGuard<'_, Parts<O::Writable>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks names busy, or refuses if one is. Called under the lock that the decision is taken under.
    fn hold(&self, names: Vec<(Kind, String)>) -> AssemblyResult<Held<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((kind, name)) = names.iter().find(|&name| busy.contains(name)) {
            return Err(AssemblyError::Busy {
                kind: *kind,
                name: name.clone(),
            });
        }
        busy.extend(names.iter().cloned());
        Ok(Held {
            busy: &self.busy,
            names,
        })
    }

    /// Assembles a stack.
    pub async fn put_stack(&self, name: &str, spec: StackSpec) -> AssemblyResult<()> {
        valid_name(Kind::Stack, name)?;
        if spec.layers.is_empty() && spec.writable.is_none() {
            return Err(AssemblyError::Invalid(
                "a stack needs at least one layer".to_owned(),
            ));
        }
        let (_held, writable) = {
            let mut parts = self.lock();
            let mut names = vec![(Kind::Stack, name.to_owned())];
            names.extend(
                spec.writable
                    .iter()
                    .map(|writable| (Kind::Writable, writable.clone())),
            );
            let held = self.hold(names)?;
            match parts.stacks.get(name) {
                Some(there) if there.spec == spec => return Ok(()),
                Some(_) => {
                    return Err(AssemblyError::Conflict(format!(
                        "stack `{name}` is there with other layers"
                    )));
                }
                None => {}
            }
            (held, self.take_writable(&mut parts, &spec)?)
        };
        let writable = match writable {
            None => None,
            Some(taken) if taken.open.is_some() => taken.open,
            // It was part of a stack that is gone: its open layer went with that.
            Some(taken) => Some(self.open_writable(&taken.name, &taken.spec, taken.quota).await?),
        };
        let (opener, layers) = (Arc::clone(&self.opener), spec.layers.clone());
        let service = blocking(Kind::Stack, name, move || opener.open_stack(&layers, writable)).await?;
        self.lock()
            .stacks
            .insert(name.to_owned(), StackPart { spec, service });
        Ok(())
    }

    /// The writable layer a stack is to be made with.
    fn take_writable(
        &self,
        parts: &mut Parts<O::Writable>,
        spec: &StackSpec,
    ) -> AssemblyResult<Option<TakenWritable<O::Writable>>> {
        let Some(writable) = &spec.writable else {
            return Ok(None);
        };
        let user = parts
            .stacks
            .iter()
            .find(|(_, stack)| stack.spec.writable.as_ref() == Some(writable));
        if let Some((stack, _)) = user {
            return Err(AssemblyError::Conflict(format!(
                "writable layer `{writable}` is part of stack `{stack}` already"
            )));
        }
        let part = parts
            .writables
            .get_mut(writable)
            .ok_or_else(|| AssemblyError::Missing {
                kind: Kind::Writable,
                name: writable.clone(),
            })?;
        Ok(Some(TakenWritable {
            name: writable.clone(),
            spec: part.spec.clone(),
            quota: part.quota.clone(),
            open: part.open.take(),
        }))
    }

    /// Takes a stack apart. Nothing must export it any more. Once this is done its layers are closed.
    pub async fn delete_stack(&self, name: &str) -> AssemblyResult<()> {
        let (_held, part) = {
            let mut parts = self.lock();
            let mut names = vec![(Kind::Stack, name.to_owned())];
            let there = parts.stacks.get(name);
            let writable = there.and_then(|stack| stack.spec.writable.clone());
            names.extend(writable.map(|writable| (Kind::Writable, writable)));
            let held = self.hold(names)?;
            if let Some((export, _)) = parts.exports.iter().find(|(_, export)| export.spec.stack == name) {
                return Err(AssemblyError::Conflict(format!(
                    "stack `{name}` is exported as `{export}`: delete that first"
                )));
            }
            (held, parts.stacks.remove(name))
        };
        let Some(part) = part else {
            return Ok(());
        };
        if let Err(elapsed) = tokio::time::timeout(QUIESCE_MAX, let_go(&part.service)).await {
            self.lock().stacks.insert(name.to_owned(), part);
            return Err(AssemblyError::Failed {
                kind: Kind::Stack,
                name: name.to_owned(),
                retryable: true,
                source: elapsed.into(),
            });
        }
        drop_elsewhere(part.service).await;
        Ok(())
    }

    /// Everything there is.
    #[must_use]
    pub fn list(&self) -> Listing {
        let parts = self.lock();
        let writables = parts
            .writables
            .iter()
            .map(|(name, part)| (name.clone(), part.spec.clone()));
        let stacks = parts
            .stacks
            .iter()
            .map(|(name, part)| (name.clone(), part.spec.clone()));
        let exports = parts.exports.iter().map(|(name, part)| {
            let view = ExportView {
                spec: part.spec.clone(),
                parked: part.export.is_parked(),
                lapsed: part.export.is_lapsed(),
                connections: part.export.connections(),
            };
            (name.clone(), view)
        });
        Listing {
            writables: writables.collect(),
            stacks: stacks.collect(),
            exports: exports.collect(),
        }
    }

    /// What each export was asked, by name.
    #[must_use]
    pub fn stats(&self) -> BTreeMap<String, ExportStats> {
        let parts = self.lock();
        let one = |part: &ExportPart| {
            let writable = parts
                .stacks
                .get(&part.spec.stack)
                .and_then(|stack| stack.spec.writable.as_ref());
            let quota = writable.and_then(|name| parts.writables.get(name)?.spec.quota_bytes);
            let layer = part.export.service().statistics().map(|layer| LayerStats {
                objects: layer.objects,
                bytes: layer.bytes,
                quota_bytes: quota,
                log_bytes: layer.log_bytes,
                failed: layer.failed,
            });
            let counts = part.export.metrics().counts().into_iter();
            ExportStats {
                state: part.export.state(),
                parked: part.export.is_parked(),
                lapsed: part.export.is_lapsed(),
                connections: part.export.connections(),
                procedures: counts
                    .map(|(procedure, counts)| (procedure_name(procedure).to_owned(), counts))
                    .collect(),
                layer,
            }
        };
        parts
            .exports
            .iter()
            .map(|(name, part)| (name.clone(), one(part)))
            .collect()
    }

    /// What open writable layers hold, by name: of those that still hold what they held when they were opened. Reads
    /// layers, so it may take a while.
    #[must_use]
    pub fn marks(&self) -> BTreeMap<String, Mark> {
        let parts = self.lock();
        let stacked = parts.stacks.values().filter_map(|part| {
            let writable = part.spec.writable.clone()?;
            Some((writable, Arc::clone(&part.service)))
        });
        let stacked: Vec<_> = stacked.collect();
        let open = parts.writables.iter().filter_map(|(name, part)| {
            let mark = self.opener.mark(part.open.as_ref()?)?;
            Some((name.clone(), mark))
        });
        let open: Vec<_> = open.collect();
        // Nobody else has to wait for that.
        drop(parts);
        let stacked = stacked
            .into_iter()
            .filter_map(|(name, service)| Some((name, service.unchanged_mark()?)));
        let open = open
            .into_iter()
            .filter_map(|(name, mark)| Some((name, mark.take()?)));
        stacked.chain(open).collect()
    }

    /// Seals every export, waits for what runs, and closes everything, in that order.
    pub async fn shut_down(&self) {
        let names: Vec<String> = self.lock().exports.keys().cloned().collect();
        for name in names {
            if let Err(error) = self.delete_export(&name).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    name,
                    "stopping an export"
                );
            }
        }
        let (stacks, writables) = {
            let mut parts = self.lock();
            (
                std::mem::take(&mut parts.stacks),
                std::mem::take(&mut parts.writables),
            )
        };
        drop_elsewhere((
            stacks.into_values().map(|part| part.service).collect::<Vec<_>>(),
            writables,
        ))
        .await;
    }
}

fn valid_name(kind: Kind, name: &str) -> AssemblyResult<()> {
    check_name(name).map_err(|why| AssemblyError::Invalid(format!("name of {kind}: {why}")))
}

fn parse_clients(spec: &ExportSpec) -> AssemblyResult<Vec<ClientAddress>> {
    let absolute = |path: &PathBuf| path.is_absolute();
    if !spec.socket.iter().all(absolute) {
        return Err(AssemblyError::Invalid(
            "the socket needs an absolute path".to_owned(),
        ));
    }
    if spec.socket.is_none() && spec.clients.is_empty() && spec.link.is_none() {
        return Err(AssemblyError::Invalid(
            "an export needs a socket, clients or a link: nobody could reach it".to_owned(),
        ));
    }
    let clients = spec.clients.iter().map(|client| ClientAddress::parse(client));
    clients
        .collect::<Result<_, _>>()
        .map_err(|why| AssemblyError::Invalid(why.to_string()))
}

/// Runs what may block on the disk.
async fn blocking<T: Send + 'static>(
    kind: Kind,
    name: &str,
    work: impl FnOnce() -> Result<T, crate::service::OpenError> + Send + 'static,
) -> AssemblyResult<T> {
    let failed = |retryable, source| AssemblyError::Failed {
        kind,
        name: name.to_owned(),
        retryable,
        source,
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(error.retryable, error.into())),
        Err(panicked) => Err(failed(false, panicked.into())),
    }
}

/// Waits until nobody else has a service. Connections of an export that was removed have been told, and hold on to it until
/// their threads have come to hear that: a layer would still be locked, and refuse to be opened again.
async fn let_go(service: &Arc<dyn FileService>) {
    while Arc::strong_count(service) > 1 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Drops something whose drop may block.
async fn drop_elsewhere<T: Send + 'static>(value: T) {
    // A panic while dropping has been reported by the hook already.
    let _dropped = tokio::task::spawn_blocking(move || drop(value)).await;
}
