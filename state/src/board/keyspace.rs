//! A board in memory, without faults and without a clock: what the other back ends are like, in the fewest words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::watch::{Change, Changes};
use super::{
    BoardError, BoardResult, Commit, Entry, Guard, Key, LeaseId, Listing, Prefix, Refused, Revision, Txn,
    Write,
};

/// The most revisions that are remembered; long simulations make more.
const HISTORY_MAX: usize = 65_536;

/// Entries, leases and the history of changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyspace {
    at: Revision,
    entries: BTreeMap<Key, Entry>,
    leases: BTreeMap<LeaseId, Hold>,
    lease_last: i64,
    history: VecDeque<Changes>,
    /// The last revision of which the history is forgotten.
    compacted: Revision,
}

#[derive(Clone, Debug)]
struct Hold {
    keys: BTreeSet<Key>,
    ttl_ms: u64,
    deadline_ms: u64,
}

impl Keyspace {
    pub(super) fn at(&self) -> Revision {
        self.at
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn list(&self, prefix: &Prefix) -> Listing {
        let entries = self.entries.iter().filter(|(key, _)| prefix.holds(key));
        Listing {
            entries: entries.map(|(key, entry)| (key.clone(), entry.clone())).collect(),
            at: self.at,
        }
    }

    pub(super) fn commit(&mut self, txn: &Txn) -> BoardResult<Commit> {
        for write in txn.writes() {
            if let Write::Put {
                lease: Some(lease), ..
            } = write
                && !self.leases.contains_key(lease)
            {
                return Err(BoardError::LeaseGone(*lease));
            }
        }
        let fails = |guard: &&Guard| !guard.holds(self.entries.get(guard.key()));
        let now = |guard: &Guard| (guard.key().clone(), self.entries.get(guard.key()).cloned());
        let refused: Vec<_> = txn.guards().iter().filter(fails).map(now).collect();
        if !refused.is_empty() {
            return Ok(Commit::Refused(Refused(refused)));
        }
        self.apply(txn.writes());
        Ok(Commit::Done(self.at))
    }

    fn apply(&mut self, writes: &[Write]) {
        let revision = self.at.next();
        let mut changes = Vec::new();
        for write in writes {
            let key = write.key();
            let before = self.entries.remove(key);
            if let Some(lease) = before.as_ref().and_then(|before| before.lease)
                && let Some(hold) = self.leases.get_mut(&lease)
            {
                hold.keys.remove(key);
            }
            let entry = match write {
                Write::Put { value, lease, .. } => Some(Entry {
                    value: value.clone(),
                    revision,
                    lease: *lease,
                }),
                Write::Delete(_) if before.is_none() => continue,
                Write::Delete(_) => None,
            };
            if let Some(entry) = &entry {
                self.entries.insert(key.clone(), entry.clone());
                if let Some(hold) = entry.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                    hold.keys.insert(key.clone());
                }
            }
            let key = key.clone();
            changes.push(Change { key, entry });
        }
        if changes.is_empty() {
            return;
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        self.at = revision;
        self.history.push_back(Changes { revision, changes });
        if self.history.len() > HISTORY_MAX {
            self.compact(Revision(revision.0.saturating_sub(HISTORY_MAX as u64 / 2)));
        }
    }

    /// All changes from `from` on, or the oldest revision that there are changes from.
    pub(super) fn since(&self, from: Revision, prefix: &Prefix) -> Result<Vec<Changes>, Revision> {
        if from <= self.compacted {
            return Err(self.compacted.next());
        }
        let later = self.history.iter().skip_while(|changes| changes.revision < from);
        Ok(later.filter_map(|changes| changes.below(prefix)).collect())
    }

    /// Forgets the changes up to this revision.
    pub(super) fn compact(&mut self, to: Revision) {
        self.compacted = self.compacted.max(to.min(self.at));
        let old = |changes: &Changes| changes.revision <= self.compacted;
        while self.history.front().is_some_and(old) {
            self.history.pop_front();
        }
    }

    pub(super) fn grant(&mut self, ttl_ms: u64, now_ms: u64) -> LeaseId {
        self.lease_last += 1;
        let hold = Hold {
            keys: BTreeSet::new(),
            ttl_ms,
            deadline_ms: now_ms.saturating_add(ttl_ms),
        };
        let id = LeaseId(self.lease_last);
        self.leases.insert(id, hold);
        id
    }

    /// Its whole time, if it is there.
    pub(super) fn keep_alive(&mut self, lease: LeaseId, now_ms: u64) -> Option<u64> {
        let hold = self.leases.get_mut(&lease)?;
        hold.deadline_ms = now_ms.saturating_add(hold.ttl_ms);
        Some(hold.ttl_ms)
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) {
        if let Some(hold) = self.leases.remove(&lease) {
            let deletes: Vec<_> = hold.keys.into_iter().map(Write::Delete).collect();
            self.apply(&deletes);
        }
    }

    /// Ends the leases whose time is over.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let over = |(id, hold): (&LeaseId, &Hold)| (hold.deadline_ms <= now_ms).then_some(*id);
        let over: Vec<_> = self.leases.iter().filter_map(over).collect();
        for lease in over {
            self.revoke(lease);
        }
    }
}
