//! Rollouts: what this node's slivers are made, and when. [`xeno_reconciler::rollout`] decides; here is what it is told, and
//! what becomes of what it says.
//!
//! What a sliver is reconciled towards is its *stand*: what it was last made, or begun to be made. It is written down before the
//! sliver changes, so a node that starts again goes on where it was; until it changes, a sliver is kept, and repaired, as what it
//! stands at. Where there is no board there is nobody to wait for: every sliver is what the commit says, at once.

mod asking;
mod gate;
mod left;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until};
use xeno_model::desired::{DesiredNode, DesiredSliver, Rollout};
use xeno_model::id::{Digest, NodeName, Revision, SliceName, SliverId};
use xeno_model::normal::{rollout_digest, rollout_revision};
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::rollout::{
    Aim, Condition, Decision, Outside, Own, Patience, Placed, Proposal, RolloutKey, RolloutRecord, Runs,
    Signed, SliverSummary, Step, Tally, Wanted, Waves, Witness, begin, condition, decide, step, wanted,
};
use xeno_state::board::pace::Pace;
use xeno_state::record::{EventKind, Stand};
use xeno_state::rollouts::Known;

use self::asking::Asking;
use super::Agent;
use crate::fleet::rollouts::{Rollouts, Seen};

/// Whether a commit comes after another; not, where the node does not know that one.
pub(crate) type Descends =
    Arc<dyn Fn(Revision, Revision) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// All about rollouts, where the node is one of a fleet.
pub(crate) struct Rolling {
    board: Arc<Rollouts>,
    news: watch::Receiver<u64>,
    descends: Descends,
    pace: Pace,
    began: Instant,
    tasks: JoinSet<Told>,
    /// The slices of this node's slivers, as of the commit that was read last.
    slices: BTreeMap<SliceName, Outline>,
    /// Those of slivers that it places elsewhere, and that have changed here.
    left: BTreeSet<SliceName>,
    /// What the board was asked for.
    asking: Asking,
    /// Which commits that one comes after, as far as it was asked; `None`: the answer is under way.
    after: BTreeMap<Revision, Option<bool>>,
    /// What slivers wait for.
    waits: BTreeMap<SliverId, String>,
    /// Changed since the last plan was made.
    stale: BTreeSet<SliverId>,
    /// Nothing that the last commit asks for is begun before this: all nodes have read it in the same moment.
    not_before: Instant,
}

/// A slice as this node sees it.
struct Outline {
    revision: Digest,
    placement: BTreeMap<u32, Placed>,
    policy: Rollout,
    /// The waves of the rollout that is on the board.
    waves: Option<(RolloutKey, Rollout, Waves)>,
    witness: Witness,
    /// For how long slivers of this node have been on their way.
    patience: Patience,
    /// Why the rollout does not go on, as this witness sees it.
    holds: Option<String>,
    /// What this witness proposes, and when it does: all see the same at once.
    proposal: Option<(Proposal, Instant)>,
    /// When this witness has seen enough.
    due: Option<Instant>,
}

/// What a task says.
pub(super) enum Told {
    Swapped {
        slice: SliceName,
        done: Result<bool, String>,
    },
    After {
        commit: Revision,
        of: Revision,
        after: bool,
    },
}

/// Something that happened to rollouts.
pub(super) enum RollingEvent {
    Board,
    Told(Told),
    Due,
}

impl Rolling {
    pub(crate) fn new(board: Arc<Rollouts>, me: &NodeName, descends: Descends) -> Self {
        Self {
            news: board.news(),
            board,
            descends,
            pace: Pace::new(me.as_str(), 1, 0),
            began: Instant::now(),
            tasks: JoinSet::new(),
            slices: BTreeMap::new(),
            left: BTreeSet::new(),
            asking: Asking::default(),
            after: BTreeMap::new(),
            waits: BTreeMap::new(),
            stale: BTreeSet::new(),
            not_before: Instant::now(),
        }
    }

