//! The hypervisor port on Xen: domains through `xl`, facts through xenstore.
//!
//! # What it never does
//! It never runs a shell, never takes "could not look" for "is not there", and never touches a domain that is not ours
//! by name, UUID and mark.

pub mod gate;
pub mod link;
pub mod publish;
