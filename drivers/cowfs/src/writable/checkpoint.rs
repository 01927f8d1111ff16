//! Compaction: the state as a segment of its own, so that what it replaces can go.
//!
//! A checkpoint is written at open, once the log holds more garbage than what lives, and while the layer is served, once
//! the log has grown to three times what lived last: a guest that changes the mode of one file for ever must not fill the
//! node's disk. It appears by a rename, whole or not at all; only then are the segments before it removed. A crash in
//! between leaves both, and the checkpoint wins.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WritableError;
use super::disk::{Disk, DiskFile, Mode};
use super::extents::{ContentId, Source};
use super::log::{End, FOLDER, Log, Replaced, Replacement, as_u64, io_at};
use super::record::{Body, Change, Name, Record};
use super::replay::Replayed;
use super::segment::{self, FORMAT, Header, SegmentName};
use super::state::{Kind, Object, State};
use crate::handle::ObjectKey;

/// A log below this many bytes is left alone: it replays in a few milliseconds.
const WORTHWHILE: u64 = 1 << 20;
/// Longer chains are made short whatever they hold: each segment is an open file.
const SEGMENTS_MAX: usize = 16;
/// Payload of one record of a checkpoint; a record ends with the change that goes beyond.
const PAYLOAD: usize = 256 << 10;
/// Bytes written at a time.
const BUFFER: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };
/// Ranges in one change.
const RANGES_MAX: usize = 8192;
/// Start of its name before it is whole; the epoch follows.
const TEMPORARY: &str = ".checkpoint-";

/// Where a checkpoint has put bytes that the log holds.
pub(crate) struct Moved {
    pub(crate) key: ObjectKey,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// In the checkpoint.
    pub(crate) at: u64,
}

/// Writes a checkpoint if that at least halves the log, or there are too many segments; says whether it has.
pub(super) fn write(disk: &Disk, dir: &Path, epoch: u64, replayed: &Replayed) -> Result<bool, WritableError> {
    let too_many = replayed.chain.len() >= SEGMENTS_MAX;
    let Some(last) = replayed
        .chain
        .last()
        .filter(|_| too_many || replayed.bytes >= WORTHWHILE)
    else {
        return Ok(false);
    };
    let most = if too_many { u64::MAX } else { replayed.bytes / 2 };
    // Mostly the log is about as long as what it says, and a look costs less than writing half of that in vain.
    if estimate(&replayed.state) > most {
        return Ok(false);
    }
    let folder = dir.join(FOLDER);
    let segments = |index: u32| {
        let segment = usize::try_from(index)
            .ok()
            .and_then(|index| replayed.chain.get(index));
        segment.map_or(Err(io::ErrorKind::NotFound.into()), |segment| {
            disk.open(&segment.path, Mode::Read).map(Arc::new)
        })
    };
    let written = write_to(
        disk,
        &folder,
        last.header.name,
        epoch,
        &replayed.state,
        most,
        &segments,
    )?;
    if let Some(after) = written {
        tracing::info!(
            before = replayed.bytes,
            after,
            "the log of a writable layer has been compacted"
        );
    }
    Ok(written.is_some())
}

/// A checkpoint of a log that goes on while it is written: first a state as it was at one moment, then the records that
/// have been appended since, and in the end, while nobody appends, the last of them and its name.
pub(crate) struct Rewriting<'a> {
    log: &'a Log,
    out: Output,
    header: Header,
    temporary: PathBuf,
    /// Up to where the log is in it.
    copied: End,
    before: u64,
}

/// Bytes of a log read at a time; more where one record is longer.
const WINDOW: usize = 1 << 20;

