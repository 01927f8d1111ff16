//! How a new revision of a slice spreads over its slivers, without anybody who directs it.
//!
//! A slice has one [`RolloutRecord`] on the fleet's board, changed only by compare-and-swap. Every node computes for itself in
//! which wave each sliver is ([`Waves`]), what it may do with its own slivers ([`may_change`], and [`step()`] that acts by it),
//! and, as a witness of all others, whether the rollout goes on ([`decide()`]). What those say is a proposal: the functions of the record make the next record of
//! it or refuse, and the swap makes it true. So whoever dies, another node goes on, and two that decide at once do no harm.
//!
//! # The rules
//!
//! 1. A sliver changes only with a *slot*. Those who take one see the verdict and all other slots in the record that they
//!    swap; at most `maxUnavailable` slots belong to nodes that are in reach. A slot is never taken away: it goes back when its
//!    sliver is as it should be, or has failed.
//! 2. The canaries go first, then wave after wave; a wave begins when some witness has seen all before it healthy for `bake`
//!    by its own monotonic clock.
//! 3. Slivers that *failed* and slivers *out of reach* are counted apart. More than `maxFailed` failed, or all canaries: the
//!    verdict is written, with that very swap where it can be, and all go back to what they had before, or stay. More than `maxUnreachable` away: nothing new
//!    begins until they are back. Fewer: nobody waits for them; canaries that are away are replaced by others, and who
//!    comes back later changes when its turn has come.
//! 4. The verdict is remembered: nobody begins again what failed, until a commit brings another revision, or a person says
//!    `resume`.
//! 5. A node changes nothing by the word of a commit that is older than the record's, and nothing by the word of a record
//!    whose commit it has not read.
//!
//! The words of a record are for machines and for people: its history says who did what when, and decides nothing.

mod begin;
mod condition;
mod decide;
mod patience;
mod people;
mod says;
mod slots;
mod step;
mod tally;
mod turn;
mod waves;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xeno_model::desired::Rollout;
use xeno_model::id::{Digest, NodeName, Revision, Timestamp};

pub use begin::{Wanted, begin, wanted};
pub use condition::condition;
pub use decide::{Decision, Hold, Proposal, decide};
pub use patience::{PATIENCE_MS, Patience};
pub use slots::Refused;
pub use step::{Step, step};
pub use tally::{Condition, SliverSummary, Snapshot, Tally, Witness};
pub use turn::{Aim, Footing, Outside, Own, Runs, Turn, Wait, may_change};
pub use waves::{Placed, Waves};

/// Most slots of a rollout, whatever its policy allows: records have to fit on the board.
pub const SLOTS_MAX: u32 = 256;
/// Most failed slivers that a record counts; more are too many under any policy.
pub const FAILED_MAX: usize = 1024;
/// Most canaries that are replaced because they are out of reach.
pub const SKIPPED_MAX: usize = 256;
/// Most lines of a record's history; the oldest go first.
pub const HISTORY_MAX: usize = 48;
/// Most bytes of one text in a record.
pub const TEXT_LEN_MAX: usize = 200;

/// What a rollout brings: what the slice is to be, and the commit that first said so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutKey {
    /// [`rollout_revision`](xeno_model::normal::rollout_revision) of the slice.
    pub revision: Digest,
    /// The commit with which the rollout began.
    pub commit: Revision,
}

/// How far the rollout of a slice is. One record a slice on the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutRecord {
    /// What the slice was before, as far as it has a name; what slivers go back to. Each node remembers for itself what that
    /// means for its own.
    pub good: Option<RolloutKey>,
    /// What it is to be.
    pub to: RolloutKey,
    /// How, as of the commit that began it.
    pub policy: Rollout,
    /// The wave that may change, and all before it.
    pub wave: u32,
    /// Whether it goes on.
    pub verdict: Verdict,
    /// Slivers that are being changed, by number, and the node of each.
    pub slots: BTreeMap<u32, NodeName>,
    /// Slivers that failed.
    pub failed: BTreeSet<u32>,
    /// Canaries that are out of reach, and are replaced by others.
    pub skipped: BTreeSet<u32>,
    /// What happened, oldest first; for people.
    pub history: VecDeque<Line>,
}

/// Whether a rollout goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Rolling,
    /// A person stopped it. What has begun is finished.
    Paused {
        /// Who.
        by: String,
    },
    /// Too many failed, and all stay as they are until a person decides.
    Held {
        /// What failed.
        why: String,
    },
    /// Too many failed: all go back.
    Failed {
        /// What failed.
        why: String,
    },
    /// A person had all go back.
    Aborted {
        /// Who.
        by: String,
    },
    /// All waves are through. Who was away, or is new, follows.
    Done,
}

/// One line of a record's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, by the clock of whoever wrote it.
    pub at: Timestamp,
    /// Who: a node, or a person.
    pub by: String,
    /// What.
    pub what: String,
}

/// Who changes a record and when, for its history.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// By a wall clock: shown, never compared.
    pub at: Timestamp,
    /// A node, or a person.
    pub by: &'a str,
}

impl RolloutRecord {
    /// Which way its slivers go.
    #[must_use]
    pub fn aim(&self) -> Aim {
        match self.verdict {
            Verdict::Rolling | Verdict::Paused { .. } | Verdict::Held { .. } | Verdict::Done => Aim::To,
            Verdict::Failed { .. } | Verdict::Aborted { .. } => Aim::Back,
        }
    }

    /// How many slots there are, in a slice of so many slivers. One at least: with none nothing would ever change.
    #[must_use]
    pub fn slots_max(&self, slivers: u32) -> u32 {
        self.policy.max_unavailable.of(slivers).clamp(1, SLOTS_MAX)
    }

    /// Adds a line to the history.
    fn note(&mut self, signed: Signed<'_>, what: impl Into<String>) {
        while self.history.len() >= HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Line {
            at: signed.at,
            by: bounded(signed.by.to_owned()),
            what: bounded(what.into()),
        });
    }
}

/// A text as records take it: bounded, and on one line.
fn bounded(mut text: String) -> String {
    text = text.replace(char::is_control, " ");
    if text.len() > TEXT_LEN_MAX {
        let end = (0..=TEXT_LEN_MAX - '…'.len_utf8())
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}
