//! The stories of moves, between this dom0 and another.

use std::time::{Duration, Instant};

use xeno_model::id::{Digest, SliverId};
use xeno_model::observed::Domains;
use xeno_reconciler::contract::World;
use xeno_reconciler::contract::moves::{self, Life, MOVES, Moving};
use xeno_reconciler::ports::{
    Departure, DomainSpec, DriverFact, Grace, Hypervisor, MoveMemory, Pipe, PortError, PortResult, Tuning,
};
use xeno_test_support::free_port;
use xeno_xen::XenDriver;

use crate::dom0::{Dom0, until};
use crate::far::{Ask, Far};

/// A node: this one, or the other.
enum Node {
    Near(Box<Dom0>),
    Far(Far),
}

/// What drives it.
enum Driver<'a> {
    Near(&'a XenDriver),
    Far(&'a Far),
}

impl Node {
    fn on(&self) -> Driver<'_> {
        match self {
            Self::Near(dom0) => Driver::Near(&dom0.driver),
            Self::Far(far) => Driver::Far(far),
        }
    }

    async fn console(&self, sliver: &SliverId) -> String {
        match self {
            Self::Near(dom0) => dom0.console(sliver),
            Self::Far(far) => far.console(sliver).await,
        }
    }
}

/// What no story of moves asks for.
fn unasked<T>() -> PortResult<T> {
    Err(PortError::never("no story of moves asks for this"))
}

impl Hypervisor for Node {
    async fn observe(&self) -> PortResult<Domains> {
        match self.on() {
            Driver::Near(driver) => driver.observe().await,
            Driver::Far(far) => far.observe().await,
        }
    }

    async fn boot(&self, spec: &DomainSpec) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.boot(spec).await,
            Driver::Far(_) => unasked(),
        }
    }

    async fn shutdown(&self, sliver: &SliverId, grace: Grace) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => Hypervisor::shutdown(driver, sliver, grace).await,
            Driver::Far(far) => far.ask(&Ask::new("shutdown", sliver)).await,
        }
    }

    async fn unpause(&self, sliver: &SliverId) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.unpause(sliver).await,
            Driver::Far(far) => far.ask(&Ask::new("unpause", sliver)).await,
        }
    }

    async fn retune(&self, _: &SliverId, _: &Tuning) -> PortResult<()> {
        unasked()
    }

    async fn unpublish(&self, _: &SliverId) -> PortResult<()> {
        unasked()
    }

    async fn publish(&self, _: &SliverId, _: &Tuning) -> PortResult<()> {
        unasked()
    }

    async fn suspend(&self, _: &SliverId) -> PortResult<()> {
        unasked()
    }

    async fn seal_image(&self, _: &SliverId, _: &Digest) -> PortResult<()> {
        unasked()
    }

    async fn resume(&self, _: &DomainSpec) -> PortResult<()> {
        unasked()
    }

    async fn discard_image(&self, _: &SliverId) -> PortResult<()> {
        unasked()
    }

    fn console_log(&self, _: &SliverId) -> std::path::PathBuf {
        "/nonexistent".into()
    }

    fn console_socket(&self, _: &SliverId) -> std::path::PathBuf {
        "/nonexistent".into()
    }

    async fn facts(&self) -> Vec<DriverFact> {
        Vec::new()
    }
}

