//! Two whole agents on one board, over which new revisions roll.

use std::time::Duration;

use xeno_agent::lab::{LabFleet, LabNetwork, ScriptedBoard};
use xeno_model::desired::{Disturbance, Weekday, Window, Windows};
use xeno_model::id::{NodeName, SliceName, Timestamp};
use xeno_model::observed::DomainState;
use xeno_reconciler::fleet_plan::{NodeSaid, RolloutSaid, Said, find};
use xeno_reconciler::ports::PortError;
use xeno_reconciler::rollout::{RolloutRecord, Signed, Verdict};
use xeno_reconciler::scripted::Fault;
use xeno_state::{presence, rollouts, summaries};

use crate::fleet::{Slice, commit_at, fleet_of, id, revision, slice};
use crate::runtime::on_a_clock;
use crate::world::World;

const NODES: [&str; 2] = ["cam-01", "cam-02"];

/// One slice with a sliver on each of two nodes.
pub(crate) struct Fleet {
    pub(crate) worlds: Vec<World>,
    pub(crate) board: ScriptedBoard,
    /// The number of the last commit.
    pub(crate) pushed: u8,
    /// What waits for approval, as commits from now on say.
    pub(crate) approval: Option<Disturbance>,
}

pub(crate) fn web(page: &'static str) -> Slice {
    slice("web").on("cam-01, cam-02").page(page)
}

impl Fleet {
    /// Both run page `one`.
    pub(crate) async fn new() -> Self {
        let board = ScriptedBoard::new("a");
        let network = LabNetwork::default();
        let mut worlds = Vec::new();
        for node in NODES {
            let fleet = LabFleet {
                board: board.client(node),
                network: network.clone(),
                life: 1,
                fence: None,
            };
            let mut world = World::one_of(node, fleet);
            world.start().await;
            worlds.push(world);
        }
        let mut fleet = Self {
            worlds,
            board,
            pushed: 0,
            approval: None,
        };
        fleet.push(&[web("one")]).await;
        fleet.converged().await;
        fleet.through().await;
        fleet
    }

    pub(crate) async fn push(&mut self, slices: &[Slice]) {
        self.pushed += 1;
        for (world, node) in self.worlds.iter_mut().zip(NODES) {
            let mut desired = commit_at(node, self.pushed, slices);
            desired.approval = self.approval;
            world.push(desired).await;
        }
    }

    pub(crate) async fn converged(&self) {
        for world in &self.worlds {
            world.converged().await;
        }
    }

    /// What the board says.
    pub(crate) async fn record(&self) -> RolloutRecord {
        let known = rollouts::read(&self.board, &SliceName::new("web").unwrap()).await;
        known.unwrap().record.expect("the slice has begun")
    }

