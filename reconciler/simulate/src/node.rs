//! A node: its machine, its agent, and what the agent remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{DesiredNode, Stage};
use xeno_model::id::{Epoch, NodeName, SliverId};
use xeno_reconciler::action::ActionKey;
use xeno_reconciler::approval::{Ask, Grant};
use xeno_reconciler::change::AppliedSliver;
use xeno_reconciler::exec::{Outcome, Run};
use xeno_reconciler::record::Settlement;
use xeno_reconciler::rollout::{Condition, Patience};
use xeno_reconciler::scripted::ScriptedNode;
use xeno_state::board::pace::{Pace, Summary};

use crate::draw::Draw;
use crate::rights::Rights;

/// A node of the fleet.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) draw: Draw,
    pub(crate) pace: Pace,
    /// How many reasons there are for which its machine has no power, its agent is dead, and it reaches nobody.
    pub(crate) off: u32,
    pub(crate) dead: u32,
    pub(crate) cut_off: u32,
    /// Whether its agent runs.
    pub(crate) agent: bool,
    /// Whether it reaches nobody.
    pub(crate) away: bool,
    /// Whether it has a lease on the board, and knows it.
    pub(crate) member: bool,
    /// Whether the board has a sign of life of it.
    pub(crate) leased: bool,
    /// Which life of its machine this is.
    pub(crate) life: u8,
    /// Counts its leaving and returning.
    pub(crate) membership: u64,
    /// The last time it left.
    pub(crate) left: u64,
    /// Whether it cannot look at its domains.
    pub(crate) blind: bool,
    /// How many calls of its drivers of a thousand go wrong.
    pub(crate) drivers_permille: u64,
    /// How far its wall clock is off.
    pub(crate) skew_ms: i64,
    /// The machine, once something is done there: until then it is as the first commit asks.
    pub(crate) machine: Option<ScriptedNode>,
    pub(crate) applied: BTreeMap<SliverId, AppliedSliver>,
    /// The commit it has read.
    pub(crate) head: usize,
    pub(crate) generation: u64,
    /// Which commit's word counts for slivers that differ between commits; for others it makes no difference.
    pub(crate) follows: BTreeMap<SliverId, usize>,
    /// Whether a rollout changes nothing about a sliver, from the commit that counts for it to another.
    pub(crate) same: BTreeMap<SliverId, (usize, usize, bool)>,
    /// What those were when they were last proven good, before they became that.
    pub(crate) goods: BTreeMap<SliverId, usize>,
    /// Slivers that a commit brings here, and whose turn has yet to come.
    pub(crate) newcomers: BTreeSet<SliverId>,
    /// Slivers whose rollouts are not through with them.
    pub(crate) active: BTreeMap<SliverId, Active>,
    /// How slivers are.
    pub(crate) conditions: BTreeMap<SliverId, Condition>,
    /// For how long slivers have been on their way with a slot, by the number of their slice.
    pub(crate) patience: BTreeMap<usize, Patience>,
    /// Of which the board has yet to be told.
    pub(crate) unsaid: BTreeSet<SliverId>,
    pub(crate) summary: Summary,
    /// Slices whose record it has asked the board to change.
    pub(crate) asking: BTreeSet<usize>,
    /// Changes in a row that came second.
    pub(crate) refusals: u32,
    /// When it looks at rollouts next.
    pub(crate) consider_at: Option<u64>,
    /// When the time of a sliver of its own is over that is on its way.
    pub(crate) overdue_at: Option<u64>,
    /// What was wanted of it at its last look.
    pub(crate) wish: Option<Wish>,
    /// What somebody approved of what it waits for, if it has read that since its agent started.
    pub(crate) grants: Option<BTreeMap<SliverId, Grant>>,
    /// What it waits for that nobody has approved.
    pub(crate) asks: BTreeMap<SliverId, Ask>,
    /// Those of it that their rollouts have let change.
    pub(crate) turns: BTreeSet<SliverId>,
    /// When its agent started.
    pub(crate) began_ms: u64,
    pub(crate) epochs: BTreeMap<SliverId, Epoch>,
    /// Slivers that change nodes.
    pub(crate) rights: Rights,
    pub(crate) back_off: BTreeMap<SliverId, BackOff>,
    /// When slivers were removed.
    pub(crate) removals: BTreeMap<SliverId, u64>,
    pub(crate) run: Option<Box<Running>>,
    pub(crate) runs: u32,
    /// When it looks at itself next.
    pub(crate) turn_at: Option<u64>,
    /// Runs without a rest.
    pub(crate) restless: u32,
    /// Whether the last look found nothing to do.
    pub(crate) idle: bool,
}

