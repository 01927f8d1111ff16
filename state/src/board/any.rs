//! Whichever board is configured.

use std::time::Duration;

use super::etcd::EtcdBoard;
use super::scripted::ScriptedBoard;
use super::sqlite::SqliteBoard;
use super::{Board, BoardResult, Commit, Entry, Key, Lease, LeaseId, Listing, Prefix, Revision, Txn, Watch};

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
