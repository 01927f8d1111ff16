//! The `xeno` program.

fn main() {}
