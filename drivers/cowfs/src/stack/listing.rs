//! Listings of merged directories, with cookies that stay valid while entries come and go.
//!
//! A cookie is made of the entry's name by a keyed hash, and a listing goes in the order of cookies: an entry's place
//! never depends on the others, so removing what was listed neither repeats nor skips anything. The first question about
//! a directory merges it; later changes are made to the merged listing, so that removing a huge directory page by page
//! does not merge it again and again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Stack;
use super::resolve::Node;
use crate::handle::{HandleKey, ObjectKey};
use crate::service::{FsResult, Handle, ListedEntry, Status};
use crate::writable::record::Name;
use crate::writable::state::{Kind, State};

/// Entries kept in merged listings of all directories together; about 120 bytes each. One directory may exceed it.
const ENTRIES_MAX: usize = 400_000;
/// Entries taken from a listing at a time.
const BATCH: usize = 128;
/// Cookie of `.`.
const SELF: u64 = 1;
/// Cookie of `..`.
const PARENT: u64 = 2;

/// One name in a merged directory.
#[derive(Clone, Debug)]
struct Listed {
    name: Vec<u8>,
    key: ObjectKey,
    directory: bool,
}

/// A merged directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    by_cookie: BTreeMap<u64, Listed>,
    directories: u32,
    /// Another one after each change of names, and for each listing.
    version: u64,
}

/// The listings kept.
#[derive(Default)]
pub(crate) struct Listings {
    by_dir: HashMap<ObjectKey, Arc<Mutex<Listing>>>,
    entries: usize,
    /// The last version given to a listing.
    version: u64,
}

impl Listings {
    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl Listing {
    /// The first cookie that may stand for `name`: above 2, below 2^63 (clients keep cookies in signed numbers), with
    /// room for 16 names of one hash before the next.
    fn cookie(keys: &HandleKey, name: &[u8]) -> u64 {
        (keys.name_hash(name) >> 5).max(1) << 4
    }

    fn slot(&self, keys: &HandleKey, name: &[u8]) -> (u64, bool) {
        let first = Self::cookie(keys, name);
        let mut free = first;
        for (&cookie, listed) in self.by_cookie.range(first..first.saturating_add(64)) {
            if listed.name == name {
                return (cookie, true);
            }
            if cookie == free {
                free += 1;
            }
        }
        (free, false)
    }

    fn set(&mut self, keys: &HandleKey, name: &[u8], target: Option<(ObjectKey, bool)>) {
        let (cookie, there) = self.slot(keys, name);
        if there && let Some(before) = self.by_cookie.remove(&cookie) {
            self.directories -= u32::from(before.directory);
        }
        if let Some((key, directory)) = target {
            self.directories += u32::from(directory);
            self.by_cookie.insert(
                cookie,
                Listed {
                    name: name.to_vec(),
                    key,
                    directory,
                },
            );
        }
    }

    /// Whether there are no names.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_cookie.is_empty()
    }
}

impl Stack {
    /// The merged listing of a directory.
    pub(crate) fn listing(&self, state: &State, dir: &Node) -> FsResult<Arc<Mutex<Listing>>> {
        if let Some(listing) = lock(&self.listings).by_dir.get(&dir.key()) {
            return Ok(Arc::clone(listing));
        }
        let mut built = self.build(state, dir)?;
        let entries = built.by_cookie.len();
        let mut listings = lock(&self.listings);
        if listings.entries.saturating_add(entries) > ENTRIES_MAX {
            listings.by_dir.clear();
            listings.entries = 0;
        }
        built.version = listings.next_version();
        let listing = Arc::new(Mutex::new(built));
        if listings.by_dir.insert(dir.key(), Arc::clone(&listing)).is_none() {
            // One more for the listing itself, so that many empty ones are bounded too.
            listings.entries += entries + 1;
        }
        Ok(listing)
    }

    fn build(&self, state: &State, dir: &Node) -> FsResult<Listing> {
        let origins = self.origins(state, dir)?;
        let mut listing = Listing::default();
        let own = match dir {
            Node::Recorded(key) => state.objects.get(key).and_then(|object| object.directory()),
            Node::File(..) | Node::Directory(_) => None,
        };
        // In the order of names, so that names of one hash get the same cookies every time.
        let mut names: BTreeMap<Vec<u8>, (ObjectKey, bool)> = BTreeMap::new();
        for (name, entry) in self.lower.entries(&origins)? {
            let key = self.lower.key(entry.layer, entry.number);
            if !(entry.directory && self.is_elsewhere(state, key)) {
                names.insert(name, (key, entry.directory));
            }
        }
        for (name, target) in own.iter().flat_map(|own| &own.entries) {
            match target {
                Name::Whiteout => {
                    names.remove(&**name);
                }
                Name::Object(key) => {
                    let object = state.objects.get(key).ok_or(Status::Io)?;
                    names.insert(name.to_vec(), (*key, matches!(object.kind, Kind::Directory(_))));
                }
            }
        }
        for (name, target) in names {
            listing.set(&self.keys, &name, Some(target));
        }
        Ok(listing)
    }

