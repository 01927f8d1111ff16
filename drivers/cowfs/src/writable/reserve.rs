//! Room for removals on a disk that is full.
//!
//! A removal is a record in the log, so it needs a little room before it gives back much: without it, a guest on a full
//! disk could not even make room. So a layer keeps a file that is good for nothing but being emptied then. It is filled
//! again once there is room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::{Disk, DiskFile, Mode};
use super::log::as_u64;

/// Its name in the layer's directory.
const FILE: &str = "reserve";
/// What it holds: enough for the records of some hundred removals.
const BYTES: usize = if cfg!(test) { 2 << 10 } else { 32 << 10 };

/// The file, full or empty.
pub(super) struct Reserve {
    disk: Disk,
    path: PathBuf,
    full: AtomicBool,
}

impl Reserve {
    /// Makes the file in `dir` if it is missing. Without one the layer serves as well.
    pub(super) fn open(disk: &Disk, dir: &Path) -> Self {
        let here = Self {
            disk: disk.clone(),
            path: dir.join(FILE),
            full: AtomicBool::new(false),
        };
        let there = disk
            .status(&here.path)
            .is_ok_and(|status| status.len >= as_u64(BYTES));
        here.full.store(there, Ordering::Release);
        if !there {
            here.fill();
        }
        here
    }

    /// The same in a layer that is being made; its name is synced with the others.
    pub(super) fn make(disk: &Disk, dir: &Path) {
        drop(Self::open(disk, dir));
    }

    /// Gives its room back to the disk; whether there was any.
    pub(super) fn release(&self) -> bool {
        if !self.full.swap(false, Ordering::AcqRel) {
            return false;
        }
        let emptied = self
            .disk
            .open(&self.path, Mode::ReadWrite)
            .and_then(|file| file.set_len(0));
        if let Err(error) = &emptied {
            tracing::warn!(%error, path = %self.path.display(), "the room for removals cannot be had");
        }
        emptied.is_ok()
    }

    /// Takes room again if there is plenty.
    pub(super) fn refill(&self) {
        if self.full.load(Ordering::Acquire) {
            return;
        }
        let plenty = as_u64(4 * BYTES);
        let parent = self.path.parent().unwrap_or(&self.path);
        if self.disk.space(parent).is_ok_and(|space| space.free >= plenty) {
            self.fill();
        }
    }

    fn fill(&self) {
        match self
            .disk
            .open(&self.path, Mode::Truncate)
            .and_then(|file| write(&file))
        {
            Ok(()) => self.full.store(true, Ordering::Release),
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "no room is kept for removals");
                // What has been written of it would only be in the way.
                let _emptied = self
                    .disk
                    .open(&self.path, Mode::ReadWrite)
                    .and_then(|file| file.set_len(0));
            }
        }
    }
}

/// Bytes that no file system makes small.
fn write(file: &DiskFile) -> io::Result<()> {
    let mut bytes = vec![0; BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    file.write_all_at(&bytes, 0)?;
    file.sync()
}
