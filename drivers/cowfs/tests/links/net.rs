//! Machines made of network namespaces (network_namespaces(7)), joined by veth pairs.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv6Addr, SocketAddrV6, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Long enough for a busy machine; nothing waits that long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Whether namespaces can be made here. Only root can.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn possible() -> bool {
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).status();
    let possible = rustix::process::geteuid().is_root() && ip.is_ok_and(|status| status.success());
    if !possible {
        eprintln!("skipped: needs root and ip(8)");
    }
    possible
}

/// A machine: a network of its own, held open by a process that ends with it.
pub(crate) struct Machine {
    holder: Child,
    namespace: OwnedFd,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut line = String::new();
        let ready = BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut line);
        assert!(
            ready.is_ok() && line == "ready\n",
            "no network namespace: {line:?}"
        );
        let path = format!("/proc/{}/ns/net", holder.id());
        let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Self {
            holder,
            namespace: namespace.expect("the namespace"),
        }
    }

    /// The process that holds it open.
    pub(crate) fn id(&self) -> u32 {
        self.holder.id()
    }

    /// Does something on this machine, in a thread of its own.
    pub(crate) fn on<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().expect("the story goes on")
        })
    }

    /// Has the calling thread be on this machine from now on.
    pub(crate) fn enter(&self) {
        use std::os::fd::AsFd as _;
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("setns(2)");
    }

    /// Runs ip(8) here and returns what it says.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let words = arguments.split(' ');
        let output = self
            .on(|| Command::new("ip").args(words).output())
            .expect("ip(8)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The index of an interface here.
    pub(crate) fn index(&self, interface: &str) -> u32 {
        let shown = self.ip(&format!("-o link show dev {interface}"));
        shown
            .split(':')
            .next()
            .and_then(|index| index.parse().ok())
            .expect("an index")
    }

    /// Connects from here to a link-local address through `eth0`, from the address `from`.
    pub(crate) fn connect(&self, from: &str, to: &str, port: u16) -> std::io::Result<TcpStream> {
        let (from, to): (Ipv6Addr, Ipv6Addr) = (from.parse().unwrap(), to.parse().unwrap());
        let scope = |ip: Ipv6Addr| {
            if ip.is_unicast_link_local() {
                self.index("eth0")
            } else {
                0
            }
        };
        let (from, to) = (
            SocketAddrV6::new(from, 0, 0, scope(from)),
            SocketAddrV6::new(to, port, 0, scope(to)),
        );
        self.on(|| {
            use rustix::net::{AddressFamily, SocketFlags, SocketType};
            let flags = SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
            rustix::net::sockopt::set_socket_timeout(
                &socket,
                rustix::net::sockopt::Timeout::Send,
                Some(DEADLINE),
            )?;
            rustix::net::bind(&socket, &from)?;
            rustix::net::connect(&socket, &to)?;
            Ok(TcpStream::from(socket))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.holder.stdin.take());
        let _ended = self.holder.wait();
    }
}

/// The address that every guest here has: all of them look the same.
pub(crate) const GUEST: &str = "fe80::216:3eff:fe01:203";
/// What goes with it.
pub(crate) const GUEST_MAC: &str = "00:16:3e:01:02:03";
/// The server's address on every link.
pub(crate) const SERVER: &str = "fe80::1";

/// A node with the given interfaces, each the only way to a guest of its own.
pub(crate) fn node_with_guests<const N: usize>(interfaces: [&str; N]) -> (Machine, [Machine; N]) {
    let node = Machine::new();
    node.ip("link set lo up");
    let guests = interfaces.map(|interface| {
        let guest = Machine::new();
        plug(&node, interface, &guest);
        guest
    });
    (node, guests)
}

/// Makes the link between a node and a guest, as a hotplug script does.
pub(crate) fn plug(node: &Machine, interface: &str, guest: &Machine) {
    let pid = guest.id();
    node.ip(&format!(
        "link add {interface} address fe:ff:ff:ff:ff:ff type veth peer name eth0 address {GUEST_MAC} netns {pid}"
    ));
    for (machine, interface, address) in [(node, interface, SERVER), (guest, "eth0", GUEST)] {
        machine.ip(&format!("link set dev {interface} addrgenmode none up"));
        machine.ip(&format!("addr add {address}/64 dev {interface} nodad"));
    }
}
