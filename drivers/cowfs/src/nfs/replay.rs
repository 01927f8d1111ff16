//! Keeping a retransmitted call from running twice.
//!
//! A client that gets no reply sends the same call again, perhaps on a new connection, perhaps to a restarted server.
//! On the connection that it came by it is not begun again while it is carried out, whatever it asks for (`server/flight.rs`).
//! Three things answer it otherwise: the first run if it is still going on (the second waits for it), the service's own record
//! of what has been carried out ([`FileService::replayed`](crate::service::FileService::replayed), which outlives the
//! server), and for calls that failed, and so changed nothing, a small table here.
//!
//! WRITE is among them, although writing the same bytes again looks harmless: clients send again on the same connection
//! after a time-out, the answer to the first run sets them free to write or truncate the same place once more, and the
//! second run of the old call would then bring the old bytes back. What it did is remembered in memory only: after a
//! restart the write verifier is another one, and clients send everything again that was not committed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::rpc::Call;
use crate::service::{CallKey, Stability, Status, WriteVerifier};

/// How many failed calls are remembered; the oldest goes first.
const FAILURES_MAX: usize = 1024;

/// For how long: longer than clients go on sending one call again (Linux: `timeo` × `retrans`, 3 minutes at most).
const FAILURES_KEPT: Duration = Duration::from_secs(180);

/// How many WRITEs are remembered; far more than a client has outstanding.
const WRITES_MAX: usize = 2048;

/// How many bytes of arguments tell calls apart, beside their number and length: all but the content of a WRITE.
const HASHED_MAX: usize = 16 << 10;

/// The name of a call for good (see [`CallKey`]): the same for each retransmission of it, from whatever port.
#[must_use]
pub fn call_key(export_id: &[u8; 8], call: &Call) -> CallKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(export_id);
    // Lengths before what varies in length, so that no two calls hash the same bytes.
    hasher.update(&(call.machine().len() as u64).to_le_bytes());
    hasher.update(call.machine());
    hasher.update(&call.caller.uid.to_le_bytes());
    hasher.update(&call.xid.to_le_bytes());
    hasher.update(&call.procedure.to_le_bytes());
    let arguments = call.arguments();
    hasher.update(&(arguments.len() as u64).to_le_bytes());
    hasher.update(&arguments[..arguments.len().min(HASHED_MAX)]);
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    CallKey(key)
}

/// What a WRITE took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many bytes.
    pub count: u32,
    /// How surely.
    pub stability: Stability,
    /// The verifier that it was told with.
    pub verifier: WriteVerifier,
}

/// Calls of one export that run now, and those that failed lately.
#[derive(Debug, Default)]
pub struct Recent {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    running: HashMap<CallKey, watch::Receiver<()>>,
    failed: HashMap<CallKey, Status>,
    oldest_first: VecDeque<(Instant, CallKey)>,
    written: HashMap<CallKey, Taken>,
    written_first: VecDeque<CallKey>,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is whole before anything could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other run of the call `key` is going on, and marks it as running until the result is dropped.
    pub async fn enter(self: &Arc<Self>, key: CallKey) -> Running {
        loop {
            let mut other = {
                let mut inner = self.lock();
                match inner.running.get(&key) {
                    Some(other) => other.clone(),
                    None => {
                        let (done, waiting) = watch::channel(());
                        inner.running.insert(key, waiting);
                        return Running {
                            recent: Arc::clone(self),
                            key,
                            _done: done,
                        };
                    }
                }
            };
            // Ends with an error when the other run drops its sender, which is what it is waited for.
            let _ended = other.changed().await;
        }
    }

    /// How the call `key` failed, if it did so lately.
    #[must_use]
    pub fn failure(&self, key: &CallKey) -> Option<Status> {
        self.lock().failed.get(key).copied()
    }

    /// Remembers that the call `key` failed.
    pub fn note_failure(&self, key: CallKey, status: Status) {
        let now = Instant::now();
        let mut inner = self.lock();
        while let Some(&(since, oldest)) = inner.oldest_first.front() {
            if inner.oldest_first.len() < FAILURES_MAX && now.duration_since(since) < FAILURES_KEPT {
                break;
            }
            inner.oldest_first.pop_front();
            inner.failed.remove(&oldest);
        }
        if inner.failed.insert(key, status).is_none() {
            inner.oldest_first.push_back((now, key));
        }
    }
}

impl Recent {
    /// What the WRITE `key` took, if it ran lately.
    #[must_use]
    pub fn write(&self, key: &CallKey) -> Option<Taken> {
        self.lock().written.get(key).copied()
    }

    /// Remembers what the WRITE `key` took.
    pub fn note_write(&self, key: CallKey, taken: Taken) {
        let mut inner = self.lock();
        while inner.written_first.len() >= WRITES_MAX {
            if let Some(oldest) = inner.written_first.pop_front() {
                inner.written.remove(&oldest);
            }
        }
        if inner.written.insert(key, taken).is_none() {
            inner.written_first.push_back(key);
        }
    }
}

/// A call that is running; while this lives no other run of it begins.
#[derive(Debug)]
pub struct Running {
    recent: Arc<Recent>,
    key: CallKey,
    _done: watch::Sender<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.recent.lock().running.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_run_waits_for_the_first() {
        let recent = Arc::new(Recent::default());
        let key = CallKey([1; 16]);
        let first = recent.enter(key).await;
        let _unrelated = recent.enter(CallKey([2; 16])).await;
        let mut second = Box::pin(recent.enter(key));
        tokio::select! {
            biased;
            _ = &mut second => panic!("the second ran beside the first"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        second.await;
    }

    #[test]
    fn failures_are_bounded() {
        let recent = Recent::default();
        let key = |n: u32| CallKey([n.to_le_bytes(); 4].concat().try_into().unwrap());
        for n in 0..5000 {
            recent.note_failure(key(n), Status::NoEnt);
        }
        assert_eq!(recent.failure(&key(4999)), Some(Status::NoEnt));
        assert_eq!(recent.failure(&key(0)), None);
        assert_eq!(recent.lock().failed.len(), FAILURES_MAX);
    }

    #[test]
    fn writes_are_bounded() {
        let recent = Recent::default();
        let key = |n: u32| CallKey([n.to_le_bytes(); 4].concat().try_into().unwrap());
        let taken = |count| Taken {
            count,
            stability: Stability::Unstable,
            verifier: [1; 8],
        };
        for n in 0..5000 {
            recent.note_write(key(n), taken(n));
        }
        assert_eq!(recent.write(&key(4999)), Some(taken(4999)));
        assert_eq!(recent.write(&key(0)), None);
        assert_eq!(recent.lock().written.len(), WRITES_MAX);
        assert_eq!(recent.lock().written_first.len(), WRITES_MAX);
    }
}
