//! The node's loop: git in, actions out.
//!
//! Deciding happens in `xeno-reconciler`, remembering in `xeno-state`; this crate observes, plans, carries out and
//! answers questions.

pub mod api;
pub mod handle;
pub mod source;
