//! Content files: written bytes, at the offset they have in the file they belong to.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::extents::ContentId;
use super::meta::sync_dir;

/// Name of the folder of content files.
pub(crate) const FOLDER: &str = "content";
/// Open files kept; below the usual limit of 1024 descriptors with room for several layers.
const OPEN_MAX: usize = 128;

/// The folder of content files, spread over 256 folders (AFS has a limit on names in one).
pub(crate) struct ContentStore {
    folder: PathBuf,
    open: Mutex<HashMap<ContentId, Arc<File>>>,
}

impl ContentStore {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            folder: dir.join(FOLDER),
            open: Mutex::new(HashMap::new()),
        }
    }

    /// Makes an empty file. One that is there already was made by a write that was never logged: it is replaced.
    pub(crate) fn create(&self, id: ContentId) -> io::Result<Arc<File>> {
        let path = self.path(id);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?,
        );
        self.keep(id, &file);
        Ok(file)
    }

    /// Opens a file that is there.
    pub(crate) fn open(&self, id: ContentId) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(id))?);
        self.keep(id, &file);
        Ok(file)
    }

    fn keep(&self, id: ContentId, file: &Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MAX {
            // Half of them, whichever: reopening is cheap and keeping an order is not worth its cost.
            let mut keep = false;
            open.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        open.insert(id, Arc::clone(file));
    }

    /// Makes the file's name durable.
    pub(crate) fn sync_name(&self, id: ContentId) -> io::Result<()> {
        self.path(id).parent().map_or(Ok(()), sync_dir)?;
        // The folder may be new as well.
        sync_dir(&self.folder)
    }

    /// Removes a file that nothing refers to.
    pub(crate) fn remove(&self, id: ContentId) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if let Err(error) = fs::remove_file(self.path(id))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(?id, %error, "an unused content file stays");
        }
    }

    /// Gives back the space of what lies beyond `len`.
    pub(crate) fn shorten(&self, id: ContentId, len: u64) {
        let shortened = self.open(id).and_then(|file| {
            if file.metadata()?.len() > len {
                file.set_len(len)?;
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
        Ok(self.status(id)?.len())
    }

    /// What the file system knows of the file.
    pub(crate) fn status(&self, id: ContentId) -> io::Result<fs::Metadata> {
        fs::metadata(self.path(id))
    }

    /// All files in the folder.
    pub(crate) fn list(&self) -> io::Result<Vec<ContentId>> {
        let mut found = Vec::new();
        for folder in fs::read_dir(&self.folder)? {
            for entry in fs::read_dir(folder?.path())? {
                found.extend(entry?.file_name().to_str().and_then(parse));
            }
        }
        Ok(found)
    }

    /// Removes the files that the log does not know.
    pub(crate) fn sweep(&self, known: &HashSet<ContentId>) -> io::Result<()> {
        for id in self.list()? {
            if !known.contains(&id) {
                self.remove(id);
            }
        }
        Ok(())
    }

    fn path(&self, id: ContentId) -> PathBuf {
        self.folder
            .join(format!("{:02x}", id.number & 0xff))
            .join(format!("{:016x}-{}", id.number, id.epoch))
    }
}

fn parse(name: &str) -> Option<ContentId> {
    let (number, epoch) = name.split_once('-')?;
    Some(ContentId {
        number: u64::from_str_radix(number, 16)
            .ok()
            .filter(|_| number.len() == 16)?,
        epoch: epoch.parse().ok()?,
    })
}

/// Fills as much of `buf` from `offset` on as the file has.
pub(crate) fn read_at(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                offset += super::log::as_u64(count);
                buf = &mut buf[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
