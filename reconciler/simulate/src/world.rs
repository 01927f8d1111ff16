//! The world: all nodes, the repository, and what happens next.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use xeno_model::desired::{ByNode, DesiredFleet, DesiredSliver, HypervisorKind, Slice, Whereabouts};
use xeno_model::id::{Digest, Epoch, NodeName, Revision, SliceName, SliverId, Timestamp};
use xeno_model::normal::{boot_digest, rollout_revision};
use xeno_reconciler::change::ChangeClass;
use xeno_reconciler::rollout::{RolloutKey, Signed, begin};
use xeno_reconciler::tenure::{BootId, Holder};

use crate::approving::Approvals;
use crate::board::{Ask, Board, Shared};
use crate::draw::Draw;
use crate::fault::Trouble;
use crate::fleet::Commit;
use crate::moves::{Link, Passing};
use crate::node::Node;
use crate::queue::Queue;
use crate::reach::Reach;
use crate::rights::{HolderAsk, movers};
use crate::safety::{Broken, Safety};
use crate::story::Story;
use crate::trace::Trace;

/// The wall clock at the beginning: a Monday morning in November 2026, in milliseconds since 1970.
pub const BEGIN_MS: u64 = 1_795_420_800_000;

/// How often a node asks for news of the repository.
pub(crate) const POLL_MS: u64 = 30_000;

/// How often it is looked whether everything is as it should be.
const CHECK_MS: u64 = 600_000;

/// A commit, as nodes look at it.
pub(crate) struct View<'a> {
    pub(crate) revision: &'a Revision,
    pub(crate) commit: &'a Commit,
    pub(crate) by_node: ByNode<'a>,
    /// Where its nodes are.
    pub(crate) whereabouts: BTreeMap<NodeName, Arc<Whereabouts>>,
    /// Its slices, by their number, and the nodes that their slivers are on.
    pub(crate) slices: Vec<Option<&'a Slice>>,
    pub(crate) places: Vec<BTreeMap<u32, usize>>,
    /// The same nodes, each once.
    pub(crate) on: Vec<BTreeSet<usize>>,
    /// What it asks each slice to be, by the slice's number.
    pub(crate) keys: BTreeMap<usize, RolloutKey>,
    /// Which slivers this commit makes different from the one before, and on which nodes.
    pub(crate) touches: BTreeMap<usize, BTreeSet<SliverId>>,
    /// How many slivers those are.
    pub(crate) touched: u32,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A commit is in the repository.
    Pushed(usize),
    /// A node asks the repository for news.
    Poll(usize),
    /// A node has read a commit.
    Read { node: usize, head: usize },
    /// A sliver's turn has come to begin what a commit asks for.
    Start { node: usize, sliver: SliverId },
    /// A node looks at the rollouts of its slivers.
    Consider(usize),
    /// The time of a sliver of a node's may be over that is on its way.
    Overdue(usize),
    /// The witnesses of a slice look at its rollout.
    Witness(usize),
    /// A node writes to the board how its slivers are.
    Say(usize),
    /// Something that was asked arrives at the board.
    Asked(Box<Ask>),
    /// A node has the board's answer, or has given up waiting for it.
    Answered { node: usize, slice: usize, done: bool },
    /// A change of a holder that was asked arrives at the board.
    AskedHolder(Box<HolderAsk>),
    /// A node hears that the holder of a sliver is another.
    Hears { node: usize, sliver: SliverId },
    /// A step about the right to run a sliver has ended.
    Stepped {
        node: usize,
        sliver: SliverId,
        number: u32,
    },
    /// Something comes to pass between the two ends of a move.
    Passing { link: u64, what: Passing },
    /// An end of a move hears that its line is gone.
    HungUp {
        node: usize,
        link: u64,
        sliver: SliverId,
        why: String,
    },
    /// A node reaches the board again.
    Arrives { node: usize, number: u64 },
    /// A lease runs out.
    LeaseEnds { node: usize, number: u64 },
    /// A node looks at itself, and does what is to be done.
    Turn(usize),
    /// An action of a run has ended.
    Ended { node: usize, run: u32, action: usize },
    /// A person looks what waits for approval.
    Person,
    /// A node hears that something of it was approved.
    Granted(usize),
    /// A fault begins.
    Begins(usize),
    /// A fault ends.
    Ends(usize),
}

