//! The log on disk: a chain of segments, replayed at open and appended to afterwards.
//!
//! A [`Ticket`] counts the bytes appended since the log was opened, not those of one segment: it keeps its meaning when a
//! checkpoint takes the place of the chain.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::WritableError;
use super::meta::sync_dir;
use super::record::Record;
use super::segment::{self, HEADER, Header, HeaderError, Sealed, SegmentName, unframe, was_durable};
use super::state::{Position, State};
use crate::layer::LayerId;
use crate::service::Ticket;

/// Name of the folder of segments.
pub(crate) const FOLDER: &str = "log";

/// A log below this many bytes is not compacted while it is served.
const COMPACT_MIN: u64 = if cfg!(test) { 32 << 10 } else { 16 << 20 };

/// What reading the log gave.
pub(crate) struct Replayed {
    pub(crate) state: State,
    /// The segments that count, oldest first.
    pub(crate) chain: Vec<Segment>,
    /// The highest epoch that any file is of, also one that holds nothing yet.
    pub(crate) epoch_seen: u64,
    /// Bytes of all segments of the chain.
    pub(crate) bytes: u64,
    /// Bytes at the end of the last segment that are no whole record.
    pub(crate) torn: u64,
    /// Files that were made and never got a header.
    pub(crate) unborn: Vec<PathBuf>,
    /// Segments that are not part of the chain: replaced by a checkpoint, or made by a server that lost its epoch.
    pub(crate) others: Vec<SegmentName>,
}

/// One segment of the chain.
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    /// Up to where it counts.
    pub(crate) len: u64,
    pub(crate) hash: [u8; 32],
}

impl Segment {
    fn sealed(&self) -> Sealed {
        Sealed {
            name: self.header.name,
            len: self.len,
            hash: self.hash,
        }
    }
}

/// Reads the whole log of the layer in `dir`, changing nothing.
pub(crate) fn replay(dir: &Path, layer: LayerId) -> Result<Replayed, WritableError> {
    let folder = dir.join(FOLDER);
    let mut found = look(&folder, layer)?;
    let mut replayed = Replayed {
        state: State::new(layer),
        chain: Vec::new(),
        epoch_seen: found.epoch_seen,
        bytes: 0,
        torn: 0,
        unborn: std::mem::take(&mut found.unborn),
        others: Vec::new(),
    };
    for (header, path, seal) in found.chain()? {
        let index = u32::try_from(replayed.chain.len()).unwrap_or(u32::MAX);
        let bytes = fs::read(&path).map_err(io_at("reading", &path))?;
        let damaged = |position: u64, what: String| WritableError::Damaged {
            file: path.clone(),
            position,
            what,
        };
        let counts = match seal {
            None => &bytes[..],
            Some(seal) => {
                let sealed = usize::try_from(seal.len).ok().and_then(|len| bytes.get(..len));
                let Some(sealed) = sealed else {
                    let what = format!("it was sealed at {} bytes and has {}", seal.len, bytes.len());
                    return Err(damaged(as_u64(bytes.len()), what));
                };
                if *blake3::hash(sealed).as_bytes() != seal.hash {
                    return Err(damaged(0, "its sealed part has changed".to_owned()));
                }
                sealed
            }
        };
        let end = replay_segment(&header, index, counts, &mut replayed.state, &damaged)?;
        if seal.is_some() && end != counts.len() {
            return Err(damaged(
                as_u64(end),
                "its sealed part holds something that is no record".to_owned(),
            ));
        }
        replayed.bytes += as_u64(end);
        replayed.torn = as_u64(counts.len() - end);
        replayed.chain.push(Segment {
            header,
            path,
            len: as_u64(end),
            hash: *blake3::hash(&bytes[..end]).as_bytes(),
        });
    }
    replayed.state.unused.clear();
    replayed.state.cut.clear();
    replayed.others = found.headers.into_keys().collect();
    for segment in &replayed.chain {
        replayed.others.retain(|name| *name != segment.header.name);
    }
    Ok(replayed)
}

