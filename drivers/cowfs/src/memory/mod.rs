//! A file system in memory: the plainest possible [`FileService`].
//!
//! It is the oracle that a real stack is tested against, so it shares no code with one and prefers being obviously
//! right to being fast: one lock, one map of objects by number, one ordered map of names for each directory. It also
//! serves where nothing need be kept.

mod content;
mod node;
mod service;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::attr::{Device, FileType, SetAttr, SetTime, Time};
use crate::service::{
    Around, Before, CallKey, Caller, Changed, CreateMode, FileService, FsResult, FsStat, Handle, InDirectory,
    ListedEntry, Object, ReadOutcome, Renamed, Replayed, Special, Stability, Status, Ticket, WriteVerifier,
    Written, access,
};

use content::Content;
use node::{Body, Directory, EXECUTE, Node, READ, SETGID, STICKY, WRITE};

/// Number of the root directory.
const ROOT: u64 = 1;

/// Bytes and objects FSSTAT claims there are.
const TOTAL: u64 = 1 << 40;

/// The largest file: what a signed offset can say.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// A tree in memory.
#[derive(Debug)]
pub struct Memory {
    tree: Mutex<Tree>,
    verifier: WriteVerifier,
}

#[derive(Debug)]
struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Objects made by calls that must not run twice; `None` for calls that make none.
    done: HashMap<CallKey, Option<u64>>,
    now: Time,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty tree: a root directory of uid 0, mode 0755.
    #[must_use]
    pub fn new() -> Self {
        let now = clock();
        let root = Node {
            mode: 0o755,
            uid: 0,
            gid: 0,
            atime: now,
            mtime: now,
            ctime: now,
            body: Body::Directory(Directory::new(ROOT)),
            links: 2,
            verifier: None,
        };
        Self {
            tree: Mutex::new(Tree {
                nodes: BTreeMap::from([(ROOT, root)]),
                next: ROOT + 1,
                done: HashMap::new(),
                now,
            }),
            // Differs from start to start, which is all it is for.
            verifier: (now.seconds ^ (i64::from(now.nanos) << 32)).to_be_bytes(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tree> {
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        // Never backwards, so that ctime orders changes.
        tree.now = tree.now.max(clock());
        tree
    }
}

fn clock() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}

fn handle_of(number: u64) -> Handle {
    Handle::new(&number.to_be_bytes()).expect("8 bytes fit")
}

/// There is nothing to wait for.
fn changed<T>(value: T) -> Changed<T> {
    Changed {
        value,
        ticket: Ticket(0),
    }
}

/// Refuses names that can never be in a directory. `.` and `..` are for the callers.
fn check_name(name: &[u8]) -> FsResult<()> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        Err(Status::Inval)
    } else if name.len() > 255 {
        Err(Status::NameTooLong)
    } else {
        Ok(())
    }
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

impl Tree {
    fn number(&self, handle: &Handle) -> FsResult<u64> {
        let bytes = handle.as_bytes().try_into().map_err(|_| Status::BadHandle)?;
        let number = u64::from_be_bytes(bytes);
        if self.nodes.contains_key(&number) {
            Ok(number)
        } else if number == 0 || number >= self.next {
            Err(Status::BadHandle)
        } else {
            Err(Status::Stale)
        }
    }

    /// A node that is known to be there.
    fn node(&self, number: u64) -> &Node {
        &self.nodes[&number]
    }