    /// What the board says.
    pub(super) fn board(&self) -> &Rollouts {
        &self.board
    }

    /// The next thing that happens. Nothing is lost when it is dropped.
    pub(super) async fn next_event(&mut self) -> RollingEvent {
        let due = self.next_due();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(told) = self.tasks.join_next() => match told {
                Ok(told) => RollingEvent::Told(told),
                // A mistake of ours: what it was about is asked again with what happens next.
                Err(error) => {
                    tracing::error!("rollouts: {error}");
                    self.asking.lost();
                    self.after.retain(|_, after| after.is_some());
                    RollingEvent::Board
                }
            },
            Ok(()) = self.news.changed() => RollingEvent::Board,
            () = wait => RollingEvent::Due,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let of = |outline: &Outline| {
            let proposed = outline.proposal.as_ref().map(|(_, at)| *at);
            [proposed, outline.due]
        };
        let times = self.slices.values().flat_map(of).flatten();
        let times = times.chain(self.asking.pauses());
        times.chain([self.not_before]).filter(|at| *at > now).min()
    }

    /// Takes note of a commit.
    fn read(&mut self, desired: &DesiredNode, left: BTreeSet<SliceName>) {
        self.asking.starts_over();
        self.left = left;
        let before = std::mem::take(&mut self.slices);
        self.after.clear();
        self.pace.set_nodes(desired.nodes);
        let mut touched = 0;
        for (name, slice) in &desired.slices {
            let revision = rollout_revision(slice.slivers.values().map(|(_, sliver)| sliver));
            let placed = |(number, (node, _)): (&u32, &(NodeName, DesiredSliver))| {
                let at = Arc::clone(desired.whereabouts.get(node)?);
                let node = node.clone();
                Some((*number, Placed { node, at }))
            };
            let Some((_, (_, first))) = slice.slivers.first_key_value() else {
                continue;
            };
            let known = before.get(name).is_some_and(|before| before.revision == revision);
            if !known {
                touched += slice.slivers.len();
            }
            let outline = Outline {
                revision,
                placement: slice.slivers.iter().filter_map(placed).collect(),
                policy: first.rollout.clone(),
                waves: None,
                witness: before
                    .get(name)
                    .map(|before| before.witness.clone())
                    .unwrap_or_default(),
                patience: Patience::default(),
                holds: None,
                proposal: None,
                due: None,
            };
            self.slices.insert(name.clone(), outline);
        }
        let touched = u32::try_from(touched).unwrap_or(u32::MAX);
        if touched > 0 && !before.is_empty() {
            self.not_before = Instant::now() + self.pace.until_start(touched);
        }
        let nodes = |outline: &Outline| {
            outline
                .placement
                .values()
                .map(|placed| placed.node.clone())
                .collect()
        };
        let left = self.left.iter().map(|name| (name.clone(), BTreeSet::new()));
        let placed = self
            .slices
            .iter()
            .map(|(name, outline)| (name.clone(), nodes(outline)));
        self.board.follow(left.chain(placed).collect());
    }

    /// Whether this commit comes after that of the record; asks where that is not known.
    fn comes_after(&mut self, commit: &Revision, of: &Revision) -> bool {
        if commit == of {
            return false;
        }
        match self.after.get(of) {
            Some(known) => known.unwrap_or(false),
            None => {
                self.after.insert(of.clone(), None);
                let descends = Arc::clone(&self.descends);
                let (commit, of) = (commit.clone(), of.clone());
                self.tasks.spawn(async move {
                    let after = descends(commit.clone(), of.clone()).await;
                    Told::After { commit, of, after }
                });
                false
            }
        }
    }

    fn swap(&mut self, slice: &SliceName, known: Known, next: RolloutRecord) {
        self.asking.begins(slice);
        let (board, slice) = (Arc::clone(&self.board), slice.clone());
        self.tasks.spawn(async move {
            let done = board.swap(&slice, &known, &next).await;
            Told::Swapped { slice, done }
        });
    }

