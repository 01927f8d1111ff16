//! What is known when a call on the board did not succeed.

use super::LeaseId;

/// Why a call on the board did not succeed, and what that says about the board.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// Nothing was done, and the same may succeed later.
    #[error("{attempt}: the board is unavailable: {why}")]
    Unavailable {
        /// What was being done.
        attempt: &'static str,
        /// What happened, in one line.
        why: String,
    },
    /// Whether it was done, or will still be done, is not known. See [`Txn::was_done_before`](super::Txn::was_done_before)
    /// for how to find out.
    #[error("{attempt}: the board did not answer, and it is not known whether this was done: {why}")]
    Unknown {
        /// What was being done.
        attempt: &'static str,
        /// What happened, in one line.
        why: String,
    },
    /// There is no such lease (any more); nothing was done. Grant another.
    #[error("lease {} has run out or was revoked", .0.0)]
    LeaseGone(LeaseId),
    /// Nothing was done, and the same fails until somebody changes something: configuration, rights, a damaged file.
    #[error("{attempt}: {why}")]
    Never {
        /// What was being done.
        attempt: &'static str,
        /// What is wrong, in one line.
        why: String,
    },
}

/// Result of a call on the board.
pub type BoardResult<T> = Result<T, BoardError>;

impl BoardError {
    /// Nothing was done; it may pass.
    pub fn unavailable(attempt: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Unavailable { attempt, why }
    }

    /// The outcome is not known.
    pub fn unknown(attempt: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Unknown { attempt, why }
    }

    /// Nothing was done; it does not pass by itself.
    pub fn never(attempt: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Never { attempt, why }
    }

    /// Whether doing the same again can help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Unknown { .. } => true,
            Self::LeaseGone(_) | Self::Never { .. } => false,
        }
    }
}
