//! One module for each command.

pub(crate) mod agent;
pub(crate) mod apply;
pub(crate) mod completion;
pub(crate) mod console;
pub(crate) mod cowfs;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod freeze;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod hook;
pub(crate) mod init;
pub(crate) mod man;
pub(crate) mod plan;
pub(crate) mod reconcile;
pub(crate) mod status;
pub(crate) mod suspend;
pub(crate) mod template;
pub(crate) mod tree;
pub(crate) mod undelete;
pub(crate) mod validate;
pub(crate) mod version;
pub(crate) mod why;
