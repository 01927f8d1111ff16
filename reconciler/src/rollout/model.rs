//! Many nodes that roll out by [`step()`] and [`decide`] alone, in any order, with what they read a while ago.
//!
//! A world is played from one seed: nodes read the board, stop, decide by what they have read, and swap; guests become healthy or
//! fail; nodes die, are thought to be dead while they are not, and come back; commits come in the middle, people press every
//! button. After each move the budgets are kept; once the faults stop the rollout ends, with a third of the nodes away.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{Matching, OnFailure, Rollout, Share, Wave};
use xeno_model::id::{Digest, Timestamp};
use xeno_model::units::Millis;

use super::tests::{key, node, placement, signed};
use super::*;

/// Numbers that look random, and are the same for the same seed (xorshift64*, Vigna 2016).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// One node with its sliver.
#[derive(Clone)]
struct Sim {
    /// Whether it runs.
    up: bool,
    /// Whether the board has its sign of life.
    alive: bool,
    /// The commit that it has read.
    commit: u8,
    /// What it read of the board last.
    read: Option<Read>,
    /// What it wrote down about its sliver, and how that is.
    footing: Footing,
    condition: Condition,
    /// Whether it went away since it took its slot.
    strayed: bool,
    witness: Witness,
}

#[derive(Clone)]
struct Read {
    version: u64,
    record: Option<RolloutRecord>,
    snapshot: Snapshot,
}

struct World {
    chance: Chance,
    policy: Rollout,
    placement: BTreeMap<u32, Placed>,
    nodes: Vec<Sim>,
    commit: u8,
    bad: BTreeSet<u8>,
    version: u64,
    record: Option<RolloutRecord>,
    summaries: BTreeMap<u32, SliverSummary>,
    now_ms: u64,
    /// Who began what the record brings while its canaries were under way.
    early: BTreeSet<u32>,
    promoted: bool,
    /// How often canaries were replaced.
    skips: usize,
    story: Vec<String>,
}

