//! Why a sliver is not as desired, in sentences.

use xeno_model::desired::{HypervisorKind, Standing};
use xeno_model::id::SliverId;
use xeno_reconciler::change::{Change, ChangeClass, Reason};
use xeno_reconciler::enforce::unenforced;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::report;

use crate::api::{FORMAT_VERSION, HealthWord, SliverPhase, WhyReason, WhyView};
use crate::event_loop::answers::slivers::cause_word;
use crate::event_loop::{Agent, Stage};
use crate::handle::HandleError;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    pub(in crate::event_loop) fn why(&self, sliver: SliverId) -> Result<WhyView, HandleError> {
        let sliver = self.check_known(sliver)?;
        let phase = self.sliver_phase(&sliver);
        let health = self.health_view(&sliver);
        let healthy = matches!(health.verdict, HealthWord::Healthy | HealthWord::NotAsked);
        let mut sentences = Vec::new();
        for action in self.doing(&sliver) {
            sentences.push(format!("{action} is under way."));
        }
        if let Some(back_off) = self.failing(&sliver) {
            let times = match back_off.attempts {
                1 => "once".to_owned(),
                n => format!("{n} times in a row"),
            };
            let (action, why) = (&back_off.action, &back_off.why);
            let until = report::utc(self.by_the_wall(back_off.until));
            sentences.push(if back_off.permanent {
                format!(
                    "{action} failed {times}: {why}. That does not pass by itself: it is not tried again until what \
                     is asked of it changes, {until}, or `xeno reconcile`, whichever comes first."
                )
            } else {
                format!(
                    "{action} failed {times}: {why}. It is tried again at {until}; `xeno reconcile` tries at once."
                )
            });
        }
        if let Some(change) = self.change(&sliver) {
            let reasons = change
                .reasons
                .iter()
                .filter(|reason| !matches!(reason, Reason::BackingOff { .. }));
            let reasons: Vec<_> = reasons.map(report::sentence).collect();
            let settled = matches!(phase, SliverPhase::Settled);
            if silent(change) && settled {
                sentences.push(format!("It is as desired; but {}.", reasons.join("; ")));
            } else if !reasons.is_empty() && !settled {
                let word = match change.class {
                    ChangeClass::Wait => "waits",
                    class => class.word(),
                };
                sentences.push(format!("{word}: {}.", reasons.join("; ")));
            }
        }
        if let Stage::Running(progress) = &self.stage
            && let Some((action, xeno_reconciler::exec::ActionState::Blocked { by })) =
                progress.run.trouble(&sliver)
        {
            sentences.push(format!("{action} cannot be done in this run, since {by} failed."));
        }
        // What comes up to here is said by reasons too.
        let said = sentences.len();
        if let Some(why) = &health.why {
            sentences.push(format!("Its health check fails: {why}."));
        } else if health.verdict == HealthWord::Starting {
            sentences.push("Its health check has not passed yet.".to_owned());
        }
        if let Some(why) = self.turn_of(&sliver) {
            sentences.push(format!("{why}."));
        }
        if let Some(why) = self.not_read_again() {
            sentences.push(format!("Nothing is done: {why}."));
        } else if self.desired.is_none() {
            sentences.push("No commit has been accepted yet.".to_owned());
        }
        sentences.extend(
            self.problems()
                .into_iter()
                .map(|problem| format!("On the whole node: {problem}.")),
        );
        let told = |change: &Change| {
            let mut reasons = change.reasons.iter();
            reasons.any(|reason| matches!(reason, Reason::NotEnforced { .. }))
        };
        if !self.change(&sliver).is_some_and(told)
            && let Some((limits, by)) = self.unenforced(&sliver)
        {
            sentences.push(format!("Besides, {}.", report::not_enforced(&limits, by)));
        }
        let besides = sentences[said..].to_vec();
        let reachable = !self.change(&sliver).is_some_and(silent);
        let settled = matches!(phase, SliverPhase::Settled) && healthy && reachable;
        if settled {
            let well = match health.verdict {
                HealthWord::Healthy => "It is as desired, and healthy.",
                HealthWord::NotAsked | HealthWord::Unknown | HealthWord::Starting | HealthWord::Unhealthy => {
                    "It is as desired."
                }
            };
            sentences.insert(0, well.to_owned());
        } else if matches!(phase, SliverPhase::Leftover) {
            sentences.insert(
                0,
                "It is not desired here; what its removal kept is purged in time.".to_owned(),
            );
        } else if sentences.is_empty() {
            sentences.push("The agent has not looked at it yet.".to_owned());
        }
        let change = self.change(&sliver);
        Ok(WhyView {
            format_version: FORMAT_VERSION,
            phase,
            settled,
            class: change.map(|change| change.class.word().to_owned()),
            cause: change.map(|change| cause_word(change.cause).to_owned()),
            reasons: self.reasons(&sliver, change, phase),
            sliver: sliver.to_string(),
            sentences,
            besides,
        })
    }

    /// What keeps a sliver here that is to go elsewhere.
    fn turn_of(&self, sliver: &SliverId) -> Option<&String> {
        self.rights.as_ref()?.turn_of(sliver)
    }

    /// Every reason that the run under way and the plan hold for a sliver, what it waits for first.
    fn reasons(&self, sliver: &SliverId, change: Option<&Change>, phase: SliverPhase) -> Vec<WhyReason> {
        let mut reasons = match &self.stage {
            Stage::Running(progress) => report::of_run(&progress.run, sliver, self.clock.elapsed_ms()),
            Stage::Idle | Stage::Looking => Vec::new(),
        };
        if !matches!(phase, SliverPhase::Settled) || change.is_some_and(silent) {
            reasons.extend(
                change
                    .into_iter()
                    .flat_map(|change| change.reasons.iter().cloned()),
            );
        }
        reasons.sort_by_key(|reason| !reason.holds_back());
        let name = sliver.to_string();
        let view = |reason: Reason| WhyReason {
            code: reason.code().to_owned(),
            text: report::sentence(&reason),
            waits: reason.holds_back(),
            since_ms: self.since.of(sliver, reason.code()).map(|since| since.0),
            next: report::next_step(&reason, &name),
        };
        reasons.into_iter().map(view).collect()
    }

    /// Limits that a sliver asks for and that this node does not keep.
    pub(in crate::event_loop) fn unenforced(
        &self,
        sliver: &SliverId,
    ) -> Option<(Vec<String>, HypervisorKind)> {
        let desired = self.desired.as_deref()?;
        let Standing::Named(node) = &desired.standing else {
            return None;
        };
        let limits = unenforced(desired.slivers.get(sliver)?, node.hypervisor);
        (!limits.is_empty()).then_some((limits, node.hypervisor))
    }
}

/// Whether something far away keeps a sliver waiting that is otherwise as desired.
fn silent(change: &Change) -> bool {
    let mut reasons = change.reasons.iter();
    reasons.any(|reason| matches!(reason, Reason::RemoteSilent { .. }))
}