/// Applies the records of one segment; returns where they end.
fn replay_segment(
    header: &Header,
    index: u32,
    bytes: &[u8],
    state: &mut State,
    damaged: &dyn Fn(u64, String) -> WritableError,
) -> Result<usize, WritableError> {
    let binding = header.binding();
    let mut at = HEADER;
    while at < bytes.len() {
        let position = as_u64(at);
        let Some(framed) = unframe(&binding, position, &bytes[at..]) else {
            if was_durable(&binding, position, &bytes[at..]) {
                return Err(damaged(
                    position,
                    "a record that was on disk does not pass its check".to_owned(),
                ));
            }
            return Ok(at);
        };
        let record = Record::decode(framed.payload).map_err(|error| match error {
            super::codec::Malformed::Newer(kind) => WritableError::Newer {
                file: PathBuf::from(header.name.file_name()),
                what: format!("a change of kind {kind}"),
            },
            error => damaged(position, error.to_string()),
        })?;
        let payload = position + as_u64(segment::FRAME);
        state
            .apply(
                record,
                Position {
                    segment: index,
                    payload,
                },
            )
            .map_err(|misfit| damaged(position, misfit.to_string()))?;
        at += framed.len;
    }
    Ok(at)
}

/// The segments in the folder.
struct Found {
    headers: HashMap<SegmentName, (Header, PathBuf)>,
    unborn: Vec<PathBuf>,
    epoch_seen: u64,
}

fn look(folder: &Path, layer: LayerId) -> Result<Found, WritableError> {
    let mut found = Found {
        headers: HashMap::new(),
        unborn: Vec::new(),
        epoch_seen: 0,
    };
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io_at("listing", folder)(error)),
    };
    for entry in listing {
        let path = entry.map_err(io_at("listing", folder))?.path();
        let Some(name) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(SegmentName::parse)
        else {
            continue;
        };
        found.epoch_seen = found.epoch_seen.max(name.epoch);
        let file = File::open(&path).map_err(io_at("opening", &path))?;
        let len = file.metadata().map_err(io_at("reading", &path))?.len();
        let mut bytes = vec![0; HEADER.min(usize::try_from(len).unwrap_or(HEADER))];
        file.read_exact_at(&mut bytes, 0)
            .map_err(io_at("reading", &path))?;
        match Header::decode(&bytes) {
            Ok(header) if header.layer == layer && header.name == name => {
                found.headers.insert(name, (header, path));
            }
            // Records come only after the header is on disk: a file without them may have been torn at its making.
            Err(HeaderError::Malformed(_)) if len <= as_u64(HEADER) => found.unborn.push(path),
            Err(HeaderError::Format(format)) => {
                return Err(WritableError::Newer {
                    file: path,
                    what: format!("format {format}"),
                });
            }
            Err(HeaderError::Malformed(error)) => {
                return Err(WritableError::Damaged {
                    file: path,
                    position: 0,
                    what: error.to_string(),
                });
            }
            Ok(_) => {
                let what = "its header is of another layer or segment".to_owned();
                return Err(WritableError::Damaged {
                    file: path,
                    position: 0,
                    what,
                });
            }
        }
    }
    Ok(found)
}

impl Found {
    /// The segments that count, oldest first, each with the seal its successor put on it.
    fn chain(&self) -> Result<Vec<(Header, PathBuf, Option<Sealed>)>, WritableError> {
        let mut chain = Vec::new();
        let newest = self
            .headers
            .values()
            .max_by_key(|(header, _)| (header.name.epoch, header.name.sequence));
        let mut next = newest.map(|(header, path)| (*header, path.clone(), None));
        while let Some((header, path, seal)) = next.take() {
            chain.push((header, path.clone(), seal));
            if header.checkpoint {
                break;
            }
            if let Some(seal) = header.predecessor {
                let before = self.headers.get(&seal.name).filter(|_| seal.name < header.name);
                let Some((before, path)) = before else {
                    let what = format!("the segment before it, {}, is missing", seal.name.file_name());
                    return Err(WritableError::Damaged {
                        file: path,
                        position: 0,
                        what,
                    });
                };
                next = Some((*before, path.clone(), Some(seal)));
            }
        }
        chain.reverse();
        Ok(chain)
    }
}

