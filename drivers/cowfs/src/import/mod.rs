//! Reading a tree, from a directory or from an archive, into a [`Tree`] and content files.
//!
//! Both ways give the same tree for the same files. To that end time stamps are cut to whole seconds, as most archives
//! have no more, and nothing is kept that depends on the machine (inode numbers, sizes of directories, access times).
//! Extended attributes, and with them file capabilities and ACLs, are not kept: NFSv3 cannot carry them.

mod ahead;
mod archive;
mod look;
mod tar;
mod walk;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::template::{Digest, ManifestError, StageError, Staging, Tree, TreeError};

pub(crate) use ahead::ahead;
pub(crate) use look::{Here, Questions};
pub(crate) use walk::{Found, Visitor, is_unchanged, open_root, walk};

/// Bounds of an import. What exceeds one is refused, never cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names in the tree, and members of an archive.
    pub entries_max: u64,
    /// Bytes of content.
    pub bytes_max: u64,
    /// Directories within each other.
    pub depth_max: usize,
    /// Bytes of one path in an archive, and of one set of its extended headers.
    pub header_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 16_000_000,
            bytes_max: 16 << 40,
            depth_max: 256,
            header_bytes_max: 64 * 1024,
        }
    }
}

/// How far an import has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Objects read.
    pub entries: u64,
    /// Bytes of content read.
    pub bytes: u64,
}

/// What is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory. Other file systems mounted below it stay out: their mount points become empty directories.
    Directory(PathBuf),
    /// A tar archive, plain or compressed with gzip or zstd.
    Archive(PathBuf),
}

impl Source {
    /// Takes a directory as a directory and everything else as an archive.
    ///
    /// # Errors
    /// If there is nothing at `path`, or it cannot be looked at.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(if std::fs::metadata(path)?.is_dir() {
            Self::Directory(path.to_owned())
        } else {
            Self::Archive(path.to_owned())
        })
    }
}

/// What an import brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// The template.
    pub digest: Digest,
    /// Objects read.
    pub entries: u64,
    /// Bytes of content read.
    pub bytes: u64,
    /// Bytes of content that the store did not have before.
    pub bytes_new: u64,
    /// Members that mean nothing in a layer (bookkeeping of aufs in archives).
    pub skipped: u64,
}

/// Why an import was refused or failed. Paths are as the source has them.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A member cannot be part of a tree.
    #[error("{}: not importable", path.display())]
    Member {
        /// The member.
        path: PathBuf,
        /// The cause.
        #[source]
        source: TreeError,
    },
    /// A member is refused.
    #[error("{}: {what}", path.display())]
    Refused {
        /// The member.
        path: PathBuf,
        /// Why, in words.
        what: &'static str,
    },
    /// The file changed while it was read.
    #[error("{} changed while it was being read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The archive is not one, or is damaged.
    #[error("the archive is damaged or not a tar archive: {0}")]
    Archive(&'static str),
    /// A bound of [`Limits`] is exceeded.
    #[error("the import exceeds a limit: {0}")]
    Limit(&'static str),
    /// The tree as a whole cannot be kept.
    #[error("making the index")]
    Tree(#[source] TreeError),
    /// The options make no template.
    #[error("the options make no template")]
    Manifest(#[source] ManifestError),
    /// The store cannot take it.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// What reading a source gives.
pub(crate) struct Imported {
    pub(crate) tree: Tree,
    pub(crate) progress: Progress,
    pub(crate) skipped: u64,
}

/// Reads a source into a tree and its content into `staging`.
pub(crate) fn run(
    source: &Source,
    owner: Option<(u32, u32)>,
    limits: &Limits,
    staging: &mut Staging,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Imported, ImportError> {
    match source {
        Source::Directory(path) => walk::import(path, owner, limits, staging, progress),
        Source::Archive(path) => {
            let file = File::open(path).map_err(|source| ImportError::Read {
                path: path.clone(),
                source,
            })?;
            archive::import(file, owner, limits, staging, progress)
        }
    }
}

/// The attributes of a root that the source does not describe.
pub(crate) fn implied_root() -> crate::template::Meta {
    crate::template::Meta {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: crate::attr::Time::default(),
    }
}
