//! From handles and names to objects, through the writable layer's records and the layers below.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};

use super::lower::{LowerChild, Origins};
use super::{DIR_BYTES, Stack};
use crate::attr::{Attr, Device, FileType};
use crate::handle::ObjectKey;
use crate::layer::{NodeNumber, ROOT};
use crate::service::{Before, FsResult, Handle, Object, Status};
use crate::writable::record::Name;
use crate::writable::state::{Kind, State};

/// How many lower objects are remembered as visible. About 100 bytes each.
const SEEN_MAX: usize = 200_000;

/// An object of the stack.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// One that the writable layer has a record of.
    Recorded(ObjectKey),
    /// Anything but a directory, as the layer at that index has it.
    File(ObjectKey, usize),
    /// A directory as the lower layers have it.
    Directory(Arc<LowerDir>),
}

/// A directory of the lower layers, merged.
#[derive(Debug)]
pub(crate) struct LowerDir {
    /// Its identity: that of the nearest directory it is made of.
    pub(crate) key: ObjectKey,
    pub(crate) origins: Origins,
}

impl Node {
    pub(crate) fn key(&self) -> ObjectKey {
        match self {
            Self::Recorded(key) | Self::File(key, _) => *key,
            Self::Directory(dir) => dir.key,
        }
    }
}

impl Stack {
    /// The object a handle names.
    pub(crate) fn find(&self, state: &State, handle: &Handle) -> FsResult<Node> {
        self.locate(state, self.keys.open(handle)?)
    }

    /// The object with that identity, if a name in the stack leads to it.
    pub(crate) fn locate(&self, state: &State, key: ObjectKey) -> FsResult<Node> {
        if state.objects.contains_key(&key) {
            return Ok(Node::Recorded(key));
        }
        if let Some(node) = self.seen_before(key) {
            return Ok(node);
        }
        let at = self.lower.index(key.layer).ok_or(Status::Stale)?;
        let node = if self.lower.attr(at, key.number)?.file_type == FileType::Directory {
            self.locate_dir(state, at, key.number)?
                .filter(|node| node.key() == key)
        } else {
            self.locate_file(state, at, key)?
        };
        let node = node.ok_or(Status::Stale)?;
        self.remember(&node);
        Ok(node)
    }

