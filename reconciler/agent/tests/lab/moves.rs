//! Two whole agents on one board, between which slivers move.

use std::time::Duration;

use xeno_agent::lab::{LabFleet, LabNetwork, ScriptedBoard};
use xeno_model::id::NodeName;
use xeno_model::observed::DomainState;

use crate::fleet::{Slice, commit_at, id, slice};
use crate::runtime::on_a_clock;
use crate::world::World;

const A: &str = "cam-01";
const B: &str = "cam-02";

/// Two nodes.
struct Pair {
    a: World,
    b: World,
    board: ScriptedBoard,
    network: LabNetwork,
}

impl Pair {
    async fn new() -> Self {
        let board = ScriptedBoard::new("a");
        let network = LabNetwork::default();
        let fleet = |board: ScriptedBoard| LabFleet {
            board,
            network: network.clone(),
            life: 1,
        };
        let mut a = World::one_of(A, fleet(board.client("a")));
        let mut b = World::one_of(B, fleet(board.client("b")));
        a.start().await;
        b.start().await;
        Self { a, b, board, network }
    }

    async fn push(&mut self, number: u8, slices: &[Slice]) {
        self.a.push(commit_at(A, number, slices)).await;
        self.b.push(commit_at(B, number, slices)).await;
    }

    fn state(world: &World, sliver: &str) -> Option<DomainState> {
        let observed = world.node.observed(&NodeName::new(A).unwrap());
        let domains = observed.domains.known().cloned().unwrap_or_default();
        domains.ours.get(&id(sliver)).map(|domain| domain.state)
    }

    /// On which nodes it runs.
    fn running(&self, sliver: &str) -> (bool, bool) {
        let runs = |world| Self::state(world, sliver) == Some(DomainState::Running);
        (runs(&self.a), runs(&self.b))
    }

    async fn until_running(&self, sliver: &str, on: (bool, bool)) {
        for _ in 0..100_000 {
            let now = self.running(sliver);
            assert_ne!(now, (true, true), "two of {sliver} run");
            if now == on {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{sliver} should run on {on:?}\n{}\n{}\n{:?}\n{:?}",
            self.a.plan().await.text,
            self.b.plan().await.text,
            self.a.events("moved").await,
            self.b.events("moved").await,
        );
    }

    async fn converged(&self) {
        self.a.converged().await;
        self.b.converged().await;
    }

    async fn end(self) {
        let (mut a, mut b) = (self.a, self.b);
        a.kill().await;
        b.kill().await;
    }
}

#[test]
fn a_sliver_is_claimed_and_moves_with_its_memory_and_its_disk() {
    on_a_clock(async {
        let mut pair = Pair::new().await;
        pair.push(1, &[slice("web").on(A)]).await;
        pair.converged().await;
        assert_eq!(pair.running("web/0"), (true, false));
        let before = pair.a.node.look_inside(&id("web/0")).unwrap();

        pair.push(2, &[slice("web").on(B)]).await;
        pair.until_running("web/0", (false, true)).await;
        pair.converged().await;
        let after = pair.b.node.look_inside(&id("web/0")).unwrap();
        assert_eq!(after.boot, before.boot, "it has not booted again");
        assert_eq!(after.beats, before.beats + 1);
        assert_eq!(Pair::state(&pair.a, "web/0"), None);

        // And back.
        pair.push(3, &[slice("web").on(A)]).await;
        pair.until_running("web/0", (true, false)).await;
        pair.converged().await;
        pair.end().await;
    });
}

#[test]
fn a_move_waits_for_the_network_and_the_guest_goes_on_meanwhile() {
    on_a_clock(async {
        let mut pair = Pair::new().await;
        pair.push(1, &[slice("web").on(A)]).await;
        pair.converged().await;
        pair.network.set_down(true);
        pair.push(2, &[slice("web").on(B)]).await;
        until_said(&pair.a, "could not be moved").await;
        assert_eq!(pair.running("web/0"), (true, false));
        pair.network.set_down(false);
        pair.until_running("web/0", (false, true)).await;
        pair.converged().await;
        pair.end().await;
    });
}

#[test]
fn nobody_starts_what_the_board_does_not_give_it() {
    on_a_clock(async {
        let mut pair = Pair::new().await;
        let a = pair.board.client("a");
        a.partition(true);
        pair.push(1, &[slice("web").on(A)]).await;
        until_said(&pair.a, "nobody here knows who has the right to run it").await;
        pair.a.pass(Duration::from_secs(600)).await;
        assert_eq!(pair.running("web/0"), (false, false));
        a.partition(false);
        pair.until_running("web/0", (true, false)).await;
        pair.converged().await;

        // What runs goes on running without it, and is mended.
        a.partition(true);
        pair.a.node.lose_domain(&id("web/0"));
        pair.a.pass(Duration::from_secs(60)).await;
        pair.until_running("web/0", (true, false)).await;
        pair.end().await;
    });
}

/// Waits until the plan says so.
async fn until_said(world: &World, what: &str) {
    for _ in 0..100_000 {
        if world.plan().await.text.contains(what) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("`{what}` is not said: {}", world.plan().await.text);
}
