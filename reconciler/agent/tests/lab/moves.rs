//! Two whole agents on one board, between which slivers move.

use std::time::Duration;

use xeno_agent::api::Phase;
use xeno_agent::lab::{LabFleet, LabNetwork, ScriptedBoard};
use xeno_model::id::NodeName;
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::Fault;

use crate::fleet::{Slice, commit_at, id, slice};
use crate::runtime::{in_parallel, on_a_clock};
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
            fence: None,
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
fn who_was_never_seen_whole_takes_its_memory_along() {
    on_a_clock(async {
        let mut pair = Pair::new().await;
        // Nobody ever hears that it is ready: no node has written down that all is done.
        pair.push(1, &[slice("web").on(A).asked()]).await;
        pair.until_running("web/0", (true, false)).await;
        let before = pair.a.node.look_inside(&id("web/0")).unwrap();
        pair.a.kill().await;
        pair.a.start_again().await;
        pair.push(2, &[slice("web").on(B).asked()]).await;
        pair.until_running("web/0", (false, true)).await;
        pair.b.kill().await;
        pair.b.start_again().await;
        pair.push(3, &[slice("web").on(A).asked()]).await;
        pair.until_running("web/0", (true, false)).await;
        let after = pair.a.node.look_inside(&id("web/0")).unwrap();
        assert_eq!(after.boot, before.boot, "it has booted again");

        pair.push(4, &[slice("web").on(A)]).await;
        pair.converged().await;
        pair.end().await;
    });
}