    fn hear(&mut self, told: Told, head: Option<&Revision>) {
        match told {
            // An answer about another commit than the one that counts by now is asked for anew.
            Told::After { commit, of, after } => {
                if head == Some(&commit) {
                    self.after.insert(of, Some(after));
                }
            }
            Told::Swapped { slice, done } => self.asking.ends(&slice, done, &mut self.pace),
        }
    }
}

/// The waves of a record, kept as long as it is about the same.
fn waves(outline: &mut Outline, record: &RolloutRecord) -> Waves {
    let same =
        |(key, policy, _): &&(RolloutKey, Rollout, Waves)| *key == record.to && *policy == record.policy;
    match outline.waves.as_ref().filter(same) {
        Some((.., waves)) => waves.clone(),
        None => {
            let waves = Waves::new(&record.policy, &outline.placement, Waves::seed(&record.to));
            outline.waves = Some((record.to.clone(), record.policy.clone(), waves.clone()));
            waves
        }
    }
}

/// What comes of one look at one slice.
#[derive(Default)]
struct Outcome {
    swap: Option<(Known, RolloutRecord)>,
    stands: Vec<(Stand, Option<String>)>,
    waits: BTreeMap<SliverId, String>,
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Takes note of a commit that was read.
    pub(super) fn note_rollouts(&mut self, read: &DesiredNode) {
        let left = self.left(read);
        if let Some(rolling) = &mut self.rolling {
            rolling.read(read, left);
        }
    }

    /// A plan was made since slivers have changed their stand.
    pub(super) fn rollouts_seen(&mut self) {
        if let Some(rolling) = &mut self.rolling {
            rolling.stale.clear();
        }
    }

    pub(super) async fn rolling_event(&mut self, event: RollingEvent) {
        if let (Some(rolling), RollingEvent::Told(told)) = (&mut self.rolling, event) {
            rolling.hear(told, self.placed.as_ref().map(|read| &read.revision));
        }
        self.roll_out().await;
    }

    /// Does what is due about rollouts.
    pub(super) async fn roll_out(&mut self) {
        let Some(read) = self.placed.clone() else { return };
        let Some(mut rolling) = self.rolling.take() else {
            return;
        };
        let mut stands = Vec::new();
        let mut waits = BTreeMap::new();
        let mut mine: BTreeMap<SliceName, Vec<&DesiredSliver>> = rolling
            .slices
            .keys()
            .map(|slice| (slice.clone(), Vec::new()))
            .collect();
        for sliver in read.slivers.values() {
            if let Some(of_slice) = mine.get_mut(&sliver.id.slice) {
                of_slice.push(sliver);
            }
        }
        for (slice, mine) in mine {
            let outcome = self.look_at_slice(&mut rolling, &read, &slice, &mine);
            stands.extend(outcome.stands);
            waits.extend(outcome.waits);
            if let Some((known, next)) = outcome.swap
                && !self.stopping
            {
                rolling.swap(&slice, known, next);
            }
        }
        if !self.stopping {
            self.give_back_left(&mut rolling, &read);
        }
        let busy = !waits.is_empty() || rolling.slices.values().any(|outline| outline.holds.is_some());
        rolling.board.set_busy(busy || !rolling.stale.is_empty());
        let told = rolling.waits != waits;
        rolling.waits = waits;
        let board = Arc::clone(&rolling.board);
        self.rolling = Some(rolling);
        let changed = !stands.is_empty() && self.take_stands(stands).await;
        board.say(self.said(&read));
        if changed {
            self.regate().await;
        } else if told {
            self.wake();
        }
        self.regrant().await;
    }

