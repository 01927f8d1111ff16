//! A stack: read-only layers merged under at most one writable layer, as one tree that NFS can serve.
//!
//! Reading goes through [`resolve`](self): a handle names an object by identity; the writable layer's records come
//! first, the merged layers below second. Changing goes through copy-up (an object gets a record) and then one
//! log record per operation, applied to the state in memory once it is in the log.
//!
//! Locks, in this order: the right to change anything, the state (readers share it, an operation that changes something has it alone, content is read
//! and written outside), then the listings, one listing, the objects seen. The log syncs without any of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

mod compact;
mod data;
mod listing;
pub(crate) mod lower;
mod names;
mod open;
mod permit;
mod removal;
pub(crate) mod resolve;
mod saved;
mod service;
mod standing;
mod travel;

#[cfg(test)]
mod tests;

pub use open::{MissingBase, StackError, StackSpec, open};

use crate::attr::{SetTime, Time};
use crate::handle::{HandleKey, ObjectKey};
use crate::layer::ContentSource;
use crate::service::{CallKey, FsResult, FsStat, Statistics, Status, Ticket, WriteVerifier};
use crate::writable::Options;
use crate::writable::content::ContentStore;
use crate::writable::disk::{Disk, Lock, Space};
use crate::writable::extents::{ContentId, blocks};
use crate::writable::log::{AppendError, Log};
use crate::writable::mark::{Mark, MarkAtOpening};
use crate::writable::record::{Call, Change, Record};
use crate::writable::state::{Cut, State};
use crate::writable::travel::Sent;
use listing::{Listings, lock};
use lower::Lower;
use resolve::Node;

/// Size shown for every directory, so that it does not change with the layer it comes from.
pub(crate) const DIR_BYTES: u64 = 4096;

/// Layers served as one tree; see the module's documentation. Implements [`crate::service::FileService`].
pub struct Stack {
    pub(crate) lower: Lower,
    state: RwLock<State>,
    /// Held by whoever changes the state, and by who needs it unchanged for a while. Before the state, so that those who
    /// only look do not wait for one who waits for this.
    changing: Mutex<()>,
    top: Option<Top>,
    content: Arc<dyn ContentSource>,
    keys: HandleKey,
    root: ObjectKey,
    seen: Mutex<HashMap<ObjectKey, Node>>,
    listings: Mutex<Listings>,
    /// How often an object of a lower layer has been given a record. Moved with the state locked for changing.
    adoptions: AtomicU64,
    verifier: WriteVerifier,
    /// The last time given out, in nanoseconds since 1970.
    clock: AtomicU64,
    missing: Vec<MissingBase>,
}

/// The writable layer's files.
pub(crate) struct Top {
    disk: Disk,
    path: PathBuf,
    epoch: u64,
    options: Options,
    log: Log,
    content: ContentStore,
    /// Content files to remove once the log is durable up to the ticket.
    unused: Mutex<Vec<(Ticket, ContentId)>>,
    /// Content files to shorten once the log is durable up to the ticket.
    cut: Mutex<Vec<(Ticket, Cut)>>,
    /// Held by who makes the log short, or makes or removes a checkpoint.
    shaping: Mutex<()>,
    /// Held by whoever writes content without the state's lock; a checkpoint waits for them. After the state, before all
    /// else.
    writing: RwLock<()>,
    /// What the other end has, where the layer is on its way to another machine.
    sent: Mutex<Option<Sent>>,
    /// What the layer held when it was opened.
    mark: MarkAtOpening,
    /// Whether anything may have changed since.
    touched: AtomicBool,
    _lock: Lock,
}

impl Top {
    /// Notes that the layer may no longer hold what it held when it was opened. Before the change, not after it.
    fn touch(&self) {
        if !self.touched.swap(true, Ordering::AcqRel) {
            self.mark.forget();
        }
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        if self.touched.load(Ordering::Acquire) && !self.log.is_poisoned() {
            // Without it the next holder copies what this one has written.
            if let Err(error) = self.log.close() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "closing a writable layer"
                );
            }
        }
    }
}

/// The state, and the right to change it.
struct Changing<'a> {
    state: RwLockWriteGuard<'a, State>,
    held: MutexGuard<'a, ()>,
}

impl<'a> Changing<'a> {
    /// Lets others look again, and nobody change anything.
    fn done(self) -> MutexGuard<'a, ()> {
        self.held
    }
}

