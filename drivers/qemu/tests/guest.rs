//! The driver with real guests: QEMU, a real kernel, and an initramfs with nothing but busybox.
//!
//! Needs `qemu-system-x86_64`, `/bin/busybox` (busybox-static), and the directory `XENO_IMAGES` (default: the
//! workspace's `target/images`) with `vmlinuz` and `modules/VERSION`, as `make image` makes it. What is missing is an
//! error, so that a green run means that guests ran.

#![expect(
    clippy::print_stdout,
    reason = "measurements, for those who ask with --nocapture"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xeno_model::desired::Publish;
use xeno_model::id::{Digest, DomainUuid, FleetName, SliverId};
use xeno_model::observed::{DomainState, Domains};
use xeno_qemu::{Accel, AccelChoice, QemuConfig, QemuDriver};
use xeno_reconciler::ports::{DomainSpec, Grace, GuestMount, Hypervisor, PortError, Retry};

/// Far longer than anything here takes; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(90);
const MODULES: [&str; 12] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "button",
    "evdev",
    "pvpanic",
    "pvpanic_pci",
];

/// A node: a state directory, and every QEMU that is started in it ends with it.
struct Lab {
    dir: TempDir,
    driver: QemuDriver,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("xq").tempdir().unwrap();
        fs::write(dir.path().join("initramfs"), initramfs()).unwrap();
        let driver = Self::driver_in(dir.path());
        Self { dir, driver }
    }

    fn driver_in(dir: &Path) -> QemuDriver {
        let mut config = QemuConfig::new(dir.join("state"), forwarder());
        config.accel = AccelChoice::Always(Accel::Tcg);
        assert!(
            config.find_qemu().is_some(),
            "qemu-system-x86_64 is missing: apt install qemu-system-x86"
        );
        QemuDriver::new(config).unwrap()
    }

    fn spec(&self, sliver: &str) -> DomainSpec {
        let sliver = SliverId::parse(sliver).unwrap();
        DomainSpec {
            uuid: DomainUuid::of(&FleetName::new("lab").unwrap(), &sliver),
            sliver,
            boot: Digest::of(b"one"),
            vcpus: 1,
            memory_mib: 128,
            memory_max_mib: 128,
            limits: Default::default(),
            kernel: images().join("vmlinuz"),
            initramfs: self.dir.path().join("initramfs"),
            cmdline: vec!["quiet".into(), "mitigations=off".into()],
            mounts: Vec::new(),
            publish: Vec::new(),
        }
    }

    async fn observe(&self) -> Domains {
        self.driver.observe().await.unwrap()
    }

    async fn state(&self, spec: &DomainSpec) -> Option<DomainState> {
        self.observe()
            .await
            .ours
            .get(&spec.sliver)
            .map(|domain| domain.state)
    }

    fn pid(&self, spec: &DomainSpec) -> u32 {
        let path = self
            .dir
            .path()
            .join("state")
            .join(spec.sliver.label())
            .join("pid");
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    fn console(&self, spec: &DomainSpec) -> String {
        let bytes = fs::read(self.driver.console_log(&spec.sliver)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Types a line, as a person at the console would, and reads what comes: a client that does not holds up the
    /// guest, whose serial port waits for it after a few hundred characters.
    fn type_line(&self, spec: &DomainSpec, line: &str) {
        let mut console = UnixStream::connect(self.driver.console_socket(&spec.sliver)).unwrap();
        writeln!(console, "{line}").unwrap();
        std::thread::spawn(move || std::io::copy(&mut console, &mut std::io::sink()));
    }

    async fn console_says(&self, spec: &DomainSpec, marker: &str) {
        let what = format!("{marker:?} on the console of {}", spec.sliver);
        until(&what, async || self.console(spec).contains(marker)).await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let state = self.dir.path().join("state");
        for process in xeno_qemu::process::scan().unwrap_or_default() {
            if process.run_dir().is_some_and(|dir| dir.starts_with(&state)) {
                kill(process.pid);
            }
        }
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Waits for something that comes without notice.
async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !seen().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn images() -> PathBuf {
    let named = std::env::var_os("XENO_IMAGES").map(PathBuf::from);
    let dir = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images"));
    let kernel = dir.join("vmlinuz");
    assert!(
        kernel.is_file(),
        "no kernel at {}: run `make image`, or set XENO_IMAGES",
        kernel.display()
    );
    dir.canonicalize().unwrap()
}

/// Cargo builds examples together with tests, beside the directory the test lies in.
fn forwarder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().parent().unwrap().join("examples/guestfwd");
    assert!(
        example.is_file(),
        "{} is missing: build it with --examples",
        example.display()
    );
    example
}

/// A "newc" archive of busybox, the modules, and the script beside this file.
fn initramfs() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").expect("/bin/busybox is missing: apt install busybox-static");
    let mut archive = Vec::new();
    for dir in ["bin", "dev", "etc", "modules", "proc", "sys"] {
        member(&mut archive, dir, 0o040_755, b"");
    }
    member(&mut archive, "bin/busybox", 0o100_755, &busybox);
    member(&mut archive, "init", 0o100_755, include_bytes!("guest/init.sh"));
    let mut missing = MODULES.to_vec();
    let mut dirs = vec![images().join("modules")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                dirs.push(path);
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some(at) = missing
                .iter()
                .position(|module| format!("{module}.ko") == name.replace('-', "_"))
            else {
                continue;
            };
            missing.remove(at);
            member(
                &mut archive,
                &format!("modules/{name}"),
                0o100_644,
                &fs::read(path).unwrap(),
            );
        }
    }
    assert!(
        missing.is_empty(),
        "no modules {missing:?} in {}",
        images().display()
    );
    member(&mut archive, "TRAILER!!!", 0, b"");
    archive
}

fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let mut header = String::from("070701");
    for field in [
        0,
        mode,
        0,
        0,
        1,
        0,
        content.len().try_into().unwrap(),
        0,
        0,
        0,
        0,
        1 + u32::try_from(name.len()).unwrap(),
        0,
    ] {
        write!(header, "{field:08x}").unwrap();
    }
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A file server that says its name and what it was told, on a unix socket.
fn answer_as(path: &Path, name: &'static str) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 100];
            let len = stream.read(&mut asked).unwrap();
            let asked = String::from_utf8_lossy(&asked[..len]).trim().to_owned();
            writeln!(stream, "{name} heard {asked}").unwrap();
        }
    });
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The whole life of one guest: it boots, reaches its own exports and nothing else, publishes a port, is typed to, is
/// adopted by a second driver, and shuts down by itself when asked.
#[tokio::test]
async fn a_guest_lives_and_is_adopted() {
    let mut lab = Lab::new();
    let mut spec = lab.spec("web/0");
    let (first, second) = (lab.dir.path().join("a.sock"), lab.dir.path().join("b.sock"));
    answer_as(&first, "root");
    answer_as(&second, "logs");
    spec.mounts = vec![
        GuestMount {
            path: "/".into(),
            socket: first,
        },
        GuestMount {
            path: "/var/log x".into(),
            socket: second,
        },
    ];
    // Something on the node that anybody there can read, and the guest must not.
    let secret = TcpListener::bind("127.0.0.1:0").unwrap();
    let node_port = secret.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in secret.incoming() {
            let _ = stream.unwrap().write_all(b"a secret\n");
        }
    });
    spec.cmdline.push(format!("test.port={node_port}"));
    let port = free_port();
    spec.publish = vec![Publish {
        guest: 80,
        host: port,
    }];

    let start = Instant::now();
    lab.driver.boot(&spec).await.unwrap();
    let runs = start.elapsed();
    let seen = lab.observe().await;
    let domain = &seen.ours[&spec.sliver];
    assert_eq!(
        (domain.state, domain.booted, domain.uuid),
        (DomainState::Running, spec.boot, spec.uuid)
    );
    assert_eq!(
        (domain.memory_mib, domain.vcpus, &domain.publish),
        (128, 1, &spec.publish)
    );

    // The agent goes, and another one comes. Nothing that ends the first one's session or group ends the guest.
    let pid = lab.pid(&spec);
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    assert_eq!(rustix::process::getsid(process).unwrap(), process.unwrap());
    lab.driver = Lab::driver_in(lab.dir.path());
    assert_eq!(lab.observe().await.ours[&spec.sliver], *domain);
    lab.driver.boot(&spec).await.unwrap();
    assert_eq!(lab.pid(&spec), pid, "booting what runs must change nothing");
    let mut other = spec.clone();
    other.boot = Digest::of(b"two");
    assert_eq!(lab.driver.boot(&other).await.unwrap_err().retry, Retry::Never);

    lab.console_says(&spec, "TEST ready").await;
    println!(
        "QEMU answered after {runs:?}, the guest was ready after {:?}",
        start.elapsed()
    );
    let console = lab.console(&spec);
    assert!(
        console.contains("TEST 10.0.2.100 says: root heard hello from 10.0.2.100"),
        "{console}"
    );
    assert!(
        console.contains("TEST 10.0.2.101 says: logs heard hello from 10.0.2.101"),
        "{console}"
    );
    assert!(!console.contains("TEST reached the node"), "{console}");
    for word in [
        "xeno.hostname=web-0",
        "xeno.addr=10.0.2.15/24",
        "xeno.server=10.0.2.100",
        "xeno.mount=/var/log%20x:10.0.2.101:/",
    ] {
        assert!(console.contains(word), "{word} in {console}");
    }

    // QEMU accepts before the guest listens, and then ends the connection.
    let page = async || {
        let mut page = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.read_to_string(&mut page).is_ok() && page.trim() == "TEST page"
    };
    until("the page", page).await;
    lab.type_line(&spec, "good day");
    lab.console_says(&spec, "TEST typed good day").await;

    let start = Instant::now();
    lab.driver
        .shutdown(&spec.sliver, Grace { ms: 60_000 })
        .await
        .unwrap();
    println!("the guest was down after {:?}", start.elapsed());
    assert!(
        lab.console(&spec).contains("TEST power button"),
        "it was not asked"
    );
    assert_eq!(lab.state(&spec).await, None);
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    lab.driver.shutdown(&spec.sliver, Grace { ms: 0 }).await.unwrap();
    lab.driver.forget(&spec.sliver).await.unwrap();
    assert!(!lab.driver.console_log(&spec.sliver).exists());
}

