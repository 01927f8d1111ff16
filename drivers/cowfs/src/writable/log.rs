//! The log on disk: a chain of segments, replayed at open and appended to afterwards.
//!
//! A [`Ticket`] counts the bytes appended since the log was opened, not those of one segment: it keeps its meaning when a
//! checkpoint takes the place of the chain.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::WritableError;
use super::disk::{Disk, DiskFile, Mode, is_full};
use super::record::{Change, Record};
use super::replay::{Replayed, Segment, Unproven};
use super::reserve::Reserve;
use super::segment::{self, FORMAT, HEADER, Header, LogKey, SegmentName};
use super::state::{Position, State};
use crate::service::Ticket;

/// Name of the folder of segments.
pub(crate) const FOLDER: &str = "log";

/// A log below this many bytes is not compacted while it is served.
const COMPACT_MIN: u64 = if cfg!(test) { 32 << 10 } else { 16 << 20 };

/// How long the time stamp of a folder may stay the same although its entries change: two seconds on the coarsest file
/// systems there are.
const STAMP_STEP: Duration = Duration::from_secs(2);

/// Most bytes of records that are kept until they are known to be on disk; then whoever appends waits for the disk.
const UNSYNCED_MAX: usize = if cfg!(test) { 64 << 10 } else { 4 << 20 };

/// The log, open for appending.
pub(crate) struct Log {
    disk: Disk,
    folder: PathBuf,
    key: LogKey,
    /// Only changed by [`Log::append`], which the state's write lock serialises, and [`Log::replace`] while nobody appends.
    tail: Mutex<Tail>,
    /// More bytes than this are worth a checkpoint.
    compact_at: AtomicU64,
    sync: Mutex<Sync>,
    synced: Condvar,
    poisoned: AtomicBool,
    reserve: Reserve,
    /// Whether what is appended now may have the room that is kept for removals.
    drawing: AtomicBool,
    /// `None` where nobody else can have the layer open.
    watch: Option<Watch>,
}

/// Looks out for a later holder.
struct Watch {
    epoch: u64,
    /// The folder's time stamp when it was looked through last, and when that stamp was seen first.
    looked: Mutex<Option<((i64, i64), Instant)>>,
}

/// The segments, and the end of the last.
struct Tail {
    /// By the numbers that sources of content have; those that a checkpoint has replaced are gone in the end.
    segments: Vec<Option<Arc<DiskFile>>>,
    names: Vec<SegmentName>,
    binding: [u8; 32],
    /// Where in the last segment the next record goes.
    end: u64,
    /// Whether something that is no record may be behind the end.
    ragged: bool,
    /// What tickets count before the first byte of the last segment.
    base: u64,
    /// Bytes of the segments before the last.
    bytes_before: u64,
    /// What was appended and is not known to be on disk: after a sync that failed the kernel may have dropped it.
    unsynced: Vec<u8>,
    /// Whether a sync has failed, so that it has to be written again before the next one means anything.
    suspect: bool,
    /// Whether something of it may have the room that is kept for removals.
    drawn: bool,
}

impl Tail {
    fn ticket(&self) -> u64 {
        self.base + self.end
    }

    /// Forgets what is on disk up to `until`.
    fn proven(&mut self, until: u64) {
        let left = usize::try_from(self.ticket().saturating_sub(until)).unwrap_or(usize::MAX);
        let done = self.unsynced.len().saturating_sub(left);
        self.unsynced.drain(..done);
        self.suspect = false;
        self.drawn &= !self.unsynced.is_empty();
    }
}

/// A checkpoint on disk, about to take the place of the chain.
pub(super) struct Replacement {
    pub(super) file: DiskFile,
    pub(super) header: Header,
    pub(super) len: u64,
}

/// The last segment as it was at one moment.
pub(crate) struct End {
    pub(super) file: Arc<DiskFile>,
    pub(super) binding: [u8; 32],
    /// Where it ended.
    pub(super) at: u64,
}

impl End {
    /// Where it ended.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }
}

/// What a checkpoint has taken the place of: to be removed once nothing is read from it any more.
#[must_use]
pub(crate) struct Replaced {
    names: Vec<SegmentName>,
    /// The checkpoint's own number; those below are replaced.
    pub(crate) by: u32,
}

/// See [`Log::draw`].
pub(crate) struct Drawing<'a>(&'a Log);

