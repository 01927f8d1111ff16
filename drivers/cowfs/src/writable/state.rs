//! The writable layer in memory: what replaying its log gives.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::extents::{ContentId, Extents, Source};
use super::record::{Base, Body, Call, Change, Merge, Name, Record, Stored};
use super::segment::LogKey;
use super::sorted::Sorted;
use crate::attr::{Device, FileType};
use crate::handle::ObjectKey;
use crate::layer::{LayerId, NodeNumber};
use crate::service::CallKey;

/// How many calls are remembered. A client has at most a few hundred outstanding, and retries within minutes.
const CALLS_MAX: usize = 4096;

/// An object with a record.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// Number of names; not kept for directories.
    pub(crate) links: u32,
    pub(crate) attr: Stored,
    pub(crate) kind: Kind,
}

/// What it is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    File(Box<FileState>),
    Directory(Box<DirState>),
    Symlink { target: Vec<u8> },
    Special { file_type: FileType, device: Device },
}

/// A regular file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileState {
    pub(crate) size: u64,
    pub(crate) base: Option<Box<Base>>,
    /// What an exclusive CREATE made it with; kept until it changes for the first time. The client's next call sets its
    /// attributes, and a client that boots again may well use the same verifier for another file.
    pub(crate) verifier: Option<[u8; 8]>,
    /// Written ranges, the unsynced ones included.
    pub(crate) extents: Extents,
    /// What of the written ranges the log does not know yet.
    pub(crate) unlogged: Extents,
    /// The content file of this epoch that new bytes go to.
    pub(crate) writing: Option<ContentId>,
    /// Whether the name of that file may not be durable yet.
    pub(crate) fresh: bool,
    /// Counts writes, and how many of them are known to be on disk.
    pub(crate) writes: u64,
    pub(crate) writes_synced: u64,
    /// How much the layer had lost ([`super::content::ContentStore::losses`]) when the first of the bytes was written that
    /// the log does not know: if it is more by now, they may be among what was lost.
    pub(crate) losses: u64,
    /// Bytes of it that the log has taken, also those that were overwritten since.
    pub(crate) inlined: u64,
    /// Whether times changed that the log does not know.
    pub(crate) attr_unlogged: bool,
    /// Counts how often a content file was shortened: a write that was on its way meanwhile must be made again.
    pub(crate) trims: u64,
}

/// A directory.
#[derive(Clone, Debug)]
pub(crate) struct DirState {
    pub(crate) parent: ObjectKey,
    /// Where it merges with layers below; `None`: it hides them.
    pub(crate) merge: Option<Merge>,
    pub(crate) entries: Sorted<Box<[u8]>, Name>,
}

impl Object {
    pub(crate) fn file(&self) -> Option<&FileState> {
        if let Kind::File(file) = &self.kind {
            Some(file)
        } else {
            None
        }
    }

    pub(crate) fn directory(&self) -> Option<&DirState> {
        if let Kind::Directory(dir) = &self.kind {
            Some(dir)
        } else {
            None
        }
    }
}

/// A record that does not fit the state it is applied to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of object {key:?}, which is not there or of another type")]
pub(crate) struct Misfit {
    what: &'static str,
    key: ObjectKey,
}

/// Where the payload of a record is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) payload: u64,
}

/// The calls carried out lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    order: VecDeque<CallKey>,
    made: HashMap<CallKey, Option<ObjectKey>>,
}

impl Calls {
    pub(crate) fn get(&self, key: &CallKey) -> Option<Option<ObjectKey>> {
        self.made.get(key).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Call> + '_ {
        self.order.iter().filter_map(|key| {
            Some(Call {
                key: *key,
                made: *self.made.get(key)?,
            })
        })
    }

    fn add(&mut self, call: Call) {
        if self.made.insert(call.key, call.made).is_none() {
            self.order.push_back(call.key);
        }
        while self.order.len() > CALLS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.made.remove(&oldest);
            }
        }
    }
}

/// Everything the log says. A copy costs little, and shares what neither changes.
#[derive(Clone, Debug)]
pub(crate) struct State {
    layer: LayerId,
    log_key: LogKey,
    pub(crate) objects: Sorted<ObjectKey, Object>,
    /// From each lower directory that a recorded one merges with, to that one.
    pub(crate) merged_into: Sorted<(LayerId, NodeNumber), ObjectKey>,
    /// The stack the origins were resolved against.
    pub(crate) stack: Vec<LayerId>,
    /// The next free number.
    pub(crate) next: u64,
    pub(crate) calls: Calls,
    /// What the bytes written and not forgotten cost.
    pub(crate) bytes: u64,
    /// Content files nothing refers to any more.
    pub(crate) unused: Vec<ContentId>,
    /// Content files with bytes beyond where their file was cut.
    pub(crate) cut: Vec<Cut>,
    /// Content files of epochs before this one are written by nobody any more.
    pub(crate) frozen: u64,
    /// Checkpoints, each with the digest of its manifest.
    pub(crate) saved: BTreeMap<String, [u8; 32]>,
    /// Whether the last record says that its holder writes no more.
    pub(crate) closed: bool,
}

