//! Carries the bytes of a driver or of the file server over a connection to another agent.

use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use xeno_reconciler::ports::Pipe;

use super::wire::Wire;

/// Bytes carried at a time: a guest's memory is many of them.
const BUFFER: usize = 256 << 10;

/// A pipe whose bytes go over `wire` both ways, until both directions have ended. The end that is kept here dies with the task;
/// aborting that is how a link is cut.
pub(crate) fn pipe_over(wire: Wire) -> Result<(Pipe, JoinHandle<()>), String> {
    counted_pipe_over(wire, &Arc::default())
}

/// The same, with the bytes that go from the pipe to the wire added to `sent`.
pub(crate) fn counted_pipe_over(
    mut wire: Wire,
    sent: &Arc<AtomicU64>,
) -> Result<(Pipe, JoinHandle<()>), String> {
    let (theirs, ours) = StdStream::pair().map_err(|error| error.to_string())?;
    ours.set_nonblocking(true).map_err(|error| error.to_string())?;
    let mut ours = Counted {
        inner: UnixStream::from_std(ours).map_err(|error| error.to_string())?,
        read: Arc::clone(sent),
    };
    let carrying = tokio::spawn(async move {
        // Either end's death is the end of the other.
        let _ = copy_bidirectional_with_sizes(&mut ours, &mut wire, BUFFER, BUFFER).await;
    });
    Ok((theirs, carrying))
}

/// A socket, and how much was read from it.
struct Counted {
    inner: UnixStream,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.read
            .fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_until_both_have_ended() {
        let (a, b) = tokio::io::duplex(64);
        let counted = Arc::default();
        let (mut near, carrying) = counted_pipe_over(Box::new(a), &counted).unwrap();
        let (mut far, _) = pipe_over(Box::new(b)).unwrap();
        let said = tokio::task::spawn_blocking(move || {
            near.write_all(&[7; 10_000]).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            near.read_to_end(&mut back).unwrap();
            back
        });
        let heard = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            far.write_all(b"thanks").unwrap();
            all
        });
        assert_eq!(heard.await.unwrap(), [7; 10_000]);
        assert_eq!(said.await.unwrap(), b"thanks");
        carrying.await.unwrap();
        assert_eq!(counted.load(Ordering::Relaxed), 10_000);
    }
}
