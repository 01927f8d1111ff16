//! How a node is emptied: single moves in an order in which each fits, or what stands in the way.
//!
//! Only slivers of that node move. So each step only ever takes memory and ports of other nodes, and gives none of them back:
//! what fits when all have gone fits at every moment before, in any order. A move needs its room on the target while the source
//! still has the sliver; for numbers of slivers at a site, a sliver that moves within it counts once.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::ground::{Ask, Ground, Matching, Size, Spread};
use super::ledger::Ledger;
use super::outcome::Refusal;
use crate::desired::{DesiredFleet, DesiredSliver, SliverState};
use crate::id::{NodeName, SliceName, SliverId};

/// Most times that a sliver is put somewhere beyond the first for each, before the search gives up.
const TRIES_MAX: usize = 5_000;

/// One move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which sliver.
    pub sliver: SliverId,
    /// Where it goes.
    pub to: NodeName,
    /// Memory that it takes there, in MiB; 0 if it does not run and its slice names its nodes itself.
    pub memory_mib: u64,
    /// Memory that is left there then, in MiB.
    pub left_mib: u64,
}

/// Slivers for which no place was found. The others would find one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// In the order of their names.
    pub slivers: Vec<Left>,
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

/// The slivers of a node, and what each asks of another. `ground` and `fleet` are of the same manifests.
#[must_use]
pub fn leaving(ground: &Ground, fleet: &DesiredFleet, node: &NodeName) -> Vec<(SliverId, Ask)> {
    let slivers = fleet.slices.values().flat_map(|slice| slice.slivers.values());
    let here = slivers.filter(|(at, _)| at == node);
    here.map(|(_, sliver)| {
        let asked = ground.asks.get(&sliver.id.slice);
        (
            sliver.id.clone(),
            asked.cloned().unwrap_or_else(|| ask_of(sliver)),
        )
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

/// Finds a place elsewhere for all that is [leaving] a node, and the order of moves: the largest first.
///
/// # Errors
/// The slivers for which none was found.
pub fn evacuate(ground: &Ground, leaving: &[(SliverId, Ask)], node: &NodeName) -> Result<Vec<Step>, Stuck> {
    let mut staying = ground.clone();
    staying.fixed.retain(|fixed| fixed.node != *node);
    let mut movers: Vec<&(SliverId, Ask)> = leaving.iter().collect();
    // The largest find a place the least easily.
    movers.sort_by(|a, b| most(&b.1).cmp(&most(&a.1)).then(a.0.cmp(&b.0)));
    let mut search = Search::new(&staying, movers, node);
    match search.run() {
        Some(seats) => Ok(search.steps(&seats)),
        None => Err(search.stuck()),
    }
}

/// The memory of a sliver where that is most.
fn most(ask: &Ask) -> u64 {
    let others = ask.size_on.values().map(|size| size.memory_mib);
    others.fold(ask.size.memory_mib, u64::max)
}

struct Search<'a> {
    ledger: Ledger<'a>,
    movers: Vec<&'a (SliverId, Ask)>,
    /// All nodes but the one that is emptied.
    away: Vec<usize>,
    /// How many slivers of a slice a node has.
    of_slice: BTreeMap<(&'a SliceName, usize), u32>,
}

impl<'a> Search<'a> {
    fn new(staying: &'a Ground, movers: Vec<&'a (SliverId, Ask)>, node: &NodeName) -> Self {
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
        let (sliver, ask) = self.movers[mover];
        let never = self.ledger.newly(&sliver.slice, ask, seat);
        never.or_else(|| self.ledger.now(&sliver.slice, ask, sliver.number, seat))
    }

    /// Where a sliver may go as things are, the best last: where the fewest of its slice are, and of those where most is left.
    fn candidates(&self, mover: usize) -> Vec<usize> {
        let slice = &self.movers[mover].0.slice;
        let mut all: Vec<usize> = self.away.clone();
        all.retain(|seat| self.refusal(mover, *seat).is_none());
        all.sort_by_key(|seat| {
            let same = self.of_slice.get(&(slice, *seat)).copied().unwrap_or(0);
            (Reverse(same), self.ledger.seat(*seat).free_mib(), Reverse(*seat))
        });
        all
    }

    fn take(&mut self, mover: usize, seat: usize) {
        let (sliver, ask) = self.movers[mover];
        self.ledger.take(&sliver.slice, ask, sliver.number, seat);
        *self.of_slice.entry((&sliver.slice, seat)).or_default() += 1;
    }

    fn give(&mut self, mover: usize, seat: usize) {
        let (sliver, ask) = self.movers[mover];
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
            let (sliver, ask) = self.movers[mover];
            let node = self.ledger.seat(*seat);
            let memory_mib = ask.size(node.name).memory_mib;
            let left = left.entry(*seat).or_insert(node.free_mib());
            steps.push(Step {
                sliver: sliver.clone(),
                to: node.name.clone(),
                memory_mib,
                left_mib: *left,
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
            let (sliver, ask) = self.movers[mover];
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
        Stuck { slivers }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::ground::{Fixed, Spot};
    use super::*;
    use crate::id::SiteName;
    use crate::units::Bytes;

    fn node(index: usize) -> NodeName {
        NodeName::new(&format!("n-{index}")).unwrap()
    }

    /// A node with its memory, whether it is cordoned, and the slivers on it: memory, and a port or none.
    type Full = (u64, bool, Vec<(u64, Option<u16>)>);

    /// Each sliver is a slice of its own.
    fn scene(nodes: &[Full]) -> (Ground, Vec<(SliverId, Ask)>) {
        let mut ground = Ground::default();
        let mut leaving = Vec::new();
        let mut number = 0;
        for (at, (room, cordoned, slivers)) in nodes.iter().enumerate() {
            let used: u64 = slivers.iter().map(|(memory, _)| memory).sum();
            let spot = Spot {
                site: SiteName::new("here").unwrap(),
                region: None,
                labels: BTreeMap::new(),
                memory_mib: used + room,
                cordoned: *cordoned,
            };
            ground.nodes.insert(node(at), spot);
            let mut taken = BTreeSet::new();
            for (memory, port) in slivers {
                let port = port.filter(|port| taken.insert(*port));
                let slice = SliceName::new(&format!("s{number}")).unwrap();
                number += 1;
                ground.fixed.push(Fixed {
                    slice: slice.clone(),
                    tenant: None,
                    node: node(at),
                    memory_mib: *memory,
                    ports: port.into_iter().collect(),
                });
                if at == 0 {
                    let size = Size {
                        memory_mib: *memory,
                        memory_most: Bytes(memory << 20),
                        vcpus: 1,
                    };
                    let ask = Ask {
                        tenant: None,
                        replicas: 0,
                        size,
                        size_on: BTreeMap::new(),
                        ports: port.into_iter().collect(),
                        matching: Matching::default(),
                        spread: Spread::None,
                        moves_max: None,
                        previous: BTreeMap::new(),
                        held: false,
                    };
                    leaving.push((SliverId::new(slice, 0), ask));
                }
            }
        }
        (ground, leaving)
    }

    /// What each other node has left, and the ports that are taken there.
    type Books = BTreeMap<NodeName, (u64, BTreeSet<u16>)>;

    fn books(ground: &Ground) -> Books {
        let mut books = Books::new();
        for (name, spot) in ground.nodes.iter().skip(1).filter(|(_, spot)| !spot.cordoned) {
            let here = ground.fixed.iter().filter(|fixed| fixed.node == *name);
            let used: u64 = here.clone().map(|fixed| fixed.memory_mib).sum();
            let ports = here.flat_map(|fixed| fixed.ports.iter().copied()).collect();
            books.insert(name.clone(), (spot.memory_mib - used, ports));
        }
        books
    }

    fn book(books: &mut Books, ask: &Ask, to: &NodeName) -> bool {
        let Some((left, ports)) = books.get_mut(to) else {
            return false;
        };
        let fits = ask.size.memory_mib <= *left && ask.ports.iter().all(|port| !ports.contains(port));
        if fits {
            *left -= ask.size.memory_mib;
            ports.extend(&ask.ports);
        }
        fits
    }

    /// Whether there is any way at all.
    fn possible(books: &Books, leaving: &[(SliverId, Ask)]) -> bool {
        let Some(((_, ask), rest)) = leaving.split_first() else {
            return true;
        };
        books.keys().any(|to| {
            let mut next = books.clone();
            book(&mut next, ask, to) && possible(&next, rest)
        })
    }

    fn full(slivers: usize) -> impl Strategy<Value = Full> {
        let sliver = (0_u64..6, proptest::option::of(0_u16..3));
        (
            0_u64..10,
            proptest::bool::weighted(0.2),
            proptest::collection::vec(sliver, 0..slivers),
        )
    }

    proptest! {
        /// Each step fits when it is made, all leave, and a way is found exactly if there is one.
        #[test]
        fn every_step_fits_and_a_way_is_found_if_there_is_one(nodes in proptest::collection::vec(full(6), 1..5)) {
            let (ground, leaving) = scene(&nodes);
            let mut books = books(&ground);
            match evacuate(&ground, &leaving, &node(0)) {
                Ok(steps) => {
                    let asks: BTreeMap<&SliverId, &Ask> = leaving.iter().map(|(id, ask)| (id, ask)).collect();
                    for step in &steps {
                        prop_assert!(book(&mut books, asks[&step.sliver], &step.to), "{step:?} of {steps:?}");
                        prop_assert_eq!(books[&step.to].0, step.left_mib);
                    }
                    let moved: BTreeSet<&SliverId> = steps.iter().map(|step| &step.sliver).collect();
                    prop_assert_eq!((moved.len(), steps.len()), (leaving.len(), leaving.len()));
                }
                Err(stuck) => {
                    prop_assert!(!stuck.slivers.is_empty());
                    prop_assert!(!possible(&books, &leaving), "{stuck:?}");
                }
            }
        }
    }

    #[test]
    fn where_the_first_try_fails_another_is_found() {
        // The roomiest node for the first of two is the only one for the second, which has the same size and a port.
        let (ground, leaving) = scene(&[
            (0, false, vec![(4, None), (4, Some(1))]),
            (5, false, Vec::new()),
            (4, false, vec![(1, Some(1))]),
        ]);
        let steps = evacuate(&ground, &leaving, &node(0)).unwrap();
        let told: Vec<String> = steps
            .iter()
            .map(|step| format!("{} {}", step.sliver, step.to))
            .collect();
        assert_eq!(told, ["s0/0 n-2", "s1/0 n-1"]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let (ground, leaving) = scene(&[
            (0, false, vec![(8, None), (2, None)]),
            (5, false, Vec::new()),
            (9, true, Vec::new()),
        ]);
        let stuck = evacuate(&ground, &leaving, &node(0)).unwrap_err();
        assert_eq!(stuck.slivers.len(), 1, "{stuck:?}");
        let left = &stuck.slivers[0];
        assert_eq!((left.sliver.to_string().as_str(), left.need_mib), ("s0/0", 8));
        assert_eq!(left.missing_mib(), Some((3, &node(1))));
        assert_eq!(left.refusals[&Refusal::Cordoned], [node(2)]);
    }
}
