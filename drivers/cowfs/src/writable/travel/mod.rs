//! A writable layer goes to another machine: what its directory holds, over a two-way stream of bytes.
//!
//! It goes in rounds, and each sends only what the other end lacks. *Ahead*, while the layer is served: first it is sealed as
//! for a checkpoint, so that content files that are there are not written in place any more (the next write to each file
//! makes a new one, as it does after a change of epoch), and the log only grows. *Last*, while its exports are parked or it
//! is closed: then both ends hold the same, byte for byte, which a digest over all of it proves.
//!
//! The receiver keeps what comes in a directory aside, and whoever asked it to puts that in the layer's place, by one
//! rename, once a last round has been said to be whole and durable. Until then nothing of what was there is touched; and a
//! round that breaks off loses nothing, since the next begins with what has arrived.
//!
//! ```text
//! sender    HELLO layers last
//! sender    LAYER id epoch         receiver  HERE token of the last whole round, or none
//! sender    KNOWN, or UNKNOWN and  receiver  HAVE name length blocks, HASHES …, HAVE ALL
//! sender    COMING bytes, DROP name, FILE name length, BLOCK index bytes …, ZERO index …, FILE END digest, …
//! sender    COMMIT files digest    receiver  DONE token
//!                                  receiver  IN PLACE, said by who has renamed it
//! ```
//! Instead of anything, either end says REFUSED and why, and is heard no more.
//!
//! Files are compared by blocks of 1 MiB and their BLAKE3, so a file that has grown, a part of one, and an old copy of the
//! layer from before it went away all save their bytes. Zeros are holes and are not sent. Both ends remember the last whole
//! round: then neither reads again what cannot have changed, and the last round costs what has changed since. On the wire
//! files have kinds and numbers, never paths, and all that is read is bounded before it is believed.

use std::io;
use std::path::PathBuf;

mod described;
mod ground;
mod ledger;
mod name;
mod receive;
mod send;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub use ledger::Ledgers;
pub use receive::{Arrival, Arrived, receive};
pub use send::{Ashore, Sending};
pub(crate) use send::{Open, Sent, Source};

use super::WritableError;
use super::disk::is_full;

/// Why a round broke off.
#[derive(Debug, thiserror::Error)]
pub enum TravelError {
    /// The stream ended or failed.
    #[error("talking to the other end")]
    Stream(#[source] io::Error),
    /// The other end sent something that it may not send.
    #[error("the other end does not keep to the protocol: {0}")]
    Malformed(String),
    /// The other end will not have it, or cannot give it.
    #[error("the other end refuses it: {text}")]
    Refused {
        /// Why, for programs.
        why: Refusal,
        /// Why, in words.
        text: String,
    },
    /// This end will not have what was sent.
    #[error("refused: {text}")]
    Refuses {
        /// Why, for programs.
        why: Refusal,
        /// Why, in words.
        text: String,
    },
    /// A file could not be read or written.
    #[error("`{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The layer could not be opened or sealed.
    #[error(transparent)]
    Layer(#[from] WritableError),
    /// What is unsynced could not be made durable first.
    #[error("making everything durable first")]
    Flush(#[source] crate::service::Status),
    /// There is nothing that could travel.
    #[error("there is no writable layer")]
    NoLayer,
}

impl TravelError {
    /// Whether another attempt can succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Stream(_) | Self::Flush(_) | Self::File { .. } => true,
            Self::Refused { why, .. } | Self::Refuses { why, .. } => why.can_pass(),
            Self::Layer(error) => matches!(error, WritableError::Busy { .. } | WritableError::Io { .. }),
            Self::Malformed(_) | Self::NoLayer => false,
        }
    }

    /// What the other end is told of it, where it does not know better.
    fn told(&self) -> Option<(Refusal, String)> {
        match self {
            Self::Stream(_) | Self::Refused { .. } => None,
            Self::Refuses { why, text } => Some((*why, text.clone())),
            Self::File { source, .. } if is_full(source) => {
                Some((Refusal::NoRoom, "there is no room".to_owned()))
            }
            Self::Malformed(what) => Some((Refusal::Malformed, what.clone())),
            // Paths and causes are its own business.
            Self::File { .. } | Self::Layer(_) | Self::Flush(_) | Self::NoLayer => {
                Some((Refusal::Disk, "its disk fails; its own log says more".to_owned()))
            }
        }
    }
}

/// Why an end will not go on with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has the same layer of a later epoch.
    Newer,
    /// The sender has other layers than are expected.
    Layers,
    /// There is no room.
    NoRoom,
    /// The layer is open there.
    Open,
    /// What was sent is not what it was said to be, or not what may be sent.
    Malformed,
    /// Its disk failed.
    Disk,
}

impl Refusal {
    fn number(self) -> u8 {
        match self {
            Self::Newer => 1,
            Self::Layers => 2,
            Self::NoRoom => 3,
            Self::Open => 4,
            Self::Malformed => 5,
            Self::Disk => 6,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        let all = [
            Self::Newer,
            Self::Layers,
            Self::NoRoom,
            Self::Open,
            Self::Malformed,
            Self::Disk,
        ];
        all.into_iter().find(|why| why.number() == number)
    }

    fn can_pass(self) -> bool {
        match self {
            Self::NoRoom | Self::Open | Self::Disk => true,
            Self::Newer | Self::Layers | Self::Malformed => false,
        }
    }
}

/// What whoever puts arrived layers in their place says to the sender afterwards, on the same stream: the last message of
/// every round.
#[must_use]
pub fn in_place() -> Vec<u8> {
    wire::framed(&wire::Message::InPlace)
}

/// What they say instead where it cannot be done, or not even begun.
#[must_use]
pub fn refused(why: Refusal, text: &str) -> Vec<u8> {
    wire::framed(&wire::Message::Refused(why, text.to_owned()))
}
