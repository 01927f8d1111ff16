//! Changes on their way to whoever watches: a queue with a bound, whose end is told apart.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use super::{Entry, Key, Prefix, Revision};

/// The most changes that wait in a watch's queue.
pub(super) const QUEUE_CHANGES_MAX: usize = 4096;

/// The most bytes of keys and values that wait there.
pub(super) const QUEUE_BYTES_MAX: usize = 8 << 20;

/// All changes of one revision below the watched prefix: what was written together arrives together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// When. Higher with every call of [`Watch::next`]; after this, watch from its [`Revision::next`].
    pub revision: Revision,
    /// What changed, in the order of the keys.
    pub changes: Vec<Change>,
}

impl Changes {
    /// The part that lies below a prefix, if any does.
    pub(super) fn below(&self, prefix: &Prefix) -> Option<Self> {
        let below = self.changes.iter().filter(|change| prefix.holds(&change.key));
        let changes: Vec<_> = below.cloned().collect();
        let revision = self.revision;
        (!changes.is_empty()).then_some(Self { revision, changes })
    }
}

/// One key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// What it holds since; `None` where it was deleted, or its lease ended.
    pub entry: Option<Entry>,
}

/// Why a watch ended. List again, and watch from the revision after that listing's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// More came than was taken: what waits is bounded, so this watcher was cut off. What it had not taken yet is lost.
    #[error("the watch was cut off: too many changes waited in it")]
    Lagging,
    /// The board no longer knows what changed back then.
    #[error("the board has forgotten the changes before revision {}", .oldest.0)]
    Compacted {
        /// The oldest revision that could be watched from.
        oldest: Revision,
    },
    /// The board, or the way to it, went away.
    #[error("the watch was lost: {0}")]
    Lost(String),
}

/// A watch on a prefix. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Queue>,
}

impl Watch {
    /// The next changes; waits for them. After an end, the same end again.
    ///
    /// A future of this that is dropped takes nothing with it.
    ///
    /// # Errors
    /// [`WatchEnd`], after the changes that were queued before it, save for [`WatchEnd::Lagging`], which is told at once.
    pub async fn next(&mut self) -> Result<Changes, WatchEnd> {
        poll_fn(|context| {
            let mut inner = self.queue.lock();
            if let Some(next) = inner.take() {
                return Poll::Ready(next);
            }
            inner.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next changes, or the end, if there is any already.
    pub fn try_next(&mut self) -> Option<Result<Changes, WatchEnd>> {
        self.queue.lock().take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.queue.lock();
        inner.gone = true;
        inner.clear();
        if let Some(feed) = inner.closing.take() {
            feed.wake();
        }
    }
}

/// The other end of a [`Watch`].
#[derive(Debug)]
pub(super) struct Feed {
    queue: Arc<Queue>,
}

/// Makes the two ends.
pub(super) fn channel() -> (Feed, Watch) {
    let queue = Arc::new(Queue::default());
    let feed = Feed {
        queue: Arc::clone(&queue),
    };
    (feed, Watch { queue })
}

impl Feed {
    /// Queues changes. `false`: nobody takes any more, since the watch was dropped or ended here for being too slow.
    pub(super) fn push(&self, changes: Changes) -> bool {
        let mut inner = self.queue.lock();
        if inner.gone || inner.end.is_some() {
            return false;
        }
        let (count, bytes) = (changes.changes.len(), size(&changes));
        if inner.count + count > QUEUE_CHANGES_MAX || inner.bytes + bytes > QUEUE_BYTES_MAX {
            inner.clear();
            inner.finish(WatchEnd::Lagging);
            return false;
        }
        inner.count += count;
        inner.bytes += bytes;
        inner.waiting.push_back(changes);
        inner.wake();
        true
    }

    /// Ends the watch, unless it has ended.
    pub(super) fn end(&self, end: WatchEnd) {
        self.queue.lock().finish(end);
    }

    /// Waits until nobody takes any more.
    pub(super) async fn closed(&self) {
        poll_fn(|context| {
            let mut inner = self.queue.lock();
            if inner.gone || inner.end.is_some() {
                return Poll::Ready(());
            }
            inner.closing = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether nobody takes any more.
    pub(super) fn is_over(&self) -> bool {
        let inner = self.queue.lock();
        inner.gone || inner.end.is_some()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.end(WatchEnd::Lost("the board was closed".to_owned()));
    }
}

#[derive(Debug, Default)]
struct Queue {
    inner: Mutex<Inner>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing here panics half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Changes>,
    count: usize,
    bytes: usize,
    end: Option<WatchEnd>,
    gone: bool,
    /// Who waits for changes.
    waker: Option<Waker>,
    /// Who waits for the watch to be dropped.
    closing: Option<Waker>,
}

impl Inner {
    fn take(&mut self) -> Option<Result<Changes, WatchEnd>> {
        match self.waiting.pop_front() {
            Some(changes) => {
                self.count -= changes.changes.len();
                self.bytes -= size(&changes);
                Some(Ok(changes))
            }
            None => self.end.clone().map(Err),
        }
    }

    fn clear(&mut self) {
        self.waiting = VecDeque::new();
        (self.count, self.bytes) = (0, 0);
    }

    fn finish(&mut self, end: WatchEnd) {
        self.end.get_or_insert(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn size(changes: &Changes) -> usize {
    let of = |change: &Change| {
        let value = change
            .entry
            .as_ref()
            .map_or(0, |entry| entry.value.as_bytes().len());
        change.key.as_str().len() + value
    };
    changes.changes.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Value;

    fn changes(revision: u64, len: usize) -> Changes {
        Changes {
            revision: Revision(revision),
            changes: vec![Change {
                key: Key::new("k").unwrap(),
                entry: Some(Entry {
                    value: Value::new(vec![0; len]).unwrap(),
                    revision: Revision(revision),
                    lease: None,
                }),
            }],
        }
    }

    #[test]
    fn what_was_queued_comes_before_the_end() {
        let (feed, mut watch) = channel();
        assert_eq!(watch.try_next(), None);
        assert!(feed.push(changes(1, 1)));
        drop(feed);
        assert_eq!(watch.try_next(), Some(Ok(changes(1, 1))));
        let lost = WatchEnd::Lost("the board was closed".to_owned());
        assert_eq!(watch.try_next(), Some(Err(lost.clone())));
        assert_eq!(watch.try_next(), Some(Err(lost)));
    }

    #[test]
    fn who_is_too_slow_is_cut_off_and_costs_nothing() {
        let check = |len: usize, taken: usize| {
            let (feed, mut watch) = channel();
            let count = (1..).take_while(|n| feed.push(changes(*n, len))).count();
            assert_eq!(count, taken);
            assert_eq!(watch.queue.lock().waiting.capacity(), 0);
            assert_eq!(watch.try_next(), Some(Err(WatchEnd::Lagging)));
            assert!(feed.is_over());
        };
        check(0, QUEUE_CHANGES_MAX);
        check((64 << 10) - 1, QUEUE_BYTES_MAX / (64 << 10));
    }

    #[test]
    fn a_dropped_watch_is_noticed() {
        let (feed, watch) = channel();
        assert!(feed.push(changes(1, 1)));
        drop(watch);
        assert!(feed.is_over() && !feed.push(changes(2, 1)));
    }
}