impl<'a> Rewriting<'a> {
    /// Writes `state`, which is what the log said when it ended at `end`. Everything that it says of content is on disk
    /// before [`Rewriting::finish`]. Ends early, with [`io::ErrorKind::Interrupted`], once it is not `wanted` any more.
    pub(crate) fn begin(
        log: &'a Log,
        epoch: u64,
        state: &State,
        end: End,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Self, WritableError> {
        let gone = || io_at("compacting", log.folder())(io::ErrorKind::NotFound.into());
        let last = log.last().ok_or_else(gone)?;
        let segments = |index| log.segment(index).ok_or_else(|| io::ErrorKind::NotFound.into());
        let (header, temporary) = next(log.folder(), last, epoch, state);
        let before = log.bytes();
        let bound = Bound {
            most: u64::MAX,
            wanted,
        };
        let out = write_whole(log.disk(), &temporary, header, state, bound, &segments)?
            .ok_or_else(|| io_at("compacting", log.folder())(io::ErrorKind::InvalidData.into()))?;
        Ok(Self {
            log,
            out,
            header,
            temporary,
            copied: end,
            before,
        })
    }

    /// Leaves the log as it is.
    pub(crate) fn abandon(self) {
        // It is in nobody's way, and takes space.
        let _removed = self.log.disk().remove(&self.temporary);
    }

    /// Copies what has been appended meanwhile; returns how many bytes that were.
    pub(crate) fn catch_up(&mut self) -> Result<u64, WritableError> {
        let end = self.log.last_end().map_or(0, |end| end.at);
        let new = end.saturating_sub(self.copied.at);
        let copied = self.copy(end).and_then(|()| self.out.write_buffer());
        copied.map_err(|error| self.failed(error))?;
        Ok(new)
    }

    /// Has on disk what has been written so far, so that less is left for the end.
    pub(crate) fn sync(&mut self) -> Result<(), WritableError> {
        self.out.file.sync().map_err(|error| self.failed(error))
    }

    fn copy(&mut self, end: u64) -> io::Result<()> {
        let mut window = WINDOW;
        while self.copied.at < end {
            let left = usize::try_from(end - self.copied.at).unwrap_or(usize::MAX);
            let mut bytes = vec![0; left.min(window)];
            self.copied.file.read_exact_at(&mut bytes, self.copied.at)?;
            let mut taken = 0;
            while let Some(framed) = segment::unframe(
                &self.copied.binding,
                self.copied.at,
                bytes.get(taken..).unwrap_or_default(),
            ) {
                self.out.again(framed.payload)?;
                taken += framed.len;
                self.copied.at += as_u64(framed.len);
            }
            if taken == 0 && window >= left {
                return Err(io::Error::other("the log holds something that is no record"));
            }
            window = if taken == 0 {
                window.saturating_mul(2)
            } else {
                WINDOW
            };
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> WritableError {
        // It is in nobody's way, and takes space.
        let _removed = self.log.disk().remove(&self.temporary);
        io_at("writing a checkpoint to", &self.temporary)(error)
    }

    /// Puts it in the place of the log, while nobody appends. Says where bytes that the log holds are now, in the order
    /// they were written in, and what has been replaced.
    pub(crate) fn finish(mut self) -> Result<(Vec<Moved>, Replaced), WritableError> {
        self.catch_up()?;
        let ended = self.out.end().and_then(|()| self.out.write_buffer());
        ended.map_err(|error| self.failed(error))?;
        self.sync()?;
        let (log, name) = (self.log, log_file(self.log, self.header));
        let named = log
            .disk()
            .rename(&self.temporary, &name)
            .and_then(|()| log.disk().sync_dir(log.folder()));
        if let Err(error) = named {
            // Once it has its name, the next opening begins with it, and what the old chain gets now would be lost.
            let there = log.disk().status(&name);
            if there.map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true) {
                log.poison(&error);
            }
            return Err(self.failed(error));
        }
        tracing::debug!(
            before = self.before,
            after = self.out.len,
            "the log of a writable layer has been compacted"
        );
        let Output { file, len, moved, .. } = self.out;
        let header = self.header;
        let replaced = log
            .replace(Replacement { file, header, len })
            .map_err(|error| io_at("compacting", log.folder())(io::Error::other(error)))?;
        Ok((moved, replaced))
    }
}

fn log_file(log: &Log, header: Header) -> PathBuf {
    log.folder().join(header.name.file_name())
}

/// Puts another state in the place of what the log says; the log is not to be used afterwards. Inline bytes are read from
/// `segments`.
pub(super) fn replace_by(
    log: &Log,
    epoch: u64,
    state: &State,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
) -> Result<(), WritableError> {
    let gone = || io_at("finding the end of", log.folder())(io::ErrorKind::NotFound.into());
    let last = log.last().ok_or_else(gone)?;
    write_to(log.disk(), log.folder(), last, epoch, state, u64::MAX, segments).map(drop)
}

/// Writes `state` as a segment of its own to a file, which is on disk afterwards but for its name; returns its hash.
pub(super) fn write_file(
    disk: &Disk,
    path: &Path,
    header: Header,
    state: &State,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
) -> Result<[u8; 32], WritableError> {
    let written = write_synced(disk, path, header, state, u64::MAX, segments)?;
    if written.is_none() {
        return Err(io_at("writing", path)(io::ErrorKind::InvalidData.into()));
    }
    let bytes = disk.read(path).map_err(io_at("reading", path))?;
    Ok(*blake3::hash(&bytes).as_bytes())
}

/// Writes the segment that follows `last` as a checkpoint of `state`, unless it would be longer than `most`. Inline bytes
/// are read from `segments`.
fn write_to(
    disk: &Disk,
    folder: &Path,
    last: SegmentName,
    epoch: u64,
    state: &State,
    most: u64,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
) -> Result<Option<u64>, WritableError> {
    let (header, temporary) = next(folder, last, epoch, state);
    let Some(out) = write_synced(disk, &temporary, header, state, most, segments)? else {
        return Ok(None);
    };
    let doing = io_at("writing a checkpoint to", &temporary);
    disk.rename(&temporary, &folder.join(header.name.file_name()))
        .map_err(&doing)?;
    disk.sync_dir(folder).map_err(&doing)?;
    Ok(Some(out.len))
}

/// The checkpoint that follows `last`, and its name before it is whole.
fn next(folder: &Path, last: SegmentName, epoch: u64, state: &State) -> (Header, PathBuf) {
    let header = Header {
        format: FORMAT,
        layer: state.layer(),
        name: SegmentName {
            sequence: last.sequence.saturating_add(1),
            epoch,
        },
        checkpoint: true,
        predecessor: None,
    };
    (header, folder.join(format!("{TEMPORARY}{epoch}")))
}

/// The same, on disk.
fn write_synced(
    disk: &Disk,
    temporary: &Path,
    header: Header,
    state: &State,
    most: u64,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
) -> Result<Option<Output>, WritableError> {
    let bound = Bound {
        most,
        wanted: &|| true,
    };
    let Some(mut out) = write_whole(disk, temporary, header, state, bound, segments)? else {
        return Ok(None);
    };
    let ended = out.end().and_then(|()| out.write_buffer());
    ended.and_then(|()| out.file.sync()).map_err(|error| {
        let _removed = disk.remove(temporary);
        io_at("writing a checkpoint to", temporary)(error)
    })?;
    Ok(Some(out))
}

/// How far to go.
#[derive(Clone, Copy)]
struct Bound<'a> {
    /// Bytes of the segment.
    most: u64,
    /// Asked now and then.
    wanted: &'a dyn Fn() -> bool,
}

/// Writes a whole segment to `temporary`, unless it would go beyond the bound.
fn write_whole(
    disk: &Disk,
    temporary: &Path,
    header: Header,
    state: &State,
    bound: Bound<'_>,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
) -> Result<Option<Output>, WritableError> {
    let doing = io_at("writing a checkpoint to", temporary);
    let mut out = Output {
        file: disk.open(temporary, Mode::Truncate).map_err(&doing)?,
        buffer: Vec::new(),
        binding: header.binding(&state.log_key()),
        len: 0,
        changes: Vec::new(),
        weight: 0,
        moved: Vec::new(),
    };
    let written = out
        .raw(&header.encode())
        .and_then(|()| snapshot(state, segments, &mut |change| out.put(change, bound)))
        .and_then(|()| out.finish(bound))
        .and_then(|()| out.write_buffer());
    if let Err(error) = written {
        // It is in nobody's way, and takes space.
        let _removed = disk.remove(temporary);
        return if error.kind() == io::ErrorKind::FileTooLarge && out.len > bound.most {
            Ok(None)
        } else {
            Err(doing(error))
        };
    }
    Ok(Some(out))
}

/// A checkpoint on its way to disk.
struct Output {
    file: DiskFile,
    /// The last bytes of it, which are not written yet.
    buffer: Vec<u8>,
    binding: [u8; 32],
    len: u64,
    changes: Vec<Change>,
    /// About how many bytes the changes have.
    weight: usize,
    moved: Vec<Moved>,
}

impl Output {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += as_u64(bytes.len());
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        self.write_buffer()
    }

