//! A thousand connections that send what costs most. The server is a process of its own, so that its memory can be read.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cowfs::nfs::client::Client;
use cowfs::nfs::ops::{self, Procedure};
use cowfs::server::UNITS_PER_CLIENT;
use cowfs::service::Caller;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{DEADLINE, call};

/// Clients that mean no good, and connections of each.
const CLIENTS: u8 = 20;
const CONNECTIONS: usize = 50;

/// Set for the process that is the server: its directory.
const ROLE: &str = "COWFS_FLOODED";

/// How long each connection goes on sending where nothing is taken from it any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// Not a test by itself: what the process started below runs.
#[test]
fn the_flooded_server() {
    let Some(dir) = std::env::var_os(ROLE) else {
        return;
    };
    let dir = Path::new(&dir);
    let config = cowfs::config::load(&dir.join("cowfs.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ready = |address: Option<SocketAddr>| {
            std::fs::write(dir.join("port.new"), address.unwrap().port().to_string()).unwrap();
            std::fs::rename(dir.join("port.new"), dir.join("port")).unwrap();
        };
        // Until the test that started it lets go of its input.
        let ended = async {
            tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()))
                .await
                .unwrap()
                .unwrap();
        };
        cowfs::server::serve(config, ready, ended).await.unwrap();
    });
}

fn own_address(client: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, client)
}

async fn connect(client: u8, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((own_address(client), 0))).unwrap();
    tokio::time::timeout(DEADLINE, socket.connect(server))
        .await
        .unwrap()
        .unwrap()
}

/// What a connection sends: half a record, a record that cannot be, fragments without an end, or calls whose replies are
/// never read.
fn nuisance(kind: usize, file: &[u8]) -> Vec<u8> {
    match kind % 4 {
        0 => [
            &(1_u32 << 31 | 1 << 20).to_be_bytes()[..],
            &vec![0; (1 << 20) - 1],
        ]
        .concat(),
        1 => [&[0xff; 4][..], &vec![0; 1 << 20]].concat(),
        2 => [&4096_u32.to_be_bytes()[..], &[0; 4096]].concat().repeat(250),
        _ => {
            let read = call(9, ops::PROGRAM, Procedure::Read as u32, |w| {
                w.opaque(file);
                w.u64(0);
                w.u32(1 << 20);
            });
            read.repeat(200)
        }
    }
}

/// Most memory that a process has had (proc_pid_status(5)), in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_cost_what_was_promised_and_stall_nobody_else() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lower")).unwrap();
    std::fs::write(dir.path().join("lower/big"), vec![7; 1 << 20]).unwrap();
    let clients: Vec<String> = (0..=CLIENTS)
        .map(|client| format!("\"{}\"", own_address(client)))
        .collect();
    let config = format!(
        "listen = \"127.0.0.1:0\"\n[[export]]\nname = \"web\"\nclients = [{}]\nlayers = [{{ dir = \"lower\" }}]\n\
         [[export]]\nname = \"calm\"\nclients = [{}]\nlayers = [{{ dir = \"lower\" }}]\n",
        clients[1..].join(", "),
        clients[0]
    );
    std::fs::write(dir.path().join("cowfs.toml"), config).unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "flood::the_flooded_server", "--nocapture"])
        .env(ROLE, dir.path())
        .stdin(Stdio::piped()) // closed with this process: the server never outlives a failed test
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let port = loop {
        match std::fs::read_to_string(dir.path().join("port")) {
            Ok(port) => break port.parse().unwrap(),
            Err(_) => assert!(began.elapsed() < DEADLINE, "no server"),
        }
        tokio::task::yield_now().await;
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let file = {
        let client = Client::new(connect(1, address).await, "guest", &Caller::root());
        let root = client.mount("/web").await.unwrap();
        client.lookup(&root, b"big").await.unwrap().handle
    };
    let before = peak_kib(server.id());

    let mut floods = tokio::task::JoinSet::new();
    for client in 1..=CLIENTS {
        for kind in 0..CONNECTIONS {
            let file = file.clone();
            floods.spawn(async move {
                let mut stream = connect(client, address).await;
                let bytes = nuisance(kind, &file);
                // It is refused, taken in, or left standing.
                let _sent = tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await;
                stream
            });
        }
    }
    let mut held = Vec::new();
    while let Some(stream) = floods.join_next().await {
        held.push(stream.unwrap());
    }
    // All of them now wait for somebody who never reads; somebody else is served.
    let calm = Client::new(connect(0, address).await, "guest", &Caller::root());
    let root = calm.mount("/calm").await.unwrap();
    let big = calm.lookup(&root, b"big").await.unwrap().handle;
    for _ in 0..50 {
        let read = tokio::time::timeout(DEADLINE, calm.read(&big, 0, 1 << 20)).await;
        assert_eq!(
            read.expect("no answer within the deadline").unwrap().0.len(),
            1 << 20
        );
    }

    // What clients may have in flight, what connections read into, threads and allocators.
    let promised_kib = u64::from(CLIENTS) * (UNITS_PER_CLIENT as u64 * 256) + 1000 * 64 + 64 * 1024;
    let grown = peak_kib(server.id()) - before;
    assert!(
        grown < promised_kib,
        "{grown} KiB more than before, {promised_kib} promised"
    );
    drop(held);
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}
