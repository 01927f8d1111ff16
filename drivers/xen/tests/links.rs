//! The hotplug script and published ports, in network namespaces: a veth pair stands in for a vif, and two small programs
//! for xenstore. Needs root, ip(8) and nft(8).

#[path = "../../cowfs/tests/links/net.rs"]
#[expect(dead_code, reason = "made for more than what is needed here")]
mod net;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use net::{DEADLINE, Machine};
use tempfile::TempDir;
use xeno_model::desired::Publish;
use xeno_model::id::DomainUuid;
use xeno_test_support::write_script;
use xeno_xen::link::{GATEWAY, GuestLink, SERVER};
use xeno_xen::publish::{Published, Publisher, Target};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/vif-xeno");

/// A node with guests at the other ends of its links.
struct Lab {
    node: Machine,
    dir: TempDir,
}

/// A guest that is plugged in.
struct Guest {
    machine: Machine,
    link: GuestLink,
    vif: String,
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn possible() -> bool {
    let nft = Command::new("nft").arg("--version").output();
    let possible = net::possible() && nft.is_ok_and(|said| said.status.success());
    if !possible {
        eprintln!("skipped: needs root, ip(8) and nft(8)");
    }
    possible
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin", "store", "run/vif"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        // A key is a file; its slashes are underscores.
        let key = r#"file() { echo "$STORE/$(printf %s "$1" | tr / _)"; }"#;
        let program = |name: &str, body: &str| {
            write_script(&dir.path().join("bin").join(name), &format!("{key}\n{body}"));
        };
        program(
            "xenstore-read",
            r#"for key; do cat "$(file "$key")" || exit 1; done"#,
        );
        program("xenstore-write", r#"printf '%s\n' "$2" >"$(file "$1")""#);
        let node = Machine::new();
        node.ip("link set lo up");
        Self { node, dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self, key: &str) -> std::path::PathBuf {
        self.path("store").join(key.replace('/', "_"))
    }

    /// What xl writes before it runs the script, and the interface as netback makes it.
    fn prepare(&self, name: &str, domid: u8, public: &[IpAddr]) -> Guest {
        let link = GuestLink::of(DomainUuid([domid; 16]));
        let vif = format!("vif{domid}.0");
        let machine = Machine::new();
        let pid = machine.id();
        self.node.ip(&format!(
            "link add {vif} type veth peer name eth0 address {} netns {pid}",
            link.mac
        ));
        let backend = backend(&vif);
        std::fs::write(
            self.store(&format!("{backend}/frontend-id")),
            format!("{domid}\n"),
        )
        .unwrap();
        std::fs::write(self.store(&format!("{backend}/mac")), format!("{}\n", link.mac)).unwrap();
        std::fs::write(
            self.store(&format!("/local/domain/{domid}/name")),
            format!("xeno.{name}\n"),
        )
        .unwrap();
        let itself = name.trim_end_matches("--incoming");
        let config = self.path("run/vif").join(format!("{itself}.conf"));
        std::fs::write(config, link.script_config(public)).unwrap();
        Guest { machine, link, vif }
    }

    fn script(&self, action: &str, vif: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        self.node.on(|| {
            Command::new(SCRIPT)
                .arg(action)
                .env("PATH", format!("{}:{path}", self.path("bin").display()))
                .env("STORE", self.path("store"))
                .env("XENO_RUN", self.path("run"))
                .env("vif", vif)
                .env("XENBUS_PATH", backend(vif))
                .output()
                .unwrap()
        })
    }

    fn plug(&self, name: &str, domid: u8) -> Guest {
        self.plug_with(name, domid, &[])
    }

    /// The same with public addresses, which the guest sets up as its initramfs does.
    fn plug_with(&self, name: &str, domid: u8, public: &[IpAddr]) -> Guest {
        let guest = self.prepare(name, domid, public);
        let output = self.script("online", &guest.vif);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(self.status(&guest.vif).as_deref(), Some("connected"));
        guest.machine.ip("link set dev eth0 addrgenmode none up");
        guest.machine.ip("link set lo up");
        guest
            .machine
            .ip(&format!("addr add {}/64 dev eth0 nodad", guest.link.link_local));
        guest
            .machine
            .ip(&format!("addr add {}/32 dev eth0", guest.link.ipv4));
        guest
            .machine
            .ip(&format!("route add default via {GATEWAY} dev eth0 onlink"));
        for address in public {
            guest.machine.ip(&match address {
                IpAddr::V4(address) => format!("addr add {address}/32 dev eth0"),
                IpAddr::V6(address) => format!("addr add {address}/128 dev eth0 nodad"),
            });
        }
        if public.iter().any(IpAddr::is_ipv6) {
            guest
                .machine
                .ip(&format!("-6 route add default via {SERVER} dev eth0"));
        }
        guest
    }

    fn status(&self, vif: &str) -> Option<String> {
        self.said(vif, "hotplug-status")
    }

    fn said(&self, vif: &str, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.store(&format!("{}/{key}", backend(vif)))).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Packets that a counter has counted.
    fn counted(&self, counter: &[&str]) -> u64 {
        let output = self.node.on(|| {
            Command::new("nft")
                .args(["list", "counter"])
                .args(counter)
                .output()
        });
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let mut words = text
            .split_ascii_whitespace()
            .skip_while(|word| *word != "packets");
        words
            .nth(1)
            .and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("{counter:?}: {text}"))
    }

    fn listen(&self, address: &str) -> TcpListener {
        self.node.on(|| TcpListener::bind(address)).unwrap()
    }

    fn publisher(&self) -> Publisher {
        let namespace = format!("--net=/proc/{}/ns/net", self.node.id());
        Publisher::new(["nsenter", &namespace, "nft"].map(str::to_owned).to_vec())
    }
}

fn backend(vif: &str) -> String {
    format!("backend/vif/{}", vif.trim_start_matches("vif").replace('.', "/"))
}

/// Whether a connection can be made from a machine; what is dropped is tried for as long as one packet takes.
fn reaches(from: &Machine, address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    let patience = std::time::Duration::from_millis(400);
    from.on(|| TcpStream::connect_timeout(&address, patience)).is_ok()
}

#[test]
fn a_guest_comes_through_its_link_as_itself_alone() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let web = lab.plug("web-0", 6);
    let db = lab.plug("db-0--incoming", 7);
    assert_eq!(
        entries(&lab.path("run/links")),
        [lab.node.index("vif6.0"), lab.node.index("vif7.0")]
    );
    let own = web.link.link_local.to_string();
    let entry = std::fs::read_to_string(lab.path("run/links").join(lab.node.index("vif6.0").to_string()));
    let mac = web.link.mac;
    assert_eq!(
        entry.unwrap(),
        format!("version=1\nlink=web-0\naddress={own}\nmac={mac}\n")
    );

