//! In which order slivers move so that each fits where it goes when it goes, where others have to make room first.
//!
//! What is looked for is a run of single steps from how things are to a wanted end: a sliver goes to a node that has room for it,
//! or is stopped so that it takes none until its turn comes (which breaks any circle). First by making room only where it is
//! needed, which finds its way in fleets of any size; where that fails, by looking at every end there is at which all fit, those
//! first at which the fewest others are elsewhere, within a bound that small fleets stay below. To every such end there is a
//! way: the worst is that all who have to pass each other rest meanwhile.
//!
//! A sliver comes by each node at most once, so that who holds it says how far it is (`desired::Turns`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::evacuate::{How, Step};
use super::ground::{Ask, Ground};
use super::ledger::Ledger;
use crate::id::SliverId;

/// How many slivers may have to go, one for the other, before one finds its place.
const DEPTH_MAX: u32 = 4;
/// Most slivers that go together to make room for one.
const TOGETHER_MAX: usize = 4;
/// Most tries to make room.
const TRIES_MAX: u32 = 20_000;
/// Most seats that are tried where everything is looked at: under a second.
const ENDS_MAX: u32 = 300_000;

/// A sliver that can move, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Mover<'a> {
    pub(super) sliver: &'a SliverId,
    pub(super) ask: &'a Ask,
    pub(super) home: usize,
}

/// A step, by indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop {
    mover: usize,
    from: usize,
    /// `None`: it rests.
    to: Option<usize>,
}

/// How a mover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seated {
    seat: usize,
    hops: u8,
    rests: bool,
}

/// Most moves of one sliver: aside, and where it goes.
const HOPS_MAX: u8 = 2;

/// What a search comes to.
#[derive(Debug)]
pub(super) enum Found {
    /// These steps.
    Steps(Vec<Step>),
    /// There are none.
    None,
    /// None that were found, and not everything was looked at.
    Unsure,
}

/// Searches for steps after which nothing is on `empty`. `bare` has nothing fixed: `movers` are all slivers, wherever they are.
pub(super) fn search(bare: &Ground, movers: &[Mover<'_>], empty: usize) -> Found {
    let hops = match Room::new(bare, movers, empty).make_room() {
        Some(hops) => Ok(Some(hops)),
        None => Room::new(bare, movers, empty).look_at_everything(),
    };
    match hops {
        Ok(Some(hops)) => Found::Steps(Room::new(bare, movers, empty).steps(&hops)),
        Ok(None) => Found::None,
        Err(TooMany) => Found::Unsure,
    }
}

/// There is more than is looked at.
#[derive(Debug)]
struct TooMany;

/// Who is where, and what is left.
struct Room<'a> {
    ledger: Ledger<'a>,
    movers: &'a [Mover<'a>],
    empty: usize,
    seated: Vec<Seated>,
    tries_left: u32,
    /// Whether nodes differ by nothing but how much they have.
    alike: bool,
    done: Vec<Hop>,
}

impl<'a> Room<'a> {
    fn new(bare: &'a Ground, movers: &'a [Mover<'a>], empty: usize) -> Self {
        let mut ledger = Ledger::new(bare);
        for mover in movers {
            ledger.take(&mover.sliver.slice, mover.ask, mover.sliver.number, mover.home);
        }
        let seated = |mover: &Mover<'_>| Seated {
            seat: mover.home,
            hops: 0,
            rests: false,
        };
        Self {
            ledger,
            seated: movers.iter().map(seated).collect(),
            alike: movers
                .iter()
                .all(|mover| mover.ask.matching.0.is_empty() && mover.ask.size_on.is_empty())
                && bare.sites.is_empty(),
            movers,
            empty,
            tries_left: TRIES_MAX,
            done: Vec::new(),
        }
    }

    fn memory(&self, mover: usize, seat: usize) -> u64 {
        self.movers[mover]
            .ask
            .size(self.ledger.seat(seat).name)
            .memory_mib
    }

    /// Whether a sliver could be on a node if there were room.
    fn could(&mut self, mover: usize, seat: usize) -> bool {
        let Mover { sliver, ask, home } = self.movers[mover];
        let at = self.seated[mover];
        if seat == self.empty || seat == home || seat == at.seat || at.hops >= HOPS_MAX || ask.held {
            return false;
        }
        self.ledger.newly(&sliver.slice, ask, seat).is_none()
    }

    /// Whether it fits there now.
    fn fits(&mut self, mover: usize, seat: usize) -> bool {
        if !self.could(mover, seat) {
            return false;
        }
        let Mover { sliver, ask, .. } = self.movers[mover];
        // What owners of sites count, they count once.
        self.lift(mover);
        let refused = self.ledger.now(&sliver.slice, ask, sliver.number, seat);
        self.put(mover);
        refused.is_none()
    }

