//! Somebody who wants to see a page all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::http;

/// Fetches the page over and over, and remembers the longest time without one.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    thread: std::thread::JoinHandle<()>,
}

impl Watcher {
    /// Watches the page at this port of this machine from now on.
    #[must_use]
    pub fn of(port: u16) -> Self {
        let (stop, longest) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Duration::ZERO)),
        );
        let (until, gap) = (Arc::clone(&stop), Arc::clone(&longest));
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::SeqCst) {
                if http::get(port, "/", Duration::from_millis(500)).is_ok_and(|page| page.status == 200) {
                    let now = Instant::now();
                    let mut longest = gap.lock().expect("nobody panics with it");
                    *longest = (*longest).max(now - last);
                    last = now;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut longest = gap.lock().expect("nobody panics with it");
            *longest = (*longest).max(last.elapsed());
        });
        Self {
            stop,
            longest,
            thread,
        }
    }

    /// The longest time without a page until now.
    ///
    /// # Panics
    /// Never: nobody panics with what it remembers.
    #[must_use]
    pub fn end(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("it only fetches pages");
        *self.longest.lock().expect("nobody panics with it")
    }
}
