//! Ten thousand nodes and a hundred thousand slivers in simulated time, with nothing but their paces to keep them apart. What
//! is counted is what a board is asked to write: commits (refused ones too), renewals and grants.

#![expect(clippy::print_stdout, reason = "people want to read what was measured")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;

use super::super::*;

const NODES: usize = 10_000;
const SLIVERS: usize = 100_000;
/// Of a hundred slivers each, ten of which may be down at a time.
const SLICES: usize = 1_000;
const SLOTS: usize = 10;

const S: u64 = 1000;
/// How long it takes until a commit is known to the others: two within it are in each other's way.
const KNOWN_AFTER: u64 = 50;
/// How often something about a sliver changes by itself.
const CHANGE_EVERY: u64 = 3600 * S;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A node's next word: a lease granted or renewed.
    Renew(usize),
    /// A node's turn to write how it is.
    Summary(usize),
    /// Something changed on a node by itself.
    Change(usize),
    /// A sliver may begin.
    Start(usize),
    /// It tries to take a slot; after so many refusals.
    Take(usize, u32),
    /// It is as it should be.
    Finish(usize),
    /// It tries to give its slot back.
    Release(usize, u32),
}

struct Node {
    pace: Pace,
    summary: Summary,
    /// Until when its lease lives, if it has one.
    lease_until: u64,
    failures: u32,
    /// While the board is away: when it is tried again.
    try_again: u64,
}

#[derive(Default)]
struct Slice {
    taken: usize,
    waiting: VecDeque<usize>,
    written: u64,
}

struct World {
    now: u64,
    end: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    nodes: Vec<Node>,
    slices: Vec<Slice>,
    outages: Vec<Range<u64>>,
    /// What each second asked for.
    writes: Vec<u32>,
    refusals: u64,
    finished: usize,
    finished_at: u64,
    draw: Draw,
}

impl World {
    fn new(end_s: u64, outages: &[Range<u64>]) -> Self {
        let node = |n: usize| Node {
            pace: Pace::new(&format!("node-{n:05}"), u32::try_from(NODES).unwrap(), 7),
            summary: Summary::default(),
            lease_until: 0,
            failures: 0,
            try_again: 0,
        };
        let mut world = Self {
            now: 0,
            end: end_s * S,
            events: BinaryHeap::new(),
            count: 0,
            nodes: (0..NODES).map(node).collect(),
            slices: (0..SLICES).map(|_| Slice::default()).collect(),
            outages: outages.to_vec(),
            writes: vec![0; usize::try_from(end_s).unwrap() + 1],
            refusals: 0,
            finished: 0,
            finished_at: 0,
            draw: Draw::new("world", 7),
        };
        for n in 0..NODES {
            // All agents are started in the same moment.
            let arrival = ms(world.nodes[n].pace.until_arrival());
            world.at(arrival, Event::Renew(n));
            let slivers = u64::try_from(SLIVERS / NODES).unwrap();
            let change = ms(world.draw.within(Duration::from_millis(CHANGE_EVERY / slivers)));
            world.at(change, Event::Change(n));
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + ms(wait), event);
    }

    /// A commit that asks every sliver for something else.
    fn push(&mut self, at_s: u64) {
        for sliver in 0..SLIVERS {
            let node = &mut self.nodes[sliver % NODES];
            let start = ms(node.pace.until_start(u32::try_from(SLIVERS).unwrap()));
            let read = ms(self.draw.within(Duration::from_secs(30)));
            self.at(at_s * S + read + start, Event::Start(sliver));
        }
    }

    fn board_is_up(&self) -> bool {
        !self.outages.iter().any(|outage| outage.contains(&(self.now / S)))
    }

    fn wrote(&mut self, writes: u32) {
        let second = usize::try_from(self.now / S).unwrap();
        self.writes[second] += writes;
    }

