//! The records that say who has the right: how nodes read them, and change them.

use xeno_model::id::{Epoch, SliverId};
use xeno_reconciler::tenure::Holder;

use crate::world::{Event, World};

/// How soon a record is read again whose change was not answered.
const READ_AGAIN_MS: u64 = 2_000;

impl World<'_> {
    /// A node hears what the record of a sliver is by now.
    pub(crate) fn hears(&mut self, n: usize, sliver: &SliverId) {
        if !self.nodes[n].agent {
            return;
        }
        if !self.is_member(n) {
            // It reads all when it is back.
            return;
        }
        self.read_record(n, sliver);
        if self.movers_on[n].contains(sliver) {
            self.advance_one(n, sliver);
        }
        if !self.views[self.nodes[n].head].commit.fleet.turns.is_empty() {
            self.advance(n);
        }
        self.wake(n, 0);
    }

    /// Reads a record now, of a board that is in reach.
    pub(crate) fn read_record(&mut self, n: usize, sliver: &SliverId) {
        let (revision, holder) = self.board.holders.get(sliver);
        let read = (revision, holder.cloned());
        self.nodes[n].rights.known.insert(sliver.clone(), read);
    }

    /// A node that reaches the board again reads all that concerns it.
    pub(crate) fn read_records(&mut self, n: usize) {
        for sliver in self.followed_by[n].clone() {
            self.read_record(n, &sliver);
        }
        self.advance(n);
    }

    /// Has the record of a sliver be something else, if it is still as it was read.
    pub(super) fn swap(&mut self, n: usize, sliver: &SliverId, number: u32, to: Holder) {
        // Until it is answered nobody knows what it says.
        let read = self.nodes[n].rights.known.remove(sliver);
        let wait = self.nodes[n].draw.between(5, 60);
        let sliver = sliver.clone();
        let ask = HolderAsk {
            node: n,
            sliver,
            number,
            read,
            to,
            late: false,
        };
        self.after(wait, Event::AskedHolder(Box::new(ask)));
    }

    /// A change of a holder arrives at the board, or does not.
    pub(crate) fn asked_holder(&mut self, ask: &HolderAsk) {
        let (n, sliver) = (ask.node, &ask.sliver);
        if ask.late {
            // Nobody waits for it any more.
            self.commit_holder(ask);
            return;
        }
        let waits = self.nodes[n].rights.stepping.get(sliver);
        if waits.is_none_or(|stepping| stepping.number != ask.number) {
            // Its agent has died since; what was sent may arrive all the same.
            if self.is_member(n) || self.draw.permille(500) {
                self.commit_holder(ask);
            }
            return;
        }
        if !self.is_member(n) {
            // Nothing was done.
            if let Some(read) = &ask.read {
                self.nodes[n].rights.known.insert(sliver.clone(), read.clone());
            }
            return self.end_step(n, sliver, Err("the board is out of reach".to_owned()));
        }
        if let Some(lost) = self.loses_answers()
            && self.draw.permille(lost)
        {
            match self.draw.below(3) {
                0 => self.reach.hit("hand-over lost"),
                1 => {
                    self.reach.hit("hand-over unsaid");
                    self.commit_holder(ask);
                }
                _ => {
                    self.reach.hit("hand-over late");
                    let wait = self.draw.between(1_000, 60_000);
                    let late = HolderAsk {
                        late: true,
                        ..ask.clone()
                    };
                    self.after(wait, Event::AskedHolder(Box::new(late)));
                }
            }
            let sliver = sliver.clone();
            self.after(READ_AGAIN_MS, Event::Hears { node: n, sliver });
            return self.end_step(n, &ask.sliver, Err("the board did not answer".to_owned()));
        }
        self.commit_holder(ask);
        self.read_record(n, sliver);
        self.end_step(n, sliver, Ok(()));
    }

    fn commit_holder(&mut self, ask: &HolderAsk) {
        self.board.wrote(self.now, 1);
        let Some((read, _)) = &ask.read else { return };
        let board = &mut self.board;
        if !board
            .holders
            .put_if(*read, ask.sliver.clone(), ask.to.clone(), &mut board.at)
        {
            return self.reach.hit("hand-over refused");
        }
        self.watch_holder(&ask.sliver, &ask.to);
        if ask.to.memory.is_none() && ask.to.epoch > Epoch(1) {
            self.moved.insert(ask.sliver.clone());
        }
        for w in self.followers.get(&ask.sliver).cloned().unwrap_or_default() {
            let wait = self.nodes[w].draw.between(5, 200);
            let sliver = ask.sliver.clone();
            self.after(wait, Event::Hears { node: w, sliver });
        }
    }
}

/// A change of a holder that is asked of the board.
#[derive(Clone, Debug)]
pub(crate) struct HolderAsk {
    pub(crate) node: usize,
    pub(crate) sliver: SliverId,
    /// Which step of its node.
    pub(crate) number: u32,
    /// What was read.
    read: Option<(u64, Option<Holder>)>,
    to: Holder,
    /// Whether this is another try of something whose answer was lost.
    late: bool,
}
