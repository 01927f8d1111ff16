//! A sorted map whose copies share all that neither has changed.
//!
//! Entries lie in leaves of some 100, each of which a copy shares until one of the two changes it. So the state of a
//! layer can be written to disk as it was at one moment while it goes on changing: the copy costs a pointer for each
//! leaf, and whoever changes a shared leaf copies that. Entries that come in order, as they do when a log that was made
//! short is replayed, fill leaves to the last place.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::sync::Arc;

/// Most entries of one leaf: so many are copied where one is changed, and moved where one is added.
const LEAF: usize = if cfg!(test) { 8 } else { 128 };

type Leaf<K, V> = Arc<Vec<(K, V)>>;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Sorted<K, V> {
    /// In order; none of them is empty.
    leaves: Vec<Leaf<K, V>>,
    len: usize,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self {
            leaves: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Ord, V> Sorted<K, V> {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The leaf that holds `key`, or would.
    fn leaf_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let after = self.leaves.partition_point(|leaf| match leaf.first() {
            Some((first, _)) => first.borrow() <= key,
            None => true,
        });
        after.saturating_sub(1)
    }

    /// Where in its leaf `key` is, or would be.
    fn place<Q: Ord + ?Sized>(leaf: &[(K, V)], key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        leaf.binary_search_by(|(known, _)| known.borrow().cmp(key))
    }

    /// What is at `key`.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = Self::place(leaf, key).ok()?;
        leaf.get(at).map(|(_, value)| value)
    }

    /// Whether there is something at `key`.
    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The entry with the highest key.
    pub(crate) fn last(&self) -> Option<(&K, &V)> {
        self.leaves.last()?.last().map(|(key, value)| (key, value))
    }

    /// All entries, in order.
    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            leaves: self.leaves.iter(),
            entries: [].iter(),
        }
    }

    /// The entries of the leaves that a copy does not share with `other`: all that differ from what that has, and some of
    /// their neighbours. Costs little where little differs.
    pub(crate) fn apart_from<'a>(&'a self, other: &Self) -> impl Iterator<Item = (&'a K, &'a V)> {
        let shared: HashSet<*const Vec<(K, V)>> = other.leaves.iter().map(Arc::as_ptr).collect();
        let apart = self
            .leaves
            .iter()
            .filter(move |leaf| !shared.contains(&Arc::as_ptr(leaf)));
        apart
            .flat_map(|leaf| leaf.iter())
            .map(|(key, value)| (key, value))
    }

    /// All values, in the order of their keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from `key` on, in order.
    pub(crate) fn from<Q: Ord + ?Sized>(&self, key: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut leaves = self.leaves.get(self.leaf_of(key)..).unwrap_or_default().iter();
        let first = leaves.next().map_or(&[][..], |leaf| {
            let at = Self::place(leaf, key).unwrap_or_else(|at| at);
            leaf.get(at..).unwrap_or_default()
        });
        Iter {
            leaves,
            entries: first.iter(),
        }
    }

    /// The last entry before `key`.
    pub(crate) fn before<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = Self::place(leaf, key).unwrap_or_else(|at| at);
        // The first leaf is the only one that can begin behind `key`; in every other, something is before a key in it
        // or the leaf before ends with it.
        let here = at.checked_sub(1).and_then(|at| leaf.get(at));
        let found = match here {
            Some(found) => Some(found),
            None => self
                .leaf_of(key)
                .checked_sub(1)
                .and_then(|before| self.leaves.get(before)?.last()),
        };
        found.map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    /// What is at `key`, to be changed.
    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let of = self.leaf_of(key);
        let leaf = self.leaves.get_mut(of)?;
        // First the look, so that asking in vain copies nothing.
        let at = Self::place(leaf, key).ok()?;
        Arc::make_mut(leaf).get_mut(at).map(|(_, value)| value)
    }

    /// Puts something at `key`; returns what was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let of = self.leaf_of(&key);
        let last = of + 1 >= self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(of) else {
            self.leaves.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let at = match Self::place(leaf, &key) {
            Ok(at) => {
                let there = Arc::make_mut(leaf).get_mut(at);
                return there.map(|(_, there)| std::mem::replace(there, value));
            }
            Err(at) => at,
        };
        self.len += 1;
        if leaf.len() < LEAF {
            let entries = Arc::make_mut(leaf);
            if entries.len() == entries.capacity() {
                // As little as doubling allows: most directories have few entries, and most files one range.
                entries.reserve_exact(entries.len());
            }
            entries.insert(at, (key, value));
            return None;
        }
        let new = if last && at == LEAF {
            vec![(key, value)]
        } else {
            let entries = Arc::make_mut(leaf);
            let mut upper = entries.split_off(LEAF / 2);
            if at <= LEAF / 2 {
                entries.insert(at, (key, value));
            } else {
                upper.insert(at - LEAF / 2, (key, value));
            }
            upper
        };
        self.leaves.insert(of + 1, Arc::new(new));
        None
    }

    /// Takes away what is at `key`.
    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let of = self.leaf_of(key);
        let leaf = self.leaves.get_mut(of)?;
        let at = Self::place(leaf, key).ok()?;
        let entries = Arc::make_mut(leaf);
        let (_, value) = entries.remove(at);
        self.len -= 1;
        if entries.is_empty() {
            self.leaves.remove(of);
        } else if entries.len() < LEAF / 4 {
            self.join(of);
        }
        Some(value)
    }

    /// Puts a leaf that has few entries left together with a neighbour, if they fit in one with room to spare: so that
    /// what is left of much takes little.
    fn join(&mut self, of: usize) {
        let len = |at: usize| self.leaves.get(at).map(|leaf| leaf.len());
        let fits = |other: Option<usize>, own: usize| other.is_some_and(|other| other + own <= LEAF / 2);
        let own = len(of).unwrap_or(LEAF);
        let first = if fits(len(of + 1), own) {
            of
        } else if of > 0 && fits(len(of - 1), own) {
            of - 1
        } else {
            return;
        };
        let second = self.leaves.remove(first + 1);
        if let Some(into) = self.leaves.get_mut(first) {
            Arc::make_mut(into).extend(Arc::unwrap_or_clone(second));
        }
    }
}

