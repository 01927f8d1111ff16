//! The thread that has the file.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::watch::{self, Changes, Feed};
use super::super::{
    BoardError, BoardResult, Commit, Entry, Key, Lease, LeaseId, Listing, Prefix, Revision, Txn, Watch,
    WatchEnd,
};
use super::Options;
use super::open::{failed, failed_commit};
use super::table::{self, Done, Trouble};
use crate::time::BootMoment;

/// How many revisions pass between two looks at how long the history is.
const TRIM_EVERY: u64 = 64;

/// Something to do, and its place among what waits.
pub(super) struct Request {
    pub(super) work: Work,
    pub(super) _permit: OwnedSemaphorePermit,
}

type Reply<T> = oneshot::Sender<BoardResult<T>>;

/// What the thread does. Whoever asked may have left: then its answer is nobody's.
pub(super) enum Work {
    Get(Key, Reply<Option<Entry>>),
    List(Prefix, Reply<Listing>),
    Commit(Txn, Reply<Commit>),
    Watch(Prefix, Revision, Reply<Watch>),
    Grant(Duration, Reply<Lease>),
    KeepAlive(LeaseId, Reply<Lease>),
    Revoke(LeaseId, Reply<()>),
    Compact(Revision, Reply<()>),
}

pub(super) struct Keeper {
    conn: Connection,
    queue: Receiver<Request>,
    options: Options,
    watches: Vec<Watching>,
    /// What SQLite says changes whenever another process commits.
    seen: Option<i64>,
}

struct Watching {
    prefix: Prefix,
    /// The next revision to tell.
    next: Revision,
    feed: Feed,
}

