//! The hypervisor port on Xen: domains through `xl`, what is known of them in xenstore.
//!
//! # What it is for
//! [`XenDriver`] implements [`xeno_reconciler::ports::Hypervisor`] on a dom0. The hypervisor says which domains there are;
//! a record in xenstore beside each of ours says what it was started as. Whoever comes later finds them again by looking.
//!
//! # What it never does
//! It never runs a shell, never cuts off an `xl` that changes something, never takes "could not look" for "is not there",
//! and never touches a domain that is not ours by name, UUID and record.
//!
//! # Where to start reading
//! [`spec`] (what xl is told), then [`driver`] (boot, observe, shut down), then [`list`] (what xl says).

pub mod config;
pub mod driver;
pub mod gate;
pub mod kernel;
pub mod link;
pub mod list;
pub mod publish;
pub mod record;
pub mod spec;
pub mod store;
pub mod xl;

mod domain;
mod facts;
mod files;
mod hints;
mod images;
mod inventory;
mod resume;
mod run_dir;
mod suspend;
mod tuning;
mod wire;
mod work;

pub use config::{ConfigError, GuestKind, XenConfig};
pub use driver::XenDriver;

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
pub(crate) async fn changing<T: Send + 'static>(
    lock: &run_dir::RunDirLock,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let lock = lock.clone();
    let locked = move || {
        let done = work();
        drop(lock);
        done
    };
    blocking(locked).await
}

/// Runs what may wait for a disk where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime goes down, and this with it.
            Err(_) => std::future::pending().await,
        },
    }
}