    async fn press(&self, button: impl Fn(&RolloutRecord, Signed<'_>) -> RolloutRecord) {
        let name = SliceName::new("web").unwrap();
        let signed = Signed {
            at: self.worlds[0].clock.now(),
            by: "ada",
        };
        loop {
            let known = rollouts::read(&self.board, &name).await.unwrap();
            let next = button(known.record.as_ref().unwrap(), signed);
            let changed = rollouts::change(&self.board, &name, &known, &next).await;
            if matches!(changed.unwrap(), rollouts::Changed::Done(_)) {
                return;
            }
        }
    }

    /// Why each is as it is, in the sentences of its node.
    pub(crate) async fn why(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (number, world) in (0..).zip(&self.worlds) {
            let sliver = id(&format!("web/{number}"));
            all.extend(world.agent().handle().why(sliver).await.unwrap().sentences);
        }
        all
    }

    /// Whether each runs, and how often it has booted.
    pub(crate) fn guests(&self) -> Vec<(bool, usize)> {
        let guest = |(number, world): (u32, &World)| {
            let sliver = id(&format!("web/{number}"));
            let observed = world.node.observed(&NodeName::new(NODES[0]).unwrap());
            let domains = observed.domains.known().cloned().unwrap_or_default();
            let runs = domains
                .ours
                .get(&sliver)
                .is_some_and(|domain| domain.state == DomainState::Running);
            let boots = world.all_effects().get(&format!("boot:{sliver}")).copied();
            (runs, boots.unwrap_or(0))
        };
        (0..).zip(&self.worlds).map(guest).collect()
    }

    pub(crate) fn boots(&self) -> Vec<usize> {
        self.guests().into_iter().map(|(_, boots)| boots).collect()
    }

    /// Waits until the record is as wanted; never are both down.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&RolloutRecord) -> bool) -> RolloutRecord {
        for _ in 0..20_000 {
            let record = self.record().await;
            assert!(
                self.guests().iter().any(|(runs, _)| *runs),
                "both are down: {record:#?}"
            );
            if wanted(&record) {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let record = self.record().await;
        let plans = [self.worlds[0].plan().await.text, self.worlds[1].plan().await.text];
        let mut seen = Vec::new();
        for world in &self.worlds {
            seen.push(world.agent().handle().rollouts().await.unwrap());
        }
        panic!(
            "waiting for {what}: {record:#?}\n{}\n{}\n{seen:#?}",
            plans[0], plans[1]
        );
    }

    /// Waits until the rollout of the last commit is on the board.
    pub(crate) async fn begun(&self) {
        let commit = revision(self.pushed);
        self.until("the beginning", |record| record.to.commit == commit)
            .await;
    }

    /// Waits until the rollout of the last commit is through.
    pub(crate) async fn through(&self) -> RolloutRecord {
        let commit = revision(self.pushed);
        let through = |record: &RolloutRecord| record.to.commit == commit && record.verdict == Verdict::Done;
        self.until("the end", through).await
    }

    pub(crate) async fn end(self) {
        for mut world in self.worlds {
            world.kill().await;
        }
    }
}

pub(crate) fn minute() -> Duration {
    Duration::from_secs(60)
}

#[test]
fn a_new_revision_rolls_wave_by_wave() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        assert_eq!(fleet.record().await.verdict, Verdict::Done);
        assert_eq!(fleet.boots(), [1, 1]);
        fleet.push(&[web("two")]).await;
        fleet.until("the second wave", |record| record.wave == 1).await;
        let boots = fleet.boots();
        assert_eq!(
            boots.iter().sum::<usize>(),
            3,
            "the canary alone has changed: {boots:?}"
        );
        let record = fleet.through().await;
        assert_eq!(fleet.boots(), [2, 2]);
        assert!(record.slots.is_empty());
        fleet.converged().await;
        // What does not concern the slice begins nothing.
        fleet.push(&[web("two"), slice("db")]).await;
        fleet.converged().await;
        assert_eq!(fleet.record().await.to, record.to);
        assert_eq!(fleet.boots(), [2, 2]);
        fleet.end().await;
    });
}

#[test]
fn a_canary_that_fails_takes_itself_back_and_no_other_with_it() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        for world in &fleet.worlds {
            let fault = PortError::never("the kernel does not start");
            world.node.script("boot", Fault::Fails(fault));
        }
        fleet.push(&[web("two")]).await;
        let failed = |record: &RolloutRecord| matches!(record.verdict, Verdict::Failed { .. });
        let record = fleet.until("the verdict", failed).await;
        assert_eq!(record.failed.len(), 1, "{record:#?}");
        fleet.until("all back", |record| record.slots.is_empty()).await;
        tokio::time::sleep(10 * minute()).await;
        let mut boots = fleet.boots();
        boots.sort_unstable();
        assert_eq!(
            boots,
            [1, 2],
            "the canary has booted what it was, the other nothing"
        );
        assert!(fleet.guests().iter().all(|(runs, _)| *runs));
        // No later pull tries it again; a commit that brings something else does.
        fleet.push(&[web("two"), slice("db")]).await;
        tokio::time::sleep(10 * minute()).await;
        assert_eq!(fleet.record().await.verdict, record.verdict);
        for world in &fleet.worlds {
            world.node.clear_faults();
        }
        fleet.push(&[web("three")]).await;
        fleet.through().await;
        fleet.converged().await;
        fleet.end().await;
    });
}

