//! Who is next: calls of busy exports take turns by weight.
//!
//! Start-time fair queueing with a bounded depth, SFQ(D): each call gets a *start tag*, the virtual time at which its
//! export could begin it (where the export's call before it ends, or now, if the export was idle), and an *end tag*, later by
//! its cost over the export's weight. Calls go in the order of start tags, as many as the depth has room for; virtual time is
//! the start tag of the last that went. So two exports that always want more get service as their weights, whatever
//! each call costs; one that was idle begins now, with neither credit nor debt; one alone has everything.
//!
//! What is answered from memory takes no part in the depth, since it keeps no disk waiting, but it counts all the same: it
//! goes at once as long as nobody waits whose turn is before its own. So a guest that streams what is cached does not get
//! past those who wait for a disk again and again, and pays for what it had when it wants the disk itself.
//!
//! Sources: P. Goyal, H. Vin, H. Cheng, "Start-time fair queuing", SIGCOMM 1996; W. Jin, J. Chase, J. Kaur, "Interposed
//! proportional sharing for a storage service utility", SIGMETRICS 2004.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::UNIT;
use crate::export::{ExportId, Weight};

/// Bytes that make one unit of cost.
const UNIT_BYTES: u64 = UNIT as u64;

/// Virtual time that a call of cost 1 takes at weight 1: divisible by every weight a person would set.
const TICK: u64 = 1 << 20;

/// The order of calls, as pure arithmetic: no clock, no threads.
#[derive(Debug)]
struct Turns<T> {
    /// Cost that may be in service at the same time.
    depth: u32,
    in_service: u32,
    now: u64,
    /// Where the last call of an export ends; exports that would begin now anyway are forgotten.
    ends: BTreeMap<ExportId, u64>,
    waiting: BinaryHeap<Reverse<Waiting<T>>>,
    /// Of equal tags the first to come goes first.
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    start: u64,
    arrival: u64,
    cost: u32,
    call: T,
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.arrival == other.arrival
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.start, self.arrival).cmp(&(other.start, other.arrival))
    }
}

impl<T> Turns<T> {
    fn new(depth: u32) -> Self {
        Self {
            depth,
            in_service: 0,
            now: 0,
            ends: BTreeMap::new(),
            waiting: BinaryHeap::new(),
            arrivals: 0,
        }
    }

    /// A call wants to run.
    fn arrive(&mut self, export: ExportId, weight: Weight, cost: u32, call: T) {
        let start = self.start(export);
        let takes = u64::from(cost).saturating_mul(TICK) / u64::from(weight.get());
        self.ends.insert(export, start.saturating_add(takes));
        self.arrivals += 1;
        self.waiting.push(Reverse(Waiting {
            start,
            arrival: self.arrivals,
            cost,
            call,
        }));
    }

    /// A call that needs no room wants to run now, and costs `bytes`. It may, unless one that waits is to go before it; then it
    /// has to [arrive](Self::arrive) like any other.
    fn pass(&mut self, export: ExportId, weight: Weight, bytes: u64) -> bool {
        let start = self.start(export);
        if let Some(Reverse(first)) = self.waiting.peek()
            && first.start <= start
        {
            return false;
        }
        // Nothing is for nothing, however little it is.
        let takes = (bytes.saturating_mul(TICK) / UNIT_BYTES / u64::from(weight.get())).max(1);
        self.ends.insert(export, start.saturating_add(takes));
        self.now = self.now.max(start);
        true
    }

    /// When an export that has nothing waiting would begin its next call.
    fn start(&self, export: ExportId) -> u64 {
        self.ends.get(&export).map_or(self.now, |&end| end.max(self.now))
    }

    /// The next call, if there is one and room for it, and what it costs. A call of more than the whole depth goes alone.
    fn next(&mut self) -> Option<(T, u32)> {
        let Reverse(first) = self.waiting.peek()?;
        if self.in_service > 0 && self.in_service.saturating_add(first.cost) > self.depth {
            return None;
        }
        let Reverse(first) = self.waiting.pop()?;
        self.in_service += first.cost;
        self.now = self.now.max(first.start);
        Some((first.call, first.cost))
    }

    /// A call has ended.
    fn end(&mut self, cost: u32) {
        self.in_service -= cost;
        if self.waiting.is_empty() {
            // Who comes next begins now: tags of the past say nothing any more.
            let now = self.now;
            self.ends.retain(|_, end| *end > now);
        }
    }
}

/// Gives out turns.
pub(super) struct Share {
    turns: Mutex<Turns<oneshot::Sender<Turn>>>,
}

