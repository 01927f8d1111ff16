//! What happens next: events by time, and equal times by the order in which they were asked for.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Events in the order in which they happen.
#[derive(Clone, Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    asked: u64,
}

#[derive(Clone, Debug)]
struct Entry<E> {
    at_ms: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> Ord for Entry<E> {
    /// The heap gives its greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            asked: 0,
        }
    }
}

impl<E> Queue<E> {
    /// Has something happen at a time.
    pub(crate) fn at(&mut self, at_ms: u64, event: E) {
        self.asked += 1;
        self.heap.push(Entry {
            at_ms,
            number: self.asked,
            event,
        });
    }

    /// What happens next, and when.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|entry| (entry.at_ms, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_their_order() {
        let mut queue = Queue::default();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (1, "b")] {
            queue.at(at, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(1, "a"), (1, "b"), (5, "c"), (5, "d")]);
    }
}
