//! Whose turn it is, where a commit says in which order slivers move: what is wanted here for now, between where slivers are
//! and where they are placed.
//!
//! The order itself is the model's (`DesiredNode::staged`). What this node adds: one move at a time leaves it, and a slice whose
//! guests stood still for longer than it wants has its next move wait for calmer times.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use xeno_model::desired::{DesiredNode, MigrationPolicy, Seat, SliverState, Stage, Standing};
use xeno_model::id::{SliceName, SliverId};
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::tenure::Record;

use super::{Agent, End, Rights};

/// Pauses between moves of a slice whose guests stand still for too long.
const CALM_AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 30_000,
    pause_ms_max: 600_000,
};

/// Where slivers that have turns are to be for now.
#[derive(Default)]
pub(super) struct Staged {
    /// By what was read from the board last.
    stages: BTreeMap<SliverId, Stage>,
    /// The commit that they are of.
    of: Option<Arc<DesiredNode>>,
    /// What those wait for that do not go yet.
    waits: BTreeMap<SliverId, String>,
    /// Slices of which a guest stood still for too long.
    paces: BTreeMap<SliceName, Pace>,
}

/// What the last move of a slice has shown.
struct Pace {
    until: Instant,
    tries: u32,
    why: String,
}

impl Staged {
    /// When one may go that does not now.
    pub(super) fn next_try(&self) -> impl Iterator<Item = Instant> {
        self.paces.values().map(|pace| pace.until)
    }

    /// What those wait for that do not go yet.
    pub(super) fn waits(&self) -> &BTreeMap<SliverId, String> {
        &self.waits
    }

    /// What keeps a sliver from going where it is to go in the end.
    pub(super) fn wait_of(&self, sliver: &SliverId) -> Option<&String> {
        self.waits.get(sliver)
    }

    fn calm(&self, slice: &SliceName) -> Option<&Pace> {
        self.paces.get(slice).filter(|pace| pace.until > Instant::now())
    }

    /// Takes note of how long a guest stood still at most, and says so.
    pub(super) fn measured(&mut self, slice: &SliceName, still: Duration, wanted_ms: u64) -> String {
        let ms = crate::clock::millis(still);
        if ms <= wanted_ms {
            self.paces.remove(slice);
            return format!("it stood still for {ms} ms at most");
        }
        let tries = self
            .paces
            .get(slice)
            .map_or(0, |pace| pace.tries)
            .saturating_add(1);
        let pause = CALM_AGAIN.pause_ms(tries, u64::from(tries));
        let why = format!(
            "the last of {slice} to move stood still for {ms} ms, and {wanted_ms} ms are wanted (migration.downtime)"
        );
        let until = Instant::now() + Duration::from_millis(pause);
        self.paces.insert(slice.clone(), Pace { until, tries, why });
        format!("it stood still for {ms} ms, and {wanted_ms} ms were wanted")
    }
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Takes what a commit says, and makes of it what is wanted for now.
    pub(in crate::event_loop) fn place(&mut self, placed: Arc<DesiredNode>) {
        self.staged = Some(Arc::clone(&placed));
        self.placed = Some(placed);
        self.stage_turns();
        self.gate_staged();
    }

    /// Sees whose turn it is by now.
    pub(super) async fn restage(&mut self) {
        if self.stage_turns() {
            self.supersede().await;
        }
    }

    /// Whether something else is wanted now.
    fn stage_turns(&mut self) -> bool {
        let (Some(rights), Some(placed)) = (&self.rights, &self.placed) else {
            return false;
        };
        let same = rights
            .staged
            .of
            .as_ref()
            .is_some_and(|of| Arc::ptr_eq(of, placed));
        if placed.turns.is_empty() && same {
            return false;
        }
        let placed = Arc::clone(placed);
        let (stages, waits) = self.whose_turn(rights, &placed);
        let changed = !same || rights.staged.stages != stages;
        if changed {
            let staged = placed.staged(&stages);
            self.staged = Some(Arc::new(staged));
            self.gate_staged();
        }
        if let Some(rights) = &mut self.rights {
            rights.staged.stages = stages;
            rights.staged.waits = waits;
            rights.staged.of = Some(placed);
        }
        changed
    }