impl std::ops::Deref for Changing<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("layers", &self.lower.ids())
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// Figures for status displays.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Statistics {
            objects: crate::writable::log::as_u64(state.objects.len()),
            bytes: state.bytes,
            log_bytes: self.top.as_ref().map_or(0, |top| top.log.bytes()),
            failed: self.top.as_ref().is_some_and(|top| top.log.is_poisoned()),
        }
    }

    /// What the writable layer holds, as long as that is what it held when it was opened; `None` once something may
    /// have changed. Asked for the first time, it takes a while for a large layer.
    #[must_use]
    pub fn unchanged_mark(&self) -> Option<Mark> {
        let top = self.top.as_ref()?;
        let unchanged = || !top.touched.load(Ordering::Acquire);
        // Afterwards too: what changed meanwhile may be in it.
        let mark = unchanged().then(|| top.mark.take())?;
        mark.filter(|_| unchanged())
    }

    /// Changed files whose unchanged part could not be read when the stack was opened: their layer has left the stack
    /// and the content store does not hold it. They give [`Status::Io`]; nothing of them is deleted.
    #[must_use]
    pub fn missing_bases(&self) -> &[MissingBase] {
        &self.missing
    }

    fn read_state(&self) -> FsResult<RwLockReadGuard<'_, State>> {
        self.state.read().map_err(|_| Status::ServerFault)
    }

    /// The state, to be changed.
    fn write_state(&self) -> FsResult<Changing<'_>> {
        self.change(self.hold_changes()?)
    }

    fn change<'a>(&'a self, held: MutexGuard<'a, ()>) -> FsResult<Changing<'a>> {
        let state = self.state.write().map_err(|_| Status::ServerFault)?;
        Ok(Changing { state, held })
    }

    /// Lets nobody change anything, while everybody can look.
    fn hold_changes(&self) -> FsResult<MutexGuard<'_, ()>> {
        self.changing.lock().map_err(|_| Status::ServerFault)
    }

    fn writable(&self) -> FsResult<&Top> {
        let top = self.top.as_ref().ok_or(Status::RoFs)?;
        if top.log.is_poisoned() {
            Err(Status::Io)
        } else {
            Ok(top)
        }
    }

    /// Writes one record and makes its changes; the only way the state changes for good.
    pub(crate) fn record(
        &self,
        state: &mut State,
        call: Option<Call>,
        changes: Vec<Change>,
    ) -> FsResult<Ticket> {
        let top = self.writable()?;
        top.touch();
        let mut record = Record { call, changes };
        let payload = record.encode();
        let appended = top.log.append(&payload).map_err(|error| append_status(&error))?;
        let mut renamed = Vec::new();
        for change in &record.changes {
            match change {
                Change::Entry { dir, name, .. } => renamed.push((*dir, name.clone())),
                Change::Make { key, .. } => {
                    self.forget(*key);
                    if self.lower.index(key.layer).is_some() {
                        self.adoptions.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Change::Drop { key } => self.forget(*key),
                _ => {}
            }
        }
        if let Err(misfit) = state.apply(record, appended.position) {
            top.log.poison(&misfit);
            return Err(Status::ServerFault);
        }
        for (dir, name) in renamed {
            self.relist(state, dir, &name);
        }
        if !state.unused.is_empty() {
            lock(&top.unused).extend(state.unused.drain(..).map(|id| (appended.ticket, id)));
        }
        if !state.cut.is_empty() {
            lock(&top.cut).extend(state.cut.drain(..).map(|cut| (appended.ticket, cut)));
        }
        Ok(appended.ticket)
    }

    /// Waits for the disk, and then does what had to wait for it. Not for callers that hold the state's lock.
    fn settle_ticket(&self, ticket: Ticket) -> FsResult<()> {
        let Some(top) = &self.top else { return Ok(()) };
        top.log.settle(ticket).map_err(|error| append_status(&error))?;
        crate::stopping::at("remove");
        let durable = top.log.durable();
        let mut gone = Vec::new();
        lock(&top.unused).retain(|&(until, id)| {
            let done = until <= durable;
            if done {
                gone.push(id);
            }
            !done
        });
        gone.into_iter().for_each(|id| top.content.remove(id));
        self.trim(top, durable);
        Ok(())
    }

    /// Gives back the space of what was cut off files. A truncation that only the log knew of would let a guest fill the
    /// disk whatever its quota: write, cut, write the next file.
    fn trim(&self, top: &Top, durable: Ticket) {
        if !lock(&top.cut).iter().any(|(until, _)| *until <= durable) {
            return;
        }
        let Ok(mut state) = self.write_state() else { return };
        let mut pending = lock(&top.cut);
        let (done, rest): (Vec<_>, Vec<_>) = pending.drain(..).partition(|(until, _)| *until <= durable);
        *pending = rest;
        for (_, cut) in done {
            // What a later cut, which the disk may not know yet, takes away was perhaps written and logged after this one.
            if pending.iter().any(|(_, later)| later.content == cut.content) {
                continue;
            }
            let shortened = state.with_file(cut.key, "cut", |file| {
                file.trims += 1;
                top.content.shorten(cut.content, cut.size.max(file.extents.end()));
            });
            // Removed in the meantime, and so is its content.
            let _gone = shortened.is_err();
        }
    }

    /// A ticket for everything written so far.
    fn end_ticket(&self) -> Ticket {
        self.top
            .as_ref()
            .map_or_else(Ticket::default, |top| top.log.end())
    }

    /// The time, later than any given out before: clients tell versions of a file apart by it.
    fn now(&self) -> Time {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX / 2);
        let before = self
            .clock
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(clock.max(last + 1))
            })
            .unwrap_or_default();
        let nanos = clock.max(before + 1);
        Time {
            seconds: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            nanos: u32::try_from(nanos % 1_000_000_000).unwrap_or_default(),
        }
    }

    /// A call that has been carried out in the meantime must not run again; the client asks again and is answered.
    fn check_call(&self, state: &State, call: Option<CallKey>) -> FsResult<()> {
        match call.and_then(|key| state.calls.get(&key)) {
            None => Ok(()),
            Some(_) => Err(Status::Jukebox),
        }
    }

    /// Remembers a call that succeeded without changing anything.
    fn remember_call(&self, state: &mut State, call: Option<Call>) -> FsResult<Ticket> {
        match call {
            Some(call) if self.top.is_some() && state.calls.get(&call.key).is_none() => {
                self.record(state, Some(call), Vec::new())
            }
            _ => Ok(self.end_ticket()),
        }
    }

    fn check_objects(&self, state: &State) -> FsResult<()> {
        if !state.has_numbers() {
            return Err(Status::NoSpc);
        }
        let objects = crate::writable::log::as_u64(state.objects.len());
        match self.top.as_ref().and_then(|top| top.options.objects_max()) {
            Some(most) if objects >= most => Err(Status::DQuot),
            _ => Ok(()),
        }
    }

    /// Whether `start..end` of a file may be written; what is written already is not counted again.
    fn check_bytes(&self, state: &State, key: ObjectKey, start: u64, end: u64) -> FsResult<()> {
        let file = state.objects.get(&key).and_then(|object| object.file());
        let counted: u64 = file.map_or(0, |file| {
            file.extents
                .within(start, end)
                .map(|(from, to, _)| to - from)
                .sum()
        });
        let more = if counted == end - start {
            0
        } else {
            blocks(start, end).saturating_sub(counted)
        };
        match self.top.as_ref().and_then(|top| top.options.quota.bytes()) {
            // What takes no room is allowed even where the quota was moved below what there is.
            Some(most) if more > 0 && state.bytes.saturating_add(more) > most => Err(Status::DQuot),
            _ => Ok(()),
        }
    }

    fn do_fsstat(&self) -> FsResult<FsStat> {
        let state = self.read_state()?;
        let Some(top) = &self.top else {
            return Ok(FsStat {
                bytes_total: 0,
                bytes_free: 0,
                files_total: 0,
                files_free: 0,
            });
        };
        let Space { total, free } = top
            .disk
            .space(&top.path)
            .map_err(|error| data::io_status("looking for room", &error))?;
        let objects = crate::writable::log::as_u64(state.objects.len());
        // Objects are records, so the disk's inodes are no bound; its space is, at some 256 bytes each.
        let (files_total, files_free) = match top.options.objects_max() {
            Some(most) => (most, most.saturating_sub(objects)),
            None => (objects.saturating_add(free / 256), free / 256),
        };
        let (bytes_total, bytes_free) = match top.options.quota.bytes() {
            Some(most) => (most, most.saturating_sub(state.bytes).min(free)),
            None => (total, free),
        };
        Ok(FsStat {
            bytes_total,
            bytes_free,
            files_total,
            files_free,
        })
    }
}

/// What a client is told.
fn append_status(error: &AppendError) -> Status {
    match error {
        AppendError::Io(error) => data::io_status("writing to the log", error),
        AppendError::Poisoned => Status::Io,
        AppendError::TooLong => Status::MLink,
    }
}

/// What a time becomes.
fn time_after(set: SetTime, kept: Time, now: Time) -> Time {
    match set {
        SetTime::Keep => kept,
        SetTime::ServerNow => now,
        SetTime::Client(time) => time,
    }
}

fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Refuses what can be no name.
fn check_name(name: &[u8]) -> FsResult<()> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(Status::Inval);
    }
    if name.len() > 255 {
        return Err(Status::NameTooLong);
    }
    Ok(())
}
