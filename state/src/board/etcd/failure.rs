//! What an error of etcd, or of the way to it, says about what was done.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use super::super::BoardError;

/// What a call leaves behind if it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing, or nothing that lasts.
    None,
    /// Something.
    Lasting,
}

/// A call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It never left: another member may be asked at once.
    NotSent(String),
    /// This member could not; nothing was done.
    Member(String),
    /// All members would say the same now, and may say otherwise later.
    Later(String),
    /// All members would say the same until somebody changes something.
    Never(String),
    /// There is no such lease.
    NoLease,
    /// It may have been done.
    Unknown(String),
}

impl Failure {
    /// Judges an error. Where in doubt, what could have been done may have been done.
    pub(super) fn of(error: &Error, effect: Effect) -> Self {
        match error {
            Error::GRpcStatus(status) => Self::of_status(status, effect),
            Error::InvalidArgs(_)
            | Error::InvalidUri(_)
            | Error::InvalidMetadataValue(_)
            // Of endpoints and certificates, when a connection is set up and before it is made.
            | Error::TransportError(_) => Self::Never(chain(error)),
            // How the client says that a renewed lease has no time left.
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Self::NoLease,
            _ => Self::lost(effect, chain(error)),
        }
    }

    fn of_status(status: &Status, effect: Effect) -> Self {
        let message = status.message();
        let said = || message.trim_start_matches("etcdserver: ").to_owned();
        // etcd's own words: what the transport makes up has other ones.
        let by_etcd = message.starts_with("etcdserver: ") || message.starts_with("auth: ");
        if is_connect(status) {
            let why = causes(status);
            return if is_tls(&why) {
                Self::Never(why)
            } else {
                Self::NotSent(why)
            };
        }
        match status.code() {
            // A token that has run out, or is of an older state of the users (rpctypes/error.go): the next connection gets a
            // new one.
            _ if by_etcd
                && ["store is old", "header is old", "invalid auth token"]
                    .iter()
                    .any(|words| message.contains(words)) =>
            {
                Self::Member(said())
            }
            Code::NotFound if message.contains("requested lease not found") => Self::NoLease,
            Code::Unauthenticated | Code::PermissionDenied if by_etcd => Self::Never(said()),
            Code::InvalidArgument | Code::FailedPrecondition if by_etcd => Self::Never(said()),
            // Full, or too busy to take it.
            Code::ResourceExhausted if by_etcd => Self::Later(said()),
            // A listing whose revision was compacted between two pages.
            Code::OutOfRange if by_etcd => Self::Later(said()),
            // Refused before anything was proposed to the others.
            Code::Unavailable if message == "etcdserver: no leader" => Self::Member(said()),
            _ => {
                let why = causes(status);
                // A server that does not take our certificate says so when the connection is already used.
                match is_tls(&why) {
                    true => Self::Never(why),
                    false => Self::lost(effect, why),
                }
            }
        }
    }

    /// No answer in time.
    pub(super) fn timeout(effect: Effect, after: Duration) -> Self {
        Self::lost(effect, format!("no answer within {} ms", after.as_millis()))
    }

    fn lost(effect: Effect, why: String) -> Self {
        match effect {
            Effect::None => Self::Member(why),
            Effect::Lasting => Self::Unknown(why),
        }
    }

    /// Adds what it may come from.
    pub(super) fn hint(self, hint: &str) -> Self {
        let with = |why: String| format!("{why} ({hint})");
        match self {
            Self::NotSent(_) | Self::Later(_) | Self::Never(_) | Self::NoLease => self,
            Self::Member(why) => Self::Member(with(why)),
            Self::Unknown(why) => Self::Unknown(with(why)),
        }
    }

    /// Whether another member may know better next time.
    pub(super) fn changes_member(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Member(_) | Self::Unknown(_) => true,
            Self::Later(_) | Self::Never(_) | Self::NoLease => false,
        }
    }

    /// Whether another member may be asked within the same call.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Member(_))
    }

    /// In words of the board. [`Failure::NoLease`] is the caller's to name.
    pub(super) fn report(self, attempt: &'static str) -> BoardError {
        match self {
            Self::NotSent(why) | Self::Member(why) | Self::Later(why) => {
                BoardError::unavailable(attempt, why)
            }
            Self::Never(why) => BoardError::never(attempt, why),
            Self::NoLease => BoardError::never(attempt, NO_LEASE),
            Self::Unknown(why) => BoardError::unknown(attempt, why),
        }
    }
}

/// Stands for [`BoardError::LeaseGone`] until the call, which knows the lease, sees it.
pub(super) const NO_LEASE: &str = "requested lease not found";

