//! A pipe or socket that somebody else opened, for reading and writing without blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// One end of a pipe, or a unix socket.
#[derive(Debug)]
pub(crate) enum Descriptor {
    /// The end of a pipe that is read.
    Reading(pipe::Receiver),
    /// The end of a pipe that is written.
    Writing(pipe::Sender),
    /// A socket.
    Both(UnixStream),
}

impl Descriptor {
    /// Takes a descriptor over. The same open file elsewhere no longer blocks, either.
    ///
    /// # Errors
    /// When it is neither a pipe nor a unix socket.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Socket => UnixStream::from_std(fd.into()).map(Self::Both),
            FileType::Fifo if flags & OFlags::RWMODE == OFlags::RDONLY => {
                pipe::Receiver::from_owned_fd(fd).map(Self::Reading)
            }
            FileType::Fifo => pipe::Sender::from_owned_fd(fd).map(Self::Writing),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Reading(pipe) => Pin::new(pipe).poll_read(cx, buf),
            Self::Both(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Writing(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Writing(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            Self::Both(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Reading(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A pipe has nothing to shut down but itself, which dropping does.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Both(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Reading(_) | Self::Writing(_) => Poll::Ready(Ok(())),
        }
    }
}
