//! Compaction while the layer is served.
//!
//! It happens within the call that made the log too long, and everybody else waits for it: what lives is written once,
//! in the order of 100 MB a second, and at least twice as much had to be logged before. What is unsynced is synced first,
//! most of it while others go on, because a checkpoint says of content only what is on disk.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::data::io_status;
use super::{Stack, Top};
use crate::handle::ObjectKey;
use crate::service::{FsResult, Status};
use crate::writable::WritableError;
use crate::writable::checkpoint;
use crate::writable::extents::{Extents, Source};
use crate::writable::state::{FileState, Kind, State};

impl FileState {
    /// Whether anything of it is only in memory or in the page cache.
    pub(super) fn is_unflushed(&self) -> bool {
        self.writes > self.writes_synced || self.unlogged.len() > 0 || self.attr_unlogged
    }
}

impl Stack {
    /// Compacts the log if it has become long. Nobody is told of a failure: the log goes on, and it is tried again later.
    pub(super) fn compact_if_long(&self, top: &Top) {
        if !top.log.is_long() || top.log.is_poisoned() || top.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(status) = self.compact_now(top) {
            tracing::warn!(%status, "the log of a writable layer has not been compacted");
            top.log.is_long_beyond(top.log.bytes());
        }
        top.compacting.store(false, Ordering::Release);
    }

    /// Makes the log of the writable layer as short as it can be, while others go on reading. What was written is durable
    /// afterwards.
    ///
    /// # Errors
    /// [`Status::RoFs`] without a writable layer, [`Status::Jukebox`] while the log is being made short anyway, and those
    /// of the disk; the log then goes on as it was, unless the layer takes no more changes.
    pub fn compact(&self) -> FsResult<()> {
        let top = self.writable()?;
        if top.compacting.swap(true, Ordering::AcqRel) {
            return Err(Status::Jukebox);
        }
        let outcome = self.compact_now(top);
        top.compacting.store(false, Ordering::Release);
        outcome
    }

    fn compact_now(&self, top: &Top) -> FsResult<()> {
        self.flush_files()?;
        let mut state = self.write_state()?;
        for file in state.objects.values().filter_map(|object| object.file()) {
            if let Some(id) = file.writing.filter(|_| file.writes > file.writes_synced) {
                self.sync_content(top, id, file.fresh)?;
            }
        }
        let moved = checkpoint::replace(&top.log, top.epoch, &state).map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "writing a checkpoint");
            match error {
                WritableError::Io { doing, source, .. } => io_status(doing, &source),
                _ => Status::Io,
            }
        })?;
        settle_files(&mut state);
        let mut inlined: HashMap<ObjectKey, u64> = HashMap::new();
        for part in moved {
            *inlined.entry(part.key).or_default() += part.end - part.start;
            let source = Source::Log {
                segment: 0,
                at: part.at,
                file_offset: part.start,
            };
            let set = state.with_file(part.key, "moved content", |file| {
                file.extents.insert(part.start, part.end, source);
                file.inlined = inlined.get(&part.key).copied().unwrap_or_default();
            });
            if let Err(misfit) = set {
                top.log.poison(&misfit);
                return Err(Status::ServerFault);
            }
        }
        Ok(())
    }
}

/// Everything written to the files is on disk and in the log now.
fn settle_files(state: &mut State) {
    for object in state.objects.values_mut() {
        if let Kind::File(file) = &mut object.kind {
            file.unlogged = Extents::default();
            file.attr_unlogged = false;
            // One that was made and not written yet has not been synced, and neither has its name.
            if file.writes > file.writes_synced {
                file.writes_synced = file.writes;
                file.fresh = false;
            }
            file.inlined = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerId;
    use crate::writable::record::{Body, Change, Record, Stored};
    use crate::writable::state::Position;

    #[test]
    fn a_content_file_without_synced_writes_stays_fresh() {
        let mut state = State::new(LayerId([1; 8]));
        let key = state.root();
        let zero = crate::attr::Time::default();
        let attr = Stored {
            mode: 0,
            uid: 0,
            gid: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
        };
        let body = Body::File {
            size: 0,
            base: None,
            verifier: None,
        };
        let make = Change::Make {
            key,
            links: 1,
            attr,
            body,
        };
        let record = Record {
            call: None,
            changes: vec![make],
        };
        let nowhere = Position {
            segment: 0,
            payload: 0,
        };
        state.apply(record, nowhere).expect("making a file");
        let mut check = |writes, fresh| {
            let set = state.with_file(key, "test", |file| {
                (file.fresh, file.writes, file.writes_synced) = (true, writes, 3);
            });
            set.expect("it is a file");
            settle_files(&mut state);
            let now = state.with_file(key, "test", |file| (file.fresh, file.writes_synced));
            assert_eq!(now, Ok((fresh, writes)));
        };
        check(3, true);
        check(5, false);
    }
}
