//! Compaction while the layer is served.
//!
//! It works on a copy of the state, which shares what does not change, and writes the checkpoint while everybody goes on:
//! questions, changes and writes. What was appended to the log meanwhile is copied after it, round by round, and only for
//! the last of it, its sync and its name do changes wait; questions never do. Bytes that the log holds are read from
//! where they were until the state says, file by file, where they are now.
//!
//! A checkpoint says of content only what is on disk: so what the copy says and nobody has committed is synced first.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use super::data::{io_status, unflushed};
use super::{Stack, Top, append_status};
use crate::handle::ObjectKey;
use crate::service::{FsResult, Status};
use crate::writable::WritableError;
use crate::writable::checkpoint::{Moved, Rewriting};
use crate::writable::extents::Source;
use crate::writable::state::{FileState, State};

/// Rounds of copying what was appended meanwhile; each is shorter than the one before, unless the disk is much slower
/// than the log.
const ROUNDS_MAX: usize = 16;
/// So many bytes may be left for when changes wait.
const LEFT_MAX: u64 = 64 << 10;
/// Places of bytes set at a time: questions wait for so many.
const SLICE: usize = if cfg!(test) { 3 } else { 256 };

impl FileState {
    /// Whether anything of it is only in memory or in the page cache.
    pub(super) fn is_unflushed(&self) -> bool {
        self.writes > self.writes_synced || self.unlogged.len() > 0 || self.attr_unlogged
    }
}

impl Stack {
    /// Compacts the log if it has become long, as long as that is `wanted`. Nobody is told of a failure: the log goes on, and
    /// it is tried again later.
    pub(super) fn compact_if_long(&self, top: &Top, wanted: &dyn Fn() -> bool) {
        if !top.log.is_long() || top.log.is_poisoned() {
            return;
        }
        let Ok(_alone) = top.shaping.try_lock() else {
            return;
        };
        match self.compact_now(top, wanted) {
            Ok(()) => {}
            Err(Status::Jukebox) => {
                tracing::debug!("making the log of a writable layer short has been left for later")
            }
            Err(status) => {
                tracing::warn!(%status, "the log of a writable layer has not been compacted");
                top.log.is_long_beyond(top.log.bytes());
            }
        }
    }

    /// Makes the log of the writable layer as short as it can be, while others go on. What was written before is durable
    /// afterwards.
    ///
    /// # Errors
    /// [`Status::RoFs`] without a writable layer, [`Status::Jukebox`] while the log is being made short anyway, and those
    /// of the disk; the log then goes on as it was, unless the layer takes no more changes.
    pub fn compact(&self) -> FsResult<()> {
        let top = self.writable()?;
        let _alone = top.shaping.try_lock().map_err(|_| Status::Jukebox)?;
        self.compact_now(top, &|| true)
    }

    /// [`Status::Jukebox`] once it is not `wanted` any more.
    fn compact_now(&self, top: &Top, wanted: &dyn Fn() -> bool) -> FsResult<()> {
        if top.content.losses() > 0 {
            self.flush_files()?;
        }
        let (state, end) = {
            let _nobody_changes = self.hold_changes()?;
            let end = top.log.last_end().ok_or(Status::Io)?;
            (self.read_state()?.clone(), end)
        };
        // What is copied is on disk: of what is not, nobody knows what the next look will show.
        top.log
            .settle(top.log.end())
            .map_err(|error| append_status(&error))?;
        for key in unflushed(state.objects.iter()) {
            still(wanted)?;
            self.sync_unflushed(top, &state, &BTreeSet::from([key]))?;
        }
        let begun = Rewriting::begin(&top.log, top.epoch, &state, end, wanted);
        let mut rewriting = begun.map_err(|error| told(&error))?;
        for _ in 0..ROUNDS_MAX {
            if let Err(later) = still(wanted) {
                rewriting.abandon();
                return Err(later);
            }
            if rewriting.catch_up().map_err(|error| told(&error))? <= LEFT_MAX {
                break;
            }
        }
        rewriting.sync().map_err(|error| told(&error))?;
        let (moved, replaced) = {
            let _nobody_changes = self.hold_changes()?;
            rewriting.finish().map_err(|error| told(&error))?
        };
        let done = self.relocate(&moved, replaced.by);
        done.and_then(|()| self.forget_inlined(&state))
            .inspect_err(|status| top.log.poison(status))?;
        top.log.retire(replaced);
        Ok(())
    }

