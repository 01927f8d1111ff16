//! Putting a stack together, and finding one's way when the layers below a writable layer have changed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use super::listing::Listings;
use super::lower::{Lower, Paths, trouble};
use super::{Stack, Top, append_status};
use crate::attr::{Attr, Device, FileType, Time};
use crate::handle::{HandleKey, ObjectKey};
use crate::layer::{ContentSource, Layer, LayerId};
use crate::service::Status;
use crate::writable::record::{Base, Body, Change, Merge, Record, Stored};
use crate::writable::segment::LogKey;
use crate::writable::state::{Position, State};
use crate::writable::{Writable, WritableError, log, random_bytes, shape};

/// Changes in one record when the directories of a changed stack are resolved anew.
const CHANGES_MAX: usize = 1024;

/// What a stack is made of.
pub struct StackSpec {
    /// Read-only layers, nearest first.
    pub layers: Vec<Arc<dyn Layer>>,
    /// The writable layer; without one the stack is read-only.
    pub writable: Option<Writable>,
    /// Reads lower content by hash after its layer has left the stack.
    pub content: Arc<dyn ContentSource>,
    /// What handles are signed with in a read-only stack. A writable layer brings its own key.
    pub read_only_key: [u8; 32],
}

/// Why a stack could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A layer could not answer.
    #[error("reading the layers of the stack: {0}")]
    Layers(Status),
    /// The writable layer could not be brought up to date.
    #[error("writing to the writable layer: {0}")]
    Writable(Status),
    /// The writable layer is damaged.
    #[error(transparent)]
    Damaged(#[from] WritableError),
    /// The kernel gave no random bytes.
    #[error("making a write verifier")]
    Random(#[source] std::io::Error),
}

/// A changed file whose unchanged part cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingBase {
    /// The layer it came from.
    pub layer: LayerId,
    /// Its path there.
    pub path: Vec<u8>,
}

/// Opens a stack.
///
/// # Errors
/// When a layer cannot be read, or the writable layer not be written to. Changed files whose base is gone are no error:
/// see [`Stack::missing_bases`].
pub fn open(spec: StackSpec) -> Result<Arc<Stack>, StackError> {
    let lower = Lower::new(spec.layers);
    let mut verifier = [0; 8];
    random_bytes(&mut verifier).map_err(StackError::Random)?;
    let mut mended = Vec::new();
    let (state, top, keys) = match spec.writable {
        Some(writable) => {
            let damaged = |what: String| WritableError::Damaged {
                file: writable.path.join(log::FOLDER),
                position: 0,
                what,
            };
            mended = shape::check(&writable.state).map_err(|misplaced| damaged(misplaced.to_string()))?;
            if let Some(key) = mistaken(&lower, &writable.state) {
                let what = format!("directory {key:?} has the number of something else in its layer");
                return Err(damaged(what).into());
            }
            let top = Top {
                disk: writable.disk,
                path: writable.path,
                epoch: writable.epoch,
                options: writable.options,
                log: writable.log,
                content: writable.content,
                unused: Mutex::new(Vec::new()),
                cut: Mutex::new(Vec::new()),
                shaping: Mutex::new(()),
                writing: RwLock::new(()),
                sent: Mutex::new(None),
                mark: writable.mark,
                touched: AtomicBool::new(false),
                _lock: writable.lock,
            };
            (writable.state, Some(top), writable.meta.key)
        }
        // A read-only stack has a state too: it holds the root and never changes.
        None => (
            State::new(LayerId([0; 8]), LogKey::default()),
            None,
            HandleKey::new(spec.read_only_key),
        ),
    };
    let root = state.root();
    let mut stack = Stack {
        lower,
        state: RwLock::new(state),
        changing: Mutex::new(()),
        top,
        content: spec.content,
        keys,
        root,
        seen: Mutex::new(HashMap::new()),
        listings: Mutex::new(Listings::default()),
        adoptions: AtomicU64::default(),
        verifier,
        clock: AtomicU64::new(0),
        missing: Vec::new(),
    };
    stack.prepare(mended)?;
    stack.missing = stack.look_for_bases()?;
    Ok(Arc::new(stack))
}

