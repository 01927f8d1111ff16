//! xl's own handshake, spoken by whoever sends a domain away.
//!
//! `xl migrate` sends a domain through a transport of ours, and waits for words of a receiver at the other end. There is none:
//! the words are said here. xl resumes the domain by itself whenever its transport ends before it has heard that the copy is whole,
//! and never after it has given the domain away. (What xl 4.17 does at each of these points was measured on a real Xen:
//! `decisions/0001-gate.md`.)
//!
//! ```text
//!   xl migrate ── stdin, stdout ── transport ══ agent ═══ to the other node
//!                                  (pipe)      (stream, words)
//! ```
//!
//! The process that xl starts as its transport ([`pipe::hand_over`]) only hands its two descriptors to the agent, so its
//! death means no more than an end of file.

pub(crate) mod fd;
pub mod pipe;
pub(crate) mod stream;
pub(crate) mod words;