impl Drop for Drawing<'_> {
    fn drop(&mut self) {
        self.0.drawing.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct Sync {
    until: u64,
    running: bool,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("writing to the log")]
    Io(#[source] io::Error),
    #[error("the log can no longer be trusted to reach the disk")]
    Poisoned,
    #[error("the record is longer than {} bytes", segment::PAYLOAD_MAX)]
    TooLong,
}

/// Why a holder gives up.
#[derive(Debug, thiserror::Error)]
#[error("the layer has been opened under epoch {0}")]
struct Passed(u64);

/// Where a record went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub(crate) position: Position,
    pub(crate) ticket: Ticket,
}

impl Log {
    /// Opens the log for `epoch` after `replayed`, `alone` where nobody else can have the layer open: goes on with the last segment if it is of that epoch, else seals it
    /// and begins the next.
    pub(crate) fn open(
        disk: &Disk,
        dir: &Path,
        epoch: u64,
        alone: bool,
        replayed: &Replayed,
    ) -> Result<Self, WritableError> {
        let folder = dir.join(FOLDER);
        let mut segments = Vec::new();
        let mut names: Vec<SegmentName> = replayed.chain.iter().map(|one| one.header.name).collect();
        for segment in &replayed.chain {
            let file = disk
                .open(&segment.path, Mode::Read)
                .map_err(io_at("opening", &segment.path))?;
            segments.push(Some(Arc::new(file)));
        }
        let key = replayed.state.log_key();
        let last = replayed.chain.last();
        let (header, end) = match last {
            Some(last) if last.header.name.epoch == epoch => {
                let path = &last.path;
                let file = disk.open(path, Mode::ReadWrite).map_err(io_at("opening", path))?;
                if replayed.torn > 0 {
                    file.set_len(last.len)
                        .map_err(io_at("cutting the torn end of", path))?;
                }
                make_durable(&file, replayed).map_err(io_at("syncing", path))?;
                // Its name may be younger than the last sync, if its maker died young.
                disk.sync_dir(&folder).map_err(io_at("syncing", &folder))?;
                segments.pop();
                segments.push(Some(Arc::new(file)));
                (last.header, last.len)
            }
            _ => {
                let sequence = last.map_or(1, |last| last.header.name.sequence + 1);
                let header = Header {
                    format: FORMAT,
                    layer: replayed.state.layer(),
                    name: SegmentName { sequence, epoch },
                    checkpoint: false,
                    predecessor: last.map(Segment::sealed),
                };
                if let Some(last) = last {
                    // The seal promises these bytes.
                    disk.open(&last.path, Mode::ReadWrite)
                        .and_then(|file| make_durable(&file, replayed))
                        .map_err(io_at("syncing", &last.path))?;
                }
                segments.push(Some(Arc::new(create(disk, &folder, &header, &replayed.unborn)?)));
                names.push(header.name);
                (header, as_u64(HEADER))
            }
        };
        // Only now, so that a claim is seen without interruption.
        for path in &replayed.unborn {
            if *path != folder.join(header.name.file_name()) {
                disk.remove(path)
                    .map_err(io_at("removing a segment without header", path))?;
            }
        }
        let before = replayed.chain.iter().filter(|s| s.header.name != header.name);
        let bytes_before = before.map(|s| s.len).sum::<u64>();
        let tail = Tail {
            segments,
            names,
            binding: header.binding(&key),
            end,
            ragged: false,
            base: 0,
            bytes_before,
            unsynced: Vec::new(),
            suspect: false,
            drawn: false,
        };
        Ok(Self {
            disk: disk.clone(),
            folder,
            key,
            tail: Mutex::new(tail),
            // What opening has left is half garbage at most.
            compact_at: AtomicU64::new(COMPACT_MIN.max((bytes_before + end).saturating_mul(2))),
            sync: Mutex::new(Sync {
                until: end,
                running: false,
            }),
            synced: Condvar::new(),
            poisoned: AtomicBool::new(false),
            reserve: Reserve::open(disk, dir),
            drawing: AtomicBool::new(false),
            watch: (!alone).then(|| Watch {
                epoch,
                looked: Mutex::new(None),
            }),
        })
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        let tail = self.tail();
        tail.bytes_before + tail.end
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // Every change is whole before anything could panic.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is so much in it that a checkpoint would pay.
    pub(crate) fn is_long(&self) -> bool {
        self.bytes() > self.compact_at.load(Ordering::Acquire)
    }

    /// Has [`Log::is_long`] wait until what is there now, of which `live` bytes are no garbage, has grown threefold.
    pub(crate) fn is_long_beyond(&self, live: u64) {
        let next = COMPACT_MIN.max(live.saturating_mul(3));
        self.compact_at.store(next, Ordering::Release);
    }

    /// All segments, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<DiskFile>> {
        self.tail().segments.iter().flatten().cloned().collect()
    }