/// A call's turn, for as long as it is held.
pub(super) struct Turn {
    share: Arc<Share>,
    cost: u32,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.share.lock().end(self.cost);
        self.share.go();
    }
}

impl Share {
    /// Turns for calls of together at most `depth` units at a time.
    pub(super) fn new(depth: u32) -> Arc<Self> {
        Arc::new(Self {
            turns: Mutex::new(Turns::new(depth)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Turns<oneshot::Sender<Turn>>> {
        // Arithmetic on small numbers: nothing in it panics.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call whose reply has at most `bytes` and comes from memory may be answered at once. It counts then; and it
    /// waits for no disk as long as its export has not had more than its share beside others that wait.
    pub(super) fn pass(&self, export: ExportId, weight: Weight, bytes: usize) -> bool {
        self.lock()
            .pass(export, weight, u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Waits for a turn.
    pub(super) async fn turn(self: &Arc<Self>, export: ExportId, weight: Weight, cost: u32) -> Turn {
        let (sender, mut receiver) = oneshot::channel();
        self.lock().arrive(export, weight, cost, sender);
        self.go();
        // Mostly it is there already.
        match receiver.try_recv() {
            Ok(turn) => turn,
            Err(_) => receiver.await.expect("a sender is used before it is dropped"),
        }
    }

    /// Lets go whatever may.
    fn go(self: &Arc<Self>) {
        loop {
            // The lock is not held while a turn that nobody wants any more is dropped, which takes it again.
            let Some((sender, cost)) = self.lock().next() else {
                return;
            };
            let turn = Turn {
                share: Arc::clone(self),
                cost,
            };
            drop(sender.send(turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ExportId = ExportId([1; 8]);
    const B: ExportId = ExportId([2; 8]);
    const C: ExportId = ExportId([3; 8]);

    fn weight(weight: u32) -> Weight {
        Weight::new(weight).unwrap()
    }

    /// Lets `busy` exports (weight, cost of each call) always want more, and says what each got out of `total` units.
    fn served(depth: u32, busy: &[(ExportId, u32, u32)], total: u64) -> Vec<u64> {
        let mut turns = Turns::new(depth);
        let mut got = vec![0; busy.len()];
        for (at, &(export, own, cost)) in busy.iter().enumerate() {
            for _ in 0..64 {
                turns.arrive(export, weight(own), cost, at);
            }
        }
        let mut running = std::collections::VecDeque::new();
        while got.iter().sum::<u64>() < total {
            while let Some((at, cost)) = turns.next() {
                running.push_back((at, cost));
            }
            let (at, cost) = running.pop_front().expect("there is always more");
            turns.end(cost);
            got[at] += u64::from(cost);
            let (export, own, cost) = busy[at];
            turns.arrive(export, weight(own), cost, at);
        }
        got
    }

    #[test]
    fn busy_exports_are_served_as_their_weights() {
        let check = |depth, busy: &[(ExportId, u32, u32)]| {
            let total = 100_000;
            let weights: u64 = busy.iter().map(|&(_, own, _)| u64::from(own)).sum();
            for (got, &(_, own, _)) in served(depth, busy, total).into_iter().zip(busy) {
                let fair = total * u64::from(own) / weights;
                // What is in service and one call of each may be off.
                assert!(
                    got.abs_diff(fair) <= 200,
                    "{got} for {own} of {weights}: {busy:?}"
                );
            }
        };
        check(1, &[(A, 100, 1), (B, 100, 1)]);
        check(16, &[(A, 100, 1), (B, 300, 1)]);
        // Large calls or small ones: bytes count.
        check(16, &[(A, 100, 5), (B, 100, 1)]);
        check(64, &[(A, 1, 5), (B, 10_000, 5)]);
        check(64, &[(A, 50, 1), (B, 100, 5), (C, 200, 3)]);
    }

    #[test]
    fn an_export_alone_has_everything_and_an_idle_one_costs_nothing() {
        assert_eq!(served(16, &[(A, 1, 1)], 1000), [1000]);
        let mut turns = Turns::new(1);
        // B was served once, long ago.
        turns.arrive(B, weight(100), 1, "b");
        assert_eq!(turns.next(), Some(("b", 1)));
        turns.end(1);
        for _ in 0..1000 {
            turns.arrive(A, weight(100), 1, "a");
            assert_eq!(turns.next(), Some(("a", 1)), "nobody is waited for");
            turns.end(1);
        }
        // Neither credit for the time it was idle nor debt: from now on they alternate.
        for _ in 0..10 {
            turns.arrive(A, weight(100), 1, "a");
            turns.arrive(B, weight(100), 1, "b");
        }
        let mut order = String::new();
        while let Some((call, cost)) = turns.next() {
            order.push_str(call);
            turns.end(cost);
        }
        let mut ahead = 0_i32;
        for call in order.chars() {
            ahead += if call == 'a' { 1 } else { -1 };
            assert!(ahead.abs() <= 2, "{order}");
        }
        assert!(turns.ends.len() <= 2);
    }

    #[test]
    fn what_is_answered_from_memory_counts() {
        // A streams what is cached, as fast as it can: 100 READs of 64 KiB for each call that the disk of depth 4 does.
        // B wants more of the disk than there is.
        let check = |weights: [u32; 2], share_of_b: u64| {
            let mut turns = Turns::new(4);
            let (mut got, mut refused) = ([0_u64; 2], 0);
            let mut running = std::collections::VecDeque::new();
            for _ in 0..16 {
                turns.arrive(B, weight(weights[1]), 4, 1);
            }
            for _ in 0..1000 {
                for _ in 0..100 {
                    if turns.pass(A, weight(weights[0]), UNIT_BYTES / 4) {
                        got[0] += 1;
                    } else {
                        refused += 1;
                        break;
                    }
                }
                while let Some((at, cost)) = turns.next() {
                    running.push_back((at, cost));
                }
                let (at, cost) = running.pop_front().expect("there is always more");
                turns.end(cost);
                got[at] += u64::from(cost) * 4;
                turns.arrive(B, weight(weights[1]), 4, 1);
            }
            let share = got[1] * 100 / (got[0] + got[1]);
            assert!(
                share.abs_diff(share_of_b) <= 2,
                "{weights:?}: {got:?}, refused {refused}"
            );
            assert!(refused > 0);
        };
        check([100, 100], 50);
        check([100, 300], 75);
        check([400, 100], 20);
    }

    #[test]
    fn what_is_answered_from_memory_waits_for_nobody_who_does_not_wait() {
        let mut turns = Turns::<()>::new(1);
        // Alone, or beside others whose calls all run, it always goes.
        turns.arrive(B, weight(100), 1, ());
        assert_eq!(turns.next(), Some(((), 1)));
        assert!((0..1000).all(|_| turns.pass(A, weight(1), UNIT_BYTES)));
        // What it had is no debt to one who was idle: B's next call and its own have the same right.
        turns.end(1);
        turns.arrive(B, weight(100), 1, ());
        assert!(!turns.pass(A, weight(1), UNIT_BYTES), "B is next");
        assert_eq!(turns.next(), Some(((), 1)));
        assert!(turns.pass(A, weight(1), UNIT_BYTES), "nobody waits any more");
        assert!(turns.ends.len() <= 2);
    }

    #[test]
    fn the_depth_bounds_what_is_in_service() {
        let mut turns = Turns::new(4);
        for _ in 0..5 {
            turns.arrive(A, weight(100), 2, ());
        }
        assert_eq!(
            [turns.next(), turns.next(), turns.next()],
            [Some(((), 2)), Some(((), 2)), None]
        );
        turns.end(2);
        assert_eq!([turns.next(), turns.next()], [Some(((), 2)), None]);
        // One that is larger than the depth waits until it is alone, and is not passed over.
        let mut turns = Turns::new(4);
        turns.arrive(A, weight(100), 2, "a");
        turns.arrive(B, weight(100), 9, "b");
        turns.arrive(A, weight(100), 2, "c");
        assert_eq!([turns.next(), turns.next()], [Some(("a", 2)), None]);
        turns.end(2);
        assert_eq!([turns.next(), turns.next()], [Some(("b", 9)), None]);
        turns.end(9);
        assert_eq!(turns.next(), Some(("c", 2)));
    }

    #[tokio::test]
    async fn turns_are_handed_on() {
        let share = Share::new(1);
        let first = share.turn(A, weight(1), 1).await;
        let mut second = Box::pin(share.turn(B, weight(1), 1));
        assert!(futures_pending(&mut second).await);
        // One who gives up is passed over.
        let mut third = Box::pin(share.turn(A, weight(1), 1));
        assert!(futures_pending(&mut third).await);
        drop(second);
        drop(first);
        drop(third.await);
        assert_eq!(share.lock().in_service, 0);
    }

    async fn futures_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = tokio::task::yield_now() => true,
        }
    }
}