    /// Decides about one slice.
    fn look_at_slice(
        &self,
        rolling: &mut Rolling,
        read: &DesiredNode,
        slice: &SliceName,
        mine: &[&DesiredSliver],
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(revision) = rolling.slices.get(slice).map(|outline| outline.revision) else {
            return outcome;
        };
        let Some(seen) = rolling.board.seen(slice) else {
            let why = "the board has not been read since this commit was";
            for sliver in mine {
                if self
                    .stand(sliver, revision)
                    .is_none_or(|stand| stand.at.0 != revision)
                {
                    outcome.waits.insert(sliver.id.clone(), why.to_owned());
                }
            }
            return outcome;
        };
        let name = self.settings.node.to_string();
        let signed = Signed {
            at: self.clock.now(),
            by: &name,
        };
        let now = Instant::now();
        let asked = RolloutKey {
            revision,
            commit: read.revision.clone(),
        };
        let about = seen.known.record.as_ref().map(|record| {
            let after =
                record.to.revision != revision && rolling.comes_after(&read.revision, &record.to.commit);
            wanted(record, &asked, after)
        });
        let not_before = rolling.not_before;
        let pace = &mut rolling.pace;
        let free = rolling.asking.is_free(slice, now) && not_before <= now;
        let Some(outline) = rolling.slices.get_mut(slice) else {
            return outcome;
        };
        let (Some(record), Some(about)) = (&seen.known.record, about) else {
            let fresh = mine.iter().all(|sliver| self.stand(sliver, revision).is_none());
            let next = begin(None, asked, &outline.policy, fresh, signed);
            outcome.swap = free.then(|| (seen.known.clone(), next));
            outcome.wait(
                self,
                mine,
                revision,
                "the rollout of this revision has not begun on the board",
            );
            return outcome;
        };
        if about == Wanted::Newer {
            let next = begin(Some(record), asked, &outline.policy, false, signed);
            outcome.swap = free.then(|| (seen.known.clone(), next));
            outcome.wait(
                self,
                mine,
                revision,
                "the rollout of this revision has not begun on the board",
            );
            return outcome;
        }
        let waves = waves(outline, record);
        let seen = self.with_own(&seen, mine);
        let snapshot = xeno_reconciler::rollout::Snapshot {
            slivers: seen.slivers.clone(),
            away: seen.away.clone(),
        };
        let tally = Tally::of(record, &waves, &outline.placement, &snapshot);
        outline.holds = None;
        if about == Wanted::This {
            let now_ms = crate::clock::millis(now.saturating_duration_since(rolling.began));
            let healthy_ms = outline.witness.look(record, &waves, &tally, now_ms);
            let left = record.policy.bake.0.saturating_sub(healthy_ms);
            outline.due = (left > 0).then(|| now + Duration::from_millis(left));
            match decide(record, &waves, &tally, healthy_ms) {
                Decision::Proceed(proposal) => {
                    let again = outline
                        .proposal
                        .as_ref()
                        .filter(|(before, _)| *before == proposal);
                    let nodes = u32::try_from(outline.placement.len()).unwrap_or(u32::MAX);
                    let at = again.map_or_else(|| now + pace.until_start(nodes), |(_, at)| *at);
                    if free && at <= now {
                        let next = record.go_on(&proposal, &waves, signed);
                        outcome.swap = next.ok().map(|next| (seen.known.clone(), next));
                    }
                    outline.proposal = Some((proposal, at));
                }
                Decision::RollBack(why) if free => {
                    let next = record.roll_back(&why, &waves, signed);
                    outcome.swap = next.ok().map(|next| (seen.known.clone(), next));
                }
                Decision::RollBack(_) | Decision::Settled => outline.proposal = None,
                Decision::Hold(hold) => {
                    outline.proposal = None;
                    outline.holds = Some(hold.to_string());
                }
            }
        }
        let outside = Outside {
            waves: &waves,
            away: tally.away,
            away_nodes: &snapshot.away,
        };
        for sliver in mine.iter().copied() {
            let stand = self.stand(sliver, revision);
            let footing = stand.as_ref().map(Stand::footing).unwrap_or_default();
            let runs = footing.runs(record);
            // What the rollout does not change about this sliver needs no turn.
            let same = stand
                .as_ref()
                .is_some_and(|stand| rollout_digest(&stand.at.1) == rollout_digest(sliver));
            if same && about == Wanted::This && record.aim() == Aim::To && runs != Runs::To {
                if let Some(stand) = toward(stand.as_ref(), Aim::To, record, sliver) {
                    outcome.stands.push((stand, None));
                }
                continue;
            }
            let own = Own {
                number: sliver.id.number,
                node: &self.settings.node,
                runs,
                wanted: about,
            };
            let condition = self.condition(&sliver.id, rolling.stale.contains(&sliver.id));
            // A person may take as long as it takes.
            let unapproved = self.waits_with_a_turn(&sliver.id);
            let slotted = record.slots.get(&own.number) == Some(own.node) && unapproved.is_none();
            let grace_ms = sliver.health.as_ref().map_or(0, |health| health.grace.0);
            let now_ms = crate::clock::millis(now.saturating_duration_since(rolling.began));
            let waits = || self.waiting.get(&sliver.id).cloned();
            let patience = &mut outline.patience;
            let condition = patience.look(own.number, slotted, condition, grace_ms, now_ms, waits);
            if let Some(due_ms) = patience.due_ms(grace_ms) {
                let due = rolling.began + Duration::from_millis(due_ms);
                outline.due = Some(outline.due.map_or(due, |before| before.min(due)));
            }
            match step(Some(record), own, &condition, outside, signed) {
                Step::Swap(next) => {
                    let takes = next.slots.len() > record.slots.len();
                    let approval = (record.aim() == Aim::To).then(|| self.waits_for_approval(&sliver.id));
                    let why = self.not_now(read, &sliver.id).or(approval.flatten());
                    if let Some(why) = why.filter(|_| takes) {
                        outcome.waits.insert(sliver.id.clone(), why);
                    } else if free && outcome.swap.is_none() {
                        outcome.swap = Some((seen.known.clone(), *next));
                    }
                    if takes {
                        let why = "it is about to take its turn".to_owned();
                        outcome.waits.entry(sliver.id.clone()).or_insert(why);
                    }
                }
                Step::Change(aim) => {
                    if let Some(stand) = toward(stand.as_ref(), aim, record, sliver) {
                        let what = format!(
                            "{} changes {aim}, by the rollout of {}",
                            sliver.id,
                            record.to.commit.short()
                        );
                        outcome.stands.push((stand, Some(what)));
                    }
                }
                Step::Rest => {
                    let waits = unapproved.map(|why| (sliver.id.clone(), why));
                    outcome.waits.extend(waits);
                }
                Step::Wait(wait) => {
                    outcome.waits.insert(sliver.id.clone(), wait.to_string());
                }
            }
        }
        outcome
    }