    fn lift(&mut self, mover: usize) {
        let Mover { sliver, ask, .. } = self.movers[mover];
        let at = self.seated[mover];
        if at.rests {
            self.ledger.uncount(&sliver.slice, ask.tenant.as_ref(), at.seat);
        } else {
            self.ledger.give(&sliver.slice, ask, sliver.number, at.seat);
        }
    }

    fn put(&mut self, mover: usize) {
        let Mover { sliver, ask, .. } = self.movers[mover];
        let at = self.seated[mover];
        if at.rests {
            self.ledger.count(&sliver.slice, ask.tenant.as_ref(), at.seat);
        } else {
            self.ledger.take(&sliver.slice, ask, sliver.number, at.seat);
        }
    }

    fn set(&mut self, mover: usize, seated: Seated) {
        self.lift(mover);
        self.seated[mover] = seated;
        self.put(mover);
    }

    fn go(&mut self, mover: usize, to: usize) {
        let from = self.seated[mover];
        let there = Seated {
            seat: to,
            hops: from.hops + 1,
            rests: false,
        };
        self.set(mover, there);
        self.done.push(Hop {
            mover,
            from: from.seat,
            to: Some(to),
        });
    }

    /// Takes back what was done since.
    fn back_to(&mut self, mark: usize) {
        while self.done.len() > mark {
            let Some(hop) = self.done.pop() else { return };
            let hops = self.seated[hop.mover].hops.saturating_sub(1);
            self.set(
                hop.mover,
                Seated {
                    seat: hop.from,
                    hops,
                    rests: false,
                },
            );
        }
    }

    /// Finds a place for one after the other, the largest first, and makes room where there is none.
    fn make_room(&mut self) -> Option<Vec<Hop>> {
        let mut leaving: Vec<usize> = (0..self.movers.len())
            .filter(|mover| self.movers[*mover].home == self.empty)
            .collect();
        leaving.sort_by_key(|mover| {
            (
                Reverse(self.memory(*mover, self.empty)),
                self.movers[*mover].sliver,
            )
        });
        for mover in leaving {
            if !self.place(mover, DEPTH_MAX, &mut BTreeSet::new()) {
                return None;
            }
        }
        Some(std::mem::take(&mut self.done))
    }

    /// Brings a sliver away from where it is, without touching the `kept`.
    fn place(&mut self, mover: usize, depth: u32, kept: &mut BTreeSet<usize>) -> bool {
        self.tries_left = self.tries_left.saturating_sub(1);
        if self.tries_left == 0 {
            return false;
        }
        let seats: Vec<usize> = (0..self.ledger.seats().len()).collect();
        let mut free: Vec<usize> = Vec::new();
        let mut full: Vec<usize> = Vec::new();
        for seat in seats {
            if self.fits(mover, seat) {
                free.push(seat);
            } else if self.could(mover, seat) {
                full.push(seat);
            }
        }
        // Where the least is left over afterwards, so that room stays in one piece.
        free.sort_by_key(|seat| (self.ledger.seat(*seat).free_mib(), *seat));
        if let Some(seat) = free.first() {
            self.go(mover, *seat);
            return true;
        }
        if depth == 0 {
            return false;
        }
        full.sort_by_key(|seat| {
            let lacks = self
                .memory(mover, *seat)
                .saturating_sub(self.ledger.seat(*seat).free_mib());
            (lacks, *seat)
        });
        kept.insert(mover);
        let made = full.into_iter().any(|seat| self.clear(mover, seat, depth, kept));
        kept.remove(&mover);
        made
    }

    /// Makes room for a sliver on a node, and brings it there.
    fn clear(&mut self, mover: usize, seat: usize, depth: u32, kept: &mut BTreeSet<usize>) -> bool {
        let need = self
            .memory(mover, seat)
            .saturating_sub(self.ledger.seat(seat).free_mib());
        let mut there: Vec<(u64, usize)> = (0..self.movers.len())
            .filter(|other| self.seated[*other].seat == seat && !kept.contains(other))
            .map(|other| (self.memory(other, seat), other))
            .collect();
        there.sort_unstable();
        // The smallest one that is enough; then ever more of the largest.
        let mut groups: Vec<Vec<usize>> = there
            .iter()
            .filter(|(memory, _)| *memory >= need)
            .map(|(_, other)| vec![*other])
            .collect();
        let largest: Vec<usize> = there.iter().rev().map(|(_, other)| *other).collect();
        groups.extend((2..=TOGETHER_MAX.min(largest.len())).map(|count| largest[..count].to_vec()));
        let mark = self.done.len();
        for group in groups {
            let gone = group.iter().all(|other| self.place(*other, depth - 1, kept));
            // What had to go may have taken the place of what was meant to have it.
            if gone && self.seated[mover].seat != seat && self.fits(mover, seat) {
                self.go(mover, seat);
                return true;
            }
            self.back_to(mark);
            if self.tries_left == 0 {
                return false;
            }
        }
        false
    }

