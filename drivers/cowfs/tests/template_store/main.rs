//! Templates through the front door: import, open, read, verify.

mod import;
mod index;
mod kept;
mod support;
