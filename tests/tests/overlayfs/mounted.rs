//! The kernel's overlayfs over the layers.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, makedev,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::op::{Op, ROOT, SetTo, Who};
use crate::view::{Kind, Shown, Tree, When, tie};

/// Names stay names of one file through copy-up, and directories of lower layers can be renamed.
pub(crate) const FULL: &str = "index=on,redirect_dir=on,metacopy=off";

/// A mount of overlayfs.
pub(crate) struct Mounted {
    at: PathBuf,
    options: CString,
}

impl Mounted {
    /// Mounts `layers` (nearest first) under an upper directory in `dir`, with all that makes overlayfs a better one.
    pub(crate) fn new(dir: &Path, layers: &[PathBuf]) -> io::Result<Self> {
        Self::with(dir, layers, FULL)
    }

    /// Mounts with these options.
    pub(crate) fn with(dir: &Path, layers: &[PathBuf], options: &str) -> io::Result<Self> {
        for name in ["upper", "work", "merged"] {
            fs::create_dir_all(dir.join(name))?;
        }
        // The merged root is the upper directory, where overlayfs finds attributes: it begins as the nearest layer's.
        crate::layers::copy_meta(&layers[0], &dir.join("upper"))?;
        let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},{options}",
            lower.join(":"),
            dir.join("upper").display(),
            dir.join("work").display()
        );
        let mounted = Self {
            at: dir.join("merged"),
            options: CString::new(options)?,
        };
        mounted.mount()?;
        Ok(mounted)
    }

    fn mount(&self) -> io::Result<()> {
        mount(
            "overlay",
            &self.at,
            "overlay",
            MountFlags::NOATIME | MountFlags::NODEV,
            Some(self.options.as_c_str()),
        )
        .map_err(|error| io::Error::other(format!("mounting overlayfs ({:?}): {error}", self.options)))
    }

    /// Unmounts and mounts again.
    pub(crate) fn restart(&self) -> io::Result<()> {
        unmount(&self.at, UnmountFlags::empty())?;
        self.mount()
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() {
            self.at.clone()
        } else {
            self.at.join(OsStr::from_bytes(path))
        }
    }

    /// Does it, in a thread that has become the one who does it.
    pub(crate) fn apply(&self, who: Who, op: &Op) -> Result<(), Errno> {
        if who == ROOT {
            return self.perform(op);
        }
        std::thread::scope(|scope| {
            let deed = scope.spawn(|| {
                let groups: Vec<Gid> = who.group.into_iter().map(Gid::from_raw).collect();
                set_thread_groups(&groups)?;
                set_thread_gid(Gid::from_raw(who.gid))?;
                set_thread_uid(Uid::from_raw(who.uid))?;
                self.perform(op)
            });
            deed.join().unwrap_or(Err(Errno::IO))
        })
    }

    fn perform(&self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Create { path, mode } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                rustix::fs::openat(CWD, self.path(path), flags, Mode::from_raw_mode(*mode)).map(drop)
            }
            Op::Write { path, at, len, byte } => {
                let open = plain(self.open_to_write(path))?;
                plain(open.write_all_at(&vec![*byte; *len], *at))
            }
            Op::Truncate { path, size } => plain(self.open_to_write(path)?.set_len(*size)),
            Op::Mkdir { path, mode } => rustix::fs::mkdirat(CWD, self.path(path), Mode::from_raw_mode(*mode)),
            Op::Symlink { path, target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), CWD, self.path(path))
            }
            Op::Mknod {
                path,
                kind,
                mode,
                device,
            } => {
                let kind = match kind {
                    Kind::Fifo => FileType::Fifo,
                    Kind::Socket => FileType::Socket,
                    Kind::Block => FileType::BlockDevice,
                    Kind::Regular | Kind::Directory | Kind::Symlink | Kind::Character => {
                        FileType::CharacterDevice
                    }
                };
                let device = makedev(device.0, device.1);
                rustix::fs::mknodat(CWD, self.path(path), kind, Mode::from_raw_mode(*mode), device)
            }
            Op::Unlink { path } => rustix::fs::unlinkat(CWD, self.path(path), AtFlags::empty()),
            Op::Rmdir { path } => rustix::fs::unlinkat(CWD, self.path(path), AtFlags::REMOVEDIR),
            Op::Rename { from, to } => rustix::fs::renameat(CWD, self.path(from), CWD, self.path(to)),
            Op::Link { from, to } => {
                rustix::fs::linkat(CWD, self.path(from), CWD, self.path(to), AtFlags::empty())
            }
            Op::Chmod { path, mode } => {
                rustix::fs::chmodat(CWD, self.path(path), Mode::from_raw_mode(*mode), AtFlags::empty())
            }
            Op::Chown { path, uid, gid } => rustix::fs::chownat(
                CWD,
                self.path(path),
                uid.map(Uid::from_raw),
                gid.map(Gid::from_raw),
                AtFlags::SYMLINK_NOFOLLOW,
            ),
            Op::Utimens { path, atime, mtime } => {
                let times = Timestamps {
                    last_access: spec(*atime),
                    last_modification: spec(*mtime),
                };
                rustix::fs::utimensat(CWD, self.path(path), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn open_to_write(&self, path: &[u8]) -> Result<fs::File, Errno> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open = fs::OpenOptions::new()
            .write(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(self.path(path));
        plain(open)
    }

    /// The whole tree.
    pub(crate) fn tree(&self) -> io::Result<Tree> {
        let mut tree = Tree::new();
        self.walk(Vec::new(), &mut tree)?;
        tie(&mut tree);
        Ok(tree)
    }

    fn walk(&self, path: Vec<u8>, tree: &mut Tree) -> io::Result<()> {
        let full = self.path(&path);
        let meta = fs::symlink_metadata(&full)?;
        let file_type = meta.file_type();
        let kind = if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_file() {
            Kind::Regular
        } else if file_type.is_symlink() {
            Kind::Symlink
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else if file_type.is_socket() {
            Kind::Socket
        } else if file_type.is_char_device() {
            Kind::Character
        } else {
            Kind::Block
        };
        let content = match kind {
            Kind::Regular => fs::read(&full)?,
            Kind::Symlink => fs::read_link(&full)?.into_os_string().into_vec(),
            Kind::Directory | Kind::Fifo | Kind::Socket | Kind::Character | Kind::Block => Vec::new(),
        };
        if kind == Kind::Directory {
            for entry in fs::read_dir(&full)? {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(entry?.file_name().as_bytes());
                self.walk(below, tree)?;
            }
        }
        let nanos = |nanos: i64| u32::try_from(nanos).unwrap_or(0);
        let shown = Shown {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            links: meta.nlink(),
            size: match kind {
                Kind::Regular | Kind::Symlink => meta.size(),
                Kind::Directory | Kind::Fifo | Kind::Socket | Kind::Character | Kind::Block => 0,
            },
            device: (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())),
            atime: When::new(meta.atime(), nanos(meta.atime_nsec())),
            mtime: When::new(meta.mtime(), nanos(meta.mtime_nsec())),
            content,
            same_as: Vec::new(),
            number: meta.ino(),
        };
        tree.insert(path, shown);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The namespace takes with it what cannot be unmounted.
        let _gone = unmount(&self.at, UnmountFlags::empty());
    }
}

fn plain<T>(result: Result<T, impl Into<io::Error>>) -> Result<T, Errno> {
    result.map_err(|error| {
        let error: io::Error = error.into();
        Errno::from_raw_os_error(error.raw_os_error().unwrap_or(0))
    })
}

fn spec(time: SetTo) -> Timespec {
    match time {
        SetTo::Omit => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        SetTo::Now => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        SetTo::At(seconds, nanos) => Timespec {
            tv_sec: seconds,
            tv_nsec: i64::from(nanos),
        },
    }
}
