//! What went wrong, for a person: the chain of causes on one line, and a way on where one is known.

use std::error::Error;
use std::io;

use xeno_agent::api_client::ClientError;
use xeno_agent::source::SourceError;

/// Why a command failed. Printed once, by `main`.
#[derive(Debug)]
pub(crate) enum Failure {
    /// With words for a person.
    Said {
        /// The whole of it, one line.
        what: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// It has been printed already, as diagnostics or as a list.
    Shown,
    /// Whoever read our output has gone. Nobody is left to tell.
    Unread,
}

/// What a command gives back.
pub(crate) type Outcome<T = crate::exit::Exit> = Result<T, Failure>;

impl Failure {
    /// A sentence of our own.
    pub(crate) fn said(what: impl Into<String>) -> Self {
        Self::Said {
            what: what.into(),
            hint: None,
        }
    }

    /// An attempt that failed: `error` fits after "failed to".
    pub(crate) fn tried(error: &dyn Error) -> Self {
        Self::said(format!("failed to {}", chain(error)))
    }

    /// An attempt of ours that failed because of something that does not say what was attempted.
    pub(crate) fn doing(what: impl std::fmt::Display, error: &dyn Error) -> Self {
        Self::said(format!("failed to {what}: {}", chain(error)))
    }

    /// The same with a way on.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<Option<String>>) -> Self {
        match self {
            Self::Said { what, .. } => Self::Said {
                what,
                hint: hint.into(),
            },
            Self::Shown | Self::Unread => self,
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::tried(&error).hint(error.hint())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Refused { why, .. } => Self::said(why.clone()),
            ClientError::NoAgent { .. } | ClientError::Protocol { .. } | ClientError::TimedOut { .. } => {
                Self::tried(&error).hint(error.hint())
            }
        }
    }
}

/// What a file server, or the way to it, has to say.
impl From<cowfs::control::client::ClientError> for Failure {
    fn from(error: cowfs::control::client::ClientError) -> Self {
        use cowfs::control::client::ClientError;
        let failed = Self::doing("ask the file server", &error);
        match &error {
            ClientError::Refused { problem, .. } => Self::said(problem.error.clone()),
            ClientError::Unreachable { .. } => {
                failed.hint("name its control socket with --control".to_owned())
            }
            ClientError::Http(_) | ClientError::Answer(_) => failed,
        }
    }
}

/// Errors from writing our output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Unread;
        }
        Self::doing("write the output", &error)
    }
}

/// An error and its causes on one line. Libraries that repeat their cause in their own words say it once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text.trim_end().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("open the door: it is locked")]
        struct Locked(#[source] Key);
        #[derive(Debug, thiserror::Error)]
        #[error("it is locked")]
        struct Key(#[source] io::Error);
        let error = Locked(Key(io::Error::other("the key\nis lost")));
        assert_eq!(chain(&error), "open the door: it is locked: the key is lost");
    }
}