    /// A record that changes nothing: it says that all before it is on disk, and no damage there passes for a torn tail.
    fn end(&mut self) -> io::Result<()> {
        let payload = Record {
            call: None,
            changes: Vec::new(),
        }
        .encode();
        self.again(&payload)
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let at = self.len - as_u64(self.buffer.len());
        self.file.write_all_at(&self.buffer, at)?;
        self.buffer.clear();
        Ok(())
    }

    fn put(&mut self, change: Change, bound: Bound<'_>) -> io::Result<()> {
        self.weight += match &change {
            Change::Inline { bytes, .. } => bytes.len(),
            Change::Extents { ranges, .. } => ranges.len() * 16,
            // Names, paths and targets are a few hundred bytes as a rule and 4 KiB at most.
            _ => 128,
        };
        self.changes.push(change);
        if self.weight < PAYLOAD {
            Ok(())
        } else {
            self.finish(bound)
        }
    }

    /// A record as it was in another segment.
    fn again(&mut self, payload: &[u8]) -> io::Result<()> {
        let record = Record::decode(payload).map_err(|error| io::Error::other(error.to_string()))?;
        self.record(&record, payload)
    }

    fn record(&mut self, record: &Record, payload: &[u8]) -> io::Result<()> {
        // The whole file is on disk before it has a name: nothing in it can be a torn tail.
        let framed = segment::frame(&self.binding, self.len, self.len, payload);
        let framed = framed.ok_or(io::ErrorKind::InvalidData)?;
        let payload_at = self.len + as_u64(segment::FRAME);
        for change in &record.changes {
            if let Change::Inline {
                key,
                offset,
                bytes,
                at,
            } = change
            {
                self.moved.push(Moved {
                    key: *key,
                    start: *offset,
                    end: offset + as_u64(bytes.len()),
                    at: payload_at + at,
                });
            }
        }
        self.raw(&framed)
    }