#[test]
fn a_move_that_is_taken_back_leaves_nothing() {
    on_a_clock(async {
        let mut pair = Pair::new().await;
        pair.push(1, &[slice("web").on(A)]).await;
        pair.converged().await;
        for verb in ["arrive", "depart", "send-last"] {
            let there = if verb == "arrive" { &pair.b } else { &pair.a };
            there.node.script(verb, Fault::Hangs);
            pair.push(2, &[slice("web").on(B)]).await;
            for _ in 0..2_000 {
                let there = if verb == "arrive" { &pair.b } else { &pair.a };
                if !there.node.struck().is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            pair.push(3, &[slice("web").on(A)]).await;
            pair.a.node.clear_faults();
            pair.b.node.clear_faults();
            let settled = pair.settles("web/0", (true, false)).await;
            assert_eq!(settled, Ok(()), "{verb}");
            let left = pair.b.node.observed(&NodeName::new(B).unwrap());
            let left = left.storage_of(&id("web/0")).unwrap();
            assert!(left.is_none_or(|left| !left.on_disk), "{verb}: {left:?}");
        }
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

/// Where something goes wrong: at a node, when it does this.
const MOMENTS: [(bool, &str); 17] = [
    (true, "send"),
    (true, "depart"),
    (true, "park"),
    (true, "send-last"),
    (true, "destroy"),
    (true, "unexport"),
    (true, "close"),
    (true, "tombstone"),
    (true, "purge"),
    (false, "fetch"),
    (false, "receive"),
    (false, "arrive"),
    (false, "receive-last"),
    (false, "open"),
    (false, "stack"),
    (false, "export"),
    (false, "clear"),
];

/// What goes wrong then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It fails once.
    Fails,
    /// It is done, and says that it is not.
    Unsaid,
    /// It hangs, before or after it is done, and this happens meanwhile.
    Hangs { after: bool, then: Disturbance },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    /// The agent there is killed.
    Killed,
    /// That of the other node is.
    OtherKilled,
    /// Both are.
    BothKilled,
    /// The wires between them are cut.
    Cut,
    /// The node there loses the board.
    NoBoard,
    /// The other one does.
    OtherNoBoard,
}

fn troubles() -> Vec<((bool, &'static str), Trouble)> {
    use Disturbance::{BothKilled, Cut, Killed, NoBoard, OtherKilled, OtherNoBoard};
    let mut kinds = vec![Trouble::Fails, Trouble::Unsaid];
    for after in [false, true] {
        for then in [Killed, OtherKilled, BothKilled, Cut, NoBoard, OtherNoBoard] {
            kinds.push(Trouble::Hangs { after, then });
        }
    }
    let cells = MOMENTS
        .into_iter()
        .flat_map(|moment| kinds.iter().map(move |kind| (moment, *kind)));
    // Whoever sends layers to one that hangs asks over and over whether they have been taken: no clock moves meanwhile.
    let plays = |((_, verb), kind): &((bool, &str), Trouble)| {
        !(verb.starts_with("receive") && matches!(kind, Trouble::Hangs { .. }))
    };
    cells.filter(plays).collect()
}

/// Plays one move with one trouble in it. What it should have come to, and did not; `None` where the moment did not come.
async fn troubled((moment, trouble): ((bool, &'static str), Trouble)) -> Option<String> {
    let (at_source, verb) = moment;
    let mut pair = Pair::new().await;
    pair.push(1, &[slice("web").on(A)]).await;
    pair.converged().await;
    let written = pair.a.node.written(&id("web/0")).unwrap_or(0);
    let fault = match trouble {
        Trouble::Fails => Fault::Fails(PortError::later("as the test wants it")),
        Trouble::Unsaid => Fault::SucceedsUnsaid,
        Trouble::Hangs { after: false, .. } => Fault::Hangs,
        Trouble::Hangs { after: true, .. } => Fault::HangsAfter,
    };
    let there = if at_source { &pair.a } else { &pair.b };
    there.node.script(verb, fault);
    pair.push(2, &[slice("web").on(B)]).await;
    let mut struck = false;
    for _ in 0..2_000 {
        let there = if at_source { &pair.a } else { &pair.b };
        struck = !there.node.struck().is_empty();
        if struck {
            break;
        }
        pair.never_two();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if struck && let Trouble::Hangs { then, .. } = trouble {
        pair.disturb(at_source, then).await;
    }
    pair.a.node.clear_faults();
    pair.b.node.clear_faults();
    let settled = pair.settles("web/0", (false, true)).await;
    let violations = [pair.a.node.violations(), pair.b.node.violations()].concat();
    let kept = pair.b.node.written(&id("web/0")).unwrap_or(0) >= written;
    let wrong = match (settled, violations.is_empty(), kept) {
        (Ok(()), true, true) => None,
        (Err(why), ..) => Some(why),
        (_, false, _) => Some(violations.join("; ")),
        (_, _, false) => Some("what it wrote is lost".to_owned()),
    };
    let told = wrong.map(|why| format!("{verb} at {}, {trouble:?}: {why}", if at_source { A } else { B }));
    let missed = (!struck).then(|| {
        format!(
            "{verb} at {}: it never came to that",
            if at_source { A } else { B }
        )
    });
    pair.end().await;
    told.or(missed)
}

impl Pair {
    fn never_two(&self) {
        assert_ne!(self.running("web/0"), (true, true), "two run");
    }

    async fn disturb(&mut self, at_source: bool, then: Disturbance) {
        use Disturbance::{BothKilled, Cut, Killed, NoBoard, OtherKilled, OtherNoBoard};
        let (kill_a, kill_b) = match then {
            Killed => (at_source, !at_source),
            OtherKilled => (!at_source, at_source),
            BothKilled => (true, true),
            Cut | NoBoard | OtherNoBoard => (false, false),
        };
        if kill_a {
            self.a.kill().await;
        }
        if kill_b {
            self.b.kill().await;
        }
        let of_a = match then {
            NoBoard => at_source,
            _ => !at_source,
        };
        let client = self.board.client(if of_a { "a" } else { "b" });
        let apart = matches!(then, NoBoard | OtherNoBoard);
        if apart {
            client.partition(true);
        }
        if then == Cut {
            self.network.set_down(true);
        }
        for _ in 0..60 {
            self.never_two();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        client.partition(false);
        self.network.set_down(false);
        if kill_a {
            self.a.start_again().await;
        }
        if kill_b {
            self.b.start_again().await;
        }
    }

    /// Waits until it runs there and nowhere else, and nothing is left to do.
    async fn settles(&self, sliver: &str, on: (bool, bool)) -> Result<(), String> {
        for _ in 0..4_000 {
            let now = self.running(sliver);
            if now == (true, true) {
                return Err("two run".to_owned());
            }
            if now == on {
                let (a, b) = (self.a.status().await.phase, self.b.status().await.phase);
                if (a, b) == (Phase::Converged, Phase::Converged) {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Err(format!(
            "it does not settle: {:?}\n{}\n{}\n{:#?}\n{:#?}",
            self.running(sliver),
            self.a.plan().await.text,
            self.b.plan().await.text,
            self.a.all_events().await,
            self.b.all_events().await,
        ))
    }
}

#[test]
fn whatever_goes_wrong_in_a_move_one_copy_runs_in_the_end() {
    let cells = troubles();
    let outcomes = in_parallel(&cells, |cell| Box::pin(troubled(cell)));
    let wrong: Vec<_> = outcomes.into_iter().flatten().collect();
    assert!(
        wrong.is_empty(),
        "{} of {} went wrong:\n{}",
        wrong.len(),
        cells.len(),
        wrong.join("\n\n")
    );
}
