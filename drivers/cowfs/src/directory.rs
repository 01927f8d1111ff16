//! A directory on a local or mounted file system as a read-only layer.
//!
//! Opening walks the directory once and keeps a snapshot of names and attributes in memory; only content is read from
//! the directory itself, later. Whoever changes the directory meanwhile changes nothing in the layer: new names do not
//! appear, removed ones stay (and give an error when read), and a file that has another size, time stamp or inode than it
//! had gives an error rather than a mixture. (Change times are not compared: a link or a `chmod` must not take a file away
//! from running guests. So content replaced in place under a forged time stamp goes unnoticed.) To see changes, open it again: that is another layer, of another id.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat, StatxFlags};

use crate::attr::{Attr, FileType, Time};
use crate::import::{
    Found, Here, ImportError, Limits, Questions, Visitor, ahead, is_unchanged, open_root, walk,
};
use crate::layer::{ContentHash, Entry, Layer, LayerError, LayerId, NamedEntry, NodeNumber, ROOT};
use crate::lend::Borrower;
use crate::template::{Encoded, Index, IndexError, Leaf, Meta, OpenFiles, TreeError, TreeId, read_full};
use crate::writable::disk::is_local;

/// Why a directory cannot be a layer.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be read, or holds something that no layer can hold.
    #[error("taking a snapshot")]
    Walk(#[source] Box<ImportError>),
    /// There is too much in it.
    #[error("making an index of the snapshot")]
    Tree(#[source] TreeError),
    /// Our own index was not accepted.
    #[error("opening the snapshot")]
    Index(#[source] IndexError),
}

/// A directory as it was when it was opened.
pub struct DirectoryLayer {
    root: OwnedFd,
    path: PathBuf,
    /// Opens what this process may not.
    borrower: Option<Arc<Borrower>>,
    index: Index,
    /// What was seen of each object; that of node 1 first.
    seen: Vec<Option<Stat>>,
    unreadable: Vec<PathBuf>,
    open: OpenFiles<NodeNumber>,
}

impl DirectoryLayer {
    /// Takes a snapshot of a directory. File systems mounted below it stay out: their mount points are empty.
    ///
    /// The layer's id is a digest over names, types, owners, modes, sizes, targets and time stamps (with nanoseconds).
    /// Copies that keep those have equal ids, on any machine.
    ///
    /// # Errors
    /// [`DirectoryError`], if any directory in it cannot be listed. Files that cannot be read are no error here: see
    /// [`DirectoryLayer::unreadable`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self, DirectoryError> {
        Self::open_with(path, limits, None)
    }

    /// As [`DirectoryLayer::open`]; files that this process may not read are borrowed, each when it is read. Directories are
    /// not: they must be readable.
    ///
    /// # Errors
    /// As [`DirectoryLayer::open`].
    pub fn open_with(
        path: &Path,
        limits: &Limits,
        borrower: Option<Arc<Borrower>>,
    ) -> Result<Self, DirectoryError> {
        let refused = |error| DirectoryError::Walk(Box::new(error));
        let (root, stat) = open_root(path).map_err(refused)?;
        let mut snapshot = Snapshot::default();
        // What somebody lends can be read.
        let questions = Questions::new(borrower.is_none(), limits);
        let walked = if is_local(&root) {
            walk(&Here(questions), &root, &stat, path, limits, &mut snapshot)
        } else {
            let stat = stat_now(&root).map_err(|source| {
                refused(ImportError::Read {
                    path: path.to_owned(),
                    source,
                })
            })?;
            ahead(&root, &stat, path, questions, limits, |ahead| {
                walk(ahead, &PathBuf::new(), &stat, path, limits, &mut snapshot)
            })
        };
        let tree = walked.map_err(refused)?;
        let Encoded { bytes, order } = tree.encode(true).map_err(DirectoryError::Tree)?;
        let index = Index::from_bytes(bytes).map_err(DirectoryError::Index)?;
        let mut by_id: std::collections::HashMap<TreeId, Stat> = snapshot.seen.into_iter().collect();
        Ok(Self {
            root,
            index,
            seen: order.iter().map(|id| by_id.remove(id)).collect(),
            unreadable: snapshot.unreadable,
            path: path.to_owned(),
            borrower,
            open: OpenFiles::new(),
        })
    }

    /// The files that could not be read when the snapshot was taken.
    #[must_use]
    pub fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }

    /// The snapshot.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    fn open_node(&self, node: NodeNumber) -> io::Result<File> {
        let mut names = Vec::new();
        let mut at = node;
        while at != ROOT {
            let place = self.index.place(at).map_err(io::Error::other)?;
            let (parent, name) = place
                .filter(|(parent, _)| *parent < at)
                .ok_or(io::ErrorKind::InvalidData)?;
            names.push(name);
            at = parent;
        }
        names.reverse();
        let path = names.join(&b'/');
        // Nothing leads out of the directory, whatever has become of it since.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(
            &self.root,
            OsStr::from_bytes(&path),
            flags,
            Mode::empty(),
            resolve,
        );
        match (opened, &self.borrower) {
            (Err(rustix::io::Errno::ACCESS), Some(borrower)) => borrower.open(&self.path, &path),
            (opened, _) => Ok(File::from(opened?)),
        }
    }
}

