//! Content files as mapped memory, so that a large READ need not be copied before it is sent.
//!
//! Files are mapped in *windows* of fixed places and size, of which the ones used last stay mapped: for content that is read
//! in order the next piece is mapped already, and a file of any size costs no more page tables than the windows
//! together have. Before a piece is lent its pages are brought in: a disk that fails then fails a call that can still be
//! answered otherwise, and whoever sends the piece waits for no disk.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

use crate::layer::ContentHash;

/// Bytes of a window. A piece that crosses from one to the next is not lent; clients ask for aligned ones.
const WINDOW: u64 = if cfg!(test) { 64 << 10 } else { 64 << 20 };

/// Windows that stay mapped: 4 GiB of address space, and 8 MiB of page tables.
const WINDOWS_MAX: usize = 64;

/// A mapped part of a content file.
struct Window {
    hash: ContentHash,
    number: u64,
    map: Arc<Mmap>,
}

/// What keeps a window mapped while a piece of it is on its way.
struct Held(Arc<Mmap>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The windows that are mapped; the one used last is the last.
#[derive(Default)]
pub(super) struct Windows {
    mapped: Mutex<Vec<Window>>,
}

impl Windows {
    /// The bytes of a content from `offset` on, all in memory; `None` if they cannot be had in this way. May wait for a
    /// disk.
    pub(super) fn lend(
        &self,
        hash: &ContentHash,
        file: &File,
        offset: u64,
        count: usize,
    ) -> io::Result<Option<Bytes>> {
        let start = usize::try_from(offset % WINDOW).unwrap_or(usize::MAX);
        let map = self.window(hash, file, offset / WINDOW)?;
        let Some(end) = start.checked_add(count).filter(|&end| end <= map.len()) else {
            return Ok(None);
        };
        match map.advise_range(Advice::PopulateRead, start, count) {
            Ok(()) => Ok(Some(Bytes::from_owner(Held(map)).slice(start..end))),
            // Linux before 5.14 cannot do so (madvise(2)).
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn window(&self, hash: &ContentHash, file: &File, number: u64) -> io::Result<Arc<Mmap>> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        let known = mapped
            .iter()
            .rposition(|window| window.number == number && window.hash == *hash);
        if let Some(at) = known {
            mapped[at..].rotate_left(1);
            return Ok(Arc::clone(&mapped[mapped.len() - 1].map));
        }
        let start = number.saturating_mul(WINDOW);
        let len = file.metadata()?.len().saturating_sub(start).min(WINDOW);
        let mut options = MmapOptions::new();
        options.offset(start).len(usize::try_from(len).unwrap_or(0));
        #[expect(
            unsafe_code,
            reason = "mapping a file; what is read from it is only ever sent, and the files of a store are written \
                      once, under another name, before they are opened"
        )]
        // SAFETY: nothing of ours writes to or truncates a content file after its rename into place. Were a stranger to
        // do so, other bytes would be sent, or none: it is the kernel that reads them, and says so (EFAULT, write(2)).
        let map = Arc::new(unsafe { options.map(file) }?);
        if mapped.len() >= WINDOWS_MAX {
            mapped.remove(0);
        }
        mapped.push(Window {
            hash: *hash,
            number,
            map: Arc::clone(&map),
        });
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const A: ContentHash = ContentHash([1; 32]);
    const B: ContentHash = ContentHash([2; 32]);

    #[test]
    fn pieces_are_lent_out_of_windows() {
        let window = usize::try_from(WINDOW).unwrap();
        let content: Vec<u8> = (0_u32..)
            .flat_map(u32::to_le_bytes)
            .take(3 * window + 100)
            .collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let windows = Windows::default();
        let check = |offset: usize, count: usize, there: bool| {
            let lent = windows.lend(&A, &file, offset as u64, count).unwrap();
            let expected = there.then(|| &content[offset..offset + count]);
            assert_eq!(lent.as_deref(), expected, "{count} at {offset}");
        };
        check(0, 4096, true);
        check(5, 1000, true);
        check(window, window, true);
        check(window - 4096, 8192, false);
        check(3 * window, 100, true);
        check(3 * window, 101, false);
        assert_eq!(windows.mapped.lock().unwrap().len(), 3);
        // Nothing is there.
        check(9 * window, 1, false);
    }

    #[test]
    fn few_windows_stay_and_what_was_lent_outlives_them() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"kept", 0).unwrap();
        let windows = Windows::default();
        let lent = windows.lend(&A, &file, 0, 4).unwrap().unwrap();
        let big = tempfile::tempfile().unwrap();
        big.set_len(WINDOW * 200).unwrap();
        for number in 0..200 {
            assert!(windows.lend(&B, &big, number * WINDOW, 10).unwrap().is_some());
        }
        let mapped = windows.mapped.lock().unwrap();
        assert_eq!(mapped.len(), WINDOWS_MAX);
        assert!(mapped.iter().all(|window| window.hash == B));
        assert_eq!(&lent[..], b"kept");
    }
}
