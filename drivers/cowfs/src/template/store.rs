//! The store: where templates come in, are found, and are handed out as layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::content::ContentStore;
use super::digest::Digest;
use super::format::Payload;
use super::index::{Index, IndexError};
use super::layer::TemplateLayer;
use super::manifest::{Boot, Manifest, ManifestError};
use super::staging::{self, StageError, Staging};
use super::tree::{Leaf, Meta, Tree, TreeError};
use super::verify::{self, VerifyReport};
use crate::attr::Time;
use crate::import::{self, ImportError, ImportReport, Limits, Progress, Source};
use crate::layer::{ContentHash, ContentSource, Layer};

/// 2020-01-01T00:00:00Z: the first time stamp that [`Store::import_files`] gives out.
const FILES_TIME_FIRST: i64 = 1_577_836_800;
/// Five years of seconds: the span of time stamps that [`Store::import_files`] gives out.
const FILES_TIME_SPAN: u64 = 5 * 365 * 24 * 3600;
/// Most bytes of names that a label keeps.
const LABEL_MAX: u64 = 1 << 20;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such template here.
    #[error("there is no template {0} in the store")]
    NoSuchTemplate(Digest),
    /// The template cannot boot: it was imported without a kernel or an initramfs.
    #[error("template {0} was imported without a kernel and an initramfs")]
    NotBootable(Digest),
    /// A file of the store cannot be read.
    #[error("reading {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The manifest is not what its name says.
    #[error("the manifest of template {0} does not match its digest")]
    WrongDigest(Digest),
    /// The manifest makes no sense.
    #[error("reading the manifest of template {digest}")]
    Manifest {
        /// The template.
        digest: Digest,
        /// The cause.
        #[source]
        source: ManifestError,
    },
    /// The index is damaged or missing.
    #[error("opening the index of template {digest}")]
    Index {
        /// The template.
        digest: Digest,
        /// The cause.
        #[source]
        source: IndexError,
    },
    /// The store cannot be written.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A file for [`Store::import_files`] has an impossible path.
    #[error("placing {}", path.display())]
    File {
        /// The path as given.
        path: PathBuf,
        /// The cause.
        #[source]
        source: TreeError,
    },
}

/// What makes a template out of a tree.
#[derive(Clone, Debug, Default)]
pub struct TemplateOptions {
    /// A name for people; several templates may share one.
    pub name: Option<String>,
    /// The kernel image.
    pub kernel: Option<Vec<u8>>,
    /// The initramfs, as [`crate::guest::build_initramfs`] makes it.
    pub initramfs: Option<Vec<u8>>,
    /// How a guest comes up.
    pub boot: Option<Boot>,
    /// Words to add to the kernel's command line.
    pub command_line: String,
    /// Gives every object this owner and group instead of its own.
    pub owner: Option<(u32, u32)>,
    /// Bounds.
    pub limits: Limits,
}

/// What a hypervisor needs to boot a guest of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// How the guest comes up.
    pub boot: Boot,
    /// Words to add to the kernel's command line.
    pub command_line: String,
}

/// A template at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its digest.
    pub digest: Digest,
    /// What people call it, sorted.
    pub names: Vec<String>,
    /// The document itself.
    pub manifest: Manifest,
    /// Objects in the tree.
    pub nodes: u64,
    /// Different contents of files.
    pub contents: u64,
    /// Bytes of all different contents: what the template takes up when it is alone in the store.
    pub content_bytes: u64,
    /// Bytes of all files as a guest sees them.
    pub file_bytes: u64,
}

/// A small file for [`Store::import_files`].
#[derive(Clone, Copy, Debug)]
pub struct FileToImport<'a> {
    /// Path from the root, with or without a leading slash.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub bytes: &'a [u8],
}

/// The templates of one node.
pub struct Store {
    root: PathBuf,
    contents: Arc<ContentStore>,
    open: Mutex<BTreeMap<Digest, Weak<Index>>>,
}

