//! Bringing a sliver to run.

use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, SliverState};
use xeno_model::observed::DomainState;

use super::{Study, asked, cause};
use crate::change::{ChangeClass, Reason};
use crate::ports::{Tuning, share};
use crate::situation::{ImageUse, Marks, Situation, Step, mistuned, same_ports};

pub(super) fn to_run(situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let marks = Marks::of(desired);
    let steps = situation.steps_to_run(desired, marks);
    let mut reasons = asked(situation, desired);
    let cause = cause(&reasons);
    let apart = came_apart(situation, desired, marks, &steps);
    // What only has other limits than it should, or an image that nobody will resume, serves as well as before.
    let mends = apart.iter().any(|reason| {
        !matches!(
            reason,
            Reason::LimitForeign { .. }
                | Reason::ShareForeign { .. }
                | Reason::Mistuned { .. }
                | Reason::ImageBesideDomain
        )
    });
    reasons.extend(apart);
    let image = situation.image_use(desired, marks);
    if steps.contains(&Step::Boot) {
        reasons.extend(image_not_used(situation, image, marks));
    }
    if steps.contains(&Step::Restore)
        && let Some(turn) = situation.turn(desired, marks)
        && let Some(back) = turn.back
    {
        reasons.push(Reason::GoesBack {
            to: back.to,
            at: back.at,
            keeps: turn.keeps,
        });
    }
    if steps.iter().eq([&Step::Await]) {
        reasons.push(Reason::NotHealthyYet);
    }
    let running = situation
        .domain
        .or(situation.beside)
        .is_some_and(|d| matches!(d.state, DomainState::Running | DomainState::Paused));
    let class = if steps.is_empty() && reasons.is_empty() {
        ChangeClass::Keep
    } else if steps.contains(&Step::Resume) {
        ChangeClass::Resume
    } else if !steps.contains(&Step::Boot) {
        ChangeClass::InPlace
    } else if running {
        ChangeClass::Reboot
    } else {
        match situation.applied {
            Some(applied) if applied.complete || situation.kept() => ChangeClass::Start,
            Some(_) | None => ChangeClass::Create,
        }
    };
    let mut study = Study::new(&desired.id, class, cause, reasons).with(steps);
    study.marks = Some(marks);
    study.mends = mends;
    if [Step::Checkpoint, Step::Restore]
        .iter()
        .any(|step| study.steps.contains(step))
    {
        study.turn = situation.turn(desired, marks);
    }
    match image {
        ImageUse::Misfit(what)
            if study.steps.contains(&Step::Boot) && !situation.may_discard(desired, marks) =>
        {
            study.hold(vec![Reason::ImageStale { what }]);
        }
        ImageUse::Untold if study.steps.contains(&Step::Boot) => {
            study.hold(vec![Reason::Blind {
                facet: "writable layers",
                why: "what they hold could not be told, and an image was taken with it".to_owned(),
            }]);
        }
        ImageUse::None | ImageUse::Fits | ImageUse::Misfit(_) | ImageUse::Untold => {}
    }
    study
}

/// Why it boots, where one could expect that it resumes.
fn image_not_used(situation: &Situation<'_>, image: ImageUse, marks: Marks) -> Option<Reason> {
    let suspended = situation
        .applied
        .is_some_and(|applied| applied.complete && applied.desired.state == SliverState::Suspended);
    match image {
        ImageUse::Misfit(what) => situation
            .desired
            .as_deref()
            .filter(|desired| situation.may_discard(desired, marks))
            .map(|_| Reason::ImageDiscarded { what }),
        // One that never ran had nothing to be stored.
        ImageUse::None if suspended && situation.domain.is_none() && situation.kept() => {
            Some(Reason::ImageLost)
        }
        ImageUse::None | ImageUse::Fits | ImageUse::Untold => None,
    }
}