/// Whether no connection came about: then nothing was sent.
fn is_connect(status: &Status) -> bool {
    sources(status).any(|source| source.is::<ConnectError>())
}

/// Whether one side does not take the other's certificate, as rustls puts it.
fn is_tls(why: &str) -> bool {
    ["invalid peer certificate", "fatal alert", "no server certificate"]
        .iter()
        .any(|words| why.contains(words))
}

fn sources<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'e (dyn StdError + 'static) = *error;
        // What an I/O error holds is not its source, but the source of that is.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
}

/// The status and its causes in one line, each once.
fn causes(status: &Status) -> String {
    let mut texts = vec![status.message().to_owned()];
    for source in sources(status).skip(1) {
        let text = source.to_string();
        if !text.is_empty() && !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// The status that a canceled watch tells in words: `rpc error: code = PermissionDenied desc = etcdserver: …`.
pub(super) fn of_reason(reason: &str) -> Error {
    let told = reason
        .strip_prefix("rpc error: code = ")
        .and_then(|told| told.split_once(" desc = "));
    let (code, message) = told.unwrap_or(("", reason));
    let code = match code {
        "InvalidArgument" => Code::InvalidArgument,
        "PermissionDenied" => Code::PermissionDenied,
        "Unauthenticated" => Code::Unauthenticated,
        "FailedPrecondition" => Code::FailedPrecondition,
        "Unavailable" => Code::Unavailable,
        _ => Code::Unknown,
    };
    Error::GRpcStatus(Status::new(code, message))
}

fn chain(error: &Error) -> String {
    crate::error::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a commit and of a reading after etcd's answers, by its own code and words.
    #[test]
    fn only_what_is_certain_is_said() {
        let check = |code: Code, message: &str, commit: &str, read: &str| {
            let kind = |effect| {
                let failure = Failure::of(&Error::GRpcStatus(Status::new(code, message)), effect);
                match failure.report("try") {
                    BoardError::Unavailable { .. } => "unavailable",
                    BoardError::Unknown { .. } => "unknown",
                    BoardError::Never { .. } => "never",
                    BoardError::LeaseGone(_) => "lease",
                }
            };
            assert_eq!(
                (kind(Effect::Lasting), kind(Effect::None)),
                (commit, read),
                "{message}"
            );
        };
        let timed_out = "etcdserver: request timed out";
        check(Code::Unavailable, timed_out, "unknown", "unavailable");
        let failing = "etcdserver: request timed out, possibly due to previous leader failure";
        check(Code::Unavailable, failing, "unknown", "unavailable");
        check(
            Code::Unavailable,
            "etcdserver: leader changed",
            "unknown",
            "unavailable",
        );
        check(
            Code::Unavailable,
            "etcdserver: server stopped",
            "unknown",
            "unavailable",
        );
        check(
            Code::Unavailable,
            "etcdserver: no leader",
            "unavailable",
            "unavailable",
        );
        check(
            Code::ResourceExhausted,
            "etcdserver: too many requests",
            "unavailable",
            "unavailable",
        );
        let full = "etcdserver: mvcc: database space exceeded";
        check(Code::ResourceExhausted, full, "unavailable", "unavailable");
        // Not a word of etcd's: it may have come after the work.
        check(
            Code::ResourceExhausted,
            "message too large",
            "unknown",
            "unavailable",
        );
        check(Code::Unavailable, "connection reset", "unknown", "unavailable");
        check(
            Code::PermissionDenied,
            "etcdserver: permission denied",
            "never",
            "never",
        );
        let password = "etcdserver: authentication failed, invalid user ID or password";
        check(Code::InvalidArgument, password, "never", "never");
        check(
            Code::InvalidArgument,
            "etcdserver: user name is empty",
            "never",
            "never",
        );
        let old = "etcdserver: revision of auth store is old";
        check(Code::InvalidArgument, old, "unavailable", "unavailable");
        check(
            Code::Unknown,
            "auth: revision in header is old",
            "unavailable",
            "unavailable",
        );
        check(Code::PermissionDenied, "proxy says no", "unknown", "unavailable");
        let token = "etcdserver: invalid auth token";
        check(Code::Unauthenticated, token, "unavailable", "unavailable");
    }

    #[test]
    fn what_a_canceled_watch_says_is_understood() {
        let kind = |reason: &str| Failure::of(&of_reason(reason), Effect::None);
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(kind(denied), Failure::Never("permission denied".to_owned()));
        assert_eq!(kind("anything"), Failure::Member("anything".to_owned()));
    }
}
