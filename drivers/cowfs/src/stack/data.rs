//! Content: READ, WRITE, COMMIT, and SETATTR with its truncation.
//!
//! Small writes that must be stable go into the log record itself: one sync makes them durable. All others go to a
//! content file without a sync; COMMIT syncs that file first and then logs which ranges it holds. A crash in between
//! leaves the log not knowing the ranges, so what is there without having been committed is never shown.

use std::io;
use std::sync::{Arc, PoisonError};

use super::lower::trouble;
use super::permit::{self, R, X};
use super::resolve::Node;
use super::{Stack, Top, time_after};
use crate::attr::{Attr, FileType, SetAttr, SetTime, Time};
use crate::handle::ObjectKey;
use crate::layer::{Lent, NodeNumber};
use crate::service::{
    Around, CallKey, Caller, Changed, FsResult, Handle, ReadOutcome, Stability, Status, Ticket, Written,
};
use crate::writable::content::ContentFile;
use crate::writable::disk::{DiskFile, is_full};
use crate::writable::extents::{ContentId, Extents, Source};
use crate::writable::log::as_u64;
use crate::writable::record::{Base, Call, Change, SIZE_MAX, Stored};
use crate::writable::state::{FileState, Object, State};

/// Largest stable write kept in the log itself.
const INLINE_MAX: usize = 4096;
/// Most bytes of one file that the log takes: a file that is written and synced over and over would fill it with
/// garbage.
const INLINED_MAX: u64 = 64 << 10;
/// Most bytes answered to one READ.
const READ_MAX: u64 = 4 << 20;
/// Bytes that are written again at once.
const REWRITTEN: usize = 1 << 20;
/// Most ranges in one record.
const RANGES_MAX: usize = 65_536;

/// A part of a file, and where its bytes are.
enum Piece {
    File(Arc<DiskFile>, u64),
    Base(Box<Base>, u64),
    Zero,
}

/// A READ of a file as a lower layer has it.
struct Unchanged {
    /// Index of the layer.
    layer: usize,
    number: NodeNumber,
    /// What is answered once the bytes are there.
    outcome: ReadOutcome,
}

/// Refuses sizes that off_t does not hold.
pub(crate) fn check_size(size: u64) -> FsResult<()> {
    if size <= SIZE_MAX {
        Ok(())
    } else {
        Err(Status::FBig)
    }
}

pub(super) fn io_status(doing: &'static str, error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::StorageFull => Status::NoSpc,
        io::ErrorKind::QuotaExceeded => Status::DQuot,
        io::ErrorKind::ReadOnlyFilesystem => Status::RoFs,
        io::ErrorKind::FileTooLarge => Status::FBig,
        _ => {
            tracing::warn!(%error, doing, "content of the writable layer");
            Status::Io
        }
    }
}

/// Writes again what a content file shows: a sync that failed may have left it in memory alone, or not even there. What the
/// log says of the file is then true, whatever it is that its writer lost and will write again.
fn rewrite(top: &Top, id: ContentId, ranges: &Extents) -> io::Result<()> {
    let file = top.content.open(id)?;
    let mut buffer = vec![0; REWRITTEN];
    for (start, end, _) in ranges.iter().filter(|part| part.2 == Source::Content(id)) {
        let mut at = start;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(REWRITTEN).min(REWRITTEN);
            let piece = &mut buffer[..count];
            // Nobody writes in between: older bytes must not come over newer ones.
            let _nobody_writes = top.writing.write().unwrap_or_else(PoisonError::into_inner);
            let there = file.reader().read_at(piece, at)?;
            piece[there..].fill(0);
            file.write_all_at(piece, at)?;
            at += as_u64(count);
        }
    }
    Ok(())
}

fn regular(attr: &Attr) -> FsResult<()> {
    match attr.file_type {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Status::IsDir),
        FileType::Block | FileType::Character | FileType::Symlink | FileType::Socket | FileType::Fifo => {
            Err(Status::Inval)
        }
    }
}

/// Those of the objects that have something only in memory or in the page cache.
pub(super) fn unflushed<'a>(objects: impl Iterator<Item = (&'a ObjectKey, &'a Object)>) -> Vec<ObjectKey> {
    let unflushed = objects.filter(|(_, object)| object.file().is_some_and(FileState::is_unflushed));
    unflushed.map(|(&key, _)| key).collect()
}

