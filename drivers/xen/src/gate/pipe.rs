//! The process that xl starts as its transport: it hands its descriptors to the agent and waits.
//!
//! What a migration is at lies with the agent. This process holds nothing that could be lost: if it is killed, the agent
//! still has the pipes; if the agent dies, its socket ends, this process follows, and xl sees the end of its pipes.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixListener;

use super::fd::Descriptor;

/// Gives standard input and output to whoever listens on `socket`, and returns once that is closed at the other end.
///
/// # Errors
/// When nobody listens there, or it cannot take them.
pub fn hand_over(socket: &Path) -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    give(socket, [stdin.as_fd(), stdout.as_fd()])
}

fn give(socket: &Path, descriptors: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(
        &stream,
        &[IoSlice::new(&[0])],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    // Nothing is ever said; the end is what counts.
    while stream.read(&mut [0; 1])? != 0 {}
    Ok(())
}

/// The same of other descriptors, for tests without xl: waits until somebody listens.
#[cfg(test)]
pub(crate) fn hand_these_over(socket: &Path, descriptors: [BorrowedFd<'_>; 2]) {
    while let Err(error) = give(socket, descriptors) {
        // A socket has its name between bind(2) and listen(2), when connecting to it is refused.
        let awaited = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        assert!(awaited.contains(&error.kind()), "{error}");
        std::thread::yield_now();
    }
}

/// Where one transport is awaited. The socket is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    listener: UnixListener,
    path: PathBuf,
}

/// The two ends of xl's talk.
#[derive(Debug)]
pub(crate) struct Talk {
    /// What xl writes.
    pub(crate) from_xl: Descriptor,
    /// What xl reads.
    pub(crate) to_xl: Descriptor,
    /// Keeps the transport alive: xl takes its death for the end of the migration.
    _transport: tokio::net::UnixStream,
}

impl Rendezvous {
    /// Listens on `path`, in a directory that only we may enter.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let path = path.to_owned();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Waits for the transport, which is a process of our own user's or root's.
    ///
    /// # Errors
    /// When the socket fails. Whoever comes without two descriptors is turned away, and the next one awaited.
    pub(crate) async fn meet(&self) -> io::Result<Talk> {
        loop {
            let (stream, _unnamed) = self.listener.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer != 0 && peer != rustix::process::geteuid().as_raw() {
                tracing::warn!(uid = peer, "a stranger at the gate");
                continue;
            }
            match take(&stream).await {
                Ok([from_xl, to_xl]) => {
                    return Ok(Talk {
                        from_xl: Descriptor::new(from_xl)?,
                        to_xl: Descriptor::new(to_xl)?,
                        _transport: stream,
                    });
                }
                Err(error) => tracing::warn!(%error, "a transport without its pipes"),
            }
        }
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        // Gone already is as good.
        let _removed = std::fs::remove_file(&self.path);
    }
}

async fn take(stream: &tokio::net::UnixStream) -> io::Result<[OwnedFd; 2]> {
    let take = || {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut byte)];
        let received = rustix::net::recvmsg(stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let whole = !received.flags.contains(ReturnFlags::CTRUNC);
        let taken = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let taken: Result<[OwnedFd; 2], _> = taken.collect::<Vec<_>>().try_into();
        match taken {
            Ok(both) if whole => Ok(both),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    stream.async_io(Interest::READABLE, take).await
}