    fn finish(&mut self, bound: Bound<'_>) -> io::Result<()> {
        if !(bound.wanted)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut record = Record {
            call: None,
            changes: std::mem::take(&mut self.changes),
        };
        self.weight = 0;
        let payload = record.encode();
        self.record(&record, &payload)?;
        if self.len > bound.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }
}

/// Removes the segments that the checkpoint at the chain's start replaces, and what earlier holders of `epoch` have left
/// half written. Nothing once a later holder has come: it may be building on the segments.
pub(super) fn remove_replaced(
    disk: &Disk,
    dir: &Path,
    epoch: u64,
    replayed: &Replayed,
) -> Result<(), WritableError> {
    let folder = dir.join(FOLDER);
    let names = disk.list(&folder).map_err(io_at("listing", &folder))?;
    let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
    let found = names.iter().filter_map(|name| SegmentName::parse(name));
    if found.map(|name| name.epoch).any(|found| found > epoch) {
        return Ok(());
    }
    for name in &names {
        let of = name.strip_prefix(TEMPORARY).and_then(|of| of.parse::<u64>().ok());
        if of.is_some_and(|of| of <= epoch) {
            let path = folder.join(name);
            disk.remove(&path).map_err(io_at("removing", &path))?;
        }
    }
    let Some(first) = replayed.chain.first().filter(|first| first.header.checkpoint) else {
        return Ok(());
    };
    for name in replayed
        .others
        .iter()
        .filter(|name| name.sequence < first.header.name.sequence)
    {
        let path = folder.join(name.file_name());
        disk.remove(&path)
            .map_err(io_at("removing a replaced segment", &path))?;
    }
    Ok(())
}

/// About how many bytes a checkpoint of `state` takes, without the frames of its records.
fn estimate(state: &State) -> u64 {
    // Number of the change, object, and what most changes of its kind have beside what is counted below.
    const MAKE: usize = 1 + 16 + 4 + 12 + 3 * 12 + 1 + 8 + 2;
    const BASE: usize = 17 + 32 + 16 + 12 + 4;
    const DIRECTORY: usize = 16 + 4;
    const ENTRY: usize = 1 + 16 + 4 + 1 + 16;
    const INLINE: u64 = 1 + 16 + 8 + 4;
    const CONTENT: u64 = 1 + 16 + 16 + 4 + 16;
    let mut bytes = 0;
    for object in state.objects.values() {
        bytes += as_u64(MAKE);
        bytes += match &object.kind {
            Kind::File(file) => {
                let base = file.base.as_ref().map_or(0, |base| BASE + base.path.len());
                let ranges = file.extents.iter().map(|(start, end, source)| match source {
                    Source::Log { .. } => INLINE + (end - start),
                    Source::Content(_) => CONTENT,
                });
                as_u64(base) + ranges.sum::<u64>()
            }
            Kind::Directory(dir) => {
                let names = dir.entries.iter().map(|(name, _)| ENTRY + name.len());
                let merge = dir
                    .merge
                    .as_ref()
                    .map_or(0, |merge| merge.path.len() + 16 * merge.origins.len());
                as_u64(DIRECTORY + merge + names.sum::<usize>())
            }
            Kind::Symlink { target } => as_u64(target.len()),
            Kind::Special { .. } => 0,
        };
    }
    bytes
}

