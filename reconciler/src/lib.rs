//! What to do about the difference between desired and observed: pure planning.
//!
//! The way: [`diff`] compares desired, applied and observed into changes ([`change`]); [`plan`] orders the actions
//! ([`action`]) that make them, from what each needs, provides and revokes; [`check`] judges the finished plan without
//! trusting the planner; [`enforce`] knows which limits are kept, [`checkpoint`] what is kept of what a sliver wrote; [`exec`] carries it out as a state machine, whose driver calls the [`ports`]; [`record`] says
//! what is applied afterwards. [`report`] and [`render`] explain all of it, [`fleet_plan`] for all nodes at once. [`assume`] stands in for an observation
//! where nobody looked, [`scripted`] for a node in tests. [`tenure`] decides who may run a sliver that moves between nodes, [`rollout`] when a new
//! revision comes to it.
//!
//! Nothing here touches a clock, a file or a thread: the same code makes the dry run, the answer to a push and the real
//! thing. Start reading at [`diff`].

pub mod action;
pub mod approval;
pub mod assume;
mod beside;
mod capacity;
pub mod change;
pub mod check;
pub mod checkpoint;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod diff;
mod effective;
pub mod enforce;
pub mod exec;
pub mod fleet_plan;
pub mod freeze;
pub mod kernel_line;
pub mod moving;
pub mod plan;
pub mod ports;
pub mod record;
pub mod render;
pub mod report;
pub mod rollout;
pub mod scripted;
mod situation;
pub mod tenure;

pub use beside::serving;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
