//! The storage beneath a writable layer: the few calls it makes of a file system, and nothing else.
//!
//! Everything a writable layer does to its directory goes through here, so that tests can put a file system in memory in
//! its place that records each call, fails the ones it is told to, and shows what any crash could have left. In programs
//! there is only [`Disk::Host`], and each call is the system call it is named for.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

#[cfg(test)]
pub(crate) mod simulated;

#[cfg(test)]
use simulated::{Simulated, SimulatedFile};

/// File systems of one machine, whose locks are held by processes of this machine and by nobody else, by the numbers of
/// statfs(2): ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS, bcachefs.
const LOCAL: [u32; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0xca45_1a4e,
];

/// A file system.
#[derive(Clone, Debug, Default)]
pub(crate) enum Disk {
    /// The one of this machine.
    #[default]
    Host,
    #[cfg(test)]
    Simulated(Simulated),
}

/// An open file.
#[derive(Debug)]
pub(crate) enum DiskFile {
    Host(HostFile),
    #[cfg(test)]
    Simulated(SimulatedFile),
}

/// An open file of this machine.
#[derive(Debug)]
pub(crate) struct HostFile {
    file: File,
    /// The same file for fsync(2) alone, where its file system is not of this machine. The kernel tells once for each open
    /// file that something could not be written back, and NFS tells it to write(2) too: the next fsync(2) on the same open
    /// file would then say that all is well (`nfs_file_write` in fs/nfs/file.c).
    to_sync: Option<File>,
}

/// Held while a layer is open.
#[derive(Debug)]
pub(crate) enum Lock {
    /// Held through this file, and with it.
    Host {
        _file: File,
        /// Whether that proves that nobody else has the layer open: locks of network file systems may be lost.
        proof: bool,
    },
    /// The file system has no locks.
    Unlocked,
}

impl Lock {
    /// Whether it proves that nobody else has the layer open.
    pub(crate) fn is_proof(&self) -> bool {
        matches!(self, Self::Host { proof: true, .. })
    }
}

/// Everything below a directory, to be made durable at once.
#[derive(Debug)]
pub(crate) enum Barrier {
    /// The directory: failures to write back are told to those who had something of the file system open (syncfs(2)).
    Host(File),
    #[cfg(test)]
    Simulated(std::path::PathBuf),
}

impl Barrier {
    /// Makes content and names durable that were written or made before.
    pub(crate) fn complete(&self, _disk: &Disk) -> io::Result<()> {
        match self {
            Self::Host(folder) => Ok(rustix::fs::syncfs(folder)?),
            #[cfg(test)]
            Self::Simulated(below) => match _disk {
                Disk::Simulated(disk) => disk.sync_below(below),
                Disk::Host => Err(io::ErrorKind::Unsupported.into()),
            },
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Read,
    ReadWrite,
    /// Made, and it must not be there yet (mode 0600).
    CreateNew,
    /// Made, or emptied (mode 0600).
    Truncate,
}

/// What the file system knows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStatus {
    pub(crate) len: u64,
    /// Time of its last change: seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
}

/// Room on the file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

impl Disk {
    /// Makes a directory (mode 0700).
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Host => DirBuilder::new().mode(0o700).create(path),
            #[cfg(test)]
            Self::Simulated(disk) => disk.make_dir(path),
        }
    }

    /// Names in a directory, in no order.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        match self {
            Self::Host => fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect(),
            #[cfg(test)]
            Self::Simulated(disk) => disk.list(path),
        }
    }

    /// Opens a file.
    pub(crate) fn open(&self, path: &Path, mode: Mode) -> io::Result<DiskFile> {
        match self {
            Self::Host => {
                let mut options = OpenOptions::new();
                options.read(true).mode(0o600);
                let options = match mode {
                    Mode::Read => &options,
                    Mode::ReadWrite => options.write(true),
                    Mode::CreateNew => options.write(true).create_new(true),
                    Mode::Truncate => options.write(true).create(true).truncate(true),
                };
                let file = options.open(path)?;
                let to_sync = match mode {
                    Mode::Read => None,
                    Mode::ReadWrite | Mode::CreateNew | Mode::Truncate if is_local(&file) => None,
                    // Before anything is written, so that nothing that happens to it is missed.
                    Mode::ReadWrite | Mode::CreateNew | Mode::Truncate => {
                        Some(OpenOptions::new().write(true).open(path)?)
                    }
                };
                Ok(DiskFile::Host(HostFile { file, to_sync }))
            }
            #[cfg(test)]
            Self::Simulated(disk) => disk.open(path, mode).map(DiskFile::Simulated),
        }
    }

    /// The whole content of a file.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Host => fs::read(path),
            #[cfg(test)]
            Self::Simulated(disk) => disk.read(path),
        }
    }

    /// Gives a file another name in the same directory, in the place of what has that name.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self {
            Self::Host => fs::rename(from, to),
            #[cfg(test)]
            Self::Simulated(disk) => disk.rename(from, to),
        }
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Host => fs::remove_file(path),
            #[cfg(test)]
            Self::Simulated(disk) => disk.remove(path),
        }
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Host => File::open(path)?.sync_all(),
            #[cfg(test)]
            Self::Simulated(disk) => disk.sync_dir(path),
        }
    }

    /// Bytes that a file takes on disk: without its holes.
    pub(crate) fn allocated(&self, path: &Path) -> io::Result<u64> {
        match self {
            Self::Host => fs::metadata(path).map(|known| known.blocks().saturating_mul(512)),
            #[cfg(test)]
            Self::Simulated(disk) => disk.status(path).map(|known| known.len),
        }
    }

    /// Whether calls come one after the other, so that a test can be repeated.
    pub(crate) fn takes_turns(&self) -> bool {
        match self {
            Self::Host => false,
            #[cfg(test)]
            Self::Simulated(_) => true,
        }
    }

    /// Begins what [`Barrier::complete`] ends: a failure of the disk in between shows there.
    pub(crate) fn begin_sync(&self, below: &Path) -> io::Result<Barrier> {
        match self {
            Self::Host => File::open(below).map(Barrier::Host),
            #[cfg(test)]
            Self::Simulated(_) => Ok(Barrier::Simulated(below.to_path_buf())),
        }
    }

    /// What is known of a file.
    pub(crate) fn status(&self, path: &Path) -> io::Result<FileStatus> {
        match self {
            Self::Host => fs::metadata(path).map(|known| FileStatus {
                len: known.len(),
                mtime: (known.mtime(), known.mtime_nsec()),
            }),
            #[cfg(test)]
            Self::Simulated(disk) => disk.status(path),
        }
    }

    /// Fills `bytes` with what nobody can guess.
    pub(crate) fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Host => super::random_bytes(bytes),
            // The same each time, so that a seed says all there is to say about a run.
            #[cfg(test)]
            Self::Simulated(_) => {
                bytes.fill(0x5a);
                Ok(())
            }
        }
    }

    /// Room on the file system that holds `path`.
    pub(crate) fn space(&self, path: &Path) -> io::Result<Space> {
        match self {
            Self::Host => {
                let disk = rustix::fs::statvfs(path)?;
                Ok(Space {
                    total: disk.f_blocks.saturating_mul(disk.f_frsize),
                    free: disk.f_bavail.saturating_mul(disk.f_frsize),
                })
            }
            #[cfg(test)]
            Self::Simulated(disk) => Ok(disk.space()),
        }
    }

    /// Locks the file `path`, which is made, for as long as the result lives; [`io::ErrorKind::WouldBlock`] while
    /// somebody has it.
    pub(crate) fn lock(&self, path: &Path) -> io::Result<Lock> {
        match self {
            Self::Host if crate::stopping::without_locks() => Ok(Lock::Unlocked),
            Self::Host => {
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(path)?;
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => {
                        let proof = is_local(&file);
                        Ok(Lock::Host { _file: file, proof })
                    }
                    // Some file systems (AFS) have no such locks: epochs alone keep holders apart there.
                    Err(rustix::io::Errno::NOLCK | rustix::io::Errno::OPNOTSUPP) => Ok(Lock::Unlocked),
                    Err(error) => Err(error.into()),
                }
            }
            #[cfg(test)]
            Self::Simulated(_) => Ok(Lock::Unlocked),
        }
    }
}

