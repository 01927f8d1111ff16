//! The agent in figures.

use std::collections::BTreeMap;

use xeno_model::observed::Seen;
use xeno_reconciler::change::ChangeClass;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};

use super::doctor::blind_facets;
use crate::event_loop::{Agent, Stage};
use crate::figures::Figures;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    pub(in crate::event_loop) fn figures(&self) -> Figures {
        let (mut phases, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        for sliver in self.all_slivers() {
            *phases.entry(self.sliver_phase(&sliver).as_str()).or_default() += 1;
            let change = self.change(&sliver);
            let waits = change.filter(|change| change.class == ChangeClass::Wait);
            if let Some(reason) = waits.and_then(|change| change.reasons.first()) {
                *waiting.entry(reason.code()).or_default() += 1;
            }
        }
        let observed = self.observed.as_ref();
        let run_actions = match &self.stage {
            Stage::Running(progress) => {
                let actions = progress.run.actions();
                actions.filter(|(_, state)| !state.is_final()).count()
            }
            Stage::Idle | Stage::Looking => 0,
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Figures {
            node: self.settings.node.to_string(),
            hypervisor: self.settings.hypervisor.clone(),
            began_ms: self.started_ms,
            now_ms: self.clock.now().0,
            tally: self.tally.clone(),
            phases,
            waiting,
            plan_actions: self.plan.as_ref().map(|plan| count(plan.actions.len())),
            run_actions: count(run_actions),
            generation: self
                .memory
                .accepted
                .as_ref()
                .map(|accepted| accepted.generation.0)
                .unwrap_or_default(),
            read_ms: self.source.read_ms,
            source_fails: self.source.failure.is_some(),
            file_server: observed.map(|observed| matches!(observed.storage, Seen::Known(_))),
            blind: observed.map_or(0, |observed| count(blind_facets(observed).len())),
            state_fails: self.memory.failure.is_some(),
        }
    }
}