impl Stack {
    /// Makes the root if there is none, makes the changes that the look at the layer asks for, and has each directory merge
    /// with what is below now.
    fn prepare(&self, mended: Vec<Change>) -> Result<(), StackError> {
        let mut state = self.write_state().map_err(StackError::Writable)?;
        let state = &mut *state;
        let layers = self.lower.ids();
        if !state.objects.contains_key(&self.root) {
            let origins = self.lower.root().map_err(StackError::Layers)?;
            let attr = if origins.is_empty() {
                new_root(self.now())
            } else {
                self.lower.dir_attr(&origins).map_err(StackError::Layers)?
            };
            let merge = Merge {
                path: Vec::new(),
                origins: self.with_ids(&origins),
            };
            let body = Body::Directory {
                parent: self.root,
                merge: Some(merge),
            };
            let changes = vec![
                Change::Make {
                    key: self.root,
                    links: 0,
                    attr: Stored::from(&attr),
                    body,
                },
                Change::Stack {
                    layers: layers.clone(),
                },
            ];
            self.prepare_record(state, changes)?;
        }
        if !mended.is_empty() {
            tracing::warn!(
                changes = mended.len(),
                "names of a writable layer and what they lead to are mended"
            );
            self.prepare_records(state, mended)?;
        }
        // Also where the layers are those of last time: the log is believed where it says so of a name, not where it
        // says what a layer below holds.
        let changes = self.resolve_merges(state)?;
        if state.stack != layers {
            self.rebase(state, changes, layers)
        } else {
            self.prepare_records(state, changes)
        }
    }

    fn prepare_records(&self, state: &mut State, mut changes: Vec<Change>) -> Result<(), StackError> {
        while !changes.is_empty() {
            let part = changes.drain(..changes.len().min(CHANGES_MAX)).collect();
            self.prepare_record(state, part)?;
        }
        Ok(())
    }

    fn prepare_record(&self, state: &mut State, changes: Vec<Change>) -> Result<(), StackError> {
        if self.top.is_some() {
            let ticket = self.record(state, None, changes).map_err(StackError::Writable)?;
            // Not with all that settling does besides: the state is locked.
            let settled = self
                .writable()
                .and_then(|top| top.log.settle(ticket).map_err(|error| append_status(&error)));
            return settled.map_err(StackError::Writable);
        }
        let record = Record { call: None, changes };
        let nowhere = Position {
            segment: 0,
            payload: 0,
        };
        state
            .apply(record, nowhere)
            .map_err(|_| StackError::Writable(Status::ServerFault))
    }

    /// The layers have changed: what was found for directories and files is recorded, and the new stack last, so that a
    /// crash in between begins again.
    fn rebase(
        &self,
        state: &mut State,
        mut changes: Vec<Change>,
        layers: Vec<LayerId>,
    ) -> Result<(), StackError> {
        tracing::info!(before = ?state.stack, after = ?layers, "the layers below have changed");
        changes.extend(self.find_bases(state)?);
        self.prepare_records(state, changes)?;
        self.prepare_record(state, vec![Change::Stack { layers }])
    }

    /// The directories that do not merge, by their paths, with what is there now. Each lower directory merges with one:
    /// where two say the same path, which only layers did that had one name for two, the first has it.
    fn resolve_merges(&self, state: &State) -> Result<Vec<Change>, StackError> {
        let merging = state.objects.iter().filter_map(|(key, object)| {
            let merge = object.directory()?.merge.as_ref()?;
            Some((merge.path.as_slice(), *key, &merge.origins))
        });
        let mut merging: Vec<_> = merging.collect();
        merging.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let mut taken = HashSet::new();
        let mut paths = Paths::new(&self.lower);
        let mut changes = Vec::new();
        for (path, dir, before) in merging {
            let mut origins = self.with_ids(&paths.directory(path).map_err(StackError::Layers)?);
            if origins.first().is_some_and(|first| !taken.insert(*first)) {
                origins.clear();
            }
            let known = |origin| state.merged_into.get(origin) == Some(&dir);
            if origins != *before || !origins.iter().all(known) {
                changes.push(Change::Origins { dir, origins });
            }
        }
        Ok(changes)
    }