    /// Number of directories in a directory.
    pub(crate) fn subdirectories(&self, state: &State, dir: &Node) -> FsResult<u32> {
        Ok(lock(&*self.listing(state, dir)?).directories)
    }

    /// Brings the kept listing of `dir`, if there is one, up to date with what `name` stands for now.
    pub(crate) fn relist(&self, state: &State, dir: ObjectKey, name: &[u8]) {
        let Some(listing) = lock(&self.listings).by_dir.get(&dir).cloned() else {
            return;
        };
        let target = self.child(state, &Node::Recorded(dir), name).map(|child| {
            child.map(|node| {
                let directory = match &node {
                    Node::Recorded(key) => state
                        .objects
                        .get(key)
                        .is_some_and(|object| object.directory().is_some()),
                    Node::File(..) => false,
                    Node::Directory(_) => true,
                };
                (node.key(), directory)
            })
        });
        match target {
            Ok(target) => {
                let mut listings = lock(&self.listings);
                let mut listing = lock(&*listing);
                let before = listing.by_cookie.len();
                listing.set(&self.keys, name, target);
                listing.version = listings.next_version();
                let after = listing.by_cookie.len();
                drop(listing);
                listings.entries = (listings.entries + after).saturating_sub(before);
            }
            // Merge it again at the next question, and let that say what is wrong.
            Err(_) => self.unlist(dir),
        }
    }

    /// Forgets the kept listing of a directory.
    pub(crate) fn unlist(&self, dir: ObjectKey) {
        let mut listings = lock(&self.listings);
        if let Some(listing) = listings.by_dir.remove(&dir) {
            let entries = lock(&*listing).by_cookie.len() + 1;
            listings.entries = listings.entries.saturating_sub(entries);
        }
    }

    /// The version of the listing of `dir` that is kept; `None` if none is.
    pub(crate) fn listed_version(&self, dir: ObjectKey) -> Option<u64> {
        let listing = lock(&self.listings).by_dir.get(&dir).cloned();
        listing.map(|listing| lock(&*listing).version)
    }

    /// Hands out the entries of `dir` after `cookie`, and returns whether those were all, and the version of the listing.
    /// `visit` is told what each entry is, if it is asked for.
    pub(crate) fn list(
        &self,
        state: &State,
        dir: &Node,
        cookie: u64,
        with_objects: bool,
        visit: &mut dyn FnMut(&ListedEntry, Option<&Node>) -> bool,
    ) -> FsResult<(bool, u64)> {
        let listing = self.listing(state, dir)?;
        let version = lock(&*listing).version;
        let near = [
            (&b"."[..], SELF, dir.clone()),
            (b"..", PARENT, self.parent(state, dir)?),
        ];
        for (name, own, node) in near {
            if own <= cookie {
                continue;
            }
            let object = if with_objects {
                Some(self.object(state, &node)?)
            } else {
                None
            };
            let entry = ListedEntry {
                name: name.to_vec(),
                fileid: node.key().fileid(),
                cookie: own,
                object,
            };
            if !visit(&entry, with_objects.then_some(&node)) {
                return Ok((false, version));
            }
        }
        let mut after = cookie.max(PARENT);
        loop {
            let batch: Vec<(u64, Listed)> = lock(&*listing)
                .by_cookie
                .range(after.saturating_add(1)..)
                .take(BATCH)
                .map(|(&cookie, listed)| (cookie, listed.clone()))
                .collect();
            let last = batch.len() < BATCH;
            for (cookie, listed) in batch {
                after = cookie;
                let node = if with_objects {
                    self.listed_node(state, dir, &listed)?
                } else {
                    None
                };
                let object = node.as_ref().map(|node| self.object(state, node)).transpose()?;
                let entry = ListedEntry {
                    name: listed.name,
                    fileid: listed.key.fileid(),
                    cookie,
                    object,
                };
                if !visit(&entry, node.as_ref()) {
                    return Ok((false, version));
                }
            }
            if last {
                return Ok((true, version));
            }
        }
    }

    fn listed_node(&self, state: &State, dir: &Node, listed: &Listed) -> FsResult<Option<Node>> {
        Ok(if state.objects.contains_key(&listed.key) {
            Some(Node::Recorded(listed.key))
        } else if let Some(at) = self.lower.index(listed.key.layer).filter(|_| !listed.directory) {
            // It is in the listing, so nothing hides it: its name need not be looked for in every layer again.
            Some(Node::File(listed.key, at))
        } else {
            match self.seen_before(listed.key) {
                Some(node) => Some(node),
                None => self.child(state, dir, &listed.name)?,
            }
        })
    }

    /// The handle of the root, for callers without state.
    pub(crate) fn root_handle(&self) -> Handle {
        self.keys.seal(self.root)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