#[tokio::test]
async fn a_guest_that_does_not_listen_is_destroyed() {
    let lab = Lab::new();
    let mut spec = lab.spec("deaf/0");
    spec.cmdline.push("test.deaf".into());
    lab.driver.boot(&spec).await.unwrap();
    lab.console_says(&spec, "TEST ready").await;
    lab.driver
        .shutdown(&spec.sliver, Grace { ms: 200 })
        .await
        .unwrap();
    assert_eq!(lab.state(&spec).await, None);
    // Its log is still there to be read.
    lab.console_says(&spec, "TEST ready").await;

    // And it can be booted again, with a log of its own.
    lab.driver.boot(&spec).await.unwrap();
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
    lab.driver.shutdown(&spec.sliver, Grace { ms: 0 }).await.unwrap();
}

/// Gives one command past the driver.
fn qmp(lab: &Lab, spec: &DomainSpec, command: &str) {
    let dir = lab.dir.path().join("state").join(spec.sliver.label());
    let stream = UnixStream::connect(dir.join("qmp.sock")).unwrap();
    write!(
        &stream,
        "{{\"execute\":\"qmp_capabilities\"}}{{\"execute\":\"{command}\",\"id\":7}}"
    )
    .unwrap();
    let mut lines = BufReader::new(&stream).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("\"id\": 7")),
        "no answer to {command}"
    );
}

