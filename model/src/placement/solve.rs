//! The placement itself, in four steps: what may stay stays, what a full node cannot hold leaves it, what has no place
//! gets one, and, if asked, what lies unevenly is spread.
//!
//! All slices are placed together, since they share nodes. No step looks at anything but its ordered inputs, so the same
//! ground gives the same places everywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::ground::{Ask, Ground, Spread};
use super::ledger::Ledger;
use super::outcome::{Move, Placed, Refusal, Shortage, Why};
use super::score;
use crate::id::{NodeName, SliceName};

/// How much a placement changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Only what has to: a lock that this changes is stale.
    Needed,
    /// Also what spreads slivers more evenly, within each slice's budget of moves.
    Even,
}

/// Most times that all slices are looked at to spread them: one may make room for another. Where this ends it early,
/// slivers lie less evenly than they could, and the next run goes on.
const ROUNDS_MAX: usize = 8;

/// Places every slice that is to be placed and not [held](Ask::held).
///
/// # Shape
/// No node is given more memory than it has, other than by [`Ground::fixed`] and by held slices; no port twice; nothing
/// that a site does not allow. With [`Effort::Needed`], what a result says placed again with it as
/// [previous](Ask::previous) gives no [move](Placed::moves).
///
/// # Errors
/// For each slice with slivers that have no place, what stands in the way.
#[must_use]
pub fn place(ground: &Ground, effort: Effort) -> BTreeMap<SliceName, Result<Placed, Shortage>> {
    let mut solver = Solver {
        ledger: Ledger::new(ground),
        jobs: ground.asks.iter().map(Job::new).collect(),
    };
    solver.stay();
    solver.leave_full_nodes();
    solver.find_places();
    if effort == Effort::Even {
        solver.even_out();
    }
    let placed = solver.jobs.into_iter().filter(|job| !job.ask.held);
    placed
        .map(|job| (job.slice.clone(), job.result(&solver.ledger)))
        .collect()
}

struct Solver<'a> {
    ledger: Ledger<'a>,
    jobs: Vec<Job<'a>>,
}

/// One slice being placed.
struct Job<'a> {
    slice: &'a SliceName,
    ask: &'a Ask,
    seed: u64,
    /// Seats by number.
    seats: BTreeMap<u32, usize>,
    /// Why slivers are not where the previous lock has them.
    why: BTreeMap<u32, Why>,
    /// Slivers that could have stayed and were moved only to spread them.
    moved: BTreeSet<u32>,
    more: bool,
    shortage: Option<Shortage>,
}

impl<'a> Job<'a> {
    fn new((slice, ask): (&'a SliceName, &'a Ask)) -> Self {
        Self {
            slice,
            ask,
            seed: score::seed("slice", slice.as_str()),
            seats: BTreeMap::new(),
            why: BTreeMap::new(),
            moved: BTreeSet::new(),
            more: false,
            shortage: None,
        }
    }

    fn result(self, ledger: &Ledger<'_>) -> Result<Placed, Shortage> {
        if let Some(shortage) = self.shortage {
            return Err(shortage);
        }
        let name = |seat: usize| ledger.seat(seat).name.clone();
        let slivers: BTreeMap<u32, NodeName> = self.seats.iter().map(|(n, seat)| (*n, name(*seat))).collect();
        let numbers: BTreeSet<u32> = self.ask.previous.keys().chain(slivers.keys()).copied().collect();
        let moved = |number: u32| {
            let (from, to) = (
                self.ask.previous.get(&number).cloned(),
                slivers.get(&number).cloned(),
            );
            let why = self.why.get(&number).cloned().unwrap_or(Why::New);
            (from != to).then_some(Move {
                number,
                from,
                to,
                why,
            })
        };
        let moves = numbers.into_iter().filter_map(moved).collect();
        Ok(Placed {
            slivers,
            moves,
            more: self.more,
        })
    }

    /// Memory of a sliver where that is most.
    fn size_max(&self) -> u64 {
        let others = self.ask.size_on.values().map(|size| size.memory_mib);
        others.fold(self.ask.size.memory_mib, u64::max)
    }

