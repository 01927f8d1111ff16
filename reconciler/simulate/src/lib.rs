//! A fleet in memory: what a push does to thousands of nodes, and what goes wrong meanwhile, from one seed.
//!
//! The planner, its judge, the run of a plan, the rollout and the rules for the right to run are the real ones, and the paces of
//! the board too; nodes, clocks, networks, the repository and all faults are simulated. Everything happens in one thread, event
//! after event: equal seeds give equal bytes.
//!
//! Start reading at [`Story`].

mod actions;
mod agent;
mod approving;
mod board;
mod draw;
mod fault;
mod fleet;
mod members;
mod moves;
mod node;
mod outcome;
pub mod picture;
mod queue;
mod reach;
pub mod report;
mod rights;
mod rollouts;
mod safety;
mod settled;
mod story;
mod trace;
mod trouble;
mod watchful;
mod witnesses;
mod world;

pub use draw::Draw;
pub use fault::{Fault, Trouble, drawn};
pub use fleet::{Commit, Push, fleet, pushed, revision};
pub use outcome::{Milestone, Outcome, Pushed, SliceEnd};
pub use reach::Reach;
pub use safety::Broken;
pub use story::Story;
pub use trace::{Shade, Step, Trace};
pub use world::BEGIN_MS;
