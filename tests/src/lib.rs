//! Whole-system tests, and the demonstration, over one *laboratory*: real nodes (an agent and a file server each), a
//! real bare repository with the push hook, real guests, all on this machine and on loopback.

pub mod demo;
pub mod evaluation;
pub mod lab;
pub mod xen_lab;
