//! The repository a node follows: fetched into a mirror of its own, read from the object database.
//!
//! [`Source`] is the agent's side: one thread owns the repository, since libgit2's is not for sharing, and answers
//! questions one after the other. [`Reader`] is the same reading without mirror and thread, for hooks and for looking
//! at a repository that is already here.
//!
//! Nothing is ever checked out, and symlinks and submodules are listed but never followed, so what a push contains
//! can mislead nothing outside the repository.

mod error;
mod manifests;
mod mirror;
mod reader;
mod remote;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use xeno_model::id::Revision;
use xeno_model::repository::{FileMode, RepositoryTree};

pub use error::SourceError;
pub use manifests::Manifests;
pub use mirror::Mirror;
pub use reader::Reader;
pub use remote::{Credentials, RemoteUrl};

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The repository.
    pub url: RemoteUrl,
    /// The branch.
    pub branch: String,
    /// Directory of the mirror; made when missing.
    pub mirror: PathBuf,
    /// How to be let in.
    pub credentials: Credentials,
    /// Whether a commit that does not descend from the last accepted one is taken all the same.
    pub accept_rewrites: bool,
    /// How long one fetch may take.
    pub timeout: Duration,
    /// Bounds on what is read.
    pub limits: Limits,
}

/// Bounds on what is read from a repository.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one manifest.
    pub file_bytes: u64,
    /// Bytes of all manifests.
    pub total_bytes: u64,
    /// Manifests.
    pub files: u64,
    /// Files and directories of the listing.
    pub entries: u64,
    /// Levels of directories.
    pub depth: usize,
    /// Bytes of a path.
    pub path_bytes: usize,
    /// Bytes of a carried file.
    pub blob_bytes: u64,
}

impl Default for Limits {
    /// Generous for a fleet of 100,000 slivers, and nothing that hurts a node.
    fn default() -> Self {
        Self {
            file_bytes: xeno_model::manifest::FILE_LEN_MAX,
            total_bytes: 256 << 20,
            files: 50_000,
            entries: 200_000,
            depth: 64,
            path_bytes: 1024,
            blob_bytes: 64 << 20,
        }
    }
}

/// What a commit holds, as far as manifests are concerned.
#[derive(Clone, Debug)]
pub struct RepositorySnapshot {
    /// The commit.
    pub revision: Revision,
    /// The manifests, by path.
    pub files: Vec<SourceFile>,
    /// Everything, by path.
    pub tree: RepositoryTree,
    /// Files that cannot be used. A snapshot with any is not to be acted on.
    pub problems: Vec<Problem>,
}

/// One manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path below the fleet's root.
    pub path: String,
    /// Git's id of its content: equal ids, equal bytes.
    pub blob: String,
    /// The content.
    pub content: Arc<[u8]>,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its path below the fleet's root.
    pub path: String,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// What is wrong with a file, as far as reading goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A manifest that is not an ordinary file.
    NotOrdinary(FileMode),
    /// A manifest above the limit.
    TooLarge {
        /// Its bytes.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// A name that is not UTF-8, or that no path can be made of.
    Name,
    /// A path above the limit.
    PathTooLong,
    /// A directory below too many others.
    TooDeep,
}

impl ProblemKind {
    /// What is wrong, as one lower-case phrase.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NotOrdinary(FileMode::Symlink) => {
                "a manifest is a symbolic link, which is never followed".to_owned()
            }
            Self::NotOrdinary(FileMode::Submodule) => {
                "a manifest is a submodule, which is never followed".to_owned()
            }
            Self::NotOrdinary(FileMode::Regular | FileMode::Executable) => {
                "a manifest is not a file".to_owned()
            }
            Self::TooLarge { size, max } => {
                format!("the file has {size} bytes, more than the {max} a manifest may have")
            }
            Self::Name => "the name is not plain UTF-8 text".to_owned(),
            Self::PathTooLong => "the path is too long".to_owned(),
            Self::TooDeep => "the directory lies below too many others".to_owned(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotOrdinary(_) => "replace it by the file itself",
            Self::TooLarge { .. } => "split it, or move what it carries into a template",
            Self::Name => "rename it: letters, digits, `-`, `_` and `.` are safe",
            Self::PathTooLong | Self::TooDeep => "move it nearer to the root",
        }
    }
}

/// Outcome of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The commit the branch points at.
    pub revision: Revision,
    /// How it relates to the commit that was known.
    pub relation: Relation,
}

/// How a fetched commit relates to the one known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// None was known.
    First,
    /// It is that commit.
    Same,
    /// It descends from it.
    Descendant,
    /// It does not, and that was allowed.
    Rewritten,
}

/// Handle on the thread that owns the repository. Cheap to clone; the thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct Source {
    requests: mpsc::Sender<Request>,
    timeout: Duration,
}

