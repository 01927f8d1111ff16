//! The right to run slivers that change nodes: what each node knows of it and does about it, by the real rules
//! (`xeno_reconciler::tenure`). Slivers that every commit places on the same node are that node's from beginning to end.

mod doing;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{DesiredNode, DesiredSliver};
use xeno_model::id::{MigrationId, NodeName, SliverId, Timestamp};
use xeno_model::observed::ObservedNode;
use xeno_reconciler::change::Reason;
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::tenure::{
    BootId, Facets, Failover, Holder, Journal, Keeps, Leave, Leaving, Next, Order, Place, Record, Rival,
    Session, Sight, Step, Why, is_the_planners, leave, next, place, seat,
};

use crate::fleet::Commit;
use crate::node::Ending;
use crate::world::World;

pub(crate) use doing::at_once;
pub(crate) use record::HolderAsk;

/// Pauses before a move is tried again: those of the agent.
const MOVE_AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 2_000,
    pause_ms_max: 300_000,
};

/// Pauses before a step is tried again: those of the agent.
const STEP_AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 500,
    pause_ms_max: 30_000,
};

/// What a node has of slivers that change nodes. Only the journals outlive its agent.
#[derive(Default)]
pub(crate) struct Rights {
    /// Records as they were read last, each with the revision of the board.
    pub(crate) known: BTreeMap<SliverId, (u64, Option<Holder>)>,
    pub(crate) journals: BTreeMap<SliverId, Journal>,
    pub(crate) sessions: BTreeMap<SliverId, Open>,
    /// What is being done.
    pub(crate) stepping: BTreeMap<SliverId, Stepping>,
    pub(crate) pauses: BTreeMap<SliverId, Pause>,
    /// Whose turn it is, where a commit says so.
    pub(crate) order: Order,
    /// Steps so far.
    pub(crate) steps: u32,
}

/// A move under way, as one of its ends sees it.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) migration: MigrationId,
    /// Which of the world's links.
    pub(crate) link: u64,
    pub(crate) peer: NodeName,
    pub(crate) end: End,
}

/// Which end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Leaving {
        boot: BootId,
        stage: Leaving,
        travelled: bool,
    },
    Arriving {
        whole: bool,
        /// Whether the other end is gone, and the record is being read that says whose the sliver is now.
        alone: bool,
    },
}

/// A step under way.
#[derive(Clone, Debug)]
pub(crate) struct Stepping {
    pub(crate) number: u32,
    pub(crate) step: Step,
    pub(crate) ending: Ending,
}

/// Why a step is not tried at the moment.
#[derive(Clone, Debug)]
pub(crate) struct Pause {
    pub(crate) until_ms: u64,
    tries: u32,
    pub(crate) why: String,
    /// Where the sliver was to go, where that is what failed.
    pub(crate) to: Option<NodeName>,
}

impl Rights {
    /// The record of a sliver, as far as it is known.
    pub(crate) fn record(&self, sliver: &SliverId) -> Record {
        match self.known.get(sliver) {
            None => Record::Unknown,
            Some((_, None)) => Record::Absent,
            Some((_, Some(holder))) => Record::Is(holder.clone()),
        }
    }

    /// What dies with the agent.
    pub(crate) fn forget(&mut self) {
        let journals = std::mem::take(&mut self.journals);
        *self = Self {
            journals,
            steps: self.steps,
            ..Self::default()
        };
    }

    fn session(&self, sliver: &SliverId, wanted: &Place) -> Option<Session> {
        let open = self.sessions.get(sliver)?;
        Some(match open.end {
            End::Leaving {
                boot,
                stage,
                travelled,
            } => Session::Leaving {
                to: open.peer.clone(),
                boot,
                migration: open.migration,
                stage,
                travelled,
                called_off: *wanted != Place::At(open.peer.clone()),
            },
            End::Arriving { whole, .. } => Session::Arriving {
                migration: open.migration,
                whole,
            },
        })
    }
}