/// The simulated fleet.
pub(crate) struct World<'a> {
    pub(crate) story: &'a Story,
    pub(crate) now: u64,
    pub(crate) queue: Queue<Event>,
    pub(crate) views: Vec<View<'a>>,
    /// The newest commit in the repository.
    pub(crate) head: usize,
    pub(crate) nodes: Vec<Node>,
    pub(crate) by_name: BTreeMap<NodeName, usize>,
    pub(crate) slices: Vec<SliceName>,
    /// The slices that have slivers on each node, in any commit.
    pub(crate) slices_of: Vec<BTreeSet<usize>>,
    pub(crate) board: Board,
    pub(crate) approvals: Approvals,
    /// Slivers that change nodes, and the nodes that they come by.
    pub(crate) movers: BTreeMap<SliverId, BTreeSet<usize>>,
    /// The same by node.
    pub(crate) movers_on: Vec<BTreeSet<SliverId>>,
    /// Whose records each node reads, and by whom each is read: those that come by, and those that they wait for.
    pub(crate) followed_by: Vec<BTreeSet<SliverId>>,
    pub(crate) followers: BTreeMap<SliverId, BTreeSet<usize>>,
    /// Moves under way, and how many there were.
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) links_made: u64,
    /// Slivers that have gone to another node.
    pub(crate) moved: BTreeSet<SliverId>,
    /// What never becomes healthy: which sliver, booted as what.
    pub(crate) bad: BTreeSet<(SliverId, Digest)>,
    /// Faults of the whole fleet that last.
    pub(crate) lasting: BTreeSet<usize>,
    pub(crate) safety: Safety,
    pub(crate) reach: Reach,
    pub(crate) trace: Trace,
    pub(crate) draw: Draw,
    /// Whether some fault never ends.
    pub(crate) for_ever: bool,
    /// In which way each sliver changed last.
    pub(crate) classes: BTreeMap<SliverId, ChangeClass>,
    /// Events so far.
    pub(crate) events: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(story: &'a Story) -> Self {
        let draw = Draw::new(story.seed);
        let commits: Vec<&Commit> = std::iter::once(&story.before)
            .chain(story.pushes.iter().map(|(_, commit)| commit))
            .collect();
        let names: BTreeSet<&NodeName> = commits
            .iter()
            .flat_map(|commit| commit.fleet.nodes.keys())
            .collect();
        let many = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let by_name: BTreeMap<NodeName, usize> = names
            .iter()
            .enumerate()
            .map(|(n, name)| ((*name).clone(), n))
            .collect();
        let nodes = names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                Node::new(
                    name,
                    many,
                    story.seed,
                    draw.fork(u64::try_from(n).unwrap_or(0) + 1),
                )
            })
            .collect();
        let slices: BTreeSet<SliceName> = commits
            .iter()
            .flat_map(|commit| commit.fleet.slices.keys().cloned())
            .collect();
        let slices: Vec<SliceName> = slices.into_iter().collect();
        let mut views: Vec<View<'a>> = Vec::new();
        for commit in &commits {
            let before = views.last();
            let keys = keys(commit, before, &slices);
            let touches = before
                .map(|before| touches(before, commit, &keys, &slices, &by_name))
                .unwrap_or_default();
            let slivers: BTreeSet<&SliverId> = touches.values().flatten().collect();
            let fleet: Vec<Option<&Slice>> = slices
                .iter()
                .map(|name| commit.fleet.slices.get(name).map(Arc::as_ref))
                .collect();
            let places = fleet.iter().map(|slice| {
                let slivers = slice.iter().flat_map(|slice| &slice.slivers);
                let on = |(number, (node, _)): (&u32, &(NodeName, _))| Some((*number, *by_name.get(node)?));
                slivers.filter_map(on).collect()
            });
            let places: Vec<BTreeMap<u32, usize>> = places.collect();
            views.push(View {
                on: places.iter().map(|on| on.values().copied().collect()).collect(),
                places,
                slices: fleet,
                revision: &commit.revision,
                commit,
                by_node: commit.fleet.by_node(),
                whereabouts: commit.fleet.whereabouts(),
                keys,
                touched: u32::try_from(slivers.len()).unwrap_or(u32::MAX),
                touches,
            });
        }
        let mut slices_of = vec![BTreeSet::new(); names.len()];
        for (number, name) in slices.iter().enumerate() {
            let of = commits.iter().filter_map(|commit| commit.fleet.slices.get(name));
            for (node, _) in of.flat_map(|slice| slice.slivers.values()) {
                if let Some(n) = by_name.get(node) {
                    slices_of[*n].insert(number);
                }
            }
        }
        let movers = movers(commits.iter().copied(), &by_name);
        let mut movers_on = vec![BTreeSet::new(); names.len()];
        for (sliver, on) in &movers {
            for n in on {
                movers_on[*n].insert(sliver.clone());
            }
        }
        let mut followed_by = movers_on.clone();
        for turns in commits.iter().map(|commit| &commit.fleet.turns) {
            for name in turns
                .slivers()
                .flat_map(|sliver| turns.way(sliver))
                .collect::<BTreeSet<_>>()
            {
                if let Some(n) = by_name.get(name) {
                    followed_by[*n].extend(turns.watched(name));
                }
            }
        }
        let mut followers: BTreeMap<SliverId, BTreeSet<usize>> = BTreeMap::new();
        for (n, slivers) in followed_by.iter().enumerate() {
            for sliver in slivers {
                followers.entry(sliver.clone()).or_default().insert(n);
            }
        }
        let mut world = Self {
            movers,
            movers_on,
            followed_by,
            followers,
            links: BTreeMap::new(),
            links_made: 0,
            moved: BTreeSet::new(),
            story,
            now: 0,
            queue: Queue::default(),
            views,
            head: 0,
            nodes,
            by_name,
            board: Board {
                slices: slices.iter().map(|_| Shared::default()).collect(),
                ..Board::default()
            },
            approvals: Approvals::default(),
            slices,
            slices_of,
            bad: BTreeSet::new(),
            lasting: BTreeSet::new(),
            safety: Safety::default(),
            reach: Reach::default(),
            trace: Trace::default(),
            draw: draw.fork(0xdead),
            for_ever: story.faults.iter().any(|fault| fault.until_ms == u64::MAX),
            classes: BTreeMap::new(),
            events: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let budget = self.story.before.fleet.delete_budget;
        self.safety.delete_budget = (budget.slivers, budget.window.0);
        let signed = Signed {
            at: Timestamp(BEGIN_MS),
            by: "before",
        };
        for (number, key) in &self.views[0].keys {
            let slice = self.views[0].commit.fleet.slices.get(&self.slices[*number]);
            let first = slice.and_then(|slice| slice.slivers.values().next());
            if let Some((_, first)) = first {
                let record = Arc::new(begin(None, key.clone(), &first.rollout, true, signed));
                self.board.records.put_if(0, *number, record, &mut self.board.at);
            }
        }
        let placed = self.views[0]
            .commit
            .fleet
            .slices
            .values()
            .flat_map(|slice| slice.slivers.values());
        for (node, sliver) in placed {
            let Some(n) = self.by_name.get(node) else { continue };
            self.trace.begin.push((*n, sliver.id.clone()));
            if self.movers.contains_key(&sliver.id) {
                let holder = Holder {
                    node: Some(node.clone()),
                    boot: BootId::default(),
                    epoch: Epoch(1),
                    memory: None,
                    failover: false,
                };
                let board = &mut self.board;
                board.holders.put_if(0, sliver.id.clone(), holder, &mut board.at);
            }
        }
        for n in 0..self.nodes.len() {
            for sliver in self.followed_by[n].clone() {
                self.read_record(n, &sliver);
            }
        }
        for (at, (when, _)) in self.story.pushes.iter().enumerate() {
            self.queue.at(*when, Event::Pushed(at + 1));
        }
        for (at, fault) in self.story.faults.iter().enumerate() {
            if let Trouble::Bad { slice, from, until } = fault.trouble {
                self.spoil(slice, from..until);
            } else {
                self.queue.at(fault.from_ms, Event::Begins(at));
                if fault.until_ms < u64::MAX {
                    self.queue.at(fault.until_ms.max(fault.from_ms), Event::Ends(at));
                }
            }
        }
        for fault in &self.story.faults {
            self.reach.hit(fault.trouble.word());
        }
    }

    /// What the last commit asks of a slice never becomes healthy.
    fn spoil(&mut self, slice: usize, numbers: Range<u32>) {
        let of = |view: &View<'_>, name: &SliceName| -> Vec<DesiredSliver> {
            let slice = view.commit.fleet.slices.get(name);
            let slivers = slice.into_iter().flat_map(|slice| slice.slivers.values());
            let asked = slivers.filter(|(_, sliver)| sliver.health.is_some());
            asked.map(|(_, sliver)| sliver.clone()).collect()
        };
        let Some(name) = self.slices.get(slice % self.slices.len().max(1)).cloned() else {
            return;
        };
        let before: BTreeSet<(SliverId, Digest)> = self
            .views
            .iter()
            .take(self.views.len() - 1)
            .flat_map(|view| of(view, &name))
            .map(|sliver| (sliver.id.clone(), boot_digest(&sliver)))
            .collect();
        let Some(last) = self.views.last() else { return };
        let after = of(last, &name)
            .into_iter()
            .filter(|sliver| numbers.contains(&sliver.id.number));
        let after = after.map(|sliver| (sliver.id.clone(), boot_digest(&sliver)));
        self.bad.extend(after.filter(|one| !before.contains(one)));
    }

    /// Has something happen after so long.
    pub(crate) fn after(&mut self, wait_ms: u64, event: Event) {
        self.queue.at(self.now.saturating_add(wait_ms), event);
    }

    /// Lets the story happen, to its end or to the first thing that must not be.
    pub(crate) fn run(&mut self) -> Result<(), Broken> {
        let pushes = self.story.pushes.iter().map(|(at, _)| *at);
        let faults = self
            .story
            .faults
            .iter()
            .map(|fault| fault.until_ms)
            .filter(|until| *until < u64::MAX);
        let quiet = pushes.chain(faults).max().unwrap_or(0);
        let until = quiet.saturating_add(self.story.patience_ms);
        let mut look = quiet.saturating_add(CHECK_MS);
        while let Some((at, event)) = self.queue.pop() {
            if at > look {
                if self.settled().is_ok() {
                    return Ok(());
                }
                look = at.saturating_add(CHECK_MS);
            }
            if at > until {
                break;
            }
            self.now = at;
            self.events += 1;
            self.happen(event);
            self.safety.verdict(self.now)?;
        }
        self.settled().map_err(|what| Broken {
            at_ms: self.now,
            what: format!("not everything is as it should be: {what}"),
        })
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pushed(head) => self.pushed(head),
            Event::Poll(node) => self.poll(node),
            Event::Read { node, head } => self.read(node, head),
            Event::Start { node, sliver } => self.start(node, &sliver),
            Event::Consider(node) => self.consider(node),
            Event::Overdue(node) => self.consider_soon(node, 0),
            Event::Witness(slice) => self.witness(slice),
            Event::Say(node) => self.say(node),
            Event::Asked(ask) => self.asked_board(&ask),
            Event::Answered { node, slice, done } => self.answered(node, slice, done),
            Event::AskedHolder(ask) => self.asked_holder(&ask),
            Event::Hears { node, sliver } => self.hears(node, &sliver),
            Event::Stepped { node, sliver, number } => self.stepped(node, &sliver, number),
            Event::Passing { link, what } => self.passing(link, what),
            Event::HungUp {
                node,
                link,
                sliver,
                why,
            } => self.hung_up(node, link, &sliver, &why),
            Event::Arrives { node, number } => self.arrives(node, number),
            Event::LeaseEnds { node, number } => self.lease_ends(node, number),
            Event::Turn(node) => self.turn(node),
            Event::Ended { node, run, action } => self.ended(node, run, action),
            Event::Person => self.person_comes(),
            Event::Granted(node) => self.read_grants(node),
            Event::Begins(fault) => self.begins(fault),
            Event::Ends(fault) => self.ends(fault),
        }
    }

    /// A fault of the whole fleet that lasts.
    pub(crate) fn suffers(&self, test: impl Fn(&Trouble) -> bool) -> bool {
        self.lasting
            .iter()
            .any(|fault| test(&self.story.faults[*fault].trouble))
    }

    fn pushed(&mut self, head: usize) {
        self.head = self.head.max(head);
        let (before, after) = (&self.views[head - 1], &self.views[head]);
        let mut asking: BTreeSet<usize> = after.touches.keys().copied().collect();
        // Those of slices that have other slivers now cut waves elsewhere.
        let slices = self.slices.iter().enumerate();
        for (slice, _) in slices.filter(|(_, name)| !same_slice(before.commit, after.commit, name)) {
            asking.extend(before.on[slice].iter().chain(&after.on[slice]));
        }
        // Those that slivers come by may have one still that an earlier commit has placed elsewhere. Others have nothing to do because
        // of it; they are asked when they come back from somewhere.
        asking.extend((0..self.nodes.len()).filter(|n| !self.movers_on[*n].is_empty()));
        for n in asking {
            let node = &mut self.nodes[n];
            let wait = node.draw.between(100, POLL_MS);
            self.after(wait, Event::Poll(n));
        }
    }

    /// Asks the repository; every answer takes its time.
    fn poll(&mut self, n: usize) {
        let lost = self.suffers(|trouble| *trouble == Trouble::GitLost);
        let slow = self.suffers(|trouble| *trouble == Trouble::GitSlow);
        let head = self.head;
        let node = &mut self.nodes[n];
        if !node.agent || node.head == head {
            return;
        }
        if lost || node.away {
            let wait = node.draw.between(POLL_MS, 3 * POLL_MS);
            return self.after(wait, Event::Poll(n));
        }
        let takes = if slow {
            node.draw.between(60_000, 900_000)
        } else {
            node.draw.between(200, 3_000)
        };
        self.after(takes, Event::Read { node: n, head });
    }

    fn read(&mut self, n: usize, head: usize) {
        if !self.nodes[n].agent || self.nodes[n].head >= head {
            return self.poll(n);
        }
        if self.nodes[n].away {
            return self.after(POLL_MS, Event::Poll(n));
        }
        let from = self.nodes[n].head;
        self.nodes[n].accept(head);
        let mut begin: BTreeSet<SliverId> = BTreeSet::new();
        for view in &self.views[from + 1..=head] {
            begin.extend(view.touches.get(&n).into_iter().flatten().cloned());
        }
        let touched = self.views[head].touched;
        for sliver in begin {
            let was_here = self.placed(&sliver, from) == Some(n);
            let node = &mut self.nodes[n];
            if was_here && !node.awaits(&sliver) {
                node.follows.entry(sliver.clone()).or_insert(from);
            } else if !node.follows.contains_key(&sliver) {
                node.newcomers.insert(sliver.clone());
            }
            let wait = node.pace.until_start(touched);
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            self.after(wait, Event::Start { node: n, sliver });
        }
        self.wake(n, 0);
        // What was pushed while it was reading.
        self.poll(n);
    }

    /// Has a node look at itself after so long, unless it does before.
    pub(crate) fn wake(&mut self, n: usize, wait_ms: u64) {
        let at = self.now.saturating_add(wait_ms);
        let node = &mut self.nodes[n];
        if node
            .turn_at
            .is_some_and(|pending| pending <= at && pending >= self.now)
        {
            return;
        }
        node.turn_at = Some(at);
        self.queue.at(at, Event::Turn(n));
    }

    /// What runs a node's guests, and the memory it has for them, as the last commit says that names it.
    pub(crate) fn hardware(&self, n: usize) -> (HypervisorKind, u64) {
        let name = &self.nodes[n].name;
        let named = self
            .views
            .iter()
            .rev()
            .find_map(|view| view.commit.fleet.nodes.get(name));
        named.map_or((HypervisorKind::Xen, 0), |node| {
            (node.hypervisor, node.memory.mib())
        })
    }

    /// The sliver as a commit asks for it.
    pub(crate) fn asked(&self, sliver: &SliverId, head: usize) -> Option<&DesiredSliver> {
        self.asked_of(self.slice_of(sliver)?, sliver.number, head)
    }

    /// The same of a slice that is known by its number.
    pub(crate) fn asked_of(&self, slice: usize, number: u32, head: usize) -> Option<&DesiredSliver> {
        let slivers = &self.views[head].slices[slice]?.slivers;
        slivers.get(&number).map(|(_, sliver)| sliver)
    }

    /// The node that a commit places a sliver on.
    pub(crate) fn placed(&self, sliver: &SliverId, head: usize) -> Option<usize> {
        self.place_of(self.slice_of(sliver)?, sliver.number, head)
    }

    /// The same of a slice that is known by its number.
    pub(crate) fn place_of(&self, slice: usize, number: u32, head: usize) -> Option<usize> {
        self.views[head].places[slice].get(&number).copied()
    }
}

