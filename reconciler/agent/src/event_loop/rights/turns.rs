//! Whose turn it is, where a commit says in which order slivers move: what is wanted here for now, between where slivers are
//! and where they are placed.
//!
//! The order itself is `xeno_reconciler::tenure::Order`; here is what it is told, and what becomes of what it says.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use xeno_model::desired::{DesiredNode, MigrationPolicy};
use xeno_model::id::{SliceName, SliverId};
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::tenure::{Keeps, Order, seat};

use super::{Agent, End, Open, Rights};

/// Pauses between moves of a slice whose guests stand still for too long.
const CALM_AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 30_000,
    pause_ms_max: 600_000,
};

/// Where slivers that have turns are to be for now.
#[derive(Default)]
pub(super) struct Staged {
    order: Order,
    /// The commit that it is of.
    of: Option<Arc<DesiredNode>>,
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
        &self.order.waits
    }

    /// What keeps a sliver from going where it is to go in the end.
    pub(super) fn wait_of(&self, sliver: &SliverId) -> Option<&String> {
        self.order.waits.get(sliver)
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
        let order = self.whose_turn(rights, &placed);
        let changed = !same || rights.staged.order.stages != order.stages;
        if changed {
            let staged = placed.staged(&order.stages);
            self.staged = Some(Arc::new(staged));
            self.gate_staged();
        }
        if let Some(rights) = &mut self.rights {
            rights.staged.order = order;
            rights.staged.of = Some(placed);
        }
        changed
    }

    /// Where the slivers that come by are to be for now, and what those wait for that are here.
    fn whose_turn(&self, rights: &Rights, placed: &DesiredNode) -> Order {
        let me = &self.settings.node;
        let seat = |sliver: &SliverId| {
            let made = self.memory.applied.contains_key(sliver);
            seat(me, rights.fleet.member.record(sliver), made)
        };
        let keeps = |sliver: &SliverId| {
            if let Some(other) = rights.still.keys().find(|other| other.slice == sliver.slice) {
                return Keeps::Pace(format!(
                    "{other} has not gone on yet, and how long it stood still is not known"
                ));
            }
            match (rights.staged.calm(&sliver.slice), rights.paused(sliver)) {
                (Some(pace), _) => Keeps::Pace(pace.why.clone()),
                (None, Some(_)) => Keeps::Failed,
                (None, None) => Keeps::Nothing,
            }
        };
        let turns = &placed.turns;
        let on_the_way = |(sliver, open): &(&SliverId, &Open)| {
            matches!(open.end, End::Leaving { .. }) && turns.way(sliver).contains(me)
        };
        let leaving = rights.sessions.iter().find(on_the_way).map(|(sliver, _)| sliver);
        Order::of(me, turns, leaving, seat, keeps)
    }

    /// How long guests of a sliver that leaves may stand still, where it goes while it runs and by an order.
    pub(super) fn downtime_wanted(&self, sliver: &SliverId) -> Option<u64> {
        let turns = &self.placed.as_ref()?.turns;
        let made = self.was_made(sliver)?;
        let counts = made.migration.policy == MigrationPolicy::Live && !turns.way(sliver).is_empty();
        counts.then_some(made.migration.downtime.0)
    }
}
