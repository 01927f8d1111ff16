//! Checkpoints of the writable layer while it is served.

use std::io;

use super::{Stack, append_status};
use crate::handle::ObjectKey;
use crate::service::{FsResult, Status};
use crate::writable::record::Change;
use crate::writable::saved::{self, Saved, SavedError};
use crate::writable::state::{FileState, Kind, State};

/// Changes in one record.
const CHANGES_MAX: usize = 4096;

impl Stack {
    /// Makes a checkpoint of the writable layer as it is; one of that name that is there stays as it is. Everything is
    /// durable afterwards. Others wait meanwhile: for the state to be written, most of what is unsynced is synced before.
    ///
    /// # Errors
    /// [`SavedError`]; the layer goes on as it was.
    pub fn save(&self, name: &str) -> Result<(), SavedError> {
        saved::check_name(name)?;
        let top = match self.writable() {
            Ok(top) => top,
            Err(Status::RoFs) => return Err(SavedError::ReadOnly),
            Err(status) => return Err(SavedError::Flush(status)),
        };
        self.flush_files().map_err(SavedError::Flush)?;
        let mut state = self.write_state().map_err(SavedError::Flush)?;
        let _nobody_writes = top
            .writing
            .write()
            .map_err(|_| SavedError::Flush(Status::ServerFault))?;
        self.flush_locked(&mut state).map_err(SavedError::Flush)?;
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
        let Some(change) = change else { return Ok(()) };
        self.log_saved(&mut state, change)?;
        // What is written from now on goes to other files.
        for object in state.objects.values_mut() {
            if let Kind::File(file) = &mut object.kind
                && file.writing.is_some_and(|id| top.content.is_pinned(id))
            {
                file.writing = None;
                file.fresh = false;
            }
        }
        Ok(())
    }

    /// Removes a checkpoint, if there is one of that name.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn delete_saved(&self, name: &str) -> Result<(), SavedError> {
        let top = match self.writable() {
            Ok(top) => top,
            Err(Status::RoFs) => return Err(SavedError::ReadOnly),
            Err(status) => return Err(SavedError::Flush(status)),
        };
        // Alone with it: files that are not pinned any more may be written in place, and others are removed.
        let mut state = self.write_state().map_err(SavedError::Flush)?;
        if !state.saved.contains_key(name) {
            return Ok(());
        }
        let change = Change::Saved {
            name: name.to_owned(),
            manifest: None,
        };
        self.log_saved(&mut state, change)?;
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

    fn log_saved(&self, state: &mut State, change: Change) -> Result<(), SavedError> {
        let ticket = self
            .record(state, None, vec![change])
            .map_err(SavedError::Flush)?;
        let top = self.writable().map_err(SavedError::Flush)?;
        let settled = top.log.settle(ticket).map_err(|error| append_status(&error));
        settled.map_err(SavedError::Flush)
    }

    /// Makes durable what files have only in memory, for a caller that lets nobody write.
    fn flush_locked(&self, state: &mut State) -> FsResult<()> {
        let top = self.writable()?;
        let unflushed = state
            .objects
            .iter()
            .filter(|(_, object)| object.file().is_some_and(FileState::is_unflushed));
        let unflushed: Vec<ObjectKey> = unflushed.map(|(&key, _)| key).collect();
        for key in unflushed {
            let object = state.objects.get(&key).ok_or(Status::ServerFault)?;
            let attr = object.attr;
            let Some(file) = object.file() else { continue };
            if let Some(id) = file.writing.filter(|_| file.writes > file.writes_synced) {
                self.sync_content(top, id, file.fresh)?;
            }
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
        top.log
            .settle(top.log.end())
            .map_err(|error| append_status(&error))
    }
}