impl Keeper {
    pub(super) fn new(conn: Connection, queue: Receiver<Request>, options: Options) -> Self {
        Self {
            conn,
            queue,
            options,
            watches: Vec::new(),
            seen: None,
        }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            self.watches.retain(|watching| !watching.feed.is_over());
            let request = if self.watches.is_empty() {
                self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.queue.recv_timeout(self.options.poll)
            };
            match request {
                Ok(request) => {
                    self.work(request.work);
                    // Whatever it was, leases may have ended on the way.
                    self.tell();
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn work(&mut self, work: Work) {
        match work {
            Work::Get(key, reply) => {
                let _ = reply.send(self.read("read a key", |conn| table::get(conn, &key)));
            }
            Work::List(prefix, reply) => {
                let _ = reply.send(self.read("list keys", |conn| table::list(conn, &prefix)));
            }
            Work::Commit(txn, reply) => {
                let options = self.options.clone();
                let commit = self.write("commit", |conn, _| {
                    let commit = table::commit(conn, &txn)?;
                    if let Commit::Done(at) = commit
                        && at.0.is_multiple_of(TRIM_EVERY)
                    {
                        table::trim(conn, options.history, options.history_bytes)?;
                    }
                    Ok(commit)
                });
                let _ = reply.send(commit);
            }
            Work::Watch(prefix, from, reply) => {
                let (feed, watch) = watch::channel();
                self.watches.push(Watching {
                    prefix,
                    next: from.max(Revision::START.next()),
                    feed,
                });
                let _ = reply.send(Ok(watch));
            }
            Work::Grant(ttl, reply) => {
                let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                let id = self.write("grant a lease", |conn, now| table::grant(conn, ttl_ms, now));
                let id = not_lasting(id);
                let _ = reply.send(id.map(|id| Lease { id, ttl }));
            }
            Work::KeepAlive(lease, reply) => {
                let kept = self.write("renew a lease", |conn, now| {
                    let ttl_ms = table::keep_alive(conn, lease, now)?;
                    ttl_ms.ok_or(Trouble::Lease(lease))
                });
                let kept = not_lasting(kept).map(Duration::from_millis);
                let _ = reply.send(kept.map(|ttl| Lease { id: lease, ttl }));
            }
            Work::Revoke(lease, reply) => {
                let _ = reply.send(self.write("revoke a lease", |conn, _| table::revoke(conn, lease)));
            }
            Work::Compact(to, reply) => {
                let _ = reply.send(self.write("compact the board", |conn, _| table::compact(conn, to)));
            }
        }
    }

    /// Reads within one transaction, after ending the leases whose time is over.
    fn read<T>(
        &mut self,
        attempt: &'static str,
        read: impl FnOnce(&Connection) -> Done<T>,
    ) -> BoardResult<T> {
        not_lasting(self.expire(attempt))?;
        self.read_now(attempt, read)
    }

    fn read_now<T>(
        &mut self,
        attempt: &'static str,
        read: impl FnOnce(&Connection) -> Done<T>,
    ) -> BoardResult<T> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Deferred);
        let tx = tx.map_err(|error| failed(attempt, &error))?;
        // It ends with its drop: there is nothing to commit.
        read(&tx).map_err(|trouble| refuse(attempt, trouble))
    }

    /// Writes as one transaction, after ending the leases whose time is over within the same one.
    fn write<T>(
        &mut self,
        attempt: &'static str,
        write: impl FnOnce(&Connection, &BootMoment) -> Done<T>,
    ) -> BoardResult<T> {
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let tx = tx.map_err(|error| failed(attempt, &error))?;
        // Only now: the wait for other processes may have been long.
        let now = (self.options.clock)();
        let done = table::expire(&tx, &now).and_then(|()| write(&tx, &now));
        let done = match done {
            // The leases that ended have ended, whatever became of the rest.
            Err(Trouble::Lease(lease)) => Err(BoardError::LeaseGone(lease)),
            Err(trouble) => return Err(refuse(attempt, trouble)),
            Ok(done) => Ok(done),
        };
        tx.commit().map_err(|error| failed_commit(attempt, &error))?;
        done
    }

    /// Ends the leases whose time is over; whether there were any.
    fn expire(&mut self, attempt: &'static str) -> BoardResult<bool> {
        let now = (self.options.clock)();
        let any = self.read_now(attempt, |conn| table::any_over(conn, &now))?;
        if any {
            self.write(attempt, |_, _| Ok(()))?;
        }
        Ok(any)
    }

    /// What time and other processes have changed.
    fn look(&mut self) {
        // Where it fails, the next look may not, and every call says why.
        let ended = self.expire("end leases").unwrap_or(false);
        let seen = self
            .conn
            .pragma_query_value(None, "data_version", |row| row.get(0));
        let seen: Option<i64> = seen.ok();
        // Commits of our own do not show in it.
        if ended || seen.is_none() || seen != self.seen {
            self.seen = seen;
            self.tell();
        }
    }

    /// Tells the watchers what they have not been told.
    fn tell(&mut self) {
        self.watches.retain(|watching| !watching.feed.is_over());
        let Some(from) = self.watches.iter().map(|watching| watching.next).min() else {
            return;
        };
        let mut watches = std::mem::take(&mut self.watches);
        let told = self.read_now("read changes", |conn| {
            let (at, compacted) = table::at(conn)?;
            for watching in watches.iter().filter(|watching| watching.next <= compacted) {
                let oldest = compacted.next();
                watching.feed.end(WatchEnd::Compacted { oldest });
            }
            if from <= at {
                table::changes_from(conn, from, |changes| {
                    watches.iter_mut().for_each(|watching| watching.tell(changes));
                })?;
            }
            for watching in &mut watches {
                watching.next = watching.next.max(at.next());
            }
            Ok(())
        });
        if let Err(error) = told {
            // Watchers list again, and hear then what is wrong.
            let lost = WatchEnd::Lost(error.to_string());
            watches
                .iter()
                .for_each(|watching| watching.feed.end(lost.clone()));
        }
        self.watches = watches;
    }
}

impl Watching {
    fn tell(&self, changes: &Changes) {
        if changes.revision < self.next {
            return;
        }
        if let Some(below) = changes.below(&self.prefix) {
            // Whoever is too slow is found to be over at the next round.
            let _ = self.feed.push(below);
        }
    }
}

/// For what leaves nothing behind: not to know whether it was done is as good as its not having been done.
fn not_lasting<T>(result: BoardResult<T>) -> BoardResult<T> {
    result.map_err(|error| match error {
        BoardError::Unknown { attempt, why } => BoardError::Unavailable { attempt, why },
        BoardError::Unavailable { .. } | BoardError::LeaseGone(_) | BoardError::Never { .. } => error,
    })
}

fn refuse(attempt: &'static str, trouble: Trouble) -> BoardError {
    match trouble {
        Trouble::Sqlite(error) => failed(attempt, &error),
        Trouble::Lease(lease) => BoardError::LeaseGone(lease),
        Trouble::Never(why) => BoardError::never(attempt, why),
    }
}
