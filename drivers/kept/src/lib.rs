//! What a hypervisor's driver keeps on disk for each sliver, whatever the hypervisor.
//!
//! # What it is for
//! Whoever dies when, and whatever the power does: a file is the old one or the new one ([`files`]), one change at a time
//! is made to a domain ([`lock`], [`underway`]), and there is never both a guest that may have run on and an image to resume it from
//! ([`images`]).
//!
//! # What it never does
//! It knows no hypervisor, and nothing here says whether a domain is there.

pub mod files;
pub mod images;
pub mod lock;
pub mod underway;

use lock::Lock;

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// Runs a change that may wait for a disk. The domain stays locked to its end, also where nobody waits for it any more.
pub async fn changing<T: Send + 'static>(lock: &Lock, work: impl FnOnce() -> T + Send + 'static) -> T {
    let lock = lock.clone();
    let locked = move || {
        let done = work();
        drop(lock);
        done
    };
    blocking(locked).await
}

/// Runs what may wait for a disk where waiting is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime goes down, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