/// Reasons in which something happened to the node; `steps` are never without one, these or what was asked.
fn came_apart(
    situation: &Situation<'_>,
    desired: &DesiredSliver,
    marks: Marks,
    steps: &BTreeSet<Step>,
) -> Vec<Reason> {
    let Some(applied) = situation.applied.filter(|applied| applied.complete) else {
        // What an unfinished run left behind needs no other explanation.
        return vec![];
    };
    let same = applied.desired == *desired;
    let before = if same { marks } else { Marks::of(&applied.desired) };
    let mut reasons = Vec::new();
    let ran = applied.desired.state == SliverState::Running;
    match situation.domain {
        None if ran && situation.beside.is_none() => reasons.push(Reason::DomainMissing),
        None => {}
        Some(domain) if domain.state == DomainState::Paused && steps.contains(&Step::Unpause) => {
            reasons.push(Reason::DomainPaused);
        }
        Some(domain) if domain.state != DomainState::Running => {
            reasons.push(Reason::DomainNotRunning { state: domain.state });
        }
        Some(domain) if Some(domain.uuid) != situation.uuid && domain.uuid != applied.desired.uuid => {
            reasons.push(Reason::DomainForeignUuid { uuid: domain.uuid });
        }
        Some(domain) if domain.booted != marks.boot && domain.booted != before.boot => {
            reasons.push(Reason::DomainForeignBoot {
                booted: domain.booted,
            });
        }
        Some(_) => {}
    }
    if same && let Some(domain) = situation.domain {
        reasons.extend(other_tuning(situation, desired, steps, domain));
    }
    if situation.domain.is_some() && situation.image.is_some() && steps.contains(&Step::Discard) {
        reasons.push(Reason::ImageBesideDomain);
    }
    if steps.contains(&Step::Limit) {
        // The limit asked for before is what is there until this is done.
        let limits = situation.storage.into_iter().flat_map(|storage| &storage.limits);
        let asked = [&applied.desired, desired].map(|asked| asked.resources.layer_limits());
        let foreign = limits.filter(|limit| !asked.contains(limit));
        let foreign = foreign.map(|limit| Reason::LimitForeign { limit: *limit });
        reasons.extend(foreign);
        let foreign = situation.share_foreign(desired);
        let foreign = foreign.filter(|has| *has != share(&applied.desired));
        reasons.extend(foreign.map(|share| Reason::ShareForeign { share }));
    }
    // Without its domain nobody misses the storage, and what was asked explains a new stack.
    if situation.domain.is_some() && steps.contains(&Step::Export) {
        let storage = situation.storage.cloned().unwrap_or_default();
        match storage.stack {
            Some(stack) if stack != marks.stack && stack != before.stack => {
                reasons.push(Reason::StackForeign { stack });
            }
            Some(stack) if stack != marks.stack && storage.exported && before.stack != marks.stack => {}
            Some(_) | None => reasons.push(Reason::StorageMissing),
        }
    }
    reasons
}

/// In what a domain that nobody asked to change is not as it was asked to be, where that is why something is done.
fn other_tuning(
    situation: &Situation<'_>,
    desired: &DesiredSliver,
    steps: &BTreeSet<Step>,
    domain: &xeno_model::observed::ObservedDomain,
) -> Option<Reason> {
    let tuning = Tuning::of(desired);
    let mut what = mistuned(domain, &tuning, situation.able);
    if steps.contains(&Step::Boot) {
        // What the driver cannot change while it runs is started anew.
        if domain.memory_mib != tuning.memory_mib && what.iter().all(|what| !what.starts_with("memory")) {
            what.push(format!("memory {} MiB", domain.memory_mib));
        }
        if !same_ports(domain, &tuning) && what.iter().all(|what| !what.starts_with("published")) {
            what.push("published ports".to_owned());
        }
    }
    let acts = steps.contains(&Step::Retune) || steps.contains(&Step::Boot);
    (acts && !what.is_empty()).then_some(Reason::Mistuned { what })
}
