//! What a writable layer holds, in one number: equal as long as nothing in it changes.
//!
//! A mark covers everything the log says of names, attributes, links, whiteouts and written ranges, the bytes that the
//! log itself holds, and of each content file its length and the time of its last change. So it is the same before and
//! after a layer is closed, opened, compacted or moved to another directory, and another one after any change, whether a
//! guest made it or a person with an editor. (A person who changes a content file and sets its time back is not
//! noticed: content can be large, and is not read.) What only serves the server itself, numbers to come and replies
//! that were remembered, is not part of it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::content::{self, ContentStore};
use super::disk::{Disk, DiskFile, Mode};
use super::log;
use super::record::{Change, Record};
use super::replay::{Replayed, replay};
use super::state::State;
use super::{Meta, WritableError, checkpoint, known_content};

/// Names this way of counting: another way gives other marks, and no mark is taken for one of another way.
const WAY: &[u8] = b"cowfs mark 1\n";
/// Deepest that files lie below a layer's directory.
const DEPTH: usize = 3;

/// What a writable layer holds; equal only if it holds the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub [u8; 32]);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Mark {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut mark = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (i, byte) in mark.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
        }
        Some(Self(mark))
    }

    /// The mark of the layer in `path`, which nobody has open. Changes nothing.
    ///
    /// # Errors
    /// As [`super::Writable::open`], but for locks and epochs.
    pub fn of(path: &Path) -> Result<Self, WritableError> {
        let missing = || WritableError::Missing {
            path: path.to_path_buf(),
        };
        let disk = Disk::Host;
        let meta = Meta::read(&disk, path)?.ok_or_else(missing)?;
        let replayed = replay(&disk, path, &meta)?;
        Self::of_replayed(&disk, path, &replayed)
    }

    /// The mark of the layer in `path` whose log has been replayed.
    fn of_replayed(disk: &Disk, path: &Path, replayed: &Replayed) -> Result<Self, WritableError> {
        let mut open = Vec::new();
        for segment in &replayed.chain {
            let file = disk.open(&segment.path, Mode::Read);
            open.push(Arc::new(file.map_err(log::io_at("opening", &segment.path))?));
        }
        let segments = |index: u32| {
            let segment = usize::try_from(index).ok().and_then(|index| open.get(index));
            segment.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let marked = of_state(&replayed.state, &segments, &ContentStore::new(disk, path));
        marked.map_err(|source| WritableError::Io {
            doing: "taking the mark of",
            path: path.to_path_buf(),
            source,
        })
    }
}

/// The mark of a layer that is open, as it was when it was opened; taken when somebody asks for it first, since nobody
/// asks for most, and a large layer should open soon.
#[derive(Clone)]
pub struct MarkAtOpening(Arc<AtOpening>);

struct AtOpening {
    disk: Disk,
    path: PathBuf,
    /// What the log said then; gone once something has changed.
    state: Mutex<Option<State>>,
    segments: Vec<Arc<DiskFile>>,
    taken: OnceLock<Option<Mark>>,
}

impl fmt::Debug for MarkAtOpening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MarkAtOpening").finish_non_exhaustive()
    }
}

impl MarkAtOpening {
    /// To be taken of the layer in `path` when somebody asks: for a layer whose content nobody else changes.
    pub(super) fn later(disk: &Disk, path: &Path, state: &State, segments: Vec<Arc<DiskFile>>) -> Self {
        Self::new(disk, path, Some(state.clone()), segments)
    }

    /// Taken now, of a layer whose log has been replayed. Without a mark a layer serves as well: nobody is kept from it.
    pub(super) fn now(disk: &Disk, path: &Path, replayed: &Replayed) -> Self {
        let mark = Mark::of_replayed(disk, path, replayed).inspect_err(|error| {
            tracing::warn!(path = %path.display(), error = error as &dyn std::error::Error, "no mark");
        });
        let taken = Self::new(disk, path, None, Vec::new());
        // It is empty, so this sets it.
        let _mark = taken.0.taken.get_or_init(|| mark.ok());
        taken
    }

    fn new(disk: &Disk, path: &Path, state: Option<State>, segments: Vec<Arc<DiskFile>>) -> Self {
        Self(Arc::new(AtOpening {
            disk: disk.clone(),
            path: path.to_path_buf(),
            state: Mutex::new(state),
            segments,
            taken: OnceLock::new(),
        }))
    }

    /// The mark; `None` where it cannot be taken, or something has changed before anybody asked. Reads what the log
    /// holds of files, so it takes a while for a large layer.
    #[must_use]
    pub fn take(&self) -> Option<Mark> {
        let here = &self.0;
        *here.taken.get_or_init(|| {
            let state = here.state.lock().unwrap_or_else(PoisonError::into_inner).take()?;
            let segments = |index: u32| {
                let segment = usize::try_from(index)
                    .ok()
                    .and_then(|index| here.segments.get(index));
                segment.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
            };
            of_state(&state, &segments, &ContentStore::new(&here.disk, &here.path))
                .inspect_err(|error| tracing::warn!(path = %here.path.display(), %error, "no mark"))
                .ok()
        })
    }

    /// Something is about to change: lets go of what was kept to take the mark of.
    pub(crate) fn forget(&self) {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(state);
    }
}

fn of_state(
    state: &State,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
    content: &ContentStore,
) -> io::Result<Mark> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(WAY);
    hasher.update(&state.layer().0);
    checkpoint::snapshot(state, segments, &mut |change| {
        if !matches!(
            change,
            Change::Next { .. } | Change::Called(_) | Change::Adopted { .. } | Change::Saved { .. }
        ) {
            let mut record = Record {
                call: None,
                changes: vec![change],
            };
            let bytes = record.encode();
            hasher.update(&log::as_u64(bytes.len()).to_le_bytes());
            hasher.update(&bytes);
        }
        Ok(())
    })?;
    let mut known: Vec<_> = known_content(state).into_iter().collect();
    known.sort_unstable();
    for id in known {
        let status = content.status(id)?;
        for part in [id.number, id.epoch, status.len] {
            hasher.update(&part.to_le_bytes());
        }
        for part in [status.mtime.0, status.mtime.1] {
            hasher.update(&part.to_le_bytes());
        }
    }
    Ok(Mark(*hasher.finalize().as_bytes()))
}

/// The files of a layer as the file system describes them: as long as that is the same, so is the mark, and it need not
/// be taken again.
///
/// # Errors
/// Of the file system.
pub fn fingerprint(path: &Path) -> io::Result<[u8; 32]> {
    let mut files = Vec::new();
    for folder in [log::FOLDER, content::FOLDER] {
        describe(&path.join(folder), DEPTH, &mut files)?;
    }
    files.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for (name, numbers) in files {
        hasher.update(&log::as_u64(name.len()).to_le_bytes());
        hasher.update(&name);
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
    }
    Ok(*hasher.finalize().as_bytes())
}

type Description = (Vec<u8>, [i64; 6]);

fn describe(folder: &Path, depth: usize, files: &mut Vec<Description>) -> io::Result<()> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in listing {
        let entry = entry?;
        let status = entry.metadata()?;
        if status.is_dir() {
            if depth > 0 {
                describe(&entry.path(), depth - 1, files)?;
            }
            continue;
        }
        let numbers = [
            i64::from_ne_bytes(status.ino().to_ne_bytes()),
            i64::from_ne_bytes(status.len().to_ne_bytes()),
            status.mtime(),
            status.mtime_nsec(),
            status.ctime(),
            status.ctime_nsec(),
        ];
        files.push((entry.path().into_os_string().into_encoded_bytes(), numbers));
    }
    Ok(())
}
