//! What a node must not forget, and what a fleet must agree on.
//!
//! [`board`] is the second, for all agents together. The rest is the first: one directory per agent holds `state.db` (WAL, full sync), a second copy of the little that could not be found out
//! again if it were lost, and a lock file that keeps a second agent out. All of that
//! blocks: callers on an async runtime go through one thread. Nothing here decides; it remembers.
//!
//! Start with [`node::NodeState`]: reads are its methods, writes go through [`node::NodeState::write`], one transaction
//! for all that must be remembered together. [`record`] says what stored things look like, [`upgrade`] how the tables
//! came to be as they are.

pub mod abandoned;
pub mod approvals;
pub mod board;
pub mod error;
pub mod fences;
pub mod holders;
mod keep;
mod lock;
pub mod node;
pub mod presence;
pub mod record;
pub mod rollouts;
pub mod summaries;
pub mod time;
pub mod upgrade;

pub use error::StateError;
