//! In which order the slivers that a commit moves find room where they go, and which of them never do.
//!
//! A sliver goes once the other node has the memory and the ports for it beside all that is there, and leaves its own only once it
//! has arrived. So two that change places between full nodes wait for each other for ever, and each node by itself sees no more
//! than that the other has no room. Seen over the whole fleet it shows before anything moves, and so does a way out: one of
//! them is stopped meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredFleet, DesiredSliver, SliverState, Turn};
use xeno_model::id::{NodeName, SliverId};

use super::place;

/// What comes of the moves of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// What can be done, in an order in which all of it fits.
    pub steps: Vec<Step>,
    /// What cannot, however long it waits.
    pub stuck: Vec<Stuck>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which sliver.
    pub sliver: SliverId,
    /// Where it is before.
    pub from: NodeName,
    /// Where it goes; `None`: it is stopped where it is until its next step.
    pub to: Option<NodeName>,
    /// Memory left there then, in MiB.
    pub left_mib: u64,
    /// The steps, by index, that make the room it needs, or that it was told to wait for.
    pub after: BTreeSet<usize>,
}

/// A sliver that never finds room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub sliver: SliverId,
    /// Where it stays.
    pub from: NodeName,
    /// Where it was to go.
    pub to: NodeName,
    /// What is missing there.
    pub lack: Lack,
}

/// What a node has too little of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Memory.
    Memory {
        /// What the sliver needs, in MiB.
        need_mib: u64,
        /// What is left, in MiB.
        free_mib: u64,
    },
    /// A port that something else there has.
    Port(u16),
    /// Nothing: what the order puts before it does not come about.
    Turn,
}

impl Course {
    /// Whether there is anything about the order that is not plain.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.stuck.is_empty() && self.steps.iter().all(|step| step.after.is_empty())
    }

    /// The steps as a commit says them.
    #[must_use]
    pub fn turns(&self) -> Vec<Turn> {
        let turn = |step: &Step| Turn {
            sliver: step.sliver.clone(),
            from: step.from.clone(),
            to: step.to.clone(),
            after: step.after.iter().copied().collect(),
        };
        self.steps.iter().map(turn).collect()
    }
}

/// What comes of the moves from one commit to another, as agents carry them out: in the order that the commit says, where it says
/// one, and else each once there is room.
#[must_use]
pub fn course(before: &DesiredFleet, after: &DesiredFleet) -> Course {
    let floor = Floor::of(before, after);
    let tasks = tasks(after, &floor);
    floor.play(&tasks)
}

/// An order in which everything goes that is stuck in `course`, with one sliver stopped meanwhile: the smallest that helps. `None`
/// where nothing is stuck, where there is none, and where the commit says an order itself, which is not to be taken from it.
#[must_use]
pub fn way_out(before: &DesiredFleet, after: &DesiredFleet, course: &Course) -> Option<Course> {
    if course.stuck.is_empty() || !after.turns.is_empty() {
        return None;
    }
    let floor = Floor::of(before, after);
    let tasks = tasks(after, &floor);
    let size = |stuck: &&Stuck| floor.seats.get(&stuck.sliver).map(|seat| seat.now.memory_mib);
    let mut candidates: Vec<&Stuck> = course.stuck.iter().collect();
    candidates.sort_by_key(|stuck| (size(stuck), &stuck.sliver));
    candidates.into_iter().find_map(|stuck| {
        let rest = Task {
            sliver: &stuck.sliver,
            from: &stuck.from,
            to: None,
            after: Vec::new(),
        };
        let mut all = vec![rest];
        for task in &tasks {
            all.push(Task {
                after: task.after.iter().map(|index| index + 1).collect(),
                ..task.clone()
            });
        }
        let course = floor.clone().play(&all);
        course.stuck.is_empty().then_some(course)
    })
}

/// What a sliver takes of a node.
#[derive(Clone, Debug)]
struct Load {
    memory_mib: u64,
    ports: BTreeSet<u16>,
}

