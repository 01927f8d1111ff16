//! What is asked of a directory of the host: its names, what each of them is, and how overlayfs has marked it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{ImportError, Limits};
use crate::whiteout::{self, OciName};

/// Looks at directories for a walk, in the order in which the walk comes to them.
pub(crate) trait Look {
    /// A directory that the walk is in.
    type Dir;

    /// What there is in it. It is asked for once.
    fn list(&self, dir: &Self::Dir, path: &Path) -> Result<Listing, ImportError>;

    /// The directory of this name in it, which was listed there as one.
    fn enter(&self, dir: &Self::Dir, name: &OsStr, path: &Path) -> Result<Self::Dir, ImportError>;
}

/// What there is in a directory.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Whether overlayfs says that it hides all that is below it.
    pub(super) is_opaque: bool,
    /// In the order of the names.
    pub(super) names: Vec<Named>,
}

/// One name.
#[derive(Debug)]
pub(crate) struct Named {
    pub(super) name: OsString,
    pub(super) what: What,
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum What {
    /// The name says that this one is deleted.
    Whiteout(Vec<u8>),
    /// The name says that the directory hides all below it.
    Opaque,
    /// Nothing that belongs to the tree.
    Nothing,
    /// What was found under it.
    Object(Box<Seen>),
}

/// An object, as it was found.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(super) stat: Stat,
    /// Of a symbolic link.
    pub(super) target: Vec<u8>,
    /// Of a regular file: `false` where this process may not read it. Without [`Questions::access`] nobody asks.
    pub(super) is_readable: bool,
}

/// What is asked, and how much there may be.
#[derive(Debug)]
pub(crate) struct Questions {
    /// Whether files may be read: over a network a question more for each of them.
    access: bool,
    entries: AtomicU64,
    entries_max: u64,
}

impl Questions {
    pub(crate) fn new(access: bool, limits: &Limits) -> Self {
        Self {
            access,
            entries: AtomicU64::new(0),
            entries_max: limits.entries_max,
        }
    }

    /// All names in a directory.
    pub(super) fn names(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>, ImportError> {
        let failed = |error| unreadable(path, error);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                if self.entries.fetch_add(1, Ordering::Relaxed) >= self.entries_max {
                    return Err(ImportError::Limit("too many files in the directory"));
                }
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// What has this name in a directory.
    pub(super) fn see(&self, dir: BorrowedFd<'_>, name: OsString, path: &Path) -> Result<Named, ImportError> {
        let what = match whiteout::oci_name(name.as_bytes()) {
            OciName::Plain => What::Object(Box::new(self.object(dir, &name, path)?)),
            OciName::Whiteout(hidden) => What::Whiteout(hidden.to_vec()),
            OciName::Opaque => What::Opaque,
            OciName::Bookkeeping => What::Nothing,
        };
        Ok(Named { name, what })
    }

    fn object(&self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Seen, ImportError> {
        let failed = |error| unreadable(&path.join(name), error);
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let (mut target, mut is_readable) = (Vec::new(), true);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let read = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(failed)?;
                target = read.into_bytes();
            }
            FileType::RegularFile if self.access => {
                let may = rustix::fs::accessat(dir, name, Access::READ_OK, AtFlags::EACCESS);
                is_readable = may.is_ok();
            }
            _ => {}
        }
        Ok(Seen {
            stat,
            target,
            is_readable,
        })
    }
}

/// Looks when it is asked.
#[derive(Debug)]
pub(crate) struct Here(pub(crate) Questions);

impl Look for Here {
    type Dir = OwnedFd;

    fn list(&self, dir: &OwnedFd, path: &Path) -> Result<Listing, ImportError> {
        let dir = dir.as_fd();
        let is_opaque = is_marked_opaque(dir, path)?;
        let names = self.0.names(dir, path)?.into_iter();
        Ok(Listing {
            is_opaque,
            names: names
                .map(|name| self.0.see(dir, name, path))
                .collect::<Result<_, _>>()?,
        })
    }

    fn enter(&self, dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, ImportError> {
        enter(dir.as_fd(), name, path)
    }
}

/// Opens a directory in another.
pub(super) fn enter(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<OwnedFd, ImportError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|error| unreadable(path, error))
}

/// Whether overlayfs says of a directory that it hides all below it. One that it completes from elsewhere is refused.
pub(super) fn is_marked_opaque(dir: BorrowedFd<'_>, path: &Path) -> Result<bool, ImportError> {
    let failed = |error| unreadable(path, error);
    let marks = Marks::of(dir).map_err(failed)?;
    marks.refuse_incomplete(dir, path)?;
    marks
        .has(dir, &whiteout::OVERLAYFS_OPAQUE, Some(b"y"))
        .map_err(failed)
}

/// Refuses what overlayfs completes from another layer under another path: by itself it has no meaning.
pub(super) fn refuse_incomplete(fd: BorrowedFd<'_>, path: &Path) -> Result<(), ImportError> {
    let marks = Marks::of(fd).map_err(|error| unreadable(path, error))?;
    marks.refuse_incomplete(fd, path)
}

/// Longest list of names of extended attributes (`XATTR_LIST_MAX`).
const NAMES_LEN_MAX: usize = 64 << 10;

/// The names of an object's extended attributes: one question, where asking for each of ours would be six.
enum Marks {
    /// These, each with a zero behind it.
    Named(Vec<u8>),
    /// Too many to be told.
    Unknown,
}

impl Marks {
    fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut names = vec![0; 512];
        loop {
            match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
                Ok(len) => {
                    names.truncate(len);
                    return Ok(Self::Named(names));
                }
                Err(Errno::RANGE) if names.len() < NAMES_LEN_MAX => names.resize(NAMES_LEN_MAX, 0),
                Err(Errno::RANGE | Errno::TOOBIG) => return Ok(Self::Unknown),
                Err(error) if is_absence(error) => return Ok(Self::Named(Vec::new())),
                Err(error) => return Err(error),
            }
        }
    }

    fn refuse_incomplete(&self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), ImportError> {
        let incomplete = self.has(fd, &whiteout::OVERLAYFS_INCOMPLETE, None);
        if incomplete.map_err(|error| unreadable(path, error))? {
            return Err(ImportError::Refused {
                path: path.to_owned(),
                what: "a layer of overlayfs with redirects or metadata-only copies: merge it first",
            });
        }
        Ok(())
    }

    /// Whether one of these is there (and, if given, has this value).
    fn has(&self, fd: BorrowedFd<'_>, names: &[&str], value: Option<&[u8]>) -> Result<bool, Errno> {
        let mut found = [0; 16];
        for name in names {
            if let Self::Named(all) = self
                && !all.split(|byte| *byte == 0).any(|one| one == name.as_bytes())
            {
                continue;
            }
            match rustix::fs::fgetxattr(fd, *name, &mut found) {
                Ok(len) if value.is_none_or(|value| found.get(..len) == Some(value)) => return Ok(true),
                // Longer than what we compare with.
                Err(Errno::RANGE) if value.is_none() => return Ok(true),
                Ok(_) | Err(Errno::RANGE) => {}
                Err(error) if is_absence(error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// Attributes that may not be read, or that the file system does not know, are not there.
fn is_absence(error: Errno) -> bool {
    matches!(
        error,
        Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSYS
    )
}

pub(super) fn unreadable(path: &Path, error: Errno) -> ImportError {
    ImportError::Read {
        path: path.to_owned(),
        source: io::Error::from(error),
    }
}
