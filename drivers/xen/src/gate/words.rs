//! What xl says to itself across a migration (`tools/xl/xl_migrate.c`, the same from Xen 4.2 to 4.20).
//!
//! The way back holds nothing but these words, in this order. What differs by a byte is not understood.

/// The receiver is there. No NUL follows.
pub(crate) const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";

/// The receiver has a whole copy, paused.
pub(crate) const READY: &[u8] = b"domain received, ready to unpause\0";

/// The source gives the domain away.
pub(crate) const GO: &[u8] = b"domain is yours, you are cleared to unpause\0";
