//! Somebody who wants to see a page all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http;

/// Fetches a page over and over, and remembers the longest time without one.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Seen {
    last: Instant,
    longest: Duration,
}

impl Watcher {
    /// Watches the page at this port of this machine from now on.
    #[must_use]
    pub fn of(port: u16) -> Self {
        Self::of_any(&[port], "")
    }

    /// Watches for a page with `word` in it, whichever of these ports serves it.
    #[must_use]
    pub fn of_any(ports: &[u16], word: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen {
            last: Instant::now(),
            longest: Duration::ZERO,
        }));
        let threads = ports.iter().map(|port| {
            let (port, word, until, seen) = (*port, word.to_owned(), Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !until.load(Ordering::SeqCst) {
                    let page = http::get(port, "/", Duration::from_millis(500));
                    if page.is_ok_and(|page| page.status == 200 && page.body.contains(&word)) {
                        let mut seen = lock(&seen);
                        seen.longest = seen.longest.max(seen.last.elapsed());
                        seen.last = Instant::now();
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        });
        let threads = threads.collect();
        Self { stop, seen, threads }
    }

    /// The longest time without a page until now.
    ///
    /// # Panics
    /// Never: whoever watches only fetches pages.
    #[must_use]
    pub fn end(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("it only fetches pages");
        }
        let seen = lock(&self.seen);
        seen.longest.max(seen.last.elapsed())
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
