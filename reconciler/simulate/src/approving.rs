//! What waits until a person approves it, by the real rules (`xeno_reconciler::approval`), and the person who comes by.
//!
//! What is approved stands on the board. A node knows of it what it has read there, and what its agent forgets it reads again.

use std::collections::BTreeMap;

use xeno_model::desired::{DesiredNode, DesiredSliver};
use xeno_model::id::{Digest, SliverId};
use xeno_model::normal::slice_revision;
use xeno_reconciler::approval::{Ask, Grant, Kept, Leave, keep, threshold};
use xeno_reconciler::change::{Cause, ChangeClass, Disruption, Reason};
use xeno_reconciler::moving::How;

use crate::fault::Trouble;
use crate::world::{Event, World};

/// For so long after its start an agent leaves slivers alone of which it has not read what is approved: that of the agent.
const READ_FIRST_MS: u64 = 60_000;
/// A person looks what waits no sooner than that after something does.
const SOONEST_MS: u64 = 60_000;
/// How many of a thousand changes a person approves at once who takes time.
const AT_ONCE_PERMILLE: u64 = 800;
/// Visits after which such a person approves all.
const VISITS_MAX: u32 = 3;

/// What the board says of approvals.
#[derive(Default)]
pub(crate) struct Approvals {
    /// What each node waits for.
    asks: BTreeMap<usize, BTreeMap<SliverId, Ask>>,
    /// What stands approved.
    grants: BTreeMap<SliverId, Grant>,
    /// All that ever was.
    given: BTreeMap<SliverId, Vec<Grant>>,
    /// Whether a person is on the way, and how often one was there while something waited.
    expected: bool,
    visits: u32,
}

