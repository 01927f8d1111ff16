//! Replies on their way to the client.

use std::io::{self, IoSlice};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::flight::Units;
use crate::lease::Pass;
use crate::nfs::xdr::padding;

/// Replies that one write takes at most.
const REPLIES_PER_WRITE: usize = 64;

/// One reply or several, and the units they hold until they have been written.
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// Content that follows, and is padded.
    lent: Bytes,
    /// Without which nothing of it is sent.
    pass: Pass,
    _units: Units,
}

impl Outgoing {
    /// Whole replies.
    pub(super) fn new(bytes: Vec<u8>, pass: Pass, units: Units) -> Self {
        Self::lending(bytes, Bytes::new(), pass, units)
    }

    /// A reply that ends with content that is not copied into it.
    pub(super) fn lending(bytes: Vec<u8>, lent: Bytes, pass: Pass, units: Units) -> Self {
        Self {
            bytes,
            lent,
            pass,
            _units: units,
        }
    }

    fn slices(&self) -> impl Iterator<Item = IoSlice<'_>> {
        let parts = [&self.bytes[..], &self.lent, &[0; 3][..padding(self.lent.len())]];
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

/// Sends replies, all that are ready in one write. Ends when the last sender is gone, or the client is, or where a reply is due
/// that the lease forbids which it was made under: whoever asked asks again, on another connection.
pub(super) async fn write<W: AsyncWrite + Unpin>(mut writer: W, mut queue: mpsc::Receiver<Outgoing>) {
    let mut ready = Vec::with_capacity(REPLIES_PER_WRITE);
    while queue.recv_many(&mut ready, REPLIES_PER_WRITE).await > 0 {
        if !ready.iter().all(|reply| reply.pass.holds()) {
            return;
        }
        if let Err(error) = write_all(&mut writer, &ready).await {
            tracing::debug!(%error, "writing replies");
            return;
        }
        ready.clear();
    }
    // The client may be gone; then there is nobody to tell.
    let _closed = writer.shutdown().await;
}

async fn write_all<W: AsyncWrite + Unpin>(writer: &mut W, replies: &[Outgoing]) -> io::Result<()> {
    if let [reply] = replies
        && reply.lent.is_empty()
    {
        return writer.write_all(&reply.bytes).await;
    }
    let mut slices: Vec<IoSlice<'_>> = replies.iter().flat_map(Outgoing::slices).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = writer.write_vectored(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}