    let files = lab.listen("[::]:2049");
    let _ssh = lab.listen("0.0.0.0:22");
    let _ssh6 = lab.listen("[::]:2222");
    let server = SERVER.to_string();
    drop(web.machine.connect(&own, &server, 2049).unwrap());
    let (_stream, peer) = files.accept().unwrap();
    let SocketAddr::V6(peer) = peer else {
        panic!("{peer}")
    };
    assert_eq!(
        (*peer.ip(), peer.scope_id()),
        (web.link.link_local, lab.node.index("vif6.0"))
    );

    // Its own addresses, where it has no business.
    let counted_more = |counter: &[&str], send: &dyn Fn()| {
        let before = lab.counted(counter);
        send();
        let begun = Instant::now();
        while lab.counted(counter) == before {
            assert!(
                begun.elapsed() < DEADLINE,
                "nothing more is counted by {counter:?}"
            );
        }
    };
    let drops = |reason: &str, send: &dyn Fn()| counted_more(&["netdev", "xeno-vif6.0", reason], send);
    let machine = &web.machine;
    drops("bad-ip6", &|| send(machine, &own, "fe80::1"));
    let private = web.link.ipv4.to_string();
    counted_more(&["inet", "xeno-links", "to-node"], &|| {
        send(machine, &private, &GATEWAY.to_string())
    });
    assert!(!reaches(machine, &format!("{GATEWAY}:22")));
    let other_private = db.link.ipv4.to_string();
    counted_more(&["inet", "xeno-links", "to-private"], &|| {
        send(machine, &private, &other_private)
    });
    assert!(!reaches(machine, &format!("{other_private}:80")));

