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

mod console;
mod domain;
mod facts;
mod hints;
mod images;
mod inventory;
mod moves;
mod resume;
mod run_dir;
mod suspend;
mod tuning;
mod wire;
mod work;

pub use config::{ConfigError, GuestKind, XenConfig};
pub use driver::XenDriver;

pub(crate) use xeno_kept::{blocking, chain, changing};
