//! The content of regular files, by hash.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, preadv2};

use super::digest::Digest;
use super::lend::Windows;
use super::open_files::OpenFiles;
use crate::layer::{ContentHash, ContentSource, Lent};

/// Reads content files, of which it keeps some open.
pub struct ContentStore {
    root: PathBuf,
    open: OpenFiles<ContentHash>,
    windows: Windows,
}

impl ContentStore {
    /// The content below `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            open: OpenFiles::new(),
            windows: Windows::default(),
        }
    }

    /// Where the content of this hash lies, if it is there.
    #[must_use]
    pub fn path(&self, hash: &ContentHash) -> PathBuf {
        content_path(&self.root, hash)
    }
}

impl ContentStore {
    /// Fills `buf` without waiting for a disk; `false` if something of it is not in memory: its name, or a page.
    pub(super) fn read_cached(&self, hash: &ContentHash, offset: u64, buf: &mut [u8]) -> bool {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            // Only what the kernel knows by name already (openat2(2), RESOLVE_CACHED).
            let fd = openat2(CWD, self.path(hash), flags, Mode::empty(), ResolveFlags::CACHED)?;
            Ok(File::from(fd))
        };
        let Ok(file) = self.open.get(*hash, usize::from(hash.0[31]), open) else {
            return false;
        };
        let len = buf.len();
        let read = preadv2(&file, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT);
        read.is_ok_and(|count| count == len)
    }

    /// The bytes of a content from `offset` on, in memory and not copied; `None` where they cannot be had in this way. May
    /// wait for a disk.
    pub(super) fn lend(&self, hash: &ContentHash, offset: u64, count: usize) -> Option<Lent> {
        let file = self
            .open
            .get(*hash, usize::from(hash.0[31]), || File::open(self.path(hash)))
            .ok()?;
        let bytes = self.windows.lend(hash, &file, offset, count).ok().flatten()?;
        Some(Lent { bytes, file, offset })
    }

    /// Appends up to `count` bytes of a content to `out`; returns how many there were.
    pub(super) fn append_content(
        &self,
        hash: &ContentHash,
        offset: u64,
        count: usize,
        out: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let file = self
            .open
            .get(*hash, usize::from(hash.0[31]), || File::open(self.path(hash)))?;
        let start = out.len();
        out.reserve(count);
        while out.len() - start < count {
            let at = offset.saturating_add((out.len() - start) as u64);
            // As much as there is room for, which may be a little more than was asked for.
            match rustix::io::pread(&file, rustix::buffer::spare_capacity(out), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        out.truncate(start + count);
        Ok(out.len() - start)
    }
}

impl ContentSource for ContentStore {
    fn read_content(&self, hash: &ContentHash, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self
            .open
            .get(*hash, usize::from(hash.0[31]), || File::open(self.path(hash)))?;
        read_full(&file, offset, buf)
    }
}

/// Where the content of a hash lies below the content directory of a store.
pub(super) fn content_path(root: &Path, hash: &ContentHash) -> PathBuf {
    let hex = Digest(hash.0).hex();
    root.join(&hex[..2]).join(&hex[2..])
}

/// Reads until `buf` is full or the file ends.
pub(crate) fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let Some(at) = offset
            .checked_add(done as u64)
            .filter(|&at| i64::try_from(at).is_ok())
        else {
            break;
        };
        match file.read_at(&mut buf[done..], at) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
