//! Brings a template from another store, believing nothing it says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::format::Payload;
use super::index::IndexError;
use super::staging::{StageError, Staging};
use super::store::{Store, StoreError};
use crate::import::Limits;
use crate::layer::ContentHash;

/// Most bytes of an index.
const INDEX_LEN_MAX: u64 = 4 << 30;

/// Why a template could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The other store does not have it whole.
    #[error("reading it from {}", path.display())]
    Other {
        /// The other store.
        path: PathBuf,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// A file of the other store cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file of the other store is not what its name says.
    #[error("{} does not match its digest", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// This store cannot be written.
    #[error("writing it here")]
    Here(#[from] StageError),
}

impl Store {
    /// Copies a template with all that it consists of from the store in `other`: all or nothing. Every byte is hashed on
    /// the way, so whatever delivers the other store need not be trusted; content that is here already is not read.
    /// Success at once if the template is here. Waits while another import is under way.
    ///
    /// # Errors
    /// [`FetchError`]; this store is then as it was.
    pub fn fetch_from(&self, other: &Path, digest: &Digest) -> Result<(), FetchError> {
        if self.has(digest) {
            return Ok(());
        }
        let there = Self::open_read_only(other);
        let failed = |source| FetchError::Other {
            path: other.to_owned(),
            source,
        };
        let manifest = there.manifest(digest).map_err(failed)?;
        // Checked against its digest as it is mapped.
        let index = there.index(digest).map_err(failed)?;
        let mut contents: BTreeMap<ContentHash, Option<u64>> = BTreeMap::new();
        for number in 1..=index.node_count() {
            // Its digest matches, so a record that makes no sense was made so.
            let node = index.node(number).map_err(|_| {
                failed(StoreError::Index {
                    digest: *digest,
                    source: IndexError::Damaged("a record that makes no sense"),
                })
            })?;
            if let Payload::Content(hash) = node.payload {
                contents.insert(hash, Some(node.size));
            }
        }
        for boot in [manifest.kernel, manifest.initramfs].into_iter().flatten() {
            contents.entry(ContentHash(boot.0)).or_insert(None);
        }
        let mut staging = Staging::begin(self.root(), Limits::default().bytes_max)?;
        for (hash, size) in contents {
            let here = fs::metadata(self.content_path(&hash))
                .ok()
                .map(|metadata| metadata.len());
            if size.is_some() && here == size {
                continue;
            }
            let path = there.content_path(&hash);
            let read = |source| FetchError::Read {
                path: path.clone(),
                source,
            };
            let mut file = File::open(&path).map_err(read)?;
            let (found, len) = staging.content(&mut file)?;
            if found != hash || size.is_some_and(|size| size != len) {
                return Err(FetchError::Damaged { path });
            }
        }
        let path = other.join("index").join(manifest.index.hex());
        let read = |source| FetchError::Read {
            path: path.clone(),
            source,
        };
        let len = fs::metadata(&path).map_err(read)?.len();
        if len > INDEX_LEN_MAX {
            return Err(FetchError::Damaged { path });
        }
        let bytes = fs::read(&path).map_err(read)?;
        if Digest::of(&bytes) != manifest.index {
            return Err(FetchError::Damaged { path });
        }
        staging.commit(&bytes, &manifest.to_bytes())?;
        for name in there.names(digest) {
            self.label(digest, &name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::FileToImport;
    use super::*;

    fn store(dir: &Path) -> Store {
        Store::open(dir).unwrap()
    }

    #[test]
    fn a_template_comes_whole_or_not_at_all() {
        let dirs = tempfile::tempdir().unwrap();
        let (from, to) = (dirs.path().join("from"), dirs.path().join("to"));
        let (there, here) = (store(&from), store(&to));
        let file = FileToImport {
            path: "srv/index.html",
            mode: 0o644,
            bytes: b"hello",
        };
        let digest = there.import_files(&[file]).unwrap();
        there.label(&digest, "web").unwrap();
        let content = there.content_path(&ContentHash(Digest::of(b"hello").0));

        fs::remove_file(&content).unwrap();
        fs::write(&content, b"HELLO").unwrap();
        let refused = here.fetch_from(&from, &digest).unwrap_err();
        assert!(matches!(refused, FetchError::Damaged { .. }), "{refused}");
        assert!(!here.has(&digest));

        fs::remove_file(&content).unwrap();
        let refused = here.fetch_from(&from, &digest).unwrap_err();
        assert!(matches!(refused, FetchError::Read { .. }), "{refused}");

        fs::write(&content, b"hello").unwrap();
        here.fetch_from(&from, &digest).unwrap();
        here.fetch_from(Path::new("/nonexistent"), &digest).unwrap();
        assert!(here.verify(&digest, &mut |_| ()).unwrap().damage.is_empty());
        assert_eq!(here.names(&digest), ["web"]);

        let missing = here.fetch_from(&from, &Digest([7; 32])).unwrap_err();
        assert!(matches!(missing, FetchError::Other { .. }), "{missing}");
    }
}
