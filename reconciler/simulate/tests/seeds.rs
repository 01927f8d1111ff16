//! Stories from seeds: nothing that must not be, and everything as it should be at the end.

#![expect(
    clippy::print_stdout,
    reason = "what was reached, for whoever asks with --nocapture"
)]
#![expect(clippy::disallowed_methods, reason = "a person says which seeds")]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use xeno_simulate::{Reach, Story, Trouble};

/// Seeds that every run tells.
const FIXED: Range<u64> = 0..200;
/// Seeds of before that did not hold once, or that reach what those do not.
const ALSO: [u64; 6] = [
    1_207,
    1_846,
    8_960,
    459_625_801_343_762,
    459_625_859_898_114,
    459_625_859_898_121,
];
/// How many that nobody has told before.
const FRESH: u64 = 20;

/// Tells all of them, on all processors; what does not hold is said with the command that repeats it.
fn tell(seeds: impl IntoIterator<Item = u64>) -> Reach {
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let next = AtomicUsize::new(0);
    let some = || {
        let (mut reach, mut events, mut broken) = (Reach::default(), 0, Vec::new());
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            match Story::drawn(*seed).tell() {
                Ok(outcome) => {
                    reach.merge(&outcome.reach);
                    events += outcome.events;
                }
                Err(what) => {
                    println!("seed {seed}: {what}\nagain: xeno simulate --random --seed {seed}");
                    broken.push(*seed);
                }
            }
        }
        (reach, events, broken)
    };
    let told: Vec<_> = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let begun: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        begun
            .into_iter()
            .map(|thread| thread.join().expect("a story"))
            .collect()
    });
    let (mut reach, mut all, mut broken) = (Reach::default(), 0, Vec::new());
    for (reached, events, some) in told {
        reach.merge(&reached);
        all += events;
        broken.extend(some);
    }
    let many = seeds.len();
    println!("{many} seeds, {all} events");
    assert!(
        broken.is_empty(),
        "{} of {many} seeds do not hold; again: xeno simulate --random --seed SEED, with each of {broken:?}",
        broken.len()
    );
    reach
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the fixed seeds reach, each at least once, beside every kind of fault. The stories of `field.rs` reach the other holds and
/// waits, and each budget. Nobody ever says `wait: not begun` here: whoever has read a commit begins its rollout.
const REACHED: [&str; 39] = [
    "unapproved",
    "approved by a person",
    "wait: approval",
    "action fails",
    "action hangs",
    "action hangs after",
    "action unsaid",
    "answer lost",
    "request late",
    "request lost",
    "swap refused",
    "lease ran out",
    "backing off",
    "blind",
    "delete budget",
    "made before broken",
    "never healthy",
    "goes back",
    "canary replaced",
    "hold: baking",
    "hold: wave",
    "verdict: aborted",
    "verdict: done",
    "verdict: failed",
    "verdict: held",
    "move refused",
    "move: call off",
    "move: clear",
    "move: close",
    "move: depart",
    "move: destroy",
    "move: park",
    "move: travel",
    "right: hand over",
    "right: settle",
    "wait: commit unread",
    "wait: held",
    "wait: slots",
    "wait: wave",
];

#[test]
fn fixed_seeds() {
    let first = asked("XENO_SEED").unwrap_or(FIXED.start);
    let many = asked("XENO_SEEDS").unwrap_or(FIXED.end - FIXED.start);
    let all = (first..first + many) == FIXED;
    let also = ALSO.into_iter().filter(|_| all);
    let reach = tell((first..first + many).chain(also));
    for (branch, count) in reach.branches() {
        println!("{branch:<24} {count}");
    }
    for (kind, count) in reach.actions() {
        println!("{:<24} {count}", kind.verb());
    }
    if all {
        let all = REACHED.iter().chain(&Trouble::WORDS);
        let missed: Vec<_> = all.filter(|branch| reach.count(branch) == 0).collect();
        assert!(missed.is_empty(), "not reached: {missed:?}");
    }
}

/// Stories that nobody has told before. One that does not hold joins the fixed ones.
#[test]
fn fresh_seeds() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let first = now.as_secs() * 100;
    tell(first..first + FRESH);
}