/// Waves by numbers, by site and by label.
fn waves(chance: &mut Chance) -> Vec<Wave> {
    let named = |key: &str, value: u64| {
        let value = if key == "site" {
            format!("s{value}")
        } else {
            value.to_string()
        };
        Wave::Match(Matching([(key.to_owned(), value)].into()))
    };
    let share = Wave::Share(Share::Count(u32::try_from(chance.below(5)).unwrap()));
    match chance.below(4) {
        0 => vec![named("site", chance.below(4))],
        1 => vec![
            named("rack", chance.below(3)),
            named("site", chance.below(3)),
            share,
        ],
        _ => vec![share, Wave::Share(Share::Percent(100))],
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let slivers = 3 + u32::try_from(chance.below(8)).unwrap();
        let share = |chance: &mut Chance, most: u64| Share::Count(u32::try_from(chance.below(most)).unwrap());
        let policy = Rollout {
            canary: u32::try_from(chance.below(3)).unwrap(),
            waves: waves(&mut chance),
            max_unavailable: share(&mut chance, 4),
            max_failed: share(&mut chance, 3),
            max_unreachable: Share::Percent(40),
            bake: Millis(chance.below(3) * 1000),
            on_failure: if chance.one_in(3) {
                OnFailure::Hold
            } else {
                OnFailure::Rollback
            },
        };
        let sim = Sim {
            up: true,
            alive: true,
            commit: 1,
            read: None,
            footing: Footing {
                at: Some(key(1).revision),
                good: None,
            },
            condition: Condition::Healthy,
            strayed: false,
            witness: Witness::default(),
        };
        let bad = (2..9).filter(|_| chance.one_in(2)).collect();
        let mut world = Self {
            placement: placement(slivers, 3),
            nodes: vec![sim; slivers as usize],
            record: Some(begin(None, key(1), &policy, true, signed("n0"))),
            chance,
            policy,
            commit: 2,
            bad,
            version: 1,
            summaries: BTreeMap::new(),
            now_ms: 0,
            early: BTreeSet::new(),
            promoted: false,
            skips: 0,
            story: Vec::new(),
        };
        for number in world.numbers() {
            world.publish(number);
        }
        world
    }

    fn numbers(&self) -> Vec<u32> {
        self.placement.keys().copied().collect()
    }

    fn sim(&mut self, number: u32) -> &mut Sim {
        &mut self.nodes[number as usize]
    }

    fn publish(&mut self, number: u32) {
        let sim = &self.nodes[number as usize];
        let summary = SliverSummary {
            revision: sim.footing.at.unwrap_or(Digest([0; 32])),
            condition: sim.condition.clone(),
            since: Timestamp(self.now_ms),
        };
        self.summaries.insert(number, summary);
    }

    fn look(&mut self, number: u32) {
        let away = |number: &u32| !self.nodes[*number as usize].alive;
        let snapshot = Snapshot {
            slivers: self.summaries.clone(),
            away: self
                .placement
                .keys()
                .filter(|number| away(number))
                .map(|number| node(*number))
                .collect(),
        };
        let read = Read {
            version: self.version,
            record: self.record.clone(),
            snapshot,
        };
        self.sim(number).read = Some(read);
    }

    /// The record becomes `next`, if it is still what was read.
    fn swap(&mut self, by: u32, version: u64, next: RolloutRecord, what: &str) {
        self.sim(by).read = None;
        if self.version != version {
            return;
        }
        self.story.push(format!(
            "{} ms, n{by}: {what}: wave {}, {}, slots {:?}, failed {:?}",
            self.now_ms,
            next.wave,
            next.verdict,
            next.slots.keys(),
            next.failed
        ));
        if self.record.as_ref().map(|record| &record.to) != Some(&next.to)
            || next.wave == 0 && self.record.as_ref().is_some_and(|record| record.wave > 0)
        {
            self.early.clear();
            self.promoted = false;
            self.skips = 0;
        }
        if let Some(record) = &self.record {
            self.skips += next.skipped.symmetric_difference(&record.skipped).count();
        }
        self.version += 1;
        self.record = Some(next);
    }

    fn waves(&self, record: &RolloutRecord) -> Waves {
        Waves::new(&record.policy, &self.placement, Waves::seed(&record.to))
    }

    /// A node does what it does by what it has read.
    fn act(&mut self, number: u32) {
        let sim = self.nodes[number as usize].clone();
        let Some(read) = sim.read.clone() else { return };
        let asked = key(sim.commit);
        let by = node(number);
        let by_name = by.to_string();
        let signed = Signed {
            at: Timestamp(self.now_ms),
            by: &by_name,
        };
        let Some(record) = read.record.clone() else { return };
        let wanted = wanted(&record, &asked, asked.commit > record.to.commit);
        if wanted == Wanted::Newer {
            let next = begin(Some(&record), asked, &self.policy, false, signed);
            return self.swap(number, read.version, next, "begins");
        }
        let waves = self.waves(&record);
        let tally = Tally::of(&record, &waves, &self.placement, &read.snapshot);
        let healthy_ms = self.nodes[number as usize]
            .witness
            .look(&record, &waves, &tally, self.now_ms);
        if wanted == Wanted::This && self.chance.one_in(2) {
            match decide(&record, &waves, &tally, healthy_ms) {
                Decision::Proceed(proposal) => {
                    let next = record.go_on(&proposal, &waves, signed).unwrap();
                    return self.swap(number, read.version, next, "goes on");
                }
                Decision::RollBack(why) => {
                    let next = record.roll_back(&why, &waves, signed).unwrap();
                    return self.swap(number, read.version, next, "rolls back");
                }
                Decision::Hold(hold) => assert!(!hold.to_string().is_empty()),
                Decision::Settled => {}
            }
        }
        let runs = sim.footing.runs(&record);
        let own = Own {
            number,
            node: &by,
            runs,
            wanted,
        };
        let outside = Outside {
            waves: &waves,
            away: tally.away,
            away_nodes: &read.snapshot.away,
        };
        match step(Some(&record), own, &sim.condition, outside, signed) {
            Step::Swap(next) => {
                if next.slots.len() > record.slots.len() {
                    self.takes(number, &next, outside);
                }
                self.swap(number, read.version, *next, "says");
            }
            Step::Change(aim) => self.change(number, aim, &record),
            Step::Rest => {}
            Step::Wait(wait) => assert!(!wait.to_string().is_empty()),
        }
    }

    fn takes(&mut self, number: u32, next: &RolloutRecord, outside: Outside<'_>) {
        let in_reach = next
            .slots
            .values()
            .filter(|node| !outside.away_nodes.contains(*node))
            .count();
        assert!(
            in_reach
                <= next.slots_max(outside.waves.slivers()) as usize
                    + usize::from(outside.away_nodes.contains(&node(number))),
            "{}",
            self.told()
        );
        // One that others do not see already holds up nobody from the beginning.
        self.sim(number).strayed = !self.nodes[number as usize].alive;
    }

    fn change(&mut self, number: u32, aim: Aim, record: &RolloutRecord) {
        let next = self.sim(number).footing.toward(aim, record);
        if next.at == self.sim(number).footing.at {
            return;
        }
        self.story
            .push(format!("{} ms, n{number}: changes {aim}", self.now_ms));
        // Who acts by what it read before a newer rollout began ends that, and is no canary of the newer one.
        let of_now = self.record.as_ref().is_some_and(|now| now.to == record.to);
        if of_now && aim == Aim::To && record.verdict == Verdict::Rolling && record.wave == 0 {
            self.early.insert(number);
        }
        let sim = self.sim(number);
        (sim.footing, sim.condition) = (next, Condition::Changing);
        self.publish(number);
    }

    /// A guest that is being changed comes to something.
    fn settle(&mut self, number: u32) {
        let sim = self.nodes[number as usize].clone();
        if !sim.up || sim.condition != Condition::Changing {
            return;
        }
        let bad = self
            .bad
            .iter()
            .any(|bad| sim.footing.at == Some(key(*bad).revision));
        let condition = if bad {
            Condition::Failed {
                why: "it is never healthy".to_owned(),
            }
        } else {
            Condition::Healthy
        };
        self.sim(number).condition = condition;
        self.publish(number);
    }

    fn fault(&mut self) {
        let all = u64::try_from(self.nodes.len()).unwrap();
        let number = u32::try_from(self.chance.below(all)).unwrap();
        let moves = self.chance.below(12);
        let sim = self.sim(number);
        match moves {
            // It dies, and is missed some time later; or is missed although it lives.
            0 => (sim.up, sim.read, sim.strayed) = (false, None, true),
            1 => (sim.alive, sim.strayed) = (false, true),
            2..=5 => {
                (sim.up, sim.alive) = (true, true);
            }
            6 if self.commit < 8 => self.commit += 1,
            7 => self.person(),
            _ => {}
        }
    }

    fn person(&mut self) {
        let Some(record) = self.record.clone() else { return };
        let waves = self.waves(&record);
        let ada = signed("ada");
        let pressed = match self.chance.below(5) {
            0 => record.pause(ada),
            1 => record.resume(ada),
            2 => record.promote(self.chance.one_in(2), &waves, ada),
            3 => record.abort(ada),
            _ => record.undo(ada),
        };
        let version = self.version;
        if let Ok(next) = pressed {
            self.swap(0, version, next, "ada");
            self.promoted = true;
        }
    }

    fn told(&self) -> String {
        format!(
            "{:#?}\nbad {:?}\n{}",
            self.policy,
            self.bad,
            self.story.join("\n")
        )
    }

    /// What holds after every move.
    fn check(&self) {
        let Some(record) = &self.record else { return };
        let slivers = u32::try_from(self.nodes.len()).unwrap();
        let max = record.slots_max(slivers) as usize;
        let down = |(number, sim): &(u32, &Sim)| {
            sim.up
                && sim.alive
                && !sim.strayed
                && sim.condition == Condition::Changing
                && !record.failed.contains(number)
        };
        let down: Vec<u32> = (0..)
            .zip(&self.nodes)
            .filter(down)
            .map(|(number, _)| number)
            .collect();
        // Those that go back because they failed are down already.
        let straight = record.aim() == Aim::Back;
        assert!(
            straight || down.len() <= max,
            "{down:?} are down\n{}",
            self.told()
        );
        let failed = u32::try_from(record.failed.len()).unwrap();
        let held = matches!(record.verdict, Verdict::Held { .. });
        let allowed = record.policy.max_failed.of(slivers) + u32::from(record.verdict != Verdict::Rolling);
        assert!(
            held || self.promoted || failed <= allowed,
            "{failed} failed\n{}",
            self.told()
        );
        let waves = self.waves(record);
        if waves.is_of_canaries(record.wave) && record.verdict == Verdict::Rolling && !self.promoted {
            let canaries = record.policy.canary as usize + self.skips;
            assert!(
                self.early.len() <= canaries,
                "{:?} are canaries\n{}",
                self.early,
                self.told()
            );
        }
    }

    /// Faults stop: at most a third is away, everybody has read the last commit, and all go on in turn.
    fn calm(&mut self) {
        let third = self.nodes.len() / 3;
        let mut away = 0;
        for sim in &mut self.nodes {
            if !sim.up || !sim.alive {
                away += 1;
                (sim.up, sim.alive) = if away <= third {
                    (false, false)
                } else {
                    (true, true)
                };
            }
            sim.commit = self.commit;
        }
        if let Some(record) = self.record.clone()
            && let (Verdict::Paused { .. }, version) = (&record.verdict, self.version)
        {
            let next = record.resume(signed("ada")).unwrap();
            self.swap(0, version, next, "ada");
        }
    }

    fn is_settled(&self) -> bool {
        let Some(record) = &self.record else { return false };
        let held = matches!(record.verdict, Verdict::Held { .. });
        let ended = !matches!(record.verdict, Verdict::Rolling | Verdict::Paused { .. });
        let there = |sim: &Sim| match (record.aim(), sim.footing.runs(record)) {
            (Aim::To, runs) => runs == Runs::To,
            (Aim::Back, runs) => runs == Runs::Good,
        };
        let free = |number: u32| !record.slots.contains_key(&number);
        let mut up = (0..).zip(&self.nodes).filter(|(_, sim)| sim.up);
        ended && record.to == key(self.commit) && up.all(|(number, sim)| free(number) && (held || there(sim)))
    }
}

