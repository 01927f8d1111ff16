//! The node's loop: git in, actions out.
