//! Whole calls over real sockets, against a tree in memory.

mod control;
mod disk;
mod flood;
mod hostile;
mod lease;
mod lent;
mod procedures;
mod support;
mod tenancy;
