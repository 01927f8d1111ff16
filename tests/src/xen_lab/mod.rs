//! The Xen laboratory (`tests/xen-lab`) as tests use it: machines with real Xen, and a node in the dom0 of one.
//!
//! Whatever comes of a test, its machines are ended with it: each [`machine::Machine`] is, when it goes. What a test that was
//! killed left behind is ended by the next that wants the same machine.

pub mod by_hand;
pub mod machine;
pub mod node;
pub mod small_template;
