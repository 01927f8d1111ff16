//! The forwarding helper as QEMU runs it: one socket for input and output, one process for each connection.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A guest's connection, the helper behind it, and the server that it should lead to.
struct Connection {
    guest: UnixStream,
    helper: Child,
}

impl Connection {
    fn open(socket: &Path) -> Self {
        let (guest, inner) = UnixStream::pair().unwrap();
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("examples/guestfwd");
        let half = || Stdio::from(OwnedFd::from(inner.try_clone().unwrap()));
        let helper = Command::new(program)
            .arg("guestfwd")
            .arg(socket)
            .stdin(half())
            .stdout(half())
            .stderr(half())
            .spawn()
            .unwrap();
        Self { guest, helper }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}

fn with_server(story: impl FnOnce(&Path, UnixListener)) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("export.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    story(&socket, listener);
}

#[test]
fn a_lot_passes_both_ways_at_once() {
    with_server(|socket, listener| {
        let connection = Connection::open(socket);
        let (server, _) = listener.accept().unwrap();
        let sent: Vec<u8> = (0..8_u32 << 20)
            .map(|n| n.to_le_bytes()[(n % 3) as usize])
            .collect();
        // Both ends write all they have and read at the same time: neither may wait for the other.
        let both = [&connection.guest, &server].map(|end| {
            let (mut write, mut read) = (end.try_clone().unwrap(), end.try_clone().unwrap());
            let (sent, mut got) = (sent.clone(), vec![0; sent.len()]);
            let writer = std::thread::spawn(move || write.write_all(&sent).unwrap());
            let reader = std::thread::spawn(move || {
                read.read_exact(&mut got).unwrap();
                got
            });
            (writer, reader)
        });
        for (writer, reader) in both {
            writer.join().unwrap();
            assert!(reader.join().unwrap() == sent, "bytes were changed");
        }
    });
}

#[test]
fn a_guest_that_has_said_all_still_hears_the_answer() {
    with_server(|socket, listener| {
        let mut connection = Connection::open(socket);
        let (mut server, _) = listener.accept().unwrap();
        connection.guest.write_all(b"request").unwrap();
        connection.guest.shutdown(Shutdown::Write).unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).unwrap();
        assert_eq!(asked, "request");
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = String::new();
        connection.guest.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        assert!(connection.helper.wait().unwrap().success());
    });
}

#[test]
fn a_server_that_closes_ends_the_guests_connection() {
    with_server(|socket, listener| {
        let mut connection = Connection::open(socket);
        drop(listener.accept().unwrap());
        assert!(connection.helper.wait().unwrap().success());
        let mut rest = Vec::new();
        connection.guest.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    });
}

#[test]
fn without_a_server_the_guest_gets_an_end_and_not_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = Connection::open(&dir.path().join("none"));
    let mut rest = Vec::new();
    connection.guest.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "the guest would take this for file server data");
    assert!(!connection.helper.wait().unwrap().success());
}
