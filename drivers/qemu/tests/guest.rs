//! The driver with real guests: QEMU, a real kernel, and an initramfs with nothing but busybox.
//!
//! Needs `qemu-system-x86_64`, `/bin/busybox` (busybox-static), and the directory `XENO_IMAGES` (default: the
//! workspace's `target/images`) with `vmlinuz` and `modules/VERSION`, as `make image` makes it. What is missing is an
//! error, so that a green run means that guests ran.

#![expect(
    clippy::print_stdout,
    reason = "measurements, for those who ask with --nocapture"
)]

#[path = "guest/contract.rs"]
mod contract;
#[path = "guest/lab.rs"]
mod lab;
#[path = "guest/moves.rs"]
mod moves;
#[path = "guest/suspend.rs"]
mod suspend;
#[path = "guest/tuning.rs"]
mod tuning;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use lab::{Lab, PATIENCE, forwarder, images, kill, qmp, until};
use xeno_model::desired::Publish;
use xeno_model::id::Digest;
use xeno_model::observed::DomainState;
use xeno_qemu::{QemuConfig, QemuDriver};
use xeno_reconciler::ports::{DomainSpec, Grace, GuestMount, Hypervisor, PortError, Retry};
use xeno_test_support::free_port;

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
            export: "/web-0.0".into(),
            socket: first,
        },
        GuestMount {
            path: "/var/log x".into(),
            export: "/web-0.1".into(),
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
    let facts = lab.driver.facts().await;
    let said = |fact: &xeno_qemu::Fact| fact.name == "silent" && fact.what.contains("web/0");
    assert!(facts.iter().any(said), "{facts:?}");
    let suspended = lab.driver.suspend(&spec.sliver).await.unwrap_err();
    assert!(suspended.retry == Retry::Later, "{suspended}");
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