/// Questions that may wait for the thread at a time.
const QUEUE_LEN: usize = 64;

enum Request {
    Fetch {
        known: Option<Revision>,
        reply: oneshot::Sender<Result<Fetched, SourceError>>,
    },
    Read {
        revision: Revision,
        subpath: String,
        reply: oneshot::Sender<Result<RepositorySnapshot, SourceError>>,
    },
    Blob {
        id: String,
        reply: oneshot::Sender<Result<Vec<u8>, SourceError>>,
    },
    Subject {
        revision: Revision,
        reply: oneshot::Sender<Result<String, SourceError>>,
    },
    IsDescendant {
        new: Revision,
        old: Revision,
        reply: oneshot::Sender<Result<bool, SourceError>>,
    },
}

impl Source {
    /// Starts the thread. It touches nothing before the first question; a mirror left by an earlier run is used.
    ///
    /// # Errors
    /// [`SourceError::Mirror`] where no thread can be started.
    pub fn start(config: SourceConfig) -> Result<Self, SourceError> {
        let (requests, queue) = mpsc::channel(QUEUE_LEN);
        let timeout = config.timeout;
        let path = config.mirror.clone();
        std::thread::Builder::new()
            .name("git".to_owned())
            .spawn(move || answer(Mirror::new(config), queue))
            .map_err(|source| SourceError::Mirror { path, source })?;
        Ok(Self { requests, timeout })
    }

    /// Fetches the branch. `known` is the last accepted commit.
    ///
    /// # Errors
    /// Among others [`SourceError::Rewritten`] where the branch no longer descends from `known` and that is not
    /// allowed; what was fetched before stays readable whatever happens.
    pub async fn fetch(&self, known: Option<Revision>) -> Result<Fetched, SourceError> {
        self.ask("fetch the branch", |reply| Request::Fetch { known, reply })
            .await
    }

    /// Reads the directory `subpath` of a commit.
    ///
    /// # Errors
    /// See [`Reader::read`].
    pub async fn read(&self, revision: Revision, subpath: &str) -> Result<RepositorySnapshot, SourceError> {
        let subpath = subpath.to_owned();
        self.ask("read the commit", |reply| Request::Read {
            revision,
            subpath,
            reply,
        })
        .await
    }

    /// Content of a blob.
    ///
    /// # Errors
    /// See [`Reader::blob`].
    pub async fn blob(&self, id: &str) -> Result<Vec<u8>, SourceError> {
        let id = id.to_owned();
        self.ask("read a file", |reply| Request::Blob { id, reply }).await
    }

    /// First line of a commit's message.
    ///
    /// # Errors
    /// See [`Reader::subject`].
    pub async fn subject(&self, revision: Revision) -> Result<String, SourceError> {
        self.ask("read a commit message", |reply| Request::Subject {
            revision,
            reply,
        })
        .await
    }

    /// Whether `new` is `old` or descends from it.
    ///
    /// # Errors
    /// See [`Reader::is_descendant`].
    pub async fn is_descendant(&self, new: Revision, old: Revision) -> Result<bool, SourceError> {
        self.ask("compare two commits", |reply| Request::IsDescendant {
            new,
            old,
            reply,
        })
        .await
    }

    async fn ask<T>(
        &self,
        what: &'static str,
        request: impl FnOnce(oneshot::Sender<Result<T, SourceError>>) -> Request,
    ) -> Result<T, SourceError> {
        let (reply, answer) = oneshot::channel();
        // Beyond the fetch's own deadline, for the case that libgit2 hangs where it does not look at one.
        let after = self.timeout + Duration::from_secs(10);
        let both = async {
            self.requests
                .send(request(reply))
                .await
                .map_err(|_| SourceError::Stopped)?;
            answer.await.map_err(|_| SourceError::Stopped)?
        };
        tokio::time::timeout(after, both)
            .await
            .unwrap_or(Err(SourceError::TimedOut { what, after }))
    }
}

/// Answers until the last handle is gone. Who stopped waiting for an answer does not get one; that is no error.
fn answer(mut mirror: Mirror, mut queue: mpsc::Receiver<Request>) {
    while let Some(request) = queue.blocking_recv() {
        match request {
            Request::Fetch { known, reply } => drop(reply.send(mirror.fetch(known.as_ref()))),
            Request::Read {
                revision,
                subpath,
                reply,
            } => drop(reply.send(mirror.read(&revision, &subpath))),
            Request::Blob { id, reply } => drop(reply.send(mirror.blob(&id))),
            Request::Subject { revision, reply } => drop(reply.send(mirror.subject(&revision))),
            Request::IsDescendant { new, old, reply } => drop(reply.send(mirror.is_descendant(&new, &old))),
        }
    }
}
