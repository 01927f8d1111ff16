//! What can go wrong between a node and its repository.

use std::path::PathBuf;
use std::time::Duration;

use xeno_model::id::Revision;

/// A repository that could not be reached, read or believed. Messages fit after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address is of a kind that is not supported.
    #[error("use `{url}` as a repository: {why}")]
    Url {
        /// The address, without secrets.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no repository there, or it cannot be opened.
    #[error("open the repository {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What git says.
        #[source]
        source: git2::Error,
    },
    /// The repository is of a form that libgit2 does not read.
    #[error("open the repository {}: it {what}", path.display())]
    Unsupported {
        /// Where.
        path: PathBuf,
        /// Which form.
        what: &'static str,
    },
    /// There is nothing at a path of this machine, or nothing that this user may look at.
    #[error("look for a repository at {}", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The remote repository could not be reached or does not exist.
    #[error("reach {url}")]
    Unreachable {
        /// The address, without secrets.
        url: String,
        /// What git says.
        #[source]
        source: git2::Error,
    },
    /// The remote repository refused every credential.
    #[error("be let in at {url}")]
    Refused {
        /// The address, without secrets.
        url: String,
        /// What was offered, and what to do about it.
        remedy: String,
        /// What git says.
        #[source]
        source: git2::Error,
    },
    /// The repository is there, the branch is not.
    #[error("find branch `{branch}` in {url}, which has {}", listed(have))]
    NoBranch {
        /// The branch.
        branch: String,
        /// The address, without secrets.
        url: String,
        /// Branches that exist; at most ten.
        have: Vec<String>,
    },
    /// The branch was rewritten: the new commit does not descend from the one the node follows.
    #[error("accept commit {} of `{branch}`: it does not descend from {}, the last one accepted", tip.short(), known.short())]
    Rewritten {
        /// The branch.
        branch: String,
        /// The last good commit.
        known: Revision,
        /// The commit the branch points at now.
        tip: Revision,
    },
    /// A name or an id that leads to no commit.
    #[error("find a commit named `{name}`")]
    NoCommit {
        /// As it was given.
        name: String,
        /// What git says.
        #[source]
        source: git2::Error,
    },
    /// The commit has no such directory.
    #[error("find directory `{path}` in commit {}", revision.short())]
    NoDirectory {
        /// The commit.
        revision: Revision,
        /// The directory.
        path: String,
    },
    /// The repository has no such blob.
    #[error("find blob {id}")]
    NoBlob {
        /// Its id.
        id: String,
    },
    /// Something in the repository is larger than a limit.
    #[error("read {what}: {size} is more than the limit of {max}")]
    Limit {
        /// What is too large, or too many.
        what: String,
        /// How large it is, at least.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// Objects are missing or do not match their ids. The mirror is made anew at the next fetch.
    #[error("read {what} from the object database")]
    Damaged {
        /// What was read.
        what: String,
        /// What git says.
        #[source]
        source: git2::Error,
    },
    /// The node's own mirror cannot be made.
    #[error("make the mirror {}", path.display())]
    Mirror {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// libgit2 cannot write the mirror.
    #[error("write the mirror {}", path.display())]
    MirrorGit {
        /// Where.
        path: PathBuf,
        /// What git says.
        #[source]
        source: git2::Error,
    },
    /// It took too long.
    #[error("{what} within {} s", after.as_secs())]
    TimedOut {
        /// What was attempted.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The thread that owns the repository has ended.
    #[error("ask the thread that owns the repository: it has ended")]
    Stopped,
}

impl SourceError {
    /// What a person can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open { path, source } if source.code() == git2::ErrorCode::Owner => {
                Some(format!("it belongs to another user; run `git config --global --add safe.directory {}` as the user that runs this", path.display()))
            }
            Self::Unreachable { url, source } if source.code() == git2::ErrorCode::Owner => Some(format!(
                "it belongs to another user; run `git config --global --add safe.directory {url}` as the user that runs this"
            )),
            Self::Unreachable { source, .. } if source.code() == git2::ErrorCode::Certificate => Some(
                "the host is not known yet: check its key, and put it in ~/.ssh/known_hosts of the user that runs this".to_owned(),
            ),
            Self::Unsupported { .. } => Some(
                "push it to a repository made by `git init --bare --object-format=sha1 --ref-format=files`, and name that one"
                    .to_owned(),
            ),
            Self::Refused { remedy, .. } => Some(remedy.clone()),
            Self::Rewritten { .. } => Some(
                "the node keeps what it runs; push a commit that descends from the last one, or set `accept_rewrites = true`"
                    .to_owned(),
            ),
            Self::NoBranch { have, .. } if have.is_empty() => Some("push a first commit to it".to_owned()),
            Self::NoBranch { .. } => Some("correct the branch, or push it".to_owned()),
            Self::Url { .. } => {
                Some("addresses are a path, file://, ssh:// (or user@host:path) and https://".to_owned())
            }
            Self::Limit { .. } => Some("keep large files out of the repository; templates are their place".to_owned()),
            Self::Open { .. }
            | Self::Missing { .. }
            | Self::Unreachable { .. }
            | Self::NoCommit { .. }
            | Self::NoDirectory { .. }
            | Self::NoBlob { .. }
            | Self::Damaged { .. }
            | Self::Mirror { .. }
            | Self::MirrorGit { .. }
            | Self::TimedOut { .. }
            | Self::Stopped => None,
        }
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names
            .iter()
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}
