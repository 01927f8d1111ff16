//! The program as people and git run it.

mod asking;
mod board;
mod daemon;
mod damaged;
mod diff;
mod hook;
mod intent;
mod moves;
mod offline;
mod overlay;
mod place;
mod plan;
mod privilege;
mod scripted;
mod served;
mod simulate;
mod words;
mod world;