    // Another IPv6 address: that of another guest, that of the server, and one of nobody.
    for other in [
        db.link.link_local.to_string(),
        "fe80::1".to_owned(),
        "2001:db8::9".to_owned(),
    ] {
        machine.ip(&format!("addr add {other}/64 dev eth0 nodad"));
        drops("bad-ip6", &|| send(machine, &other, "ff02::1"));
        machine.ip(&format!("addr del {other}/64 dev eth0"));
    }
    // Another IPv4 address, by ARP and, with the neighbour known, past that.
    machine.ip(&format!("addr add {other_private}/32 dev eth0"));
    machine.ip("neigh flush dev eth0");
    drops("bad-arp", &|| send(machine, &other_private, &GATEWAY.to_string()));
    machine.ip(&format!(
        "neigh replace {GATEWAY} lladdr fe:ff:ff:ff:ff:ff dev eth0"
    ));
    drops("bad-ip4", &|| send(machine, &other_private, &GATEWAY.to_string()));
    machine.ip(&format!("addr del {other_private}/32 dev eth0"));
    // Another MAC.
    machine.ip(&format!("link set dev eth0 address {}", db.link.mac));
    drops("bad-mac", &|| send(machine, &own, "ff02::1"));
    machine.ip(&format!("link set dev eth0 address {mac}"));
    // And as itself again.
    web.machine.connect(&own, &server, 2049).unwrap();

    // What is unplugged leaves nothing, and may be unplugged again.
    for _again in 0..2 {
        assert!(lab.script("offline", "vif6.0").status.success());
    }
    assert_eq!(entries(&lab.path("run/links")), [lab.node.index("vif7.0")]);
    lab.node.ip("link del vif7.0");
    assert!(lab.script("offline", "vif7.0").status.success());
    assert_eq!(entries(&lab.path("run/links")), [0; 0]);
    let left = lab
        .node
        .on(|| Command::new("nft").args(["list", "ruleset"]).output())
        .unwrap();
    let left = String::from_utf8(left.stdout).unwrap();
    assert!(!left.contains("vif6.0") && !left.contains("vif7.0"), "{left}");
}

