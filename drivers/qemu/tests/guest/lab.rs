//! A node for tests: a state directory of its own, an initramfs with nothing but busybox, and what is needed to look.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xeno_model::id::{Digest, DomainUuid, FleetName, SliverId};
use xeno_model::observed::{DomainState, Domains, Limits};
use xeno_qemu::{Accel, AccelChoice, QemuConfig, QemuDriver};
use xeno_reconciler::ports::{DomainSpec, Hypervisor};

/// Far longer than anything here takes; a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
const MODULES: [&str; 13] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_balloon",
    "button",
    "evdev",
    "pvpanic",
    "pvpanic_pci",
];

/// A node: a state directory, and every QEMU that is started in it ends with it.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) driver: QemuDriver,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("xq").tempdir().unwrap();
        fs::write(dir.path().join("initramfs"), initramfs()).unwrap();
        let driver = Self::driver_in(dir.path());
        Self { dir, driver }
    }

    pub(crate) fn driver_in(dir: &Path) -> QemuDriver {
        QemuDriver::new(Self::config_in(dir)).unwrap()
    }

    pub(crate) fn config_in(dir: &Path) -> QemuConfig {
        let mut config = QemuConfig::new(dir.join("state"), forwarder());
        config.accel = AccelChoice::Always(Accel::Tcg);
        assert!(
            config.find_qemu().is_some(),
            "qemu-system-x86_64 is missing: apt install qemu-system-x86"
        );
        config
    }

    /// Another agent takes the place of the one that was there.
    pub(crate) fn restart(&mut self) {
        self.driver = Self::driver_in(self.dir.path());
    }

    pub(crate) fn spec(&self, sliver: &str) -> DomainSpec {
        let sliver = SliverId::parse(sliver).unwrap();
        DomainSpec {
            uuid: DomainUuid::of(&FleetName::new("lab").unwrap(), &sliver),
            sliver,
            boot: Digest::of(b"one"),
            vcpus: 1,
            vcpus_max: 1,
            memory_mib: 128,
            memory_max_mib: 128,
            limits: Limits::default(),
            kernel: images().join("vmlinuz"),
            initramfs: self.dir.path().join("initramfs"),
            cmdline: vec!["quiet".into(), "mitigations=off".into(), "no_timer_check".into()],
            mounts: Vec::new(),
            publish: Vec::new(),
            addresses: Vec::new(),
        }
    }

    pub(crate) async fn observe(&self) -> Domains {
        self.driver.observe().await.unwrap()
    }

    pub(crate) async fn state(&self, spec: &DomainSpec) -> Option<DomainState> {
        self.observe()
            .await
            .ours
            .get(&spec.sliver)
            .map(|domain| domain.state)
    }

    pub(crate) fn pid(&self, spec: &DomainSpec) -> u32 {
        let text = fs::read_to_string(self.pid_file(spec)).unwrap();
        text.trim().parse().unwrap()
    }

    /// QEMU writes it a moment after its start.
    pub(crate) fn has_pid(&self, spec: &DomainSpec) -> bool {
        fs::read_to_string(self.pid_file(spec)).is_ok_and(|text| text.ends_with('\n'))
    }

    fn pid_file(&self, spec: &DomainSpec) -> PathBuf {
        let state = self.dir.path().join("state");
        state.join(spec.sliver.label()).join("pid")
    }

    pub(crate) fn console(&self, spec: &DomainSpec) -> String {
        let bytes = fs::read(self.driver.console_log(&spec.sliver)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Boots a guest, and waits until it is ready.
    pub(crate) async fn boots(&self, spec: &DomainSpec) {
        self.driver.boot(spec).await.unwrap();
        self.console_says(spec, "TEST ready").await;
    }

    pub(crate) fn console_log(&self, spec: &DomainSpec) -> PathBuf {
        self.driver.console_log(&spec.sliver)
    }

    /// Types a line, as a person at the console would, and reads until QEMU has taken all of it: it drops what it has not
    /// read when a client goes altogether. There is one client at a time, and one that does not read holds up the guest, whose
    /// serial port waits for it after a few hundred characters.
    pub(crate) fn type_line(&self, spec: &DomainSpec, line: &str) {
        let mut console = UnixStream::connect(self.driver.console_socket(&spec.sliver)).unwrap();
        console.set_read_timeout(Some(PATIENCE)).unwrap();
        console.write_all(format!("{line}\n").as_bytes()).unwrap();
        console.shutdown(Shutdown::Write).unwrap();
        match console.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            // A guest that ends at once takes its QEMU with it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }

    pub(crate) async fn console_says(&self, spec: &DomainSpec, marker: &str) {
        let what = format!("{marker:?} on the console of {}", spec.sliver);
        until(&what, async || self.console(spec).contains(marker)).await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let state = self.dir.path().join("state");
        if std::thread::panicking() {
            show_consoles(&state);
        }
        for process in xeno_qemu::process::scan().unwrap_or_default() {
            if process.run_dir().is_some_and(|dir| dir.starts_with(&state)) {
                kill(process.pid);
            }
        }
    }
}

/// What each guest printed last, for whoever has to find out why a test failed.
fn show_consoles(state: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let bytes = fs::read(entry.path().join("console.log")).unwrap_or_default();
        let tail = &bytes[bytes.len().saturating_sub(2_000)..];
        println!(
            "console of {:?}, at its end:\n{}",
            entry.file_name(),
            String::from_utf8_lossy(tail)
        );
    }
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Waits for something that comes without notice.
pub(crate) async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !seen().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn images() -> PathBuf {
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
pub(crate) fn forwarder() -> PathBuf {
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
    member(&mut archive, "init", 0o100_755, include_bytes!("init.sh"));
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

/// Gives one command past the driver.
pub(crate) fn qmp(lab: &Lab, spec: &DomainSpec, command: &str) {
    qmp_answer(lab, spec, command);
}

/// Gives one command past the driver; the line that answers it.
pub(crate) fn qmp_answer(lab: &Lab, spec: &DomainSpec, command: &str) -> String {
    let dir = lab.dir.path().join("state").join(spec.sliver.label());
    let stream = UnixStream::connect(dir.join("qmp.sock")).unwrap();
    write!(
        &stream,
        "{{\"execute\":\"qmp_capabilities\"}}{{\"execute\":\"{command}\",\"id\":7}}"
    )
    .unwrap();
    let mut lines = BufReader::new(&stream).lines().map(Result::unwrap);
    let answer = lines.find(|line| line.contains("\"id\": 7"));
    answer.unwrap_or_else(|| panic!("no answer to {command}"))
}
