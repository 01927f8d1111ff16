//! A directory of the host as a tree, without ever following a symbolic link.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType as HostType, Mode, OFlags, Stat};

use super::look::{Here, Listing, Look, Named, Questions, What, refuse_incomplete, unreadable};
use super::{ImportError, Imported, Limits, Progress, implied_root};
use crate::attr::{Device, FileType, Time};
use crate::template::{Leaf, Meta, StageError, Staging, Tree, TreeId};
use crate::whiteout;

/// A regular file that the walk has come to.
pub(crate) struct Found<'a, D> {
    /// The directory it lies in.
    pub(crate) dir: &'a D,
    /// Its name there.
    pub(crate) name: &'a OsStr,
    /// Where that is, for messages.
    pub(crate) path: &'a Path,
    /// What was seen of it.
    pub(crate) stat: &'a Stat,
    /// `false`: it was asked whether it may be read, and it may not.
    pub(crate) is_readable: bool,
}

/// What is done with what a walk finds.
pub(crate) trait Visitor<D> {
    /// Makes a leaf of a regular file.
    fn regular(&mut self, file: &Found<'_, D>) -> Result<Leaf, ImportError>;

    /// Told of every object, once it has its place in the tree.
    fn placed(&mut self, id: TreeId, stat: &Stat) -> Result<(), ImportError>;

    /// Owner and time stamp as they go into the tree.
    fn meta(&self, stat: &Stat) -> Meta;
}

/// Walks everything in the directory `root`, which is `path` and was found to be `stat`, on the same file system.
pub(crate) fn walk<L: Look>(
    look: &L,
    root: &L::Dir,
    stat: &Stat,
    path: &Path,
    limits: &Limits,
    visitor: &mut dyn Visitor<L::Dir>,
) -> Result<Tree, ImportError> {
    let mut walk = Walk {
        look,
        tree: Tree::new(implied_root()),
        device: stat.st_dev,
        linked: BTreeMap::new(),
        limits,
        visitor,
    };
    walk.tree.describe(Tree::ROOT, walk.visitor.meta(stat));
    walk.visitor.placed(Tree::ROOT, stat)?;
    walk.directory(root, path, Tree::ROOT, 0)?;
    Ok(walk.tree)
}

/// Opens the directory a walk begins at; a symlink there is followed, since a person named it.
pub(crate) fn open_root(path: &Path) -> Result<(OwnedFd, Stat), ImportError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unreadable(path, error))?;
    let stat = rustix::fs::fstat(&root).map_err(|error| unreadable(path, error))?;
    Ok((root, stat))
}

struct Walk<'a, L: Look> {
    look: &'a L,
    tree: Tree,
    device: u64,
    /// Objects with more names than one, by device and inode.
    linked: BTreeMap<(u64, u64), TreeId>,
    limits: &'a Limits,
    visitor: &'a mut dyn Visitor<L::Dir>,
}

impl<L: Look> Walk<'_, L> {
    fn directory(&mut self, dir: &L::Dir, path: &Path, id: TreeId, depth: usize) -> Result<(), ImportError> {
        let Listing { is_opaque, names } = self.look.list(dir, path)?;
        if is_opaque {
            self.tree.set_opaque(id).map_err(|source| member(path, source))?;
        }
        for named in names {
            let path = path.join(&named.name);
            self.object(dir, &named, &path, id, depth)?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        dir: &L::Dir,
        named: &Named,
        path: &Path,
        parent: TreeId,
        depth: usize,
    ) -> Result<(), ImportError> {
        let wrong = |source| member(path, source);
        let name = named.name.as_os_str();
        let bytes = name.as_bytes();
        let seen = match &named.what {
            What::Object(seen) => seen,
            What::Whiteout(hidden) => return self.tree.whiteout(parent, hidden).map_err(wrong),
            What::Opaque => return self.tree.set_opaque(parent).map_err(wrong),
            What::Nothing => return Ok(()),
        };
        let stat = &seen.stat;
        let host_type = HostType::from_raw_mode(stat.st_mode);
        let key = (stat.st_dev, stat.st_ino);
        let has_other_names = stat.st_nlink > 1 && host_type != HostType::Directory;
        if has_other_names && let Some(&target) = self.linked.get(&key) {
            return self.tree.link(parent, bytes, target).map_err(wrong);
        }
        let meta = self.visitor.meta(stat);
        let device = Device {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        };
        let leaf = match host_type {
            HostType::Directory => {
                if depth + 1 > self.limits.depth_max {
                    return Err(ImportError::Limit("directories are too deep within each other"));
                }
                let id = self.tree.directory(parent, bytes, meta).map_err(wrong)?;
                self.visitor.placed(id, stat)?;
                if stat.st_dev != self.device {
                    return Ok(());
                }
                let dir = self.look.enter(dir, name, path)?;
                return self.directory(&dir, path, id, depth + 1);
            }
            HostType::CharacterDevice if whiteout::is_overlayfs_whiteout(FileType::Character, device) => {
                return self.tree.whiteout(parent, bytes).map_err(wrong);
            }
            HostType::RegularFile => self.visitor.regular(&Found {
                dir,
                name,
                path,
                stat,
                is_readable: seen.is_readable,
            })?,
            HostType::Symlink => Leaf::Symlink(seen.target.clone()),
            HostType::BlockDevice => Leaf::Block(device),
            HostType::CharacterDevice => Leaf::Character(device),
            HostType::Fifo => Leaf::Fifo,
            HostType::Socket => Leaf::Socket,
            HostType::Unknown => {
                return Err(ImportError::Refused {
                    path: path.to_owned(),
                    what: "a file of an unknown type",
                });
            }
        };
        let id = self.tree.leaf(parent, bytes, meta, leaf).map_err(wrong)?;
        if has_other_names {
            self.linked.insert(key, id);
        }
        self.visitor.placed(id, stat)
    }
}