    /// Whether a node can ask the board for something now; else that is put off to its next try.
    fn reaches(&mut self, n: usize, event: Event) -> bool {
        let up = self.board_is_up();
        let node = &mut self.nodes[n];
        if node.try_again > self.now {
            let again = node.try_again;
            self.at(again, event);
            return false;
        }
        if up {
            node.failures = 0;
            return true;
        }
        node.failures += 1;
        let wait = ms(node.pace.until_retry(node.failures));
        node.try_again = self.now + wait;
        let again = node.try_again;
        self.at(again, event);
        false
    }

    fn run(&mut self) {
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if time >= self.end {
                return;
            }
            self.now = time;
            match event {
                Event::Renew(n) => self.renew(n, event),
                Event::Summary(n) => self.summary(n, event),
                Event::Change(n) => {
                    self.changed(n);
                    let slivers = u32::try_from(SLIVERS / NODES).unwrap();
                    let every = Duration::from_millis(CHANGE_EVERY) / slivers;
                    let next = self.draw.around(every, 90);
                    self.after(next, event);
                }
                Event::Start(sliver) => {
                    let slice = &mut self.slices[sliver % SLICES];
                    slice.waiting.push_back(sliver);
                    self.next_of(sliver % SLICES);
                }
                Event::Take(sliver, refusals) => self.take(sliver, refusals),
                Event::Finish(sliver) => {
                    self.changed(sliver % NODES);
                    self.at(self.now, Event::Release(sliver, 0));
                }
                Event::Release(sliver, refusals) => self.release(sliver, refusals),
            }
        }
    }

    fn renew(&mut self, n: usize, event: Event) {
        if !self.reaches(n, event) {
            return;
        }
        let now = self.now;
        let node = &mut self.nodes[n];
        let renewed = node.lease_until > now;
        node.lease_until = now + ms(node.pace.lease_ttl());
        let wait = node.pace.until_renewal();
        if !renewed {
            // Its first, or one from before a long outage: a grant, and a commit that says all there is to say.
            node.summary.written(now);
        }
        self.wrote(if renewed { 1 } else { 2 });
        self.after(wait, event);
    }

    fn changed(&mut self, n: usize) {
        let now = self.now;
        let Node { pace, summary, .. } = &mut self.nodes[n];
        let before = summary.due_ms();
        summary.changed(now, pace);
        if before.is_none()
            && let Some(due) = summary.due_ms()
        {
            self.at(due, Event::Summary(n));
        }
    }

    fn summary(&mut self, n: usize, event: Event) {
        let now = self.now;
        // Something else may have said it meanwhile; without a lease, the next grant will.
        let node = &self.nodes[n];
        if node.summary.due_ms().is_none_or(|due| due > now) || node.lease_until <= now {
            return;
        }
        if self.reaches(n, event) {
            self.nodes[n].summary.written(now);
            self.wrote(1);
        }
    }

    /// Has the next sliver of a slice try, if there is room.
    fn next_of(&mut self, slice: usize) {
        let record = &mut self.slices[slice];
        if record.taken < SLOTS
            && let Some(sliver) = record.waiting.pop_front()
        {
            record.taken += 1;
            self.at(self.now, Event::Take(sliver, 0));
        }
    }

    /// A compare-and-swap of a slice's record: refused if another was too short ago to be known.
    fn swap(&mut self, sliver: usize) -> bool {
        self.wrote(1);
        let slice = &mut self.slices[sliver % SLICES];
        if slice.written + KNOWN_AFTER > self.now {
            self.refusals += 1;
            return false;
        }
        slice.written = self.now;
        true
    }

    fn take(&mut self, sliver: usize, refusals: u32) {
        let n = sliver % NODES;
        let node = &mut self.nodes[n];
        if node.failures > 0 || !self.outages.is_empty() && !self.board_is_up() {
            // After the outage, those that are left begin anew.
            let left = u32::try_from(SLIVERS - self.finished).unwrap();
            let outage = self
                .outages
                .iter()
                .find(|outage| outage.contains(&(self.now / S)));
            let over = outage.map_or(self.now, |outage| outage.end * S);
            let pace = &mut self.nodes[n].pace;
            let noticed = ms(pace.until_retry(20));
            let wait = ms(pace.until_start(left));
            self.slices[sliver % SLICES].taken -= 1;
            self.at(over + noticed + wait, Event::Start(sliver));
            return;
        }
        if self.swap(sliver) {
            let wait = Duration::from_secs(20) + self.draw.within(Duration::from_secs(40));
            self.after(wait, Event::Finish(sliver));
        } else {
            let wait = self.nodes[n].pace.until_contention(refusals + 1);
            self.after(wait, Event::Take(sliver, refusals + 1));
        }
    }

    fn release(&mut self, sliver: usize, refusals: u32) {
        let n = sliver % NODES;
        if !self.reaches(n, Event::Release(sliver, refusals)) {
            return;
        }
        if self.swap(sliver) {
            self.slices[sliver % SLICES].taken -= 1;
            self.finished += 1;
            self.finished_at = self.now;
            self.next_of(sliver % SLICES);
        } else {
            let wait = self.nodes[n].pace.until_contention(refusals + 1);
            self.after(wait, Event::Release(sliver, refusals + 1));
        }
    }

    /// Average and peak of some seconds.
    fn load(&self, seconds: Range<usize>) -> (u32, u32) {
        let of = &self.writes[seconds];
        let sum: u32 = of.iter().sum();
        (
            sum / u32::try_from(of.len()).unwrap(),
            of.iter().copied().max().unwrap(),
        )
    }
}