impl Stack {
    /// READ.
    pub(crate) fn do_read(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> FsResult<ReadOutcome> {
        // A truncation may shorten a content file between the steps; then they start again.
        for _ in 0..8 {
            if let Some(outcome) = self.read_once(caller, handle, offset, count, out)? {
                return Ok(outcome);
            }
        }
        tracing::warn!("content is shorter than the log says");
        Err(Status::Io)
    }

    /// READ of a file that no guest has changed, if its pages are in memory. Everything else takes the other way.
    pub(crate) fn do_read_cached(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Option<ReadOutcome> {
        let unchanged = self.unchanged(caller, handle, offset, count)?;
        let wanted = usize::try_from(unchanged.outcome.count).ok()?;
        let start = out.len();
        out.resize(start + wanted, 0);
        let there = wanted == 0
            || self
                .lower
                .layer(unchanged.layer)
                .read_cached(unchanged.number, offset, &mut out[start..]);
        there.then_some(unchanged.outcome)
    }

    /// READ of a file that no guest has changed, out of the file that holds it. Everything else takes the other way.
    pub(crate) fn do_read_lent(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
    ) -> Option<(ReadOutcome, Lent)> {
        let unchanged = self.unchanged(caller, handle, offset, count)?;
        let wanted = usize::try_from(unchanged.outcome.count).ok()?;
        let lent = self
            .lower
            .layer(unchanged.layer)
            .lend(unchanged.number, offset, wanted)?;
        (lent.bytes.len() == wanted).then_some((unchanged.outcome, lent))
    }

    /// What a READ will find in a file that no guest has changed, if the caller may read it.
    fn unchanged(&self, caller: &Caller, handle: &Handle, offset: u64, count: u32) -> Option<Unchanged> {
        let state = self.read_state().ok()?;
        let node = self.find(&state, handle).ok()?;
        let Node::File(key, layer) = node else { return None };
        let file = self.object_known(handle, &node, self.attr(&state, &node).ok()?);
        drop(state);
        regular(&file.attr).ok()?;
        if !permit::owns(caller, &file.attr) && permit::granted(caller, &file.attr, R | X) == 0 {
            return None;
        }
        let size = file.attr.size;
        let end = offset.saturating_add(u64::from(count)).min(size).max(offset);
        let outcome = ReadOutcome {
            file,
            count: u32::try_from(end - offset).ok()?,
            eof: end >= size,
        };
        Some(Unchanged {
            layer,
            number: key.number,
            outcome,
        })
    }

    /// READ, or nothing if content was shorter than expected.
    fn read_once(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        count: u32,
        out: &mut Vec<u8>,
    ) -> FsResult<Option<ReadOutcome>> {
        let state = self.read_state()?;
        let node = self.find(&state, handle)?;
        let object = self.object(&state, &node)?;
        regular(&object.attr)?;
        if !permit::owns(caller, &object.attr) && permit::granted(caller, &object.attr, R | X) == 0 {
            return Err(Status::Access);
        }
        let size = object.attr.size;
        let end = offset
            .saturating_add(u64::from(count).min(READ_MAX))
            .min(size)
            .max(offset);
        let pieces = match &node {
            Node::File(..) => Vec::new(),
            Node::Directory(_) => return Err(Status::IsDir),
            Node::Recorded(key) => {
                let file = state
                    .objects
                    .get(key)
                    .and_then(|object| object.file())
                    .ok_or(Status::Stale)?;
                self.pieces(file, offset, end)?
            }
        };
        // What follows reads files that are never changed below what was promised; nobody needs to wait for it.
        drop(state);
        let start = out.len();
        let wanted = usize::try_from(end - offset).map_err(|_| Status::Io)?;
        let filled = match node {
            Node::File(key, at) => self
                .lower
                .layer(at)
                .read_append(key.number, offset, wanted, out)
                .map_err(|error| trouble(&error))
                .and_then(|count| {
                    if count == wanted {
                        Ok(true)
                    } else {
                        Err(Status::Io)
                    }
                }),
            Node::Recorded(_) | Node::Directory(_) => {
                out.resize(start + wanted, 0);
                self.fill(&pieces, &mut out[start..])
            }
        };
        if filled != Ok(true) {
            out.truncate(start);
            return filled.map(|_short| None);
        }
        let count = u32::try_from(wanted).map_err(|_| Status::Io)?;
        Ok(Some(ReadOutcome {
            file: object,
            count,
            eof: end >= size,
        }))
    }

    /// Cuts `start..end` of a file into pieces with one source each.
    fn pieces(&self, file: &FileState, start: u64, end: u64) -> FsResult<Vec<(u64, Piece)>> {
        let mut pieces = Vec::new();
        let mut at = start;
        for (from, to, source) in file.extents.within(start, end) {
            self.unwritten(file, at, from, &mut pieces);
            // Also from a layer that takes no more changes.
            let top = self.top.as_ref().ok_or(Status::Io)?;
            let piece = match source {
                Source::Content(id) => Piece::File(
                    top.content
                        .open_to_read(id)
                        .map_err(|error| io_status("opening", &error))?,
                    from,
                ),
                Source::Log {
                    segment,
                    at,
                    file_offset,
                } => {
                    let segment = top.log.segment(segment).ok_or(Status::Io)?;
                    Piece::File(segment, at + (from - file_offset))
                }
            };
            pieces.push((to - from, piece));
            at = to;
        }
        self.unwritten(file, at, end, &mut pieces);
        Ok(pieces)
    }

    fn unwritten(&self, file: &FileState, start: u64, end: u64, pieces: &mut Vec<(u64, Piece)>) {
        let mut at = start;
        if let Some(base) = &file.base
            && at < base.len.min(end)
        {
            let to = base.len.min(end);
            pieces.push((to - at, Piece::Base(base.clone(), at)));
            at = to;
        }
        if at < end {
            pieces.push((end - at, Piece::Zero));
        }
    }

    /// Whether everything was there.
    fn fill(&self, pieces: &[(u64, Piece)], mut buf: &mut [u8]) -> FsResult<bool> {
        for (len, piece) in pieces {
            let len = usize::try_from(*len).map_err(|_| Status::Io)?;
            let (part, rest) = buf.split_at_mut(len);
            let got = match piece {
                Piece::Zero => len,
                Piece::File(file, at) => file
                    .read_at(part, *at)
                    .map_err(|error| io_status("reading", &error))?,
                Piece::Base(base, at) => self.read_base(base, *at, part)?,
            };
            if got != len {
                return Ok(false);
            }
            buf = rest;
        }
        Ok(true)
    }

    /// Reads from the lower file below written ranges: from its layer, or by hash once that has left the stack.
    pub(crate) fn read_base(&self, base: &Base, offset: u64, buf: &mut [u8]) -> FsResult<usize> {
        if let Some(at) = self.lower.index(base.origin.layer) {
            return self
                .lower
                .layer(at)
                .read(base.origin.number, offset, buf)
                .map_err(|error| trouble(&error));
        }
        let Some(hash) = &base.hash else {
            tracing::warn!(path = %String::from_utf8_lossy(&base.path), "its layer has left the stack");
            return Err(Status::Io);
        };
        self.content
            .read_content(hash, offset, buf)
            .map_err(|error| io_status("reading the base of", &error))
    }

    /// WRITE.
    pub(crate) fn do_write(
        &self,
        caller: &Caller,
        handle: &Handle,
        offset: u64,
        bytes: &[u8],
        stability: Stability,
    ) -> FsResult<Changed<Written>> {
        let end = offset
            .checked_add(as_u64(bytes.len()))
            .filter(|&end| end <= SIZE_MAX);
        let count = u32::try_from(bytes.len()).map_err(|_| Status::Inval)?;
        // A truncation may take the content file away, or its end, between the steps; then they start again.
        for _ in 0..8 {
            let mut state = self.write_state()?;
            let node = self.find(&state, handle)?;
            let attr = self.attr(&state, &node)?;
            regular(&attr)?;
            if !permit::owns(caller, &attr) {
                permit::require(caller, &attr, permit::W)?;
            }
            let end = end.ok_or(Status::FBig)?;
            let top = self.writable()?;
            let before = self.before(&state, &node)?;
            if bytes.is_empty() {
                let file = Around {
                    before,
                    after: self.object(&state, &node)?,
                };
                let value = Written {
                    file,
                    count,
                    stability: Stability::FileSync,
                };
                return Ok(Changed {
                    value,
                    ticket: self.end_ticket(),
                });
            }
            self.check_bytes(&state, node.key(), offset, end)?;
            let key = self.copy_up(&mut state, &node)?;
            let node = Node::Recorded(key);
            let inlined = state.with_file(key, "write", |file| file.inlined);
            let inlined = inlined
                .map_err(|_| Status::Stale)?
                .saturating_add(as_u64(bytes.len()));
            if stability != Stability::Unstable && bytes.len() <= INLINE_MAX && inlined <= INLINED_MAX {
                let changes = vec![
                    self.written_attr(&state, caller, key)?,
                    Change::Inline {
                        key,
                        offset,
                        bytes: bytes.to_vec(),
                        at: 0,
                    },
                ];
                let ticket = self.record(&mut state, None, changes)?;
                let file = Around {
                    before,
                    after: self.object(&state, &node)?,
                };
                let value = Written {
                    file,
                    count,
                    stability: Stability::FileSync,
                };
                return Ok(Changed { value, ticket });
            }
            let attr = state.objects.get(&key).ok_or(Status::Stale)?.attr;
            if permit::mode_after_write(caller, attr.mode, attr.gid) != attr.mode {
                // Losing setuid is not something a crash may undo.
                let change = self.written_attr(&state, caller, key)?;
                self.record(&mut state, None, vec![change])?;
            }
            let (id, content) = self.content_for(&mut state, top, key)?;
            let trims = state
                .with_file(key, "write", |file| file.trims)
                .map_err(|_| Status::Stale)?;
            let on_its_way = top.writing.read().map_err(|_| Status::ServerFault)?;
            drop(state);
            top.touch();
            crate::stopping::at("write");
            let losses = top.content.losses();
            let wrote = content.write_all_at(bytes, offset);
            drop(on_its_way);
            if let Err(error) = wrote {
                // A part may have come over what was committed before, and shows: a COMMIT must make that durable too.
                let _removed_meanwhile = self
                    .write_state()?
                    .with_file(key, "write", |file| file.writes += 1);
                return Err(io_status("writing", &error));
            }
            let mut state = self.write_state()?;
            let now = self.now();
            let taken = state.with_file(key, "write", |file| {
                // A checkpoint that was made meanwhile keeps the content file as it is.
                if file.writing != Some(id) || file.trims != trims || top.content.is_pinned(id) {
                    return false;
                }
                if file.unlogged.len() == 0 {
                    file.losses = losses;
                }
                // What is in this content file already is in the log or on its way there.
                let source = Source::Content(id);
                let known: Vec<_> = file
                    .extents
                    .within(offset, end)
                    .filter(|part| part.2 == source)
                    .collect();
                let mut at = offset;
                for (from, to, _) in known {
                    file.unlogged.insert(at, from, source);
                    at = to;
                }
                file.unlogged.insert(at, end, source);
                file.extents.insert(offset, end, source);
                file.size = file.size.max(end);
                file.writes += 1;
                file.attr_unlogged = true;
                file.verifier = None;
                true
            });
            if !taken.map_err(|_| Status::Stale)? {
                continue;
            }
            let object = state.objects.get_mut(&key).ok_or(Status::Stale)?;
            object.attr.mtime = now;
            object.attr.ctime = now;
            let file = Around {
                before,
                after: self.object(&state, &node)?,
            };
            drop(state);
            let (stability, ticket) = match stability {
                Stability::Unstable => (Stability::Unstable, Ticket::default()),
                Stability::DataSync | Stability::FileSync => {
                    let ticket = self.flush(key)?;
                    if top.content.losses() != losses {
                        // Somebody else was told that something is lost, and it may have been this.
                        continue;
                    }
                    (Stability::FileSync, ticket)
                }
            };
            return Ok(Changed {
                value: Written {
                    file,
                    count,
                    stability,
                },
                ticket,
            });
        }
        Err(Status::Jukebox)
    }

    fn written_attr(&self, state: &State, caller: &Caller, key: ObjectKey) -> FsResult<Change> {
        let attr = state.objects.get(&key).ok_or(Status::Stale)?.attr;
        let now = self.now();
        let mode = permit::mode_after_write(caller, attr.mode, attr.gid);
        Ok(Change::Attr {
            key,
            attr: Stored {
                mode,
                mtime: now,
                ctime: now,
                ..attr
            },
        })
    }

    /// The content file of this epoch that new bytes of the file go to; made if there is none.
    fn content_for(
        &self,
        state: &mut State,
        top: &Top,
        key: ObjectKey,
    ) -> FsResult<(ContentId, Arc<ContentFile>)> {
        let file = state
            .objects
            .get(&key)
            .and_then(|object| object.file())
            .ok_or(Status::Stale)?;
        let known = file.writing.filter(|id| !top.content.is_pinned(*id)).or_else(|| {
            // After a restart under the same epoch, go on with the file that was written last.
            let sources = file.extents.iter().filter_map(|(_, _, source)| match source {
                Source::Content(id) if id.epoch == top.epoch && !top.content.is_pinned(id) => Some(id),
                Source::Content(_) | Source::Log { .. } => None,
            });
            sources.max()
        });
        let (id, content) = match known {
            Some(id) => (
                id,
                top.content
                    .open(id)
                    .map_err(|error| io_status("opening", &error))?,
            ),
            None if !state.has_numbers() => return Err(Status::NoSpc),
            None => {
                let id = ContentId {
                    number: state.take_number(),
                    epoch: top.epoch,
                };
                (
                    id,
                    top.content
                        .create(id)
                        .map_err(|error| io_status("making", &error))?,
                )
            }
        };
        let made = known.is_none();
        let set = state.with_file(key, "write", |file| {
            file.writing = Some(id);
            file.fresh |= made;
        });
        set.map_err(|_| Status::Stale)?;
        Ok((id, content))
    }

    /// Makes written bytes durable and logs where they are. The caller settles the ticket. What was lost before now is no
    /// failure: who wrote it is told by another [`crate::service::FileService::write_verifier`].
    pub(crate) fn flush(&self, key: ObjectKey) -> FsResult<Ticket> {
        let top = self.writable()?;
        for _ in 0..8 {
            if let Some(ticket) = self.flush_once(top, key)? {
                return Ok(ticket);
            }
        }
        Err(Status::NoSpc)
    }

    /// The same, or nothing if something was lost meanwhile.
    fn flush_once(&self, top: &Top, key: ObjectKey) -> FsResult<Option<Ticket>> {
        let losses = top.content.losses();
        let state = self.write_state()?;
        let file = state
            .objects
            .get(&key)
            .and_then(|object| object.file())
            .ok_or(Status::Stale)?;
        let (writes, fresh, writing) = (file.writes, file.fresh, file.writing);
        let unlogged = file.unlogged.clone();
        let suspect = unlogged.len() != 0 && file.losses != losses;
        let must_sync = writes > file.writes_synced || suspect;
        if !must_sync && unlogged.len() == 0 && !file.attr_unlogged {
            return Ok(Some(self.end_ticket()));
        }
        drop(state);
        if let Some(id) = writing.filter(|_| must_sync) {
            if suspect {
                rewrite(top, id, &unlogged).map_err(|error| io_status("writing again", &error))?;
            }
            self.sync_content(top, id, fresh)?;
        }
        let mut state = self.write_state()?;
        if must_sync && top.content.losses() != losses {
            return Ok(None);
        }
        let ranges = state.with_file(key, "commit", |file| {
            file.writes_synced = file.writes_synced.max(writes);
            file.losses = losses;
            if file.writing == writing {
                file.fresh = false;
            }
            let mut ranges = Vec::new();
            // Only what is still there: a truncation or a stable write may have come in between.
            for (start, end, source) in unlogged.iter() {
                let still = file
                    .extents
                    .within(start, end)
                    .filter(|&(_, _, now)| now == source);
                ranges.extend(still.map(|(from, to, _)| (from, to)));
            }
            ranges
        });
        let ranges = ranges.map_err(|_| Status::Stale)?;
        let attr = state.objects.get(&key).ok_or(Status::Stale)?.attr;
        let mut changes = vec![Change::Attr { key, attr }];
        for part in ranges.chunks(RANGES_MAX) {
            let content = writing.ok_or(Status::ServerFault)?;
            let ranges = part.to_vec();
            changes.push(Change::Extents { key, content, ranges });
            if part.len() == RANGES_MAX {
                self.record(&mut state, None, std::mem::take(&mut changes))?;
            }
        }
        self.record(&mut state, None, changes).map(Some)
    }

    /// Makes durable whatever any file still has only in memory.
    pub(crate) fn do_flush_all(&self) -> FsResult<()> {
        self.settle_ticket(self.flush_files()?)
    }

    /// The same without what settling does besides.
    pub(super) fn flush_files(&self) -> FsResult<Ticket> {
        if self.top.is_none() {
            return Ok(self.end_ticket());
        }
        // A copy, so that nobody waits for the search.
        let state = self.read_state()?.clone();
        for key in unflushed(state.objects.iter()) {
            match self.flush(key) {
                // Removed in the meantime: nothing is left of it to keep.
                Ok(_) | Err(Status::Stale) => {}
                Err(status) => return Err(status),
            }
        }
        Ok(self.end_ticket())
    }

    pub(super) fn sync_content(&self, top: &Top, id: ContentId, fresh: bool) -> FsResult<()> {
        let file = match top.content.open(id) {
            Ok(file) => file,
            // A file that has just been removed takes nothing with it that anybody was promised.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Status::Stale),
            Err(error) => return Err(io_status("opening", &error)),
        };
        let synced = file
            .sync()
            .and_then(|()| if fresh { top.content.sync_name(id) } else { Ok(()) });
        synced.map_err(|error| {
            if !is_full(&error) {
                top.log.poison(&error);
            }
            io_status("syncing", &error)
        })
    }

    /// COMMIT.
    pub(crate) fn do_commit(&self, caller: &Caller, handle: &Handle) -> FsResult<Around> {
        let state = self.read_state()?;
        let node = self.find(&state, handle)?;
        let attr = self.attr(&state, &node)?;
        regular(&attr)?;
        if !permit::owns(caller, &attr) {
            permit::require(caller, &attr, permit::W)?;
        }
        let before = self.before(&state, &node)?;
        let Node::Recorded(key) = node else {
            return Ok(Around {
                before,
                after: self.object(&state, &node)?,
            });
        };
        drop(state);
        let ticket = self.flush(key)?;
        self.settle_ticket(ticket)?;
        let state = self.read_state()?;
        let node = self.find(&state, handle)?;
        Ok(Around {
            before,
            after: self.object(&state, &node)?,
        })
    }

    /// SETATTR.
    pub(crate) fn do_setattr(
        &self,
        caller: &Caller,
        call: Option<CallKey>,
        handle: &Handle,
        set: &SetAttr,
        guard: Option<Time>,
    ) -> FsResult<Changed<Around>> {
        let mut state = self.write_state()?;
        let node = self.find(&state, handle)?;
        let before = self.before(&state, &node)?;
        if guard.is_some_and(|guard| guard != before.ctime) {
            return Err(Status::NotSync);
        }
        let done = call.map(|key| Call { key, made: None });
        let ticket = self.set_on(&mut state, caller, done, &node, set)?;
        let after = self.object(&state, &self.locate(&state, node.key())?)?;
        Ok(Changed {
            value: Around { before, after },
            ticket,
        })
    }

    /// Checks and makes the changes of a SETATTR.
    pub(crate) fn set_on(
        &self,
        state: &mut State,
        caller: &Caller,
        call: Option<Call>,
        node: &Node,
        set: &SetAttr,
    ) -> FsResult<Ticket> {
        let attr = self.attr(state, node)?;
        permit::may_set(caller, &attr, set)?;
        if let Some(size) = set.size {
            regular(&attr)?;
            if !permit::owns(caller, &attr) {
                permit::require(caller, &attr, permit::W)?;
            }
            check_size(size)?;
        }
        let top = self.writable()?;
        // A file that is cut gives room back.
        let _drawing = set
            .size
            .is_some_and(|size| size < attr.size)
            .then(|| top.log.draw());
        self.check_call(state, call.map(|call| call.key))?;
        if *set == SetAttr::default() {
            return self.remember_call(state, call);
        }
        let key = self.copy_up(state, node)?;
        let now = self.now();
        let mtime = if set.size.is_some() && set.mtime == SetTime::Keep {
            now
        } else {
            attr.mtime
        };
        let stored = Stored {
            mode: permit::mode_after_set(caller, &attr, set),
            uid: set.uid.unwrap_or(attr.uid),
            gid: set.gid.unwrap_or(attr.gid),
            atime: time_after(set.atime, attr.atime, now),
            mtime: time_after(set.mtime, mtime, now),
            ctime: now,
        };
        let mut changes = vec![Change::Attr { key, attr: stored }];
        changes.extend(set.size.map(|size| Change::Size { key, size }));
        self.record(state, call, changes)
    }
}
