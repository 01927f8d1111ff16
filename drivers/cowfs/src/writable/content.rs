//! Content files: written bytes, at the offset they have in the file they belong to.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, FileStatus, Mode};
use super::extents::ContentId;

/// Name of the folder of content files.
pub(crate) const FOLDER: &str = "content";
/// Open files kept; below the usual limit of 1024 descriptors with room for several layers.
const OPEN_MAX: usize = 128;

/// The folder of content files, spread over 256 folders (AFS has a limit on names in one).
pub(crate) struct ContentStore {
    disk: Disk,
    folder: PathBuf,
    open: Mutex<HashMap<ContentId, Arc<ContentFile>>>,
    /// See [`ContentStore::losses`].
    losses: Arc<AtomicU64>,
    /// Files that checkpoints need as they are.
    pinned: Mutex<Pins>,
}

/// A content file, open to be written.
pub(crate) struct ContentFile {
    file: Arc<DiskFile>,
    /// Whether something was written that was not synced yet.
    unsynced: AtomicBool,
    /// Held while it is synced.
    turn: Mutex<()>,
    losses: Arc<AtomicU64>,
}

impl ContentFile {
    /// Writes all of `bytes`; after an error, perhaps a part of them.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        self.unsynced.store(true, Ordering::Release);
        written
    }

    /// Makes what was written durable. What of it is lost is counted before anybody else is told that the file is on disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.unsynced.store(false, Ordering::Release);
        self.file.sync().inspect_err(|_| {
            self.losses.fetch_add(1, Ordering::AcqRel);
        })
    }

    /// To be read.
    pub(crate) fn reader(&self) -> Arc<DiskFile> {
        Arc::clone(&self.file)
    }
}

/// What must stay as it is.
#[derive(Default)]
struct Pins {
    files: HashSet<ContentId>,
    /// All files of lower numbers, while a checkpoint is being made and nobody has counted yet which ones it needs.
    before: u64,
    /// Those of them that were to be removed.
    unused: Vec<ContentId>,
    /// All files of lower numbers, for as long as the layer is open: they may be removed, but stay as they are until then.
    sealed: u64,
}

impl Pins {
    fn hold(&self, id: ContentId) -> bool {
        id.number < self.before || self.files.contains(&id)
    }
}

/// Content stays as it is while this lives.
pub(crate) struct Keeping<'a>(&'a ContentStore);

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        let mut pins = self.0.pins();
        pins.before = 0;
        let unused = std::mem::take(&mut pins.unused);
        drop(pins);
        unused.into_iter().for_each(|id| self.0.remove(id));
    }
}

impl ContentStore {
    pub(crate) fn new(disk: &Disk, dir: &Path) -> Self {
        Self {
            disk: disk.clone(),
            folder: dir.join(FOLDER),
            open: Mutex::new(HashMap::new()),
            losses: Arc::default(),
            pinned: Mutex::default(),
        }
    }