/// Entries, in order.
pub(crate) struct Iter<'a, K, V> {
    leaves: std::slice::Iter<'a, Leaf<K, V>>,
    entries: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.leaves.next()?.iter();
        }
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Sorted<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::Dice;

    fn check(sorted: &Sorted<u64, u64>, plain: &BTreeMap<u64, u64>, around: u64) {
        assert_eq!(sorted.len(), plain.len());
        assert!(sorted.iter().eq(plain.iter()));
        assert!(sorted.leaves.iter().all(|leaf| (1..=LEAF).contains(&leaf.len())));
        assert_eq!(sorted.last(), plain.last_key_value());
        assert_eq!(sorted.get(&around), plain.get(&around));
        assert!(sorted.from(&around).eq(plain.range(around..)));
        assert_eq!(sorted.before(&around), plain.range(..around).next_back());
    }

    #[test]
    fn what_has_changed_is_apart_and_little_else() {
        for seed in 0..40 {
            let mut dice = Dice::new(seed);
            let mut sorted: Sorted<u64, u64> = Sorted::default();
            for key in 0..500 {
                sorted.insert(key * 2, 0);
            }
            let before = sorted.clone();
            assert_eq!(sorted.apart_from(&before).count(), 0);
            let changes = 1 + dice.below(5);
            for _ in 0..changes {
                let key = dice.below(1000) as u64;
                match dice.below(3) {
                    0 => drop(sorted.insert(key, 1)),
                    1 => drop(sorted.remove(&key)),
                    _ => drop(sorted.get_mut(&key).map(|value| *value += 1)),
                }
            }
            let apart: BTreeMap<&u64, &u64> = sorted.apart_from(&before).collect();
            for (key, value) in sorted.iter() {
                assert!(before.get(key) == Some(value) || apart.contains_key(key), "{key}");
            }
            assert!(apart.len() <= changes * 2 * LEAF);
        }
    }

    #[test]
    fn agrees_with_an_ordinary_map_and_copies_stay_as_they_were() {
        for seed in 0..40 {
            let mut dice = Dice::new(seed);
            let (mut sorted, mut plain) = (Sorted::default(), BTreeMap::new());
            let mut copies = Vec::new();
            let range = [20, 400][dice.below(2)];
            for step in 0..600_u64 {
                let key = dice.below(range) as u64;
                // Mostly more, then mostly less.
                let adds = if step < 300 { 6 } else { 2 };
                match dice.below(8) {
                    n if n < adds => assert_eq!(sorted.insert(key, step), plain.insert(key, step)),
                    7 => {
                        if let Some(value) = sorted.get_mut(&key) {
                            *value += 1;
                        }
                        plain.entry(key).and_modify(|value| *value += 1);
                    }
                    _ => assert_eq!(sorted.remove(&key), plain.remove(&key)),
                }
                check(&sorted, &plain, dice.below(range + 2) as u64);
                if step % 50 == 0 {
                    copies.push((sorted.clone(), plain.clone()));
                }
            }
            for (sorted, plain) in &copies {
                check(sorted, plain, dice.below(range) as u64);
            }
        }
    }

    #[test]
    fn entries_in_order_fill_leaves_and_what_is_left_of_many_takes_few() {
        let mut sorted = Sorted::default();
        for n in 0..1000_u64 {
            sorted.insert(n, n);
        }
        assert_eq!(sorted.leaves.len(), 1000 / LEAF);
        for n in (0..1000).filter(|n| n % 100 != 0) {
            sorted.remove(&n);
        }
        assert!(sorted.leaves.len() <= 5, "{}", sorted.leaves.len());
        assert_eq!(sorted.values().count(), 10);
    }
}
