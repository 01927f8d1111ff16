//! Slivers that others may take over: nodes that are cut off, made sure of, and come back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use xeno_agent::api::SliverPhase;
use xeno_agent::lab::{LabFence, LabFleet, LabNetwork, ScriptedBoard};
use xeno_model::id::{Epoch, NodeName};
use xeno_model::observed::DomainState;
use xeno_reconciler::scripted::ScriptedNode;
use xeno_reconciler::tenure::{Holder, Record};
use xeno_state::fences::{self, Word, confirm};
use xeno_state::holders;

use crate::fleet::{Slice, commit_at, id, slice};
use crate::runtime::on_a_clock;
use crate::world::World;

const A: &str = "cam-01";
const B: &str = "cam-02";

/// How often the board's clock goes on.
const TICK: Duration = Duration::from_millis(250);

/// Two nodes that reach the same storage, and what becomes of one that is to be switched off.
struct Pair {
    a: World,
    b: World,
    board: ScriptedBoard,
    switch: Arc<Mutex<Switch>>,
    ageing: tokio::task::JoinHandle<()>,
}

/// What the fence command of the site comes to.
struct Switch {
    fails: Option<&'static str>,
    asked: Vec<String>,
}

fn web() -> Slice {
    slice("web").writable("file:///srv/shared/{sliver}")
}

