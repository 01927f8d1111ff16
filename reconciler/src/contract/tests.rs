//! The node in memory, by the contract.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use xeno_model::id::{DomainUuid, Epoch, FleetName};
use xeno_model::observed::{Limits, ObservedStorage, Seen, Stranger};

use super::moves::{Life, MOVES, Moving};
use super::*;
use crate::ports::{MountSpec, PortError, Storage};
use crate::scripted::{Fault, ScriptedNode};

/// The node in memory.
struct Scripted(ScriptedNode);

const STRANGER: &str = "stranger";

impl World for Scripted {
    type Driver = ScriptedNode;

    fn driver(&self) -> &ScriptedNode {
        &self.0
    }

    /// It keeps nothing beside the node itself.
    fn restart(&mut self) {}

    fn spec(&self, sliver: &str) -> DomainSpec {
        let sliver = SliverId::parse(sliver).unwrap();
        DomainSpec {
            uuid: DomainUuid::of(&FleetName::new("lab").unwrap(), &sliver),
            sliver,
            boot: Digest::of(b"boot"),
            vcpus: 1,
            vcpus_max: 2,
            memory_mib: 128,
            memory_max_mib: 128,
            limits: Limits::default(),
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            cmdline: vec![],
            mounts: vec![],
            publish: vec![],
            addresses: vec![],
        }
    }

    fn free_port(&self) -> u16 {
        8080
    }

    async fn prepare(&self, spec: &DomainSpec) {
        let mounts: [MountSpec; 0] = [];
        self.0
            .open_writable(&spec.sliver, Epoch(1), &mounts)
            .await
            .unwrap();
        Storage::stack(&self.0, &spec.sliver, &spec.boot, &mounts)
            .await
            .unwrap();
        self.0.export(&spec.sliver, &mounts).await.unwrap();
    }

    async fn settle(&self, _: &DomainSpec) {}

    async fn kill(&self, sliver: &SliverId) {
        self.0.lose_domain(sliver);
    }

    async fn freeze(&self, sliver: &SliverId) {
        self.0.set_domain_state(sliver, DomainState::Paused);
    }

    async fn make_stranger(&self) -> String {
        self.0.add_stranger(Stranger {
            name: STRANGER.to_owned(),
            memory_mib: 64,
        });
        STRANGER.to_owned()
    }

    async fn stranger_runs(&self) -> bool {
        let domains = Hypervisor::observe(&self.0).await.unwrap();
        domains.strangers.iter().any(|stranger| stranger.name == STRANGER)
    }

    async fn end_stranger(&self) {}

    fn blind(&mut self, blind: bool) -> bool {
        if blind {
            self.0
                .script("observe", Fault::Fails(PortError::later("no answer")));
        }
        true
    }

    fn disk_mark(&self, spec: &DomainSpec) -> Digest {
        // The file server lets go of a disk before its mark is taken.
        done(self.0.unexport(&spec.sliver)).unwrap();
        done(self.0.close_writable(&spec.sliver)).unwrap();
        let storage = done(Storage::observe(&self.0)).unwrap();
        ObservedStorage::mark_of(storage.get(&spec.sliver).and_then(Seen::known)).expect("it can be told")
    }

    fn refuses(&self) -> bool {
        false
    }

    fn broken(&self) -> Vec<String> {
        self.0.violations()
    }
}

impl Moving for Scripted {
    async fn life(&self, spec: &DomainSpec) -> Life {
        let inside = self.0.look_inside(&spec.sliver).expect("a guest");
        Life {
            boot: inside.boot.to_string(),
            count: inside.beats,
        }
    }

    /// Whoever waits for another that is not asked here gives it its turn.
    async fn moment(&self) {
        let mut passed = false;
        poll_fn(|_| match std::mem::replace(&mut passed, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

/// What a future of the node in memory comes to; but for the turns that guests on the move take, it never waits.
fn done<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..TURNS_MAX {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("the node in memory waits");
}

/// Far more than any story has.
const TURNS_MAX: u32 = 100_000;

#[test]
fn the_node_in_memory_keeps_the_contract() {
    for story in STORIES {
        done(run(story, &mut Scripted(ScriptedNode::new(1024))));
    }
}

#[test]
fn nodes_in_memory_keep_the_contract_of_moves() {
    for story in MOVES {
        let [mut here, mut there] = [(); 2].map(|()| Scripted(ScriptedNode::new(1024)));
        done(moves::run(story, &mut here, &mut there));
    }
}
