//! The ports of the reconciler over what really runs on a node.

pub(crate) mod remotes;
pub(crate) mod storage;