/// A machine on the other side of the node's default route, which sends these addresses to the node.
fn outside(lab: &Lab, public: &[IpAddr]) -> Machine {
    let outside = Machine::new();
    let pid = outside.id();
    lab.node
        .ip(&format!("link add up0 type veth peer name eth0 netns {pid}"));
    for (machine, device, four, six) in [
        (&lab.node, "up0", "192.0.2.1", "2001:db8:ff::1"),
        (&outside, "eth0", "192.0.2.9", "2001:db8:ff::9"),
    ] {
        machine.ip(&format!("link set dev {device} up"));
        machine.ip(&format!("addr add {four}/24 dev {device}"));
        machine.ip(&format!("addr add {six}/64 dev {device} nodad"));
    }
    lab.node.ip("route add default via 192.0.2.9 dev up0");
    for address in public {
        let via = if address.is_ipv4() {
            "192.0.2.1"
        } else {
            "2001:db8:ff::1"
        };
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        outside.ip(&format!("{family} route add {address} via {via}"));
    }
    // What docs/xen.md has an operator do for IPv6.
    lab.node
        .on(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1"))
        .unwrap();
    outside
}

#[test]
fn a_public_address_is_reached_from_outside_and_is_its_guests_alone() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let public: [IpAddr; 2] = ["203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let outside = outside(&lab, &public);
    let web = lab.plug_with("web-0", 6, &public);
    let hostile = lab.plug("db-0", 7);

    let serve = |address: &str| web.machine.on(|| TcpListener::bind(address)).unwrap();
    let (four, six) = (serve("0.0.0.0:80"), serve("[::]:8080"));
    for (listener, address, peer) in [
        (&four, "203.0.113.7:80", "192.0.2.9"),
        (&six, "[2001:db8::7]:8080", "2001:db8:ff::9"),
    ] {
        let begun = Instant::now();
        while !reaches(&outside, address) {
            assert!(begun.elapsed() < DEADLINE, "{address} is not reached");
        }
        let (_stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), peer.parse::<IpAddr>().unwrap(), "as who it is");
    }
    assert!(!reaches(&outside, "203.0.113.8:80"), "an address of nobody");
    // Its private address is not reached from there, nor by the other guest; the public one is.
    outside.ip(&format!("route add {} via 192.0.2.1", web.link.ipv4));
    assert!(!reaches(&outside, &format!("{}:80", web.link.ipv4)));
    assert!(reaches(&hostile.machine, "203.0.113.7:80"));

    // Another guest that takes the addresses for itself: nothing of it comes through, and nothing leads to it.
    for (address, length, reason, to) in [
        ("203.0.113.7", 32, "bad-ip4", "192.0.2.9"),
        ("2001:db8::7", 128, "bad-ip6", "2001:db8:ff::9"),
    ] {
        let machine = &hostile.machine;
        let at_once = if length == 32 { "" } else { " nodad" };
        machine.ip(&format!("addr add {address}/{length} dev eth0{at_once}"));
        let gateway = if length == 32 {
            GATEWAY.to_string()
        } else {
            SERVER.to_string()
        };
        machine.ip(&format!(
            "neigh replace {gateway} lladdr fe:ff:ff:ff:ff:ff dev eth0"
        ));
        if length == 128 {
            machine.ip(&format!("-6 route replace default via {gateway} dev eth0"));
        }
        let counter = ["netdev", "xeno-vif7.0", reason];
        let before = lab.counted(&counter);
        let begun = Instant::now();
        while lab.counted(&counter) == before {
            send(machine, address, to);
            assert!(begun.elapsed() < DEADLINE, "{address} is not dropped");
        }
        let port = if length == 32 {
            "203.0.113.7:80"
        } else {
            "[2001:db8::7]:8080"
        };
        assert!(reaches(&outside, port), "its own guest has it still");
    }

    // With the link gone nothing is left of it.
    assert!(lab.script("offline", &web.vif).status.success());
    assert!(!reaches(&outside, "203.0.113.7:80"));
}

