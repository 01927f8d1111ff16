//! Why the state could not be read or written.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use xeno_model::id::NameError;
use xeno_model::normal::NormalError;

/// Why the state of a node could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent uses the directory.
    #[error("use {dir}: another agent{} has it; one directory belongs to one agent", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The state directory.
        dir: PathBuf,
        /// The other agent's process, if it wrote it down.
        pid: Option<u32>,
    },
    /// The directory belongs to another node.
    #[error("use {dir}: it holds the state of node `{found}`, not of `{node}`")]
    OtherNode {
        /// The state directory.
        dir: PathBuf,
        /// The node it belongs to.
        found: String,
        /// The node that was to use it.
        node: String,
    },
    /// A newer version of this program wrote it.
    #[error(
        "open {path}: its schema is version {found}, this program knows up to {known}; use the newer program"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema this program knows.
        known: u32,
    },
    /// The file is not a database, or is damaged.
    #[error("{attempt}: the state database is damaged")]
    Corrupt {
        /// What was being done.
        attempt: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The database can be opened, and does not fit together.
    #[error("check the state database: it is damaged: {found}")]
    Unsound {
        /// The first thing that SQLite found.
        found: String,
    },
    /// A damaged database was set aside, and there is no new one yet.
    #[error("{attempt}: the state database was damaged and could not be made anew yet")]
    Gone {
        /// What was being done.
        attempt: &'static str,
    },
    /// There is no space left.
    #[error("{attempt}: no space left for the state database")]
    Full {
        /// What was being done.
        attempt: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// It may not be written.
    #[error("{attempt}: the state database cannot be written (read-only file system or permissions)")]
    ReadOnly {
        /// What was being done.
        attempt: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite failed in another way.
    #[error("{attempt}")]
    Sqlite {
        /// What was being done.
        attempt: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A file of the state directory could not be used.
    #[error("{attempt} {path}")]
    File {
        /// What was being done.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A stored name is not a name.
    #[error("read the stored {what}")]
    Name {
        /// What it should name.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// A stored sliver cannot be read.
    #[error("read the stored sliver {sliver}")]
    Sliver {
        /// Which.
        sliver: String,
        /// What is wrong with it.
        #[source]
        source: NormalError,
    },
    /// The thread that was to do it ended.
    #[error("use the state: the thread that does ended: {why}")]
    Thread {
        /// Why.
        why: String,
    },
    /// Another stored record cannot be read.
    #[error("read the stored {what}: {why}")]
    Record {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl StateError {
    /// Whether the database is damaged: only a new one helps. What a newer program wrote is no damage.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. }
            | Self::Unsound { .. }
            | Self::Gone { .. }
            | Self::Name { .. }
            | Self::Sliver { .. }
            | Self::Record { .. } => true,
            Self::Locked { .. }
            | Self::OtherNode { .. }
            | Self::Newer { .. }
            | Self::Full { .. }
            | Self::ReadOnly { .. }
            | Self::Sqlite { .. }
            | Self::File { .. }
            | Self::Thread { .. } => false,
        }
    }

    /// Whether it can pass by itself: the disk is full, or is read-only for now.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::File { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
            ),
            Self::Locked { .. }
            | Self::OtherNode { .. }
            | Self::Newer { .. }
            | Self::Corrupt { .. }
            | Self::Unsound { .. }
            | Self::Gone { .. }
            | Self::ReadOnly { .. }
            | Self::Sqlite { .. }
            | Self::Name { .. }
            | Self::Sliver { .. }
            | Self::Record { .. }
            | Self::Thread { .. } => false,
        }
    }

    /// Sorts an error of SQLite by what a person would do about it (<https://sqlite.org/rescode.html>).
    pub(crate) fn sqlite(attempt: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { attempt, source },
            Some(ErrorCode::DiskFull) => Self::Full { attempt, source },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::ReadOnly { attempt, source }
            }
            _ => Self::Sqlite { attempt, source },
        }
    }
}

/// The error and its causes in one line, for journals and people.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