/// Whether two commits ask for the very same slice.
fn same_slice(one: &Commit, other: &Commit, name: &SliceName) -> bool {
    let slices = (one.fleet.slices.get(name), other.fleet.slices.get(name));
    slices
        .0
        .zip(slices.1)
        .is_some_and(|(one, other)| Arc::ptr_eq(one, other))
}

/// What a commit asks each slice to be.
fn keys(commit: &Commit, before: Option<&View<'_>>, slices: &[SliceName]) -> BTreeMap<usize, RolloutKey> {
    let key = |(number, name): (usize, &SliceName)| {
        let slice = commit.fleet.slices.get(name)?;
        let old = before
            .and_then(|before| Some((before.commit.fleet.slices.get(name)?, before.keys.get(&number)?)));
        let key = match old {
            Some((old, key)) if Arc::ptr_eq(old, slice) => key.clone(),
            Some(_) | None => {
                let revision = rollout_revision(slice.slivers.values().map(|(_, sliver)| sliver));
                let same = old.filter(|(_, key)| key.revision == revision);
                same.map(|(_, key)| key.clone()).unwrap_or(RolloutKey {
                    revision,
                    commit: commit.revision.clone(),
                })
            }
        };
        Some((number, key))
    };
    slices.iter().enumerate().filter_map(key).collect()
}

