//! The hypervisor port on unprivileged QEMU: domains as ordinary processes of an ordinary user.
//!
//! # What it is for
//! [`QemuDriver`] implements [`xeno_reconciler::ports::Hypervisor`]. Each domain has one private *run directory*
//! ([`run_dir`]) with its record, its sockets and its logs, and one QEMU process in a session of its own, which
//! outlives the agent that started it. Whoever comes later finds it again by looking: the process table says what
//! runs, the record says what it was started as, QMP says how it is.
//!
//! # What it never does
//! It never runs a shell, never trusts a process id alone, never signals a process it has not just identified, and
//! never touches a QEMU that does not live in its own state directory. It never takes "could not look" for "is not
//! there".
//!
//! # Where to start reading
//! [`spec`] (what QEMU is told), then [`driver`] (boot, observe, shut down), then [`process`] (who is who).

pub mod accel;
pub mod config;
pub mod driver;
pub mod facts;
pub mod forward;
pub mod process;
pub mod qmp;
pub mod record;
pub mod run_dir;
pub mod spec;

mod cgroup;
mod domain;
mod images;
mod inventory;
mod migration;
mod moves;
mod probe_init;
mod resume;
mod spawn;
mod start;
mod suspend;
mod tuning;

pub use accel::{Accel, AccelChoice, Verdict};
pub use config::{ConfigError, QemuConfig};
pub use driver::QemuDriver;
pub use facts::{Fact, FactStatus};

pub(crate) use xeno_kept::{blocking, chain, changing};