/// The log, open for appending.
pub(crate) struct Log {
    folder: PathBuf,
    /// Only changed by [`Log::append`] and [`Log::replace`], which the state's write lock serialises.
    tail: Mutex<Tail>,
    /// More bytes than this are worth a checkpoint.
    compact_at: AtomicU64,
    sync: Mutex<Sync>,
    synced: Condvar,
    poisoned: AtomicBool,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// The segments, and the end of the last.
struct Tail {
    segments: Vec<Arc<File>>,
    names: Vec<SegmentName>,
    binding: [u8; 32],
    /// Where in the last segment the next record goes.
    end: u64,
    /// What tickets count before the first byte of the last segment.
    base: u64,
    /// Bytes of the segments before the last.
    bytes_before: u64,
}

impl Tail {
    fn ticket(&self) -> u64 {
        self.base + self.end
    }
}

/// A checkpoint on disk, about to take the place of the chain.
pub(super) struct Replacement {
    pub(super) file: File,
    pub(super) header: Header,
    pub(super) len: u64,
}

#[derive(Default)]
struct Sync {
    until: u64,
    running: bool,
}

/// Failures that a test asks for.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) no_space: AtomicBool,
    pub(crate) sync_fails: AtomicBool,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("no space left for the log")]
    NoSpace,
    #[error("the log can no longer be trusted to reach the disk")]
    Poisoned,
    #[error("the record is longer than {} bytes", segment::PAYLOAD_MAX)]
    TooLong,
}

/// Where a record went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub(crate) position: Position,
    pub(crate) ticket: Ticket,
}

