//! How a node is emptied: single moves in an order in which each fits, or what stands in the way.
//!
//! Where it can be, only slivers of that node move. Then each step only ever takes memory and ports of other nodes, and gives none
//! of them back: what fits when all have gone fits at every moment before, in any order. Where that leaves some without a place,
//! others make room (`order`). A move needs its room on the target while the source still has the sliver; for numbers of
//! slivers at a site, a sliver that moves within it counts once.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::ground::{Ask, Ground, Size, Spread};
use super::ledger::Ledger;
use super::order::{self, Found, Mover};
use super::outcome::Refusal;
use crate::desired::{DesiredFleet, DesiredSliver, Matching, SliverState, Turn};
use crate::id::{NodeName, SliceName, SliverId};

/// Most times that a sliver is put somewhere beyond the first for each, before the search gives up.
const TRIES_MAX: usize = 5_000;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which sliver.
    pub sliver: SliverId,
    /// Where it is before.
    pub from: NodeName,
    /// What it does.
    pub how: How,
    /// Memory that it takes there from then on, in MiB; 0 if it does not run and its slice names its nodes itself.
    pub memory_mib: u64,
    /// Memory that is left there then, in MiB.
    pub left_mib: u64,
    /// The steps, by index, that have to be done before this one begins; what comes before these does too.
    pub after: Vec<usize>,
}

/// What a sliver does in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It goes to another node.
    Goes(NodeName),
    /// It is stopped where it is until its next step, so that another has its room.
    Rests,
}

impl Step {
    /// The step as a commit says it. `turns` says what it said before, all of which is to come first where room that one of those
    /// leaves is counted on.
    #[must_use]
    pub fn turn(&self, turns: &[Turn]) -> Turn {
        let to = match &self.how {
            How::Goes(to) => Some(to.clone()),
            How::Rests => None,
        };
        let at = to.as_ref().unwrap_or(&self.from);
        let mut after = Vec::new();
        if turns.iter().any(|turn| turn.from == *at) {
            let touches = |turn: &Turn| turn.from == *at || turn.to.as_ref() == Some(at);
            let earlier = turns.iter().enumerate().filter(|(_, turn)| touches(turn));
            after.extend(earlier.map(|(index, _)| index));
        }
        after.extend(self.after.iter().map(|index| index + turns.len()));
        Turn {
            sliver: self.sliver.clone(),
            from: self.from.clone(),
            to,
            after,
        }
    }
}

/// A sliver, where it is, and what it asks of any node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub sliver: SliverId,
    /// Where it is.
    pub node: NodeName,
    /// What it asks.
    pub ask: Ask,
}

/// Slivers for which no place was found. The others would find one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// In the order of their names.
    pub slivers: Vec<Left>,
    /// Memory that all other nodes together have too little, in MiB; 0: there would be enough, but not where it is needed.
    pub short_mib: u64,
    /// Whether there is no way: else there may be one that was not found.
    pub certain: bool,
}

/// A sliver that has no place, once as many of the others as possible have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Which.
    pub sliver: SliverId,
    /// Memory that it needs, in MiB.
    pub need_mib: u64,
    /// Why the other nodes do not take it: each node under what it says first.
    pub refusals: BTreeMap<Refusal, Vec<NodeName>>,
}

impl Left {
    /// How much memory is missing on the node with the most, of those that lack only that; `None`: no node lacks only memory.
    #[must_use]
    pub fn missing_mib(&self) -> Option<(u64, &NodeName)> {
        let lacking = self.refusals.iter().filter_map(|(refusal, nodes)| match refusal {
            Refusal::NoRoom { need_mib, free_mib } => Some((need_mib - free_mib, nodes.first()?)),
            Refusal::NoMatch | Refusal::Cordoned | Refusal::Site(..) | Refusal::PortTaken(_) => None,
        });
        lacking.min()
    }
}

/// All slivers, and what each asks of a node. `ground` and `fleet` are of the same manifests.
#[must_use]
pub fn standing(ground: &Ground, fleet: &DesiredFleet) -> Vec<Standing> {
    let slivers = fleet.slices.values().flat_map(|slice| slice.slivers.values());
    slivers
        .map(|(node, sliver)| {
            let asked = ground.asks.get(&sliver.id.slice);
            Standing {
                sliver: sliver.id.clone(),
                node: node.clone(),
                ask: asked.cloned().unwrap_or_else(|| ask_of(sliver)),
            }
        })
        .collect()
}