impl World<'_> {
    /// The life of a node's machine.
    pub(crate) fn life(&self, n: usize) -> BootId {
        BootId([self.nodes[n].life; 16])
    }

    fn paused(&self, n: usize, sliver: &SliverId) -> Option<&Pause> {
        let pause = self.nodes[n].rights.pauses.get(sliver)?;
        (pause.until_ms > self.now).then_some(pause)
    }

    /// When the first of the pauses of a node is over, if there are any.
    pub(crate) fn paused_until(&self, n: usize) -> Option<u64> {
        let pauses = self.nodes[n].rights.pauses.values();
        pauses
            .map(|pause| pause.until_ms + 1)
            .filter(|until| *until > self.now)
            .min()
    }

    pub(crate) fn pause(&mut self, n: usize, sliver: &SliverId, why: String, to: Option<NodeName>) {
        let node = &mut self.nodes[n];
        let tries = node.rights.pauses.get(sliver).map_or(0, |pause| pause.tries) + 1;
        let policy = if to.is_some() { MOVE_AGAIN } else { STEP_AGAIN };
        let wait = policy.pause_ms(tries, node.draw.number());
        let pause = Pause {
            until_ms: self.now + wait,
            tries,
            why,
            to,
        };
        node.rights.pauses.insert(sliver.clone(), pause);
        self.wake(n, wait + 1);
    }

    /// Sees whose turn it is by now; whether something else is wanted.
    fn restage(&mut self, n: usize) -> bool {
        let node = &self.nodes[n];
        let turns = &self.views[node.head].commit.fleet.turns;
        if turns.is_empty() {
            let had = !node.rights.order.stages.is_empty();
            self.nodes[n].rights.order = Order::default();
            return had;
        }
        let seat = |sliver: &SliverId| {
            let made = node.applied.contains_key(sliver);
            seat(&node.name, node.rights.record(sliver), made)
        };
        let keeps = |sliver: &SliverId| match self.paused(n, sliver) {
            Some(_) => Keeps::Failed,
            None => Keeps::Nothing,
        };
        let leaves = |(sliver, open): &(&SliverId, &Open)| {
            matches!(open.end, End::Leaving { .. }) && turns.way(sliver).contains(&node.name)
        };
        let leaving = node.rights.sessions.iter().find(leaves);
        let order = Order::of(&node.name, turns, leaving.map(|(sliver, _)| sliver), seat, keeps);
        let changed = order.stages != node.rights.order.stages;
        if !order.waits.is_empty() {
            self.reach.hit("move waits for its turn");
        }
        self.nodes[n].rights.order = order;
        changed
    }

    /// Takes every step that is due on a node.
    pub(crate) fn advance(&mut self, n: usize) {
        if self.movers_on[n].is_empty() || !self.nodes[n].agent {
            return;
        }
        self.materialise(n);
        if self.restage(n) {
            self.supersede(n);
        }
        let (desired, observed) = (self.wanted(n), self.look(n));
        let Some(observed) = observed else { return };
        for sliver in self.movers_on[n].clone() {
            if self.advances(n, &sliver, &desired, &observed) {
                self.advance_one(n, &sliver);
            }
        }
    }

    /// Takes steps about one sliver, one after the other, until one has to be waited for.
    pub(crate) fn advance_one(&mut self, n: usize, sliver: &SliverId) {
        /// More than any sliver needs without waiting for something.
        const STEPS_MAX: u32 = 16;
        for _ in 0..STEPS_MAX {
            if !self.nodes[n].agent {
                return;
            }
            let (desired, observed) = (self.wanted(n), self.look(n));
            let Some(observed) = observed else { return };
            if !self.advances(n, sliver, &desired, &observed) {
                return;
            }
        }
        self.safety.broken(format!(
            "{}: {sliver}: too many steps in a row",
            self.nodes[n].name
        ));
    }

    /// Takes the step about a sliver that is due; whether the next one can be decided at once.
    fn advances(
        &mut self,
        n: usize,
        sliver: &SliverId,
        desired: &DesiredNode,
        observed: &ObservedNode,
    ) -> bool {
        let stepping = self.nodes[n].rights.stepping.contains_key(sliver);
        if stepping || self.paused(n, sliver).is_some() {
            return false;
        }
        let Some(facets) = Facets::of(sliver, observed) else {
            return false;
        };
        let view = self.sight(n, sliver, desired, &facets);
        let view = view.view(|node| self.rival(node));
        let step = match next(&view) {
            Next::Do(step) => step,
            Next::Wait(Why::HeldBy(_)) => {
                if self.is_left_over(n, sliver, &view.place, &facets) {
                    self.clear_away(n, sliver, &facets);
                }
                return false;
            }
            Next::Run { .. } | Next::Wait(_) => return false,
        };
        if is_the_planners(&view, &step) {
            return false;
        }
        if let Some(running) = &self.nodes[n].run
            && running.run.concerns(sliver)
        {
            // What is under way ends first; nothing more of it is begun.
            self.supersede(n);
            return false;
        }
        self.take_step(n, sliver, step, desired, &facets)
    }

    /// What a node knows of a sliver.
    fn sight<'b>(
        &'b self,
        n: usize,
        sliver: &SliverId,
        desired: &DesiredNode,
        facets: &'b Facets,
    ) -> Sight<'b> {
        let node = &self.nodes[n];
        let place = place(Some(desired), sliver);
        Sight {
            me: &node.name,
            boot: self.life(n),
            session: node.rights.session(sliver, &place),
            journal: node.rights.journals.get(sliver).copied().unwrap_or_default(),
            record: node.rights.record(sliver),
            place,
            facets,
            // Nothing here lies on storage that others reach.
            failover: Failover::default(),
            leased: true,
        }
    }

    /// What the board says of a node.
    fn rival(&self, node: &NodeName) -> Rival {
        Rival {
            alive: self.by_name.get(node).is_none_or(|n| self.nodes[*n].leased),
            fenced: false,
        }
    }

    /// What the planner may do with the slivers of a node that change nodes.
    pub(crate) fn may_plan(
        &self,
        n: usize,
        desired: &DesiredNode,
        observed: &ObservedNode,
    ) -> BTreeMap<SliverId, Leave> {
        let one = |sliver: &SliverId| (sliver.clone(), self.leave(n, sliver, desired, observed));
        self.movers_on[n].iter().map(one).collect()
    }

    fn leave(&self, n: usize, sliver: &SliverId, desired: &DesiredNode, observed: &ObservedNode) -> Leave {
        let node = &self.nodes[n];
        let changes = |what: String| Leave::Not(Reason::RightChanges { what });
        if let Some(stepping) = node.rights.stepping.get(sliver) {
            return changes(stepping.step.to_string());
        }
        let Some(facets) = Facets::of(sliver, observed) else {
            return match node.rights.record(sliver) {
                Record::Is(holder) if holder.is(&node.name) => Leave::Held(holder.epoch),
                Record::Is(_) | Record::Absent | Record::Unknown => Leave::Not(Reason::RightUnknown {
                    why: "what is here of it could not be seen".to_owned(),
                }),
            };
        };
        let paused = self.paused(n, sliver);
        if let Some(pause) = paused
            && let Some(to) = &pause.to
        {
            return Leave::Not(Reason::MoveFailed {
                to: to.clone(),
                why: pause.why.clone(),
                until: Timestamp(self.wall(n).0 + (pause.until_ms - self.now)),
            });
        }
        if let Some(open) = node.rights.sessions.get(sliver) {
            return changes(format!("it is on its way, with {} at the other end", open.peer));
        }
        let view = self.sight(n, sliver, desired, &facets);
        let view = view.view(|node| self.rival(node));
        let unread = || "its record on the board has not been read since the agent started".to_owned();
        leave(&view, paused.map(|pause| pause.why.as_str()), unread)
    }

    /// What the sliver should be on a node: as it is wanted, or as it was made.
    pub(crate) fn made(&self, n: usize, sliver: &SliverId, desired: &DesiredNode) -> Option<DesiredSliver> {
        let wanted = desired.slivers.get(sliver);
        let applied = || Some(&self.nodes[n].applied.get(sliver)?.desired);
        wanted.or_else(applied).cloned()
    }

    /// What it was made there, where that is known; else what it should be.
    pub(crate) fn was_made(
        &self,
        n: usize,
        sliver: &SliverId,
        desired: &DesiredNode,
    ) -> Option<DesiredSliver> {
        let applied = self.nodes[n].applied.get(sliver);
        let applied = applied.map(|applied| applied.desired.clone());
        applied.or_else(|| self.made(n, sliver, desired))
    }
}