    /// Bases for the changed files whose layer has left the stack and whose content cannot be had by hash. Layers that
    /// are directories keep no hashes, and any edit gives such a layer a new id: so a file of the same size and time at
    /// the same path counts as the same, and a file that the guest never wrote to follows what is there now.
    fn find_bases(&self, state: &State) -> Result<Vec<Change>, StackError> {
        let mut changes = Vec::new();
        for (&key, object) in &state.objects {
            let Some((file, old)) = object.file().and_then(|file| Some((file, file.base.as_ref()?))) else {
                continue;
            };
            if self.lower.index(old.origin.layer).is_some() || self.readable(old) {
                continue;
            }
            let Some((at, number)) = self.lower.file_at(&old.path).map_err(StackError::Layers)? else {
                continue;
            };
            let attr = self.lower.attr(at, number).map_err(StackError::Layers)?;
            let same = attr.size == old.whole && attr.mtime == old.mtime;
            let untouched = file.extents.len() == 0 && old.len == old.whole && file.size == old.whole;
            if attr.file_type != FileType::Regular || !(same || untouched) {
                continue;
            }
            let origin = self.lower.key(at, number);
            let hash = self
                .lower
                .layer(at)
                .content(number)
                .map_err(|error| StackError::Layers(trouble(&error)))?;
            let len = if same { old.len } else { attr.size };
            let size = if same { file.size } else { attr.size };
            let base = Base {
                origin,
                hash,
                len,
                whole: attr.size,
                mtime: attr.mtime,
                path: old.path.clone(),
            };
            changes.push(Change::Base { key, base, size });
        }
        Ok(changes)
    }

    /// Tries the base of every changed file whose layer is not in the stack.
    fn look_for_bases(&self) -> Result<Vec<MissingBase>, StackError> {
        let state = self.read_state().map_err(StackError::Writable)?;
        let mut missing = Vec::new();
        for file in state.objects.values().filter_map(|object| object.file()) {
            let Some(base) = &file.base else { continue };
            if self.lower.index(base.origin.layer).is_none() && !self.readable(base) {
                let path = String::from_utf8_lossy(&base.path);
                tracing::warn!(%path, layer = ?base.origin.layer, "the unchanged part of a changed file is gone");
                missing.push(MissingBase {
                    layer: base.origin.layer,
                    path: base.path.clone(),
                });
            }
        }
        missing.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(missing)
    }

    fn readable(&self, base: &Base) -> bool {
        let mut last = [0];
        let wanted = base.hash.as_ref();
        wanted.is_some_and(|hash| {
            self.content
                .read_content(hash, base.len.saturating_sub(1), &mut last)
                .is_ok_and(|count| count == 1)
        })
    }
}

/// A recorded directory whose number is, in its layer, that of no directory: its name there would lead to it as well.
fn mistaken(lower: &Lower, state: &State) -> Option<ObjectKey> {
    let directories = state
        .objects
        .iter()
        .filter(|(_, object)| object.directory().is_some());
    directories.map(|(key, _)| *key).find(|key| {
        let attr = lower.index(key.layer).map(|at| lower.attr(at, key.number));
        attr.is_some_and(|attr| attr.is_ok_and(|attr| attr.file_type != FileType::Directory))
    })
}

/// The root of a stack without layers.
fn new_root(now: Time) -> Attr {
    Attr {
        file_type: FileType::Directory,
        mode: 0o755,
        links: 2,
        uid: 0,
        gid: 0,
        size: 0,
        used: 0,
        device: Device::default(),
        atime: now,
        mtime: now,
        ctime: now,
    }
}
