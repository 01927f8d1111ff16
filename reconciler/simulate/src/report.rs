//! What came of a story, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::outcome::{Milestone, Outcome, SliceEnd};
use crate::reach::Reach;

/// Version of the JSON form.
pub const FORMAT_VERSION: u32 = 1;

/// Slices that a table names one by one.
const SLICES_MAX: usize = 24;

/// A point in time, from the beginning of the story: `1:02:03`.
#[must_use]
pub fn clock(at_ms: u64) -> String {
    let seconds = at_ms / 1000;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// As text: what the push did, how each rollout went, and what was reached.
#[must_use]
pub fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    head(outcome, &mut out);
    let classes = outcome
        .classes
        .iter()
        .map(|(class, count)| (class.word().to_owned(), *count));
    columns("slivers", classes.collect(), &mut out);
    let actions = outcome
        .reach
        .actions()
        .map(|(kind, count)| (kind.verb().to_owned(), count));
    columns("actions", actions.collect(), &mut out);
    if outcome.moved > 0 {
        let _ = writeln!(out, "moves: {} slivers have gone to another node", outcome.moved);
    }
    let approved = outcome.reach.count("approved by a person");
    if approved > 0 {
        let _ = writeln!(out, "approvals: a person has approved {approved} changes");
    }
    if outcome.slices.len() <= SLICES_MAX {
        each_slice(&outcome.slices, &mut out);
    } else {
        all_slices(&outcome.slices, &mut out);
    }
    let busiest = outcome.writes.values().max().copied().unwrap_or(0);
    let whole: u64 = outcome.writes.values().map(|writes| u64::from(*writes)).sum();
    let _ = writeln!(
        out,
        "board: {whole} changes asked for, {} a second in the busiest minute",
        busiest.div_ceil(60)
    );
    let _ = writeln!(
        out,
        "over after {}; nothing that must not be in {} events",
        clock(outcome.ended_ms),
        outcome.events
    );
    out
}

fn head(outcome: &Outcome, out: &mut String) {
    let sites: std::collections::BTreeSet<_> = outcome.nodes.iter().map(|(_, site)| site).collect();
    let _ = writeln!(
        out,
        "{} slivers on {} nodes at {} sites; seed {}",
        outcome.slivers,
        outcome.nodes.len(),
        sites.len(),
        outcome.seed
    );
    for push in &outcome.pushes {
        let _ = writeln!(
            out,
            "{}  push {} touches {} slivers on {} nodes",
            clock(push.at_ms),
            push.revision,
            push.slivers,
            push.nodes
        );
    }
    out.push('\n');
}

fn columns(what: &str, counts: Vec<(String, u64)>, out: &mut String) {
    if counts.is_empty() {
        let _ = writeln!(out, "{what}: none");
        return;
    }
    let words: Vec<String> = counts
        .into_iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    let _ = writeln!(out, "{what}: {}", words.join(", "));
}

fn end_of(slice: &SliceEnd) -> String {
    match (&slice.waits, slice.milestones.last()) {
        (Some(waits), _) => format!("waits: {waits}"),
        (None, Some((_, last))) => last.words(),
        (None, None) => String::new(),
    }
}

fn each_slice(slices: &[SliceEnd], out: &mut String) {
    if slices.is_empty() {
        return;
    }
    let waves = slices.iter().map(waves_of).max().unwrap_or(1);
    let width = slices
        .iter()
        .map(|slice| slice.slice.as_str().len())
        .max()
        .unwrap_or(5)
        .max(5);
    let _ = write!(out, "\n{:width$}  SLIVERS  FAILED  {:>8}", "SLICE", "CANARY");
    for wave in 2..=waves {
        let _ = write!(out, "  {:>8}", format!("WAVE {wave}"));
    }
    let _ = writeln!(out, "  {:>8}  OUTCOME", "END");
    for slice in slices {
        let at = |milestone: Milestone| {
            let mut found = slice.milestones.iter().rev();
            found
                .find(|(_, one)| *one == milestone)
                .map_or_else(|| "-".to_owned(), |(at, _)| clock(*at))
        };
        let _ = write!(
            out,
            "{:width$}  {:>7}  {:>6}  {:>8}",
            slice.slice,
            slice.slivers,
            slice.failed,
            at(Milestone::Begins)
        );
        for wave in 2..=waves {
            let _ = write!(out, "  {:>8}", at(Milestone::Wave(wave)));
        }
        let ended = slice.milestones.last().filter(|_| slice.waits.is_none());
        let ended = ended.map_or_else(|| "-".to_owned(), |(at, _)| clock(*at));
        let _ = writeln!(out, "  {ended:>8}  {}", end_of(slice));
    }
    out.push('\n');
}