/// What a sliver asks whose slice names its node.
fn ask_of(sliver: &DesiredSliver) -> Ask {
    let first = |host: u16| u16::try_from(u32::from(host).checked_sub(sliver.id.number)?).ok();
    let runs = sliver.state == SliverState::Running;
    Ask {
        tenant: sliver.tenant.clone(),
        replicas: 0,
        size: Size {
            memory_mib: if runs { sliver.resources.memory.mib() } else { 0 },
            memory_most: sliver.resources.memory_most(),
            vcpus: sliver.resources.vcpus,
        },
        size_on: BTreeMap::new(),
        ports: sliver
            .publish
            .iter()
            .filter_map(|publish| first(publish.host))
            .collect(),
        matching: Matching::default(),
        spread: Spread::None,
        moves_max: None,
        previous: BTreeMap::new(),
        held: false,
    }
}

/// Finds a place elsewhere for all that is on a node, and an order in which every step fits: the largest first, and others only
/// where these have to make room.
///
/// # Errors
/// The slivers for which no place was found.
pub fn evacuate(ground: &Ground, standing: &[Standing], node: &NodeName) -> Result<Vec<Step>, Stuck> {
    let mut staying = ground.clone();
    staying.fixed.retain(|fixed| fixed.node != *node);
    let mut movers: Vec<&Standing> = standing.iter().filter(|one| one.node == *node).collect();
    // The largest find a place the least easily.
    movers.sort_by(|a, b| most(&b.ask).cmp(&most(&a.ask)).then(a.sliver.cmp(&b.sliver)));
    let mut search = Search::new(&staying, movers, node);
    if let Some(seats) = search.run() {
        return Ok(search.steps(&seats));
    }
    let stuck = search.stuck();
    let mut bare = ground.clone();
    bare.fixed.clear();
    let index = |name: &NodeName| ground.nodes.keys().position(|node| node == name);
    let all = standing.iter().filter_map(|one| {
        Some(Mover {
            sliver: &one.sliver,
            ask: &one.ask,
            home: index(&one.node)?,
        })
    });
    let all: Vec<Mover<'_>> = all.collect();
    let Some(empty) = index(node) else {
        return Err(stuck);
    };
    match order::search(&bare, &all, empty) {
        Found::Steps(steps) => Ok(steps),
        Found::None => Err(Stuck {
            certain: true,
            ..stuck
        }),
        Found::Unsure => Err(stuck),
    }
}

/// The memory of a sliver where that is most.
fn most(ask: &Ask) -> u64 {
    let others = ask.size_on.values().map(|size| size.memory_mib);
    others.fold(ask.size.memory_mib, u64::max)
}

struct Search<'a> {
    ledger: Ledger<'a>,
    movers: Vec<&'a Standing>,
    /// All nodes but the one that is emptied.
    away: Vec<usize>,
    /// How many slivers of a slice a node has.
    of_slice: BTreeMap<(&'a SliceName, usize), u32>,
}

impl<'a> Search<'a> {
    fn new(staying: &'a Ground, movers: Vec<&'a Standing>, node: &NodeName) -> Self {
        let mut ledger = Ledger::new(staying);
        let mut of_slice = BTreeMap::new();
        for fixed in &staying.fixed {
            if let Some(seat) = ledger.find(&fixed.node) {
                *of_slice.entry((&fixed.slice, seat)).or_default() += 1;
            }
        }
        for (name, ask) in &staying.asks {
            for (number, at) in ask.previous.iter().filter(|(_, at)| *at != node) {
                if let Some(seat) = ledger.find(at) {
                    ledger.take(name, ask, *number, seat);
                    *of_slice.entry((name, seat)).or_default() += 1;
                }
            }
        }
        let seats = 0..ledger.seats().len();
        let away = seats.filter(|seat| ledger.seat(*seat).name != node).collect();
        Self {
            ledger,
            movers,
            away,
            of_slice,
        }
    }

    fn refusal(&self, mover: usize, seat: usize) -> Option<Refusal> {
        let Standing { sliver, ask, .. } = self.movers[mover];
        let never = self.ledger.newly(&sliver.slice, ask, seat);
        never.or_else(|| self.ledger.now(&sliver.slice, ask, sliver.number, seat))
    }

