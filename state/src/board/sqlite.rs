//! The board of one machine: a SQLite file that several agents use.
//!
//! WAL, full sync: what was answered is on the disk. One thread per board does all that blocks and tells the watchers; what
//! other processes commit it finds by asking SQLite whether the file changed (`PRAGMA data_version`), every
//! [`Options::poll`] while there are watchers and never without.
//!
//! Leases are counted by the time since the machine started ([`BootMoment`]): the wall clock is not looked at. With the
//! machine all owners of leases end, too: after it has started again each lease has its whole time once more, so that
//! nothing is taken for dead that had no chance to say otherwise.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use self::keeper::{Keeper, Request, Work};
use super::{
    Board, BoardError, BoardResult, Commit, Entry, Key, Lease, LeaseId, Listing, Prefix, Revision, Txn,
    Watch, check_ttl,
};
use crate::time::BootMoment;

mod keeper;
mod open;
mod table;
#[cfg(test)]
mod tests;

/// Calls that wait for the thread at a time; more wait for these.
const CALLS_MAX: usize = 256;

/// What tells the time: see [`boot_moment`].
pub type BootClock = Arc<dyn Fn() -> BootMoment + Send + Sync>;

/// How a board is kept.
#[derive(Clone)]
pub struct Options {
    /// How often other processes' changes are looked for.
    pub poll: Duration,
    /// How many of the last revisions can be watched from, at least; some more are kept.
    pub history: u64,
    /// How many bytes of values their history may hold; where it is more, fewer revisions can be watched from.
    pub history_bytes: u64,
    /// The clock that leases are counted by.
    pub clock: BootClock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(50),
            history: 8192,
            history_bytes: 32 << 20,
            clock: Arc::new(boot_moment),
        }
    }
}

/// Now, by the clock that counts from the start of the machine and also while it sleeps (`CLOCK_BOOTTIME`,
/// clock_gettime(2)).
///
/// All processes of a board must see the same one: a container with a time namespace of its own (time_namespaces(7)) does
/// not.
#[must_use]
pub fn boot_moment() -> BootMoment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    // Where there is none, as in some sandboxes, a reboot shows in leases that end later than they can.
    static BOOT: OnceLock<String> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map(|id| id.trim().to_owned()).unwrap_or_default()
    });
    BootMoment {
        boot: boot.clone(),
        ms: seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000),
    }
}

/// A board in a file of this machine.
#[derive(Debug)]
pub struct SqliteBoard {
    path: PathBuf,
    requests: mpsc::Sender<Request>,
    permits: Arc<Semaphore>,
}

impl SqliteBoard {
    /// Opens the board in the file, making it when missing. Blocks.
    ///
    /// # Errors
    /// [`BoardError::Never`] for what is no board, is damaged, was made by a newer program or lies on a network file system;
    /// [`BoardError::Unavailable`] where the file cannot be used now.
    pub fn open(path: &Path, options: Options) -> BoardResult<Self> {
        let conn = open::open(path)?;
        let (requests, queue) = mpsc::channel();
        let keeper = Keeper::new(conn, queue, options);
        let spawned = thread::Builder::new()
            .name("board".to_owned())
            .spawn(move || keeper.run());
        spawned.map_err(|error| BoardError::unavailable("start the board's thread", error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            requests,
            permits: Arc::new(Semaphore::new(CALLS_MAX)),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the changes up to a revision, as happens by itself beyond [`Options::history`].
    ///
    /// # Errors
    /// [`BoardError::Unavailable`].
    pub async fn compact(&self, to: Revision) -> BoardResult<()> {
        let attempt = "compact the board";
        self.ask(attempt, |reply| Work::Compact(to, reply))
            .await
            .unwrap_or_else(|| Err(BoardError::unavailable(attempt, GONE)))
    }

    /// Has the thread do something; `None` if it ended before it answered.
    async fn ask<T>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(oneshot::Sender<BoardResult<T>>) -> Work,
    ) -> Option<BoardResult<T>> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let Ok(permit) = permit else {
            return Some(Err(BoardError::unavailable(attempt, GONE)));
        };
        let (reply, answer) = oneshot::channel();
        let request = Request {
            work: work(reply),
            _permit: permit,
        };
        if self.requests.send(request).is_err() {
            return Some(Err(BoardError::unavailable(attempt, GONE)));
        }
        answer.await.ok()
    }

    async fn read<T>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(oneshot::Sender<BoardResult<T>>) -> Work,
    ) -> BoardResult<T> {
        let answer = self.ask(attempt, work).await;
        answer.unwrap_or_else(|| Err(BoardError::unavailable(attempt, GONE)))
    }
}

const GONE: &str = "its thread has ended";

impl Board for SqliteBoard {
    fn get(&self, key: &Key) -> impl Future<Output = BoardResult<Option<Entry>>> + Send {
        let key = key.clone();
        self.read("read a key", |reply| Work::Get(key, reply))
    }

    fn list(&self, prefix: &Prefix) -> impl Future<Output = BoardResult<Listing>> + Send {
        let prefix = prefix.clone();
        self.read("list keys", |reply| Work::List(prefix, reply))
    }

    async fn commit(&self, txn: &Txn) -> BoardResult<Commit> {
        let (attempt, txn) = ("commit", txn.clone());
        let answer = self.ask(attempt, |reply| Work::Commit(txn, reply)).await;
        answer.unwrap_or_else(|| Err(BoardError::unknown(attempt, GONE)))
    }

    fn watch(&self, prefix: &Prefix, from: Revision) -> impl Future<Output = BoardResult<Watch>> + Send {
        let prefix = prefix.clone();
        self.read("watch keys", move |reply| Work::Watch(prefix, from, reply))
    }

    async fn grant(&self, ttl: Duration) -> BoardResult<Lease> {
        check_ttl(ttl)?;
        self.read("grant a lease", |reply| Work::Grant(ttl, reply)).await
    }

    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = BoardResult<Lease>> + Send {
        self.read("renew a lease", move |reply| Work::KeepAlive(lease, reply))
    }

    async fn revoke(&self, lease: LeaseId) -> BoardResult<()> {
        let attempt = "revoke a lease";
        let answer = self.ask(attempt, |reply| Work::Revoke(lease, reply)).await;
        answer.unwrap_or_else(|| Err(BoardError::unknown(attempt, GONE)))
    }
}
