//! Guests with a link each, which look alike in every byte that they send: the server tells them apart.

mod net;

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cowfs::export::{Export, ExportName, State};
use cowfs::link::{LinkName, LinkTable};
use cowfs::memory::Memory;
use cowfs::nfs::client::{Client, ClientError};
use cowfs::server::{Limits, Server};
use cowfs::service::{Caller, CreateMode, Status};
use net::{DEADLINE, GUEST, GUEST_MAC, Machine, SERVER, node_with_guests};
use tokio::sync::oneshot;

/// A server on a node.
struct Serving {
    server: Arc<Server>,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves exports, each for a link, on `port` (any for 0).
    fn start(node: &Machine, table: &Path, port: u16, limits: Limits, exports: &[Arc<Export>]) -> Self {
        let server = Server::new(limits);
        for export in exports {
            server.exports().add(Arc::clone(export)).unwrap();
        }
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (at_work, table) = (Arc::clone(&server), LinkTable::new(table));
        // All that is bound or accepted by a thread belongs to the machine it is on.
        let thread = node.on(|| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let listening = at_work.listen_links(port, table).unwrap();
                    ready.send(listening.address().unwrap().port()).unwrap();
                    let _stopped = stopped.await;
                });
            })
        });
        Self {
            server,
            port: is_ready.recv_timeout(DEADLINE).unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A connection from a guest, from the address that is its own.
    fn connect(&self, guest: &Machine) -> TcpStream {
        guest.connect(GUEST, SERVER, self.port).unwrap()
    }

    fn client(&self, guest: &Machine) -> Client {
        client(self.connect(guest))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn client(stream: TcpStream) -> Client {
    stream.set_nonblocking(true).unwrap();
    Client::new(
        tokio::net::TcpStream::from_std(stream).unwrap(),
        "guest",
        &Caller::root(),
    )
}

fn export(name: &str, link: &str, state: State) -> Arc<Export> {
    let name = ExportName::parse(name).unwrap();
    let export = Export::new(name, Arc::new(Memory::new()), Vec::new(), state).unwrap();
    Arc::new(export.on_link(Some(LinkName::parse(link).unwrap())))
}

fn entry(link: &str) -> String {
    format!("version=1\nlink={link}\naddress={GUEST}\nmac={GUEST_MAC}\n")
}

/// Writes what the table says about an interface of the node, as a hotplug script does.
fn enter(table: &Path, node: &Machine, interface: &str, text: &str) {
    let new = table.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::rename(new, table.join(node.index(interface).to_string())).unwrap();
}

/// Nothing is answered: the connection is refused or ends without a byte.
async fn check_nothing(why: &str, connected: std::io::Result<TcpStream>) {
    let Ok(stream) = connected else {
        return;
    };
    let answer = tokio::time::timeout(DEADLINE, client(stream).mount("/web-0.0")).await;
    let answer = answer.unwrap_or_else(|_| panic!("{why}: the connection stays open"));
    assert!(
        matches!(answer, Err(ClientError::Gone | ClientError::Io(_))),
        "{why}: {answer:?}"
    );
}

#[tokio::test]
async fn guests_that_look_alike_reach_what_is_theirs_and_nothing_else() {
    if !net::possible() {
        return;
    }
    let table = tempfile::tempdir().unwrap();
    let table = table.path();
    let (node, [web, db]) = node_with_guests(["v0", "v1"]);
    enter(table, &node, "v0", &entry("web-0"));
    enter(table, &node, "v1", &entry("db-0"));
    let exports = [
        export("/web-0.0", "web-0", State::Active),
        export("/web-0.1", "web-0", State::Active),
        export("/db-0.0", "db-0", State::Active),
    ];
    let serving = Serving::start(&node, table, 0, Limits::default(), &exports);
    let (of_web, of_db) = (serving.client(&web), serving.client(&db));
    let root = of_web.mount("/web-0.0").await.unwrap();
    let _second = of_web.mount("/web-0.1").await.unwrap();
    let db_root = of_db.mount("/db-0.0").await.unwrap();

    // A name of another's is as good as no name, and a handle of another's as one of a tree that is still to come.
    for (client, names) in [
        (&of_web, ["/db-0.0", "/no-0.0"]),
        (&of_db, ["/web-0.0", "/web-0.1"]),
    ] {
        for name in names {
            let mounted = client.mount(name).await;
            assert!(
                matches!(mounted, Err(ClientError::Mount(2))),
                "{name}: {mounted:?}"
            );
        }
    }
    let mut nobodys = db_root.clone();
    nobodys[0] ^= 1;
    for handle in [&db_root, &nobodys] {
        let seen = of_web.getattr(handle).await;
        assert!(
            matches!(seen, Err(ClientError::Status(Status::Jukebox))),
            "{seen:?}"
        );
    }
    let made = CreateMode::Guarded(cowfs::attr::SetAttr::default());
    of_web.create(&root, b"mine", made).await.unwrap();
    let seen = of_db.lookup(&db_root, b"mine").await;
    assert!(
        matches!(seen, Err(ClientError::Status(Status::NoEnt))),
        "{seen:?}"
    );

    // Another address on the right link, of the link's own kind and of another.
    web.ip("addr add fe80::2/64 dev eth0 nodad");
    check_nothing(
        "another link-local address",
        web.connect("fe80::2", SERVER, serving.port),
    )
    .await;
    node.ip("addr add fd00::1/64 dev v0 nodad");
    web.ip("addr add fd00::2/64 dev eth0 nodad");
    check_nothing(
        "a routed address",
        web.connect("fd00::2", "fd00::1", serving.port),
    )
    .await;
    // The node itself is nobody's guest.
    node.ip("link add eth0 type veth peer name eth1");
    node.ip("link set dev eth0 addrgenmode none up");
    node.ip(&format!("addr add {GUEST}/64 dev eth0 nodad"));
    check_nothing("the node to itself", node.connect(GUEST, GUEST, serving.port)).await;
}

#[tokio::test]
async fn what_the_table_does_not_say_clearly_it_does_not_say() {
    if !net::possible() {
        return;
    }
    let table = tempfile::tempdir().unwrap();
    let table = table.path();
    let (node, [guest]) = node_with_guests(["v0"]);
    let serving = Serving::start(
        &node,
        table,
        0,
        Limits::default(),
        &[export("/web-0.0", "web-0", State::Active)],
    );
    let good = entry("web-0");
    for (why, text) in [
        ("an empty file", String::new()),
        ("half a file", good[..good.len() / 2].to_owned()),
        ("two links", format!("{good}link=db-0\n")),
        ("another address", good.replace("203", "204")),
        ("a hostile name", entry("../web-0")),
        ("another version", good.replace("version=1", "version=2")),
        ("more than a file has", good.repeat(1 << 12)),
    ] {
        enter(table, &node, "v0", &text);
        check_nothing(why, guest.connect(GUEST, SERVER, serving.port)).await;
    }
    let file = table.join(node.index("v0").to_string());
    enter(table, &node, "v0", &good);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    check_nothing(
        "a file for all to write",
        guest.connect(GUEST, SERVER, serving.port),
    )
    .await;
    std::fs::remove_file(&file).unwrap();
    check_nothing("no file", guest.connect(GUEST, SERVER, serving.port)).await;

    // A link that is known, whose exports are not there yet: its guest is told to come back.
    enter(table, &node, "v0", &entry("db-0"));
    let mounted = serving.client(&guest).mount("/db-0.0").await;
    assert!(matches!(mounted, Err(ClientError::Mount(2))), "{mounted:?}");
    enter(table, &node, "v0", &good);
    serving.client(&guest).mount("/web-0.0").await.unwrap();
}

#[tokio::test]
async fn a_table_outlives_the_server_and_a_connection_does_not_outlive_its_link() {
    if !net::possible() {
        return;
    }
    let table = tempfile::tempdir().unwrap();
    let table = table.path();
    let (node, [guest]) = node_with_guests(["v0"]);
    enter(table, &node, "v0", &entry("web-0"));
    let export = || [export("/web-0.0", "web-0", State::Active)];
    let serving = Serving::start(&node, table, 0, Limits::default(), &export());
    let port = serving.port;
    let before = serving.client(&guest);
    let handle = before.mount("/web-0.0").await.unwrap();
    drop(serving);
    assert!(before.getattr(&handle).await.is_err());

    let serving = Serving::start(&node, table, port, Limits::default(), &export());
    let again = serving.client(&guest);
    again.getattr(&handle).await.unwrap();

    // The interface is another's now: what was opened through it ends, within a few seconds.
    enter(table, &node, "v0", &entry("db-0"));
    let begun = Instant::now();
    while again.getattr(&handle).await.is_ok() {
        assert!(begun.elapsed() < DEADLINE, "the connection stays open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = serving.client(&guest).getattr(&handle).await;
    assert!(
        matches!(seen, Err(ClientError::Status(Status::Jukebox))),
        "{seen:?}"
    );
}

#[tokio::test]
async fn one_guest_takes_no_more_connections_than_are_its_own() {
    if !net::possible() {
        return;
    }
    let table = tempfile::tempdir().unwrap();
    let table = table.path();
    let (node, [web, db]) = node_with_guests(["v0", "v1"]);
    enter(table, &node, "v0", &entry("web-0"));
    enter(table, &node, "v1", &entry("db-0"));
    let limits = Limits {
        connections_per_client: 2,
        ..Limits::default()
    };
    let exports = [
        export("/web-0.0", "web-0", State::Active),
        export("/db-0.0", "db-0", State::Active),
    ];
    let serving = Serving::start(&node, table, 0, limits, &exports);
    let held = [serving.client(&web), serving.client(&web)];
    for client in &held {
        client.mount("/web-0.0").await.unwrap();
    }
    check_nothing("a third connection", web.connect(GUEST, SERVER, serving.port)).await;
    serving.client(&db).mount("/db-0.0").await.unwrap();
}

#[tokio::test]
async fn a_sealed_export_resets_what_leads_to_it_and_one_in_standby_has_calls_wait() {
    if !net::possible() {
        return;
    }
    let table = tempfile::tempdir().unwrap();
    let table = table.path();
    let (node, [guest]) = node_with_guests(["v0"]);
    enter(table, &node, "v0", &entry("web-0"));
    let web = export("/web-0.0", "web-0", State::Standby);
    let serving = Serving::start(&node, table, 0, Limits::default(), &[Arc::clone(&web)]);
    let waiting = serving.client(&guest);
    let (mounted, ()) = tokio::join!(waiting.mount("/web-0.0"), async {
        web.set_state(State::Active);
    });
    let handle = mounted.unwrap();
    waiting.getattr(&handle).await.unwrap();

    // Who is sealed has moved away and will not answer: nothing may be left that waits for it to.
    assert_ne!(node.on(|| connections_at(serving.port)), [""; 0]);
    assert!(serving.server.exports().remove(web.name()).is_some());
    assert!(waiting.getattr(&handle).await.is_err());
    let begun = Instant::now();
    loop {
        let left = node.on(|| connections_at(serving.port));
        if left.is_empty() {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// States of the TCP connections that the thread's machine has with a local port (proc_pid_net(5), `tcp6`), listening apart.
/// One that was closed in order is there for another minute.
fn connections_at(port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap();
    let sockets = text.lines().skip(1).map(|line| line.split_ascii_whitespace());
    let states = sockets.filter_map(|mut fields| {
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let here = local.ends_with(&format!(":{port:04X}"));
        (here && state != LISTENING).then(|| state.to_owned())
    });
    states.collect()
}