impl Log {
    /// Opens the log for `epoch` after `replayed`: goes on with the last segment if it is of that epoch, else seals it
    /// and begins the next.
    pub(crate) fn open(
        dir: &Path,
        layer: LayerId,
        epoch: u64,
        replayed: &Replayed,
    ) -> Result<Self, WritableError> {
        let folder = dir.join(FOLDER);
        for path in &replayed.unborn {
            fs::remove_file(path).map_err(io_at("removing a segment without header", path))?;
        }
        let mut segments = Vec::new();
        let mut names: Vec<SegmentName> = replayed.chain.iter().map(|one| one.header.name).collect();
        for segment in &replayed.chain {
            let file = OpenOptions::new()
                .read(true)
                .open(&segment.path)
                .map_err(io_at("opening", &segment.path))?;
            segments.push(Arc::new(file));
        }
        let last = replayed.chain.last();
        let (header, end) = match last {
            Some(last) if last.header.name.epoch == epoch => {
                let path = &last.path;
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .map_err(io_at("opening", path))?;
                if replayed.torn > 0 {
                    file.set_len(last.len)
                        .map_err(io_at("cutting the torn end of", path))?;
                }
                // What was replayed may still be only in the page cache of a server that was killed.
                file.sync_all().map_err(io_at("syncing", path))?;
                segments.pop();
                segments.push(Arc::new(file));
                (last.header, last.len)
            }
            _ => {
                let sequence = last.map_or(1, |last| last.header.name.sequence + 1);
                let header = Header {
                    layer,
                    name: SegmentName { sequence, epoch },
                    checkpoint: false,
                    predecessor: last.map(Segment::sealed),
                };
                if let Some(last) = last {
                    // The seal promises these bytes.
                    File::open(&last.path)
                        .and_then(|file| file.sync_all())
                        .map_err(io_at("syncing", &last.path))?;
                }
                segments.push(Arc::new(create(&folder, &header)?));
                names.push(header.name);
                (header, as_u64(HEADER))
            }
        };
        let before = replayed.chain.iter().filter(|s| s.header.name != header.name);
        let bytes_before = before.map(|s| s.len).sum::<u64>();
        let tail = Tail {
            segments,
            names,
            binding: header.binding(),
            end,
            base: 0,
            bytes_before,
        };
        Ok(Self {
            folder,
            tail: Mutex::new(tail),
            // What opening has left is half garbage at most.
            compact_at: AtomicU64::new(COMPACT_MIN.max((bytes_before + end).saturating_mul(2))),
            sync: Mutex::new(Sync {
                until: end,
                running: false,
            }),
            synced: Condvar::new(),
            poisoned: AtomicBool::new(false),
            #[cfg(test)]
            faults: Faults::default(),
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

    /// The last segment's name.
    pub(super) fn last(&self) -> Option<SegmentName> {
        self.tail().names.last().copied()
    }

    /// Where the segments are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts a checkpoint of the present state, which is on disk under its name, in the place of the chain, which is
    /// removed. Not if a later holder has come: it may be building on the chain. The caller holds the state's write lock.
    pub(super) fn replace(&self, new: Replacement) -> Result<(), AppendError> {
        let gave_up = |error: io::Error| {
            self.poison(&error);
            AppendError::Poisoned
        };
        for entry in fs::read_dir(&self.folder).map_err(gave_up)? {
            let name = entry.map_err(gave_up)?.file_name();
            let found = name.to_str().and_then(SegmentName::parse);
            if found.is_some_and(|found| found.epoch > new.header.name.epoch) {
                return Err(gave_up(io::Error::other("a later holder has opened the layer")));
            }
        }
        let mut tail = self.tail();
        let base = tail.ticket();
        let replaced = std::mem::replace(
            &mut *tail,
            Tail {
                segments: vec![Arc::new(new.file)],
                names: vec![new.header.name],
                binding: new.header.binding(),
                end: new.len,
                base,
                bytes_before: 0,
            },
        );
        let until = tail.ticket();
        drop(tail);
        self.sync.lock().unwrap_or_else(PoisonError::into_inner).until = until;
        self.synced.notify_all();
        self.is_long_beyond(new.len);
        for name in replaced.names {
            // One that stays is removed at the next opening.
            if let Err(error) = fs::remove_file(self.folder.join(name.file_name())) {
                tracing::warn!(%error, segment = name.file_name(), "a replaced segment stays");
            }
        }
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
        let durable = self.sync.lock().unwrap_or_else(PoisonError::into_inner).until;
        let (file, index, binding, end, base) = {
            let tail = self.tail();
            let file = tail.segments.last().cloned().ok_or(AppendError::Poisoned)?;
            (file, tail.segments.len() - 1, tail.binding, tail.end, tail.base)
        };
        let index = u32::try_from(index).map_err(|_| AppendError::Poisoned)?;
        let durable = durable.saturating_sub(base);
        let framed = segment::frame(&binding, end, durable, payload).ok_or(AppendError::TooLong)?;
        if let Err(error) = self.write(&file, &framed, end) {
            // A part may have arrived: take it back, or later records would follow a hole.
            if let Err(error) = file.set_len(end) {
                self.poison(&error);
                return Err(AppendError::Poisoned);
            }
            let full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            if full {
                return Err(AppendError::NoSpace);
            }
            self.poison(&error);
            return Err(AppendError::Poisoned);
        }
        let after = end + as_u64(framed.len());
        self.tail().end = after;
        let payload = end + as_u64(segment::FRAME);
        Ok(Appended {
            position: Position {
                segment: index,
                payload,
            },
            ticket: Ticket(base + after),
        })
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.no_space.load(Ordering::Acquire) {
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all_at(bytes, at)
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
            let (until, file) = {
                let tail = self.tail();
                (tail.ticket(), tail.segments.last().cloned())
            };
            let outcome = self.sync_now(file.as_deref());
            sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
            sync.running = false;
            match outcome {
                Ok(()) => sync.until = sync.until.max(until),
                // After a failed sync the kernel may have dropped the dirty pages: trying again would lie.
                Err(error) => self.poison(&error),
            }
            self.synced.notify_all();
            if until < ticket.0 && !self.is_poisoned() && sync.until >= self.end().0 {
                // A ticket from beyond the end is nobody's: do not spin on it.
                return Err(AppendError::Poisoned);
            }
        }
    }

    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, reason = "tests ask for failures through it")
    )]
    fn sync_now(&self, file: Option<&File>) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.sync_fails.load(Ordering::Acquire) {
            return Err(io::Error::other("the test wants no sync"));
        }
        file.map_or(Ok(()), File::sync_data)
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
    pub(crate) fn segment(&self, index: u32) -> Option<Arc<File>> {
        self.tail().segments.get(usize::try_from(index).ok()?).cloned()
    }
}

fn create(folder: &Path, header: &Header) -> Result<File, WritableError> {
    let path = folder.join(header.name.file_name());
    let doing = io_at("beginning", &path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(&doing)?;
    file.write_all_at(&header.encode(), 0)
        .and_then(|()| file.sync_all())
        .map_err(&doing)?;
    sync_dir(folder).map_err(&doing)?;
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