    fn score(&self, ledger: &Ledger<'_>, number: u32, seat: usize) -> u64 {
        score::pair(score::sliver(self.seed, number), ledger.seat(seat).seed)
    }

    /// Moves left that only spread slivers.
    fn budget(&self) -> usize {
        let max = self
            .ask
            .moves_max
            .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        max.saturating_sub(self.moved.len())
    }
}

impl<'a> Solver<'a> {
    /// Everything that may be where it is stays there, memory aside.
    fn stay(&mut self) {
        // What is not to be touched comes first: others give way to it.
        let (held, free): (Vec<_>, Vec<_>) = self.jobs.iter_mut().partition(|job| job.ask.held);
        for job in held.into_iter().chain(free) {
            for (number, node) in &job.ask.previous {
                let wanted = *number < job.ask.replicas;
                let Some(seat) = self.ledger.find(node) else {
                    let why = if wanted {
                        Why::NodeGone
                    } else {
                        Why::Fewer(job.ask.replicas)
                    };
                    job.why.insert(*number, why);
                    continue;
                };
                if !job.ask.held {
                    let refused = || {
                        let never = self.ledger.never(job.slice, job.ask, seat);
                        never.or_else(|| self.ledger.crowded(job.slice, job.ask, *number, seat))
                    };
                    let why = if wanted {
                        refused().map(Why::Refused)
                    } else {
                        Some(Why::Fewer(job.ask.replicas))
                    };
                    if let Some(why) = why {
                        job.why.insert(*number, why);
                        continue;
                    }
                }
                self.ledger.take(job.slice, job.ask, *number, seat);
                job.seats.insert(*number, seat);
            }
        }
    }

    /// As few slivers as possible leave a node that cannot hold all of them, and of those ways the one that moves the
    /// least memory last: while no single sliver is enough the largest goes, then the smallest that is.
    fn leave_full_nodes(&mut self) {
        let over: BTreeSet<usize> = (0..self.ledger.seats().len())
            .filter(|seat| self.ledger.seat(*seat).over_mib() > 0)
            .collect();
        if over.is_empty() {
            return;
        }
        /// Memory, index of the job, number.
        type Sitting = (u64, usize, u32);
        let mut sitting: BTreeMap<usize, BTreeSet<Sitting>> = BTreeMap::new();
        for (index, job) in self.jobs.iter().enumerate().filter(|(_, job)| !job.ask.held) {
            for (number, seat) in job.seats.iter().filter(|(_, seat)| over.contains(seat)) {
                let need = job.ask.size(self.ledger.seat(*seat).name).memory_mib;
                sitting.entry(*seat).or_default().insert((need, index, *number));
            }
        }
        for (seat, mut sitting) in sitting {
            loop {
                let too_much = self.ledger.seat(seat).over_mib();
                if too_much == 0 {
                    break;
                }
                // Of equal ones, those of the last slice with the highest numbers go.
                let enough = sitting.range((too_much, 0, 0)..).next().copied();
                let size = enough.map_or(u64::MAX, |(size, _, _)| size);
                let Some(leaving) = sitting
                    .range(..=(size, usize::MAX, u32::MAX))
                    .next_back()
                    .copied()
                else {
                    // What is left belongs to slivers that stay in any case.
                    break;
                };
                let (need_mib, index, number) = leaving;
                if need_mib == 0 {
                    break;
                }
                sitting.remove(&leaving);
                let job = &mut self.jobs[index];
                self.ledger.give(job.slice, job.ask, number, seat);
                job.seats.remove(&number);
                let free_mib = self.ledger.seat(seat).free_mib();
                job.why
                    .insert(number, Why::Refused(Refusal::NoRoom { need_mib, free_mib }));
            }
        }
    }

