//! Opens real layers: templates of the node's store, directories, writable layers on disk.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::directory::DirectoryLayer;
use crate::import::Limits;
use crate::layer::{ContentSource, Layer};
use crate::lend::Borrower;
use crate::quota::Quota;
use crate::service::{FileService, LayerSource, OpenError, StackOpener};
use crate::stack::{self, StackError, StackSpec};
use crate::template::{Digest, Store};
use crate::writable::mark::MarkAtOpening;
use crate::writable::saved::{Saved, SavedError};
use crate::writable::travel::{Ashore, Sending, TravelError};
use crate::writable::{Options, Writable, WritableError, random_bytes};

/// In the store: what handles of read-only stacks are signed with, so that they stay valid after a restart.
const KEY_FILE: &str = "handles.key";

/// Opens layers with the help of one template store.
pub struct Opener {
    store: Store,
    root: PathBuf,
    borrower: Option<Arc<Borrower>>,
}

impl Opener {
    /// An opener with the template store in `root`, which need not exist while no template is asked for.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            store: Store::open_read_only(root),
            root: root.to_owned(),
            borrower: None,
        }
    }

    /// Borrows private files of directories from the [lender](crate::lend::Lender) on `socket`.
    #[must_use]
    pub fn borrowing(mut self, socket: &Path) -> Self {
        self.borrower = Some(Arc::new(Borrower::new(socket)));
        self
    }

    /// Opens a read-only layer.
    ///
    /// # Errors
    /// [`OpenError`] when it is not there or cannot be read.
    pub fn layer(&self, source: &LayerSource) -> Result<Arc<dyn Layer>, OpenError> {
        match source {
            LayerSource::Dir(path) => {
                let layer = DirectoryLayer::open_with(path, &Limits::default(), self.borrower.clone());
                let layer = layer
                    .map_err(|error| failed(format!("opening directory {}", path.display()), true, error))?;
                if let Some(first) = layer.unreadable().first() {
                    let count = layer.unreadable().len();
                    tracing::warn!(dir = %path.display(), first = %first.display(), count, "files cannot be read");
                }
                Ok(Arc::new(layer))
            }
            LayerSource::Template(text) => {
                let opening = || format!("opening template {text}");
                let digest: Digest = text.parse().map_err(|error| failed(opening(), false, error))?;
                // It may be on its way.
                self.store
                    .layer(&digest)
                    .map_err(|error| failed(opening(), true, error))
            }
        }
    }

    /// Reads content by hash, whatever template it came with.
    #[must_use]
    pub fn contents(&self) -> Arc<dyn ContentSource> {
        self.store.contents()
    }

    /// Makes what opening layers would otherwise have to write to the store, so that afterwards it need only be read.
    pub(crate) fn prepare_store(&self) -> Result<(), OpenError> {
        self.read_only_key().map(|_key| ())
    }

    /// The key for handles of read-only stacks, made on first use.
    fn read_only_key(&self) -> Result<[u8; 32], OpenError> {
        let path = self.root.join(KEY_FILE);
        let key = read_key(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => make_key(&self.root, &path),
            _ => Err(error),
        });
        key.map_err(|error| failed(format!("reading {}", path.display()), true, error))
    }
}

fn read_key(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    std::fs::File::open(path)?.read_exact(&mut key)?;
    Ok(key)
}

/// Makes a key that is whole from the moment it has its name; of two servers that do so at once one wins.
fn make_key(root: &Path, path: &Path) -> io::Result<[u8; 32]> {
    DirBuilder::new().recursive(true).mode(0o750).create(root)?;
    let mut key = [0; 32];
    random_bytes(&mut key)?;
    let hidden = root.join(format!("{KEY_FILE}.{}", std::process::id()));
    match std::fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&hidden)?;
    file.write_all(&key)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&hidden, path);
    std::fs::remove_file(&hidden)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read_key(path),
    }
}

fn failed(
    what: String,
    retryable: bool,
    source: impl std::error::Error + Send + Sync + 'static,
) -> OpenError {
    OpenError {
        what,
        retryable,
        source: source.into(),
    }
}

fn can_pass(error: &WritableError) -> bool {
    match error {
        WritableError::Busy { .. } | WritableError::Io { .. } => true,
        WritableError::Missing { .. }
        | WritableError::EpochPassed { .. }
        | WritableError::Newer { .. }
        | WritableError::Damaged { .. } => false,
    }
}

impl StackOpener for Opener {
    type Writable = Writable;

    fn open_writable(&self, path: &Path, epoch: u64, quota: Quota) -> Result<Writable, OpenError> {
        let options = Options {
            quota,
            objects_max: None,
        };
        let opened = Writable::create_if_missing(path).and_then(|()| Writable::open(path, epoch, options));
        opened.map_err(|error| failed(format!("opening {}", path.display()), can_pass(&error), error))
    }

    fn mark(&self, writable: &Writable) -> Option<MarkAtOpening> {
        Some(writable.mark.clone())
    }

    fn save(&self, writable: &mut Writable, name: &str) -> Result<(), SavedError> {
        writable.save(name)
    }

    fn delete_saved(&self, writable: &mut Writable, name: &str) -> Result<(), SavedError> {
        writable.delete_saved(name)
    }

    fn saved(&self, writable: &Writable) -> Result<Vec<Saved>, SavedError> {
        writable.saved()
    }

    fn restore(&self, writable: Writable, name: &str) -> Result<Writable, SavedError> {
        writable.restore(name)
    }

    fn embark(&self, writable: &Writable, sending: &mut Sending<'_>) -> Result<(), TravelError> {
        Ashore::of(writable)?.send(sending)
    }

    fn compact(&self, writable: Writable) -> Result<Writable, SavedError> {
        Ok(writable.compact()?)
    }

    fn open_stack(
        &self,
        layers: &[LayerSource],
        writable: Option<Writable>,
    ) -> Result<Arc<dyn FileService>, OpenError> {
        let layers = layers
            .iter()
            .map(|layer| self.layer(layer))
            .collect::<Result<_, _>>()?;
        let read_only_key = match &writable {
            Some(_) => [0; 32],
            None => self.read_only_key()?,
        };
        let spec = StackSpec {
            layers,
            writable,
            content: self.store.contents(),
            read_only_key,
        };
        let stack = stack::open(spec).map_err(|error| {
            let retryable = match &error {
                StackError::Layers(_) | StackError::Writable(_) | StackError::Random(_) => true,
                StackError::Damaged(error) => can_pass(error),
            };
            failed("putting the layers together".to_owned(), retryable, error)
        })?;
        for missing in stack.missing_bases() {
            let path = String::from_utf8_lossy(&missing.path);
            tracing::warn!(%path, layer = ?missing.layer, "the unchanged part of a changed file is gone");
        }
        Ok(stack)
    }
}