impl MoveMemory for Node {
    async fn depart(&self, sliver: &SliverId, departure: &Departure, out: Pipe) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.depart(sliver, departure, out).await,
            Driver::Far(far) => far.depart(sliver, departure, out).await,
        }
    }

    async fn call_off(&self, sliver: &SliverId) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.call_off(sliver).await,
            Driver::Far(far) => far.ask(&Ask::new("call_off", sliver)).await,
        }
    }

    async fn arrive(
        &self,
        spec: &DomainSpec,
        migration: xeno_model::id::MigrationId,
        from: Pipe,
    ) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.arrive(spec, migration, from).await,
            Driver::Far(far) => far.arrive(spec, migration, from).await,
        }
    }

    async fn clear(
        &self,
        sliver: &SliverId,
        migration: xeno_model::id::MigrationId,
        tuning: &Tuning,
    ) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.clear(sliver, migration, tuning).await,
            Driver::Far(far) => {
                let ask = Ask::new("clear", sliver)
                    .of(migration)
                    .publishing(&tuning.publish);
                far.ask(&ask).await
            }
        }
    }

    async fn wake(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.wake(sliver, tuning).await,
            Driver::Far(far) => {
                far.ask(&Ask::new("wake", sliver).publishing(&tuning.publish))
                    .await
            }
        }
    }

    async fn destroy(&self, sliver: &SliverId) -> PortResult<()> {
        match self.on() {
            Driver::Near(driver) => driver.destroy(sliver).await,
            Driver::Far(far) => far.ask(&Ask::new("destroy", sliver)).await,
        }
    }
}

impl World for Node {
    type Driver = Self;

    fn driver(&self) -> &Self {
        self
    }

    fn restart(&mut self) {
        match self {
            Self::Near(dom0) => dom0.restart(),
            Self::Far(far) => far.restart(),
        }
    }

    fn spec(&self, sliver: &str) -> DomainSpec {
        crate::dom0::spec(sliver)
    }

    fn free_port(&self) -> u16 {
        free_port()
    }

    async fn prepare(&self, _: &DomainSpec) {}

    async fn settle(&self, spec: &DomainSpec) {
        if let Self::Near(dom0) = self {
            dom0.settle(spec).await;
        }
    }

    async fn kill(&self, sliver: &SliverId) {
        match self {
            Self::Near(dom0) => dom0.kill(sliver).await,
            Self::Far(far) => far.ask(&Ask::new("kill", sliver)).await.unwrap(),
        }
    }

    async fn freeze(&self, _: &SliverId) {}

    async fn make_stranger(&self) -> String {
        String::new()
    }

    async fn stranger_runs(&self) -> bool {
        false
    }

    async fn end_stranger(&self) {}

    fn blind(&mut self, _: bool) -> bool {
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

/// The last count on a console, and the boot that counts: `lab-guest: tick 20 boot a641b0a8`.
fn counted(console: &str) -> Option<Life> {
    console.lines().rev().find_map(|line| {
        let mut words = line.trim().strip_prefix("lab-guest: tick ")?.split(' ');
        let count = words.next()?.parse().ok()?;
        let boot = (words.next()? == "boot").then(|| words.next())??;
        Some(Life {
            boot: boot.to_owned(),
            count,
        })
    })
}

impl Moving for Node {
    async fn life(&self, spec: &DomainSpec) -> Life {
        let deadline = Instant::now() + crate::dom0::PATIENCE;
        loop {
            if let Some(life) = counted(&self.console(&spec.sliver).await) {
                return life;
            }
            assert!(Instant::now() < deadline, "the guest does not count");
            self.moment().await;
        }
    }

    async fn moment(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Between this dom0 and the one whose program answers at `XENO_LAB_PEER`.
#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "measurements, for those who ask with --nocapture"
)]
async fn xen_keeps_the_contract_of_moves() {
    let peer = std::env::var("XENO_LAB_PEER").expect("XENO_LAB_PEER says where the other dom0 answers");
    let wanted = std::env::var("XENO_LAB_STORY").ok();
    until("the other dom0", || {
        std::net::TcpStream::connect(peer.as_str()).is_ok()
    })
    .await;
    for story in MOVES
        .into_iter()
        .filter(|story| wanted.as_deref().is_none_or(|wanted| *story == wanted))
    {
        let start = Instant::now();
        let mut here = Node::Near(Box::new(Dom0::new()));
        moves::run(story, &mut here, &mut Node::Far(Far::new(&peer))).await;
        println!("{story}: {:.1} s", start.elapsed().as_secs_f64());
    }
}
