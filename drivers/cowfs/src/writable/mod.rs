//! The writable layer: an append-only log of what changed, and content files named by number.
//!
//! The log is the only truth about names, attributes, links, whiteouts, origins and written ranges; it is replayed into
//! memory at open. On disk a layer needs nothing but append, truncate, fsync, rename and exclusive create, no extended
//! attributes and no privilege: owners and device nodes are records.
//!
//! ```text
//! layer.json       who the layer is, and the key of its handles (0600)
//! lock             held while a server has the layer open
//! log/             segments, one per epoch: SEQUENCE-EPOCH
//! content/xx/      content files: NUMBER-EPOCH
//! reserve          room for the records of removals on a full disk
//! checkpoints/     states to go back to, if any: NAME.log, NAME.json
//! ```
//!
//! Each *epoch* is one holder's right to write (see `decisions/0001-log-format.md`): opening under a higher epoch seals
//! the last segment at its replayed length and hash; what a late holder of a lower epoch adds after that is ignored, and
//! content files of earlier epochs are never written in place.

use std::io;
use std::path::{Path, PathBuf};

mod adopt;
pub(crate) mod checkpoint;
mod codec;
pub(crate) mod content;
pub(crate) mod disk;
pub(crate) mod extents;
pub(crate) mod log;
pub mod mark;
mod meta;
pub(crate) mod record;
pub(crate) mod replay;
mod reserve;
pub mod saved;
pub(crate) mod segment;
pub(crate) mod shape;
pub(crate) mod sorted;
pub(crate) mod state;
pub mod travel;

pub(crate) use meta::{Meta, random_bytes};

use crate::layer::LayerId;
use crate::quota::Quota;
use content::ContentStore;
use disk::{Disk, Lock};
use extents::{ContentId, Source};
use log::Log;
use mark::MarkAtOpening;
use reserve::Reserve;
use state::State;

const LOCK: &str = "lock";

/// Why a writable layer could not be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum WritableError {
    /// The directory holds no writable layer.
    #[error("`{path}` holds no writable layer")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Another server has it open.
    #[error("the writable layer `{path}` is open in another process")]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// A later holder has opened it.
    #[error(
        "the writable layer `{path}` has been opened under epoch {seen}; epoch {asked} may no longer write"
    )]
    EpochPassed {
        /// The directory.
        path: PathBuf,
        /// The highest epoch found.
        seen: u64,
        /// The epoch asked for.
        asked: u64,
    },
    /// Made by a newer program.
    #[error("`{file}` holds {what}, which only a newer xeno understands")]
    Newer {
        /// The file.
        file: PathBuf,
        /// What is not known.
        what: String,
    },
    /// Something that was on disk once is not what it was.
    #[error("`{file}` is damaged at byte {position}: {what}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        position: u64,
        /// What is wrong, in words.
        what: String,
    },
    /// The file system failed.
    #[error("{doing} `{path}`")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Bounds of one writable layer.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Most bytes of written content, and with them a number of objects.
    pub quota: Quota,
    /// Most objects that have a record (made or changed in this layer), where it is not the quota that says so.
    pub objects_max: Option<u64>,
}

impl Options {
    /// Most objects that have a record; `None` leaves it to the file system the layer is on.
    pub(crate) fn objects_max(&self) -> Option<u64> {
        self.objects_max.or_else(|| self.quota.objects())
    }
}

/// A writable layer, open and locked.
pub struct Writable {
    pub(crate) disk: Disk,
    pub(crate) path: PathBuf,
    pub(crate) meta: Meta,
    pub(crate) epoch: u64,
    pub(crate) options: Options,
    pub(crate) state: State,
    pub(crate) log: Log,
    pub(crate) content: ContentStore,
    /// What it held when it was opened.
    pub(crate) mark: MarkAtOpening,
    /// Its lock goes with it.
    pub(crate) lock: Lock,
}

impl Writable {
    /// Makes a writable layer in `path` if there is none; the parent must exist.
    ///
    /// # Errors
    /// [`WritableError::Io`].
    pub fn create_if_missing(path: &Path) -> Result<(), WritableError> {
        Self::create_if_missing_on(&Disk::Host, path)
    }