impl Load {
    fn of(sliver: &DesiredSliver) -> Self {
        if sliver.state != SliverState::Running {
            return Self {
                memory_mib: 0,
                ports: BTreeSet::new(),
            };
        }
        Self {
            memory_mib: sliver.resources.memory.mib(),
            ports: sliver.publish.iter().map(|publish| publish.host).collect(),
        }
    }
}

/// A sliver that moves.
#[derive(Clone, Debug)]
struct Seat<'a> {
    at: &'a NodeName,
    goes_to: &'a NodeName,
    now: Load,
    /// What it takes once it has moved.
    then: Load,
    rests: bool,
}

/// A node: what is left of its memory, and the ports that are taken.
#[derive(Clone, Debug, Default)]
struct Room {
    free_mib: i128,
    ports: BTreeMap<u16, u32>,
}

impl Room {
    fn take(&mut self, load: &Load) {
        self.free_mib -= i128::from(load.memory_mib);
        for port in &load.ports {
            *self.ports.entry(*port).or_default() += 1;
        }
    }

    fn give(&mut self, load: &Load) {
        self.free_mib += i128::from(load.memory_mib);
        for port in &load.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count = count.saturating_sub(1);
            }
        }
    }

    fn left_mib(&self) -> u64 {
        u64::try_from(self.free_mib.max(0)).unwrap_or(u64::MAX)
    }

    fn lack(&self, load: &Load) -> Option<Lack> {
        let taken = |port: &&u16| self.ports.get(port).is_some_and(|count| *count > 0);
        if let Some(port) = load.ports.iter().find(taken) {
            return Some(Lack::Port(*port));
        }
        let short = load.memory_mib > 0 && i128::from(load.memory_mib) > self.free_mib;
        short.then(|| Lack::Memory {
            need_mib: load.memory_mib,
            free_mib: self.left_mib(),
        })
    }
}

/// A move that is to be made, or a stop on the way.
#[derive(Clone, Debug)]
struct Task<'a> {
    sliver: &'a SliverId,
    from: &'a NodeName,
    to: Option<&'a NodeName>,
    /// Which of the tasks come first.
    after: Vec<usize>,
}

/// Everything that has to be done, what the commit orders first.
fn tasks<'a>(after: &'a DesiredFleet, floor: &Floor<'a>) -> Vec<Task<'a>> {
    let mut tasks: Vec<Task<'a>> = Vec::new();
    let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, turn) in after.turns.all().iter().enumerate() {
        // What is where it should be by now has been done, and what leads nowhere counts for nothing.
        if !floor.seats.contains_key(&turn.sliver) || after.turns.way(&turn.sliver).is_empty() {
            continue;
        }
        let first = turn
            .after
            .iter()
            .filter_map(|index| numbers.get(index).copied())
            .collect();
        numbers.insert(index, tasks.len());
        tasks.push(Task {
            sliver: &turn.sliver,
            from: &turn.from,
            to: turn.to.as_ref(),
            after: first,
        });
    }
    let free = floor
        .seats
        .iter()
        .filter(|(sliver, _)| after.turns.way(sliver).is_empty());
    tasks.extend(free.map(|(sliver, seat)| Task {
        sliver,
        from: seat.at,
        to: Some(seat.goes_to),
        after: Vec::new(),
    }));
    tasks
}

/// Who is where.
#[derive(Clone, Debug)]
struct Floor<'a> {
    rooms: BTreeMap<&'a NodeName, Room>,
    /// Of those that move.
    seats: BTreeMap<&'a SliverId, Seat<'a>>,
}

