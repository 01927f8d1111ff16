//! Rollouts: what each node does about its own slivers, by the real functions (`xeno_reconciler::rollout`). Here is only who asks
//! when; how the board answers, and what witnesses decide, is in `witnesses.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use xeno_model::desired::SliverState;
use xeno_model::id::{Digest, NodeName, SliverId};
use xeno_model::normal::rollout_digest;
use xeno_reconciler::rollout::{
    Aim, Condition, Footing, Outside, Own, Placed, RolloutKey, RolloutRecord, Runs, Signed, SliverSummary,
    Step, Verdict, Wait, Wanted, Waves, begin, step, wanted,
};

use crate::board::{Away, Sorted};
use crate::node::{Active, Waited};
use crate::world::{Event, World};

impl World<'_> {
    /// Whether a node reaches the board, and has said so.
    pub(crate) fn is_member(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.agent && node.member && !node.away
    }

    /// The number of a sliver's slice.
    pub(crate) fn slice_of(&self, sliver: &SliverId) -> Option<usize> {
        self.slices.binary_search(&sliver.slice).ok()
    }

    /// What a commit asks a slice to be.
    pub(crate) fn key(&self, slice: usize, head: usize) -> Option<&RolloutKey> {
        self.views[head].keys.get(&slice)
    }

    /// The waves of a rollout by the placement of a commit, and that placement.
    pub(crate) fn waves(
        &mut self,
        slice: usize,
        record: &RolloutRecord,
        head: usize,
    ) -> (Arc<Waves>, Arc<BTreeMap<u32, Placed>>) {
        if let Some(sorted) = &self.board.slices[slice].waves
            && sorted.key == record.to
            && sorted.head == head
        {
            return (Arc::clone(&sorted.waves), Arc::clone(&sorted.placement));
        }
        let fleet = &self.views[head].commit.fleet;
        let slivers = fleet
            .slices
            .get(&self.slices[slice])
            .into_iter()
            .flat_map(|slice| &slice.slivers);
        let whereabouts = &self.views[head].whereabouts;
        let placed = |(number, (node, _)): (&u32, &(NodeName, _))| {
            let at = Arc::clone(whereabouts.get(node)?);
            let node = node.clone();
            Some((*number, Placed { node, at }))
        };
        let placement: Arc<BTreeMap<u32, Placed>> = Arc::new(slivers.filter_map(placed).collect());
        let waves = Arc::new(Waves::new(&record.policy, &placement, Waves::seed(&record.to)));
        self.board.slices[slice].waves = Some(Sorted {
            key: record.to.clone(),
            head,
            waves: Arc::clone(&waves),
            placement: Arc::clone(&placement),
        });
        (waves, placement)
    }

    /// How many slivers of a rollout are out of reach and have not failed: counted when that can have changed.
    fn away(
        &mut self,
        slice: usize,
        (read, record): (u64, &RolloutRecord),
        (head, placement): (usize, &BTreeMap<u32, Placed>),
    ) -> u32 {
        let shared = &mut self.board.slices[slice];
        if let Some(away) = shared.away.filter(|away| away.read == read && away.head == head) {
            return away.slivers;
        }
        let nodes = &shared.snapshot.away;
        let counts = |(number, placed): &(&u32, &Placed)| {
            !record.failed.contains(number) && nodes.contains(&placed.node)
        };
        let slivers = placement.iter().filter(counts).count();
        let slivers = u32::try_from(slivers).unwrap_or(u32::MAX);
        shared.away = Some(Away { read, head, slivers });
        slivers
    }

    /// A sliver is to be looked after until its rollout is through with it.
    pub(crate) fn start(&mut self, n: usize, sliver: &SliverId) {
        let Some(slice) = self.slice_of(sliver) else {
            return;
        };
        let active = Active { slice, waited: None };
        self.nodes[n].active.insert(sliver.clone(), active);
        self.board.slices[slice].active.insert(sliver.number, n);
        self.consider_soon(n, 0);
    }

    fn forget(&mut self, n: usize, slice: usize, sliver: &SliverId) {
        self.nodes[n].active.remove(sliver);
        let active = &mut self.board.slices[slice].active;
        if active.get(&sliver.number) == Some(&n) {
            active.remove(&sliver.number);
        }
    }

    /// Has a node look at the rollouts of its slivers.
    pub(crate) fn consider_soon(&mut self, n: usize, wait_ms: u64) {
        let at = self.now.saturating_add(wait_ms);
        let node = &mut self.nodes[n];
        if node
            .consider_at
            .is_some_and(|pending| pending <= at && pending >= self.now)
        {
            return;
        }
        node.consider_at = Some(at);
        self.queue.at(at, Event::Consider(n));
    }

    /// A node looks at the rollouts of its slivers.
    pub(crate) fn consider(&mut self, n: usize) {
        if self.nodes[n].consider_at != Some(self.now) {
            return;
        }
        self.nodes[n].consider_at = None;
        if !self.is_member(n) {
            return;
        }
        self.materialise(n);
        let mut changed = false;
        for (sliver, slice) in self.with_news(n) {
            changed |= self.consider_one(n, &sliver, slice);
        }
        if changed {
            self.supersede(n);
        }
    }

    /// The slivers of a node that have something new to look at, and the numbers of their slices. Others wait on for what they did.
    fn with_news(&mut self, n: usize) -> Vec<(SliverId, usize)> {
        let node = &self.nodes[n];
        let mut some = Vec::new();
        for (sliver, active) in &node.active {
            let slice = active.slice;
            if node.asking.contains(&slice) {
                continue;
            }
            let shared = &mut self.board.slices[slice];
            let read = self.board.records.get(&slice).0;
            let same = |waited: &Waited| waited.read == read && waited.away_changes == shared.away_changes;
            match active.waited.filter(same) {
                Some(waited) => {
                    self.reach.hit(waited.word);
                    if waited.for_others {
                        shared.waiting.insert(n);
                    }
                }
                None => some.push((sliver.clone(), slice)),
            }
        }
        some
    }

    /// Looks at one sliver; whether it may be made something else now.
    fn consider_one(&mut self, n: usize, sliver: &SliverId, slice: usize) -> bool {
        let head = self.nodes[n].head;
        if self.nodes[n].asking.contains(&slice) {
            return false;
        }
        let placed = self.place_of(slice, sliver.number, head);
        let (read, record) = self.board.records.get(&slice);
        let record = record.cloned();
        let (true, Some(asked)) = (placed == Some(n), self.key(slice, head).cloned()) else {
            let left = record.and_then(|record| record.give_back(sliver.number, &self.nodes[n].name).ok());
            match left {
                None => self.forget(n, slice, sliver),
                // Another node goes on with it, and nothing is done to it here that the slot was taken for.
                Some(next) if self.leaves_alone(n, sliver) => self.ask(n, slice, read, next),
                Some(_) => {}
            }
            return false;
        };
        let descends = record.as_ref().is_none_or(|record| self.number_of(record) < head);
        let stands = record
            .as_ref()
            .map_or(Wanted::Newer, |record| wanted(record, &asked, descends));
        let (at, name) = (self.wall(n), self.nodes[n].name.clone());
        let signed = Signed {
            at,
            by: name.as_str(),
        };
        if stands == Wanted::Newer {
            let fleet = &self.views[head].commit.fleet;
            let slivers = fleet.slices.get(&sliver.slice);
            let policy = slivers
                .and_then(|slice| slice.slivers.values().next())
                .map(|(_, first)| &first.rollout);
            let Some(policy) = policy else { return false };
            let next = begin(record.as_deref(), asked, policy, true, signed);
            self.ask(n, slice, read, next);
            return false;
        }
        let Some(record) = record else { return false };
        let footing = self.footing(n, sliver, slice);
        let runs = footing.runs(&record);
        // What the rollout does not change about this sliver needs no turn.
        if stands == Wanted::This
            && record.aim() == Aim::To
            && !matches!(runs, Runs::To | Runs::Nothing)
            && self.is_the_same(n, sliver, slice)
        {
            return self.may_go(n, sliver, slice, &record, Aim::To);
        }
        let (waves, placement) = self.waves(slice, &record, head);
        let away = self.away(slice, (read, &record), (head, &placement));
        let own = Own {
            number: sliver.number,
            node: &name,
            runs,
            wanted: stands,
        };
        let condition = self.nodes[n]
            .conditions
            .get(sliver)
            .cloned()
            .unwrap_or(Condition::Changing);
        let condition = self.in_time(n, sliver, slice, &record, condition);
        let gave_up = self.board.slices[slice]
            .gave_up
            .entry(record.to.clone())
            .or_default();
        match condition {
            Condition::Failed { .. } if record.slots.get(&sliver.number) == Some(&name) => {
                gave_up.insert(sliver.number);
            }
            Condition::Healthy => {
                gave_up.remove(&sliver.number);
            }
            Condition::Failed { .. } | Condition::Changing => {}
        }
        let outside = Outside {
            waves: &waves,
            away,
            away_nodes: &self.board.slices[slice].snapshot.away,
        };
        match step(Some(&record), own, &condition, outside, signed) {
            Step::Swap(next) => {
                let takes = next.slots.len() > record.slots.len();
                if let Some(opens) = self.closed_until(n).filter(|_| takes) {
                    self.reach.hit("wait: window");
                    self.consider_soon(n, opens);
                } else if takes && record.aim() == Aim::To && self.waits_for_approval(n, sliver) {
                    self.reach.hit("wait: approval");
                } else {
                    self.ask(n, slice, read, *next);
                }
                false
            }
            Step::Change(aim) => self.may_go(n, sliver, slice, &record, aim),
            Step::Rest => {
                let slotted = record.slots.get(&sliver.number) == Some(&name);
                let over = match record.verdict {
                    Verdict::Done | Verdict::Failed { .. } | Verdict::Aborted { .. } => true,
                    Verdict::Rolling | Verdict::Paused { .. } | Verdict::Held { .. } => false,
                };
                // One that was never touched is as it was.
                let untouched = !self.nodes[n].conditions.contains_key(sliver);
                if over && !slotted && (untouched || condition == Condition::Healthy) {
                    self.forget(n, slice, sliver);
                }
                false
            }
            Step::Wait(wait) => {
                let word = word_of_wait(&wait);
                let for_others = matches!(wait, Wait::Slots { .. } | Wait::Away { .. });
                self.reach.hit(word);
                let shared = &mut self.board.slices[slice];
                if for_others {
                    shared.waiting.insert(n);
                }
                // Time may run out for one that is on its way.
                let slotted = record.slots.get(&sliver.number) == Some(&name);
                if let Some(active) = self.nodes[n].active.get_mut(sliver).filter(|_| !slotted) {
                    active.waited = Some(Waited {
                        read,
                        away_changes: shared.away_changes,
                        word,
                        for_others,
                    });
                }
                false
            }
        }
    }

    /// Whether a sliver that is placed elsewhere serves here as long as it is here, or is gone, and no run concerns it.
    fn leaves_alone(&self, n: usize, sliver: &SliverId) -> bool {
        let node = &self.nodes[n];
        let busy = node
            .run
            .as_ref()
            .is_some_and(|running| running.run.concerns(sliver));
        let down = self
            .asked(sliver, node.head)
            .is_some_and(|asked| asked.state != SliverState::Running);
        !busy && (self.runs_here(n, sliver) || down || !node.applied.contains_key(sliver))
    }

    /// Whether a node looks after slivers that its commit places elsewhere.
    pub(crate) fn has_left_slivers(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let mut active = node.active.iter();
        active.any(|(sliver, active)| self.place_of(active.slice, sliver.number, node.head) != Some(n))
    }

    /// How a sliver is, once it is taken into account for how long it has been on its way with a slot.
    fn in_time(
        &mut self,
        n: usize,
        sliver: &SliverId,
        slice: usize,
        record: &RolloutRecord,
        condition: Condition,
    ) -> Condition {
        let node = &self.nodes[n];
        let slotted = record.slots.get(&sliver.number) == Some(&node.name) && !node.turns.contains(sliver);
        let health = self
            .asked_of(slice, sliver.number, node.head)
            .and_then(|asked| asked.health.as_ref());
        let grace_ms = health.map_or(0, |health| health.grace.0);
        let before = condition.clone();
        let now = self.now;
        let patience = self.nodes[n].patience.entry(slice).or_default();
        let condition = patience.look(sliver.number, slotted, condition, grace_ms, now, || None);
        if let Some(due) = patience.due_ms(grace_ms).filter(|due| *due > now) {
            self.consider_by(n, due);
        }
        if condition != before {
            self.reach.hit("on its way for too long");
        }
        condition
    }

    /// Has a node look at the rollouts of its slivers by then, whatever it does before.
    fn consider_by(&mut self, n: usize, at: u64) {
        let node = &mut self.nodes[n];
        if node
            .overdue_at
            .is_none_or(|pending| pending > at || pending <= self.now)
        {
            node.overdue_at = Some(at);
            self.queue.at(at, Event::Overdue(n));
        }
    }

    /// What a node has written down about a sliver.
    fn footing(&self, n: usize, sliver: &SliverId, slice: usize) -> Footing {
        let node = &self.nodes[n];
        if node.newcomers.contains(sliver) && !node.holds(sliver) {
            return Footing::default();
        }
        let follows = node.follows.get(sliver).copied().unwrap_or(node.head);
        let revision = |head: usize| self.key(slice, head).map(|key| key.revision);
        Footing {
            at: revision(follows),
            good: node.goods.get(sliver).and_then(|good| revision(*good)),
        }
    }

    /// Whether a rollout changes nothing about a sliver, whatever it does to others of its slice.
    fn is_the_same(&mut self, n: usize, sliver: &SliverId, slice: usize) -> bool {
        let node = &self.nodes[n];
        let Some(&follows) = node.follows.get(sliver) else {
            return false;
        };
        let head = node.head;
        if let Some((from, to, same)) = node.same.get(sliver)
            && (*from, *to) == (follows, head)
        {
            return *same;
        }
        let asked = |of: usize| self.asked_of(slice, sliver.number, of);
        let (then, now) = (asked(follows), asked(head));
        let same = then
            .zip(now)
            .is_some_and(|(then, now)| rollout_digest(then) == rollout_digest(now));
        self.nodes[n].same.insert(sliver.clone(), (follows, head, same));
        same
    }

    /// How long the maintenance window of a node's site is still closed, if it is.
    fn closed_until(&self, n: usize) -> Option<u64> {
        let node = &self.nodes[n];
        let fleet = &self.views[node.head].commit.fleet;
        let site = fleet.sites.get(&fleet.nodes.get(&node.name)?.site)?;
        let now = self.wall(n);
        let windows = &site.policy.windows;
        (!windows.open_at(now)).then(|| windows.opens_after(now).0.saturating_sub(now.0).max(1))
    }

    /// A sliver may be made what the rollout brings, or what it was before.
    fn may_go(
        &mut self,
        n: usize,
        sliver: &SliverId,
        slice: usize,
        record: &RolloutRecord,
        aim: Aim,
    ) -> bool {
        let head = self.nodes[n].head;
        let footing = self.footing(n, sliver, slice);
        let next = footing.toward(aim, record);
        if next.at == footing.at {
            return false;
        }
        // The newest commit that asks for it; each node keeps it, though the repository has gone on.
        let commit_of = |revision: Option<Digest>| {
            let revision = revision?;
            (0..=head)
                .rev()
                .find(|at| self.key(slice, *at).map(|key| key.revision) == Some(revision))
        };
        let Some(follows) = commit_of(next.at) else {
            return false;
        };
        let good = commit_of(next.good);
        let node = &mut self.nodes[n];
        if aim == Aim::Back {
            self.reach.hit("goes back");
        }
        node.looks_again(sliver);
        node.follows.insert(sliver.clone(), follows);
        match good {
            Some(good) => node.goods.insert(sliver.clone(), good),
            None => node.goods.remove(sliver),
        };
        node.newcomers.remove(sliver);
        if let Some(running) = &mut node.run {
            running.stale.insert(sliver.clone());
        }
        node.back_off.remove(sliver);
        self.condition(n, sliver, Condition::Changing);
        true
    }

    /// Something is known of how a sliver is.
    pub(crate) fn condition(&mut self, n: usize, sliver: &SliverId, condition: Condition) {
        let now = self.now;
        let node = &mut self.nodes[n];
        if node.conditions.get(sliver) == Some(&condition) {
            return;
        }
        node.looks_again(sliver);
        node.conditions.insert(sliver.clone(), condition);
        node.unsaid.insert(sliver.clone());
        let before = node.summary.due_ms();
        node.summary.changed(now, &mut node.pace);
        let due = node.summary.due_ms();
        if let (None, Some(due)) = (before, due) {
            self.queue.at(due, Event::Say(n));
        }
        if self.nodes[n].active.contains_key(sliver) {
            self.consider_soon(n, 0);
        }
    }

    /// A node writes to the board how its slivers are.
    pub(crate) fn say(&mut self, n: usize) {
        let now = self.now;
        if !self.is_member(n) || self.nodes[n].summary.due_ms().is_none_or(|due| due > now) {
            return;
        }
        self.board.wrote(now, 1);
        let since = self.wall(n);
        let node = &mut self.nodes[n];
        node.summary.written(now);
        for sliver in std::mem::take(&mut node.unsaid) {
            let node = &self.nodes[n];
            let Some(slice) = self.slice_of(&sliver) else {
                continue;
            };
            let follows = node.follows.get(&sliver).copied().unwrap_or(node.head);
            let (Some(key), Some(condition)) = (self.key(slice, follows), node.conditions.get(&sliver))
            else {
                continue;
            };
            let said = SliverSummary {
                revision: key.revision,
                condition: condition.clone(),
                since,
            };
            self.board.slices[slice].hears(sliver.number, said);
            self.witness_soon(slice, 500);
        }
    }
}

fn word_of_wait(wait: &Wait) -> &'static str {
    match wait {
        Wait::NotBegun => "wait: not begun",
        Wait::Unread { .. } => "wait: commit unread",
        Wait::Paused { .. } => "wait: paused",
        Wait::Held { .. } => "wait: held",
        Wait::Wave { .. } => "wait: wave",
        Wait::Away { .. } => "wait: too many away",
        Wait::Slots { .. } => "wait: slots",
    }
}
