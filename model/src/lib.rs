//! What is wanted, as text and as types: manifests, diagnostics, the desired and the observed model.
//!
//! Everything here is pure: no file, clock, random number or environment is touched, so equal inputs give equal
//! bytes on every node. Start with [`manifest`] and [`resolve`] for the way from text to a
//! [`desired::DesiredFleet`], and with [`observed`] for what a node sees of itself.

pub mod desired;
pub mod diagnostic;
pub mod id;
pub mod init;
pub mod manifest;
pub mod normal;
pub mod observed;
pub mod placement;
pub mod repository;
pub mod resolve;
pub mod time;
pub mod units;