/// Whether somebody has the file `path` locked. Nothing is made, and the lock is held by nobody afterwards.
pub(crate) fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        // It goes with the file.
        Ok(()) | Err(rustix::io::Errno::NOLCK | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file is on a file system of this machine.
pub(crate) fn is_local(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|known| {
        // As the kernel has it: a number of 32 bits, whatever the type.
        LOCAL
            .iter()
            .any(|&local| i128::from(known.f_type) == i128::from(local))
    })
}

/// Whether it says that there is no room: what can pass, and says nothing of the disk's health.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl DiskFile {
    /// Reads as pread(2) does: perhaps fewer bytes than asked for.
    fn read_some(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Host(host) => host.file.read_at(buf, offset),
            #[cfg(test)]
            Self::Simulated(file) => file.read_at(buf, offset),
        }
    }

    /// Fills as much of `buf` from `offset` on as the file has.
    pub(crate) fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while !buf.is_empty() {
            match self.read_some(buf, offset) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    offset = offset.saturating_add(super::log::as_u64(count));
                    buf = &mut buf[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Fills `buf` from `offset` on; an error if the file ends before.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let wanted = buf.len();
        if self.read_at(buf, offset)? == wanted {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Writes all of `bytes`; after an error, perhaps a part of them.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Host(host) => host.file.write_all_at(bytes, offset),
            #[cfg(test)]
            Self::Simulated(file) => file.write_all_at(bytes, offset),
        }
    }

    /// Cuts the file, or has it end later with zeros.
    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        match self {
            Self::Host(host) => host.file.set_len(len),
            #[cfg(test)]
            Self::Simulated(file) => file.set_len(len),
        }
    }

    /// Makes content and length durable. After an error, what was written since the last time may be lost, and asking again
    /// would not tell.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Host(host) => host.to_sync.as_ref().unwrap_or(&host.file).sync_data(),
            #[cfg(test)]
            Self::Simulated(file) => file.sync(),
        }
    }

    /// Where the next bytes are that are not in a hole, at `offset` or behind it; `None` where there are none.
    pub(crate) fn data_from(&self, offset: u64) -> io::Result<Option<u64>> {
        match self {
            Self::Host(host) => match rustix::fs::seek(&host.file, rustix::fs::SeekFrom::Data(offset)) {
                Ok(at) => Ok(Some(at)),
                Err(rustix::io::Errno::NXIO) => Ok(None),
                // A file system that knows no holes.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(offset)),
                Err(error) => Err(error.into()),
            },
            #[cfg(test)]
            Self::Simulated(_) => Ok(Some(offset)),
        }
    }

    /// Bytes it has.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Host(host) => Ok(host.file.metadata()?.len()),
            #[cfg(test)]
            Self::Simulated(file) => file.len(),
        }
    }
}
