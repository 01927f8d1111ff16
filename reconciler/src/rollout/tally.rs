//! What a witness sees of a rollout: what nodes say of their slivers, counted.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::id::{Digest, NodeName, Timestamp};

use super::waves::Placed;
use super::{RolloutKey, RolloutRecord, Verdict, Waves};

/// What a node says of one of its slivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliverSummary {
    /// What its slice was when it was last made what it is: [`RolloutKey::revision`].
    pub revision: Digest,
    /// How it is.
    pub condition: Condition,
    /// Since when, by the node's wall clock: shown, never compared.
    pub since: Timestamp,
}

/// How a sliver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is being made what it should be, or its health has not been told yet.
    Changing,
    /// It is as it should be, and healthy where it can be asked.
    Healthy,
    /// It is not, and its node has given up on it for now.
    Failed {
        /// What went wrong.
        why: String,
    },
}

/// What a witness knows of a slice's slivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What was said last of each, by number.
    pub slivers: BTreeMap<u32, SliverSummary>,
    /// Nodes that are out of reach.
    pub away: BTreeSet<NodeName>,
}

/// The slivers of a rollout, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many there are.
    pub all: u32,
    /// How many are on nodes that are out of reach.
    pub away: u32,
    /// Those up to the wave that is under way: how many are healthy, as the rollout wants them ...
    pub healthy: u32,
    /// ... and how many have not come so far, though they are in reach and have not failed.
    pub pending: u32,
    /// The first of those that are pending, by number.
    pub waits_for: Vec<u32>,
    /// How many canaries are out of reach.
    pub canaries_away: u32,
    /// Those, and the ones that others have taken the place of already and that are still away, by number.
    pub to_skip: BTreeSet<u32>,
    /// How many others in reach could take their place.
    pub spare: u32,
}

/// How many slivers a tally names.
const NAMED_MAX: usize = 4;

impl Tally {
    /// Counts. Slivers of which nobody has said anything are pending, unless their node is out of reach.
    #[must_use]
    pub fn of(
        record: &RolloutRecord,
        waves: &Waves,
        placement: &BTreeMap<u32, Placed>,
        snapshot: &Snapshot,
    ) -> Self {
        let mut tally = Self {
            all: waves.slivers(),
            ..Self::default()
        };
        for (number, placed) in placement {
            let away = snapshot.away.contains(&placed.node);
            let said = snapshot.slivers.get(number);
            tally.count(record, waves, *number, away, said);
        }
        tally
    }

    /// Counts one more sliver. Whoever has a great many may keep a tally of its own, and count only those that change.
    pub fn count(
        &mut self,
        record: &RolloutRecord,
        waves: &Waves,
        number: u32,
        away: bool,
        said: Option<&SliverSummary>,
    ) {
        let failed = record.failed.contains(&number);
        let Some(wave) = waves.of(number, &record.skipped) else {
            return;
        };
        if failed {
            return;
        }
        if away {
            self.away += 1;
            let canary = waves.is_of_canaries(wave);
            self.canaries_away += u32::from(canary);
            if canary || record.skipped.contains(&number) {
                self.to_skip.insert(number);
            }
            return;
        }
        if wave > record.wave {
            self.spare += u32::from(wave > 0);
            return;
        }
        let there = said
            .is_some_and(|said| said.revision == record.to.revision && said.condition == Condition::Healthy);
        if there {
            self.healthy += 1;
        } else {
            self.pending += 1;
            if self.waits_for.len() < NAMED_MAX {
                self.waits_for.push(number);
            }
        }
    }

    /// Whether all up to the wave that is under way are through: nobody in reach is left to wait for. A wave of canaries
    /// proves something only if one of them is healthy.
    #[must_use]
    pub fn is_through(&self, record: &RolloutRecord, waves: &Waves) -> bool {
        self.pending == 0 && (self.healthy > 0 || !waves.is_of_canaries(record.wave))
    }
}

/// For how long a witness has seen all that has begun healthy, by its own monotonic clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    seen: Option<(RolloutKey, u32, u64)>,
}

impl Witness {
    /// Looks at `now_ms` of any clock that only goes forward; gives for how long it has been so, in milliseconds.
    pub fn look(&mut self, record: &RolloutRecord, waves: &Waves, tally: &Tally, now_ms: u64) -> u64 {
        let max = record.policy.max_unreachable.of(tally.all);
        let sound =
            record.verdict == Verdict::Rolling && tally.is_through(record, waves) && tally.away <= max;
        if !sound {
            self.seen = None;
            return 0;
        }
        let same = |(key, wave, _): &&(RolloutKey, u32, u64)| *key == record.to && *wave == record.wave;
        match self.seen.as_ref().filter(same) {
            Some((.., since_ms)) => now_ms.saturating_sub(*since_ms),
            None => {
                self.seen = Some((record.to.clone(), record.wave, now_ms));
                0
            }
        }
    }
}
