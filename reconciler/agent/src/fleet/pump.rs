//! Carries the bytes of a driver or of the file server over a connection to another agent.
//!
//! # Why it does not just copy until something fails
//! Whoever takes no more says why, and hangs up while more is coming. A connection that is closed with bytes unread is reset
//! (RFC 1122 4.2.2.13), and a reset overtakes what was said before it: the other end would hear of the reset alone. So what
//! comes is taken and thrown away for a while after the end here has left, and what the other end said last is carried to its
//! reader after the connection takes no more.

use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};
use xeno_reconciler::ports::Pipe;

use super::wire::Wire;

/// Bytes carried at a time: a guest's memory is many of them.
const BUFFER: usize = 256 << 10;

/// Bytes taken for nobody: more than is on its way on a line of 10 Gbit/s and 50 ms.
const UNHEARD_MAX: usize = 64 << 20;

/// How long the rest may take to be said, once either direction has failed.
const REST_MAX: Duration = Duration::from_secs(10);

/// A pipe whose bytes go over `wire` both ways, until both directions have ended. The end that is kept here dies with the task;
/// aborting that is how a link is cut.
pub(crate) fn pipe_over(wire: Wire) -> Result<(Pipe, JoinHandle<()>), String> {
    counted_pipe_over(wire, &Arc::default())
}

/// The same, with the bytes that go from the pipe to the wire added to `sent`.
pub(crate) fn counted_pipe_over(wire: Wire, sent: &Arc<AtomicU64>) -> Result<(Pipe, JoinHandle<()>), String> {
    let (theirs, ours) = StdStream::pair().map_err(|error| error.to_string())?;
    ours.set_nonblocking(true).map_err(|error| error.to_string())?;
    let ours = UnixStream::from_std(ours).map_err(|error| error.to_string())?;
    Ok((theirs, tokio::spawn(carry(ours, wire, Arc::clone(sent)))))
}

async fn carry(ours: UnixStream, wire: Wire, sent: Arc<AtomicU64>) {
    let (mut from_pipe, mut to_pipe) = ours.into_split();
    let (mut from_wire, mut to_wire) = split(wire);
    let failed = Notify::new();
    let outward = async {
        match carry_one_way(&mut from_pipe, &mut to_wire, &sent).await {
            Stopped::Said => {
                // Whether the other end hears that this was all does not matter here.
                let _ = to_wire.shutdown().await;
            }
            Stopped::Untaken => {
                // Whoever writes here is told at its next attempt, and still hears what comes.
                let _ = shutdown(from_pipe.as_ref(), Shutdown::Read);
                failed.notify_one();
                // What is left unread here would make the end of what comes a reset (unix(7)).
                discard(&mut from_pipe).await;
            }
        }
    };
    let inward = async {
        match carry_one_way(&mut from_wire, &mut to_pipe, &AtomicU64::new(0)).await {
            Stopped::Said => {
                let _ = to_pipe.shutdown().await;
            }
            Stopped::Untaken => {
                failed.notify_one();
                discard(&mut from_wire).await;
            }
        }
    };
    let both = async { tokio::join!(outward, inward) };
    let too_long = async {
        failed.notified().await;
        sleep(REST_MAX).await;
    };
    tokio::select! {
        _ = both => {}
        () = too_long => {}
    }
}

/// Why a direction carries no more.
enum Stopped {
    /// Whoever spoke has ended.
    Said,
    /// Whoever listened has.
    Untaken,
}

/// Carries what comes until it ends at either side, and counts it.
async fn carry_one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> Stopped {
    let mut buffer = vec![0; BUFFER];
    loop {
        let got = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Stopped::Said,
            Ok(got) => got,
        };
        count.fetch_add(got as u64, Ordering::Relaxed);
        let given = async {
            to.write_all(&buffer[..got]).await?;
            to.flush().await
        };
        if given.await.is_err() {
            return Stopped::Untaken;
        }
    }
}

/// Takes what nobody wants any more, until it ends or is too much.
async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; BUFFER];
    let mut left = UNHEARD_MAX;
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        let Some(rest) = left.checked_sub(got) else { return };
        left = rest;
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