/// Imports a directory.
pub(super) fn import(
    path: &Path,
    owner: Option<(u32, u32)>,
    limits: &Limits,
    staging: &mut Staging,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Imported, ImportError> {
    let (root, stat) = open_root(path)?;
    let mut import = DirectoryImport {
        owner,
        staging,
        done: Progress::default(),
        progress,
    };
    let look = Here(Questions::new(false, limits));
    let tree = walk(&look, &root, &stat, path, limits, &mut import)?;
    Ok(Imported {
        tree,
        progress: import.done,
        skipped: 0,
    })
}

struct DirectoryImport<'a> {
    owner: Option<(u32, u32)>,
    staging: &'a mut Staging,
    done: Progress,
    progress: &'a mut dyn FnMut(&Progress),
}

impl Visitor<OwnedFd> for DirectoryImport<'_> {
    fn regular(&mut self, found: &Found<'_, OwnedFd>) -> Result<Leaf, ImportError> {
        let failed = |error| unreadable(found.path, error);
        let changed = || ImportError::Changed {
            path: found.path.to_owned(),
        };
        // Without O_NONBLOCK, a pipe that took the file's place would hold us up for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(found.dir, found.name, flags, Mode::empty()).map_err(failed)?;
        if !is_unchanged(found.stat, &rustix::fs::fstat(&fd).map_err(failed)?) {
            return Err(changed());
        }
        refuse_incomplete(fd.as_fd(), found.path)?;
        let mut file = File::from(fd);
        let (content, size) = self.staging.content(&mut file).map_err(|error| match error {
            StageError::Source(source) => ImportError::Read {
                path: found.path.to_owned(),
                source,
            },
            other => other.into(),
        })?;
        let after = rustix::fs::fstat(&file).map_err(failed)?;
        if !is_unchanged(found.stat, &after) || u64::try_from(after.st_size) != Ok(size) {
            return Err(changed());
        }
        self.done.bytes += size;
        Ok(Leaf::Regular { size, content })
    }

    fn placed(&mut self, _: TreeId, _: &Stat) -> Result<(), ImportError> {
        self.done.entries += 1;
        (self.progress)(&self.done);
        Ok(())
    }

    fn meta(&self, stat: &Stat) -> Meta {
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Meta {
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            // Whole seconds, as in archives.
            mtime: Time {
                seconds: stat.st_mtime,
                nanos: 0,
            },
        }
    }
}

/// Whether two looks at a file saw the same one with the same content, as far as one can tell without reading it.
pub(crate) fn is_unchanged(before: &Stat, after: &Stat) -> bool {
    (
        before.st_dev,
        before.st_ino,
        before.st_mode,
        before.st_size,
        before.st_mtime,
        before.st_mtime_nsec,
    ) == (
        after.st_dev,
        after.st_ino,
        after.st_mode,
        after.st_size,
        after.st_mtime,
        after.st_mtime_nsec,
    )
}

fn member(path: &Path, source: crate::template::TreeError) -> ImportError {
    ImportError::Member {
        path: PathBuf::from(path),
        source,
    }
}
