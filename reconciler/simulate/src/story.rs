//! A story: what is pushed to a fleet, and what goes wrong.

use std::ops::Range;
use std::sync::Arc;

use xeno_model::desired::{DesiredFleet, Disturbance, Site, Slice};
use xeno_model::id::{NodeName, SliceName};

use crate::draw::Draw;
use crate::fault::{Fault, Trouble, drawn};
use crate::fleet::{Commit, Push, fleet, pushed, revision};

/// A story: what is pushed, and what goes wrong.
#[derive(Clone, Debug)]
pub struct Story {
    /// The chance in everything.
    pub seed: u64,
    /// What every node has carried out at the beginning.
    pub before: Commit,
    /// What is pushed, and when.
    pub pushes: Vec<(u64, Commit)>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// How long a person takes at most to approve what waits for it, in milliseconds; one who takes more than a minute leaves some
    /// of it for later.
    pub approves_ms: u64,
    /// How long after the last push and the last fault that ends everything is as it should be, in milliseconds.
    pub patience_ms: u64,
}

/// When the first push happens.
const PUSH_MS: u64 = 60_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// How long one sliver may take to change, beside the grace of its health check.
const SLIVER_MS: u64 = 300_000;

/// What waits for a person's approval in a fleet that nobody made up: in every fifth, something.
fn asked_of_people(seed: u64) -> Option<Disturbance> {
    let mut draw = Draw::new(seed).fork(0xa9908);
    let from = [
        Disturbance::Reconnects,
        Disturbance::Interrupts,
        Disturbance::Interrupts,
        Disturbance::Ends,
    ];
    draw.permille(200).then(|| from[draw.index(from.len())])
}

/// How long a push may take: two days, beside what its rollouts ask for, and until every maintenance window has opened.
fn patience_of(fleet: &DesiredFleet) -> u64 {
    let rollout = |slice: &Arc<Slice>| {
        let (_, first) = slice.slivers.values().next()?;
        let all = u32::try_from(slice.slivers.len()).unwrap_or(u32::MAX);
        let policy = &first.rollout;
        // The canaries, and those whom no wave names.
        let waves = u64::try_from(policy.waves.len())
            .unwrap_or(u64::MAX)
            .saturating_add(2);
        let turns = u64::from(all.div_ceil(policy.max_unavailable.of(all).max(1)));
        let grace = first.health.as_ref().map_or(0, |health| health.grace.0);
        let changing = turns.saturating_mul(SLIVER_MS.saturating_add(grace));
        Some(waves.saturating_mul(policy.bake.0).saturating_add(changing))
    };
    let longest = fleet.slices.values().filter_map(rollout).max().unwrap_or(0);
    let windows = |site: &Site| !site.policy.windows.weekly.is_empty();
    let closed = if fleet.sites.values().any(windows) {
        8 * DAY
    } else {
        0
    };
    (2 * DAY).saturating_add(longest).saturating_add(closed)
}

