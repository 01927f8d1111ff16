//! Manifests from their text to the desired fleet, or to what is wrong with them.
#![expect(
    clippy::disallowed_methods,
    reason = "the model does no I/O; its tests read their cases"
)]

mod bad;
mod examples;
mod init;
mod properties;
mod reference;
mod schema;
mod successive;
mod support;
