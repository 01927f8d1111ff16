//! What to do about the difference between desired and observed: pure planning.
//!
//! [`change`] says what differs and why, [`action`] what can be done, [`plan`] what will be done and in which order;
//! a run carries a plan out, through the traits in [`ports`]. Nothing here touches a clock, a file or a thread: the
//! same code makes the dry run, the answer to a push and the real thing.

pub mod action;
pub mod assume;
mod capacity;
pub mod change;
pub mod check;
pub mod diff;
pub mod exec;
pub mod plan;
pub mod ports;
pub mod record;
pub mod render;
pub mod report;
pub mod scripted;
mod situation;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
