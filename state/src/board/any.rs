//! Whichever board is configured.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::etcd::{EtcdBoard, EtcdConfig};
use super::scripted::ScriptedBoard;
use super::sqlite::{Options, SqliteBoard};
use super::{Board, BoardResult, Commit, Entry, Key, Lease, LeaseId, Listing, Prefix, Revision, Txn, Watch};

/// Where a board is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoardConfig {
    /// In a file of this machine.
    Sqlite {
        /// The file; made when missing.
        path: PathBuf,
    },
    /// In an etcd.
    Etcd(Box<EtcdConfig>),
}

impl BoardConfig {
    /// As configuration names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Etcd(_) => "etcd",
        }
    }

    /// Opens it. A file is read and may block; an etcd is not asked yet.
    ///
    /// # Errors
    /// [`BoardError::Never`](super::BoardError::Never), [`BoardError::Unavailable`](super::BoardError::Unavailable).
    pub fn open(&self) -> BoardResult<AnyBoard> {
        Ok(match self {
            Self::Sqlite { path } => AnyBoard::Sqlite(SqliteBoard::open(path, Options::default())?),
            Self::Etcd(config) => AnyBoard::Etcd(Box::new(EtcdBoard::new((**config).clone())?)),
        })
    }

    /// Asks it something that changes nothing, and says in one line how it is. A file that is not there is not made.
    ///
    /// # Errors
    /// Whatever it answers with.
    pub async fn look(&self) -> BoardResult<String> {
        let place = match self {
            Self::Sqlite { path } if !path.exists() => {
                return Ok(format!(
                    "{}: it is not there yet; the agent makes it",
                    path.display()
                ));
            }
            Self::Sqlite { path } => path.display().to_string(),
            Self::Etcd(config) => format!("{} below {}", config.endpoints.join(", "), config.prefix),
        };
        let board = self.open()?;
        let (nothing, start) = (
            Prefix::new("doctor/").unwrap_or_else(|_| Prefix::all()),
            Instant::now(),
        );
        let at = board.list(&nothing).await?.at;
        let took = start.elapsed().as_millis();
        Ok(format!("{place}: at revision {}, answers within {took} ms", at.0))
    }
}

/// A board of any kind, so that who holds one needs no type parameter.
#[derive(Debug)]
pub enum AnyBoard {
    /// In a file of this machine.
    Sqlite(SqliteBoard),
    /// In an etcd.
    Etcd(Box<EtcdBoard>),
    /// In memory, for tests.
    Scripted(ScriptedBoard),
}

/// One call on whichever it is.
macro_rules! on {
    ($any:expr, $board:ident => $call:expr) => {
        match $any {
            AnyBoard::Sqlite($board) => $call,
            AnyBoard::Etcd($board) => $call,
            AnyBoard::Scripted($board) => $call,
        }
    };
}

impl Board for AnyBoard {
    async fn get(&self, key: &Key) -> BoardResult<Option<Entry>> {
        on!(self, board => board.get(key).await)
    }

    async fn list(&self, prefix: &Prefix) -> BoardResult<Listing> {
        on!(self, board => board.list(prefix).await)
    }

    async fn commit(&self, txn: &Txn) -> BoardResult<Commit> {
        on!(self, board => board.commit(txn).await)
    }

    async fn watch(&self, prefix: &Prefix, from: Revision) -> BoardResult<Watch> {
        on!(self, board => board.watch(prefix, from).await)
    }

    async fn grant(&self, ttl: Duration) -> BoardResult<Lease> {
        on!(self, board => board.grant(ttl).await)
    }

    async fn keep_alive(&self, lease: LeaseId) -> BoardResult<Lease> {
        on!(self, board => board.keep_alive(lease).await)
    }

    async fn revoke(&self, lease: LeaseId) -> BoardResult<()> {
        on!(self, board => board.revoke(lease).await)
    }
}
