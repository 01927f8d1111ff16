//! What must never be of a rollout, looked at with each change of its record and each disturbance of a sliver, by other means
//! than the rollout's own functions.

use xeno_model::id::SliverId;
use xeno_reconciler::change::{Cause, ChangeClass};
use xeno_reconciler::rollout::{Aim, RolloutRecord, Verdict, Waves};
use xeno_reconciler::tenure::Holder;

use crate::board::Ask;
use crate::world::World;

impl World<'_> {
    /// A record has changed.
    pub(crate) fn watch_over(&mut self, ask: &Ask, before: Option<&RolloutRecord>) {
        let (slice, now) = (ask.slice, &*ask.next);
        let name = self.slices[slice].clone();
        // By the placement that its node has read: one that others have not read yet may cut the waves elsewhere.
        let (waves, _) = self.waves(slice, now, ask.head);
        let wrong = self.wrong(slice, before, now, &waves);
        let shared = &mut self.board.slices[slice];
        shared.left_alone.retain(|number| now.slots.contains_key(number));
        let failed = shared.failed.entry(now.to.clone()).or_default();
        failed.extend(&now.failed);
        if let Some(what) = wrong {
            self.safety.broken(format!("the rollout of {name}: {what}"));
        }
        match &now.verdict {
            Verdict::Rolling | Verdict::Paused { .. } => {}
            Verdict::Held { .. } => self.reach.hit("verdict: held"),
            Verdict::Failed { .. } => self.reach.hit("verdict: failed"),
            Verdict::Aborted { .. } => self.reach.hit("verdict: aborted"),
            Verdict::Done => self.reach.hit("verdict: done"),
        }
        if before.is_some_and(|before| before.skipped != now.skipped) {
            self.reach.hit("canary replaced");
        }
    }

    fn wrong(
        &self,
        slice: usize,
        before: Option<&RolloutRecord>,
        now: &RolloutRecord,
        waves: &Waves,
    ) -> Option<String> {
        let shared = &self.board.slices[slice];
        // Nodes that have read a later commit count by that.
        let views = self.views[self.number_of(now)..].iter();
        let slices = views.filter_map(|view| view.commit.fleet.slices.get(&self.slices[slice]));
        let all = slices.map(|slice| slice.slivers.len()).max().unwrap_or(0);
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let most = now.policy.max_unavailable.of(all).max(1);
        let added = |number: &&u32| before.is_none_or(|before| !before.slots.contains_key(*number));
        let new: Vec<u32> = now.slots.keys().filter(added).copied().collect();
        if !new.is_empty() {
            let held = now
                .slots
                .keys()
                .filter(|number| !shared.left_alone.contains(number))
                .count();
            if held > usize::try_from(most).unwrap_or(usize::MAX) {
                return Some(format!(
                    "{held} slivers may be down at once, and {most} are allowed"
                ));
            }
        }
        let failed = u32::try_from(now.failed.len()).unwrap_or(u32::MAX);
        let most_failed = now.policy.max_failed.of(all);
        if failed > most_failed && now.verdict == Verdict::Rolling {
            return Some(format!("it goes on with {failed} failed, and {most_failed} may"));
        }
        if failed > most_failed.saturating_add(most) {
            return Some(format!(
                "{failed} have failed, and at most {most_failed} and {most} under way could"
            ));
        }
        let before = before?;
        if self.number_of(now) < self.number_of(before) {
            return Some("it is about an older commit than before".to_owned());
        }
        if now.to != before.to {
            return None;
        }
        if now.wave < before.wave {
            return Some(format!("wave {} after wave {}", now.wave, before.wave));
        }
        if before.aim() == Aim::Back && now.aim() == Aim::To {
            return Some("what had failed is tried again".to_owned());
        }
        let may_begin = matches!(now.verdict, Verdict::Rolling | Verdict::Done);
        if !new.is_empty() && now.aim() == Aim::To && !may_begin {
            return Some(format!("sliver {} begins though it is {}", new[0], now.verdict));
        }
        let early = new.iter().find(|number| {
            waves
                .of(**number, &now.skipped)
                .is_some_and(|wave| wave > now.wave)
        });
        if now.verdict == Verdict::Rolling
            && let Some(early) = early
        {
            return Some(format!("sliver {early} begins before its wave"));
        }
        None
    }

    /// A sliver is about to be disturbed because it is to be something else.
    pub(crate) fn disturbs(&mut self, n: usize, sliver: &SliverId, class: ChangeClass, cause: Cause) {
        let rolled = match class {
            ChangeClass::Reboot | ChangeClass::Replace => cause == Cause::Change,
            _ => false,
        };
        if !rolled {
            return;
        }
        let change = self.nodes[n]
            .run
            .as_ref()
            .and_then(|running| running.run.plan().changes.get(sliver));
        let why = change
            .map(|change| format!("is disturbed: {:?}", change.reasons))
            .unwrap_or_default();
        self.needs_slot(n, sliver, &why);
    }

    /// Something is about to happen to a sliver that its rollout has to allow.
    pub(crate) fn needs_slot(&mut self, n: usize, sliver: &SliverId, what: &str) {
        let Some(slice) = self.slice_of(sliver) else {
            return;
        };
        let Some(record) = self.board.records.get(&slice).1 else {
            return self
                .safety
                .broken(format!("{sliver} {what}, and there is no rollout"));
        };
        // It may be another node's by now, where a commit has placed the sliver there meanwhile.
        let slotted = record.slots.contains_key(&sliver.number);
        let node = &self.nodes[n];
        let follows = node.follows.get(sliver);
        // What has failed, in this rollout or in the one before that it still follows, is tried again as that.
        let gave_up = &self.board.slices[slice].gave_up;
        let before = follows.and_then(|follows| self.views[*follows].keys.get(&slice));
        let mut rollouts = std::iter::once(&record.to).chain(before);
        let broken_already = record.failed.contains(&sliver.number)
            || rollouts.any(|to| gave_up.get(to).is_some_and(|all| all.contains(&sliver.number)));
        if !slotted && !broken_already {
            self.safety.broken(format!(
                "{}: {sliver} {what}, without a slot: {}; it follows {follows:?} of {}",
                node.name, record.verdict, node.head
            ));
        }
    }

    /// A sliver has another holder.
    pub(crate) fn watch_holder(&mut self, sliver: &SliverId, now: &Holder) {
        let last = self.safety.held.insert(sliver.clone(), now.epoch);
        if last.is_some_and(|last| last > now.epoch) {
            self.safety.broken(format!(
                "{sliver}: its record falls from epoch {} to {}",
                last.map_or(0, |last| last.0),
                now.epoch.0
            ));
        }
    }
}
