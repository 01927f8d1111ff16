//! Checkpoints that people and agents ask for: what a writable layer held at one moment, to go back to.
//!
//! ```text
//! checkpoints/NAME.log     the whole state, in the form of a segment of the log
//! checkpoints/NAME.json    when and of what it was made, and which content files it needs; the checkpoint is there once
//!                          this is
//! ```
//! A checkpoint costs its state and whatever is overwritten later: content files that one needs are *pinned*, neither
//! written in place nor shortened nor removed. Going back is a segment that holds the old state, so it happens wholly or
//! not at all.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::content::{self, ContentStore};
use super::disk::{Disk, DiskFile, Mode};
use super::extents::ContentId;
use super::log::{self, io_at};
use super::record::Change;
use super::replay::replay_alone;
use super::segment::{FORMAT as LOG_FORMAT, Header, SegmentName};
use super::state::{Object, State};
use super::{Writable, WritableError, checkpoint, known_content, meta, shape};

/// Name of the folder of checkpoints.
pub(crate) const FOLDER: &str = "checkpoints";
/// Most checkpoints of one layer: each is read when the layer is opened.
pub const CHECKPOINTS_MAX: usize = 64;
const NAME_MAX: usize = 64;
const FORMAT: u32 = 1;
pub(super) const MANIFEST: &str = ".json";
pub(super) const STATE: &str = ".log";
/// Start of names of files that are not whole.
const TEMPORARY: &str = ".";

/// A checkpoint of a writable layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Under which epoch.
    pub epoch: u64,
    /// Objects that had a record.
    pub objects: u64,
    /// What written content cost, in bytes.
    pub bytes: u64,
}

/// Why a checkpoint was not made, found or gone back to.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Not a name.
    #[error("`{0}` is no name of a checkpoint: 1 to {NAME_MAX} of a-z A-Z 0-9 . _ -, and no dot in front")]
    Name(String),
    /// There is none of that name.
    #[error("there is no checkpoint `{0}`")]
    Missing(String),
    /// There are very many.
    #[error("there are {CHECKPOINTS_MAX} checkpoints already: delete one")]
    TooMany,
    /// Nothing that could be saved.
    #[error("there is no writable layer to make a checkpoint of")]
    ReadOnly,
    /// What is unsynced could not be made durable first.
    #[error("making everything durable first")]
    Flush(#[source] crate::service::Status),
    /// The layer, or its disk.
    #[error(transparent)]
    Layer(#[from] WritableError),
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Manifest {
    format: u32,
    layer: String,
    epoch: u64,
    created: u64,
    objects: u64,
    bytes: u64,
    log_hash: String,
    content: Vec<String>,
}

/// Whether a checkpoint can have this name.
pub(crate) fn check_name(name: &str) -> Result<(), SavedError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('.') && name.chars().all(plain) {
        Ok(())
    } else {
        Err(SavedError::Name(name.to_owned()))
    }
}

/// The checkpoints of the layer in `path`, by name. Those that the log knows: what a holder has left that lost its epoch
/// is none.
pub(crate) fn list(disk: &Disk, path: &Path, state: &State) -> Result<Vec<Saved>, WritableError> {
    let known = state.saved.iter();
    known
        .map(|(name, digest)| {
            let manifest = read(disk, path, name, digest)?;
            Ok(Saved {
                name: name.clone(),
                created: manifest.created,
                epoch: manifest.epoch,
                objects: manifest.objects,
                bytes: manifest.bytes,
            })
        })
        .collect()
}

/// Names of the checkpoints that lie in the layer in `path`, and when each was made, at a glance: opens nothing, and asks
/// no log whether it knows of them. One whose making was interrupted may be among them until the layer is opened.
///
/// # Errors
/// When the directory cannot be read.
pub fn glance(path: &Path) -> io::Result<Vec<(String, SystemTime)>> {
    let entries = match std::fs::read_dir(path.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(MANIFEST));
        if let Some(name) = name.filter(|name| check_name(name).is_ok())
            && let Ok(made) = entry.metadata().and_then(|metadata| metadata.modified())
        {
            all.push((name.to_owned(), made));
        }
    }
    all.sort();
    Ok(all)
}

fn manifest_path(path: &Path, name: &str) -> PathBuf {
    path.join(FOLDER).join(format!("{name}{MANIFEST}"))
}

fn state_path(path: &Path, name: &str) -> PathBuf {
    path.join(FOLDER).join(format!("{name}{STATE}"))
}