fn check(world: &World, what: &str, seconds: Range<usize>, average: Range<u32>) {
    let (mean, peak) = world.load(seconds);
    println!("{what:<50} {mean:>4} writes/s on average, {peak:>4} in the worst second");
    assert!(u64::from(peak) <= WRITES_PER_S_MAX, "{what}: {peak} in a second");
    assert!(average.contains(&mean), "{what}: {mean} on average");
}

#[test]
fn a_large_fleet_asks_little_of_its_board() {
    let mut world = World::new(7200, &[]);
    world.push(3600);
    world.run();
    check(&world, "all agents start at once", 0..900, 20..300);
    check(&world, "at rest", 1200..3600, 20..150);
    check(&world, "a commit changes all slivers", 3600..6000, 100..300);
    assert_eq!(world.finished, SLIVERS);
    println!(
        "which takes {} min, and {} commits were refused",
        (world.finished_at / S - 3600) / 60,
        world.refusals
    );
    assert!(world.finished_at < 7000 * S);
}

#[test]
fn a_large_fleet_comes_back_one_by_one() {
    // Outages that all leases survive, that some do, and that none does.
    let outages = [
        1800..1805,
        2400..2430,
        3000..3060,
        3900..4200,
        5100..5500,
        6600..8400,
    ];
    let mut world = World::new(11_400, &outages);
    world.run();
    check(&world, "after 5 s without the board", 1805..2400, 20..200);
    check(&world, "after 30 s without the board", 2430..3000, 20..200);
    check(&world, "after a minute without the board", 3060..3900, 20..200);
    check(&world, "after 5 min without the board", 4200..5100, 20..200);
    check(&world, "after 7 min without the board", 5500..6600, 20..200);
    check(
        &world,
        "after half an hour without the board",
        8400..9600,
        20..200,
    );
    let leases = world
        .nodes
        .iter()
        .filter(|node| node.lease_until > 11_399 * S)
        .count();
    assert_eq!(leases, NODES, "everybody is back");
}

#[test]
fn nor_does_an_outage_in_the_middle_of_everything_end_in_a_herd() {
    // It comes back for a minute, and is lost again.
    let mut world = World::new(10_800, &[2400..3000, 3060..4200]);
    world.push(1800);
    world.run();
    check(
        &world,
        "all slivers change, until the board is lost",
        1800..2400,
        100..300,
    );
    check(&world, "while it is back for a minute", 3000..3060, 20..300);
    check(&world, "and go on when it is back", 4200..7200, 100..300);
    assert_eq!(world.finished, SLIVERS);
}