fn play(seed: u64) -> BTreeSet<&'static str> {
    let mut world = World::new(seed);
    let numbers = world.numbers();
    let all = u64::try_from(numbers.len()).unwrap();
    for _ in 0..400 {
        let number = numbers[usize::try_from(world.chance.below(all)).unwrap()];
        world.now_ms += world.chance.below(400);
        match world.chance.below(16) {
            0..=3 => {
                if world.nodes[number as usize].up && world.chance.one_in(3) {
                    world.sim(number).commit = world.commit;
                }
                if world.nodes[number as usize].up {
                    world.look(number);
                }
            }
            4..=9 => {
                if world.nodes[number as usize].up {
                    world.act(number);
                }
            }
            10..=13 => world.settle(number),
            _ => world.fault(),
        }
        world.check();
    }
    world.calm();
    // Each round every node in reach looks and acts; a wave takes a few, and a slot at a time makes as many as there are slivers.
    for _ in 0..40 * numbers.len() {
        world.now_ms += 500;
        for number in &numbers {
            if world.nodes[*number as usize].up {
                world.look(*number);
                world.act(*number);
                world.settle(*number);
                world.check();
            }
        }
        if world.is_settled() {
            break;
        }
    }
    assert!(
        world.is_settled(),
        "seed {seed} does not come to an end\n{}",
        world.told()
    );
    let record = world.record.expect("there is one from the start");
    let mut met = BTreeSet::new();
    met.insert(match record.verdict {
        Verdict::Rolling | Verdict::Paused { .. } => "under way",
        Verdict::Held { .. } => "held",
        Verdict::Failed { .. } => "failed",
        Verdict::Aborted { .. } => "aborted",
        Verdict::Done => "done",
    });
    if !record.skipped.is_empty() {
        met.insert("skipped");
    }
    met
}

#[test]
fn budgets_are_kept_and_every_rollout_ends() {
    let met: BTreeSet<_> = (0..200).flat_map(play).collect();
    let expected = ["aborted", "done", "failed", "held", "skipped"];
    assert_eq!(met.into_iter().collect::<Vec<_>>(), expected);
}