    /// Places what has no place, the largest first.
    fn find_places(&mut self) {
        let mut order: Vec<usize> = (0..self.jobs.len()).collect();
        order.retain(|index| {
            let job = &self.jobs[*index];
            !job.ask.held && (0..job.ask.replicas).any(|number| !job.seats.contains_key(&number))
        });
        order.sort_by_key(|index| std::cmp::Reverse(self.jobs[*index].size_max()));
        for index in order {
            let job = &mut self.jobs[index];
            let mut chart = Chart::new(&self.ledger, job);
            let missing: Vec<u32> = (0..job.ask.replicas)
                .filter(|number| !job.seats.contains_key(number))
                .collect();
            let mut unplaced = Vec::new();
            for number in missing {
                match chart.best(&self.ledger, job, number, u32::MAX) {
                    Some(seat) => {
                        self.ledger.take(job.slice, job.ask, number, seat);
                        job.seats.insert(number, seat);
                        chart.enter(&self.ledger, seat);
                    }
                    None => unplaced.push(number),
                }
            }
            if let Some(first) = unplaced.first().copied() {
                job.shortage = Some(shortage(&self.ledger, job, first, unplaced));
            }
        }
    }

    /// Moves slivers from where many of their slice are to where at least two fewer are, until there is no such place.
    fn even_out(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for job in &mut self.jobs {
                let spread = job.ask.spread != Spread::None && job.ask.replicas > 1;
                if spread && !job.ask.held && job.shortage.is_none() {
                    moved |= even_out(&mut self.ledger, job);
                }
            }
            if !moved {
                break;
            }
        }
    }
}

/// Whether anything moved.
fn even_out<'a>(ledger: &mut Ledger<'a>, job: &mut Job<'a>) -> bool {
    let mut chart = Chart::new(ledger, job);
    let mut moved = false;
    // Slivers that may yet move, by domain.
    let mut movable: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
    for (number, seat) in &job.seats {
        movable
            .entry(chart.domain(ledger, *seat))
            .or_default()
            .insert(*number);
    }
    job.more = false;
    loop {
        // The fullest domain; of equal ones the one that chance puts first, which is not always the first by name.
        let fullest = movable.iter().filter(|(_, numbers)| !numbers.is_empty());
        let fullest = fullest.max_by_key(|(domain, _)| {
            (
                chart.count(**domain),
                score::pair(job.seed, u64::try_from(**domain).unwrap_or(0)),
            )
        });
        let Some((domain, numbers)) = fullest else { break };
        let domain = *domain;
        let there = chart.count(domain);
        if there < chart.least().saturating_add(2) {
            break;
        }
        // First those that have to go somewhere else in any case, then those that fit worst.
        let kept = |number: u32| !job.why.contains_key(&number) && job.ask.previous.contains_key(&number);
        let costs = |number: u32| kept(number) && !job.moved.contains(&number);
        let leaving = numbers.iter().copied().min_by_key(|number| {
            let seat = job.seats[number];
            (costs(*number), job.score(ledger, *number, seat))
        });
        let Some(number) = leaving else { break };
        let seat = job.seats[&number];
        ledger.give(job.slice, job.ask, number, seat);
        chart.leave(ledger, seat);
        let target = chart.best(ledger, job, number, there - 1);
        let allowed = !costs(number) || job.budget() > 0;
        let new = target.filter(|_| allowed).unwrap_or(seat);
        ledger.take(job.slice, job.ask, number, new);
        chart.enter(ledger, new);
        if new == seat {
            job.more |= target.is_some();
            let numbers = movable.entry(domain).or_default();
            // Without ports, one is as good as another.
            if target.is_none() && job.ask.ports.is_empty() {
                numbers.clear();
            } else {
                numbers.remove(&number);
            }
            continue;
        }
        moved = true;
        if kept(number) {
            job.moved.insert(number);
        }
        job.seats.insert(number, new);
        let to = chart.domain(ledger, new);
        let here = chart.count(to);
        if job.moved.contains(&number) {
            job.why.insert(
                number,
                Why::Even {
                    over: job.ask.spread,
                    there,
                    here,
                },
            );
        }
        movable.entry(domain).or_default().remove(&number);
        movable.entry(to).or_default().insert(number);
    }
    moved
}

/// Where the slivers of one slice are, and where they may be.
struct Chart {
    /// Seats that are never out of the question, with what a sliver needs there.
    candidates: Vec<(usize, u64)>,
    spread: Spread,
    at_node: Vec<u32>,
    at_site: Vec<u32>,
    domains: BTreeSet<usize>,
}