    /// Makes an empty file. One that is there already was made by a write that was never logged: it is replaced.
    pub(crate) fn create(&self, id: ContentId) -> io::Result<Arc<ContentFile>> {
        let path = self.path(id);
        let made = self.disk.open(&path, Mode::CreateNew).or_else(|error| {
            match (error.kind(), path.parent()) {
                (io::ErrorKind::NotFound, Some(folder)) => match self.disk.make_dir(folder) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                },
                (io::ErrorKind::AlreadyExists, _) => self.disk.remove(&path)?,
                _ => return Err(error),
            }
            self.disk.open(&path, Mode::CreateNew)
        });
        Ok(self.keep(id, made?))
    }

    /// Opens a file that is there.
    pub(crate) fn open(&self, id: ContentId) -> io::Result<Arc<ContentFile>> {
        if let Some(file) = self.opened().get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&self.path(id), Mode::ReadWrite)?;
        let mut open = self.opened();
        if let Some(file) = open.get(&id) {
            // Somebody else was faster: there is never more than one, or one would not hear what the other was told.
            return Ok(Arc::clone(file));
        }
        Ok(self.keep_in(&mut open, id, file))
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<ContentId, Arc<ContentFile>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often written bytes may have been lost before they were durable, since the layer was opened: whoever was told
    /// that they are taken, but not that they are durable, has to write them again (the write verifier of RFC 1813 §3.3.7).
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Opens a file that is there, only to read it: that works where nothing can be written any more.
    pub(crate) fn open_to_read(&self, id: ContentId) -> io::Result<Arc<DiskFile>> {
        match self.open(id) {
            Ok(file) => Ok(file.reader()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            Err(_) => self.disk.open(&self.path(id), Mode::Read).map(Arc::new),
        }
    }

    fn keep(&self, id: ContentId, file: DiskFile) -> Arc<ContentFile> {
        self.keep_in(&mut self.opened(), id, file)
    }

    fn keep_in(
        &self,
        open: &mut HashMap<ContentId, Arc<ContentFile>>,
        id: ContentId,
        file: DiskFile,
    ) -> Arc<ContentFile> {
        if open.len() >= OPEN_MAX {
            make_room(open);
        }
        let file = Arc::new(ContentFile {
            file: Arc::new(file),
            unsynced: AtomicBool::new(false),
            turn: Mutex::new(()),
            losses: Arc::clone(&self.losses),
        });
        open.insert(id, Arc::clone(&file));
        file
    }

    /// Makes the file's name durable.
    pub(crate) fn sync_name(&self, id: ContentId) -> io::Result<()> {
        self.path(id)
            .parent()
            .map_or(Ok(()), |folder| self.disk.sync_dir(folder))?;
        // The folder may be new as well.
        self.disk.sync_dir(&self.folder)
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps files as they are from now on.
    pub(super) fn pin(&self, ids: impl IntoIterator<Item = ContentId>) {
        self.pins().files.extend(ids);
    }

    /// Keeps these files and no others; returns those that were kept until now.
    pub(super) fn pin_only(&self, ids: HashSet<ContentId>) -> Vec<ContentId> {
        let mut pins = self.pins();
        let before = std::mem::replace(&mut pins.files, ids);
        before.difference(&pins.files).copied().collect()
    }

    /// Keeps all files of lower numbers as they are for a while.
    pub(crate) fn keep_before(&self, number: u64) -> Keeping<'_> {
        self.pins().before = number;
        Keeping(self)
    }

    /// Has all files of lower numbers stay as they are, or go, for as long as the layer is open: what is written from now on
    /// goes to others, as after a change of epoch.
    pub(crate) fn seal_before(&self, number: u64) {
        let mut pins = self.pins();
        pins.sealed = pins.sealed.max(number);
    }

    /// Files that checkpoints need, of this number and higher.
    pub(crate) fn pinned_from(&self, number: u64) -> Vec<ContentId> {
        let pins = self.pins();
        pins.files
            .iter()
            .filter(|id| id.number >= number)
            .copied()
            .collect()
    }

    /// Whether the file has to stay as it is.
    pub(crate) fn is_pinned(&self, id: ContentId) -> bool {
        let pins = self.pins();
        id.number < pins.sealed || pins.hold(id)
    }

    /// Removes a file that nothing refers to, unless a checkpoint does.
    pub(crate) fn remove(&self, id: ContentId) {
        {
            let mut pins = self.pins();
            if pins.hold(id) {
                if !pins.files.contains(&id) {
                    pins.unused.push(id);
                }
                return;
            }
        }
        self.opened().remove(&id);
        if let Err(error) = self.disk.remove(&self.path(id))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(?id, %error, "an unused content file stays");
        }
    }

    /// Gives back the space of what lies beyond `len`.
    pub(crate) fn shorten(&self, id: ContentId, len: u64) {
        if self.is_pinned(id) {
            return;
        }
        let shortened = self.open(id).and_then(|file| {
            if file.file.len()? > len {
                file.file.set_len(len)?;
            }
            Ok(())
        });
        if let Err(error) = shortened
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(?id, %error, "the end of a content file stays");
        }
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self, id: ContentId) -> io::Result<u64> {
        Ok(self.status(id)?.len)
    }

    /// What the file system knows of the file.
    pub(crate) fn status(&self, id: ContentId) -> io::Result<FileStatus> {
        self.disk.status(&self.path(id))
    }

    /// All files in the folder.
    pub(crate) fn list(&self) -> io::Result<Vec<ContentId>> {
        let mut found = Vec::new();
        for folder in self.disk.list(&self.folder)? {
            for name in self.disk.list(&self.folder.join(folder))? {
                found.extend(name.to_str().and_then(parse));
            }
        }
        Ok(found)
    }

    /// Removes the files that the log does not know; not those of epochs after `epoch`, whose log this is not.
    pub(crate) fn sweep(&self, known: &HashSet<ContentId>, epoch: u64) -> io::Result<()> {
        for id in self.list()? {
            if id.epoch <= epoch && !known.contains(&id) {
                self.remove(id);
            }
        }
        Ok(())
    }

    /// Where a file is, or would be.
    pub(crate) fn path(&self, id: ContentId) -> PathBuf {
        self.folder.join(folder_name(id)).join(file_name(id))
    }
}

/// Closes files that nobody is at: half of those that are on disk, whichever (reopening is cheap and keeping an order is
/// not worth its cost), or one that has to be synced first. A file that is closed takes with it what the kernel has to say
/// about its content.
fn make_room(open: &mut HashMap<ContentId, Arc<ContentFile>>) {
    let before = open.len();
    let mut keep = false;
    open.retain(|_, file| {
        let idle = Arc::strong_count(file) == 1 && !file.unsynced.load(Ordering::Acquire);
        keep = !keep;
        keep || !idle
    });
    if open.len() < before {
        return;
    }
    let idle = open.iter().find(|(_, file)| Arc::strong_count(file) == 1);
    if let Some((&id, file)) = idle {
        // What fails is counted, and everybody writes again what was not durable yet.
        if let Err(error) = file.sync() {
            tracing::warn!(?id, %error, "syncing a content file to close it");
        }
        open.remove(&id);
    }
}

/// The folder it is in.
pub(super) fn folder_name(id: ContentId) -> String {
    format!("{:02x}", id.number & 0xff)
}

/// Its name in its folder.
pub(super) fn file_name(id: ContentId) -> String {
    format!("{:016x}-{}", id.number, id.epoch)
}

pub(super) fn parse(name: &str) -> Option<ContentId> {
    let (number, epoch) = name.split_once('-')?;
    Some(ContentId {
        number: u64::from_str_radix(number, 16)
            .ok()
            .filter(|_| number.len() == 16)?,
        epoch: epoch.parse().ok()?,
    })
}
