//! A directory of the host as a tree, without ever following a symbolic link.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType as HostType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{ImportError, Imported, Limits, Progress, implied_root};
use crate::attr::{Device, FileType, Time};
use crate::template::{Leaf, Meta, StageError, Staging, Tree, TreeId};
use crate::whiteout::{self, OciName};

/// A regular file that the walk has come to.
pub(crate) struct Found<'a> {
    /// The directory it lies in.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its name there.
    pub(crate) name: &'a OsStr,
    /// Where that is, for messages.
    pub(crate) path: &'a Path,
    /// What was seen of it.
    pub(crate) stat: &'a Stat,
}

/// What is done with what a walk finds.
pub(crate) trait Visitor {
    /// Makes a leaf of a regular file.
    fn regular(&mut self, file: &Found<'_>) -> Result<Leaf, ImportError>;

    /// Told of every object, once it has its place in the tree.
    fn placed(&mut self, id: TreeId, stat: &Stat) -> Result<(), ImportError>;

    /// Owner and time stamp as they go into the tree.
    fn meta(&self, stat: &Stat) -> Meta;
}

/// Walks everything below `root`, which is `path`, on the same file system.
pub(crate) fn walk(
    root: &OwnedFd,
    path: &Path,
    limits: &Limits,
    visitor: &mut dyn Visitor,
) -> Result<Tree, ImportError> {
    let stat = rustix::fs::fstat(root).map_err(|error| unreadable(path, error))?;
    let mut walk = Walk {
        tree: Tree::new(implied_root()),
        device: stat.st_dev,
        linked: BTreeMap::new(),
        entries: 0,
        limits,
        visitor,
    };
    walk.tree.describe(Tree::ROOT, walk.visitor.meta(&stat));
    walk.visitor.placed(Tree::ROOT, &stat)?;
    walk.directory(root.as_fd(), path, Tree::ROOT, 0)?;
    Ok(walk.tree)
}

/// Opens the directory a walk begins at; a symlink there is followed, since a person named it.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, ImportError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unreadable(path, error))
}

struct Walk<'a> {
    tree: Tree,
    device: u64,
    /// Objects with more names than one, by device and inode.
    linked: BTreeMap<(u64, u64), TreeId>,
    entries: u64,
    limits: &'a Limits,
    visitor: &'a mut dyn Visitor,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        fd: BorrowedFd<'_>,
        path: &Path,
        id: TreeId,
        depth: usize,
    ) -> Result<(), ImportError> {
        let failed = |error| unreadable(path, error);
        if attribute_is(fd, &whiteout::OVERLAYFS_OPAQUE, Some(b"y")).map_err(failed)? {
            self.tree.set_opaque(id).map_err(|source| member(path, source))?;
        }
        refuse_incomplete(fd, path)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.entries += 1;
                if self.entries > self.limits.entries_max {
                    return Err(ImportError::Limit("too many files in the directory"));
                }
                names.push(name.to_vec());
            }
        }
        names.sort();
        for name in names {
            let name = OsStr::from_bytes(&name);
            self.object(fd, name, &path.join(name), id, depth)?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        parent: TreeId,
        depth: usize,
    ) -> Result<(), ImportError> {
        let failed = |error| unreadable(path, error);
        let wrong = |source| member(path, source);
        let bytes = name.as_bytes();
        match whiteout::oci_name(bytes) {
            OciName::Plain => {}
            OciName::Whiteout(name) => return self.tree.whiteout(parent, name).map_err(wrong),
            OciName::Opaque => return self.tree.set_opaque(parent).map_err(wrong),
            OciName::Bookkeeping => return Ok(()),
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let host_type = HostType::from_raw_mode(stat.st_mode);
        let key = (stat.st_dev, stat.st_ino);
        let has_other_names = stat.st_nlink > 1 && host_type != HostType::Directory;
        if has_other_names && let Some(&target) = self.linked.get(&key) {
            return self.tree.link(parent, bytes, target).map_err(wrong);
        }
        let meta = self.visitor.meta(&stat);
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
                self.visitor.placed(id, &stat)?;
                if stat.st_dev != self.device {
                    return Ok(());
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(failed)?;
                return self.directory(fd.as_fd(), path, id, depth + 1);
            }
            HostType::CharacterDevice if whiteout::is_overlayfs_whiteout(FileType::Character, device) => {
                return self.tree.whiteout(parent, bytes).map_err(wrong);
            }
            HostType::RegularFile => self.visitor.regular(&Found {
                dir,
                name,
                path,
                stat: &stat,
            })?,
            HostType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(failed)?;
                Leaf::Symlink(target.into_bytes())
            }
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
        self.visitor.placed(id, &stat)
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
    let root = open_root(path)?;
    let mut import = DirectoryImport {
        owner,
        staging,
        done: Progress::default(),
        progress,
    };
    let tree = walk(&root, path, limits, &mut import)?;
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

impl Visitor for DirectoryImport<'_> {
    fn regular(&mut self, found: &Found<'_>) -> Result<Leaf, ImportError> {
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

/// Refuses what overlayfs completes from another layer under another path: by itself it has no meaning.
fn refuse_incomplete(fd: BorrowedFd<'_>, path: &Path) -> Result<(), ImportError> {
    let incomplete = attribute_is(fd, &whiteout::OVERLAYFS_INCOMPLETE, None);
    if incomplete.map_err(|error| unreadable(path, error))? {
        return Err(ImportError::Refused {
            path: path.to_owned(),
            what: "a layer of overlayfs with redirects or metadata-only copies: merge it first",
        });
    }
    Ok(())
}

/// Whether one of these extended attributes is there (and, if given, has this value). Attributes that may not be read
/// or that the file system does not know are not there.
fn attribute_is(fd: BorrowedFd<'_>, names: &[&str], value: Option<&[u8]>) -> Result<bool, Errno> {
    let mut found = [0; 16];
    for name in names {
        match rustix::fs::fgetxattr(fd, *name, &mut found) {
            Ok(len) if value.is_none_or(|value| found.get(..len) == Some(value)) => return Ok(true),
            // Longer than what we compare with.
            Err(Errno::RANGE) if value.is_none() => return Ok(true),
            Ok(_)
            | Err(
                Errno::RANGE | Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSYS,
            ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn unreadable(path: &Path, error: Errno) -> ImportError {
    ImportError::Read {
        path: path.to_owned(),
        source: io::Error::from(error),
    }
}

fn member(path: &Path, source: crate::template::TreeError) -> ImportError {
    ImportError::Member {
        path: PathBuf::from(path),
        source,
    }
}
