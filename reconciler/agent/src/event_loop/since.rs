//! Since when each sliver has been in the plan for which reason.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::id::{SliverId, Timestamp};
use xeno_reconciler::plan::Plan;

/// Remembers when reasons came up. As long as the agent runs: it cannot know what was before.
#[derive(Clone, Debug, Default)]
pub(super) struct Since {
    by_sliver: BTreeMap<SliverId, BTreeMap<&'static str, Timestamp>>,
}

impl Since {
    /// Looks at the newest plan. What is in it for the same reason as before has been so since then; a reason that has
    /// gone is forgotten.
    pub(super) fn note(&mut self, plan: &Plan, now: Timestamp) {
        let before = std::mem::take(&mut self.by_sliver);
        for (sliver, change) in &plan.changes {
            let codes: BTreeSet<_> = change.reasons.iter().map(|reason| reason.code()).collect();
            if codes.is_empty() {
                continue;
            }
            let known = before.get(sliver);
            let of = |code| known.and_then(|known| known.get(code)).copied().unwrap_or(now);
            let since = codes.into_iter().map(|code| (code, of(code))).collect();
            self.by_sliver.insert(sliver.clone(), since);
        }
    }

    /// Since when a sliver has had a reason.
    pub(super) fn of(&self, sliver: &SliverId, code: &str) -> Option<Timestamp> {
        self.by_sliver.get(sliver)?.get(code).copied()
    }
}