impl Story {
    /// A story of a small fleet that nobody made up, with faults, from a seed.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let mut draw = Draw::new(seed).fork(0x570f);
        let nodes = u32::try_from(draw.between(2, 10)).unwrap_or(2);
        let mut before = fleet(nodes, seed);
        before.approval = asked_of_people(seed);
        let asks = before.approval.is_some();
        let mut pushes = Vec::new();
        let mut last = before.clone();
        let mut at = PUSH_MS;
        for number in 1..=draw.between(1, 2) {
            let count = u32::try_from(draw.between(1, 4)).unwrap_or(1);
            let push = match draw.below(13) {
                0..=2 => Push::TemplateForAll,
                3 | 4 => Push::Template(count),
                5 => Push::Weight(count),
                6 => Push::Remove(count),
                7 => Push::Weight(1),
                8 => Push::Grow(count),
                9 => Push::Stop(1),
                _ => Push::Move(count),
            };
            last = pushed(&last, push, number, &mut draw);
            let commit = Commit {
                revision: revision(seed, number),
                fleet: last.clone(),
            };
            pushes.push((at, commit));
            at += draw.between(10_000, HOUR);
        }
        let faults = drawn(&mut draw, before.nodes.len(), before.slices.len(), 6 * HOUR);
        Self {
            seed,
            before: Commit {
                revision: revision(seed, 0),
                fleet: before,
            },
            pushes,
            faults,
            approves_ms: HOUR,
            // Whoever asks a person for each step takes longer.
            patience_ms: if asks { 16 * HOUR } else { 8 * HOUR },
        }
    }

    /// One push to a fleet, and nothing that goes wrong.
    #[must_use]
    pub fn pushing(before: Commit, after: Commit, seed: u64) -> Self {
        let patience_ms = patience_of(&after.fleet);
        Self {
            seed,
            before,
            pushes: vec![(PUSH_MS, after)],
            faults: Vec::new(),
            approves_ms: 60_000,
            patience_ms,
        }
    }

    /// One push to a fleet of so many nodes that nobody wrote.
    #[must_use]
    pub fn generated(nodes: u32, push: Push, seed: u64) -> Self {
        let before = fleet(nodes, seed);
        let after = pushed(&before, push, 1, &mut Draw::new(seed).fork(0x9054));
        let commit = |number, fleet| Commit {
            revision: revision(seed, number),
            fleet,
        };
        Self::pushing(commit(0, before), commit(1, after), seed)
    }

    /// So many of a hundred nodes reach nobody, from the beginning and for ever.
    #[must_use]
    pub fn with_away(mut self, percent: u32) -> Self {
        let mut draw = Draw::new(self.seed).fork(0xa3a7);
        let mut nodes: Vec<(u64, usize)> = (0..self.nodes().len()).map(|n| (draw.number(), n)).collect();
        nodes.sort_unstable();
        let many = nodes.len() * usize::try_from(percent.min(100)).unwrap_or(0) / 100;
        let away = nodes.into_iter().take(many).map(|(_, node)| Fault {
            from_ms: 0,
            until_ms: u64::MAX,
            trouble: Trouble::Away { node },
        });
        self.faults.extend(away);
        self
    }

    /// What goes wrong is drawn from the seed.
    #[must_use]
    pub fn with_faults(mut self) -> Self {
        let mut draw = Draw::new(self.seed).fork(0xfa17);
        let faults = drawn(&mut draw, self.nodes().len(), self.slices().len(), 6 * HOUR);
        self.faults.extend(faults);
        self
    }

    /// What the last push asks of some slivers of a slice never becomes healthy. Slices are named by their number, in the
    /// order of their names.
    #[must_use]
    pub fn with_bad(mut self, slice: usize, numbers: Range<u32>) -> Self {
        self.faults.push(Fault {
            from_ms: 0,
            until_ms: 0,
            trouble: Trouble::Bad {
                slice,
                from: numbers.start,
                until: numbers.end,
            },
        });
        self
    }

    /// All nodes of all commits, in the order by which faults name them.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeName> {
        let mut nodes: Vec<NodeName> = self
            .commits()
            .flat_map(|commit| commit.fleet.nodes.keys().cloned())
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The number by which faults name a slice.
    #[must_use]
    pub fn number_of(&self, slice: &SliceName) -> Option<usize> {
        self.slices().iter().position(|name| *name == slice)
    }

    fn slices(&self) -> Vec<&SliceName> {
        let mut names: Vec<_> = self
            .commits()
            .flat_map(|commit| commit.fleet.slices.keys())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The commit before, and all that are pushed.
    pub fn commits(&self) -> impl Iterator<Item = &Commit> {
        std::iter::once(&self.before).chain(self.pushes.iter().map(|(_, commit)| commit))
    }
}

#[cfg(test)]
mod tests {
    use xeno_model::desired::{Share, Weekday, Window};
    use xeno_model::units::Millis;

    use super::*;

    #[test]
    fn a_push_may_take_as_long_as_its_policies_ask_for() {
        let mut fleet = fleet(20, 1);
        let before = patience_of(&fleet);
        assert!((2 * DAY..4 * DAY).contains(&before), "{before}");
        let slice = fleet.slices.first_entry().expect("a slice").into_mut();
        for (_, sliver) in Arc::make_mut(slice).slivers.values_mut() {
            sliver.rollout.bake = Millis(7 * DAY);
            sliver.rollout.max_unavailable = Share::Count(1);
        }
        assert!(patience_of(&fleet) > 2 * DAY + 3 * 7 * DAY);
        let site = fleet.sites.first_entry().expect("a site").into_mut();
        site.policy.windows.weekly.push(Window {
            days: [Weekday::Sun].into(),
            from_min: 0,
            until_min: 60,
        });
        assert!(patience_of(&fleet) > 10 * DAY + 3 * 7 * DAY);
    }
}
