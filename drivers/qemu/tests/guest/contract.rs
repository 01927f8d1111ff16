//! The stories that all hypervisors keep to, with real guests.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use xeno_model::id::{Digest, SliverId};
use xeno_qemu::QemuDriver;
use xeno_reconciler::contract::moves::{self, Life, MOVES, Moving};
use xeno_reconciler::contract::{STORIES, World, run};
use xeno_reconciler::ports::DomainSpec;
use xeno_test_support::free_port;

use crate::lab::{Lab, kill, qmp, until};
use crate::suspend::{boot_id, counted};

const STRANGER: &str = "stranger";

/// A node with QEMU, and somebody else's machine beside it.
struct Node {
    lab: Lab,
    stranger: Mutex<Option<Child>>,
}

impl Node {
    fn new() -> Self {
        Self {
            lab: Lab::new(),
            stranger: Mutex::new(None),
        }
    }

    /// What a story names only by its sliver.
    fn spec_of(&self, sliver: &SliverId) -> DomainSpec {
        self.lab.spec(&sliver.to_string())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.stranger.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl World for Node {
    type Driver = QemuDriver;

    fn driver(&self) -> &QemuDriver {
        &self.lab.driver
    }

    fn restart(&mut self) {
        self.lab.restart();
    }

    fn spec(&self, sliver: &str) -> DomainSpec {
        self.lab.spec(sliver)
    }

    fn free_port(&self) -> u16 {
        free_port()
    }

    /// Its guests mount nothing.
    async fn prepare(&self, _: &DomainSpec) {}

    async fn settle(&self, spec: &DomainSpec) {
        self.lab.console_says(spec, "TEST ready").await;
    }

    async fn kill(&self, sliver: &SliverId) {
        let spec = self.spec_of(sliver);
        until("its process id", async || self.lab.has_pid(&spec)).await;
        kill(self.lab.pid(&spec));
        until("the end of a killed QEMU", async || {
            self.lab.state(&spec).await.is_none()
        })
        .await;
    }

    async fn freeze(&self, sliver: &SliverId) {
        qmp(&self.lab, &self.spec_of(sliver), "stop");
    }

    async fn make_stranger(&self) -> String {
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-S", "-m", "96"])
            .args(["-name", &format!("guest={STRANGER}")])
            .stdin(Stdio::null())
            .spawn();
        *self.stranger.lock().unwrap() = Some(child.unwrap());
        let shown = async || {
            let strangers = self.lab.observe().await.strangers;
            strangers.iter().any(|stranger| stranger.name == STRANGER)
        };
        until("the stranger", shown).await;
        STRANGER.to_owned()
    }

    async fn stranger_runs(&self) -> bool {
        let mut stranger = self.stranger.lock().unwrap();
        stranger
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    async fn end_stranger(&self) {
        if let Some(mut child) = self.stranger.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn blind(&mut self, _: bool) -> bool {
        // What it looks at is /proc.
        false
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

impl Moving for Node {
    async fn life(&self, spec: &DomainSpec) -> Life {
        let console = self.lab.console(spec);
        // One that came from elsewhere counts already.
        if console.contains("TEST ready") && !console.contains("TEST count") {
            self.lab.type_line(spec, "count");
        }
        until("a number", async || !counted(&self.lab.console(spec)).is_empty()).await;
        let boot = boot_id(&self.lab, spec).await;
        let count = counted(&self.lab.console(spec)).last().copied().unwrap();
        Life { boot, count }
    }

    async fn moment(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn qemu_keeps_the_contract() {
    for story in STORIES {
        run(story, &mut Node::new()).await;
        println!("{story}");
    }
}

#[tokio::test]
async fn qemu_keeps_the_contract_of_moves() {
    for story in MOVES {
        let start = Instant::now();
        moves::run(story, &mut Node::new(), &mut Node::new()).await;
        println!("{story}: {:?}", start.elapsed());
    }
}
