//! The program as people and git run it.

mod daemon;
mod diff;
mod hook;
mod intent;
mod offline;
mod plan;
mod words;
mod world;
