//! The evaluation behind `make eval-xen`: what deploying a sliver costs on real Xen, operation by operation and byte by byte,
//! beside the same done by hand with `xl` and the kernel's NFS server.
//!
//! [`measure`] does it in the laboratory and leaves [`report::Report`], a file; [`document`] and [`picture`] make of that what
//! people read. Times are those of an emulated CPU: the parts of a whole mean something, seconds do not.

pub mod by_hand;
pub mod deploy;
pub mod document;
pub mod measure;
pub mod picture;
pub mod report;
pub mod sizes;
pub mod timeline;
pub mod wire;
