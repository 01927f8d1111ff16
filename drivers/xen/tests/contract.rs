//! The driver on a real Xen, by the stories that all hypervisors keep to, and by some of its own.
//!
//! A program to be run in dom0, as root, with nothing of Xenoslice running beside it. Needs a guest that prints
//! `$XENO_LAB_READY` (`lab-guest: tick`) when it is up: kernel and initramfs `$XENO_LAB_KERNEL`, `$XENO_LAB_INITRD` (the laboratory's own if not
//! given), and the hotplug script where xl looks for it. What is missing is an error, so that a green run means that
//! guests ran.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use xeno_model::id::{Digest, DomainUuid, FleetName, SliverId};
use xeno_model::observed::{DomainState, Limits};
use xeno_reconciler::contract::{STORIES, World, run};
use xeno_reconciler::ports::{DomainSpec, Grace, Hypervisor};
use xeno_xen::{XenConfig, XenDriver};

/// Far longer than anything takes on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(240);
const STRANGER: &str = "stranger";

fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

fn kernel() -> PathBuf {
    setting("XENO_LAB_KERNEL", "/srv/lab/vmlinux").into()
}

fn initramfs() -> PathBuf {
    setting("XENO_LAB_INITRD", "/srv/lab/guest-initrd").into()
}

/// A dom0.
struct Dom0 {
    dir: tempfile::TempDir,
    driver: XenDriver,
    blind: bool,
}

impl Dom0 {
    fn new() -> Self {
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
            ..usual
        })
        .unwrap()
    }

    fn domid(&self, name: &str) -> Option<String> {
        let said = Command::new("xl").args(["domid", name]).output().unwrap();
        said.status
            .success()
            .then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    }

    fn console(&self, sliver: &SliverId) -> String {
        let bytes = fs::read(self.driver.console_log(sliver)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn xl(args: &[&str]) {
    let said = Command::new("xl").args(args).output().unwrap();
    assert!(
        said.status.success(),
        "xl {args:?}: {}",
        String::from_utf8_lossy(&said.stderr)
    );
}

async fn until(what: &str, right: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !right() {
        assert!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Drop for Dom0 {
    fn drop(&mut self) {
        // What a story that failed has left would stand in the way of the next.
        for name in ["xeno.web-0", STRANGER] {
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
        let sliver = SliverId::parse(sliver).unwrap();
        DomainSpec {
            uuid: DomainUuid::of(&FleetName::new("lab").unwrap(), &sliver),
            sliver,
            boot: Digest::of(b"boot"),
            vcpus: 1,
            memory_mib: 112,
            memory_max_mib: 128,
            limits: Limits::default(),
            kernel: kernel(),
            initramfs: initramfs(),
            cmdline: vec!["quiet".into(), "mitigations=off".into()],
            mounts: Vec::new(),
            publish: Vec::new(),
        }
    }

    fn free_port(&self) -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
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

/// One after the other: there is one dom0. `XENO_LAB_STORY` names one alone.
#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "measurements, for those who ask with --nocapture"
)]
async fn xen_keeps_the_contract() {
    let wanted = std::env::var("XENO_LAB_STORY").ok();
    for story in STORIES
        .into_iter()
        .filter(|story| wanted.as_deref().is_none_or(|wanted| *story == wanted))
    {
        let start = Instant::now();
        run(story, &mut Dom0::new()).await;
        println!("{story}: {:.1} s", start.elapsed().as_secs_f64());
    }
    if wanted.is_none() {
        crashes().await;
        println!("crashes");
    }
}

/// What an agent leaves that dies at any step of a start, the next look can tell and the next call can settle.
async fn crashes() {
    let mut world = Dom0::new();
    let spec = world.spec("web/0");
    let sliver = &spec.sliver;

    // Dies right after it has asked for the domain: xl goes on, and whoever comes next waits for it.
    let begun = tokio::time::timeout(Duration::from_secs(1), world.driver.boot(&spec)).await;
    assert!(begun.is_err(), "a domain is not built within a second here");
    world.restart();
    let until_whole = Instant::now() + PATIENCE;
    while let Err(error) = world.driver.boot(&spec).await {
        assert!(Instant::now() < until_whole, "{error}");
        match world
            .driver
            .observe()
            .await
            .unwrap()
            .ours
            .get(sliver)
            .map(|domain| domain.state)
        {
            // Built to its end, and never noted as whole.
            Some(DomainState::Crashed) if !error.what.contains("at work") => {
                world.driver.shutdown(sliver, Grace { ms: 0 }).await.unwrap();
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    let seen = world.driver.observe().await.unwrap();
    assert_eq!(seen.ours[sliver].state, DomainState::Running);
    world.settle(&spec).await;

    // Dies while the memory is being stored: xl goes on, and the guest is found standing and whole.
    let begun = tokio::time::timeout(Duration::from_millis(2500), world.driver.suspend(sliver)).await;
    assert!(begun.is_err(), "memory is not stored within seconds here");
    world.restart();
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = world.driver.suspend(sliver).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    world
        .driver
        .seal_image(sliver, &Digest::of(b"a disk"))
        .await
        .unwrap();

    // Dies while it is loaded: the image stays, and what was loaded is no domain that could go on.
    let begun = tokio::time::timeout(Duration::from_millis(2500), world.driver.resume(&spec)).await;
    assert!(begun.is_err(), "memory is not loaded within seconds here");
    world.restart();
    let seen = world.driver.observe().await.unwrap();
    assert!(seen.images.contains_key(sliver), "the image is still there");
    assert!(
        seen.ours
            .get(sliver)
            .is_none_or(|domain| domain.state == DomainState::Crashed)
    );
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = world.driver.resume(&spec).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let seen = world.driver.observe().await.unwrap();
    assert_eq!(
        (seen.ours[sliver].state, seen.images.len()),
        (DomainState::Running, 0)
    );
    world.driver.shutdown(sliver, Grace { ms: 0 }).await.unwrap();
}
