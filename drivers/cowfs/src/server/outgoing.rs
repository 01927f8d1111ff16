//! Replies on their way to the client.

use std::io::{self, IoSlice};

use rustix::fs::sendfile;
use rustix::io::retry_on_intr;
use rustix::net::SendFlags;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::flight::Units;
use crate::layer::Lent;
use crate::lease::Pass;
use crate::nfs::xdr::padding;

/// Replies that one write takes at most.
const REPLIES_PER_WRITE: usize = 64;

/// One reply or several, and the units they hold until they have been written.
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// Content that follows, and is padded.
    lent: Option<Lent>,
    /// Without which nothing of it is sent.
    pass: Pass,
    _units: Units,
}

impl Outgoing {
    /// Whole replies.
    pub(super) fn new(bytes: Vec<u8>, pass: Pass, units: Units) -> Self {
        Self::lending(bytes, None, pass, units)
    }

    /// A reply that ends with content that is not copied into it.
    pub(super) fn lending(bytes: Vec<u8>, lent: Option<Lent>, pass: Pass, units: Units) -> Self {
        Self {
            bytes,
            lent,
            pass,
            _units: units,
        }
    }

    fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let lent = self.lent.as_ref().map_or(&[][..], |lent| &lent.bytes);
        let parts = [&self.bytes[..], lent, &[0; 3][..padding(lent.len())]];
        parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(IoSlice::new)
    }
}

/// Queues a reply.
pub(super) async fn send(replies: &mpsc::Sender<Outgoing>, bytes: Vec<u8>, pass: Pass, units: Units) {
    // A connection that is gone wants no reply.
    let _sent = replies.send(Outgoing::new(bytes, pass, units)).await;
}

/// Where replies are written.
pub(super) struct Outlet<W> {
    /// It.
    pub(super) writer: W,
    /// The TCP connection that it writes to, if it is one: files are sent there without a copy.
    pub(super) tcp: fn(&W) -> Option<&TcpStream>,
}

impl<W> Outlet<W> {
    /// Where every reply is copied.
    pub(super) fn plain(writer: W) -> Self {
        Self {
            writer,
            tcp: |_| None,
        }
    }
}

/// Sends replies, all that are ready in one write. Ends when the last sender is gone, or the client is, or where a reply is due
/// that the lease forbids which it was made under: whoever asked asks again, on another connection.
pub(super) async fn write<W: AsyncWrite + Unpin>(mut outlet: Outlet<W>, mut queue: mpsc::Receiver<Outgoing>) {
    let mut ready = Vec::with_capacity(REPLIES_PER_WRITE);
    while queue.recv_many(&mut ready, REPLIES_PER_WRITE).await > 0 {
        if !ready.iter().all(|reply| reply.pass.holds()) {
            return;
        }
        if let Err(error) = write_all(&mut outlet, &ready).await {
            tracing::debug!(%error, "writing replies");
            return;
        }
        ready.clear();
    }
    // The client may be gone; then there is nobody to tell.
    let _closed = outlet.writer.shutdown().await;
}

async fn write_all<W: AsyncWrite + Unpin>(outlet: &mut Outlet<W>, replies: &[Outgoing]) -> io::Result<()> {
    // Several at once leave with one copy and one system call: sendfile(2) would hand on 64 KiB at a time, and where the socket is
    // full most of the time that costs more than the copy.
    if let [reply] = replies {
        match (&reply.lent, (outlet.tcp)(&outlet.writer)) {
            (None, _) => return outlet.writer.write_all(&reply.bytes).await,
            (Some(lent), Some(tcp)) => return send_file(tcp, &reply.bytes, lent).await,
            (Some(_), None) => {}
        }
    }
    let mut slices: Vec<IoSlice<'_>> = replies.iter().flat_map(Outgoing::slices).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = outlet.writer.write_vectored(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

/// Sends a reply whose content is lent right out of its file: the page cache's own pages go to the client (sendfile(2)).
async fn send_file(tcp: &TcpStream, head: &[u8], lent: &Lent) -> io::Result<()> {
    send_bytes(tcp, head, SendFlags::MORE).await?;
    let len = lent.bytes.len();
    let mut sent = 0;
    while sent < len {
        let mut offset = lent.offset.saturating_add(sent as u64);
        let send = || {
            Ok(retry_on_intr(|| {
                sendfile(tcp, &lent.file, Some(&mut offset), len - sent)
            })?)
        };
        sent += match tcp.async_io(Interest::WRITABLE, send).await {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            // A file system that cannot do so (sendfile(2), EINVAL).
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                send_bytes(tcp, &lent.bytes[sent..], SendFlags::empty()).await?;
                len - sent
            }
            Err(error) => return Err(error),
        };
    }
    send_bytes(tcp, &[0; 3][..padding(len)], SendFlags::empty()).await
}

async fn send_bytes(tcp: &TcpStream, mut bytes: &[u8], flags: SendFlags) -> io::Result<()> {
    while !bytes.is_empty() {
        let send = || {
            Ok(retry_on_intr(|| {
                rustix::net::send(tcp, bytes, flags | SendFlags::NOSIGNAL)
            })?)
        };
        let sent = tcp.async_io(Interest::WRITABLE, send).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}