    /// The last segment's name.
    pub(crate) fn last(&self) -> Option<SegmentName> {
        self.tail().names.last().copied()
    }

    /// What they are on.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where the segments are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of the last segment.
    pub(crate) fn last_end(&self) -> Option<End> {
        let tail = self.tail();
        Some(End {
            file: tail.segments.last()?.clone()?,
            binding: tail.binding,
            at: tail.end,
        })
    }

    /// Puts a checkpoint of the present state, which is on disk under its name, in the place of the chain. What it
    /// replaces can still be read until [`Log::retire`]. Not if a later holder has come: it may be building on the chain.
    /// The caller lets nobody append.
    pub(super) fn replace(&self, new: Replacement) -> Result<Replaced, AppendError> {
        let gave_up = |error: io::Error| {
            self.poison(&error);
            AppendError::Poisoned
        };
        for name in self.disk.list(&self.folder).map_err(gave_up)? {
            let found = name.to_str().and_then(SegmentName::parse);
            if found.is_some_and(|found| found.epoch > new.header.name.epoch) {
                return Err(gave_up(io::Error::other("a later holder has opened the layer")));
            }
        }
        crate::stopping::at("replace");
        let mut tail = self.tail();
        let by = u32::try_from(tail.segments.len()).map_err(|_| AppendError::Poisoned)?;
        tail.base = tail.ticket();
        tail.segments.push(Some(Arc::new(new.file)));
        let names = std::mem::replace(&mut tail.names, vec![new.header.name]);
        tail.binding = new.header.binding(&self.key);
        tail.end = new.len;
        tail.ragged = false;
        tail.bytes_before = 0;
        let until = tail.ticket();
        tail.proven(until);
        drop(tail);
        self.sync.lock().unwrap_or_else(PoisonError::into_inner).until = until;
        self.synced.notify_all();
        self.is_long_beyond(new.len);
        Ok(Replaced { names, by })
    }

    /// Removes what a checkpoint has replaced, now that no source of content is in it.
    pub(crate) fn retire(&self, replaced: Replaced) {
        let mut tail = self.tail();
        let before = usize::try_from(replaced.by).unwrap_or_default();
        let gone: Vec<_> = tail.segments.iter_mut().take(before).map(Option::take).collect();
        drop(tail);
        drop(gone);
        for name in replaced.names {
            // One that stays is removed at the next opening.
            if let Err(error) = self.disk.remove(&self.folder.join(name.file_name())) {
                tracing::warn!(%error, segment = name.file_name(), "a replaced segment stays");
            }
        }
    }

    /// Whether nobody else can have the layer open.
    pub(super) fn is_alone(&self) -> bool {
        self.watch.is_none()
    }

    /// Says in the log that this holder writes no more, so that the next one need not fear for its content.
    pub(crate) fn close(&self) -> Result<(), AppendError> {
        if self.is_alone() {
            return Ok(());
        }
        let mut record = Record {
            call: None,
            changes: vec![Change::Closed],
        };
        let appended = self.append(&record.encode())?;
        self.settle(appended.ticket)
    }

    /// Whether a later holder has come.
    pub(super) fn has_been_passed(&self) -> bool {
        self.check_holder().is_err()
    }

    /// Refuses once a later holder has come: it does not know what is written now.
    fn check_holder(&self) -> Result<(), AppendError> {
        let Some(watch) = &self.watch else { return Ok(()) };
        let stamp = self.disk.status(&self.folder).map_err(AppendError::Io)?.mtime;
        let mut looked = watch.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match *looked {
            Some((before, first)) if before == stamp => {
                if first.elapsed() > STAMP_STEP {
                    return Ok(());
                }
                first
            }
            _ => Instant::now(),
        };
        let names = self.disk.list(&self.folder).map_err(AppendError::Io)?;
        let found = names.iter().filter_map(|name| SegmentName::parse(name.to_str()?));
        if let Some(later) = found.map(|name| name.epoch).find(|&epoch| epoch > watch.epoch) {
            self.poison(&Passed(later));
            return Err(AppendError::Poisoned);
        }
        *looked = Some((stamp, first));
        Ok(())
    }

    /// Whether something has failed after which nothing may be acknowledged.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Gives up on durability for good: no change and no settling succeeds any more.
    pub(crate) fn poison(&self, why: &dyn std::error::Error) {
        if !self.poisoned.swap(true, Ordering::AcqRel) {
            tracing::error!(%why, "the writable layer takes no more changes");
        }
    }