    /// Where a sliver stands: as it was written down, or, where no rollout has come to it yet, as what was last carried through.
    fn stand(&self, sliver: &DesiredSliver, revision: Digest) -> Option<Stand> {
        if let Some(stand) = self.memory.stands.get(&sliver.id) {
            return Some(stand.clone());
        }
        let applied = &self.made_of(&sliver.id)?.desired;
        let same = rollout_digest(applied) == rollout_digest(sliver);
        Some(Stand {
            at: (
                if same { revision } else { rollout_digest(applied) },
                applied.clone(),
            ),
            good: None,
        })
    }

    /// Why a sliver does not begin to change at this hour.
    fn not_now(&self, read: &DesiredNode, sliver: &SliverId) -> Option<String> {
        let now = self.clock.now();
        if self.freezes().iter().any(|freeze| freeze.holds(sliver, now)) {
            return Some("reconciling it is frozen".to_owned());
        }
        let site = &read.site;
        (!site.windows.open_at(now)).then(|| {
            let opens = xeno_reconciler::report::utc(site.windows.opens_after(now));
            format!("the maintenance window of its site opens at {opens}")
        })
    }

    /// How a sliver of this node is.
    fn condition(&self, sliver: &SliverId, stale: bool) -> Condition {
        if stale || self.waits_with_a_turn(sliver).is_some() {
            return Condition::Changing;
        }
        let back_off = self.memory.backing_off.get(sliver);
        let failure = back_off.map(|back_off| format!("{}: {}", back_off.action, back_off.why));
        let change = self.plan.as_ref().and_then(|plan| plan.changes.get(sliver));
        let embodiment = self
            .observed
            .as_ref()
            .and_then(|observed| observed.domains.known())
            .map_or_else(
                || sliver.clone(),
                |domains| xeno_reconciler::serving(domains, sliver),
            );
        condition(failure, change, self.health_seen.get(&embodiment))
    }

