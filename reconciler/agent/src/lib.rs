//! The node's loop: git in, actions out.
//!
//! Deciding happens in `xeno-reconciler`, remembering in `xeno-state`; this crate observes, plans, carries out and
//! answers questions.

mod adapters;
pub mod api;
pub mod api_client;
pub mod api_server;
mod clock;
pub mod config;
mod crash;
mod dispatch;
mod event_loop;
pub mod figures;
mod fleet;
mod follow;
pub mod handle;
mod health;
#[cfg(feature = "lab")]
pub mod lab;
mod observe;
pub mod snapshot;
pub mod source;
mod start;
mod store;
pub mod watch;

pub use config::{AgentConfig, ConfigError};
pub use start::{AgentError, run};