    /// Writes a record behind the others, without waiting for the disk. The caller holds the state's write lock.
    pub(crate) fn append(&self, payload: &[u8]) -> Result<Appended, AppendError> {
        if self.is_poisoned() {
            return Err(AppendError::Poisoned);
        }
        self.check_holder()?;
        crate::stopping::at("append");
        self.prove_suspect()?;
        let durable = self.sync.lock().unwrap_or_else(PoisonError::into_inner).until;
        let (file, index, binding, end, base, ragged) = {
            let tail = self.tail();
            let file = tail
                .segments
                .last()
                .cloned()
                .flatten()
                .ok_or(AppendError::Poisoned)?;
            (
                file,
                tail.segments.len() - 1,
                tail.binding,
                tail.end,
                tail.base,
                tail.ragged,
            )
        };
        let index = u32::try_from(index).map_err(|_| AppendError::Poisoned)?;
        let durable = durable.saturating_sub(base);
        let framed = segment::frame(&binding, end, durable, payload).ok_or(AppendError::TooLong)?;
        if ragged {
            file.set_len(end).map_err(AppendError::Io)?;
            self.tail().ragged = false;
        }
        let drawing = self.drawing.load(Ordering::Acquire);
        let mut written = file.write_all_at(&framed, end);
        if written.as_ref().is_err_and(is_full) && drawing && self.reserve.release() {
            written = file.write_all_at(&framed, end);
        }
        if let Err(error) = written {
            // A part may have arrived: take it back, now or before the next record. Nobody was told about it, so a crash
            // until then cuts it off.
            self.tail().ragged = file.set_len(end).is_err();
            return Err(AppendError::Io(error));
        }
        let after = end + as_u64(framed.len());
        let mut tail = self.tail();
        tail.end = after;
        tail.unsynced.extend_from_slice(&framed);
        tail.drawn |= drawing;
        drop(tail);
        let payload = end + as_u64(segment::FRAME);
        Ok(Appended {
            position: Position {
                segment: index,
                payload,
            },
            ticket: Ticket(base + after),
        })
    }

    /// Has on disk what a sync that failed may have dropped, and what is too much to be kept: until then nothing more is
    /// appended.
    fn prove_suspect(&self) -> Result<(), AppendError> {
        let (suspect, much) = {
            let tail = self.tail();
            (tail.suspect, tail.unsynced.len() >= UNSYNCED_MAX)
        };
        if !suspect && !much {
            return Ok(());
        }
        match self.settle(self.end()) {
            Err(AppendError::Io(error))
                if is_full(&error) && self.drawing.load(Ordering::Acquire) && self.reserve.release() =>
            {
                self.settle(self.end())
            }
            proven => proven,
        }
    }

    /// Syncs everything up to the ticket that is returned, after writing again what an earlier sync may have dropped.
    fn sync_tail(&self) -> (u64, Result<(), AppendError>) {
        let (until, file, again) = {
            let tail = self.tail();
            let again = tail
                .suspect
                .then(|| (tail.end - as_u64(tail.unsynced.len()), tail.unsynced.clone()));
            (tail.ticket(), tail.segments.last().cloned().flatten(), again)
        };
        let Some(file) = file else { return (until, Ok(())) };
        let rewritten = again.map_or(Ok(()), |(at, bytes)| file.write_all_at(&bytes, at));
        let synced = rewritten.and_then(|()| file.sync()).map_err(AppendError::Io);
        // A later holder that came before this look may not have seen what was synced; one that comes after it has.
        (until, synced.and_then(|()| self.check_holder()))
    }

    /// What becomes of a sync that failed: whether it is worth another try. Where there was no room, what was appended is
    /// kept and written again later. Everything else ends the trust in the disk.
    fn sync_failed(&self, error: &AppendError) -> bool {
        let AppendError::Io(source) = error else {
            return false;
        };
        if !is_full(source) {
            self.poison(error);
            return false;
        }
        let mut tail = self.tail();
        tail.suspect = true;
        let (at, bytes) = (tail.end - as_u64(tail.unsynced.len()), tail.unsynced.clone());
        let file = tail.segments.last().cloned().flatten();
        let drawn = tail.drawn;
        drop(tail);
        if drawn && self.reserve.release() {
            return true;
        }
        // So that it can be read, as far as it goes: what is shown is what was appended, though nobody was promised it.
        if let Some(Err(error)) = file.map(|file| file.write_all_at(&bytes, at)) {
            tracing::debug!(%error, "there is no room for the end of the log");
        }
        false
    }

