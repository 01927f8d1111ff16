//! Files of a driver's own: private directories, whole and durable replacement, small JSON.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A description is far smaller; more is not read.
const JSON_LEN_MAX: u64 = 64 << 10;

/// Why a stored description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not JSON of the expected form.
    #[error("cannot understand {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A value in it is wrong, or its version is another one.
    #[error("cannot understand {}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Makes a directory, and those above it, for its user alone.
///
/// # Errors
/// Of the file system.
pub fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Replaces a file as a whole: the old one or the new one is there after a crash, and the new one after a return.
///
/// # Errors
/// Of the file system.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync(parent)
}

/// Makes the names in a directory survive a power failure.
///
/// # Errors
/// Of the file system.
pub fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a small JSON file. `None`: there is none.
///
/// # Errors
/// [`FileError`] if there is one that cannot be used.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let io_failed = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_failed(error)),
    };
    let mut text = Vec::new();
    file.take(JSON_LEN_MAX)
        .read_to_end(&mut text)
        .map_err(io_failed)?;
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|source| FileError::Json {
        path: path.to_owned(),
        source,
    })
}

/// Writes a small JSON file so that it survives a power failure, whole.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let write = || {
        let text = serde_json::to_vec_pretty(value)?;
        write_durably(path, &text)
    };
    write().map_err(|source| FileError::Io {
        path: path.to_owned(),
        source,
    })
}
