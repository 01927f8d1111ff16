//! A dom0 as the world of the stories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use xeno_model::id::{Digest, DomainUuid, FleetName, SliverId};
use xeno_model::observed::Limits;
use xeno_reconciler::contract::World;
use xeno_reconciler::ports::{DomainSpec, Hypervisor as _};
use xeno_test_support::free_port;
use xeno_xen::{XenConfig, XenDriver};

/// Far longer than anything takes on an emulated processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
const STRANGER: &str = "stranger";

pub(crate) fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

fn kernel() -> PathBuf {
    setting("XENO_LAB_KERNEL", "/srv/lab/vmlinux").into()
}

fn initramfs() -> PathBuf {
    setting("XENO_LAB_INITRD", "/srv/lab/guest-initrd").into()
}

/// A dom0.
pub(crate) struct Dom0 {
    dir: tempfile::TempDir,
    pub(crate) driver: XenDriver,
    blind: bool,
}

impl Dom0 {
    pub(crate) fn new() -> Self {
        // On a disk: images of memory lie here.
        let dir = tempfile::Builder::new()
            .prefix("xeno-contract")
            .tempdir_in("/var/tmp")
            .unwrap();
        let driver = Self::driver_in(dir.path(), false);
        Self {
            dir,
            driver,
            blind: false,
        }
    }

    fn driver_in(dir: &Path, blind: bool) -> XenDriver {
        let usual = XenConfig::new(dir.join("xen"));
        let xl = if blind {
            "/bin/false".into()
        } else {
            usual.xl.clone()
        };
        XenDriver::new(XenConfig {
            dom0_reserve_mib: 256,
            xl,
            xl_resume: setting("XENO_LAB_RESUME", "/srv/data/xeno-xl-resume").into(),
            xl_gate: setting("XENO_LAB_GATE", "/srv/data/xeno-xl-gate").into(),
            ..usual
        })
        .unwrap()
    }

    pub(crate) fn domid(&self, name: &str) -> Option<String> {
        let said = Command::new("xl").args(["domid", name]).output().unwrap();
        said.status
            .success()
            .then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    pub(crate) fn console(&self, sliver: &SliverId) -> String {
        let bytes = fs::read(self.driver.console_log(sliver)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

pub(crate) fn xl(args: &[&str]) {
    let said = Command::new("xl").args(args).output().unwrap();
    assert!(
        said.status.success(),
        "xl {args:?}: {}",
        String::from_utf8_lossy(&said.stderr)
    );
}

pub(crate) async fn until(what: &str, right: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !right() {
        assert!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A guest that counts.
pub(crate) fn spec(sliver: &str) -> DomainSpec {
    let sliver = SliverId::parse(sliver).unwrap();
    DomainSpec {
        uuid: DomainUuid::of(&FleetName::new("lab").unwrap(), &sliver),
        sliver,
        boot: Digest::of(b"boot"),
        vcpus: 1,
        vcpus_max: 2,
        memory_mib: 112,
        memory_max_mib: 128,
        limits: Limits::default(),
        kernel: kernel(),
        initramfs: initramfs(),
        cmdline: vec!["quiet".into(), "mitigations=off".into()],
        mounts: Vec::new(),
        publish: Vec::new(),
        addresses: Vec::new(),
    }
}

impl Drop for Dom0 {
    fn drop(&mut self) {
        // What a story that failed has left would stand in the way of the next.
        for name in ["xeno.web-0", "xeno.web-0--migratedaway", STRANGER] {
            if let Some(domid) = self.domid(name) {
                let _ = Command::new("xl").args(["destroy", &domid]).status();
            }
        }
    }
}

impl World for Dom0 {
    type Driver = XenDriver;

    fn driver(&self) -> &XenDriver {
        &self.driver
    }

    fn restart(&mut self) {
        self.driver = Self::driver_in(self.dir.path(), self.blind);
    }

    fn spec(&self, sliver: &str) -> DomainSpec {
        spec(sliver)
    }

    fn free_port(&self) -> u16 {
        free_port()
    }

    /// Its guests mount nothing.
    async fn prepare(&self, _: &DomainSpec) {}

    async fn settle(&self, spec: &DomainSpec) {
        let ready = setting("XENO_LAB_READY", "lab-guest: tick");
        until("a guest that is up", || {
            self.console(&spec.sliver).contains(&ready)
        })
        .await;
    }

    async fn kill(&self, sliver: &SliverId) {
        xl(&["destroy", &format!("xeno.{}", sliver.label())]);
    }

    async fn freeze(&self, sliver: &SliverId) {
        xl(&["pause", &format!("xeno.{}", sliver.label())]);
    }

    async fn make_stranger(&self) -> String {
        let config = self.dir.path().join("stranger.cfg");
        let (kernel, initramfs) = (kernel(), initramfs());
        let text = format!(
            "name = \"{STRANGER}\"\ntype = \"pv\"\nkernel = \"{}\"\nramdisk = \"{}\"\nmemory = 96\n",
            kernel.display(),
            initramfs.display()
        );
        fs::write(&config, text).unwrap();
        xl(&["create", "-q", config.to_str().unwrap()]);
        STRANGER.to_owned()
    }

    async fn stranger_runs(&self) -> bool {
        self.domid(STRANGER).is_some()
    }

    async fn end_stranger(&self) {
        xl(&["destroy", STRANGER]);
    }

    fn blind(&mut self, blind: bool) -> bool {
        self.blind = blind;
        self.restart();
        true
    }

    fn disk_mark(&self, _: &DomainSpec) -> Digest {
        Digest::of(b"a disk")
    }

    fn refuses(&self) -> bool {
        true
    }

    fn broken(&self) -> Vec<String> {
        Vec::new()
    }
}