/// A content file whose end nobody will read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) key: ObjectKey,
    pub(crate) content: ContentId,
    pub(crate) size: u64,
}

/// The number of the root directory in a writable layer.
pub(crate) const ROOT_NUMBER: NodeNumber = 1;

impl State {
    pub(crate) fn new(layer: LayerId, log_key: LogKey) -> Self {
        Self {
            layer,
            log_key,
            objects: Sorted::default(),
            merged_into: Sorted::default(),
            stack: Vec::new(),
            next: ROOT_NUMBER + 1,
            calls: Calls::default(),
            bytes: 0,
            unused: Vec::new(),
            cut: Vec::new(),
            frozen: 0,
            saved: BTreeMap::new(),
            closed: false,
        }
    }

    /// The layer's own id.
    pub(crate) fn layer(&self) -> LayerId {
        self.layer
    }

    /// What the checks of its log's records are made with.
    pub(crate) fn log_key(&self) -> LogKey {
        self.log_key
    }

    /// Identity of the root directory.
    pub(crate) fn root(&self) -> ObjectKey {
        ObjectKey {
            layer: self.layer,
            number: ROOT_NUMBER,
        }
    }

    /// Whether there are numbers left that a log may hold; a hostile one can have used them up.
    pub(crate) fn has_numbers(&self) -> bool {
        self.next <= super::record::NUMBER_MAX
    }