impl Chart {
    fn new(ledger: &Ledger<'_>, job: &Job<'_>) -> Self {
        let seats = 0..ledger.seats().len();
        let candidates: Vec<(usize, u64)> = seats
            .filter(|seat| ledger.newly(job.slice, job.ask, *seat).is_none())
            .map(|seat| (seat, job.ask.size(ledger.seat(seat).name).memory_mib))
            .collect();
        let mut chart = Self {
            candidates,
            spread: job.ask.spread,
            at_node: vec![0; ledger.seats().len()],
            at_site: vec![0; ledger.sites_len()],
            domains: BTreeSet::new(),
        };
        chart.domains = chart
            .candidates
            .iter()
            .map(|(seat, _)| chart.domain(ledger, *seat))
            .collect();
        for seat in job.seats.values() {
            chart.enter(ledger, *seat);
        }
        chart
    }

    /// What a seat is part of, of that which slivers are spread over.
    fn domain(&self, ledger: &Ledger<'_>, seat: usize) -> usize {
        match self.spread {
            Spread::Site => ledger.seat(seat).site,
            Spread::Node => seat,
            Spread::None => 0,
        }
    }

    fn count(&self, domain: usize) -> u32 {
        match self.spread {
            Spread::Site => self.at_site[domain],
            Spread::Node => self.at_node[domain],
            Spread::None => 0,
        }
    }

    /// How many slivers the emptiest domain has.
    fn least(&self) -> u32 {
        self.domains
            .iter()
            .map(|domain| self.count(*domain))
            .min()
            .unwrap_or(0)
    }

    fn enter(&mut self, ledger: &Ledger<'_>, seat: usize) {
        self.at_node[seat] += 1;
        self.at_site[ledger.seat(seat).site] += 1;
    }

    fn leave(&mut self, ledger: &Ledger<'_>, seat: usize) {
        self.at_node[seat] -= 1;
        self.at_site[ledger.seat(seat).site] -= 1;
    }

    /// The best seat for a sliver, of those whose domain has fewer than `below` slivers: where the fewest of its slice
    /// are, and among those the one with the highest score.
    fn best(&self, ledger: &Ledger<'_>, job: &Job<'_>, number: u32, below: u32) -> Option<usize> {
        let sliver = score::sliver(job.seed, number);
        let mut best: Option<((u32, u32, u64), usize)> = None;
        for (index, need_mib) in &self.candidates {
            let seat = ledger.seat(*index);
            if *need_mib > seat.free_mib() {
                continue;
            }
            let score = u64::MAX - score::pair(sliver, seat.seed);
            let key = match self.spread {
                Spread::Site => (self.at_site[seat.site], self.at_node[*index], score),
                Spread::Node => (self.at_node[*index], 0, score),
                Spread::None => (0, 0, score),
            };
            // The dearest question last.
            if key.0 < below
                && best.is_none_or(|(least, _)| key < least)
                && ledger.crowded(job.slice, job.ask, number, *index).is_none()
            {
                best = Some((key, *index));
            }
        }
        best.map(|(_, seat)| seat)
    }
}

fn shortage(ledger: &Ledger<'_>, job: &Job<'_>, first: u32, unplaced: Vec<u32>) -> Shortage {
    let mut refusals: BTreeMap<Refusal, Vec<NodeName>> = BTreeMap::new();
    let mut need_mib = u64::MAX;
    for (index, seat) in ledger.seats().iter().enumerate() {
        let never = ledger.newly(job.slice, job.ask, index);
        let refusal = never.or_else(|| ledger.now(job.slice, job.ask, first, index));
        if let Some(Refusal::NoRoom { need_mib: need, .. }) = &refusal {
            need_mib = need_mib.min(*need);
        }
        if let Some(refusal) = refusal {
            refusals.entry(refusal).or_default().push(seat.name.clone());
        }
    }
    Shortage {
        slice: job.slice.clone(),
        replicas: job.ask.replicas,
        unplaced,
        need_mib: if need_mib == u64::MAX {
            job.ask.size.memory_mib
        } else {
            need_mib
        },
        matching: job.ask.matching.clone(),
        nodes: ledger.seats().len(),
        refusals,
    }
}