#[tokio::test]
async fn a_guest_that_stands_still_is_seen_as_what_it_is() {
    let lab = Lab::new();
    let spec = lab.spec("web/2");
    lab.driver.boot(&spec).await.unwrap();
    qmp(&lab, &spec, "stop");
    assert_eq!(lab.state(&spec).await, Some(DomainState::Paused));
    qmp(&lab, &spec, "cont");
    lab.console_says(&spec, "TEST ready").await;

    lab.type_line(&spec, "panic");
    until("a crashed guest", async || {
        lab.state(&spec).await == Some(DomainState::Crashed)
    })
    .await;
    assert_eq!(lab.driver.boot(&spec).await.unwrap_err().retry, Retry::Never);
    // Nobody waits for a crashed guest to stop by itself.
    let start = Instant::now();
    lab.driver
        .shutdown(&spec.sliver, Grace { ms: 600_000 })
        .await
        .unwrap();
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(lab.state(&spec).await, None);
}

#[tokio::test]
async fn a_guest_that_reboots_or_is_killed_is_gone() {
    let lab = Lab::new();
    let spec = lab.spec("web/1");
    lab.driver.boot(&spec).await.unwrap();
    lab.console_says(&spec, "TEST ready").await;
    lab.type_line(&spec, "reboot");
    until("the end of a guest that rebooted", async || {
        lab.state(&spec).await.is_none()
    })
    .await;

    lab.driver.boot(&spec).await.unwrap();
    kill(lab.pid(&spec));
    until("the end of a killed QEMU", async || {
        lab.state(&spec).await.is_none()
    })
    .await;
    // What it left lies in nobody's way.
    lab.driver.boot(&spec).await.unwrap();
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
    lab.driver.shutdown(&spec.sliver, Grace { ms: 0 }).await.unwrap();
}

/// A QEMU of somebody else.
struct StrangeQemu(Child);

impl StrangeQemu {
    fn start(args: &[&str]) -> Self {
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-S", "-m", "96"])
            .args(args)
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("qemu-system-x86_64 is missing: apt install qemu-system-x86"))
    }
}