    /// Where a sliver may go as things are, the best last: where the fewest of its slice are, and of those where most is left.
    fn candidates(&self, mover: usize) -> Vec<usize> {
        let slice = &self.movers[mover].sliver.slice;
        let mut all: Vec<usize> = self.away.clone();
        all.retain(|seat| self.refusal(mover, *seat).is_none());
        all.sort_by_key(|seat| {
            let same = self.of_slice.get(&(slice, *seat)).copied().unwrap_or(0);
            (Reverse(same), self.ledger.seat(*seat).free_mib(), Reverse(*seat))
        });
        all
    }

    fn take(&mut self, mover: usize, seat: usize) {
        let Standing { sliver, ask, .. } = self.movers[mover];
        self.ledger.take(&sliver.slice, ask, sliver.number, seat);
        *self.of_slice.entry((&sliver.slice, seat)).or_default() += 1;
    }

    fn give(&mut self, mover: usize, seat: usize) {
        let Standing { sliver, ask, .. } = self.movers[mover];
        self.ledger.give(&sliver.slice, ask, sliver.number, seat);
        if let Some(same) = self.of_slice.get_mut(&(&sliver.slice, seat)) {
            *same = same.saturating_sub(1);
        }
    }

    /// A seat for each, taken; `None`, and nothing taken: none was found.
    fn run(&mut self) -> Option<Vec<usize>> {
        if (0..self.movers.len()).any(|mover| self.candidates(mover).is_empty()) {
            return None;
        }
        let mut tries_left = self.movers.len() + TRIES_MAX;
        let mut seats: Vec<usize> = Vec::new();
        // What has not been tried for each of those, and for the next.
        let mut untried: Vec<Vec<usize>> = Vec::new();
        while seats.len() < self.movers.len() {
            let mover = seats.len();
            if untried.len() == mover {
                untried.push(self.candidates(mover));
            }
            let next = untried.last_mut().and_then(Vec::pop).filter(|_| tries_left > 0);
            if let Some(seat) = next {
                tries_left -= 1;
                self.take(mover, seat);
                seats.push(seat);
            } else {
                untried.pop();
                let seat = seats.pop()?;
                self.give(seats.len(), seat);
            }
        }
        Some(seats)
    }

    /// The moves, once all are taken.
    fn steps(&self, seats: &[usize]) -> Vec<Step> {
        let mut left: BTreeMap<usize, u64> = BTreeMap::new();
        let mut steps: Vec<Step> = Vec::new();
        for (mover, seat) in seats.iter().enumerate().rev() {
            let Standing { sliver, ask, .. } = self.movers[mover];
            let node = self.ledger.seat(*seat);
            let memory_mib = ask.size(node.name).memory_mib;
            let left = left.entry(*seat).or_insert(node.free_mib());
            steps.push(Step {
                sliver: sliver.clone(),
                from: self.movers[mover].node.clone(),
                how: How::Goes(node.name.clone()),
                memory_mib,
                left_mib: *left,
                after: Vec::new(),
            });
            *left += memory_mib;
        }
        steps.reverse();
        steps
    }

    /// What has no place after as many as possible, one after the other, have got the best there is.
    fn stuck(&mut self) -> Stuck {
        let mut slivers = Vec::new();
        for mover in 0..self.movers.len() {
            if let Some(seat) = self.candidates(mover).pop() {
                self.take(mover, seat);
                continue;
            }
            let mut refusals: BTreeMap<Refusal, Vec<NodeName>> = BTreeMap::new();
            let mut need_mib = u64::MAX;
            let Standing { sliver, ask, .. } = self.movers[mover];
            for seat in &self.away {
                let name = self.ledger.seat(*seat).name;
                need_mib = need_mib.min(ask.size(name).memory_mib);
                if let Some(refusal) = self.refusal(mover, *seat) {
                    refusals.entry(refusal).or_default().push(name.clone());
                }
            }
            slivers.push(Left {
                sliver: sliver.clone(),
                need_mib: if self.away.is_empty() {
                    ask.size.memory_mib
                } else {
                    need_mib
                },
                refusals,
            });
        }
        slivers.sort_by(|a, b| a.sliver.cmp(&b.sliver));
        // The others have theirs by now.
        let takes = |seat: &usize| !self.ledger.seat(*seat).is_cordoned();
        let free: u64 = self
            .away
            .iter()
            .filter(|seat| takes(seat))
            .map(|seat| self.ledger.seat(*seat).free_mib())
            .sum();
        let need: u64 = slivers.iter().map(|left| left.need_mib).sum();
        let short_mib = need.saturating_sub(free);
        Stuck {
            slivers,
            short_mib,
            certain: short_mib > 0,
        }
    }
}

#[cfg(test)]
mod tests;
