//! The demonstration: a git push becomes a running service, and stays one whatever is killed.

pub mod manifests;
pub mod report;
mod rollouts;
pub mod run;
pub mod stop;
mod transitions;
