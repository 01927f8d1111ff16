//! The threads that carry connections: each runs a loop of its own, and a connection stays on the one it was given to.
//!
//! On a runtime of several threads every call that comes while nothing else is to do wakes two of them: one that has the
//! call, and one that it sends to look whether there is more. Where processors sleep, waking one costs more than most calls.
//! Here a call and its reply are one wake-up, and two system calls beside it. Each loop also counts who
//! [looks for the next call](super::eager) instead of sleeping: of all loops together one may.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Most threads that carry connections: what is not answered at once runs on the [pool](super::pool), so it is little
/// that more of them would do.
const LOOPS_MAX: usize = 8;

/// All loops of a server. They begin with the first connection and end with the server.
#[derive(Default)]
pub(super) struct Loops {
    loops: OnceLock<Vec<Loop>>,
    looking: Looking,
}

struct Loop {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropping it ends the loop, and every connection it still carries.
    _end: oneshot::Sender<()>,
}

impl Loops {
    /// Carries a connection until it ends, on the loop that has fewest. Whoever drops this ends the connection.
    pub(super) async fn carry(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let loops = self.loops.get_or_init(start);
        let Some(fewest) = loops
            .iter()
            .min_by_key(|one| one.connections.load(Ordering::Relaxed))
        else {
            // No thread could be had: slower, but as right.
            return connection.await;
        };
        let counted = Counted::new(&fewest.connections);
        let task = fewest.handle.spawn(async move {
            let _counted = counted;
            connection.await;
        });
        let _ends = EndsWithMe(task.abort_handle());
        // A panic has been reported, and ends no other connection.
        let _ended = task.await;
    }

    /// Who looks for calls instead of sleeping.
    pub(super) fn looking(&self) -> &Looking {
        &self.looking
    }
}

/// One loop for each processor.
fn start() -> Vec<Loop> {
    let count = processors().min(LOOPS_MAX);
    (0..count)
        .map_while(|number| match Loop::start(number) {
            Ok(started) => Some(started),
            Err(error) => {
                tracing::warn!(%error, "starting a thread for connections");
                None
            }
        })
        .collect()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Loop {
    fn start(number: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("cowfs-loop-{number}"))
            .spawn(move || {
                // It never says anything: that its other end is gone is all there is to hear.
                let _gone = runtime.block_on(ended);
            })?;
        Ok(Self {
            handle,
            connections: Arc::default(),
            _end: end,
        })
    }
}

/// One connection in the count of its loop.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct EndsWithMe(AbortHandle);

impl Drop for EndsWithMe {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The one place of a server for somebody who looks for calls instead of sleeping: with it the server keeps one processor
/// from others at most, and none where there is but one.
#[derive(Default)]
pub(super) struct Looking(AtomicBool);

/// Held while looking.
pub(super) struct LooksNow<'a>(&'a Looking);

impl Looking {
    /// The place, if it is free.
    pub(super) fn enter(&self) -> Option<LooksNow<'_>> {
        static ALONE: OnceLock<bool> = OnceLock::new();
        let alone = *ALONE.get_or_init(|| processors() == 1);
        let entered = !alone && !self.0.swap(true, Ordering::Relaxed);
        entered.then_some(LooksNow(self))
    }
}

impl Drop for LooksNow<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn connections_are_spread_and_end_with_who_holds_them() {
        let loops = Arc::new(Loops::default());
        let (go, threads) = (Arc::new(Notify::new()), tokio::sync::mpsc::unbounded_channel());
        let (note, mut noted) = threads;
        let mut carried = Vec::new();
        for _ in 0..processors().min(LOOPS_MAX) {
            let (loops, go, note) = (Arc::clone(&loops), Arc::clone(&go), note.clone());
            carried.push(tokio::spawn(async move {
                let connection = async move {
                    note.send(std::thread::current().id()).unwrap();
                    go.notified().await;
                    // Dropped with the connection.
                    drop(note);
                };
                loops.carry(connection).await;
            }));
            // One after the other, so that each is counted when the next comes.
            noted.recv().await.unwrap();
        }
        let loads: Vec<usize> = loops.loops.get().unwrap().iter().map(load).collect();
        assert!(loads.iter().all(|&load| load == 1), "{loads:?}");
        drop(note);
        carried.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(noted.recv().await, None);
    }

    fn load(one: &Loop) -> usize {
        one.connections.load(Ordering::Relaxed)
    }

    #[test]
    fn one_looks_at_a_time() {
        let looking = Looking::default();
        let first = looking.enter();
        assert_eq!(first.is_some(), processors() > 1);
        assert!(looking.enter().is_none());
        drop(first);
        assert_eq!(looking.enter().is_some(), processors() > 1);
    }
}
