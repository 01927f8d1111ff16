//! Looking inside a writable layer: what it changes, what a file in it holds, and the same as an OCI layer.
//!
//! Nothing is locked, sealed or written, so a layer can be looked at while a server has it open: what is seen then is what
//! the log held at the last whole record. [`Inspection::changes`] compares with the layers below, where they are at hand;
//! without them it says what the layer itself remembers. [`Inspection::publish`] writes the changes as an archive that
//! means the same over the same layers.

mod changes;
pub mod oci;
mod publish;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use changes::{AttrChange, Change, How};
pub use publish::{PublishError, Published};
pub use view::Listed;

use crate::handle::ObjectKey;
use crate::layer::{ContentSource, Layer, LayerError, LayerId};
use crate::service::Status;
use crate::stack::lower::Lower;
use crate::writable::content::ContentStore;
use crate::writable::disk::{Disk, DiskFile, Mode};
use crate::writable::state::State;
use crate::writable::{Meta, WritableError, replay};

/// How often a layer is read again that its server makes shorter meanwhile.
const ATTEMPTS: u32 = 5;

/// Why a layer could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The layer itself.
    #[error(transparent)]
    Writable(#[from] WritableError),
    /// A layer below it, or content that it shares with one.
    #[error("reading the layers below: {0}")]
    Below(Status),
    /// There is no such path.
    #[error("there is no `/{}`", String::from_utf8_lossy(path))]
    NoPath {
        /// What was asked for.
        path: Vec<u8>,
    },
    /// It is there and is no regular file.
    #[error("`/{}` is no regular file", String::from_utf8_lossy(path))]
    NoFile {
        /// What was asked for.
        path: Vec<u8>,
    },
    /// It is there and is no directory.
    #[error("`/{}` is no directory", String::from_utf8_lossy(path))]
    NoDirectory {
        /// What was asked for.
        path: Vec<u8>,
    },
    /// What the layer does not hold is in layers that are not at hand.
    #[error(
        "`/{}` needs the layers below, which are not at hand",
        String::from_utf8_lossy(path)
    )]
    NeedsBelow {
        /// What was asked for.
        path: Vec<u8>,
    },
    /// Content could not be read.
    #[error("reading content")]
    Content(#[source] io::Error),
}

impl From<LayerError> for InspectError {
    fn from(error: LayerError) -> Self {
        Self::Below(crate::stack::lower::trouble(&error))
    }
}

impl From<Status> for InspectError {
    fn from(status: Status) -> Self {
        Self::Below(status)
    }
}

/// A writable layer as it was when it was looked at.
pub struct Inspection {
    state: State,
    own: LayerId,
    root: ObjectKey,
    content: ContentStore,
    segments: Vec<PathBuf>,
    open: Mutex<HashMap<u32, Arc<DiskFile>>>,
    lower: Option<Lower>,
    source: Option<Arc<dyn ContentSource>>,
    epoch: u64,
    log_bytes: u64,
}

impl Inspection {
    /// Reads the layer in the directory `path`, whether or not a server has it open.
    ///
    /// # Errors
    /// [`InspectError::Writable`] when there is no layer, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, InspectError> {
        let missing = || WritableError::Missing {
            path: path.to_path_buf(),
        };
        let meta = Meta::read(&Disk::Host, path)?.ok_or_else(missing)?;
        let mut attempt = 1;
        let replayed = loop {
            match replay::replay(&Disk::Host, path, &meta) {
                Ok(replayed) => break replayed,
                // A server that has it open may have put a checkpoint in the place of segments that were being read.
                Err(WritableError::Damaged { .. } | WritableError::Io { .. }) if attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self {
            root: replayed.state.root(),
            state: replayed.state,
            own: meta.layer,
            content: ContentStore::new(&Disk::Host, path),
            epoch: replayed
                .chain
                .last()
                .map_or(0, |segment| segment.header.name.epoch),
            segments: replayed.chain.into_iter().map(|segment| segment.path).collect(),
            open: Mutex::default(),
            lower: None,
            source: None,
            log_bytes: replayed.bytes,
        })
    }

    /// Compares with these layers, nearest first. `source` reads content by hash once its layer has left the stack.
    #[must_use]
    pub fn over(mut self, layers: Vec<Arc<dyn Layer>>, source: Option<Arc<dyn ContentSource>>) -> Self {
        self.lower = Some(Lower::new(layers));
        self.source = source;
        self
    }

    /// Compares with the layers of the stack that the layer was last part of, if all of them are among `known`.
    ///
    /// Returns those that are not; the inspection then goes on without any.
    #[must_use]
    pub fn over_known(
        self,
        known: &[Arc<dyn Layer>],
        source: Arc<dyn ContentSource>,
    ) -> (Self, Vec<LayerId>) {
        let find = |id: &LayerId| known.iter().find(|layer| layer.id() == *id);
        let wanted = self.layers_below();
        let missing: Vec<LayerId> = wanted.iter().filter(|id| find(id).is_none()).copied().collect();
        if !missing.is_empty() {
            return (self, missing);
        }
        let layers = wanted.iter().filter_map(find).cloned().collect();
        (self.over(layers, Some(source)), missing)
    }

    /// The layers of the stack that it was last part of, nearest first.
    #[must_use]
    pub fn layers_below(&self) -> &[LayerId] {
        &self.state.stack
    }

    /// Whether the layers below are at hand.
    #[must_use]
    pub fn knows_below(&self) -> bool {
        self.lower.is_some()
    }

    /// The epoch last written under.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Bytes of the log.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    fn segment(&self, index: u32) -> io::Result<Arc<DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&index) {
            return Ok(Arc::clone(file));
        }
        let path = usize::try_from(index)
            .ok()
            .and_then(|index| self.segments.get(index));
        let file = Arc::new(Disk::Host.open(path.ok_or(io::ErrorKind::NotFound)?, Mode::Read)?);
        open.insert(index, Arc::clone(&file));
        Ok(file)
    }
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspection")
            .field("layer", &self.own)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
