//! Random walks: commits, faults, crashes, losses and clocks in any order, from one seed. After each step nothing is
//! unsafe; once it is quiet, the node comes to rest.
//!
//! An ordinary run walks a few fixed seeds. `XENO_WALKS=200` walks so many, `XENO_SEED=7` begins with that one.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Duration, Instant};
use xeno_agent::api::Phase;
use xeno_model::id::SliverId;
use xeno_reconciler::action::ActionKind;
use xeno_reconciler::ports::PortError;
use xeno_reconciler::scripted::Fault;

use crate::fleet::{Slice, commit, id, slice};
use crate::runtime::in_parallel;
use crate::world::{TOMBSTONE, World};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const STEPS: usize = 30;
const WALKS: u64 = 6;
const HOUR: Duration = Duration::from_secs(3600);
const BUDGET: usize = 2;

/// splitmix64 (Steele, Lea and Flood, 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn of<T: Copy>(&mut self, things: &[T]) -> T {
        let n = u64::try_from(things.len()).unwrap();
        things[usize::try_from(self.below(n)).unwrap()]
    }

    fn slices(&mut self) -> Vec<Slice> {
        let mut slices = vec![slice("keep").template("fedora")];
        for name in NAMES {
            if self.below(4) == 0 {
                continue;
            }
            let mut one = slice(name)
                .page(self.of(&["one", "two"]))
                .template(self.of(&["debian", "fedora"]))
                .memory(self.of(&["128MiB", "256MiB"]))
                .limits(self.of(&["", "disk: 1GiB", "memoryMax: 512MiB"]))
                .with(self.of(STATES));
            if self.below(2) == 0 {
                one = one.asked();
            }
            slices.push(one);
        }
        slices
    }

    fn fault(&mut self) -> Fault {
        let looks = u32::try_from(self.below(3)).unwrap();
        match self.below(6) {
            0 => Fault::Fails(PortError::later("the disk is slow")),
            1 => Fault::Fails(PortError::never("the disk is broken")),
            2 => Fault::Hangs,
            3 => Fault::HangsAfter,
            4 => Fault::SucceedsUnsaid,
            _ => Fault::Late { looks },
        }
    }
}

const STATES: &[&str] = &[
    "state: running",
    "state: running",
    "state: suspended",
    "state: stopped",
];

/// What is remembered on the way, to judge by.
struct Judge {
    began: Instant,
    /// When each sliver was asked for last.
    asked: BTreeMap<SliverId, Duration>,
    written: BTreeMap<SliverId, u64>,
    /// How many had been removed when.
    removed: Vec<(Duration, usize)>,
}

impl Judge {
    fn look(&mut self, world: &World, told: &[String]) {
        let now = self.began.elapsed();
        assert_eq!(world.node.violations(), [""; 0], "{}", told.join("\n"));
        let written = world.node.all_written();
        for (sliver, layer) in &self.written {
            let asked = self.asked.get(sliver).copied().unwrap_or_default();
            let long_ago = now.saturating_sub(asked) >= TOMBSTONE;
            assert!(
                written.get(sliver) == Some(layer) || long_ago,
                "{sliver} lost what it wrote, and was asked for at {asked:?}, now {now:?}\n{}",
                told.join("\n")
            );
        }
        self.written = written;
        let removed = removals(&world.node.effects());
        let within = |(then, _): &&(Duration, usize)| now - *then < HOUR;
        let before = self
            .removed
            .iter()
            .filter(within)
            .map(|(_, removed)| *removed)
            .min();
        assert!(
            removed - before.unwrap_or(removed) <= BUDGET,
            "{removed} removals, {before:?} an hour ago\n{}",
            told.join("\n")
        );
        self.removed.push((now, removed));
    }
}

/// How often something was set aside. What is set aside already is not set aside again by a late or repeated call.
fn removals(effects: &[String]) -> usize {
    let mut aside = BTreeSet::new();
    let mut removals = 0;
    for (verb, sliver) in effects.iter().filter_map(|key| key.split_once(':')) {
        match verb {
            "tombstone" => removals += usize::from(aside.insert(sliver)),
            "open" | "revive" | "purge" => {
                aside.remove(sliver);
            }
            _ => {}
        }
    }
    removals
}