/// The nodes that each sliver comes by that changes nodes, by any commit.
pub(crate) fn movers<'a>(
    commits: impl Iterator<Item = &'a Commit> + Clone,
    by_name: &BTreeMap<NodeName, usize>,
) -> BTreeMap<SliverId, BTreeSet<usize>> {
    let mut movers: BTreeMap<SliverId, BTreeSet<usize>> = BTreeMap::new();
    let mut add = |sliver: &SliverId, node: &NodeName| {
        if let Some(n) = by_name.get(node) {
            movers.entry(sliver.clone()).or_default().insert(*n);
        }
    };
    let mut before: Option<&'a Commit> = None;
    let mut places: BTreeMap<SliverId, NodeName> = BTreeMap::new();
    for commit in commits {
        for (name, slice) in &commit.fleet.slices {
            let old = before.and_then(|before| before.fleet.slices.get(name));
            if old.is_some_and(|old| Arc::ptr_eq(old, slice)) {
                continue;
            }
            for (node, sliver) in slice.slivers.values() {
                match places.get(&sliver.id) {
                    Some(was) if was == node => {}
                    was => {
                        if let Some(was) = was {
                            add(&sliver.id, was);
                            add(&sliver.id, node);
                        }
                        places.insert(sliver.id.clone(), node.clone());
                    }
                }
            }
        }
        let turns = &commit.fleet.turns;
        for sliver in turns.slivers() {
            for node in turns.way(sliver) {
                add(sliver, node);
            }
        }
        before = Some(commit);
    }
    movers
}
