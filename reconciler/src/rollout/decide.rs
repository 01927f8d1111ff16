//! Whether a rollout goes on: what a witness proposes.

use std::collections::BTreeSet;

use super::{RolloutRecord, SKIPPED_MAX, Tally, Verdict, Waves};

/// What a witness makes of what it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This comes next: [`RolloutRecord::go_on`].
    Proceed(Proposal),
    /// Nothing changes for now.
    Hold(Hold),
    /// Too many failed, or all canaries: [`RolloutRecord::roll_back`].
    RollBack(String),
    /// Nothing is left to decide.
    Settled,
}

/// What comes next in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// Others are the canaries instead of these, which are out of reach.
    Skip(BTreeSet<u32>),
    /// The wave after this one begins.
    Advance {
        /// The one that is through.
        from: u32,
    },
    /// All is through.
    Finish {
        /// The last wave.
        from: u32,
    },
}

/// Why a rollout does not go on now. Each is one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A person stopped it.
    Paused {
        /// Who.
        by: String,
    },
    /// Too many failed, and a person has to decide.
    Held {
        /// What failed.
        why: String,
    },
    /// More are out of reach than may be.
    Away {
        /// How many are.
        away: u32,
        /// How many may be.
        max: u32,
    },
    /// Slivers have yet to come so far.
    Wave {
        /// The wave that is under way, from 1 on.
        wave: u32,
        /// How many waves there are.
        of: u32,
        /// How many slivers up to it are healthy.
        healthy: u32,
        /// How many have to follow.
        pending: u32,
        /// The first of those, by number.
        waits_for: Vec<u32>,
    },
    /// All canaries are out of reach, and nobody is there to take their place.
    NoCanary,
    /// The wave has not been healthy for long enough.
    Baking {
        /// Which, from 1 on.
        wave: u32,
        /// How many waves there are.
        of: u32,
        /// For how long it has been, as this witness has seen, in milliseconds.
        healthy_ms: u64,
        /// For how long it has to be, in milliseconds.
        bake_ms: u64,
    },
}

/// Whether the rollout of a record goes on; `healthy_ms`: for how long this witness has itself seen all that has begun healthy
/// ([`Witness`](super::Witness)).
#[must_use]
pub fn decide(record: &RolloutRecord, waves: &Waves, tally: &Tally, healthy_ms: u64) -> Decision {
    match &record.verdict {
        Verdict::Rolling => {}
        Verdict::Paused { by } => return Decision::Hold(Hold::Paused { by: by.clone() }),
        Verdict::Held { why } => return Decision::Hold(Hold::Held { why: why.clone() }),
        Verdict::Failed { .. } | Verdict::Aborted { .. } | Verdict::Done => return Decision::Settled,
    }
    if let Some(why) = record.breach(tally.all) {
        return Decision::RollBack(why);
    }
    let max = record.policy.max_unreachable.of(tally.all);
    if tally.away > max {
        let away = tally.away;
        return Decision::Hold(Hold::Away { away, max });
    }
    if waves.is_of_canaries(record.wave)
        && (tally.canaries_away > 0 || tally.healthy + tally.pending == 0)
        && tally.spare > 0
        && tally.to_skip != record.skipped
        && tally.to_skip.len() <= SKIPPED_MAX
    {
        return Decision::Proceed(Proposal::Skip(tally.to_skip.clone()));
    }
    let (wave, of) = (record.wave + 1, waves.count());
    if tally.pending > 0 {
        return Decision::Hold(Hold::Wave {
            wave,
            of,
            healthy: tally.healthy,
            pending: tally.pending,
            waits_for: tally.waits_for.clone(),
        });
    }
    if !tally.is_through(record, waves) {
        if !record.failed.is_empty() {
            return Decision::RollBack("no canary is healthy".to_owned());
        }
        return Decision::Hold(Hold::NoCanary);
    }
    let bake_ms = record.policy.bake.0;
    if healthy_ms < bake_ms {
        return Decision::Hold(Hold::Baking {
            wave,
            of,
            healthy_ms,
            bake_ms,
        });
    }
    let from = record.wave;
    Decision::Proceed(if from >= waves.last() {
        Proposal::Finish { from }
    } else {
        Proposal::Advance { from }
    })
}
