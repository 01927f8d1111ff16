//! Checkpoints of the writable layer while it is served.

use std::collections::BTreeSet;
use std::io;
use std::sync::MutexGuard;

use super::data::unflushed;
use super::listing::lock;
use super::{Changing, Stack, Top, append_status};
use crate::handle::ObjectKey;
use crate::service::{FsResult, Status};
use crate::writable::content::Keeping;
use crate::writable::record::Change;
use crate::writable::saved::{self, Saved, SavedError};
use crate::writable::state::State;

/// Changes in one record.
const CHANGES_MAX: usize = 4096;

impl Stack {
    /// Makes a checkpoint of the writable layer as it is; one of that name that is there stays as it is. What was written
    /// before is durable afterwards. Others go on meanwhile; changes wait while the moment is chosen.
    ///
    /// # Errors
    /// [`SavedError`]; the layer goes on as it was.
    pub fn save(&self, name: &str) -> Result<(), SavedError> {
        saved::check_name(name)?;
        let top = self.saving()?;
        let _alone = lock(&top.shaping);
        // Most of what is unsynced while others go on.
        self.flush_files().map_err(SavedError::Flush)?;
        let earlier = self.read_state().map_err(SavedError::Flush)?.clone();
        let (state, keeping) = self.moment(top, &earlier).map_err(SavedError::Flush)?;
        drop(earlier);
        let segments = |index| {
            top.log
                .segment(index)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let change = saved::write(
            &top.disk,
            &top.path,
            top.epoch,
            &state,
            &top.content,
            &segments,
            name,
        )?;
        if let Some(change) = change {
            let state = self.write_state().map_err(SavedError::Flush)?;
            drop(self.log_saved(state, change)?);
        }
        drop(keeping);
        Ok(())
    }

    /// The state at a moment when everything that it says is on disk, and what keeps content from now on as it is then.
    /// `earlier` is the state as it was a moment ago, so that nobody waits for a search through all of it.
    pub(super) fn moment<'a>(&'a self, top: &'a Top, earlier: &State) -> FsResult<(State, Keeping<'a>)> {
        let mut keys: BTreeSet<ObjectKey> = unflushed(earlier.objects.iter()).into_iter().collect();
        let nobody_changes = self.hold_changes()?;
        let _nobody_writes = top.writing.write().map_err(|_| Status::ServerFault)?;
        let state = self.read_state()?.clone();
        keys.extend(unflushed(state.objects.apart_from(&earlier.objects)));
        self.sync_unflushed(top, &state, &keys)?;
        let mut changing = self.change(nobody_changes)?;
        self.log_unflushed(&mut changing, &state, &keys)?;
        let _nobody_changes = changing.done();
        let state = self.read_state()?.clone();
        top.log
            .settle(top.log.end())
            .map_err(|error| append_status(&error))?;
        // What is written from now on goes to other files.
        let next = state.next;
        Ok((state, top.content.keep_before(next)))
    }

    fn saving(&self) -> Result<&Top, SavedError> {
        match self.writable() {
            Ok(top) => Ok(top),
            Err(Status::RoFs) => Err(SavedError::ReadOnly),
            Err(status) => Err(SavedError::Flush(status)),
        }
    }

    /// Removes a checkpoint, if there is one of that name.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn delete_saved(&self, name: &str) -> Result<(), SavedError> {
        let top = self.saving()?;
        let _alone = lock(&top.shaping);
        // Files that are not pinned any more may be written in place, and others are removed.
        let state = self.write_state().map_err(SavedError::Flush)?;
        if !state.saved.contains_key(name) {
            return Ok(());
        }
        let change = Change::Saved {
            name: name.to_owned(),
            manifest: None,
        };
        let _nobody_changes = self.log_saved(state, change)?;
        let state = self.read_state().map_err(SavedError::Flush)?.clone();
        saved::remove(&top.disk, &top.path, &state, &top.content, name)
    }

    /// Its checkpoints, by name.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn saved(&self) -> Result<Vec<Saved>, SavedError> {
        let top = self.top.as_ref().ok_or(SavedError::ReadOnly)?;
        let state = self.read_state().map_err(SavedError::Flush)?;
        Ok(saved::list(&top.disk, &top.path, &state)?)
    }

    fn log_saved<'a>(
        &self,
        mut state: Changing<'a>,
        change: Change,
    ) -> Result<MutexGuard<'a, ()>, SavedError> {
        let ticket = self
            .record(&mut state, None, vec![change])
            .map_err(SavedError::Flush)?;
        let held = state.done();
        let top = self.writable().map_err(SavedError::Flush)?;
        let settled = top.log.settle(ticket).map_err(|error| append_status(&error));
        settled.map_err(SavedError::Flush)?;
        Ok(held)
    }

    /// Logs what those of `keys` that are files have written, which is on disk, as `before` says it, which is what `state`
    /// says.
    fn log_unflushed(&self, state: &mut State, before: &State, keys: &BTreeSet<ObjectKey>) -> FsResult<()> {
        for &key in keys {
            // Removed since it was looked for.
            let Some(object) = before.objects.get(&key) else {
                continue;
            };
            let attr = object.attr;
            let Some(file) = object.file().filter(|file| file.is_unflushed()) else {
                continue;
            };
            let mut changes = vec![Change::Attr { key, attr }];
            for (start, end, source) in file.unlogged.iter() {
                let still = file.extents.within(start, end).filter(|part| part.2 == source);
                let content = source.content().ok_or(Status::ServerFault)?;
                let ranges: Vec<_> = still.map(|(from, to, _)| (from, to)).collect();
                changes.push(Change::Extents { key, content, ranges });
            }
            let synced = state.with_file(key, "checkpoint", |file| {
                file.writes_synced = file.writes;
                file.fresh = false;
            });
            synced.map_err(|_| Status::ServerFault)?;
            while !changes.is_empty() {
                let part = changes.drain(..changes.len().min(CHANGES_MAX)).collect();
                self.record(state, None, part)?;
            }
        }
        Ok(())
    }
}