fn read(disk: &Disk, path: &Path, name: &str, digest: &[u8; 32]) -> Result<Manifest, WritableError> {
    let file = manifest_path(path, name);
    let damaged = |what: String| WritableError::Damaged {
        file: file.clone(),
        position: 0,
        what,
    };
    let bytes = match disk.read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged("it is gone, and with it a checkpoint".to_owned()));
        }
        bytes => bytes.map_err(io_at("reading", &file))?,
    };
    if blake3::hash(&bytes).as_bytes() != digest {
        return Err(damaged("it is not what the checkpoint was made with".to_owned()));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(WritableError::Newer {
            what: format!("format {}", manifest.format),
            file,
        });
    }
    Ok(manifest)
}

impl Manifest {
    fn content(&self, file: &Path) -> Result<Vec<ContentId>, WritableError> {
        let ids = self.content.iter().map(|name| {
            content::parse(name).ok_or_else(|| WritableError::Damaged {
                file: file.to_path_buf(),
                position: 0,
                what: format!("`{name}` names no content file"),
            })
        });
        ids.collect()
    }
}

/// Content files that checkpoints need.
pub(crate) fn pinned(disk: &Disk, path: &Path, state: &State) -> Result<HashSet<ContentId>, WritableError> {
    let mut pinned = HashSet::new();
    for (name, digest) in &state.saved {
        let manifest = read(disk, path, name, digest)?;
        pinned.extend(manifest.content(&manifest_path(path, name))?);
    }
    Ok(pinned)
}

/// Writes a checkpoint of `state`, of which everything is on disk, and pins what it needs. The caller lets nobody write,
/// and logs the change that is returned; there is none where a checkpoint of that name is there, which stays as it is.
pub(crate) fn write(
    disk: &Disk,
    path: &Path,
    epoch: u64,
    state: &State,
    content: &ContentStore,
    segments: &dyn Fn(u32) -> io::Result<Arc<DiskFile>>,
    name: &str,
) -> Result<Option<Change>, SavedError> {
    check_name(name)?;
    if state.saved.contains_key(name) {
        return Ok(None);
    }
    if state.saved.len() >= CHECKPOINTS_MAX {
        return Err(SavedError::TooMany);
    }
    let folder = path.join(FOLDER);
    match disk.make_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(io_at("making", &folder))?,
    }
    disk.sync_dir(path).map_err(io_at("syncing", path))?;
    let header = Header {
        format: LOG_FORMAT,
        layer: state.layer(),
        name: SegmentName { sequence: 0, epoch },
        checkpoint: true,
        predecessor: None,
    };
    let temporary = folder.join(format!("{TEMPORARY}{name}{STATE}"));
    let hash = checkpoint::write_file(disk, &temporary, header, state, segments)?;
    let file = state_path(path, name);
    disk.rename(&temporary, &file).map_err(io_at("renaming", &file))?;
    let mut needed: Vec<ContentId> = known_content(state).into_iter().collect();
    needed.sort_unstable();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let manifest = Manifest {
        format: FORMAT,
        layer: meta::to_hex(&state.layer().0),
        epoch,
        created: created.as_secs(),
        objects: log::as_u64(state.objects.len()),
        bytes: state.bytes,
        log_hash: meta::to_hex(&hash),
        content: needed.iter().map(|id| content::file_name(*id)).collect(),
    };
    let file = manifest_path(path, name);
    let failed = io_at("writing", &file);
    let bytes = serde_json::to_vec(&manifest).map_err(|error| failed(error.into()))?;
    let temporary = folder.join(format!("{TEMPORARY}{name}{MANIFEST}"));
    let whole = disk.open(&temporary, Mode::Truncate).and_then(|out| {
        out.write_all_at(&bytes, 0)?;
        out.sync()
    });
    whole.map_err(&failed)?;
    disk.rename(&temporary, &file).map_err(&failed)?;
    disk.sync_dir(&folder).map_err(&failed)?;
    // Before it is there: whoever goes on to write must not write to what it needs.
    content.pin(needed);
    Ok(Some(Change::Saved {
        name: name.to_owned(),
        manifest: Some(*blake3::hash(&bytes).as_bytes()),
    }))
}