    /// Looks at all ends there are, those first that move the fewest others, and finds an order to the first that is right.
    fn look_at_everything(&mut self) -> Result<Option<Vec<Hop>>, TooMany> {
        let mut order: Vec<usize> = (0..self.movers.len())
            .filter(|mover| self.matters(*mover))
            .collect();
        // What has to go, then the largest: what finds a place the least easily.
        order.sort_by_key(|mover| {
            let home = self.movers[*mover].home;
            (home != self.empty, Reverse(self.memory(*mover, home)), *mover)
        });
        self.tries_left = ENDS_MAX;
        for others in 0..=order.len() {
            for mover in &order {
                self.lift(*mover);
            }
            let mut end = Vec::new();
            let found = self.end(&order, others, &mut end);
            if !found {
                for mover in &order {
                    self.put(*mover);
                }
                if self.tries_left == 0 {
                    return Err(TooMany);
                }
                continue;
            }
            let wanted: BTreeMap<usize, usize> = order.iter().copied().zip(end).collect();
            for (mover, seat) in &wanted {
                let Mover { sliver, ask, .. } = self.movers[*mover];
                self.ledger.give(&sliver.slice, ask, sliver.number, *seat);
            }
            for mover in &order {
                self.put(*mover);
            }
            return self.sequence(&wanted).map(Some).ok_or(TooMany);
        }
        Ok(None)
    }

    /// Whether it makes a difference where a sliver is.
    fn matters(&self, mover: usize) -> bool {
        let Mover { ask, home, .. } = self.movers[mover];
        home == self.empty || self.memory(mover, home) > 0 || !ask.ports.is_empty()
    }

    /// Finds a seat for each of the first of `order`, which are nowhere now, with at most so many `others` elsewhere than before.
    fn end(&mut self, order: &[usize], others: usize, end: &mut Vec<usize>) -> bool {
        let Some((mover, rest)) = order.split_first() else {
            return true;
        };
        let Mover { sliver, ask, home } = self.movers[*mover];
        let goes = home == self.empty;
        // Where it is comes first.
        let mut seats: Vec<usize> = (0..self.ledger.seats().len())
            .filter(|seat| *seat != self.empty)
            .collect();
        seats.sort_by_key(|seat| (*seat != home, self.ledger.seat(*seat).free_mib(), *seat));
        let mut tried: BTreeSet<u64> = BTreeSet::new();
        for seat in seats {
            let stays = seat == home;
            if !stays && (ask.held || (!goes && others == 0)) {
                continue;
            }
            let never = !stays && self.ledger.newly(&sliver.slice, ask, seat).is_some();
            if never || self.ledger.now(&sliver.slice, ask, sliver.number, seat).is_some() {
                continue;
            }
            if self.tries_left == 0 {
                return false;
            }
            self.tries_left -= 1;
            // An empty node is as good as another of that size.
            let left = self.ledger.seat(seat).free_mib();
            if self.alike && !stays && self.ledger.seat(seat).used_mib() == 0 && !tried.insert(left) {
                continue;
            }
            self.ledger.take(&sliver.slice, ask, sliver.number, seat);
            end.push(seat);
            if self.end(rest, others - usize::from(!stays && !goes), end) {
                return true;
            }
            end.pop();
            self.ledger.give(&sliver.slice, ask, sliver.number, seat);
        }
        false
    }