async fn walk(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::new();
    // Long looks at nothing are what most of the time goes by with.
    world.look_every = Duration::from_secs(60);
    world.start().await;
    for name in NAMES {
        world.guest_says(&id(&format!("{name}/0")), "ready");
    }
    let mut told = vec![format!(
        "seed {seed}: XENO_SEED={seed} XENO_WALKS=1 cargo test -p xeno-agent --test lab walk"
    )];
    let mut judge = Judge {
        began: Instant::now(),
        asked: BTreeMap::new(),
        written: BTreeMap::new(),
        removed: vec![],
    };
    let mut number = 0;
    let mut wanted = Vec::new();
    for _ in 0..STEPS {
        match dice.below(10) {
            0..=3 => {
                number += 1;
                let slices = dice.slices();
                let desired = commit(number, &slices);
                told.push(format!("push {number}: {slices:?}"));
                // What the last commit asked for was asked for until now.
                let now = judge.began.elapsed();
                judge.asked.extend(wanted.drain(..).map(|sliver| (sliver, now)));
                wanted = desired.slivers.keys().cloned().collect();
                judge
                    .asked
                    .extend(wanted.iter().cloned().map(|sliver| (sliver, now)));
                world.push(desired).await;
            }
            4..=5 => {
                let (kind, fault) = (dice.of(&ActionKind::ALL), dice.fault());
                told.push(format!("fault {kind:?} {fault:?}"));
                world.node.script(kind.verb(), fault);
            }
            6 => {
                told.push("kill".to_owned());
                world.kill().await;
                world.start_again().await;
            }
            7 => {
                let sliver = id(&format!("{}/0", dice.of(&NAMES)));
                match dice.below(3) {
                    0 => world.node.lose_domain(&sliver),
                    1 => world.node.lose_file_server(),
                    _ => world
                        .node
                        .script("observe", Fault::Fails(PortError::later("nobody answers"))),
                }
                told.push(format!("loss of {sliver}, of the file server, or of sight"));
            }
            8 => {
                told.push("power failure".to_owned());
                world.kill().await;
                for name in NAMES.iter().chain(&["keep"]) {
                    world.node.lose_domain(&id(&format!("{name}/0")));
                }
                world.node.lose_file_server();
                world.start_again().await;
            }
            _ => {
                let hours = i64::try_from(dice.below(400)).unwrap() - 100;
                told.push(format!("the clock turns by {hours} hours"));
                world.clock.turn(hours * 3_600_000);
            }
        }
        let pause = Duration::from_millis(dice.of(&[0, 1, 700, 5_000, 90_000, 1_200_000]));
        told.push(format!("  {:?}, then {pause:?}", judge.began.elapsed()));
        world.pass(pause).await;
        let now = judge.began.elapsed();
        judge
            .asked
            .extend(wanted.iter().cloned().map(|sliver| (sliver, now)));
        judge.look(&world, &told);
    }
    world.node.clear_faults();
    // An image that fits no longer waits for a person, who has it discarded.
    let stopped = NAMES.map(|name| slice(name).with("state: stopped"));
    number += 1;
    world.push(commit(number, &stopped)).await;
    world.pass(HOUR).await;
    let slices = dice.slices();
    told.push(format!("at last: {slices:?}"));
    world.push(commit(number + 1, &slices)).await;
    // Removals wait for their budget, hours at most; the rest does not take as long.
    world.pass(4 * HOUR).await;
    let status = world.status().await;
    assert_eq!(status.phase, Phase::Converged, "{}\n{status:#?}", told.join("\n"));
    world.converged().await;
    // What was set aside long ago is deleted when its time comes, at rest too.
    let done = || -> BTreeMap<String, usize> {
        let all = world.all_effects().into_iter();
        all.filter(|(key, _)| !key.starts_with("purge:")).collect()
    };
    let settled = done();
    world.pass(HOUR / 2).await;
    assert_eq!(done(), settled, "{}", told.join("\n"));
}

#[test]
fn whatever_happens_nothing_is_lost_and_the_node_comes_to_rest() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first: u64 = number("XENO_SEED").unwrap_or(1);
    let walks = number("XENO_WALKS").unwrap_or(WALKS);
    let seeds: Vec<u64> = (first..first + walks).collect();
    in_parallel(&seeds, |seed| Box::pin(walk(seed)));
}