/// Which slivers a commit makes different, by the nodes they concern: all of a slice that a rollout changes.
fn touches(
    before: &View<'_>,
    after: &Commit,
    keys: &BTreeMap<usize, RolloutKey>,
    slices: &[SliceName],
    by_name: &BTreeMap<NodeName, usize>,
) -> BTreeMap<usize, BTreeSet<SliverId>> {
    let mut touches: BTreeMap<usize, BTreeSet<SliverId>> = BTreeMap::new();
    let of =
        |fleet: &'_ DesiredFleet, name: &SliceName| -> Option<Arc<Slice>> { fleet.slices.get(name).cloned() };
    for (number, name) in slices.iter().enumerate() {
        let (old, new) = (of(&before.commit.fleet, name), of(&after.fleet, name));
        if let (Some(old), Some(new)) = (&old, &new)
            && Arc::ptr_eq(old, new)
        {
            continue;
        }
        let rolled = keys.get(&number) != before.keys.get(&number);
        let sliver = |slice: &Option<Arc<Slice>>, number: u32| -> Option<(usize, SliverId)> {
            let (node, sliver) = slice.as_ref()?.slivers.get(&number)?;
            Some((*by_name.get(node)?, sliver.id.clone()))
        };
        let numbers: BTreeSet<u32> = [&old, &new]
            .into_iter()
            .flatten()
            .flat_map(|slice| slice.slivers.keys().copied())
            .collect();
        for number in numbers {
            let one = |slice: &Option<Arc<Slice>>| {
                slice
                    .as_ref()
                    .and_then(|slice| slice.slivers.get(&number).cloned())
            };
            if !rolled && one(&old) == one(&new) {
                continue;
            }
            for (n, sliver) in [sliver(&old, number), sliver(&new, number)].into_iter().flatten() {
                touches.entry(n).or_default().insert(sliver);
            }
        }
    }
    touches
}