fn waves_of(slice: &SliceEnd) -> u32 {
    let waves = slice.milestones.iter().map(|(_, milestone)| match milestone {
        Milestone::Wave(wave) => *wave,
        _ => 1,
    });
    waves.max().unwrap_or(1)
}

fn all_slices(slices: &[SliceEnd], out: &mut String) {
    let _ = writeln!(
        out,
        "\n{:<22}  ROLLOUTS  {:>8}  {:>8}  {:>8}",
        "REACHED", "FIRST", "MEDIAN", "LAST"
    );
    let mut by: BTreeMap<Milestone, Vec<u64>> = BTreeMap::new();
    for slice in slices {
        for (at, milestone) in &slice.milestones {
            by.entry(*milestone).or_default().push(*at);
        }
    }
    for (milestone, mut times) in by {
        times.sort_unstable();
        let at = |index: usize| clock(times.get(index).copied().unwrap_or(0));
        let _ = writeln!(
            out,
            "{:<22}  {:>8}  {:>8}  {:>8}  {:>8}",
            milestone.words(),
            times.len(),
            at(0),
            at(times.len() / 2),
            at(times.len() - 1)
        );
    }
    let waiting: Vec<&SliceEnd> = slices.iter().filter(|slice| slice.waits.is_some()).collect();
    if !waiting.is_empty() {
        let _ = writeln!(out, "{:<22}  {:>8}", "still waits", waiting.len());
    }
    for slice in waiting.iter().take(3) {
        let _ = writeln!(out, "  {}: {}", slice.slice, end_of(slice));
    }
    out.push('\n');
}

/// What was reached, a line each: faults, holds, waits, and what became of calls.
#[must_use]
pub fn reached(reach: &Reach) -> String {
    let mut out = String::new();
    for (branch, count) in reach.branches() {
        let _ = writeln!(out, "{count:>10}  {branch}");
    }
    out
}

/// As JSON.
#[must_use]
pub fn json(outcome: &Outcome) -> Value {
    let slice = |slice: &SliceEnd| {
        let milestone = |(at, milestone): &(u64, Milestone)| json!({ "atMs": at, "what": milestone.words() });
        json!({
            "slice": slice.slice.as_str(),
            "slivers": slice.slivers,
            "failed": slice.failed,
            "outcome": end_of(slice),
            "milestones": slice.milestones.iter().map(milestone).collect::<Vec<_>>(),
        })
    };
    let classes: BTreeMap<&str, u64> = outcome
        .classes
        .iter()
        .map(|(class, count)| (class.word(), *count))
        .collect();
    let actions: BTreeMap<&str, u64> = outcome
        .reach
        .actions()
        .map(|(kind, count)| (kind.verb(), count))
        .collect();
    let reached: BTreeMap<&str, u64> = outcome.reach.branches().collect();
    let pushes = outcome.pushes.iter().map(|push| {
        json!({
            "atMs": push.at_ms,
            "revision": push.revision,
            "slivers": push.slivers,
            "nodes": push.nodes,
        })
    });
    json!({
        "formatVersion": FORMAT_VERSION,
        "seed": outcome.seed,
        "moved": outcome.moved,
        "nodes": outcome.nodes.len(),
        "slivers": outcome.slivers,
        "pushes": pushes.collect::<Vec<_>>(),
        "classes": classes,
        "actions": actions,
        "rollouts": outcome.slices.iter().map(slice).collect::<Vec<_>>(),
        "boardWritesByMinute": outcome.writes.iter().map(|(minute, writes)| (minute.to_string(), *writes)).collect::<BTreeMap<_, _>>(),
        "reached": reached,
        "endedMs": outcome.ended_ms,
        "events": outcome.events,
    })
}
