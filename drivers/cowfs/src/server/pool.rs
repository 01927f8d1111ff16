//! Threads for calls that may block.
//!
//! The thread that has just become idle is the next to be used, so that a client with one call outstanding meets one
//! warm thread again and again; a queue that hands work to the one that has been idle longest (as the runtime's own
//! pool does) makes such a client wait for a cold thread each time, once a burst has made many.
//!
//! A call may hang: a layer on a remote file system whose server is gone keeps every thread that reads from it until the
//! server is back. Such a call loses its place, not its thread, so that the calls of others still find one. Each export has
//! a bound of its own on the calls that run, and so on the threads that hang for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a thread stays without work.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A call that keeps its thread for longer holds no place any more: no disk takes that long.
const LATE_AFTER: Duration = Duration::from_secs(2);

/// Calls without a place, at most: each has a thread.
const LATE_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads.
pub(super) struct Pool {
    size: u32,
    places: Arc<Semaphore>,
    late_after: Duration,
    /// All threads.
    workers: Mutex<Vec<Weak<Worker>>>,
    /// Calls that run without a place.
    late: AtomicUsize,
    /// Threads without work; the last one became idle last.
    idle: Mutex<Vec<Arc<Worker>>>,
}

/// The right to keep one thread busy.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

struct Worker {
    work: Mutex<Option<(Place, Job)>>,
    /// What its call holds, and since when.
    running: Mutex<Option<(Instant, Place)>>,
    arrived: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic happens under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of at most `size` threads; none yet.
    pub(super) fn new(size: u32) -> Arc<Self> {
        Self::with_patience(size, LATE_AFTER)
    }

    fn with_patience(size: u32, late_after: Duration) -> Arc<Self> {
        let places = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            size,
            places: Arc::new(Semaphore::new(places)),
            late_after,
            workers: Mutex::default(),
            late: AtomicUsize::new(0),
            idle: Mutex::default(),
        })
    }

    /// Waits until a thread may be kept busy.
    pub(super) async fn place(&self) -> Place {
        loop {
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(place) = tokio::time::timeout(self.late_after, place).await {
                return Place {
                    _permit: place.expect("the pool is never closed"),
                };
            }
            self.take_places_of_the_late();
        }
    }

    /// Takes its place from every call that has run for too long.
    fn take_places_of_the_late(&self) {
        let mut workers = lock(&self.workers);
        workers.retain(|worker| worker.strong_count() > 0);
        for worker in workers.iter().filter_map(Weak::upgrade) {
            if self.late.load(Ordering::Relaxed) >= LATE_MAX {
                return;
            }
            let mut running = lock(&worker.running);
            let late = |running: &mut (Instant, Place)| running.0.elapsed() >= self.late_after;
            if running.take_if(late).is_some() {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until nothing runs that still holds a place.
    pub(super) async fn quiesce(&self) {
        let _all = self.places.acquire_many(self.size).await;
    }

    /// Runs `job` on a thread. It must not unwind further than it can bear: a panic ends the job and nothing else.
    pub(super) fn run(self: &Arc<Self>, place: Place, job: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(job);
        let warm = lock(&self.idle).pop();
        if let Some(worker) = warm {
            *lock(&worker.work) = Some((place, job));
            worker.arrived.notify_one();
            return;
        }
        let worker = Arc::new(Worker {
            work: Mutex::new(Some((place, job))),
            running: Mutex::default(),
            arrived: Condvar::new(),
        });
        lock(&self.workers).push(Arc::downgrade(&worker));
        let (pool, new) = (Arc::clone(self), Arc::clone(&worker));
        let spawned = std::thread::Builder::new()
            .name("cowfs-call".to_owned())
            .spawn(move || pool.work(&new));
        if let Err(error) = spawned {
            // Slow is better than never.
            tracing::warn!(%error, "no thread for a call");
            let work = lock(&worker.work).take();
            if let Some((_place, job)) = work {
                job();
            }
        }
    }

    /// What a thread does.
    fn work(&self, me: &Arc<Worker>) {
        loop {
            let work = lock(&me.work).take();
            let Some((place, job)) = work else {
                if self.wait(me) {
                    continue;
                }
                return;
            };
            *lock(&me.running) = Some((Instant::now(), place));
            // The hook has reported it, and the job's own guard has answered for it.
            let _panicked = catch_unwind(AssertUnwindSafe(job));
            // Idle before the place is free, so that whoever takes the place finds a thread.
            let place = lock(&me.running).take();
            if place.is_none() {
                self.late.fetch_sub(1, Ordering::Relaxed);
            }
            lock(&self.idle).push(Arc::clone(me));
            drop(place);
        }
    }

    /// Waits for work; `false` if the thread is to end.
    fn wait(&self, me: &Arc<Worker>) -> bool {
        let work = lock(&me.work);
        let waited = me
            .arrived
            .wait_timeout_while(work, IDLE_MAX, |work| work.is_none());
        let (work, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if work.is_some() || !waited.timed_out() {
            return true;
        }
        drop(work);
        // Whoever has taken it off the list already is about to bring work.
        let mut idle = lock(&self.idle);
        let before = idle.len();
        idle.retain(|worker| !Arc::ptr_eq(worker, me));
        idle.len() == before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_everything_on_few_threads_and_outlives_a_panic() {
        let pool = Pool::new(3);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..100 {
            let sender = sender.clone();
            pool.run(pool.place().await, move || {
                sender.send((n, std::thread::current().id())).unwrap();
                assert!(n != 50, "the one panic of this test");
            });
        }
        pool.quiesce().await;
        drop(sender);
        let (mut seen, mut threads) = (Vec::new(), std::collections::HashSet::new());
        while let Some((n, thread)) = receiver.recv().await {
            seen.push(n);
            threads.insert(thread);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        assert!(threads.len() <= 3, "{threads:?}");
        assert_eq!(lock(&pool.idle).len(), threads.len());
    }

    #[tokio::test]
    async fn calls_that_hang_keep_their_threads_and_lose_their_places() {
        let pool = Pool::with_patience(2, Duration::from_millis(20));
        let (go, waits) = std::sync::mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let (begins, mut begun) = tokio::sync::mpsc::channel(2);
        for _ in 0..2 {
            let (waits, begins) = (Arc::clone(&waits), begins.clone());
            pool.run(pool.place().await, move || {
                begins.try_send(()).unwrap();
                let _gone = lock(&waits).recv();
            });
        }
        // A call is late by when its thread began it, which a busy machine puts off.
        for _ in 0..2 {
            begun.recv().await.unwrap();
        }
        // Another call finds a place, and the pool is whole again afterwards.
        let (done, ran) = tokio::sync::oneshot::channel();
        pool.run(pool.place().await, move || done.send(()).unwrap());
        ran.await.unwrap();
        assert_eq!(pool.late.load(Ordering::Relaxed), 2);
        drop(go);
        while pool.late.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        pool.quiesce().await;
        assert_eq!(pool.places.available_permits(), 2);
    }
}