#[test]
fn a_link_that_cannot_be_made_is_not_made_and_says_why() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let guest = lab.prepare("web-0", 6, &[]);
    let config = lab.path("run/vif/web-0.conf");
    let good = std::fs::read_to_string(&config).unwrap();
    let check_refused = |action: &str, why: &str| {
        let output = lab.script(action, &guest.vif);
        assert!(!output.status.success(), "{why}");
        let told = lab.said(&guest.vif, "hotplug-error").unwrap_or_default();
        assert!(told.contains(why), "{told} has no {why}");
        assert_eq!(lab.status(&guest.vif).as_deref(), Some("error"));
        assert_eq!(entries(&lab.path("run/links")), [0; 0]);
        let left = lab
            .node
            .on(|| Command::new("nft").args(["list", "ruleset"]).output())
            .unwrap();
        assert!(!String::from_utf8_lossy(&left.stdout).contains("vif6.0"));
    };
    for (from, to, why) in [
        ("version=1\n", "", "not whole"),
        ("version=1", "version=2", "means nothing here"),
        ("ipv4=", "ipv4=$(id)", "means nothing here"),
        ("ipv4=", "ipv4=1.2.3.4; flush ruleset #", "means nothing here"),
        ("ipv4=", "ipv4=999.", "nft:"),
        ("address=fe80::", "address=2001:db8::", "means nothing here"),
        ("mac=00:16:3e", "mac=00:16:3f", "its MAC is"),
    ] {
        std::fs::write(&config, good.replacen(from, to, 1)).unwrap();
        check_refused("online", why);
    }
    std::fs::remove_file(&config).unwrap();
    check_refused("online", "there is no");
    std::fs::write(&config, &good).unwrap();
    let name = lab.store("/local/domain/6/name");
    for stranger in ["stranger", "xeno.", "xeno.../../etc/x", "xeno.a b"] {
        std::fs::write(&name, format!("{stranger}\n")).unwrap();
        check_refused("online", "domain '");
    }
    std::fs::write(&name, "xeno.web-0\n").unwrap();
    lab.node.ip("link del vif6.0");
    check_refused("online", "no such interface");
    let output = lab.script("add", &guest.vif);
    assert!(!output.status.success(), "emulated interfaces have no link");
}

