//! NFS version 3 and its mount protocol on the wire: from bytes to questions for a [`FileService`] and back.
//!
//! [`xdr`] reads and writes primitive values, [`rpc`] frames and heads calls and replies, [`mount`] and [`ops`] are
//! the two programs, [`replay`] keeps calls from running twice, [`pages`] what was listed for the next who asks. Nothing here opens a socket (that is
//! [`server`](crate::server)) and nothing here decides who may do what (that is the service, and
//! [`export`](crate::export) for whole trees).
//!
//! [`FileService`]: crate::service::FileService

pub mod client;
pub mod mount;
pub mod ops;
pub mod pages;
pub mod replay;
pub mod rpc;
pub mod xdr;