#[test]
fn what_a_failed_canary_wrote_goes_back_where_its_slice_says_so() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        // The new one boots, and never says that it is ready.
        fleet
            .push(&[web("two").asked().with("rollback: { data: restore }")])
            .await;
        let failed = |record: &RolloutRecord| matches!(record.verdict, Verdict::Failed { .. });
        let record = fleet.until("the verdict", failed).await;
        let canary = *record.failed.first().expect("the canary has failed");
        fleet.until("all back", |record| record.slots.is_empty()).await;
        tokio::time::sleep(10 * minute()).await;
        for (number, world) in (0..).zip(&fleet.worlds) {
            let sliver = id(&format!("web/{number}"));
            let effects = world.all_effects();
            let count = |verb: &str| effects.get(&format!("{verb}:{sliver}")).copied();
            let found = world.agent().handle().checkpoints(sliver.clone()).await.unwrap();
            let names = |start: &str| {
                let names = found.checkpoints.iter().map(|one| &one.name);
                names.filter(|name| name.starts_with(start)).count()
            };
            let (boots, restores, kept) = if number == canary {
                (Some(3), Some(1), 1)
            } else {
                (Some(1), None, 0)
            };
            assert_eq!((count("boot"), count("restore")), (boots, restores), "{sliver}");
            assert_eq!(
                (names("xeno-failed-"), names("xeno-back-")),
                (kept, kept),
                "{found:?}"
            );
        }
        fleet.converged().await;
        fleet.end().await;
    });
}

#[test]
fn people_pause_promote_abort_and_undo() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        fleet.push(&[web("two")]).await;
        fleet.begun().await;
        fleet.press(|record, ada| record.pause(ada).unwrap()).await;
        tokio::time::sleep(10 * minute()).await;
        assert!(fleet.boots().iter().sum::<usize>() <= 3, "paused is paused");
        let sentences = fleet.why().await;
        assert!(
            sentences
                .iter()
                .any(|said| said.contains("the rollout is paused by ada")),
            "{sentences:?}"
        );
        fleet.press(|record, ada| record.resume(ada).unwrap()).await;
        fleet.through().await;
        fleet.converged().await;
        fleet.press(|record, ada| record.undo(ada).unwrap()).await;
        tokio::time::sleep(10 * minute()).await;
        assert_eq!(fleet.boots(), [3, 3], "both are what they were");
        assert!(fleet.record().await.slots.is_empty());
        fleet.push(&[web("three")]).await;
        fleet.begun().await;
        fleet.press(|record, ada| record.abort(ada).unwrap()).await;
        tokio::time::sleep(10 * minute()).await;
        let record = fleet.record().await;
        assert!(
            matches!(record.verdict, Verdict::Aborted { .. }) && record.slots.is_empty(),
            "{record:#?}"
        );
        assert!(fleet.guests().iter().all(|(runs, _)| *runs));
        fleet.end().await;
    });
}

#[test]
fn a_commit_in_the_middle_takes_over() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        fleet.push(&[web("two")]).await;
        fleet.begun().await;
        let good = fleet.record().await.good;
        fleet.push(&[web("three")]).await;
        let record = fleet.through().await;
        assert_eq!(record.good, good, "what came between was never good");
        fleet.converged().await;
        assert!(fleet.boots().iter().all(|boots| *boots <= 3));
        fleet.end().await;
    });
}

#[test]
fn a_node_that_is_away_holds_up_nobody_and_follows() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        fleet.worlds[1].kill().await;
        // Its sign of life goes with its lease; the other one's comes back.
        fleet.board.advance(5 * minute());
        tokio::time::sleep(5 * minute()).await;
        fleet.pushed += 1;
        let slices = [web("two").with("rollout: { maxUnreachable: 50% }")];
        fleet.worlds[0]
            .push(commit_at(NODES[0], fleet.pushed, &slices))
            .await;
        fleet.through().await;
        assert_eq!(fleet.boots(), [2, 1]);
        fleet.worlds[1].start().await;
        fleet.worlds[1]
            .push(commit_at(NODES[1], fleet.pushed, &slices))
            .await;
        fleet.converged().await;
        assert_eq!(fleet.boots(), [2, 2]);
        fleet.end().await;
    });
}