/// Hands out the changes that make the state from nothing. Equal states give equal changes.
pub(super) fn snapshot(
    state: &State,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
    put: &mut dyn FnMut(Change) -> io::Result<()>,
) -> io::Result<()> {
    put(Change::Next { number: state.next })?;
    put(Change::Adopted { epoch: state.frozen })?;
    for (name, manifest) in &state.saved {
        put(Change::Saved {
            name: name.clone(),
            manifest: Some(*manifest),
        })?;
    }
    put(Change::Stack {
        layers: state.stack.clone(),
    })?;
    state.calls.iter().map(Change::Called).try_for_each(&mut *put)?;
    // Objects before the names that lead to them. In order, so that equal states give equal bytes.
    for (key, object) in &state.objects {
        put(make(*key, object))?;
    }
    for (key, object) in &state.objects {
        names(state, *key, object).try_for_each(&mut *put)?;
    }
    for (key, object) in &state.objects {
        content(*key, object, segments)?
            .into_iter()
            .try_for_each(&mut *put)?;
    }
    Ok(())
}

fn make(key: ObjectKey, object: &Object) -> Change {
    let body = match &object.kind {
        Kind::File(file) => Body::File {
            size: file.size,
            base: file.base.as_deref().cloned(),
            verifier: file.verifier,
        },
        Kind::Directory(dir) => Body::Directory {
            parent: dir.parent,
            merge: dir.merge.clone(),
        },
        Kind::Symlink { target } => Body::Symlink {
            target: target.clone(),
        },
        Kind::Special { file_type, device } => Body::Special {
            file_type: *file_type,
            device: *device,
        },
    };
    Change::Make {
        key,
        links: object.links,
        attr: object.attr,
        body,
    }
}

fn names<'a>(state: &'a State, dir: ObjectKey, object: &'a Object) -> impl Iterator<Item = Change> + 'a {
    let entries = object.directory().into_iter().flat_map(|dir| &dir.entries);
    entries.map(move |(name, target)| Change::Entry {
        dir,
        name: name.to_vec(),
        // A name that leads nowhere, which no log of ours has, must not keep the checkpoint from being read.
        target: Some(match target {
            Name::Object(key) if !state.objects.contains_key(key) => Name::Whiteout,
            there => *there,
        }),
    })
}

fn content(
    key: ObjectKey,
    object: &Object,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
) -> io::Result<Vec<Change>> {
    let mut changes: Vec<Change> = Vec::new();
    let mut ranges: Vec<(ContentId, Vec<(u64, u64)>)> = Vec::new();
    let extents = object.file().into_iter().flat_map(|file| file.extents.iter());
    for (start, end, source) in extents {
        match source {
            Source::Content(id) => match ranges.iter_mut().find(|(known, _)| *known == id) {
                Some((_, ranges)) => ranges.push((start, end)),
                None => ranges.push((id, vec![(start, end)])),
            },
            Source::Log {
                segment,
                at,
                file_offset,
            } => {
                let mut bytes = vec![0; usize::try_from(end - start).unwrap_or_default()];
                segments(segment)?.read_exact_at(&mut bytes, at + (start - file_offset))?;
                changes.push(Change::Inline {
                    key,
                    offset: start,
                    bytes,
                    at: 0,
                });
            }
        }
    }
    for (content, ranges) in ranges {
        changes.extend(ranges.chunks(RANGES_MAX).map(|ranges| Change::Extents {
            key,
            content,
            ranges: ranges.to_vec(),
        }));
    }
    Ok(changes)
}
