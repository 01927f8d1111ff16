//! Who reaches the board: leases that are kept, run out, and are got anew.
//!
//! Renewals are not played one by one: a node that reaches the board keeps its lease, and one that does not loses it as long
//! after as its last renewal then lasts.

use std::time::Duration;

use crate::fault::Trouble;
use crate::world::{Event, World};

impl World<'_> {
    /// A node has lost the board.
    pub(crate) fn leaves(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.member {
            return;
        }
        node.member = false;
        self.trace.in_reach(self.now, n, false);
        node.asking.clear();
        node.membership += 1;
        node.left = node.membership;
        let since = node.draw.below(ms(node.pace.renew_every()));
        let left = ms(node.pace.lease_ttl()).saturating_sub(since);
        let number = node.membership;
        self.after(left, Event::LeaseEnds { node: n, number });
    }

    /// A node may reach the board again, and comes when it is its turn.
    pub(crate) fn returns(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.member {
            return;
        }
        node.membership += 1;
        let wait = ms(node.pace.until_arrival());
        let number = node.membership;
        self.after(wait, Event::Arrives { node: n, number });
    }

    /// A node gets a lease, and reads and says what there is.
    pub(crate) fn arrives(&mut self, n: usize, number: u64) {
        let node = &self.nodes[n];
        if node.membership != number || node.member || !node.agent || node.away {
            return;
        }
        if self.suffers(|trouble| *trouble == Trouble::BoardLost) {
            return;
        }
        self.nodes[n].member = true;
        self.nodes[n].leased = true;
        self.trace.in_reach(self.now, n, true);
        self.board.wrote(self.now, 2);
        let name = self.nodes[n].name.clone();
        for slice in self.slices_of[n].clone() {
            if self.board.slices[slice].regains(&name) {
                // Those who waited because too many were away see that as well.
                let waiting = std::mem::take(&mut self.board.slices[slice].waiting);
                for n in waiting {
                    self.consider_soon(n, 100);
                }
                self.witness_soon(slice, 500);
            }
        }
        let node = &mut self.nodes[n];
        if !node.unsaid.is_empty() {
            let due = node.summary.due_ms().unwrap_or(self.now).max(self.now);
            self.queue.at(due, Event::Say(n));
        }
        self.read_records(n);
        self.read_grants(n);
        self.post_asks(n);
        self.consider_soon(n, 0);
    }

    /// The lease of a node that was not heard of is gone.
    pub(crate) fn lease_ends(&mut self, n: usize, number: u64) {
        if self.nodes[n].member || self.nodes[n].left != number {
            return;
        }
        self.reach.hit("lease ran out");
        self.nodes[n].leased = false;
        let name = self.nodes[n].name.clone();
        for slice in self.slices_of[n].clone() {
            let slots: Vec<u32> = {
                let record = self.board.records.get(&slice).1;
                let slots = record.into_iter().flat_map(|record| &record.slots);
                slots
                    .filter(|(_, by)| **by == name)
                    .map(|(number, _)| *number)
                    .collect()
            };
            let shared = &mut self.board.slices[slice];
            shared.loses(&name);
            shared.left_alone.extend(slots);
            let waiting = std::mem::take(&mut shared.waiting);
            for n in waiting {
                self.consider_soon(n, 100);
            }
            self.witness_soon(slice, 500);
        }
    }

    /// The board is lost to everybody, or is back.
    pub(crate) fn board_is(&mut self, there: bool) {
        for n in 0..self.nodes.len() {
            if there {
                if self.nodes[n].agent && !self.nodes[n].away {
                    self.returns(n);
                }
            } else {
                self.leaves(n);
            }
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