#[tokio::test]
async fn published_ports_lead_to_their_guest_until_they_are_taken_back() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    // A neighbour of the node, and so the outside.
    let outside = Machine::new();
    lab.node.ip(&format!(
        "link add lan0 type veth peer name eth0 netns {}",
        outside.id()
    ));
    lab.node.ip("addr add 192.0.2.1/24 dev lan0");
    lab.node.ip("link set lan0 up");
    outside.ip("addr add 192.0.2.9/24 dev eth0");
    outside.ip("link set eth0 up");
    // And another, which the node has never let reach the first.
    let beside = Machine::new();
    lab.node.ip(&format!(
        "link add lan1 type veth peer name eth0 netns {}",
        beside.id()
    ));
    lab.node.ip("addr add 198.51.100.1/24 dev lan1");
    lab.node.ip("link set lan1 up");
    beside.ip("addr add 198.51.100.9/24 dev eth0");
    beside.ip("link set eth0 up");
    beside.ip("route add default via 198.51.100.1");
    outside.ip("route add 198.51.100.0/24 via 192.0.2.1");
    lab.node.ip("route add default via 192.0.2.9");
    let web = lab.plug("web-0", 6);
    let db = lab.plug("db-0", 7);
    answer(&beside, "0.0.0.0:443", "beside");
    answer(&web.machine, "0.0.0.0:80", "web");
    answer(&db.machine, "0.0.0.0:5432", "db");
    answer(&outside, "0.0.0.0:443", "outside");

    let publisher = lab.publisher();
    assert_eq!(publisher.observe().await.unwrap(), Published::new());
    let publish = |host, guest| Publish { guest, host };
    let publish_all = async || {
        publisher
            .set(web.link.ipv4, &[publish(40080, 80), publish(40081, 80)])
            .await
            .unwrap();
        publisher
            .set(db.link.ipv4, &[publish(45432, 5432)])
            .await
            .unwrap();
    };
    for _again in 0..2 {
        publish_all().await;
    }
    let target = |guest: &Guest, port| Target {
        guest: guest.link.ipv4,
        port,
    };
    let all = Published::from([
        (40080, target(&web, 80)),
        (40081, target(&web, 80)),
        (45432, target(&db, 5432)),
    ]);
    assert_eq!(publisher.observe().await.unwrap(), all);

    // Somebody takes all rules of the node away. That shows; they are put back, and all that follows is as if nothing had
    // been.
    let flush = || Command::new("nft").args(["flush", "ruleset"]).status().unwrap();
    assert!(lab.node.on(flush).success());
    assert_eq!(publisher.tables().await.unwrap(), [].into());
    for guest in [&web, &db] {
        let output = lab.script("rules", &guest.vif);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let tables = publisher.tables().await.unwrap();
    for table in ["inet xeno-links", "netdev xeno-vif6.0", "netdev xeno-vif7.0"] {
        assert!(tables.contains(table), "{tables:?}");
    }
    assert_eq!(publisher.observe().await.unwrap(), Published::new());
    publish_all().await;
    assert_eq!(publisher.observe().await.unwrap(), all);

    assert_eq!(ask(&lab.node, "127.0.0.1:40080").as_deref(), Some("web"));
    assert_eq!(ask(&lab.node, "192.0.2.1:40081").as_deref(), Some("web"));
    assert_eq!(ask(&outside, "192.0.2.1:40080").as_deref(), Some("web"));
    assert_eq!(ask(&outside, "192.0.2.1:45432").as_deref(), Some("db"));
    assert_eq!(
        ask(&web.machine, &format!("{GATEWAY}:45432")).as_deref(),
        Some("db")
    );
    assert_eq!(
        ask(&web.machine, "192.0.2.9:443").as_deref(),
        Some("outside"),
        "through the node"
    );
    assert_eq!(
        ask(&web.machine, &format!("{}:5432", db.link.ipv4)),
        None,
        "not past its published port"
    );
    outside.ip(&format!("route add {} via 192.0.2.1", web.link.ipv4));
    assert_eq!(
        ask(&outside, &format!("{}:80", web.link.ipv4)),
        None,
        "not by its private address"
    );

    assert_eq!(
        ask(&outside, "198.51.100.9:443"),
        None,
        "the node is nobody else's router"
    );
    assert!(lab.counted(&["inet", "xeno-links", "not-ours"]) > 0);

    let refused = publisher
        .set(web.link.ipv4, &[publish(45432, 80)])
        .await
        .unwrap_err();
    assert!(refused.what.contains("45432"), "{refused}");
    let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let refused = publisher
        .set(web.link.ipv4, &[publish(port, 80)])
        .await
        .unwrap_err();
    assert!(refused.what.contains("listens"), "{refused}");
    assert_eq!(
        publisher.observe().await.unwrap(),
        all,
        "what is refused changes nothing"
    );

    publisher.set(web.link.ipv4, &[publish(40081, 80)]).await.unwrap();
    assert_eq!(ask(&lab.node, "127.0.0.1:40080"), None);
    assert_eq!(ask(&lab.node, "127.0.0.1:40081").as_deref(), Some("web"));
    publisher.clear(web.link.ipv4).await.unwrap();
    publisher.clear(web.link.ipv4).await.unwrap();
    assert_eq!(ask(&outside, "192.0.2.1:40081"), None);
    assert_eq!(
        publisher.observe().await.unwrap(),
        Published::from([(45432, target(&db, 5432))])
    );
}

/// Indices that the table has an entry for.
fn entries(directory: &Path) -> Vec<u32> {
    let Ok(listing) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut entries: Vec<u32> = listing
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
        .collect();
    entries.sort_unstable();
    entries
}

/// Sends one datagram through `eth0`.
fn send(machine: &Machine, from: &str, to: &str) {
    let scope = machine.index("eth0");
    let address = |text: &str, port| match text.parse().unwrap() {
        IpAddr::V4(address) => SocketAddr::from((address, port)),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope).into(),
    };
    machine.on(|| {
        UdpSocket::bind(address(from, 0))
            .unwrap()
            .send_to(b"x", address(to, 9))
            .unwrap()
    });
}

/// Has a machine say a word to everyone who connects.
fn answer(on: &Machine, address: &str, word: &'static str) {
    let listener = on.on(|| TcpListener::bind(address)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(word.as_bytes()));
        }
    });
}

/// What is said to a machine that connects.
fn ask(from: &Machine, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let patience = std::time::Duration::from_millis(700);
    let mut stream = from.on(|| TcpStream::connect_timeout(&address, patience)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut word = String::new();
    stream.read_to_string(&mut word).ok()?;
    Some(word)
}