impl Layer for DirectoryLayer {
    fn id(&self) -> LayerId {
        self.index.id()
    }

    fn attr(&self, node: NodeNumber) -> Result<Attr, LayerError> {
        Ok(self.index.node(node)?.attr())
    }

    fn lookup(&self, dir: NodeNumber, name: &[u8]) -> Result<Option<Entry>, LayerError> {
        self.index.lookup(dir, name)
    }

    fn is_opaque(&self, dir: NodeNumber) -> Result<bool, LayerError> {
        Ok(self.index.node(dir)?.opaque)
    }

    fn is_implied(&self, dir: NodeNumber) -> Result<bool, LayerError> {
        Ok(self.index.node(dir)?.implied)
    }

    fn entries(&self, dir: NodeNumber) -> Result<Vec<NamedEntry>, LayerError> {
        self.index.list(dir)
    }

    fn place(&self, node: NodeNumber) -> Result<Option<(NodeNumber, Vec<u8>)>, LayerError> {
        self.index.place(node)
    }

    fn read(&self, node: NodeNumber, offset: u64, buf: &mut [u8]) -> Result<usize, LayerError> {
        let layer = self.id();
        let failed = |source| LayerError::Io { layer, source };
        let record = self.index.node(node)?;
        let seen = usize::try_from(node)
            .ok()
            .and_then(|node| self.seen.get(node - 1));
        let (FileType::Regular, Some(Some(seen))) = (record.file_type, seen) else {
            return Err(LayerError::NoSuchNode { layer, node });
        };
        let left = usize::try_from(record.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let spread = usize::try_from(node).unwrap_or(0);
        let file = self
            .open
            .get(node, spread, || self.open_node(node))
            .map_err(failed)?;
        let count = read_full(&file, offset, &mut buf[..wanted]).map_err(failed)?;
        // Looking afterwards covers all that happened before.
        let now = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        if count < wanted || !is_unchanged(seen, &now) {
            return Err(self
                .index
                .damaged("a file has changed since the snapshot was taken"));
        }
        Ok(count)
    }

    fn readlink(&self, node: NodeNumber) -> Result<Vec<u8>, LayerError> {
        self.index.target(node)
    }

    fn content(&self, node: NodeNumber) -> Result<Option<ContentHash>, LayerError> {
        self.index.node(node).map(|_| None)
    }
}

/// What its server says of a directory now: on a mount with `nocto` opening it has asked nobody.
fn stat_now(dir: &OwnedFd) -> io::Result<Stat> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(dir, "", flags, StatxFlags::BASIC_STATS)?;
    Ok(rustix::fs::fstat(dir)?)
}

#[derive(Default)]
struct Snapshot {
    seen: Vec<(TreeId, Stat)>,
    unreadable: Vec<PathBuf>,
}

impl<D> Visitor<D> for Snapshot {
    fn regular(&mut self, found: &Found<'_, D>) -> Result<Leaf, ImportError> {
        if !found.is_readable {
            self.unreadable.push(found.path.to_owned());
        }
        Ok(Leaf::Regular {
            size: u64::try_from(found.stat.st_size).unwrap_or(0),
            content: ContentHash([0; 32]),
        })
    }

    fn placed(&mut self, id: TreeId, stat: &Stat) -> Result<(), ImportError> {
        self.seen.push((id, *stat));
        Ok(())
    }

    fn meta(&self, stat: &Stat) -> Meta {
        Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time {
                seconds: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999),
            },
        }
    }
}
