//! Whether a part of a listing that was handed out can be said again.
//!
//! Which names a directory has, and with which cookies and handles, is as it was while its merged listing has the same
//! version. Attributes of a lower object that has no record and only one name do not change, so of those nothing needs to
//! be looked at until some lower object has been given a record; those of all others are looked at each time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Stack;
use super::resolve::Node;
use crate::attr::FileType;
use crate::handle::ObjectKey;
use crate::service::{Caller, FsResult, Handle, ListedEntry, Object, Stamp, Status};
use crate::writable::state::State;

/// What was known when a part of a listing was handed out.
struct Known {
    /// The directory above then.
    parent: ObjectKey,
    /// The version of the merged listing.
    version: u64,
    /// How many lower objects had been given a record when none of `lasting` had one.
    adoptions: AtomicU64,
    /// Entries whose attributes do not change as long as they have no record.
    lasting: Box<[ObjectKey]>,
    /// The others, with their places among the entries.
    passing: Box<[(usize, Node)]>,
}

impl Stack {
    /// The directory that is to be listed, and its object, if the caller may.
    pub(super) fn to_list(&self, state: &State, caller: &Caller, dir: &Handle) -> FsResult<(Node, Object)> {
        let node = self.find(state, dir)?;
        let object = self.object_known(dir, &node, self.attr(state, &node)?);
        if object.attr.file_type != FileType::Directory {
            return Err(Status::NotDir);
        }
        self.may_list(caller, &object.attr)?;
        Ok((node, object))
    }

    /// The listing of a directory after `cookie`, with what tells whether it still stands.
    pub(super) fn list_stamped(
        &self,
        caller: &Caller,
        dir: &Handle,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry) -> bool,
    ) -> FsResult<(Object, bool, Option<Stamp>)> {
        let state = self.read_state()?;
        let (node, object) = self.to_list(&state, caller, dir)?;
        let (mut lasting, mut passing, mut count, mut whole) = (Vec::new(), Vec::new(), 0, true);
        let mut noting = |entry: &ListedEntry, node: Option<&Node>| {
            let taken = visit(entry);
            if taken {
                match node {
                    Some(node) if self.lasts(node) => lasting.push(node.key()),
                    Some(node) => passing.push((count, node.clone())),
                    None => whole &= !with_objects,
                }
                count += 1;
            }
            taken
        };
        let (done, version) = self.list(&state, &node, cookie, with_objects, &mut noting)?;
        let stamp = whole.then(|| -> FsResult<Stamp> {
            Ok(Stamp::new(Known {
                parent: self.parent_key(&state, &node)?,
                version,
                adoptions: AtomicU64::new(self.adoptions.load(Ordering::Relaxed)),
                lasting: lasting.into(),
                passing: passing.into(),
            }))
        });
        Ok((object, done, stamp.transpose()?))
    }

    /// Whether the same would be handed out again; see [`FileService::stands`](crate::service::FileService::stands).
    pub(super) fn still_stands(
        &self,
        caller: &Caller,
        dir: &Handle,
        stamp: &Stamp,
        changed: &mut dyn FnMut(usize, &Object),
    ) -> Option<Object> {
        let known: &Known = stamp.known()?;
        let state = self.read_state().ok()?;
        let (node, object) = self.to_list(&state, caller, dir).ok()?;
        if self.listed_version(node.key()) != Some(known.version)
            || self.parent_key(&state, &node).ok()? != known.parent
        {
            return None;
        }
        let adoptions = self.adoptions.load(Ordering::Relaxed);
        if known.adoptions.load(Ordering::Relaxed) != adoptions {
            if known.lasting.iter().any(|key| state.objects.contains_key(key)) {
                return None;
            }
            // Whoever writes this meanwhile has looked at the same state.
            known.adoptions.store(adoptions, Ordering::Relaxed);
        }
        for (at, node) in &known.passing {
            // A lower one may have been given a record since.
            let key = node.key();
            let object = if state.objects.contains_key(&key) {
                self.object(&state, &Node::Recorded(key))
            } else {
                self.object(&state, node)
            };
            changed(*at, &object.ok()?);
        }
        Some(object)
    }

    /// Which directory is above: for one of a lower layer always the same, and not looked for.
    fn parent_key(&self, state: &State, dir: &Node) -> FsResult<ObjectKey> {
        match dir {
            Node::Recorded(_) => Ok(self.parent(state, dir)?.key()),
            Node::Directory(lower) => Ok(lower.key),
            Node::File(..) => Err(Status::NotDir),
        }
    }

    /// Whether an object's attributes cannot change without its being given a record. Of a file with several names, how
    /// many of them show is a question to the whole stack.
    fn lasts(&self, node: &Node) -> bool {
        match node {
            Node::Recorded(_) => false,
            Node::File(key, at) => self.lower.attr(*at, key.number).is_ok_and(|attr| attr.links <= 1),
            Node::Directory(_) => true,
        }
    }
}
