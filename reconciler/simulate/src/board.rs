//! The board in memory: what all nodes share, changed only by compare-and-swap, and watched by all who reach it.
//!
//! Its rules are those of `xeno_state::board`: one sequence of revisions, a change is made only where what it read has not
//! changed since, and a lease that runs out says only that somebody was not heard of. A test holds the two side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::id::{NodeName, SliverId};
use xeno_reconciler::rollout::{
    Placed, RolloutKey, RolloutRecord, SliverSummary, Snapshot, Tally, Waves, Witness,
};
use xeno_reconciler::tenure::Holder;

use crate::outcome::Milestone;

/// Values by key, each with the revision of its last change.
#[derive(Clone, Debug)]
pub(crate) struct Keys<K, V> {
    entries: BTreeMap<K, (u64, V)>,
}

impl<K, V> Default for Keys<K, V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }
}

impl<K: Ord, V> Keys<K, V> {
    /// What a key holds, and since which revision; 0: nothing.
    pub(crate) fn get(&self, key: &K) -> (u64, Option<&V>) {
        self.entries
            .get(key)
            .map_or((0, None), |(revision, value)| (*revision, Some(value)))
    }

    /// Writes a key if it is still as it was read; says whether it did.
    pub(crate) fn put_if(&mut self, read: u64, key: K, value: V, at: &mut u64) -> bool {
        if self.get(&key).0 != read {
            return false;
        }
        *at += 1;
        self.entries.insert(key, (*at, value));
        true
    }
}

/// What all nodes share.
#[derive(Default)]
pub(crate) struct Board {
    /// The revision of the last change.
    pub(crate) at: u64,
    /// Rollouts, by the number of the slice.
    pub(crate) records: Keys<usize, Arc<RolloutRecord>>,
    /// Who has the right to run each sliver that changes nodes.
    pub(crate) holders: Keys<SliverId, Holder>,
    /// What belongs to each slice beside its record.
    pub(crate) slices: Vec<Shared>,
    /// What was asked of it in each minute: commits, refused ones too, renewals and grants.
    pub(crate) writes: BTreeMap<u64, u32>,
}

/// The slivers of a slice, sorted into waves.
#[derive(Clone)]
pub(crate) struct Sorted {
    /// For which rollout.
    pub(crate) key: RolloutKey,
    /// By which commit's placement.
    pub(crate) head: usize,
    pub(crate) waves: Arc<Waves>,
    pub(crate) placement: Arc<BTreeMap<u32, Placed>>,
}

/// How many slivers of a rollout are out of reach and have not failed.
#[derive(Clone, Copy)]
pub(crate) struct Away {
    /// As of this revision of its record.
    pub(crate) read: u64,
    /// By which commit's placement.
    pub(crate) head: usize,
    pub(crate) slivers: u32,
}

/// What is known of a slice beside its record.
#[derive(Default)]
pub(crate) struct Shared {
    /// What nodes have said of their slivers, and which nodes are out of reach.
    pub(crate) snapshot: Snapshot,
    /// How often the latter has changed.
    pub(crate) away_changes: u64,
    /// Slots whose nodes have been out of reach since they were taken.
    pub(crate) left_alone: BTreeSet<u32>,
    /// Slivers that failed in each rollout.
    pub(crate) failed: BTreeMap<RolloutKey, BTreeSet<u32>>,
    /// Slivers that failed with a slot of each rollout, also of one that was over, and have not come right since.
    pub(crate) gave_up: BTreeMap<RolloutKey, BTreeSet<u32>>,
    /// Who looks after slivers that the rollout has not come through with.
    pub(crate) active: BTreeMap<u32, usize>,
    /// Those who wait for a slot.
    pub(crate) waiting: BTreeSet<usize>,
    /// Who watches the rollout as a whole.
    pub(crate) witnesses: BTreeMap<usize, Witness>,
    /// When the witnesses look next.
    pub(crate) look_at: Option<u64>,
    /// The waves of the record's rollout, by the placement of a commit.
    pub(crate) waves: Option<Sorted>,
    /// How many slivers are out of reach, if it was counted since that could have changed.
    pub(crate) away: Option<Away>,
    /// How far its slivers were at the last look of a witness, as of which revision of the record and by which commit's placement,
    /// if nobody has said anything since.
    pub(crate) tally: Option<(u64, usize, Tally)>,
    /// When each wave began and a verdict was written, for the report.
    pub(crate) milestones: Vec<(u64, Milestone)>,
}

/// What is asked of the board.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) node: usize,
    pub(crate) slice: usize,
    /// The commit that the node had read.
    pub(crate) head: usize,
    /// The revision that was read.
    pub(crate) read: u64,
    /// What the record is to be.
    pub(crate) next: Arc<RolloutRecord>,
    /// Whether this is another try of something whose answer was lost.
    pub(crate) late: bool,
}

impl Board {
    /// Something was asked of it.
    pub(crate) fn wrote(&mut self, now_ms: u64, writes: u32) {
        *self.writes.entry(now_ms / 60_000).or_default() += writes;
    }
}

impl Shared {
    /// A node says how a sliver is.
    pub(crate) fn hears(&mut self, number: u32, said: SliverSummary) {
        self.tally = None;
        self.snapshot.slivers.insert(number, said);
    }

    /// A node that has slivers of it is out of reach.
    pub(crate) fn loses(&mut self, node: &NodeName) {
        (self.away, self.tally) = (None, None);
        self.away_changes += 1;
        self.snapshot.away.insert(node.clone());
    }

    /// One is back; whether it was away.
    pub(crate) fn regains(&mut self, node: &NodeName) -> bool {
        (self.away, self.tally) = (None, None);
        self.away_changes += 1;
        self.snapshot.away.remove(node)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use xeno_state::board::scripted::ScriptedBoard;
    use xeno_state::board::{Board as _, Commit, Guard, Key, Txn, Value};

    use super::*;
    use crate::draw::Draw;

    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("a board in memory never waits"),
        }
    }

    #[test]
    fn it_keeps_the_rules_of_a_real_board() {
        let mut draw = Draw::new(11);
        let real = ScriptedBoard::new("one");
        let (mut keys, mut at) = (Keys::default(), 0);
        let mut read = [0u64; 4];
        let mut entries = [const { None }; 4];
        for round in 0..2_000u64 {
            let n = draw.index(4);
            let key = Key::new(format!("rollout/{n}")).unwrap();
            if draw.permille(500) {
                entries[n] = now(real.get(&key)).unwrap();
                let (revision, value) = keys.get(&n);
                read[n] = revision;
                let same = entries[n].as_ref().map(|entry| entry.value.as_bytes().to_vec());
                assert_eq!(same, value.map(|value: &u64| value.to_le_bytes().to_vec()));
                continue;
            }
            let guard = Guard::unchanged(key, entries[n].as_ref());
            let value = Value::new(round.to_le_bytes()).unwrap();
            let done = matches!(
                now(real.commit(&Txn::put_if(guard, value, None))).unwrap(),
                Commit::Done(_)
            );
            assert_eq!(done, keys.put_if(read[n], n, round, &mut at), "round {round}");
        }
        assert!(at > 100);
    }
}