    /// A lower object that is known to be visible.
    pub(crate) fn seen_before(&self, key: ObjectKey) -> Option<Node> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&key).cloned()
    }

    /// A lower file is there if one of its names in its layer still leads to it.
    fn locate_file(&self, state: &State, at: usize, key: ObjectKey) -> FsResult<Option<Node>> {
        for (dir, name) in self.lower.names(at, key.number)? {
            if let Some(dir) = self.locate_dir(state, at, dir)?
                && let Some(node) = self.child(state, &dir, &name)?
                && node.key() == key
            {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// The directory of the stack that the directory `number` of the layer `at` is part of.
    pub(crate) fn locate_dir(&self, state: &State, at: usize, number: NodeNumber) -> FsResult<Option<Node>> {
        let layer = self.lower.layer(at).id();
        let chain = self.lower.ancestry(at, number)?;
        // From the nearest ancestor that has a record (or the root) down by name.
        let recorded = chain
            .iter()
            .enumerate()
            .find_map(|(depth, &(dir, _))| state.merged_into.get(&(layer, dir)).map(|key| (depth, *key)));
        let (mut node, below) = match recorded {
            Some((depth, key)) => (Node::Recorded(key), depth),
            None => (self.root_node(), chain.len()),
        };
        if recorded.is_none() && !self.is_made_of(state, &node, at, ROOT)? {
            return Ok(None);
        }
        for (dir, name) in chain[..below].iter().rev() {
            match self.child(state, &node, name)? {
                Some(child) if self.is_made_of(state, &child, at, *dir)? => node = child,
                _ => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    fn is_made_of(&self, state: &State, node: &Node, at: usize, dir: NodeNumber) -> FsResult<bool> {
        match self.origins(state, node) {
            Ok(origins) => Ok(origins.contains(&(at, dir))),
            Err(Status::NotDir) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The root directory.
    pub(crate) fn root_node(&self) -> Node {
        Node::Recorded(self.root)
    }

    /// The lower directories that a directory merges with; none if it hides them.
    pub(crate) fn origins<'a>(
        &self,
        state: &State,
        node: &'a Node,
    ) -> FsResult<Cow<'a, [(usize, NodeNumber)]>> {
        match node {
            Node::File(..) => Err(Status::NotDir),
            Node::Directory(dir) => Ok(Cow::Borrowed(&dir.origins)),
            Node::Recorded(key) => {
                let object = state.objects.get(key).ok_or(Status::Stale)?;
                let dir = object.directory().ok_or(Status::NotDir)?;
                let origins = dir.merge.iter().flat_map(|merge| &merge.origins);
                let known = origins.filter_map(|&(layer, number)| Some((self.lower.index(layer)?, number)));
                Ok(Cow::Owned(known.collect()))
            }
        }
    }

    /// What a name in a directory leads to. Not for `.` and `..`.
    pub(crate) fn child(&self, state: &State, dir: &Node, name: &[u8]) -> FsResult<Option<Node>> {
        if let Node::Recorded(key) = dir {
            let object = state.objects.get(key).ok_or(Status::Stale)?;
            match object.directory().ok_or(Status::NotDir)?.entries.get(name) {
                Some(Name::Object(child)) => return Ok(Some(Node::Recorded(*child))),
                Some(Name::Whiteout) => return Ok(None),
                None => {}
            }
        }
        let origins = self.origins(state, dir)?;
        Ok(self
            .lower
            .child(&origins, name)?
            .and_then(|child| self.lower_node(state, child)))
    }

    /// What the lower layers have under a name, whatever the writable layer says.
    pub(crate) fn hidden_below(&self, state: &State, dir: &Node, name: &[u8]) -> FsResult<bool> {
        let origins = self.origins(state, dir)?;
        Ok(self.lower.child(&origins, name)?.is_some())
    }

    /// Whether a lower directory is where the writable layer's names say, and not where its layer has it: it merges with a
    /// recorded one, which has one name. That one was renamed while another layer below had nothing under its old name.
    pub(crate) fn is_elsewhere(&self, state: &State, key: ObjectKey) -> bool {
        state.objects.contains_key(&key) || state.merged_into.contains_key(&(key.layer, key.number))
    }

    fn lower_node(&self, state: &State, child: LowerChild) -> Option<Node> {
        let node = match child {
            LowerChild::File(at, number) => Node::File(self.lower.key(at, number), at),
            LowerChild::Directory(origins) => {
                let &(at, number) = origins.first()?;
                if self.is_elsewhere(state, self.lower.key(at, number)) {
                    return None;
                }
                Node::Directory(Arc::new(LowerDir {
                    key: self.lower.key(at, number),
                    origins,
                }))
            }
        };
        if state.objects.contains_key(&node.key()) {
            return Some(Node::Recorded(node.key()));
        }
        self.remember(&node);
        Some(node)
    }

    /// The directory above; the root's is itself.
    pub(crate) fn parent(&self, state: &State, dir: &Node) -> FsResult<Node> {
        match dir {
            Node::File(..) => Err(Status::NotDir),
            Node::Recorded(key) => {
                let object = state.objects.get(key).ok_or(Status::Stale)?;
                Ok(Node::Recorded(object.directory().ok_or(Status::NotDir)?.parent))
            }
            Node::Directory(lower) => {
                let (at, number) = lower.origins[0];
                let (parent, _) = self.lower.place(at, number)?.ok_or(Status::Stale)?;
                self.locate_dir(state, at, parent)?.ok_or(Status::Stale)
            }
        }
    }

    fn remember(&self, node: &Node) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN_MAX {
            seen.clear();
        }
        seen.entry(node.key()).or_insert_with(|| node.clone());
    }

    /// Forgets that a lower object was visible: its record or its last name decides now.
    pub(crate) fn forget(&self, key: ObjectKey) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// Attributes of an object.
    pub(crate) fn attr(&self, state: &State, node: &Node) -> FsResult<Attr> {
        match node {
            Node::File(key, at) => {
                let mut attr = self.lower.attr(*at, key.number)?;
                // Nearer layers may hide some of its names.
                if attr.links > 1 && *at > 0 {
                    attr.links = self.visible_names(state, *key, *at)?;
                }
                Ok(attr)
            }
            Node::Directory(dir) => {
                let mut attr = self.lower.dir_attr(&dir.origins)?;
                attr.links = match dir.origins[..] {
                    [(at, number)] => self.lower.attr(at, number)?.links,
                    _ => self.subdirectories(state, node)?.saturating_add(2),
                };
                attr.size = DIR_BYTES;
                attr.used = DIR_BYTES;
                Ok(attr)
            }
            Node::Recorded(key) => self.recorded_attr(state, node, *key),
        }
    }

    fn recorded_attr(&self, state: &State, node: &Node, key: ObjectKey) -> FsResult<Attr> {
        let object = state.objects.get(&key).ok_or(Status::Stale)?;
        let (file_type, links, size, used, device) = match &object.kind {
            Kind::File(file) => {
                let base = file.base.as_ref().map_or(0, |base| base.len);
                let held = file.extents.bytes().saturating_add(base).min(file.size);
                (
                    FileType::Regular,
                    object.links,
                    file.size,
                    held.next_multiple_of(512),
                    Device::default(),
                )
            }
            Kind::Directory(_) => {
                let links = self.subdirectories(state, node)?.saturating_add(2);
                (
                    FileType::Directory,
                    links,
                    DIR_BYTES,
                    DIR_BYTES,
                    Device::default(),
                )
            }
            Kind::Symlink { target } => {
                let size = crate::writable::log::as_u64(target.len());
                (FileType::Symlink, object.links, size, size, Device::default())
            }
            Kind::Special { file_type, device } => (*file_type, object.links, 0, 0, *device),
        };
        let stored = object.attr;
        Ok(Attr {
            file_type,
            mode: stored.mode,
            links,
            uid: stored.uid,
            gid: stored.gid,
            size,
            used,
            device,
            atime: stored.atime,
            mtime: stored.mtime,
            ctime: stored.ctime,
        })
    }

    fn visible_names(&self, state: &State, key: ObjectKey, at: usize) -> FsResult<u32> {
        let mut count = 0;
        for (dir, name) in self.lower.names(at, key.number)? {
            if let Some(dir) = self.locate_dir(state, at, dir)?
                && let Some(child) = self.child(state, &dir, &name)?
                && child.key() == key
            {
                count += 1;
            }
        }
        Ok(count)
    }

    /// The object as the protocol sees it.
    pub(crate) fn object(&self, state: &State, node: &Node) -> FsResult<Object> {
        Ok(self.object_with(node, self.attr(state, node)?))
    }

    /// The object whose attributes are known.
    pub(crate) fn object_with(&self, node: &Node, attr: Attr) -> Object {
        let key = node.key();
        Object {
            handle: self.keys.seal(key),
            fileid: key.fileid(),
            attr,
        }
    }

    /// The same of an object that was found by its handle, which then need not be signed again.
    pub(crate) fn object_known(&self, handle: &Handle, node: &Node, attr: Attr) -> Object {
        Object {
            handle: *handle,
            fileid: node.key().fileid(),
            attr,
        }
    }

    /// What the protocol wants to know of an object before it changes.
    pub(crate) fn before(&self, state: &State, node: &Node) -> FsResult<Before> {
        let attr = self.attr(state, node)?;
        Ok(Before {
            size: attr.size,
            mtime: attr.mtime,
            ctime: attr.ctime,
        })
    }

    /// Target of a symbolic link.
    pub(crate) fn target(&self, state: &State, node: &Node) -> FsResult<Vec<u8>> {
        match node {
            Node::File(key, at) => self
                .lower
                .layer(*at)
                .readlink(key.number)
                .map_err(|error| super::lower::trouble(&error)),
            Node::Directory(_) => Err(Status::Inval),
            Node::Recorded(key) => match &state.objects.get(key).ok_or(Status::Stale)?.kind {
                Kind::Symlink { target } => Ok(target.clone()),
                Kind::File(_) | Kind::Directory(_) | Kind::Special { .. } => Err(Status::Inval),
            },
        }
    }
}
