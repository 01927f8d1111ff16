//! Whole calls over real sockets, against a tree in memory.

mod hostile;
mod procedures;
mod support;
mod tenancy;