    /// What the board says of a slice, with what this node knows better of its own.
    fn with_own(&self, seen: &Seen, mine: &[&DesiredSliver]) -> Seen {
        let mut seen = seen.clone();
        for sliver in mine {
            if let Some(summary) = self.said_of(&sliver.id) {
                seen.slivers.insert(sliver.id.number, summary);
            }
        }
        seen
    }

    fn said_of(&self, sliver: &SliverId) -> Option<SliverSummary> {
        let stand = self.memory.stands.get(sliver)?;
        let stale = self
            .rolling
            .as_ref()
            .is_some_and(|rolling| rolling.stale.contains(sliver));
        Some(SliverSummary {
            revision: stand.at.0,
            condition: self.condition(sliver, stale),
            since: self.clock.now(),
        })
    }

    /// What is said of the slivers here.
    fn said(&self, read: &DesiredNode) -> BTreeMap<SliverId, SliverSummary> {
        let slivers = read.slivers.keys();
        slivers
            .filter_map(|sliver| Some((sliver.clone(), self.said_of(sliver)?)))
            .collect()
    }

    /// Writes down where slivers stand from now on.
    async fn take_stands(&mut self, stands: Vec<(Stand, Option<String>)>) -> bool {
        let events = stands.iter().filter_map(|(stand, what)| {
            let sliver = stand.at.1.id.clone();
            Some(self.event(EventKind::Rollout, Some(sliver), what.clone()?))
        });
        let events = events.collect();
        let written: Vec<Stand> = stands.iter().map(|(stand, _)| stand.clone()).collect();
        let noted = self.remember(events, move |w| {
            written.iter().try_for_each(|stand| {
                w.clear_back_off(Some(&stand.at.1.id))?;
                w.stand(stand)
            })
        });
        if noted.await.is_none() {
            return false;
        }
        for (stand, _) in stands {
            let sliver = stand.at.1.id.clone();
            self.memory.backing_off.remove(&sliver);
            if let Some(rolling) = &mut self.rolling {
                rolling.stale.insert(sliver.clone());
            }
            self.memory.stands.insert(sliver, stand);
        }
        true
    }
}

impl Outcome {
    /// All that are not what the commit asks for wait for this.
    fn wait<H, S>(&mut self, agent: &Agent<H, S>, mine: &[&DesiredSliver], revision: Digest, why: &str)
    where
        H: MoveMemory + 'static,
        S: MoveLayers + 'static,
    {
        for sliver in mine {
            if agent
                .stand(sliver, revision)
                .is_none_or(|stand| stand.at.0 != revision)
            {
                self.waits.insert(sliver.id.clone(), why.to_owned());
            }
        }
    }
}

/// Where a sliver stands once it is changed so; `None`: it stands there.
fn toward(stand: Option<&Stand>, aim: Aim, record: &RolloutRecord, desired: &DesiredSliver) -> Option<Stand> {
    let footing = stand.map(Stand::footing).unwrap_or_default();
    let next = footing.toward(aim, record);
    if footing.at == next.at {
        return None;
    }
    let before = stand.cloned();
    let good = match (before, next.good) {
        (Some(before), Some(good)) if good == before.at.0 => Some(before.at),
        (Some(before), _) => before.good,
        (None, _) => None,
    };
    let at = match aim {
        Aim::To => (record.to.revision, desired.clone()),
        Aim::Back => good.clone()?,
    };
    Some(Stand { at, good })
}