fn replaceable() -> Slice {
    web().with("failover: true")
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

impl Pair {
    /// With a fence command that fails, or works; or with none.
    async fn new(fence: Option<Result<(), &'static str>>) -> Self {
        let board = ScriptedBoard::new("people");
        // A word of another time, before anybody held anything.
        assert_eq!(say(&board).await, fences::Outcome::Done);
        let switch = Arc::new(Mutex::new(Switch {
            fails: fence.and_then(Result::err),
            asked: Vec::new(),
        }));
        let network = LabNetwork::default();
        let fleet = |name: &str| {
            let switch = Arc::clone(&switch);
            let press = move |node: &NodeName| {
                let mut switch = switch.lock().unwrap();
                switch.asked.push(node.to_string());
                switch.fails.map_or(Ok(()), |why| Err(why.to_owned()))
            };
            LabFleet {
                board: board.client(name),
                network: network.clone(),
                life: 1,
                fence: fence.is_some().then(|| LabFence::new(press)),
            }
        };
        let ages = board.clone();
        // Leases end by the board's own clock.
        let ageing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                ages.advance(TICK);
            }
        });
        let mut a = World::one_of(A, fleet(A));
        let mut b = World::one_of(B, fleet(B));
        a.start().await;
        b.start().await;
        Self {
            a,
            b,
            board,
            switch,
            ageing,
        }
    }

    async fn push(&mut self, number: u8, slices: &[Slice]) {
        self.a.push(commit_at(A, number, slices)).await;
        self.b.push(commit_at(B, number, slices)).await;
    }

    /// Which of the two guests works, of which never two may.
    fn works(&self) -> (bool, bool) {
        let web = id("web/0");
        let works = (self.a.node.works(&web), self.b.node.works(&web));
        assert_ne!(works, (true, true), "two guests work");
        works
    }

    async fn until_works(&self, on: (bool, bool)) {
        for _ in 0..6_000 {
            if self.works() == on {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "{on:?} should work, and {:?} do\n{}\n{}\n{:#?}\n{:#?}",
            self.works(),
            self.a.plan().await.text,
            self.b.plan().await.text,
            self.a.all_events().await,
            self.b.all_events().await,
        );
    }

    /// Lets time pass in which this goes on.
    async fn stays(&self, on: (bool, bool), time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            assert_eq!(self.works(), on);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn until_said(&self, world: &World, what: &str) {
        for _ in 0..1_000 {
            self.works();
            if world.plan().await.text.contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("`{what}` is not said: {}", world.plan().await.text);
    }

    /// The first node says within a second that its guest is not answered, since when, and what comes of it.
    async fn says_that_calls_are_held(&self) {
        let handle = self.a.agent().handle();
        let lapsed = self.a.clock.now().0;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let why = handle.why(id("web/0")).await.unwrap();
        let said = format!("{why:#?}");
        assert!(!why.settled && why.phase == SliverPhase::Waiting, "{said}");
        let [reason] = why.reasons.as_slice() else {
            panic!("{said}")
        };
        assert_eq!((reason.code.as_str(), reason.waits), ("leaseLapsed", true));
        assert!(reason.text.contains("its calls are held"), "{said}");
        assert!(
            reason
                .since_ms
                .is_some_and(|since| since.abs_diff(lapsed) <= 1_000),
            "{said}, from about {lapsed}"
        );
        assert!(reason.next.contains("the guest goes on, or ends here"), "{said}");
    }

    async fn record(&self) -> Holder {
        match holders::read(&self.board, &id("web/0")).await.unwrap().record {
            Record::Is(holder) => holder,
            other => panic!("nobody holds it: {other:?}"),
        }
    }

    /// Which boot of it the guest on the first node remembers.
    fn boot(&self) -> u64 {
        self.a.node.look_inside(&id("web/0")).unwrap().boot
    }

    /// What is left on the first node when it comes back.
    async fn gives_way(&self) {
        self.a
            .until_node("the guest that has no right to run to end", |node| !runs(node))
            .await;
        // Nothing is left here that would wait for it for ever.
        self.a
            .until_node("what is left of its layers to go", |there| {
                let observed = there.observed(&node(A));
                observed.storage_of(&id("web/0")).ok().flatten().is_none()
            })
            .await;
        self.until_works((false, true)).await;
        self.a.converged().await;
        self.b.converged().await;
        let known = self.a.agent().handle().why(id("web/0")).await;
        assert!(known.is_err(), "{known:?}");
    }

    async fn end(self) {
        self.ageing.abort();
        let (mut a, mut b) = (self.a, self.b);
        a.kill().await;
        b.kill().await;
    }
}

/// Whether the guest runs there, answered or not.
fn runs(at: &ScriptedNode) -> bool {
    let observed = at.observed(&node(A));
    let domains = observed.domains.known().expect("it is seen");
    domains
        .ours
        .get(&id("web/0"))
        .is_some_and(|domain| domain.state == DomainState::Running)
}

/// Somebody says that the first node is off.
async fn say(board: &ScriptedBoard) -> fences::Outcome {
    let word = Word {
        by: "eve".to_owned(),
        how: None,
        at_ms: 0,
    };
    confirm(board, &node(A), &word).await.unwrap()
}

#[test]
fn a_holder_that_is_cut_off_answers_no_more_before_another_takes_over() {
    on_a_clock(async {
        let mut pair = Pair::new(Some(Ok(()))).await;
        pair.push(1, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        pair.until_works((true, false)).await;
        assert!(pair.record().await.failover);

        pair.board.client(A).partition(true);
        pair.push(2, &[replaceable().on(B)]).await;
        pair.until_works((false, false)).await;
        pair.until_said(&pair.a, "its calls are held").await;
        let guest = pair.boot();
        pair.until_works((false, true)).await;
        assert!(runs(&pair.a.node), "it is there, and gets no answers");
        assert_eq!(pair.boot(), guest);
        let record = pair.record().await;
        assert_eq!((record.node, record.epoch), (Some(node(B)), Epoch(2)));
        assert_eq!(pair.switch.lock().unwrap().asked, [A]);

        pair.stays((false, true), Duration::from_secs(600)).await;
        pair.board.client(A).partition(false);
        pair.gives_way().await;
        pair.end().await;
    });
}

#[test]
fn a_node_whose_agent_is_dead_is_replaced_and_gives_way_when_it_is_back() {
    on_a_clock(async {
        let mut pair = Pair::new(Some(Ok(()))).await;
        pair.push(1, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        pair.a.kill().await;
        pair.b.push(commit_at(B, 2, &[replaceable().on(B)])).await;
        pair.until_works((false, false)).await;
        pair.until_works((false, true)).await;
        pair.stays((false, true), Duration::from_secs(60)).await;
        // It knows the old commit alone.
        pair.a.start_again().await;
        pair.a.push(commit_at(A, 2, &[replaceable().on(B)])).await;
        pair.gives_way().await;
        pair.end().await;
    });
}

#[test]
fn nobody_takes_over_from_a_node_that_may_still_run() {
    on_a_clock(async {
        let mut pair = Pair::new(None).await;
        pair.push(1, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        pair.board.client(A).partition(true);
        pair.push(2, &[replaceable().on(B)]).await;
        pair.until_said(&pair.b, "nobody has confirmed that it is off")
            .await;
        let said = pair.b.plan().await.text;
        assert!(said.contains("no sign of life"), "{said}");
        pair.stays((false, false), Duration::from_secs(3600)).await;
        assert_eq!(say(&pair.board).await, fences::Outcome::Done);
        pair.until_works((false, true)).await;
        pair.board.client(A).partition(false);
        pair.gives_way().await;
        pair.end().await;
    });
}

#[test]
fn a_fence_that_fails_is_tried_again_and_says_why() {
    on_a_clock(async {
        let mut pair = Pair::new(Some(Err("no route to ipmi-01"))).await;
        pair.push(1, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        pair.a.kill().await;
        pair.b.push(commit_at(B, 2, &[replaceable().on(B)])).await;
        pair.until_said(&pair.b, "no route to ipmi-01").await;
        pair.stays((false, false), Duration::from_secs(1800)).await;
        let tries = pair.switch.lock().unwrap().asked.len();
        assert!((3..60).contains(&tries), "{tries}");
        pair.switch.lock().unwrap().fails = None;
        pair.until_works((false, true)).await;
        pair.a.start_again().await;
        pair.a.push(commit_at(A, 2, &[replaceable().on(B)])).await;
        pair.gives_way().await;
        pair.end().await;
    });
}

#[test]
fn a_guest_goes_on_when_its_node_has_a_lease_again_and_nobody_took_over() {
    on_a_clock(async {
        let mut pair = Pair::new(Some(Ok(()))).await;
        pair.push(1, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        let guest = pair.boot();
        for _ in 0..3 {
            pair.board.client(A).partition(true);
            pair.until_works((false, false)).await;
            pair.says_that_calls_are_held().await;
            pair.stays((false, false), Duration::from_secs(300)).await;
            pair.board.client(A).partition(false);
            pair.until_works((true, false)).await;
            pair.a.converged().await;
        }
        // So it does after its file server, or its agent, has been started anew.
        pair.a.node.lose_file_server();
        pair.until_works((true, false)).await;
        pair.a.kill().await;
        pair.stays((true, false), Duration::from_secs(5)).await;
        pair.a.start_again().await;
        pair.stays((true, false), Duration::from_secs(120)).await;
        pair.a.converged().await;
        assert_eq!(pair.boot(), guest, "it has not booted again");
        let record = pair.record().await;
        assert_eq!((record.node, record.epoch), (Some(node(A)), Epoch(1)));
        pair.end().await;
    });
}

#[test]
fn whether_others_may_take_over_changes_below_a_guest_that_runs() {
    on_a_clock(async {
        let mut pair = Pair::new(Some(Ok(()))).await;
        pair.push(1, &[web().on(A)]).await;
        pair.a.converged().await;
        let guest = pair.boot();
        assert!(!pair.record().await.failover);
        pair.push(2, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        assert!(pair.record().await.failover);
        pair.until_works((true, false)).await;
        pair.push(3, &[web().on(A)]).await;
        pair.a.converged().await;
        assert!(!pair.record().await.failover);
        // Nobody can take over from it now, and it needs no lease.
        pair.board.client(A).partition(true);
        pair.push(4, &[web().on(B)]).await;
        pair.stays((true, false), Duration::from_secs(600)).await;
        assert_eq!(pair.boot(), guest, "it has not booted again");
        pair.end().await;
    });
}

#[test]
fn what_others_may_have_taken_over_does_not_start_without_the_board() {
    on_a_clock(async {
        let mut pair = Pair::new(None).await;
        pair.push(1, &[replaceable().on(A)]).await;
        pair.a.converged().await;
        pair.a.kill().await;
        pair.a.node.lose_domain(&id("web/0"));
        pair.a.node.lose_file_server();
        pair.board.client(A).partition(true);
        pair.a.start_again().await;
        pair.until_said(&pair.a, "nobody here knows who has the right to run it")
            .await;
        pair.stays((false, false), Duration::from_secs(600)).await;
        pair.board.client(A).partition(false);
        pair.until_works((true, false)).await;
        pair.a.converged().await;
        pair.end().await;
    });
}
