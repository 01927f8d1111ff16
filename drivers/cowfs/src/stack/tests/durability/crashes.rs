//! Crashes of every story.

use super::explore::{Effort, Tried, every_crash, report};
use super::stories::{named, random};
use super::*;

#[test]
fn every_crash_of_every_named_story_leaves_what_was_promised() {
    let mut all = Tried::default();
    for (name, story) in named() {
        let told = tell(&story);
        assert_eq!(told.steps.len(), story.len(), "{name}: something was refused");
        let tried = every_crash(name, &told, Effort::usual());
        report(name, format_args!("{tried:?}"));
        all += tried;
    }
    report("all named stories", format_args!("{all:?}"));
    assert!(
        all.prefixes > 400 && all.states > 1_200 && all.again > 10,
        "{all:?}"
    );
}

#[test]
fn random_stories_survive_random_crashes() {
    let asked = std::env::var("XENO_COWFS_STORIES").ok();
    let stories = asked.and_then(|stories| stories.parse().ok()).unwrap_or(8);
    let asked = std::env::var("XENO_SEED").ok();
    let first: u64 = asked.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut all = Tried::default();
    for seed in first..first + stories {
        let told = tell(&random(seed, 24));
        let mut effort = Effort::usual();
        effort.ways = (effort.ways / 4).max(2);
        effort.seed = seed;
        all += every_crash(&format!("seed {seed}"), &told, effort);
    }
    report("random stories", format_args!("{all:?}"));
}