/// A sliver whose rollout is not through with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    /// The number of its slice.
    pub(crate) slice: usize,
    /// What it was found to wait for at the last look, if nothing has been done about it here since.
    pub(crate) waited: Option<Waited>,
}

/// What a sliver waits for, and what of its slice that was found from: as long as that is so, it is what the next look finds too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waited {
    /// The revision of the record.
    pub(crate) read: u64,
    /// Changes of who is out of reach.
    pub(crate) away_changes: u64,
    /// In a word.
    pub(crate) word: &'static str,
    /// Whether it is for others to give something back.
    pub(crate) for_others: bool,
}

/// What is wanted of a node, and what that was made of.
pub(crate) struct Wish {
    pub(crate) head: usize,
    pub(crate) follows: BTreeMap<SliverId, usize>,
    pub(crate) stages: BTreeMap<SliverId, Stage>,
    pub(crate) desired: Arc<DesiredNode>,
}

/// An action that failed for good is not tried before its time.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    pub(crate) action: ActionKey,
    pub(crate) why: String,
    pub(crate) attempts: u32,
    pub(crate) until_ms: u64,
}

/// A run under way.
pub(crate) struct Running {
    pub(crate) number: u32,
    pub(crate) run: Run,
    pub(crate) desired: Arc<DesiredNode>,
    pub(crate) settlements: BTreeMap<SliverId, Settlement>,
    /// What is in flight: the place of the action in the plan, and how it will end.
    pub(crate) in_flight: BTreeMap<usize, Ending>,
    /// Slivers that are to be something else by now: how this run ends for them says nothing.
    pub(crate) stale: BTreeSet<SliverId>,
    /// Slivers that something was done to.
    pub(crate) changing: BTreeSet<SliverId>,
}

/// How an action in flight will end.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// It is carried out.
    Well,
    /// Nothing is done.
    Fails(Outcome),
    /// It is carried out, and says that it is not.
    Unsaid,
    /// Nothing is done, and it is given up.
    Hangs,
    /// It is carried out, and never says so.
    HangsAfter,
}

impl Node {
    /// Whether it knows that it has the right to run a sliver.
    pub(crate) fn holds(&self, sliver: &SliverId) -> bool {
        self.rights.record(sliver).is_with(&self.name)
    }

    /// Whether a sliver waits for its turn: one that comes, or has come, from another node as it was there does not.
    pub(crate) fn awaits(&self, sliver: &SliverId) -> bool {
        self.newcomers.contains(sliver) && !self.holds(sliver) && !self.rights.sessions.contains_key(sliver)
    }

    pub(crate) fn new(name: &NodeName, many: u32, seed: u64, draw: Draw) -> Self {
        Self {
            name: name.clone(),
            draw,
            pace: Pace::new(name.as_str(), many, seed),
            off: 0,
            dead: 0,
            cut_off: 0,
            agent: true,
            away: false,
            member: true,
            leased: true,
            life: 0,
            membership: 0,
            left: 0,
            blind: false,
            drivers_permille: 0,
            skew_ms: 0,
            machine: None,
            applied: BTreeMap::new(),
            head: 0,
            generation: 1,
            follows: BTreeMap::new(),
            same: BTreeMap::new(),
            goods: BTreeMap::new(),
            newcomers: BTreeSet::new(),
            active: BTreeMap::new(),
            conditions: BTreeMap::new(),
            patience: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            summary: Summary::default(),
            asking: BTreeSet::new(),
            refusals: 0,
            consider_at: None,
            overdue_at: None,
            wish: None,
            grants: Some(BTreeMap::new()),
            asks: BTreeMap::new(),
            turns: BTreeSet::new(),
            began_ms: 0,
            epochs: BTreeMap::new(),
            rights: Rights::default(),
            back_off: BTreeMap::new(),
            removals: BTreeMap::new(),
            run: None,
            runs: 0,
            turn_at: None,
            restless: 0,
            idle: true,
        }
    }

    /// Something about a sliver has changed that its turn depends on.
    pub(crate) fn looks_again(&mut self, sliver: &SliverId) {
        if let Some(active) = self.active.get_mut(sliver) {
            active.waited = None;
        }
    }

    /// Takes a commit as what is wanted.
    pub(crate) fn accept(&mut self, head: usize) {
        for active in self.active.values_mut() {
            active.waited = None;
        }
        self.head = head;
        self.generation += 1;
    }
}
