//! Where a rollout begins: a commit asks for another revision than the record is about.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xeno_model::desired::Rollout;

use super::{RolloutKey, RolloutRecord, Signed, Verdict};

/// How the commit that a node has read stands to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    /// It asks for what the record brings.
    This,
    /// It asks for something else, and comes after the record's commit: a rollout is to begin.
    Newer,
    /// It asks for something else, and does not come after the record's commit, as far as the node knows: it has not read that
    /// commit yet.
    Older,
}

/// How what a commit asks for stands to a record; `descends`: whether that commit comes after the record's.
#[must_use]
pub fn wanted(record: &RolloutRecord, asked: &RolloutKey, descends: bool) -> Wanted {
    if record.to.revision == asked.revision {
        Wanted::This
    } else if descends {
        Wanted::Newer
    } else {
        Wanted::Older
    }
}

/// The record of a rollout that begins, in the place of `before`. `fresh`: nothing of the slice was there before, as far as
/// whoever begins it knows; only asked where there is no record.
///
/// Who goes back to what was good is not tried on canaries first, and neither is the first revision of a slice: there is
/// nothing that could be harmed, and nothing to go back to.
#[must_use]
pub fn begin(
    before: Option<&RolloutRecord>,
    to: RolloutKey,
    policy: &Rollout,
    fresh: bool,
    signed: Signed<'_>,
) -> RolloutRecord {
    let good = before.and_then(RolloutRecord::proven);
    let known = good.as_ref().is_some_and(|good| good.revision == to.revision);
    let first = before.is_none() && fresh;
    let verdict = if known || first {
        Verdict::Done
    } else {
        Verdict::Rolling
    };
    let what = if first {
        format!("the slice begins, at {}", to.commit.short())
    } else if known {
        format!("{} goes back to what was good before", to.commit.short())
    } else {
        format!("the rollout of {} begins", to.commit.short())
    };
    let mut record = RolloutRecord {
        good,
        to,
        policy: policy.clone(),
        wave: 0,
        verdict,
        // Who is at it is down until it is through, whatever it is changed to.
        slots: before.map_or_else(BTreeMap::new, |before| before.slots.clone()),
        failed: BTreeSet::new(),
        skipped: BTreeSet::new(),
        history: before.map_or_else(VecDeque::new, |before| before.history.clone()),
    };
    record.note(signed, what);
    record
}

impl RolloutRecord {
    /// What is known to be good: what it brought, once it is through, else what was good before it.
    #[must_use]
    pub fn proven(&self) -> Option<RolloutKey> {
        match self.verdict {
            Verdict::Done => Some(self.to.clone()),
            Verdict::Rolling
            | Verdict::Paused { .. }
            | Verdict::Held { .. }
            | Verdict::Failed { .. }
            | Verdict::Aborted { .. } => self.good.clone(),
        }
    }
}
