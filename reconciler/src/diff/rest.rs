//! Bringing a sliver to rest: suspended, stopped, or gone.

use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, Standing, Start};
use xeno_model::id::SliverId;
use xeno_model::observed::Ability;

use super::{Study, asked, cause};
use crate::change::{Cause, ChangeClass, Reason};
use crate::plan::PlanInput;
use crate::situation::{Situation, Step};

pub(super) fn to_suspend(situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let steps = situation.steps_to_rest(true, true);
    let mut study = to_rest(situation, desired, steps, ChangeClass::Suspend);
    if study.steps.contains(&Step::Shutdown) && !situation.able.contains(&Ability::Suspend) {
        study.hold(vec![Reason::NotSupported {
            what: "keeping a suspended sliver's memory in an image on this node".to_owned(),
        }]);
    }
    study
}

pub(super) fn to_stop(situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let resumes = desired.start == Start::Resume;
    // Whoever is kept down by others did not ask for its memory to be given up.
    let keep_image = resumes || situation.kept_down.is_some();
    let steps = situation.steps_to_rest(resumes, keep_image);
    to_rest(situation, desired, steps, ChangeClass::Stop)
}

fn to_rest(
    situation: &Situation<'_>,
    desired: &DesiredSliver,
    steps: BTreeSet<Step>,
    class: ChangeClass,
) -> Study {
    let mut reasons = asked(situation, desired);
    let cause = cause(&reasons);
    let disturbs = steps.iter().any(|step| match step {
        Step::Unpublish | Step::Shutdown | Step::Suspend | Step::Unexport | Step::Close | Step::Discard => {
            true
        }
        Step::Seal
        | Step::Tombstone
        | Step::Revive
        | Step::Adopt
        | Step::Open
        | Step::Limit
        | Step::Checkpoint
        | Step::Restore
        | Step::Stack
        | Step::Export
        | Step::Boot
        | Step::Resume
        | Step::Unpause
        | Step::Retune
        | Step::Await
        | Step::Publish
        | Step::Purge => false,
    });
    let sealing = steps.contains(&Step::Seal) && !steps.contains(&Step::Suspend);
    let class = match (steps.is_empty(), reasons.is_empty()) {
        (true, true) => ChangeClass::Keep,
        _ if disturbs || sealing => class,
        (false, _) | (true, false) if situation.applied.is_none() => ChangeClass::Create,
        (false, _) | (true, false) => ChangeClass::InPlace,
    };
    if cause == Cause::Drift && disturbs {
        reasons.push(Reason::NotStopped);
    }
    if cause == Cause::Drift && sealing {
        reasons.push(Reason::ImageUnsealed);
    }
    if class != ChangeClass::Keep && situation.kept_down.is_none() {
        reasons.push(match desired.state {
            xeno_model::desired::SliverState::Suspended => Reason::StateSuspended,
            xeno_model::desired::SliverState::Stopped | xeno_model::desired::SliverState::Running => {
                Reason::StateStopped
            }
        });
    }
    Study::new(&desired.id, class, cause, reasons).with(steps)
}

pub(super) fn undesired(
    input: &PlanInput<'_>,
    situation: &Situation<'_>,
    sliver: &SliverId,
    heir: Option<&SliverId>,
) -> Option<Study> {
    let tombstone = situation.storage.and_then(|storage| storage.tombstone);
    let mut study = if situation.exists() || situation.applied.is_some() {
        match heir {
            Some(to) => handed_over(situation, sliver, to),
            None => {
                let reason = if input.desired.elsewhere.contains(sliver) {
                    Reason::PlacedElsewhere
                } else {
                    Reason::NotDesired
                };
                let steps = situation.steps_to_remove();
                Study::new(sliver, ChangeClass::Remove, Cause::Change, vec![reason]).with(steps)
            }
        }
    } else {
        let since = tombstone.filter(|since| input.now.0.saturating_sub(since.0) >= input.tombstone_ms)?;
        let reasons = vec![Reason::TombstoneExpired { since }];
        let mut steps = BTreeSet::from([Step::Purge]);
        if situation.image.is_some() {
            steps.insert(Step::Discard);
        }
        Study::new(sliver, ChangeClass::Purge, Cause::Schedule, reasons).with(steps)
    };
    if input.desired.standing == Standing::NotNamed {
        study.hold(vec![Reason::NodeNotNamed]);
    } else if input.desired.slivers.is_empty() && input.desired.elsewhere.is_empty() {
        study.hold(vec![Reason::NothingDesired]);
    }
    Some(study)
}

/// It ends under this name, and what it wrote is left for its heir to take.
fn handed_over(situation: &Situation<'_>, sliver: &SliverId, to: &SliverId) -> Study {
    let reasons = vec![Reason::MovedTo { to: to.clone() }];
    let steps = situation.steps_down(false);
    let mut study = Study::new(sliver, ChangeClass::HandOver, Cause::Change, reasons).with(steps);
    if situation.image.is_some() {
        // It remembers its name and its links; nobody can resume it as somebody else.
        study.hold(vec![Reason::NotSupported {
            what: "taking over the stored memory of a sliver under another name; let it run first".to_owned(),
        }]);
    }
    study
}