    /// Lets what is appended while the result lives have the room that is kept for removals, if the disk is full. The
    /// caller holds the state's write lock.
    pub(crate) fn draw(&self) -> Drawing<'_> {
        self.drawing.store(true, Ordering::Release);
        Drawing(self)
    }

    /// Keeps room for removals again, if there is some.
    pub(crate) fn keep_room(&self) {
        if !self.is_poisoned() {
            self.reserve.refill();
        }
    }

    /// Waits until everything up to `ticket` is on disk. One caller syncs for all who wait.
    pub(crate) fn settle(&self, ticket: Ticket) -> Result<(), AppendError> {
        let mut sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if sync.until >= ticket.0 {
                return Ok(());
            }
            if self.is_poisoned() {
                return Err(AppendError::Poisoned);
            }
            if sync.running {
                sync = self.synced.wait(sync).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            sync.running = true;
            drop(sync);
            let (until, outcome) = self.sync_tail();
            // After a failed sync the kernel may have dropped the dirty pages: just asking again would lie.
            let again = outcome.as_ref().is_err_and(|error| self.sync_failed(error));
            sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
            sync.running = false;
            if outcome.is_ok() {
                self.tail().proven(until);
                sync.until = sync.until.max(until);
            }
            self.synced.notify_all();
            match outcome {
                Err(_) if again => continue,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if until < ticket.0 && !self.is_poisoned() && sync.until >= self.end().0 {
                // A ticket from beyond the end is nobody's: do not spin on it.
                return Err(AppendError::Poisoned);
            }
        }
    }

    /// A ticket for everything appended so far.
    pub(crate) fn end(&self) -> Ticket {
        Ticket(self.tail().ticket())
    }

    /// Up to where the log is known to be on disk.
    pub(crate) fn durable(&self) -> Ticket {
        Ticket(self.sync.lock().unwrap_or_else(PoisonError::into_inner).until)
    }

    /// Reads bytes that a record holds.
    pub(crate) fn segment(&self, index: u32) -> Option<Arc<DiskFile>> {
        self.tail()
            .segments
            .get(usize::try_from(index).ok()?)
            .cloned()
            .flatten()
    }
}

/// Has what was replayed on disk. It may be only in the page cache of a server that was killed, and after a sync that
/// failed it may be there for good, as if it had been written: so it is written again.
fn make_durable(file: &DiskFile, replayed: &Replayed) -> io::Result<()> {
    let Unproven { at, bytes } = &replayed.unproven;
    if !bytes.is_empty() {
        file.write_all_at(bytes, *at)?;
    }
    file.sync()
}

/// Makes one change, in the log and in `state`.
pub(super) fn append_change(log: &Log, state: &mut State, change: Change) -> io::Result<()> {
    let mut record = Record {
        call: None,
        changes: vec![change],
    };
    let appended = log.append(&record.encode()).map_err(|error| match error {
        AppendError::Io(error) => error,
        other => io::Error::other(other),
    })?;
    state.apply(record, appended.position).map_err(io::Error::other)
}

/// Tells every earlier holder that `epoch` has come: the name of its segment, with nothing in it yet.
pub(super) fn claim(disk: &Disk, dir: &Path, replayed: &Replayed, epoch: u64) -> Result<(), WritableError> {
    let folder = dir.join(FOLDER);
    let last = replayed.chain.last().map(|last| last.header.name.sequence);
    let name = SegmentName {
        sequence: last.map_or(1, |last| last.saturating_add(1)),
        epoch,
    };
    let path = folder.join(name.file_name());
    let claimed = match disk.open(&path, Mode::CreateNew) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        claimed => claimed.map(drop),
    };
    claimed
        .and_then(|()| disk.sync_dir(&folder))
        .map_err(io_at("claiming", &path))
}

fn create(
    disk: &Disk,
    folder: &Path,
    header: &Header,
    unborn: &[PathBuf],
) -> Result<DiskFile, WritableError> {
    let path = folder.join(header.name.file_name());
    let doing = io_at("beginning", &path);
    let claimed = unborn.contains(&path);
    let mode = if claimed { Mode::Truncate } else { Mode::CreateNew };
    let file = disk.open(&path, mode).map_err(&doing)?;
    file.write_all_at(&header.encode(), 0)
        .and_then(|()| file.sync())
        .map_err(&doing)?;
    disk.sync_dir(folder).map_err(&doing)?;
    Ok(file)
}

pub(super) fn io_at<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> WritableError + 'a {
    move |source| WritableError::Io {
        doing,
        path: path.to_path_buf(),
        source,
    }
}

/// Lengths in memory fit 64 bits everywhere Rust runs.
pub(crate) fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
