//! The gate in a live migration: between "your copy is whole" and "you may run it", somebody must be able to say no.
//!
//! `xl migrate -s` runs a transport of ours at each end, and xl's own handshake goes through it. The gate understands that
//! handshake and can hold two of its words: READY, which tells xl at the source that the copy is whole, and GO, which
//! tells the receiver that it may run it. While READY is held the source can still resume as if nothing had happened;
//! once its xl has said GO it never resumes by itself, which makes this the one moment at which the right to run can
//! move. (What xl 4.17 does at each of these points was measured on a real Xen; [`source`] and [`target`] say so where
//! they rely on it.)
//!
//! ```text
//!   node A                                                             node B
//!   xl migrate ── stdin, stdout ── pipe ══ agent ═══ wire ═══ agent ══ stdin, stdout ── xl migrate-receive
//!                                          source             target
//! ```
//!
//! What is decided is decided by two pure automata, [`source::Source`] and [`target::Target`]: words, frames and orders
//! in, words, frames and news out. [`carry`] moves the bytes. The process that xl starts as its transport
//! ([`pipe::hand_over`]) only hands its two descriptors to the agent, so its death means no more than an end of file.
//!
//! Who asks for a move, and who moves the holder record between [`source::News::Go`] and
//! [`source::Order::PassGo`], is the agent's business, not the gate's.

pub mod carry;
pub mod fd;
pub mod pipe;
pub mod source;
pub mod target;
pub mod wire;
pub mod words;

#[cfg(test)]
mod model;
