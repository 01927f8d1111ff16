//! The helper behind `xeno guestfwd SOCKET`: joins its standard input and output to a unix socket.
//!
//! QEMU starts one for each connection that a guest opens to its file server. When it ends, the connection ends, and
//! connecting again is the guest's NFS client's business.
//!
//! Standard input, output *and error* are the guest's connection (libslirp gives its child one socket for all
//! three), so whoever runs this must write nothing to standard error: it would reach the guest as file server data.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

/// One read or write: as much as a large NFS transfer of one call.
const BUFFER_LEN: usize = 256 << 10;
/// How long a server may still answer after the guest has closed its side.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Joins standard input and output to the unix socket at `path`, until the server closes the connection or the guest
/// has closed its side and got the last answers.
///
/// A thread may still wait for standard input when this returns: the caller is expected to end its process.
///
/// # Errors
/// If the socket cannot be connected to, or breaks.
pub fn run(path: &Path) -> io::Result<()> {
    let server = UnixStream::connect(path)?;
    let requests = server.try_clone()?;
    let (finished, answers_over) = mpsc::channel::<()>();
    std::thread::Builder::new()
        .name("requests".into())
        .spawn(move || {
            // However it ends, the guest asks nothing more.
            let _ = pump(rustix::stdio::stdin(), &requests);
            let _ = requests.shutdown(Shutdown::Write);
            if answers_over.recv_timeout(LAST_ANSWERS) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = requests.shutdown(Shutdown::Both);
            }
        })?;
    let done = pump(&server, rustix::stdio::stdout());
    drop(finished);
    done
}

/// Copies until the end of `from`.
fn pump(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let len = match rustix::io::read(&from, &mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            match rustix::io::write(&to, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
