//! In which wave each sliver is: a function of the policy, the placement and a seed, the same on every node.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use xeno_model::desired::{Matching, Rollout, Wave, Whereabouts};
use xeno_model::id::{NodeName, SiteName};

use super::RolloutKey;

/// Where a sliver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its node.
    pub node: NodeName,
    /// Where that is.
    pub at: Arc<Whereabouts>,
}

/// The order in which slivers go, and how far each wave goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waves {
    /// The place of each sliver in the order.
    ranks: BTreeMap<u32, u32>,
    /// How many slivers there are up to each wave's end, rising; and whom the wave takes, where its policy says that.
    bounds: Vec<(u32, Option<Matching>)>,
    /// How many of the first wave are canaries; 0: it is a wave like any other.
    canaries: u32,
}

impl Waves {
    /// Sorts the slivers of a slice into waves. Each wave takes in turn from all sites that it may take from, so that what goes wrong
    /// at one of them alone shows early, and no site is changed as a whole before the others. Canaries are of the first wave, as far
    /// as that has so many. Whom no wave takes comes last, in one more; a wave that brings nobody is none.
    #[must_use]
    pub fn new(policy: &Rollout, placement: &BTreeMap<u32, Placed>, seed: u64) -> Self {
        let mut sites: BTreeMap<&SiteName, Vec<u32>> = BTreeMap::new();
        for (number, placed) in placement {
            sites.entry(&placed.at.site).or_default().push(*number);
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
        let canaries = policy.canary.min(all);
        let mut left: Vec<u32> = order.into_iter().map(|(.., number)| number).collect();
        let mut ranks = BTreeMap::new();
        let mut bounds = vec![(canaries, None)];
        for wave in &policy.waves {
            let (taken, matching) = match wave {
                Wave::Share(share) => {
                    let more = share.of(all).saturating_sub(len(&ranks));
                    let more = usize::try_from(more).unwrap_or(usize::MAX);
                    (left.drain(..more.min(left.len())).collect(), None)
                }
                Wave::Match(matching) => {
                    let holds = |number: &u32| {
                        let placed = placement.get(number);
                        placed.is_some_and(|placed| matching.holds(&placed.node, &placed.at))
                    };
                    let (taken, others): (Vec<u32>, _) = left.into_iter().partition(holds);
                    left = others;
                    (taken, Some(matching.clone()))
                }
            };
            ranks.extend(taken.into_iter().zip(len(&ranks)..));
            bounds.push((len(&ranks), matching));
        }
        ranks.extend(left.into_iter().zip(len(&ranks)..));
        bounds.push((all, None));
        let mut reached = 0;
        bounds.retain(|(bound, _)| {
            let brings = *bound > reached;
            reached = reached.max(*bound);
            brings
        });
        Self {
            ranks,
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

    /// Whom a wave takes, where the policy says that.
    #[must_use]
    pub fn matching(&self, wave: u32) -> Option<&Matching> {
        let (_, matching) = self.bounds.get(usize::try_from(wave).ok()?)?;
        matching.as_ref()
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
        let wave = self.bounds.partition_point(|(bound, _)| *bound <= rank);
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

fn len(ranks: &BTreeMap<u32, u32>) -> u32 {
    u32::try_from(ranks.len()).unwrap_or(u32::MAX)
}

/// The finish of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): numbers that are near each other get far apart.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
