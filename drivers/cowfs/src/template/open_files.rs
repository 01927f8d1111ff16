//! A bounded number of files that stay open between reads.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Groups of open files, each with a lock of its own.
const SHARDS: usize = 16;
/// Open files per group: 256 descriptors at most, of the 1024 a process has by default.
const OPEN_MAX: usize = 16;

/// The most recently used last.
type Shard<K> = Vec<(K, Arc<File>)>;

/// Open files by key; those used longest ago are closed first.
pub(crate) struct OpenFiles<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
}

impl<K: Copy + PartialEq> OpenFiles<K> {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// The file of this key, opened by `open` if it is not. `spread` is any number that differs between keys.
    pub(crate) fn get(
        &self,
        key: K,
        spread: usize,
        open: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<Arc<File>> {
        let mut held = self.shards[spread % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = held.iter().position(|(known, _)| *known == key) {
            held[at..].rotate_left(1);
            return Ok(held[held.len() - 1].1.clone());
        }
        let file = Arc::new(open()?);
        if held.len() >= OPEN_MAX {
            held.remove(0);
        }
        held.push((key, file.clone()));
        Ok(file)
    }
}
