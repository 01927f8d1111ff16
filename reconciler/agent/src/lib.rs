//! The node's loop: git in, actions out.
//!
//! Deciding happens in `xeno-reconciler`, remembering in `xeno-state`; this crate observes, plans, carries out and
//! answers questions.

pub mod api;
pub mod api_client;
pub mod api_server;
pub mod handle;
pub mod source;
pub mod watch;