#[test]
fn an_agent_that_dies_in_the_middle_goes_on_where_it_was() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        fleet.push(&[web("two")]).await;
        fleet.begun().await;
        for world in &mut fleet.worlds {
            world.kill().await;
            world.start_again().await;
        }
        fleet.through().await;
        fleet.converged().await;
        assert_eq!(fleet.boots(), [2, 2]);
        fleet.end().await;
    });
}

#[test]
fn what_nodes_say_tells_what_runs() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        fleet.push(&[web("two")]).await;
        let second = fleet.until("the second wave", |record| record.wave == 1).await;
        assert_eq!(second.verdict, Verdict::Rolling);
        fleet.press(|record, ada| record.pause(ada).unwrap()).await;
        fleet.until("calm", |record| record.slots.is_empty()).await;
        tokio::time::sleep(minute()).await;
        let boots = fleet.boots();
        let mut said = Said::default();
        for (node, slivers) in summaries::all(&fleet.board).await.unwrap() {
            let slivers = Some(slivers.unwrap());
            said.nodes.insert(node, NodeSaid { alive: true, slivers });
        }
        assert_eq!(presence::alive(&fleet.board).await.unwrap().len(), 2);
        for (slice, known) in rollouts::all(&fleet.board).await.unwrap() {
            let record = known.unwrap().record.unwrap();
            let rollout = RolloutSaid {
                to: record.to,
                good: record.good,
                verdict: record.verdict,
            };
            said.rollouts.insert(slice, rollout);
        }
        let (one, two) = (fleet_of(&[web("one")]), fleet_of(&[web("two")]));
        let found = find(&said, &one, &two, &[]);
        assert!(found.unknown.is_empty(), "{:?}", found.unknown);
        assert!(found.held[&SliceName::new("web").unwrap()].contains("paused by ada"));
        // Who has booted twice is what is asked for, who has once what was before.
        for (number, boots) in (0u32..).zip(boots) {
            let of = |fleet: &xeno_model::desired::DesiredFleet| {
                fleet.slices[&SliceName::new("web").unwrap()].slivers[&number].clone()
            };
            let wanted = of(if boots == 2 { &two } else { &one });
            assert_eq!(of(&found.fleet), wanted, "{boots} boots");
        }
        fleet.end().await;
    });
}

#[test]
fn who_never_ran_as_the_new_one_has_nothing_to_take_back() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        let restoring = |page| web(page).with("rollback: { data: restore }");
        fleet.push(&[restoring("one")]).await;
        fleet.converged().await;
        // It is kept what it wrote, and then it never starts.
        for world in &fleet.worlds {
            let fault = PortError::never("the kernel does not start");
            world.node.script("boot", Fault::Fails(fault));
        }
        fleet.push(&[restoring("two")]).await;
        let failed = |record: &RolloutRecord| {
            matches!(record.verdict, Verdict::Failed { .. }) && record.slots.is_empty()
        };
        fleet.until("all back", failed).await;
        tokio::time::sleep(10 * minute()).await;
        assert!(fleet.guests().iter().all(|(runs, _)| *runs));
        for (number, world) in (0..).zip(&fleet.worlds) {
            let effects = world.all_effects();
            let of = |verb: &str| effects.keys().filter(|key| key.starts_with(verb)).count();
            let canary = fleet.boots()[number] == 2;
            assert_eq!(of("checkpoint:"), usize::from(canary), "{effects:?}");
            assert_eq!(of("restore:"), 0, "{effects:?}");
        }
        fleet.end().await;
    });
}

/// A fleet in which one has a slot, and nothing comes of it: nobody sees what it wrote.
async fn on_its_way() -> (Fleet, RolloutRecord) {
    let mut fleet = Fleet::new().await;
    for (number, world) in (0..).zip(&fleet.worlds) {
        let sliver = id(&format!("web/{number}"));
        world.node.hide_storage(&sliver, Some("its server is away"));
    }
    fleet.push(&[web("two")]).await;
    let record = fleet.until("a turn", |record| !record.slots.is_empty()).await;
    (fleet, record)
}

