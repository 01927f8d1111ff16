//! Bad input, through the real program: a clear error, and nothing lost.
//!
//! Each test brings one kind of it to a real push hook, agent, template store or file server, and asserts what a person
//! is told, the exit code, and that what was good before still is. No guest is booted: the only sliver is stopped.

mod daemons;
mod disks;
mod nfs;
mod pushes;
mod world;
