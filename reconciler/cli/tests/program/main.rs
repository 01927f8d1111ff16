//! The program as people and git run it.

mod hook;
mod offline;
mod world;
