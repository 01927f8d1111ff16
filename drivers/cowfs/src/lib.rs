//! A stacking copy-on-write NFSv3 file server.
//!
//! cowfs serves a *stack* (ordered immutable layers under at most one writable layer) as one tree, over NFSv3 and
//! MOUNT on one port or unix socket. It stands alone: it knows layers, stacks, exports and NFS, and has never heard
//! of a slice, a node or a git repository.
//!
//! Start reading at [`service`], the border between the protocol and the file system: everything above it is wire
//! format and sockets, everything below it is layers.

pub mod assembly;
pub mod attr;
pub mod config;
pub mod confine;
pub mod control;
mod copy_up;
pub mod directory;
pub mod export;
pub mod fsck;
pub mod guest;
pub mod handle;
pub mod import;
pub mod inspect;
pub mod layer;
pub mod lease;
pub mod lend;
pub mod link;
pub mod memory;
pub mod metrics;
pub mod nfs;
pub mod opener;
pub mod openmetrics;
pub mod quota;
pub mod server;
pub mod service;
pub mod stack;
mod stopping;
pub mod template;
#[cfg(test)]
pub(crate) mod testing;
pub mod whiteout;
pub mod writable;