    /// Where the slivers that come by are to be for now, and what those wait for that are here.
    fn whose_turn(
        &self,
        rights: &Rights,
        placed: &DesiredNode,
    ) -> (BTreeMap<SliverId, Stage>, BTreeMap<SliverId, String>) {
        let me = &self.settings.node;
        let turns = &placed.turns;
        let seat = |sliver: &SliverId| match rights.fleet.member.record(sliver) {
            Record::Is(holder) => match holder.node {
                Some(node) => Seat::On {
                    node,
                    settled: holder.memory.is_none(),
                },
                None => Seat::Nobody,
            },
            // What was made here is here until the board says otherwise.
            Record::Absent | Record::Unknown if self.memory.applied.contains_key(sliver) => Seat::On {
                node: me.clone(),
                settled: true,
            },
            Record::Absent | Record::Unknown => Seat::Unknown,
        };
        let mut waits = BTreeMap::new();
        let by_me = turns.slivers().filter(|sliver| turns.way(sliver).contains(me));
        let mut stages: BTreeMap<SliverId, Stage> = by_me
            .map(|sliver| (sliver.clone(), turns.stage(sliver, seat)))
            .collect();
        let is_here = |sliver: &SliverId| matches!(seat(sliver), Seat::On { node, .. } if node == *me);
        let leaves = |stage: &Stage| matches!(stage, Stage::At { node, .. } if node != me);
        let on_the_way: Option<SliverId> = rights
            .sessions
            .iter()
            .find(|(sliver, open)| matches!(open.end, End::Leaving { .. }) && stages.contains_key(*sliver))
            .map(|(sliver, _)| sliver.clone());
        let mut going = on_the_way;
        // In the order of their turns.
        for turn in turns.all() {
            let sliver = &turn.sliver;
            let ready = stages.get(sliver).is_some_and(leaves) && is_here(sliver) && turn.from == *me;
            if !ready || going.as_ref() == Some(sliver) || waits.contains_key(sliver) {
                continue;
            }
            let pace = rights.staged.calm(&sliver.slice);
            let unmeasured = rights.still.keys().find(|other| other.slice == sliver.slice);
            let wait = if let Some(first) = &going {
                format!("{first} goes first")
            } else if let Some(other) = unmeasured {
                format!("{other} has not gone on yet, and how long it stood still is not known")
            } else if let Some(pace) = pace {
                pace.why.clone()
            } else if rights.paused(sliver).is_some() {
                // Why it could not is said already.
                continue;
            } else {
                going = Some(sliver.clone());
                continue;
            };
            waits.insert(sliver.clone(), wait);
        }
        for (sliver, stage) in &mut stages {
            if let Stage::At {
                node, waits: paced, ..
            } = stage
                && waits.contains_key(sliver)
            {
                let to = std::mem::replace(node, me.clone());
                *paced = None;
                if let Some(why) = waits.get_mut(sliver) {
                    *why = format!("It goes to {to} then: {why}");
                }
            } else if let Stage::At {
                waits: Some(wait),
                node,
                ..
            } = stage
                && node == me
            {
                let why = format!(
                    "It goes to {} once {} is on {}, so that each fits when it moves",
                    wait.to, wait.first, wait.there
                );
                waits.insert(sliver.clone(), why);
            }
        }
        (stages, waits)
    }

    /// How long guests of a sliver that leaves may stand still, where it goes while it runs and by an order.
    pub(super) fn downtime_wanted(&self, sliver: &SliverId) -> Option<u64> {
        let turns = &self.placed.as_ref()?.turns;
        let made = self.was_made(sliver)?;
        let counts = made.migration.policy == MigrationPolicy::Live && !turns.way(sliver).is_empty();
        counts.then_some(made.migration.downtime.0)
    }

    /// Whether there is room here for a sliver that is offered, beside what runs, what is to run, and what is coming.
    pub(super) fn has_room(
        &self,
        rights: &Rights,
        desired: &DesiredNode,
        sliver: &SliverId,
    ) -> Result<(), String> {
        let me = &self.settings.node;
        let unseen = || format!("{me} cannot see what runs there");
        let observed = self.observed.as_ref().ok_or_else(unseen)?;
        let domains = observed.domains.known().ok_or_else(unseen)?;
        let Standing::Named(node) = &desired.standing else {
            return Err(format!("the repository does not name {me}"));
        };
        let runs = |of: &SliverId| {
            let wanted = desired.slivers.get(of)?;
            (wanted.state == SliverState::Running).then(|| wanted.resources.memory.mib())
        };
        let Some(need) = runs(sliver) else { return Ok(()) };
        let ports: Vec<u16> = desired.slivers.get(sliver).map_or_else(Vec::new, |wanted| {
            wanted.publish.iter().map(|publish| publish.host).collect()
        });
        let published = domains.ours.values().flat_map(|domain| &domain.publish);
        if let Some(taken) = published
            .map(|publish| publish.host)
            .find(|host| ports.contains(host))
        {
            return Err(format!("port {taken} is taken on {me} now"));
        }
        let strangers = desired.standing.taken_by_strangers(&domains.strangers);
        let held = domains.ours.values().map(|domain| domain.memory_mib);
        let coming = desired.slivers.keys().filter(|of| {
            let mine = || matches!(rights.fleet.member.record(of), Record::Is(holder) if holder.is(me));
            let absent = !domains.ours.keys().any(|domain| domain.itself() == **of);
            *of != sliver && absent && (rights.sessions.contains_key(*of) || mine())
        });
        let taken: u64 = held
            .chain(coming.filter_map(runs))
            .fold(strangers, u64::saturating_add);
        let left = node.memory.mib().saturating_sub(taken);
        if need <= left {
            return Ok(());
        }
        Err(format!(
            "{me} has too little memory for it now: it needs {need} MiB, and {left} MiB are left"
        ))
    }
}