impl<'a> Floor<'a> {
    fn of(before: &'a DesiredFleet, after: &'a DesiredFleet) -> Self {
        let room = |node: &xeno_model::desired::Node| Room {
            free_mib: i128::from(node.memory.mib()),
            ports: BTreeMap::new(),
        };
        let mut floor = Self {
            rooms: after
                .nodes
                .iter()
                .map(|(name, node)| (name, room(node)))
                .collect(),
            seats: BTreeMap::new(),
        };
        let slivers = after.slices.values().flat_map(|slice| slice.slivers.values());
        for (node, sliver) in slivers {
            match place(before, &sliver.id) {
                Some((from, was)) if from != node => {
                    let now = Load::of(was);
                    floor.rooms.entry(from).or_default().take(&now);
                    let seat = Seat {
                        at: from,
                        goes_to: node,
                        now,
                        then: Load::of(sliver),
                        rests: false,
                    };
                    floor.seats.insert(&sliver.id, seat);
                }
                Some(_) | None => floor.rooms.entry(node).or_default().take(&Load::of(sliver)),
            }
        }
        floor
    }

    /// What is missing for a task; `None`: it can be done.
    fn lack(&self, task: &Task<'_>) -> Option<Lack> {
        let seat = self.seats.get(task.sliver)?;
        let room = self.rooms.get(task.to?)?;
        room.lack(&seat.then)
    }

    /// Does it.
    fn carry_out(&mut self, task: &Task<'a>) {
        let Some(seat) = self.seats.get_mut(task.sliver) else {
            return;
        };
        if let Some(room) = self.rooms.get_mut(seat.at).filter(|_| !seat.rests) {
            room.give(&seat.now);
        }
        match task.to {
            None => seat.rests = true,
            Some(to) => {
                seat.rests = false;
                (seat.at, seat.now) = (to, seat.then.clone());
                self.rooms.entry(to).or_default().take(&seat.now);
            }
        }
    }

    /// Does what can be done for as long as anything can.
    fn play(mut self, tasks: &[Task<'a>]) -> Course {
        let begins = self.clone();
        let mut done: BTreeMap<usize, usize> = BTreeMap::new();
        let mut course = Course::default();
        loop {
            let before = done.len();
            for (index, task) in tasks.iter().enumerate() {
                let here = self
                    .seats
                    .get(task.sliver)
                    .is_some_and(|seat| seat.at == task.from);
                // Of one sliver one after the other.
                let mut own = tasks.iter().enumerate().take(index);
                let next =
                    own.all(|(earlier, other)| other.sliver != task.sliver || done.contains_key(&earlier));
                let due = next && task.after.iter().all(|first| done.contains_key(first));
                if done.contains_key(&index) || !here || !due || self.lack(task).is_some() {
                    continue;
                }
                let mut after: BTreeSet<usize> = task
                    .after
                    .iter()
                    .filter_map(|first| done.get(first).copied())
                    .collect();
                if begins.lack(task).is_some() {
                    let frees = |step: &Step| Some(&step.from) == task.to;
                    let frees = course.steps.iter().enumerate().filter(|(_, step)| frees(step));
                    after.extend(frees.map(|(number, _)| number));
                }
                self.carry_out(task);
                let there = task.to.unwrap_or(task.from);
                course.steps.push(Step {
                    sliver: task.sliver.clone(),
                    from: task.from.clone(),
                    to: task.to.cloned(),
                    left_mib: self.rooms.get(there).map_or(0, Room::left_mib),
                    after,
                });
                done.insert(index, course.steps.len() - 1);
            }
            if done.len() == before {
                break;
            }
        }
        for (sliver, seat) in self.seats.iter().filter(|(_, seat)| seat.at != seat.goes_to) {
            let mut next = tasks.iter().enumerate();
            let next = next.find(|(index, task)| task.sliver == *sliver && !done.contains_key(index));
            let lack = next.and_then(|(_, task)| self.lack(task));
            course.stuck.push(Stuck {
                sliver: (*sliver).clone(),
                from: seat.at.clone(),
                to: next.and_then(|(_, task)| task.to).unwrap_or(seat.goes_to).clone(),
                lack: lack.unwrap_or(Lack::Turn),
            });
        }
        course
    }
}

#[cfg(test)]
mod tests;
