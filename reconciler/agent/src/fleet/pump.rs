//! Carries the bytes of a driver or of the file server over a connection to another agent.

use std::os::unix::net::UnixStream as StdStream;

use tokio::io::copy_bidirectional;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use xeno_reconciler::ports::Pipe;

use super::wire::Wire;

/// A pipe whose bytes go over `wire` both ways, until both directions have ended. The end that is kept here dies with the task;
/// aborting that is how a link is cut.
pub(crate) fn pipe_over(mut wire: Wire) -> Result<(Pipe, JoinHandle<()>), String> {
    let (theirs, ours) = StdStream::pair().map_err(|error| error.to_string())?;
    ours.set_nonblocking(true).map_err(|error| error.to_string())?;
    let mut ours = UnixStream::from_std(ours).map_err(|error| error.to_string())?;
    let carrying = tokio::spawn(async move {
        // Either end's death is the end of the other.
        let _ = copy_bidirectional(&mut ours, &mut wire).await;
    });
    Ok((theirs, carrying))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_until_both_have_ended() {
        let (a, b) = tokio::io::duplex(64);
        let (mut near, carrying) = pipe_over(Box::new(a)).unwrap();
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
    }
}