impl Store {
    /// Opens the store in `root`, making it if it is not there (for owner and group only: templates may hold files
    /// that not everybody should read). Clears away what interrupted imports left.
    ///
    /// # Errors
    /// [`StoreError::Stage`] if the directory cannot be made, or not be written by us.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        use staging::At as _;
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(root)
            .at(root)?;
        for name in ["content", "index", "templates", "labels", "tmp"] {
            let path = root.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(&path)
                .at(&path)?;
        }
        staging::recover_if_idle(root)?;
        Ok(Self::at(root))
    }

    /// The store in `root` for reading alone: nothing is made, nothing cleared away.
    #[must_use]
    pub fn open_read_only(root: &Path) -> Self {
        Self::at(root)
    }

    fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            contents: Arc::new(ContentStore::new(root.join("content"))),
            open: Mutex::default(),
        }
    }

    /// Brings in a tree and makes a template of it: all or nothing. Waits while another import is under way.
    ///
    /// # Errors
    /// [`ImportError`]; the store is then as it was.
    pub fn import(
        &self,
        source: &Source,
        options: &TemplateOptions,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<ImportReport, ImportError> {
        let mut manifest = Manifest {
            format_version: Manifest::VERSION,
            index: Digest([0; 32]),
            kernel: None,
            initramfs: None,
            boot: options.boot.clone(),
            command_line: options.command_line.clone(),
        };
        manifest.check().map_err(ImportError::Manifest)?;
        let mut staging = Staging::begin(&self.root, options.limits.bytes_max)?;
        let imported = import::run(source, options.owner, &options.limits, &mut staging, progress)?;
        let index = imported.tree.encode(false).map_err(ImportError::Tree)?.bytes;
        manifest.index = Digest::of(&index);
        for (bytes, digest) in [
            (&options.kernel, &mut manifest.kernel),
            (&options.initramfs, &mut manifest.initramfs),
        ] {
            if let Some(bytes) = bytes {
                let (hash, _) = staging.content(&mut bytes.as_slice())?;
                *digest = Some(Digest(hash.0));
            }
        }
        let bytes_new = staging.bytes_new();
        let (_, digest) = staging.commit(&index, &manifest.to_bytes())?;
        if let Some(name) = &options.name {
            self.label(&digest, name)?;
        }
        Ok(ImportReport {
            digest,
            entries: imported.progress.entries,
            bytes: imported.progress.bytes,
            bytes_new,
            skipped: imported.skipped,
        })
    }

    /// Makes a layer of a few files, with root as their owner.
    ///
    /// Directories on the way are only implied: in a stack they keep what lower layers say about them. Every file has
    /// a time stamp made from its content, between 2020 and 2025, so that equal files give equal digests on
    /// every machine, and a changed file has a changed time stamp, by which caches notice.
    ///
    /// # Errors
    /// [`StoreError::File`] for a path that is empty, has `..` in it or lies below another file;
    /// [`StoreError::Stage`].
    pub fn import_files(&self, files: &[FileToImport<'_>]) -> Result<Digest, StoreError> {
        let time = |seconds| Time { seconds, nanos: 0 };
        let meta = |mode, seconds| Meta {
            mode,
            uid: 0,
            gid: 0,
            mtime: time(seconds),
        };
        let mut tree = Tree::new(meta(0o755, FILES_TIME_FIRST));
        let mut staging = Staging::begin(&self.root, u64::MAX)?;
        for file in files {
            let wrong = |source| StoreError::File {
                path: file.path.into(),
                source,
            };
            let mut names: Vec<&[u8]> = file
                .path
                .split('/')
                .filter(|part| !part.is_empty())
                .map(str::as_bytes)
                .collect();
            let name = names.pop().ok_or_else(|| wrong(TreeError::BadName(Vec::new())))?;
            let mut dir = Tree::ROOT;
            for name in names {
                dir = tree.implied_directory(dir, name).map_err(wrong)?;
            }
            let (content, size) = staging.content(&mut &*file.bytes)?;
            let mut hash = [0; 8];
            hash.copy_from_slice(&content.0[..8]);
            let offset = (u64::from_be_bytes(hash) % FILES_TIME_SPAN).cast_signed();
            let leaf = Leaf::Regular { size, content };
            tree.leaf(dir, name, meta(file.mode, FILES_TIME_FIRST + offset), leaf)
                .map_err(wrong)?;
        }
        let index = tree
            .encode(false)
            .map_err(|source| StoreError::File {
                path: PathBuf::new(),
                source,
            })?
            .bytes;
        let manifest = Manifest {
            format_version: Manifest::VERSION,
            index: Digest::of(&index),
            kernel: None,
            initramfs: None,
            boot: None,
            command_line: String::new(),
        };
        let (_, digest) = staging.commit(&index, &manifest.to_bytes())?;
        Ok(digest)
    }

    /// Gives a template a name for people.
    ///
    /// # Errors
    /// [`StoreError::Stage`] if the label cannot be written.
    pub fn label(&self, digest: &Digest, name: &str) -> Result<(), StageError> {
        let mut names: BTreeSet<String> = self.names(digest).into_iter().collect();
        if names.insert(name.to_owned()) {
            let bytes = serde_json::to_vec(&names).expect("a set of strings is JSON");
            staging::replace(&self.label_path(digest), &bytes)?;
        }
        Ok(())
    }

    /// Whether the template is here.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.template_path(digest).is_file()
    }

    /// The templates that are here, sorted by digest. Files of other names are no templates and are passed over.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let path = self.root.join("templates");
        let io = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        let mut digests = Vec::new();
        for entry in fs::read_dir(&path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            digests.extend(
                name.to_str()
                    .and_then(|name| name.strip_suffix(".json"))
                    .and_then(Digest::from_hex),
            );
        }
        digests.sort();
        Ok(digests)
    }

    /// The names people gave a template.
    #[must_use]
    pub fn names(&self, digest: &Digest) -> Vec<String> {
        let path = self.label_path(digest);
        // A label is a convenience: a damaged one is no name rather than an error.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() <= LABEL_MAX => fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default(),
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// The templates of this name, sorted by digest.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn named(&self, name: &str) -> Result<Vec<Digest>, StoreError> {
        let mut digests = self.list()?;
        digests.retain(|digest| self.names(digest).iter().any(|held| held == name));
        Ok(digests)
    }

    /// The document of a template, checked against its digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, StoreError> {
        let path = self.template_path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoSuchTemplate(*digest));
            }
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::WrongDigest(*digest));
        }
        Manifest::from_bytes(&bytes).map_err(|source| StoreError::Manifest {
            digest: *digest,
            source,
        })
    }

    /// A template at a glance.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn show(&self, digest: &Digest) -> Result<Summary, StoreError> {
        let manifest = self.manifest(digest)?;
        let index = self.index(digest)?;
        let mut contents = BTreeMap::new();
        let mut file_bytes = 0_u64;
        for number in 1..=index.node_count() {
            if let Ok(node) = index.node(number)
                && let Payload::Content(hash) = node.payload
            {
                contents.insert(hash, node.size);
                file_bytes = file_bytes.saturating_add(node.size);
            }
        }
        Ok(Summary {
            digest: *digest,
            names: self.names(digest),
            manifest,
            nodes: index.node_count(),
            contents: contents.len() as u64,
            content_bytes: contents
                .values()
                .fold(0, |sum: u64, size| sum.saturating_add(*size)),
            file_bytes,
        })
    }

    /// Reads and hashes everything a template consists of. `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// [`StoreError::NoSuchTemplate`], or whatever keeps the manifest itself from being read; all else is in the report.
    pub fn verify(&self, digest: &Digest, progress: &mut dyn FnMut(u64)) -> Result<VerifyReport, StoreError> {
        let manifest = self.manifest(digest)?;
        Ok(verify::verify(
            &self.root,
            &self.contents,
            digest,
            &manifest,
            progress,
        ))
    }

    /// The template as a layer. Everybody who asks shares one mapping.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn layer(&self, digest: &Digest) -> Result<Arc<dyn Layer>, StoreError> {
        Ok(Arc::new(TemplateLayer::new(
            self.index(digest)?,
            self.contents.clone(),
        )))
    }

    /// What a hypervisor needs to boot a guest of this template.
    ///
    /// # Errors
    /// [`StoreError::NotBootable`] if the template has no kernel or no initramfs, and what [`Store::manifest`] says.
    pub fn boot_files(&self, digest: &Digest) -> Result<BootFiles, StoreError> {
        let manifest = self.manifest(digest)?;
        let path = |digest: &Digest| self.contents.path(&ContentHash(digest.0));
        match (&manifest.kernel, &manifest.initramfs) {
            (Some(kernel), Some(initramfs)) => Ok(BootFiles {
                kernel: path(kernel),
                initramfs: path(initramfs),
                boot: manifest.boot.clone().unwrap_or(Boot::Native {}),
                command_line: manifest.command_line,
            }),
            _ => Err(StoreError::NotBootable(*digest)),
        }
    }

    /// The content of files by hash, whatever template they came with.
    #[must_use]
    pub fn contents(&self) -> Arc<dyn ContentSource> {
        self.contents.clone()
    }

    /// The directory of the store.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the content of that hash is, if it is here.
    pub(super) fn content_path(&self, hash: &ContentHash) -> PathBuf {
        self.contents.path(hash)
    }

    pub(super) fn index(&self, digest: &Digest) -> Result<Arc<Index>, StoreError> {
        let manifest = self.manifest(digest)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = open.get(&manifest.index).and_then(Weak::upgrade) {
            return Ok(index);
        }
        let path = self.root.join("index").join(manifest.index.hex());
        let index = Index::map(&path, &manifest.index.0).map_err(|source| StoreError::Index {
            digest: *digest,
            source,
        })?;
        if index.is_snapshot() {
            return Err(StoreError::Index {
                digest: *digest,
                source: IndexError::Damaged("a snapshot in place of a template"),
            });
        }
        let index = Arc::new(index);
        open.retain(|_, held| held.strong_count() > 0);
        open.insert(manifest.index, Arc::downgrade(&index));
        Ok(index)
    }

    fn template_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("templates").join(format!("{}.json", digest.hex()))
    }

    fn label_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("labels").join(format!("{}.json", digest.hex()))
    }
}