    /// Has on disk what `state` says of the content of these files.
    pub(super) fn sync_unflushed(
        &self,
        top: &Top,
        state: &State,
        keys: &BTreeSet<ObjectKey>,
    ) -> FsResult<()> {
        for file in keys.iter().filter_map(|key| state.objects.get(key)?.file()) {
            if let Some(id) = file.writing.filter(|_| file.writes > file.writes_synced) {
                match self.sync_content(top, id, file.fresh) {
                    // Removed in the meantime, and what follows says so.
                    Ok(()) | Err(Status::Stale) => {}
                    Err(status) => return Err(status),
                }
                if file.losses != top.content.losses() {
                    // Some of it may be gone; it is written again when the file is flushed.
                    return Err(Status::NoSpc);
                }
            }
        }
        Ok(())
    }

    /// Says where bytes are that the log holds: in segment `by` what is in an earlier one.
    fn relocate(&self, moved: &[Moved], by: u32) -> FsResult<()> {
        // The last first: what is still in an earlier segment was written by the last that wrote it.
        for slice in moved.rchunks(SLICE) {
            let mut state = self.write_state()?;
            let since = Instant::now();
            for part in slice.iter().rev() {
                let set = state.with_file(part.key, "moved content", |file| {
                    let within = file.extents.within(part.start, part.end);
                    let old: Vec<_> = within
                        .filter(
                            |(_, _, source)| matches!(source, Source::Log { segment, .. } if *segment < by),
                        )
                        .collect();
                    for (from, to, _) in old {
                        let source = Source::Log {
                            segment: by,
                            at: part.at,
                            file_offset: part.start,
                        };
                        file.extents.insert(from, to, source);
                    }
                });
                // Removed in the meantime.
                let _gone = set.is_err();
            }
            drop(state);
            pause(since);
        }
        Ok(())
    }

    /// Files whose bytes the log has taken may have it take as many again, but for those that it still holds.
    fn forget_inlined(&self, before: &State) -> FsResult<()> {
        let files = before
            .objects
            .iter()
            .filter_map(|(key, object)| Some((*key, object.file()?)));
        let forgotten: Vec<(ObjectKey, u64)> = files
            .filter(|(_, file)| file.inlined > 0)
            .map(|(key, file)| {
                let held = file
                    .extents
                    .iter()
                    .filter(|(_, _, source)| source.content().is_none());
                (
                    key,
                    file.inlined
                        .saturating_sub(held.map(|(from, to, _)| to - from).sum()),
                )
            })
            .filter(|(_, bytes)| *bytes > 0)
            .collect();
        for slice in forgotten.chunks(SLICE) {
            let mut state = self.write_state()?;
            let since = Instant::now();
            for (key, bytes) in slice {
                let set = state.with_file(*key, "moved content", |file| {
                    file.inlined = file.inlined.saturating_sub(*bytes);
                });
                let _gone = set.is_err();
            }
            drop(state);
            pause(since);
        }
        Ok(())
    }
}

/// Lets others have the lock as long as it has been held: whoever waits for it is not as quick as the one who has just
/// had it.
fn pause(since: Instant) {
    std::thread::sleep(since.elapsed());
}

fn still(wanted: &dyn Fn() -> bool) -> FsResult<()> {
    if wanted() { Ok(()) } else { Err(Status::Jukebox) }
}

fn told(error: &WritableError) -> Status {
    if matches!(error, WritableError::Io { source, .. } if source.kind() == io::ErrorKind::Interrupted) {
        return Status::Jukebox;
    }
    tracing::warn!(error = error as &dyn std::error::Error, "writing a checkpoint");
    match error {
        WritableError::Io { doing, source, .. } => io_status(doing, source),
        _ => Status::Io,
    }
}
