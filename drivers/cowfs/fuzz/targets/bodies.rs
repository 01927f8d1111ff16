//! What the targets do.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "the modules are written for the tests of the crate next door"
)]

use cowfs::{attr, layer, memory, service};

#[path = "../../tests/fuzz/arguments.rs"]
mod arguments;
#[path = "../../tests/fuzz/calls.rs"]
mod calls;
#[path = "../../tests/fuzz/index.rs"]
mod index;
#[path = "../../tests/fuzz/input.rs"]
mod input;
#[path = "../../tests/fuzz/log.rs"]
mod log;
#[path = "../../tests/fuzz/reply.rs"]
mod reply;
#[path = "../../tests/fuzz/support.rs"]
mod support;
#[path = "../../src/testing.rs"]
mod testing;
#[path = "../../tests/fuzz/wire.rs"]
mod wire;

/// Bytes written to a connection.
pub fn run_wire(data: &[u8]) {
    wire::run(data);
}

/// Well-formed calls.
pub fn run_calls(data: &[u8]) {
    calls::run(data);
}

/// A writable layer.
pub fn run_log(data: &[u8]) {
    log::run(data);
}

/// The index of a template.
pub fn run_index(data: &[u8]) {
    index::run(data);
}
