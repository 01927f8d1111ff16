//! Exit codes: what scripts may lean on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked: 0. For `plan --detailed-exitcode`: there is nothing to do.
    Done,
    /// It failed, or found something wrong (`validate`, `doctor`, `template verify`), or `diff` found a difference: 1.
    Failed,
    /// `plan --detailed-exitcode`: there is something to do; `diff` failed: 2. Also what a command line that does not
    /// read gives.
    Changes,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::FAILURE,
            Exit::Changes => Self::from(2),
        }
    }
}