/// Removes what is left of a checkpoint that the log, on disk, does not know any more, and what nothing but it needs.
pub(crate) fn remove(
    disk: &Disk,
    path: &Path,
    state: &State,
    content: &ContentStore,
    name: &str,
) -> Result<(), SavedError> {
    for file in [manifest_path(path, name), state_path(path, name)] {
        match disk.remove(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(io_at("removing", &file))?,
        }
    }
    let left = pinned(disk, path, state)?;
    let mut known = known_content(state);
    // A file goes on writing to its content file also when nothing of what that holds shows any more.
    let files = state.objects.values().filter_map(Object::file);
    known.extend(files.filter_map(|file| file.writing));
    for id in content.pin_only(left) {
        if !known.contains(&id) {
            content.remove(id);
        }
    }
    Ok(())
}

/// The state that a checkpoint holds, and the file with the bytes that are in it.
pub(crate) fn load(
    disk: &Disk,
    path: &Path,
    now: &State,
    name: &str,
) -> Result<(State, Arc<DiskFile>), SavedError> {
    let digest = now
        .saved
        .get(name)
        .ok_or_else(|| SavedError::Missing(name.to_owned()))?;
    let manifest = read(disk, path, name, digest)?;
    let file = state_path(path, name);
    let (state, hash) = replay_alone(disk, &file, now)?;
    if meta::to_hex(&hash) != manifest.log_hash {
        return Err(SavedError::Layer(WritableError::Damaged {
            file,
            position: 0,
            what: "it is not what the checkpoint was made with".to_owned(),
        }));
    }
    // Before it is put in the place of the log, which then could not be opened.
    if let Err(misplaced) = shape::check(&state) {
        return Err(SavedError::Layer(WritableError::Damaged {
            file,
            position: 0,
            what: misplaced.to_string(),
        }));
    }
    let open = disk.open(&file, Mode::Read).map_err(io_at("opening", &file))?;
    Ok((state, Arc::new(open)))
}

/// Removes what an interrupted making or removing has left, and what an earlier holder made after it had been replaced.
pub(super) fn tidy(disk: &Disk, path: &Path, state: &State) -> Result<(), WritableError> {
    let folder = path.join(FOLDER);
    let listed = match disk.list(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(io_at("listing", &folder))?,
    };
    for name in &listed {
        let text = name.to_str().unwrap_or_default();
        let of = text.strip_suffix(MANIFEST).or_else(|| text.strip_suffix(STATE));
        if !of.is_some_and(|of| state.saved.contains_key(of)) {
            let file = folder.join(name);
            disk.remove(&file).map_err(io_at("removing", &file))?;
        }
    }
    Ok(())
}

impl Writable {
    fn log_saved(&mut self, change: Change) -> Result<(), SavedError> {
        let failed = io_at("writing to the log of", &self.path);
        log::append_change(&self.log, &mut self.state, change).map_err(&failed)?;
        let settled = self.log.settle(self.log.end()).map_err(io::Error::other);
        Ok(settled.map_err(failed)?)
    }

    /// Makes a checkpoint of the layer; one of that name that is there stays as it is.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn save(&mut self, name: &str) -> Result<(), SavedError> {
        let log = &self.log;
        let segments = |index| log.segment(index).ok_or_else(|| io::ErrorKind::NotFound.into());
        let change = write(
            &self.disk,
            &self.path,
            self.epoch,
            &self.state,
            &self.content,
            &segments,
            name,
        )?;
        change.map_or(Ok(()), |change| self.log_saved(change))
    }

    /// Removes a checkpoint, if there is one of that name.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn delete_saved(&mut self, name: &str) -> Result<(), SavedError> {
        if self.state.saved.contains_key(name) {
            self.log_saved(Change::Saved {
                name: name.to_owned(),
                manifest: None,
            })?;
            remove(&self.disk, &self.path, &self.state, &self.content, name)?;
        }
        Ok(())
    }

    /// Its checkpoints, by name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn saved(&self) -> Result<Vec<Saved>, SavedError> {
        Ok(list(&self.disk, &self.path, &self.state)?)
    }

    /// Goes back to a checkpoint: what was changed since is gone, and handles of what was made since are stale for ever.
    ///
    /// # Errors
    /// [`SavedError`]; the layer then is as it was, and closed.
    pub fn restore(self, name: &str) -> Result<Self, SavedError> {
        let (mut state, file) = load(&self.disk, &self.path, &self.state, name)?;
        // Numbers are not used twice: a handle must never lead to another object.
        state.next = state.next.max(self.state.next);
        state.frozen = state.frozen.max(self.state.frozen);
        state.saved.clone_from(&self.state.saved);
        let segments = |_| Ok(Arc::clone(&file));
        checkpoint::replace_by(&self.log, self.epoch, &state, &segments)?;
        Ok(self.open_again()?)
    }
}
