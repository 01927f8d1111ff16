//! What is compared and written together.

use std::collections::BTreeSet;

use super::{Entry, Key, LeaseId, Revision, Value};

/// The most keys of one transaction, guards and writes together.
pub const TXN_KEYS_MAX: usize = 8;

/// What must be so for a transaction to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key holds nothing.
    Absent(Key),
    /// The key was last written at this revision, and is still there.
    At(Key, Revision),
}

impl Guard {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::At(key, _) => key,
        }
    }

    /// What holds as long as the entry of `key` is as it was read.
    #[must_use]
    pub fn unchanged(key: Key, read: Option<&Entry>) -> Self {
        match read {
            None => Self::Absent(key),
            Some(entry) => Self::At(key, entry.revision),
        }
    }

    /// Whether it holds where its key has this entry.
    #[must_use]
    pub fn holds(&self, now: Option<&Entry>) -> bool {
        match (self, now) {
            (Self::Absent(_), now) => now.is_none(),
            (Self::At(_, revision), Some(now)) => now.revision == *revision,
            (Self::At(..), None) => false,
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The key gets this value, and goes with this lease or with none.
    Put {
        /// The key.
        key: Key,
        /// Its value.
        value: Value,
        /// With whose end the key is deleted.
        lease: Option<LeaseId>,
    },
    /// The key holds nothing.
    Delete(Key),
}

impl Write {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// Guards and writes that are one step for everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    guards: Vec<Guard>,
    writes: Vec<Write>,
}

/// Why something is no transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// It writes nothing.
    #[error("a transaction without a write")]
    NoWrite,
    /// It is about too many keys.
    #[error("a transaction on {0} keys: {TXN_KEYS_MAX} is the most")]
    TooManyKeys(usize),
    /// It guards or writes a key twice.
    #[error("a transaction with `{0}` twice among its guards or its writes")]
    Twice(Key),
}

impl Txn {
    /// Checks and takes guards and writes. A key may have one guard and one write.
    ///
    /// # Errors
    /// [`TxnError`].
    pub fn new(guards: Vec<Guard>, writes: Vec<Write>) -> Result<Self, TxnError> {
        if writes.is_empty() {
            return Err(TxnError::NoWrite);
        }
        let guarded: Vec<&Key> = guards.iter().map(Guard::key).collect();
        let written: Vec<&Key> = writes.iter().map(Write::key).collect();
        for keys in [&guarded, &written] {
            let mut seen = BTreeSet::new();
            if let Some(twice) = keys.iter().find(|key| !seen.insert(**key)) {
                return Err(TxnError::Twice((*twice).clone()));
            }
        }
        let keys: BTreeSet<_> = guarded.into_iter().chain(written).collect();
        match keys.len() {
            1..=TXN_KEYS_MAX => Ok(Self { guards, writes }),
            many => Err(TxnError::TooManyKeys(many)),
        }
    }

    /// Writes the guarded key if the guard holds: put-if-revision.
    #[must_use]
    pub fn put_if(guard: Guard, value: Value, lease: Option<LeaseId>) -> Self {
        let key = guard.key().clone();
        Self {
            guards: vec![guard],
            writes: vec![Write::Put { key, value, lease }],
        }
    }

    /// Writes a key whatever it holds. A second one of these is not told from the first: see
    /// [`Txn::was_done_before`].
    #[must_use]
    pub fn put(key: Key, value: Value, lease: Option<LeaseId>) -> Self {
        Self {
            guards: Vec::new(),
            writes: vec![Write::Put { key, value, lease }],
        }
    }

    /// Deletes a key if it was last written at `revision`.
    #[must_use]
    pub fn delete_at(key: Key, revision: Revision) -> Self {
        Self {
            guards: vec![Guard::At(key.clone(), revision)],
            writes: vec![Write::Delete(key)],
        }
    }

