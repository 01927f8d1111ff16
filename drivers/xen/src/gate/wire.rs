//! Frames between the two ends of the gate: `kind 1 | length 4 | content`, numbers in network order.

use std::borrow::Cow;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
pub use xeno_reconciler::tenure::MigrationId;

/// The version of these frames, said in the first one.
pub const VERSION: u16 = 1;

/// Longest content taken. What is sent is shorter: one read from xl.
pub const CONTENT_MAX: usize = 1 << 20;

/// From the source to the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// First of all: which move this is.
    Hello(MigrationId),
    /// What xl sends: the domain's configuration and memory.
    Data(Vec<u8>),
    /// The copy may run.
    Go,
    /// The copy is to be destroyed, if it was not allowed to run before.
    Abort,
}

/// From the target to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backward {
    /// A receiver is there.
    Banner,
    /// It has a whole copy.
    Ready,
    /// How unpausing went; 0 for well.
    Report(u8),
    /// There is no copy, and there will be none: the receiver said so, or the node looked.
    Gone,
}

/// Why there are no more frames.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed, or ended within a frame.
    #[error("the connection between the two nodes")]
    Io(#[source] std::io::Error),
    /// The other end sent something else.
    #[error("the other node sent {0}")]
    Wrong(&'static str),
    /// It speaks another version.
    #[error("the other node speaks version {0} of the migration's frames, this one {VERSION}")]
    Version(u16),
}

const HELLO: u8 = 1;
const DATA: u8 = 2;
const GO: u8 = 3;
const ABORT: u8 = 4;
const BANNER: u8 = 17;
const READY: u8 = 18;
const REPORT: u8 = 19;
const GONE: u8 = 20;

/// What can be a frame.
pub trait Frame: Sized + Send + Sync + 'static {
    /// Its kind and content.
    fn encode(&self) -> (u8, Cow<'_, [u8]>);

    /// The frame with this kind and content.
    ///
    /// # Errors
    /// [`WireError::Wrong`], [`WireError::Version`].
    fn decode(kind: u8, content: Vec<u8>) -> Result<Self, WireError>;
}

impl Frame for Forward {
    fn encode(&self) -> (u8, Cow<'_, [u8]>) {
        match self {
            Self::Hello(MigrationId(id)) => (HELLO, [VERSION.to_be_bytes().as_slice(), id].concat().into()),
            Self::Data(bytes) => (DATA, bytes.into()),
            Self::Go => (GO, Cow::default()),
            Self::Abort => (ABORT, Cow::default()),
        }
    }

    fn decode(kind: u8, content: Vec<u8>) -> Result<Self, WireError> {
        match (kind, content.as_slice()) {
            (HELLO, [high, low, rest @ ..]) => match u16::from_be_bytes([*high, *low]) {
                VERSION => {
                    let id = rest
                        .try_into()
                        .map_err(|_| WireError::Wrong("a greeting of another length"))?;
                    Ok(Self::Hello(MigrationId(id)))
                }
                other => Err(WireError::Version(other)),
            },
            (DATA, _) => Ok(Self::Data(content)),
            (GO, []) => Ok(Self::Go),
            (ABORT, []) => Ok(Self::Abort),
            _ => Err(WireError::Wrong("a frame that a source does not send")),
        }
    }
}

impl Frame for Backward {
    fn encode(&self) -> (u8, Cow<'_, [u8]>) {
        match self {
            Self::Banner => (BANNER, Cow::default()),
            Self::Ready => (READY, Cow::default()),
            Self::Report(status) => (REPORT, vec![*status].into()),
            Self::Gone => (GONE, Cow::default()),
        }
    }

    fn decode(kind: u8, content: Vec<u8>) -> Result<Self, WireError> {
        match (kind, content.as_slice()) {
            (BANNER, []) => Ok(Self::Banner),
            (READY, []) => Ok(Self::Ready),
            (REPORT, [status]) => Ok(Self::Report(*status)),
            (GONE, []) => Ok(Self::Gone),
            _ => Err(WireError::Wrong("a frame that a target does not send")),
        }
    }
}

/// Writes one frame.
///
/// # Errors
/// [`WireError::Io`].
pub async fn send<F: Frame>(to: &mut (impl AsyncWrite + Unpin), frame: &F) -> Result<(), WireError> {
    let (kind, content) = frame.encode();
    let len =
        u32::try_from(content.len()).map_err(|_| WireError::Wrong("nothing: what xl wrote is too long"))?;
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&len.to_be_bytes());
    to.write_all(&head).await.map_err(WireError::Io)?;
    to.write_all(&content).await.map_err(WireError::Io)?;
    to.flush().await.map_err(WireError::Io)
}

/// Reads one frame; `None` at the end, between two frames.
///
/// # Errors
/// [`WireError`]; the connection is of no use then.
pub async fn receive<F: Frame>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<F>, WireError> {
    let mut head = [0; 5];
    match from.read_exact(&mut head[..1]).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read.map_err(WireError::Io)?,
    };
    from.read_exact(&mut head[1..]).await.map_err(WireError::Io)?;
    let [kind, len @ ..] = head;
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > CONTENT_MAX {
        return Err(WireError::Wrong("a frame of more than 1 MiB"));
    }
    let mut content = vec![0; len];
    from.read_exact(&mut content).await.map_err(WireError::Io)?;
    F::decode(kind, content).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent() {
        let frames = [
            Forward::Hello(MigrationId([7; 16])),
            Forward::Data(vec![]),
            Forward::Data(vec![1; 70_000]),
            Forward::Go,
            Forward::Abort,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            send(&mut bytes, frame).await.unwrap();
        }
        let mut rest = bytes.as_slice();
        for frame in frames {
            assert_eq!(receive::<Forward>(&mut rest).await.unwrap(), Some(frame));
        }
        assert_eq!(receive::<Forward>(&mut rest).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_cut_or_wrong_is_an_error_and_never_a_frame() {
        let mut bytes = Vec::new();
        send(&mut bytes, &Backward::Report(0)).await.unwrap();
        for end in 1..bytes.len() {
            assert!(matches!(
                receive::<Backward>(&mut &bytes[..end]).await,
                Err(WireError::Io(_))
            ));
        }
        let wrong: [&[u8]; 6] = [
            &[REPORT, 0, 0, 0, 0],
            &[REPORT, 0, 0, 0, 2, 0, 0],
            &[GO, 0, 0, 0, 0],
            &[GONE, 0, 0, 0, 1, 0],
            &[0, 0, 0, 0, 0],
            &[READY, 0xff, 0xff, 0xff, 0xff],
        ];
        for bytes in wrong {
            let mut rest = bytes;
            assert!(
                matches!(receive::<Backward>(&mut rest).await, Err(WireError::Wrong(_))),
                "{bytes:?}"
            );
        }
        let mut other: &[u8] = &[
            HELLO, 0, 0, 0, 18, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert!(matches!(
            receive::<Forward>(&mut other).await,
            Err(WireError::Version(2))
        ));
    }
}
