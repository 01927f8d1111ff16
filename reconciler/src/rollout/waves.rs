//! In which wave each sliver is: a function of the policy, the placement and a seed, the same on every node.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::Rollout;
use xeno_model::id::{NodeName, SiteName};

use super::RolloutKey;

/// Where a sliver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its node.
    pub node: NodeName,
    /// The node's site.
    pub site: SiteName,
}

/// The order in which slivers go, and how far each wave goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waves {
    /// The place of each sliver in the order.
    ranks: BTreeMap<u32, u32>,
    /// How many slivers there are up to each wave's end; rising.
    bounds: Vec<u32>,
    /// How many of the first wave are canaries; 0: it is a wave like any other.
    canaries: u32,
}

impl Waves {
    /// Sorts the slivers of a slice into waves. Each wave takes in turn from all sites, so that what goes wrong at one of them
    /// alone shows early, and no site is changed as a whole before the others.
    #[must_use]
    pub fn new(policy: &Rollout, placement: &BTreeMap<u32, Placed>, seed: u64) -> Self {
        let mut sites: BTreeMap<&SiteName, Vec<u32>> = BTreeMap::new();
        for (number, placed) in placement {
            sites.entry(&placed.site).or_default().push(*number);
        }
        // By how many of its site come before it; then by chance, in which each seed is another.
        let mut order = Vec::with_capacity(placement.len());
        for (site, mut numbers) in sites {
            let site = site
                .as_str()
                .bytes()
                .fold(seed, |hash, byte| mix(hash ^ u64::from(byte)));
            numbers.sort_by_key(|number| (mix(seed ^ mix(u64::from(*number))), *number));
            order.extend(
                numbers
                    .into_iter()
                    .zip(0u32..)
                    .map(|(number, turn)| (turn, site, number)),
            );
        }
        order.sort_unstable();
        let all = u32::try_from(order.len()).unwrap_or(u32::MAX);
        let ranks = order
            .into_iter()
            .zip(0u32..)
            .map(|((.., number), rank)| (number, rank));
        let canaries = policy.canary.min(all);
        let mut bounds = Vec::new();
        let shares = policy.waves.iter().map(|share| share.of(all));
        for bound in [canaries].into_iter().chain(shares).chain([all]) {
            // A wave that brings nobody is none.
            if bound > bounds.last().copied().unwrap_or(0) {
                bounds.push(bound);
            }
        }
        Self {
            ranks: ranks.collect(),
            canaries: if bounds.len() > 1 { canaries } else { 0 },
            bounds,
        }
    }

    /// A seed of its own for each rollout: not always the same slivers are the canaries.
    #[must_use]
    pub fn seed(key: &RolloutKey) -> u64 {
        key.revision
            .0
            .iter()
            .fold(0, |hash, byte| mix(hash ^ u64::from(*byte)))
    }

    /// How many slivers there are.
    #[must_use]
    pub fn slivers(&self) -> u32 {
        u32::try_from(self.ranks.len()).unwrap_or(u32::MAX)
    }

    /// How many waves there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.bounds.len()).unwrap_or(u32::MAX)
    }

    /// The last wave.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.count().saturating_sub(1)
    }

    /// Whether a wave is that of the canaries.
    #[must_use]
    pub fn is_of_canaries(&self, wave: u32) -> bool {
        wave == 0 && self.canaries > 0
    }

    /// The wave of a sliver, where these canaries are replaced by the next in the order; `None`: no sliver of the slice.
    #[must_use]
    pub fn of(&self, number: u32, skipped: &BTreeSet<u32>) -> Option<u32> {
        let rank = *self.ranks.get(&number)?;
        if self.canaries > 0 {
            let is_before = |other: &&u32| self.ranks.get(other).is_some_and(|other| *other < rank);
            let before = u32::try_from(skipped.iter().filter(is_before).count()).unwrap_or(u32::MAX);
            if !skipped.contains(&number) && rank.saturating_sub(before) < self.canaries {
                return Some(0);
            }
        }
        let wave = self.bounds.partition_point(|bound| *bound <= rank);
        let wave = u32::try_from(wave).unwrap_or(u32::MAX);
        Some(if self.canaries > 0 { wave.max(1) } else { wave })
    }

    /// All slivers in their order.
    #[must_use]
    pub fn order(&self) -> Vec<u32> {
        let mut order: Vec<_> = self.ranks.iter().map(|(number, rank)| (*rank, *number)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    }
}

/// The finish of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): numbers that are near each other get far apart.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