    /// Takes a number that has never been used.
    pub(crate) fn take_number(&mut self) -> NodeNumber {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Makes the changes of one record.
    pub(crate) fn apply(&mut self, record: Record, position: Position) -> Result<(), Misfit> {
        self.closed = false;
        if let Some(call) = record.call {
            self.calls.add(call);
        }
        record
            .changes
            .into_iter()
            .try_for_each(|change| self.apply_change(change, position))
    }

    fn apply_change(&mut self, change: Change, position: Position) -> Result<(), Misfit> {
        match change {
            Change::Make {
                key,
                links,
                attr,
                body,
            } => self.make(key, links, attr, body),
            Change::Drop { key } => self.drop_object(key),
            Change::Attr { key, attr } => {
                let object = self.object_mut(key, "attributes")?;
                object.attr = attr;
                if let Kind::File(file) = &mut object.kind {
                    file.attr_unlogged = false;
                    file.verifier = None;
                }
                Ok(())
            }
            Change::Links { key, links } => {
                self.object_mut(key, "links")?.links = links;
                Ok(())
            }
            Change::Entry { dir, name, target } => {
                if let Some(Name::Object(key)) = target {
                    self.object_mut(key, "name")?;
                }
                let entries = &mut self.dir_mut(dir, "entry")?.entries;
                match target {
                    Some(target) => entries.insert(name.into(), target),
                    None => entries.remove(name.as_slice()),
                };
                Ok(())
            }
            Change::Parent { dir, parent } => {
                self.dir_mut(dir, "parent")?.parent = parent;
                Ok(())
            }
            Change::Size { key, size } => self.resize(key, size),
            Change::Extents { key, content, ranges } => {
                self.next = self.next.max(content.number.saturating_add(1));
                self.with_file(key, "content", |file| {
                    for (start, end) in ranges {
                        file.extents.insert(start, end, Source::Content(content));
                        file.unlogged.remove(start, end);
                        file.size = file.size.max(end);
                    }
                })
            }
            Change::Inline {
                key,
                offset,
                bytes,
                at,
            } => {
                let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                let at = position.payload.saturating_add(at);
                self.with_file(key, "content", |file| {
                    let source = Source::Log {
                        segment: position.segment,
                        at,
                        file_offset: offset,
                    };
                    file.inlined = file.inlined.saturating_add(end - offset);
                    file.extents.insert(offset, end, source);
                    file.unlogged.remove(offset, end);
                    file.size = file.size.max(end);
                })
            }
            Change::Origins { dir, origins } => self.set_origins(dir, origins),
            Change::Stack { layers } => {
                self.stack = layers;
                Ok(())
            }
            Change::Next { number } => {
                self.next = self.next.max(number);
                Ok(())
            }
            Change::Called(call) => {
                self.calls.add(call);
                Ok(())
            }
            Change::Adopted { epoch } => {
                self.frozen = self.frozen.max(epoch);
                Ok(())
            }
            Change::Saved { name, manifest } => {
                match manifest {
                    Some(manifest) => self.saved.insert(name, manifest),
                    None => self.saved.remove(&name),
                };
                Ok(())
            }
            Change::Closed => {
                self.closed = true;
                Ok(())
            }
            Change::Base { key, base, size } => self.with_file(key, "base", |file| {
                file.base = Some(Box::new(base));
                file.size = size;
            }),
        }
    }

    fn object_mut(&mut self, key: ObjectKey, what: &'static str) -> Result<&mut Object, Misfit> {
        self.objects.get_mut(&key).ok_or(Misfit { what, key })
    }

    fn dir_mut(&mut self, key: ObjectKey, what: &'static str) -> Result<&mut DirState, Misfit> {
        match self.objects.get_mut(&key).map(|object| &mut object.kind) {
            Some(Kind::Directory(dir)) => Ok(dir),
            _ => Err(Misfit { what, key }),
        }
    }

    /// Changes a file and keeps the count of written bytes right.
    pub(crate) fn with_file<T>(
        &mut self,
        key: ObjectKey,
        what: &'static str,
        change: impl FnOnce(&mut FileState) -> T,
    ) -> Result<T, Misfit> {
        match self.objects.get_mut(&key).map(|object| &mut object.kind) {
            Some(Kind::File(file)) => {
                let before = file.extents.charge();
                let outcome = change(file);
                self.bytes = self
                    .bytes
                    .wrapping_sub(before)
                    .wrapping_add(file.extents.charge());
                Ok(outcome)
            }
            _ => Err(Misfit { what, key }),
        }
    }

    fn make(&mut self, key: ObjectKey, links: u32, attr: Stored, body: Body) -> Result<(), Misfit> {
        if self.objects.contains_key(&key) {
            return Err(Misfit {
                what: "second making",
                key,
            });
        }
        if key.layer == self.layer {
            self.next = self.next.max(key.number.saturating_add(1));
        }
        let kind = match body {
            Body::File { size, base, verifier } => Kind::File(Box::new(FileState {
                size,
                base: base.map(Box::new),
                verifier,
                ..FileState::default()
            })),
            Body::Directory { parent, merge } => {
                for &origin in merge.iter().flat_map(|merge| &merge.origins) {
                    self.merged_into.insert(origin, key);
                }
                Kind::Directory(Box::new(DirState {
                    parent,
                    merge,
                    entries: Sorted::default(),
                }))
            }
            Body::Symlink { target } => Kind::Symlink { target },
            Body::Special { file_type, device } => Kind::Special { file_type, device },
        };
        self.objects.insert(key, Object { links, attr, kind });
        Ok(())
    }

    fn drop_object(&mut self, key: ObjectKey) -> Result<(), Misfit> {
        let object = self.objects.remove(&key).ok_or(Misfit { what: "removal", key })?;
        match object.kind {
            Kind::File(file) => {
                self.bytes = self.bytes.wrapping_sub(file.extents.charge());
                let written = file.extents.iter().filter_map(|(_, _, source)| match source {
                    Source::Content(id) => Some(id),
                    Source::Log { .. } => None,
                });
                let mut unused: Vec<ContentId> = written.chain(file.writing).collect();
                unused.sort_unstable();
                unused.dedup();
                self.unused.append(&mut unused);
            }
            Kind::Directory(dir) => {
                for origin in dir.merge.iter().flat_map(|merge| &merge.origins) {
                    self.merged_into.remove(origin);
                }
            }
            Kind::Symlink { .. } | Kind::Special { .. } => {}
        }
        Ok(())
    }

    fn resize(&mut self, key: ObjectKey, size: u64) -> Result<(), Misfit> {
        let (unused, cut) = self.with_file(key, "size", |file| {
            let beyond = file.extents.within(size, u64::MAX);
            let mut touched: Vec<ContentId> = beyond.filter_map(|(_, _, source)| source.content()).collect();
            touched.sort_unstable();
            touched.dedup();
            file.size = size;
            file.extents.cut(size);
            file.unlogged.cut(size);
            if let Some(base) = &mut file.base {
                base.len = base.len.min(size);
            }
            if file.base.as_ref().is_some_and(|base| base.len == 0) {
                file.base = None;
            }
            if file.extents.len() == 0 {
                file.fresh = false;
                touched.extend(file.writing.take().filter(|id| !touched.contains(id)));
            }
            let kept: HashSet<ContentId> = if touched.is_empty() {
                HashSet::new()
            } else {
                let sources = file.extents.iter().filter_map(|(_, _, source)| source.content());
                sources.chain(file.writing).collect()
            };
            let (cut, unused): (Vec<_>, Vec<_>) = touched.into_iter().partition(|id| kept.contains(id));
            (unused, cut)
        })?;
        self.unused.extend(unused);
        self.cut
            .extend(cut.into_iter().map(|content| Cut { key, content, size }));
        Ok(())
    }

    fn set_origins(&mut self, key: ObjectKey, origins: Vec<(LayerId, NodeNumber)>) -> Result<(), Misfit> {
        let Some(merge) = &mut self.dir_mut(key, "origins")?.merge else {
            return Err(Misfit { what: "origins", key });
        };
        let before = std::mem::replace(&mut merge.origins, origins.clone());
        for origin in before {
            // Another directory may have taken this origin in the meantime, within the same change of stack.
            if self.merged_into.get(&origin) == Some(&key) {
                self.merged_into.remove(&origin);
            }
        }
        for origin in origins {
            self.merged_into.insert(origin, key);
        }
        Ok(())
    }
}