    pub(crate) fn create_if_missing_on(disk: &Disk, path: &Path) -> Result<(), WritableError> {
        for folder in [
            path.to_path_buf(),
            path.join(log::FOLDER),
            path.join(content::FOLDER),
        ] {
            match disk.make_dir(&folder) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(WritableError::Io {
                        doing: "making",
                        path: folder,
                        source,
                    });
                }
                _ => {}
            }
        }
        let made = Meta::read(disk, path)?.is_none();
        if made {
            // Under the lock, so that of two servers that come at once only one decides who the layer is.
            let _lock = lock(disk, path)?;
            if Meta::read(disk, path)?.is_none() {
                Meta::create(disk, path)?;
                Reserve::make(disk, path);
            }
        }
        // Also where it is there: whoever made it may have died before its names were on disk.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        for folder in [Some(path), parent].into_iter().flatten() {
            match disk.sync_dir(folder) {
                Err(error) if !made && error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.map_err(log::io_at("syncing", folder))?,
            }
        }
        Ok(())
    }

    /// Opens the layer in `path` for the holder of `epoch`.
    ///
    /// # Errors
    /// [`WritableError::Busy`] while another process has it, [`WritableError::EpochPassed`] once a later holder has
    /// opened it, [`WritableError::Damaged`] where something acknowledged is gone. A torn end of the log, which nobody
    /// was told about, is cut off silently.
    pub fn open(path: &Path, epoch: u64, options: Options) -> Result<Self, WritableError> {
        Self::open_on(&Disk::Host, path, epoch, options)
    }

    pub(crate) fn open_on(
        disk: &Disk,
        path: &Path,
        epoch: u64,
        options: Options,
    ) -> Result<Self, WritableError> {
        let missing = || WritableError::Missing {
            path: path.to_path_buf(),
        };
        let meta = Meta::read(disk, path)?.ok_or_else(missing)?;
        let lock = lock(disk, path)?;
        Self::open_locked(disk, path, meta, lock, epoch, options)
    }

    fn open_locked(
        disk: &Disk,
        path: &Path,
        meta: Meta,
        lock: Lock,
        epoch: u64,
        options: Options,
    ) -> Result<Self, WritableError> {
        let mut replayed = replay::replay(disk, path, &meta)?;
        if replayed.epoch_seen > epoch {
            let seen = replayed.epoch_seen;
            return Err(WritableError::EpochPassed {
                path: path.to_path_buf(),
                seen,
                asked: epoch,
            });
        }
        let takes_over = replayed.chain.last().map(|last| last.header.name.epoch) != Some(epoch);
        if takes_over && !lock.is_proof() {
            // First the claim, then the look that counts. An earlier holder answers its clients only where it has seen no
            // claim after its sync: so whatever it has answered is in what is read now.
            log::claim(disk, path, &replayed, epoch)?;
            replayed = replay::replay(disk, path, &meta)?;
            if replayed.epoch_seen > epoch {
                return Err(WritableError::EpochPassed {
                    path: path.to_path_buf(),
                    seen: replayed.epoch_seen,
                    asked: epoch,
                });
            }
        }
        if checkpoint::write(disk, path, epoch, &replayed)? {
            replayed = replay::replay(disk, path, &meta)?;
        }
        checkpoint::remove_replaced(disk, path, epoch, &replayed)?;
        // What an earlier holder may still write to is copied below, and then it is not what it was.
        let copies = takes_over && !lock.is_proof() && !replayed.state.closed;
        let marked = copies.then(|| MarkAtOpening::now(disk, path, &replayed));
        let log = Log::open(disk, path, epoch, lock.is_proof(), &replayed)?;
        let mark =
            marked.unwrap_or_else(|| MarkAtOpening::later(disk, path, &replayed.state, log.segments()));
        let content = ContentStore::new(disk, path);
        if takes_over && !replayed.chain.is_empty() {
            adopt::adopt(&log, &content, &mut replayed.state, epoch)?;
        }
        content.pin(saved::pinned(disk, path, &replayed.state)?);
        if !log.has_been_passed() {
            saved::tidy(disk, path, &replayed.state)?;
        }
        let swept = content.sweep(&known_content(&replayed.state), epoch);
        swept.map_err(|source| WritableError::Io {
            doing: "sweeping",
            path: path.join(content::FOLDER),
            source,
        })?;
        tracing::debug!(path = %path.display(), epoch, objects = replayed.state.objects.len(), "writable layer open");
        Ok(Self {
            disk: disk.clone(),
            path: path.to_path_buf(),
            meta,
            epoch,
            options,
            state: replayed.state,
            log,
            content,
            mark,
            lock,
        })
    }

    /// Opens the layer in `path` under the epoch it had last, to look after it while nobody serves it.
    ///
    /// # Errors
    /// As [`Writable::open`].
    pub fn open_as_last(path: &Path) -> Result<Self, WritableError> {
        let missing = || WritableError::Missing {
            path: path.to_path_buf(),
        };
        let meta = Meta::read(&Disk::Host, path)?.ok_or_else(missing)?;
        let seen = replay::replay(&Disk::Host, path, &meta)?.epoch_seen;
        Self::open(path, seen, Options::default())
    }

    /// Bytes of its log on disk.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Makes its log as short as it can be.
    ///
    /// # Errors
    /// [`WritableError`]; the layer then is as it was, and closed.
    pub fn compact(self) -> Result<Self, WritableError> {
        let segments = |index| {
            self.log
                .segment(index)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        checkpoint::replace_by(&self.log, self.epoch, &self.state, &segments)?;
        self.open_again()
    }

    /// Opens it again after its log has been replaced.
    fn open_again(self) -> Result<Self, WritableError> {
        let Self {
            disk,
            path,
            meta,
            epoch,
            options,
            lock,
            ..
        } = self;
        Self::open_locked(&disk, &path, meta, lock, epoch, options)
    }

    /// The layer's identity, made with it.
    #[must_use]
    pub fn id(&self) -> LayerId {
        self.meta.layer
    }

    /// The epoch it is open under.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl std::fmt::Debug for Writable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable")
            .field("path", &self.path)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// All content files that the state refers to.
pub(crate) fn known_content(state: &State) -> std::collections::HashSet<ContentId> {
    let files = state.objects.values().filter_map(state::Object::file);
    let sources = files.flat_map(|file| file.extents.iter());
    sources
        .filter_map(|(_, _, source)| match source {
            Source::Content(id) => Some(id),
            Source::Log { .. } => None,
        })
        .collect()
}

/// Refuses a layer that another process has open, as far as locks tell.
pub(crate) fn must_be_closed(path: &Path) -> Result<(), WritableError> {
    let file = path.join(LOCK);
    if disk::is_locked(&file).map_err(log::io_at("asking for the lock of", &file))? {
        return Err(WritableError::Busy {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}

fn lock(disk: &Disk, path: &Path) -> Result<Lock, WritableError> {
    let file = path.join(LOCK);
    disk.lock(&file).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => WritableError::Busy {
            path: path.to_path_buf(),
        },
        _ => log::io_at("locking", &file)(source),
    })
}
