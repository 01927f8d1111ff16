//! One module for each command.

pub(crate) mod completion;
pub(crate) mod hook;
pub(crate) mod init;
pub(crate) mod plan;
pub(crate) mod template;
pub(crate) mod validate;
pub(crate) mod version;