    fn node_mut(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).expect("number of a live node")
    }

    fn object(&self, number: u64) -> Object {
        Object {
            handle: handle_of(number),
            fileid: number,
            attr: self.node(number).attr(),
        }
    }

    fn before(&self, number: u64) -> Before {
        let attr = self.node(number).attr();
        Before {
            size: attr.size,
            mtime: attr.mtime,
            ctime: attr.ctime,
        }
    }

    fn around(&self, number: u64, before: Before) -> Around {
        Around {
            before,
            after: self.object(number),
        }
    }

    fn directory(&self, number: u64) -> FsResult<&Directory> {
        match &self.node(number).body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Status::NotDir),
        }
    }

    fn directory_mut(&mut self, number: u64) -> &mut Directory {
        match &mut self.node_mut(number).body {
            Body::Directory(directory) => directory,
            _ => unreachable!("checked to be a directory before"),
        }
    }

    fn is_directory(&self, number: u64) -> bool {
        matches!(self.node(number).body, Body::Directory(_))
    }

    /// Looks `name` up in `dir`, `.` and `..` included; needs execute permission.
    fn find(&self, caller: &Caller, dir: u64, name: &[u8]) -> FsResult<Option<u64>> {
        let directory = self.directory(dir)?;
        check_name(name)?;
        self.node(dir).check(caller, EXECUTE)?;
        Ok(match name {
            b"." => Some(dir),
            b".." => Some(directory.parent),
            name => directory.get(name),
        })
    }

    /// Whether the caller may take `child` out of `dir`: write permission, and in a sticky directory only for the
    /// owner of either (unlink(2), EPERM).
    fn check_removal(&self, caller: &Caller, dir: u64, child: u64) -> FsResult<()> {
        let (dir, child) = (self.node(dir), self.node(child));
        dir.check(caller, WRITE | EXECUTE)?;
        if dir.mode & STICKY != 0 && caller.uid != 0 && caller.uid != dir.uid && caller.uid != child.uid {
            return Err(Status::Perm);
        }
        Ok(())
    }

    fn touch_directory(&mut self, dir: u64) {
        let now = self.now;
        let node = self.node_mut(dir);
        node.mtime = now;
        node.ctime = now;
    }

    /// Puts an existing node under a new name.
    fn attach(&mut self, dir: u64, name: &[u8], child: u64) {
        self.directory_mut(dir).insert(name, child);
        if self.is_directory(child) {
            self.directory_mut(child).parent = dir;
            self.node_mut(dir).links += 1;
        }
        self.touch_directory(dir);
    }

    /// Takes a name away; the node it stood for stays.
    fn detach(&mut self, dir: u64, name: &[u8], child: u64) {
        self.directory_mut(dir).remove(name);
        if self.is_directory(child) {
            self.node_mut(dir).links -= 1;
        }
        self.touch_directory(dir);
    }

    /// One name of `number` is gone; with the last one the node goes.
    fn unlink(&mut self, number: u64) {
        let now = self.now;
        let node = self.node_mut(number);
        node.ctime = now;
        if matches!(node.body, Body::Directory(_)) {
            node.links = 0;
        } else {
            node.links -= 1;
        }
        if node.links == 0 {
            self.nodes.remove(&number);
        }
    }

    /// Remembers what a call that must not run twice has made.
    fn remember(&mut self, key: Option<CallKey>, made: Option<u64>) {
        if let Some(key) = key {
            self.done.insert(key, made);
        }
    }

    /// Makes an object: everything that CREATE, MKDIR, SYMLINK and MKNOD have in common.
    fn make(
        &mut self,
        caller: &Caller,
        key: Option<CallKey>,
        dir: u64,
        name: &[u8],
        body: Body,
        set: &SetAttr,
    ) -> FsResult<InDirectory> {
        if self.find(caller, dir, name)?.is_some() {
            return Err(Status::Exist);
        }
        let parent = self.node(dir);
        parent.check(caller, WRITE | EXECUTE)?;
        if let Body::Special(special) = &body
            && matches!(special.file_type, FileType::Block | FileType::Character)
            && caller.uid != 0
        {
            return Err(Status::Perm);
        }
        let is_directory = matches!(body, Body::Directory(_));
        let default_mode = if matches!(body, Body::Symlink(_)) {
            0o777
        } else {
            0
        };
        let mut mode = set.mode.unwrap_or(default_mode);
        let mut gid = caller.gid;
        if parent.mode & SETGID != 0 {
            gid = parent.gid;
            if is_directory {
                mode |= SETGID;
            }
        }
        // Only root may give a new object away (as Linux's server does it: others' wishes are ignored, not refused).
        let (mut uid, is_root) = (caller.uid, caller.uid == 0);
        if is_root {
            uid = set.uid.unwrap_or(uid);
            gid = set.gid.unwrap_or(gid);
        } else if !is_directory && mode & SETGID != 0 && !caller.in_group(gid) {
            mode &= !SETGID;
        }
        let now = self.now;
        let stamp = |wanted: SetTime| match wanted {
            SetTime::Client(time) => time,
            SetTime::Keep | SetTime::ServerNow => now,
        };
        let number = self.next;
        self.next += 1;
        let before = self.before(dir);
        let node = Node {
            mode,
            uid,
            gid,
            atime: stamp(set.atime),
            mtime: stamp(set.mtime),
            ctime: now,
            links: if is_directory { 2 } else { 1 },
            body,
            verifier: None,
        };
        self.nodes.insert(number, node);
        self.attach(dir, name, number);
        self.remember(key, Some(number));
        Ok(InDirectory {
            dir: self.around(dir, before),
            made: Some(self.object(number)),
        })
    }

    /// Sets the length of a regular file.
    fn resize(&mut self, number: u64, size: u64) -> FsResult<()> {
        if size > SIZE_MAX {
            return Err(Status::FBig);
        }
        let now = self.now;
        let node = self.node_mut(number);
        match &mut node.body {
            Body::Regular(content) => content.resize(size),
            Body::Directory(_) => return Err(Status::IsDir),
            _ => return Err(Status::Inval),
        }
        node.mtime = now;
        node.ctime = now;
        Ok(())
    }

    /// Whether `inner` is `outer` or below it.
    fn is_within(&self, mut inner: u64, outer: u64) -> bool {
        loop {
            if inner == outer {
                return true;
            }
            match &self.node(inner).body {
                Body::Directory(directory) if inner != ROOT => inner = directory.parent,
                _ => return false,
            }
        }
    }
}