    /// The steps to a wanted end at which all fit. There always are some: what rests is in nobody's way.
    fn sequence(&mut self, wanted: &BTreeMap<usize, usize>) -> Option<Vec<Hop>> {
        loop {
            let pending: Vec<usize> = wanted
                .iter()
                .filter(|(mover, seat)| self.seated[**mover].seat != **seat)
                .map(|(mover, _)| *mover)
                .collect();
            if pending.is_empty() {
                return Some(std::mem::take(&mut self.done));
            }
            if let Some(mover) = pending.iter().find(|mover| self.fits(**mover, wanted[*mover])) {
                self.go(*mover, wanted[mover]);
                continue;
            }
            // Nothing goes where it is to be: something in the way goes aside, or rests, the smallest that is enough.
            let mut ways: Vec<(u64, usize)> = pending
                .iter()
                .filter(|mover| {
                    let at = self.seated[**mover];
                    at.seat != self.empty && !at.rests && wanted.values().any(|seat| *seat == at.seat)
                })
                .map(|mover| (self.memory(*mover, self.seated[*mover].seat), *mover))
                .collect();
            ways.sort_unstable();
            let aside = ways.iter().find_map(|(_, mover)| {
                let spares = 0..self.ledger.seats().len();
                let first = self.seated[*mover].hops == 0 && self.helps(*mover, &pending, wanted);
                let mut spares = spares.filter(|seat| first && *seat != wanted[mover]);
                spares
                    .find(|seat| self.fits(*mover, *seat))
                    .map(|seat| (*mover, seat))
            });
            if let Some((mover, seat)) = aside {
                self.go(mover, seat);
                continue;
            }
            let rests = ways
                .iter()
                .find(|(_, mover)| self.helps(*mover, &pending, wanted));
            let (_, mover) = *rests.or(ways.last())?;
            let at = self.seated[mover];
            self.set(mover, Seated { rests: true, ..at });
            self.done.push(Hop {
                mover,
                from: at.seat,
                to: None,
            });
        }
    }

    /// Whether something could go on if a sliver were not in the way.
    fn helps(&mut self, mover: usize, pending: &[usize], wanted: &BTreeMap<usize, usize>) -> bool {
        let seat = self.seated[mover].seat;
        self.lift(mover);
        let found = pending
            .iter()
            .any(|other| *other != mover && wanted[other] == seat && self.fits(*other, seat));
        self.put(mover);
        found
    }

    /// The steps for people and agents: what each takes, what is left, and which come first.
    fn steps(&mut self, hops: &[Hop]) -> Vec<Step> {
        let tight = self.tight(hops);
        let mut steps: Vec<Step> = Vec::new();
        let mut first: Vec<BTreeSet<usize>> = Vec::new();
        for (index, hop) in hops.iter().enumerate() {
            let at = hop.to.unwrap_or(hop.from);
            match hop.to {
                Some(to) => self.go(hop.mover, to),
                None => {
                    let rests = Seated {
                        rests: true,
                        ..self.seated[hop.mover]
                    };
                    self.set(hop.mover, rests);
                }
            }
            let sited = |seat: usize| self.ledger.seat(seat).site;
            let before = hops[..index].iter().enumerate().filter(|(_, other)| {
                let touches = other.from == at || other.to == Some(at);
                let counted = tight.sites.contains(&sited(at)) && sited(other.from) == sited(at);
                other.mover != hop.mover && ((tight.seats.contains(&at) && touches) || counted)
            });
            let before: BTreeSet<usize> = before.map(|(index, _)| index).collect();
            // What comes before one of them comes before this too. Nobody sees of others that they rest.
            let implied: BTreeSet<usize> = before
                .iter()
                .filter(|index| hops[**index].to.is_some())
                .flat_map(|index| first[*index].iter().copied())
                .collect();
            first.push(before.union(&implied).copied().collect());
            steps.push(Step {
                after: before.difference(&implied).copied().collect(),
                sliver: self.movers[hop.mover].sliver.clone(),
                from: self.ledger.seat(hop.from).name.clone(),
                how: match hop.to {
                    Some(to) => How::Goes(self.ledger.seat(to).name.clone()),
                    None => How::Rests,
                },
                memory_mib: hop.to.map_or(0, |to| self.memory(hop.mover, to)),
                left_mib: self.ledger.seat(at).free_mib(),
            });
        }
        steps
    }

    /// Where not all fit at once that are there or come, so that their order matters.
    fn tight(&self, hops: &[Hop]) -> Tight {
        let mut tight = Tight::default();
        for seat in 0..self.ledger.seats().len() {
            let coming: Vec<usize> = hops
                .iter()
                .filter(|hop| hop.to == Some(seat))
                .map(|hop| hop.mover)
                .collect();
            let memory: u64 = coming.iter().map(|mover| self.memory(*mover, seat)).sum();
            let mut ports: BTreeSet<u16> = BTreeSet::new();
            let there = (0..self.movers.len()).filter(|mover| self.movers[*mover].home == seat);
            let free = there.chain(coming).all(|mover| {
                let Mover { sliver, ask, .. } = self.movers[mover];
                let mut own = ask.ports(sliver.number);
                own.all(|port| ports.insert(port))
            });
            if memory > self.ledger.seat(seat).free_mib() || !free {
                tight.seats.insert(seat);
            }
        }
        let capped = (0..self.ledger.seats().len()).map(|seat| self.ledger.seat(seat).site);
        tight.sites = capped.filter(|site| self.ledger.counts(*site)).collect();
        tight
    }
}

#[derive(Default)]
struct Tight {
    seats: BTreeSet<usize>,
    sites: BTreeSet<usize>,
}
