//! One import as a transaction: everything arrives below `tmp/`, is synced, and is then renamed into place.
//!
//! The lock of the store is held for the whole import, so nobody else can come to rely on a content file that a failing
//! import is about to take back. Before the first rename the list of them is written down (`tmp/X/placing`): if the
//! machine stops between two renames, whoever imports or opens the store next finishes the job or takes them back.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use super::content::content_path;
use super::digest::Digest;
use crate::layer::ContentHash;

/// Files up to this size are held in memory until their hash is known, so that known content is never written again.
const HELD_MAX: usize = 1 << 20;
/// Up to this many new files are synced one by one; more with one call, which also waits for whatever else is being
/// written to that file system.
const SYNCED_SINGLY_MAX: usize = 64;
/// The list of what is being renamed into place.
const PLACING: &str = "placing";

/// Why bytes could not be brought into a store.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// What is imported cannot be read.
    #[error("reading what is to be imported")]
    Source(#[source] io::Error),
    /// The store cannot be written: full, say, or not ours.
    #[error("writing to the store at {}", path.display())]
    Store {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The import is larger than it was allowed to be.
    #[error("the import is larger than {max} bytes")]
    TooLarge {
        /// The limit.
        max: u64,
    },
}

/// Adds the path to an I/O error.
pub(super) trait At<T> {
    fn at(self, path: &Path) -> Result<T, StageError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, StageError> {
        self.map_err(|source| StageError::Store {
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

/// An import under way.
pub(crate) struct Staging {
    root: PathBuf,
    dir: PathBuf,
    _lock: File,
    staged: BTreeSet<ContentHash>,
    bytes_left: u64,
    bytes_max: u64,
    bytes_new: u64,
}

impl Staging {
    /// Waits for the store's lock, clears away what an interrupted import left, and begins a new one that may read at
    /// most `bytes_max` bytes of content.
    pub(crate) fn begin(root: &Path, bytes_max: u64) -> Result<Self, StageError> {
        let lock = open_lock(root)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).at(&root.join("lock"))?;
        recover(root)?;
        let dir = root.join("tmp").join(format!("import-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&dir).at(&dir)?;
        Ok(Self {
            root: root.to_owned(),
            dir,
            _lock: lock,
            staged: BTreeSet::new(),
            bytes_left: bytes_max,
            bytes_max,
            bytes_new: 0,
        })
    }

    /// Bytes of content that the store did not have.
    pub(crate) fn bytes_new(&self) -> u64 {
        self.bytes_new
    }

    /// Takes everything `from` gives as one content file; returns its hash and length.
    pub(crate) fn content(&mut self, from: &mut dyn Read) -> Result<(ContentHash, u64), StageError> {
        let mut held = Vec::new();
        from.take(HELD_MAX as u64 + 1)
            .read_to_end(&mut held)
            .map_err(StageError::Source)?;
        self.charge(held.len())?;
        if held.len() <= HELD_MAX {
            let hash = ContentHash(Sha256::digest(&held).into());
            if !self.is_known(&hash, held.len() as u64) {
                let path = self.dir.join(Digest(hash.0).hex());
                write_whole(&path, &held).at(&path)?;
                self.staged.insert(hash);
                self.bytes_new += held.len() as u64;
            }
            return Ok((hash, held.len() as u64));
        }
        let path = self.dir.join("growing");
        let mut file = create_new(&path).at(&path)?;
        let mut hasher = Sha256::new();
        let mut len = 0_u64;
        loop {
            hasher.update(&held);
            file.write_all(&held).at(&path)?;
            len += held.len() as u64;
            held.clear();
            from.take(HELD_MAX as u64)
                .read_to_end(&mut held)
                .map_err(StageError::Source)?;
            self.charge(held.len())?;
            if held.is_empty() {
                break;
            }
        }
        seal(&file).at(&path)?;
        let hash = ContentHash(hasher.finalize().into());
        if self.is_known(&hash, len) {
            fs::remove_file(&path).at(&path)?;
        } else {
            let named = self.dir.join(Digest(hash.0).hex());
            fs::rename(&path, &named).at(&named)?;
            self.staged.insert(hash);
            self.bytes_new += len;
        }
        Ok((hash, len))
    }

    /// Makes everything staged, this index and this template durable and visible, or nothing of it.
    pub(crate) fn commit(self, index: &[u8], template: &[u8]) -> Result<(Digest, Digest), StageError> {
        let (index_digest, template_digest) = (Digest::of(index), Digest::of(template));
        let mut moves = Vec::new();
        for hash in &self.staged {
            let hex = Digest(hash.0).hex();
            moves.push((hex.clone(), format!("content/{}/{}", &hex[..2], &hex[2..])));
        }
        let index_name = format!("index/{}", index_digest.hex());
        if !has_length(&self.root.join(&index_name), index.len() as u64) {
            let path = self.dir.join("index");
            write_whole(&path, index).at(&path)?;
            moves.push(("index".to_owned(), index_name));
        }
        let template_name = format!("templates/{}.json", template_digest.hex());
        if moves.is_empty() && has_length(&self.root.join(&template_name), template.len() as u64) {
            return Ok((index_digest, template_digest));
        }
        let staged_template = self.dir.join("template");
        write_whole(&staged_template, template).at(&staged_template)?;

        // First line: the template whose presence says that all is well; then what was placed for it.
        let fresh = moves.iter().filter(|(_, to)| !self.root.join(to).exists());
        let list: String = std::iter::once(&template_name)
            .chain(fresh.map(|(_, to)| to))
            .flat_map(|name| [name.as_str(), "\n"])
            .collect();
        let placing = self.dir.join(PLACING);
        write_whole(&placing, list.as_bytes()).at(&placing)?;
        if moves.len() <= SYNCED_SINGLY_MAX {
            for path in moves.iter().map(|(from, _)| self.dir.join(from)) {
                sync(&path)?;
            }
            for path in [&staged_template, &placing, &self.dir, &self.root.join("tmp")] {
                sync(path)?;
            }
        } else {
            sync_all_of(&self.dir)?;
        }

        let template_path = self.root.join(&template_name);
        let was_there = template_path.exists();
        let placed = self.place(&moves, &staged_template, &template_path);
        if placed.is_err() {
            if !was_there {
                let _ = fs::remove_file(&template_path);
            }
            // Whether or not this succeeds, the list stays for the next attempt.
            let _ = take_back(&self.root, &self.dir);
        }
        placed.map(|()| (index_digest, template_digest))
    }

    fn place(&self, moves: &[(String, String)], template: &Path, to: &Path) -> Result<(), StageError> {
        let mut parents = BTreeSet::from([self.root.join("content")]);
        for (from, to) in moves {
            let to = self.root.join(to);
            if let Some(parent) = to.parent() {
                parents.insert(parent.to_owned());
                match fs::create_dir(parent) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at(parent)?,
                    _ => {}
                }
            }
            fs::rename(self.dir.join(from), &to).at(&to)?;
        }
        for parent in &parents {
            sync(parent)?;
        }
        fs::rename(template, to).at(to)?;
        sync(&self.root.join("templates"))
    }

    fn charge(&mut self, count: usize) -> Result<(), StageError> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(count as u64)
            .ok_or(StageError::TooLarge { max: self.bytes_max })?;
        Ok(())
    }

    /// Whether this content needs no writing. One in place of another length is damaged, and is replaced.
    fn is_known(&self, hash: &ContentHash, len: u64) -> bool {
        self.staged.contains(hash) || has_length(&content_path(&self.root.join("content"), hash), len)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Clears away what interrupted imports left, if nobody is importing right now.
pub(super) fn recover_if_idle(root: &Path) -> Result<(), StageError> {
    let lock = open_lock(root)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => recover(root),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(()),
        Err(error) => Err(error).at(&root.join("lock")),
    }
}

/// Writes a file under another name, syncs it and renames it into place.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at(&new)?,
        _ => {}
    }
    write_whole(&new, bytes).at(&new)?;
    sync(&new)?;
    fs::rename(&new, path).at(path)?;
    sync(path.parent().unwrap_or(path))
}

fn open_lock(root: &Path) -> Result<File, StageError> {
    let path = root.join("lock");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .at(&path)
}

/// The lock is held.
fn recover(root: &Path) -> Result<(), StageError> {
    let tmp = root.join("tmp");
    for entry in fs::read_dir(&tmp).at(&tmp)? {
        let dir = entry.at(&tmp)?.path();
        take_back(root, &dir)?;
        fs::remove_dir_all(&dir).at(&dir)?;
    }
    Ok(())
}

/// Removes what an import placed whose template never came to be.
fn take_back(root: &Path, dir: &Path) -> Result<(), StageError> {
    let placing = dir.join(PLACING);
    let list = match fs::read_to_string(&placing) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A list cut short by a crash names nothing that was renamed: it is synced before the first rename.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(()),
        Err(error) => return Err(error).at(&placing),
    };
    let mut lines = list.lines();
    if lines.next().is_none_or(|template| root.join(template).exists()) {
        return Ok(());
    }
    for line in lines.filter(|line| is_ours(line)) {
        let path = root.join(line);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at(&path)?,
            _ => {}
        }
    }
    Ok(())
}

/// Only names that [`Staging::commit`] writes are ever removed.
fn is_ours(name: &str) -> bool {
    let hex = |text: &str, len: usize| {
        text.len() == len
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    match name.split_once('/') {
        Some(("index", rest)) => hex(rest, 64),
        Some(("content", rest)) => rest.split_once('/').is_some_and(|(a, b)| hex(a, 2) && hex(b, 62)),
        _ => false,
    }
}

fn has_length(path: &Path, len: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == len)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o444)
        .open(path)
}

/// Gives a finished file its mode, whatever the umask was.
fn seal(file: &File) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o444))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    seal(&file)
}

/// Syncs one file or directory.
fn sync(path: &Path) -> Result<(), StageError> {
    File::open(path).and_then(|file| file.sync_all()).at(path)
}

/// Syncs the file system that `dir` lies on; like fsync it tells of every write that failed (syncfs(2)).
fn sync_all_of(dir: &Path) -> Result<(), StageError> {
    let handle = File::open(dir).at(dir)?;
    rustix::fs::syncfs(&handle).at(dir)
}
