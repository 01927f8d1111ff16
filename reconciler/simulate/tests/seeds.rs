//! Stories from seeds: nothing that must not be, and everything as it should be at the end.

#![expect(
    clippy::print_stdout,
    reason = "what was reached, for whoever asks with --nocapture"
)]
#![expect(clippy::disallowed_methods, reason = "a person says which seeds")]

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use xeno_simulate::{Reach, Story, Trouble};

/// Seeds that every run tells.
const FIXED: Range<u64> = 0..200;
/// How many others.
const FRESH: u64 = 20;

/// Tells all of them; what does not hold is said at the end, with the command that repeats each.
fn tell(seeds: Range<u64>) -> Reach {
    let (mut reach, mut events, mut broken) = (Reach::default(), 0, Vec::new());
    let many = seeds.end - seeds.start;
    for seed in seeds {
        match Story::drawn(seed).tell() {
            Ok(outcome) => {
                reach.merge(&outcome.reach);
                events += outcome.events;
            }
            Err(what) => {
                println!("seed {seed}: {what}\nagain: xeno simulate --random --seed {seed}");
                broken.push(seed);
            }
        }
    }
    println!("{many} seeds, {events} events");
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

/// What the fixed seeds reach, each at least once, beside every kind of fault.
const REACHED: [&str; 36] = [
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
    let reach = tell(first..first + many);
    for (branch, count) in reach.branches() {
        println!("{branch:<24} {count}");
    }
    for (kind, count) in reach.actions() {
        println!("{:<24} {count}", kind.verb());
    }
    if (first..first + many) == FIXED {
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
