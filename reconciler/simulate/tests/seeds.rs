//! Stories from seeds: nothing that must not be, and everything as it should be at the end.

#![expect(
    clippy::print_stdout,
    reason = "what was reached, for whoever asks with --nocapture"
)]
#![expect(clippy::disallowed_methods, reason = "a person says which seeds")]

use std::ops::Range;

use xeno_simulate::{Reach, Story, Trouble};

/// Seeds that every run tells.
const FIXED: Range<u64> = 0..200;

fn tell(seeds: Range<u64>) -> Reach {
    let (mut reach, mut events) = (Reach::default(), 0);
    for seed in seeds {
        match Story::drawn(seed).tell() {
            Ok(outcome) => {
                reach.merge(&outcome.reach);
                events += outcome.events;
            }
            Err(broken) => panic!("seed {seed}: {broken}\nagain: xeno simulate --random --seed {seed}"),
        }
    }
    println!("{events} events");
    reach
}

fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the fixed seeds reach, each at least once, beside every kind of fault.
const REACHED: [&str; 26] = [
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