impl Drop for StrangeQemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn strangers_are_shown_and_survive() {
    let lab = Lab::new();
    let spec = lab.spec("web/0");
    // It has the name and UUID of ours, but lives elsewhere: another node's agent on this machine.
    let uuid = spec.uuid.to_string();
    let elsewhere = lab.dir.path().join("pid");
    let mut stranger = StrangeQemu::start(&[
        "-name",
        "guest=xeno-web-0",
        "-uuid",
        &uuid,
        "-pidfile",
        elsewhere.to_str().unwrap(),
    ]);
    let shown = async || {
        let domains = lab.observe().await;
        assert!(domains.ours.is_empty());
        domains
            .strangers
            .iter()
            .any(|found| found.name == "xeno-web-0" && found.memory_mib == 96)
    };
    until("the stranger", shown).await;
    lab.driver.shutdown(&spec.sliver, Grace { ms: 0 }).await.unwrap();
    assert!(
        stranger.0.try_wait().unwrap().is_none(),
        "the stranger was touched"
    );
}

async fn refused(lab: &Lab, spec: &DomainSpec, words: &str) {
    let refused = |error: PortError| assert!(error.what.contains(words), "{error}");
    refused(lab.driver.observe().await.unwrap_err());
    refused(lab.driver.boot(spec).await.unwrap_err());
    refused(
        lab.driver
            .shutdown(&spec.sliver, Grace { ms: 0 })
            .await
            .unwrap_err(),
    );
}

#[tokio::test]
async fn a_process_that_contradicts_its_record_is_neither_trusted_nor_touched() {
    let lab = Lab::new();
    let spec = lab.spec("web/0");
    lab.driver.boot(&spec).await.unwrap();
    let pid = lab.pid(&spec);
    let record = lab.dir.path().join("state/web-0/domain.json");
    let good = fs::read_to_string(&record).unwrap();
    let uuid = spec.uuid.to_string();

    fs::write(
        &record,
        good.replace(&uuid, "11111111-2222-8333-8444-555555555555"),
    )
    .unwrap();
    refused(&lab, &spec, "has UUID").await;
    fs::write(&record, "{").unwrap();
    refused(&lab, &spec, "its record is of no use").await;
    fs::remove_file(&record).unwrap();
    refused(&lab, &spec, "is missing").await;

    fs::write(&record, good).unwrap();
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
    assert_eq!(lab.pid(&spec), pid);

    // A QEMU that hangs is still there.
    let _busy = UnixStream::connect(lab.dir.path().join("state/web-0/qmp.sock")).unwrap();
    assert_eq!(lab.state(&spec).await, Some(DomainState::Running));
    lab.driver
        .shutdown(&spec.sliver, Grace { ms: 60_000 })
        .await
        .unwrap();
    assert_eq!(lab.state(&spec).await, None);
}

#[tokio::test]
async fn what_cannot_boot_says_why() {
    let lab = Lab::new();
    let fails = async |spec: &DomainSpec, retry: Retry, words: &str| {
        let error = lab.driver.boot(spec).await.unwrap_err();
        assert!(error.what.contains(words) && error.retry == retry, "{error:?}");
        assert_eq!(lab.state(spec).await, None);
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut spec = lab.spec("web/0");
    spec.publish = vec![Publish {
        guest: 80,
        host: port,
    }];
    fails(
        &spec,
        Retry::Later,
        &format!("port {port} of this node is in use"),
    )
    .await;

    let mut spec = lab.spec("web/0");
    spec.kernel = lab.dir.path().join("none");
    fails(&spec, Retry::Later, "the kernel").await;
    spec.kernel = lab.dir.path().join("a,b");
    fails(&spec, Retry::Never, "must be absolute, of letters").await;

    let mut spec = lab.spec("web/0");
    spec.memory_mib = 1 << 20;
    spec.kernel = lab.spec("web/0").initramfs;
    fails(&spec, Retry::Later, "ended at once").await;
}

/// Whether KVM works here is not known; that a guest boots with what was found out is.
#[tokio::test]
async fn the_accelerator_is_found_out() {
    let lab = Lab::new();
    let config = QemuConfig::new(lab.dir.path().join("state"), forwarder());
    let driver = QemuDriver::new(config).unwrap();
    let kernel = images().join("vmlinuz");
    let start = Instant::now();
    let verdict = driver.accel(&kernel).await.unwrap();
    println!(
        "{} because {}, found out in {:?}",
        verdict.accel,
        verdict.why,
        start.elapsed()
    );
    let start = Instant::now();
    assert_eq!(driver.accel(&kernel).await.unwrap(), verdict);
    assert!(
        start.elapsed() < xeno_qemu::accel::PROBE_LIMIT / 2,
        "it was found out twice"
    );
    let facts = driver.facts().await;
    let fact = facts.iter().find(|fact| fact.name == "acceleration").unwrap();
    assert!(fact.what.contains(&verdict.why), "{fact:?}");
    for fact in facts {
        println!("{fact:?}");
    }
}
