//! The whole agent over a node in memory: its real loop, runs, journal and settlement on a real `state.db`, commits
//! from real manifests, and a clock that only moves when everybody waits. What the node below it does wrong, and when,
//! is the test's to say.

mod approvals;
mod checkpoints;
mod crash;
mod deletion;
mod evacuation;
mod failover;
mod fleet;
mod load;
mod moves;
mod repository;
mod rollouts;
mod runtime;
mod walk;
mod world;