#[test]
fn who_is_on_its_way_for_ever_has_failed() {
    on_a_clock(async {
        let (fleet, _) = on_its_way().await;
        // Nothing is done about what cannot be seen, and others wait for it.
        tokio::time::sleep(14 * minute()).await;
        assert_eq!(fleet.record().await.verdict, Verdict::Rolling);
        let failed = |record: &RolloutRecord| matches!(record.verdict, Verdict::Failed { .. });
        let record = fleet.until("the verdict", failed).await;
        assert_eq!(record.failed.len(), 1, "{record:#?}");
        let said = record
            .history
            .iter()
            .any(|line| line.what.contains("on its way for 15 minutes"));
        assert!(said, "{record:#?}");
        assert_eq!(fleet.boots(), [1, 1]);
        fleet.end().await;
    });
}

#[test]
fn a_slot_goes_back_when_a_commit_places_its_sliver_elsewhere() {
    on_a_clock(async {
        let (mut fleet, record) = on_its_way().await;
        let node = record.slots.values().next().expect("a slot");
        let here = NODES
            .iter()
            .position(|name| *name == node.as_str())
            .expect("a node");
        let there = 1 - here;
        // Nobody is there who could take it over.
        fleet.worlds[there].kill().await;
        let both = ["cam-01, cam-01", "cam-02, cam-02"][there];
        fleet.pushed += 1;
        let desired = commit_at(NODES[here], fleet.pushed, &[web("two").on(both)]);
        fleet.worlds[here].push(desired).await;
        // It serves as what it was, and nothing is done to it where it is.
        let record = fleet.until("the slot", |record| record.slots.is_empty()).await;
        assert!(record.failed.is_empty(), "{record:#?}");
        assert_eq!(fleet.boots(), [1, 1]);
        fleet.worlds[there].start_again().await;
        fleet.end().await;
    });
}

/// Maintenance that is hours away.
fn not_now(now: Timestamp) -> Windows {
    let weekly = [Weekday::Mon, Weekday::Thu].map(|day| Window {
        days: [day].into(),
        from_min: 0,
        until_min: 60,
    });
    let mut windows = weekly.map(|window| Windows { weekly: vec![window] }).into_iter();
    let later = |windows: &Windows| {
        let wait_ms = windows.opens_after(now).0.saturating_sub(now.0);
        !windows.open_at(now) && wait_ms > 6 * 3_600_000
    };
    windows.find(later).expect("one of two days is not near")
}

#[test]
fn what_a_sliver_is_to_be_still_is_brought_here_although_the_commit_has_other_files() {
    on_a_clock(async {
        let mut fleet = Fleet::new().await;
        let api = |page| slice("api").on("cam-01").page(page);
        for _ in 0..3 {
            let fault = PortError::later("the disk does not answer");
            fleet.worlds[0].node.script("import", Fault::Fails(fault));
        }
        fleet.push(&[web("one"), api("first")]).await;
        let tries = async || {
            let why = fleet.worlds[0].agent().handle().why(id("api/0")).await;
            why.is_ok_and(|why| why.reasons.iter().any(|reason| reason.text.contains("import")))
        };
        for _ in 0..600 {
            if tries().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(tries().await, "{:?}", fleet.why().await);
        // Nothing new begins for hours, and no commit that is read from now on has the first page.
        fleet.pushed += 1;
        for (world, node) in fleet.worlds.iter_mut().zip(NODES) {
            let mut desired = commit_at(node, fleet.pushed, &[web("one"), api("second")]);
            desired.site.windows = not_now(world.clock.now());
            world.push(desired).await;
        }
        tokio::time::sleep(10 * minute()).await;
        let world = &fleet.worlds[0];
        let boots = world.all_effects().get("boot:api/0").copied();
        let why = world.agent().handle().why(id("api/0")).await.unwrap().sentences;
        assert_eq!(boots, Some(1), "{why:?}");
        assert!(why.iter().any(|why| why.contains("opens at")), "{why:?}");
        fleet.end().await;
    });
}