impl World<'_> {
    /// What is wanted of a node without what nobody has approved, and what may be done to the rest.
    pub(crate) fn kept(&self, n: usize, wanted: &DesiredNode) -> Kept {
        if wanted.approval.is_none() {
            return Kept::default();
        }
        let node = &self.nodes[n];
        let nothing = BTreeMap::new();
        let grants = node.grants.as_ref().unwrap_or(&nothing);
        keep(wanted, &node.applied, &self.going_back(n), grants, self.wall(n))
    }

    /// What slivers are to be again whose rollouts go back.
    fn going_back(&self, n: usize) -> BTreeMap<SliverId, DesiredSliver> {
        let node = &self.nodes[n];
        let back = node.goods.iter().filter_map(|(sliver, good)| {
            let slice = self.slice_of(sliver)?;
            let follows = node.follows.get(sliver)?;
            let revision = |head: &usize| self.views[*head].keys.get(&slice).map(|key| key.revision);
            let same = revision(good).is_some() && revision(good) == revision(follows);
            let asked = self.asked(sliver, *good).filter(|_| same)?;
            Some((sliver.clone(), asked.clone()))
        });
        back.collect()
    }

    /// What nobody has approved of what the commit asks for that a node has read, wherever rollouts are.
    fn asks_ahead(&self, n: usize) -> BTreeMap<SliverId, Ask> {
        let node = &self.nodes[n];
        let view = &self.views[node.head];
        if view.commit.fleet.approval.is_none() {
            return BTreeMap::new();
        }
        self.kept(n, &self.placed_on(n)).asks
    }

    /// Whether a sliver does not take its turn because nobody has approved what that does to it.
    pub(crate) fn waits_for_approval(&self, n: usize, sliver: &SliverId) -> bool {
        self.asks_ahead(n).contains_key(sliver)
    }

    /// Slivers that are left alone until it was read what is approved for them.
    pub(crate) fn hold_unread(&self, n: usize, kept: &Kept, held: &mut BTreeMap<SliverId, Reason>) {
        let node = &self.nodes[n];
        if node.grants.is_some() || self.now >= node.began_ms + READ_FIRST_MS {
            return;
        }
        for sliver in kept.asks.keys() {
            let why = "what is approved has not been read from the board yet".to_owned();
            held.insert(sliver.clone(), Reason::RightUnknown { why });
        }
    }

    /// Whoever waits for the board until its time is over looks again then.
    pub(crate) fn look_when_unread(&mut self, n: usize) {
        if self.nodes[n].grants.is_none() {
            self.wake(n, READ_FIRST_MS);
        }
    }

    /// A node says on the board what it waits for, where that has changed.
    pub(crate) fn ask_people(&mut self, n: usize, kept: Kept) {
        // What comes first is asked for first.
        let mut asks = self.asks_ahead(n);
        asks.extend(kept.asks);
        let node = &mut self.nodes[n];
        node.turns = kept.turns;
        if node.asks != asks {
            node.asks = asks;
            self.post_asks(n);
            // What others have become meanwhile may have made a change one that needs nobody.
            self.consider_soon(n, 0);
        }
    }

    /// The same, where the board has something else.
    pub(crate) fn post_asks(&mut self, n: usize) {
        let node = &self.nodes[n];
        let posted = self.approvals.asks.get(&n);
        let same = posted.map_or(node.asks.is_empty(), |posted| *posted == node.asks);
        if same || !self.is_member(n) {
            return;
        }
        self.board.wrote(self.now, 1);
        self.approvals.asks.insert(n, node.asks.clone());
        self.expect_person();
    }

    /// A node reads what is approved.
    pub(crate) fn read_grants(&mut self, n: usize) {
        if !self.is_member(n) {
            return;
        }
        let mine = |(sliver, _): &(&SliverId, &Grant)| {
            let slice = self.slice_of(sliver);
            slice.is_some_and(|slice| self.slices_of[n].contains(&slice))
        };
        let grants = self.approvals.grants.iter().filter(mine);
        let grants: BTreeMap<SliverId, Grant> =
            grants.map(|(sliver, grant)| (sliver.clone(), *grant)).collect();
        if self.nodes[n].grants.as_ref() != Some(&grants) {
            self.nodes[n].grants = Some(grants);
            self.supersede(n);
            self.wake(n, 0);
            self.consider_soon(n, 0);
        }
    }

    fn expect_person(&mut self) {
        if !self.approvals.expected {
            self.approvals.expected = true;
            let wait = self
                .draw
                .between(SOONEST_MS, self.story.approves_ms.max(SOONEST_MS));
            self.after(wait, Event::Person);
        }
    }

    /// A person sees what waits, and approves it, or some of it for now.
    pub(crate) fn person_comes(&mut self) {
        self.approvals.expected = false;
        if self.suffers(|trouble| *trouble == Trouble::BoardLost) {
            return self.expect_person();
        }
        let hurries = self.story.approves_ms <= SOONEST_MS || self.approvals.visits >= VISITS_MAX;
        let (mut waits, mut concerned) = (false, Vec::new());
        for (n, asks) in self.approvals.asks.clone() {
            let mut some = false;
            for (sliver, ask) in asks {
                let granted = self.approvals.grants.get(&sliver);
                if granted.is_some_and(|grant| grant.covers(&ask)) {
                    continue;
                }
                if !hurries && !self.draw.permille(AT_ONCE_PERMILLE) {
                    waits = true;
                    continue;
                }
                self.reach.hit("approved by a person");
                self.board.wrote(self.now, 1);
                let grant = Grant(ask);
                self.approvals.grants.insert(sliver.clone(), grant);
                self.approvals.given.entry(sliver).or_default().push(grant);
                some = true;
            }
            if some {
                concerned.push(n);
            }
        }
        self.approvals.visits = if waits { self.approvals.visits + 1 } else { 0 };
        if waits {
            self.expect_person();
        }
        for n in concerned {
            let wait = self.nodes[n].draw.between(10, 200);
            self.after(wait, Event::Granted(n));
        }
    }

    /// Something is about to be done to a sliver that somebody must have approved, unless it is repair. By the board, and by
    /// other means than those by which it was decided.
    pub(crate) fn needs_approval(&mut self, n: usize, sliver: &SliverId, class: ChangeClass, cause: Cause) {
        let node = &self.nodes[n];
        let asks = self.views[node.head].commit.fleet.approval.is_some();
        if asks && cause == Cause::Change {
            let to = node.run.as_ref().and_then(|running| {
                let wanted = running.desired.slivers.get(sliver);
                wanted.map(slice_revision)
            });
            self.needs_approval_of(n, sliver, to, class.disruption());
        }
    }

    /// The same of a sliver that leaves for another node.
    pub(crate) fn needs_approval_to_leave(&mut self, n: usize, sliver: &SliverId) {
        let made = self.nodes[n].applied.get(sliver);
        let does = made.map(|made| How::of(&made.desired, &made.desired).disruption());
        self.needs_approval_of(n, sliver, None, does.unwrap_or(Disruption::None));
    }

    fn needs_approval_of(&mut self, n: usize, sliver: &SliverId, to: Option<Digest>, does: Disruption) {
        let node = &self.nodes[n];
        let Some(from) = self.views[node.head].commit.fleet.approval.map(threshold) else {
            return;
        };
        if does < from || self.going_back(n).contains_key(sliver) {
            return;
        }
        let given = self.approvals.given.get(sliver);
        let covers = |grant: &Grant| grant.0.to == to && does <= grant.0.disruption;
        if !given.is_some_and(|given| given.iter().any(covers)) {
            let name = &node.name;
            self.safety.broken(format!(
                "{name}: what is done to {sliver} is {does:?}, and nobody has approved it"
            ));
        }
    }

    /// What may be done to the slivers of a node, once all is as it should be.
    pub(crate) fn approved(&self, n: usize) -> (DesiredNode, Leave) {
        let followed = self.followed(n);
        let mut kept = self.kept(n, &followed);
        (kept.desired.take().unwrap_or(followed), kept.leave)
    }
}
