//! NFS clients that send what they should not, to a real file server: the next good client is served all the same.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use cowfs::nfs::client::{Client, ClientError};
use cowfs::service::{Caller, Status};
use xeno_test_support::free_port;
use xeno_tests::lab::process::Daemon;
use xeno_tests::lab::wait_for;

use crate::world::{DEADLINE, program};

struct Server {
    scratch: tempfile::TempDir,
    daemon: Daemon,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is as well.
        let _ = self.daemon.kill();
    }
}

impl Server {
    fn start() -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = format!(
            "listen = \"{address}\"\n[[export]]\nname = \"/web\"\nclients = [\"127.0.0.1\"]\nwritable = \"w\"\n"
        );
        let path = scratch.path().join("cowfs.toml");
        std::fs::write(&path, config).expect("written");
        let words = ["cowfs", "serve", "--config", &path.to_string_lossy()];
        let daemon = Daemon::start(&program(), &words, &scratch.path().join("log")).expect("it starts");
        wait_for("the file server", DEADLINE, || {
            TcpStream::connect(address)
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .expect("it listens");
        Self {
            scratch,
            daemon,
            address,
        }
    }

    async fn client(&self) -> (Client, Vec<u8>) {
        let stream = tokio::net::TcpStream::connect(self.address)
            .await
            .expect("it listens");
        let client = Client::new(stream, "guest", &Caller::root());
        let root = client.mount("/web").await.expect("mounted");
        (client, root)
    }
}

fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    // The server may close before everything is written.
    let _written = stream.write_all(bytes);
    stream
}

#[tokio::test]
async fn garbage_half_records_and_four_gigabytes_disturb_nobody() {
    let server = Server::start();
    let trickle: Vec<u8> = std::iter::repeat_n([0, 0, 0, 1, 0], 1000).flatten().collect();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0; 4096],
        &trickle,
    ] {
        let mut rest = Vec::new();
        if let Err(error) = send(&server, garbage).read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        assert!(rest.is_empty(), "it answered {rest:?}");
    }
    let _held: Vec<_> = (0..50).map(|_| send(&server, &[0x80, 0, 0, 200, 1, 2])).collect();
    let (client, root) = server.client().await;
    client.getattr(&root).await.expect("served");
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.daemon.pid())).expect("it runs");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 200_000, "{peak} KiB");
}

#[tokio::test]
async fn forged_handles_and_names_lead_nowhere() {
    let server = Server::start();
    let outside = server.scratch.path().join("outside");
    std::fs::write(&outside, "kept").expect("written");
    let (client, root) = server.client().await;
    for byte in 0..root.len() {
        let mut forged = root.clone();
        forged[byte] ^= 1;
        assert!(
            client.getattr(&forged).await.is_err(),
            "byte {byte} is not looked at"
        );
    }
    for name in [&b"a/b"[..], b"/", b"../outside", b"/etc/passwd", b"", b"a\0b"] {
        for got in [
            client.remove(&root, name).await.map(drop),
            client.lookup(&root, name).await.map(drop),
        ] {
            assert!(
                matches!(got, Err(ClientError::Status(Status::Inval))),
                "{name:?}: {got:?}"
            );
        }
    }
    assert!(client.remove(&root, b"..").await.is_err());
    assert_eq!(std::fs::read_to_string(&outside).expect("still there"), "kept");
    client.getattr(&root).await.expect("served");
}
