//! A plan that somebody has read, carried out as it was read or not at all.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::observed::ObservedNode;
use xeno_reconciler::plan::Plan;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::render;

use super::{Agent, Stage};
use crate::api::{Applied, ApplyRequest, FORMAT_VERSION};
use crate::handle::HandleError;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Plans from a look that was made for it, and begins the run if that is the plan that was asked for.
    pub(super) async fn apply(
        &mut self,
        observed: ObservedNode,
        asked: &ApplyRequest,
    ) -> Result<Applied, HandleError> {
        let Some(desired) = self.desired.clone() else {
            return Err(HandleError::NoDesired {
                why: self.source.failure.clone(),
            });
        };
        let stale = |why: String| HandleError::Stale { why };
        if matches!(self.stage, Stage::Running(_)) {
            return Err(stale("a plan is being carried out already".to_owned()));
        }
        if asked.node != self.settings.node.as_str() {
            return Err(stale(format!("it was made for node {}", asked.node)));
        }
        if asked.revision != desired.revision.as_str() {
            let now = desired.revision.short();
            return Err(stale(format!(
                "it was made for another commit; {now} is in force"
            )));
        }
        let planned = self
            .make_plan(&desired, &observed, &BTreeMap::new())
            .await
            .map_err(|why| HandleError::Plan { why })?;
        if asked.generation != planned.plan.generation.0 {
            return Err(stale("it was made for another generation".to_owned()));
        }
        if let Some(why) = difference(&planned.plan, asked) {
            return Err(stale(why));
        }
        if !planned.findings.is_empty() {
            let why = planned.findings.join("; ");
            return Err(HandleError::Plan { why });
        }
        let applied = Applied {
            format_version: FORMAT_VERSION,
            actions: planned.plan.actions.len(),
            summary: render::summary(&planned.plan),
        };
        self.observed = Some(observed);
        self.plan = Some(planned.plan.clone());
        if !planned.plan.actions.is_empty() || !planned.settlements.is_empty() {
            self.begin_run(desired, planned).await;
        }
        Ok(applied)
    }
}

/// Why a plan is not the one that was asked for; `None` where it is.
fn difference(plan: &Plan, asked: &ApplyRequest) -> Option<String> {
    let now: Vec<_> = plan.actions.iter().map(|one| one.action.key().0).collect();
    let then: Vec<_> = asked.actions.iter().map(|one| one.key.as_str()).collect();
    let more: Vec<_> = now.iter().filter(|key| !then.contains(&key.as_str())).collect();
    let less: Vec<_> = then
        .iter()
        .filter(|key| !now.iter().any(|one| one == *key))
        .collect();
    if let Some(key) = more.first() {
        return Some(format!("{key} is to be done by now, and was not planned"));
    }
    if let Some(key) = less.first() {
        return Some(format!("{key} was planned, and is not to be done any more"));
    }
    let same_order = plan.actions.len() == asked.actions.len()
        && plan.actions.iter().zip(&asked.actions).all(|(one, asked)| {
            let after: BTreeSet<_> = one.after.iter().map(|key| key.0.as_str()).collect();
            one.action.key().0 == asked.key && after == asked.after.iter().map(String::as_str).collect()
        });
    (!same_order).then(|| "the same is to be done in another order by now".to_owned())
}