    /// What must be so.
    #[must_use]
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// What is written.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Whether this transaction was done at an earlier try, as far as the answer to a later one shows.
    ///
    /// For a transaction whose outcome is not known ([`BoardError::Unknown`](super::BoardError::Unknown)), committed again:
    /// if that says [`Commit::Done`], it is done now, and once, provided that it guards a key that it writes. If it says
    /// [`Commit::Refused`], this is true exactly if every guarded key that the transaction writes now holds what it wrote
    /// there. So a value that must not be taken for somebody else's names its writer (an epoch, the id of a migration).
    /// `false` is also the answer when it was done and its values have been replaced since: the entries of the refusal are
    /// the truth to go on from, and either way this transaction can never be done any more.
    #[must_use]
    pub fn was_done_before(&self, refused: &Refused) -> bool {
        let mut told = self.writes.iter().filter_map(|write| {
            self.guards.iter().find(|guard| guard.key() == write.key())?;
            // A guard that still holds: nothing was written there.
            let Some((_, now)) = refused.0.iter().find(|(key, _)| key == write.key()) else {
                return Some(false);
            };
            Some(match (write, now) {
                (Write::Put { value, .. }, Some(now)) => now.value == *value,
                (Write::Delete(_), None) => true,
                (Write::Put { .. }, None) | (Write::Delete(_), Some(_)) => false,
            })
        });
        told.next() == Some(true) && told.all(|done| done)
    }
}

/// How a commit went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// All writes were made, at this revision.
    Done(Revision),
    /// None were: some guards do not hold.
    Refused(Refused),
}

/// The keys whose guards do not hold, in the order of the guards, with what they hold now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<(Key, Option<Entry>)>);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn put(k: &str, v: &str) -> Write {
        Write::Put {
            key: key(k),
            value: Value::new(v).unwrap(),
            lease: None,
        }
    }

    fn entry(v: &str, revision: u64) -> Entry {
        Entry {
            value: Value::new(v).unwrap(),
            revision: Revision(revision),
            lease: None,
        }
    }

    #[test]
    fn a_transaction_is_small_and_says_each_thing_once() {
        let nine: Vec<_> = (0..9).map(|n| put(&format!("k{n}"), "v")).collect();
        assert_eq!(Txn::new(vec![], nine), Err(TxnError::TooManyKeys(9)));
        assert_eq!(
            Txn::new(vec![Guard::Absent(key("a"))], vec![]),
            Err(TxnError::NoWrite)
        );
        let twice = Txn::new(vec![], vec![put("a", "1"), Write::Delete(key("a"))]);
        assert_eq!(twice, Err(TxnError::Twice(key("a"))));
        assert!(Txn::new(vec![Guard::Absent(key("a"))], vec![put("a", "1")]).is_ok());
    }

    #[test]
    fn a_second_try_tells_what_became_of_the_first() {
        let guards = vec![Guard::At(key("a"), Revision(3)), Guard::Absent(key("b"))];
        let txn = Txn::new(guards, vec![put("a", "mine"), put("b", "mine"), put("c", "any")]).unwrap();
        let check = |now: &[(&str, Option<Entry>)], expected: bool| {
            let refused = Refused(now.iter().map(|(k, entry)| (key(k), entry.clone())).collect());
            assert_eq!(txn.was_done_before(&refused), expected, "{refused:?}");
        };
        check(
            &[("a", Some(entry("mine", 7))), ("b", Some(entry("mine", 7)))],
            true,
        );
        check(
            &[("a", Some(entry("other", 7))), ("b", Some(entry("mine", 7)))],
            false,
        );
        // Only one of the two changed: somebody else's doing.
        check(&[("a", Some(entry("mine", 7)))], false);
        check(&[("a", None), ("b", Some(entry("mine", 7)))], false);
        let blind = Txn::put(key("c"), Value::default(), None);
        assert!(!blind.was_done_before(&Refused(vec![])), "nothing tells");
    }
}
