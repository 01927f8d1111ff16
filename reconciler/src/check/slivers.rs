//! Plays each sliver's actions in the plan's order, and asks of each whether its moment has come. That edges force this
//! order is asked as well.

mod now;
mod play;

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{Remote, SliverState, Start};
use xeno_model::id::SliverId;
use xeno_model::normal::boot_digest;
use xeno_model::observed::{DomainState, ObservedNode, RemoteState};

use super::{Finding, Left, Rule, wanted_state};
use crate::action::{Action, ActionKey};
use crate::change::ChangeClass;
use crate::plan::{Plan, PlanInput};

use now::{Now, Seal, beginning};
use play::{Here, Play};

pub(super) fn check(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    let Some(mut now) = beginning(plan, input) else {
        return;
    };
    let mut here = Here {
        templates: input.observed.templates.known().cloned().unwrap_or_default(),
        files: input.observed.file_layers.known().cloned().unwrap_or_default(),
        remotes: answering(input.observed),
        able: input
            .observed
            .domains
            .known()
            .map(|d| d.able.clone())
            .unwrap_or_default(),
    };
    let mut last: BTreeMap<&SliverId, ActionKey> = BTreeMap::new();
    let with = |test: fn(&Action) -> bool| -> BTreeSet<&SliverId> {
        let actions = plan.actions.iter().map(|planned| &planned.action);
        actions
            .filter(|action| test(action))
            .filter_map(Action::sliver)
            .collect()
    };
    let stacked = with(|action| matches!(action, Action::Stack { .. }));
    let started = with(|action| matches!(action, Action::Boot { .. } | Action::Resume { .. }));
    let comes_after = closure(plan);
    let purged = with(|action| matches!(action, Action::Purge { .. }));
    for planned in &plan.actions {
        let action = &planned.action;
        let mut fault = |broken: bool, rule: Rule| {
            if broken {
                let action = action.key();
                findings.insert(Finding::Unsafe { action, rule });
            }
        };
        let Some(sliver) = action.sliver() else {
            here.add(action);
            continue;
        };
        if let Action::Adopt { from, .. } = action {
            let behind = last.get(from).is_none_or(|before| planned.after.contains(before));
            fault(!behind, Rule::NotBehindGiver);
            let old = now.entry(from.clone()).or_default();
            fault(old.in_use(), Rule::TakesOverWhatIsInUse);
            fault(!old.kept, Rule::TakesOverWhatIsNotThere);
            old.kept = false;
        }
        if let Some(before) = last.insert(sliver, action.key()) {
            fault(!planned.after.contains(&before), Rule::NotBehindPrevious);
        }
        let other = now.entry(sliver.beside()).or_default().clone();
        if let Some(before) = last.get(&sliver.beside()) {
            let befores = comes_after.get(&action.key());
            let held = befores.is_some_and(|befores| befores.contains(before));
            fault(!held, Rule::NotBehindTheOther);
        }
        let class = plan.changes.get(&sliver.itself()).map(|change| change.class);
        let mut play = Play {
            action,
            state: now.entry(sliver.clone()).or_default(),
            other,
            replaced: class == Some(ChangeClass::Replace) && !started.contains(sliver),
            uuid: input.desired.uuid_of(sliver),
            desired: input.desired.slivers.get(&sliver.itself()),
            runs: input
                .desired
                .slivers
                .get(&sliver.itself())
                .filter(|desired| wanted_state(input, desired) == SliverState::Running),
            input,
            here: &here,
            restacks: stacked.contains(sliver),
            purges: purged.contains(sliver),
        };
        play.play(&mut fault);
    }
    for (sliver, change) in &plan.changes {
        let beside = sliver.beside();
        let (mut here, mut there) = ((sliver, &now[sliver]), (&beside, &now[&beside]));
        // In which berth it is in the end does not matter, as long as it is in one.
        let stays = !matches!(
            change.class,
            ChangeClass::HandOver | ChangeClass::Remove | ChangeClass::Purge
        );
        if stays && !here.1.is_there() && there.1.is_there() {
            std::mem::swap(&mut here, &mut there);
        }
        let twice = there.1.in_use() || there.1.image.is_some();
        let acted = !matches!(change.class, ChangeClass::Keep | ChangeClass::Wait);
        let left = lacks(input, here.0, change.class, here.1);
        for left in left.into_iter().chain((twice && acted).then_some(Left::Twice)) {
            let sliver = sliver.clone();
            findings.insert(Finding::Lacking { sliver, left });
        }
    }
}

/// Remote directories that are mounted and answer.
fn answering(observed: &ObservedNode) -> BTreeSet<Remote> {
    let remotes = observed.remotes.known().into_iter().flatten();
    let answering = remotes.filter(|(_, state)| matches!(state, RemoteState::Answers));
    answering.map(|(remote, _)| remote.clone()).collect()
}

/// All actions that each action comes after, whatever order the run takes. Only of slivers with steps in both berths: of
/// all others an edge from step to step is asked for.
fn closure(plan: &Plan) -> BTreeMap<ActionKey, BTreeSet<ActionKey>> {
    let actions = plan.actions.iter().map(|planned| &planned.action);
    let slivers: BTreeSet<_> = actions.filter_map(Action::sliver).collect();
    let both = |sliver: &SliverId| slivers.contains(sliver) && slivers.contains(&sliver.beside());
    let mut all: BTreeMap<ActionKey, BTreeSet<ActionKey>> = BTreeMap::new();
    for planned in &plan.actions {
        if !planned.action.sliver().is_some_and(both) {
            continue;
        }
        let mut befores = planned.after.clone();
        for before in &planned.after {
            befores.extend(all.get(before).into_iter().flatten().cloned());
        }
        all.insert(planned.action.key(), befores);
    }
    all
}

/// What is not so once a change of that class is made.
fn lacks(input: &PlanInput<'_>, sliver: &SliverId, class: ChangeClass, state: &Now) -> Option<Left> {
    let closed = state.domain.is_none() && !state.exported && !state.open && state.stack.is_none();
    let unsealed = state
        .image
        .as_ref()
        .is_some_and(|image| image.sealed == Seal::Not || image.outdated);
    // Who asks for `stopped` gives up the memory, unless the slice resumes; who is kept down does not.
    let desired = input.desired.slivers.get(&sliver.itself());
    let gives_up = desired.is_some_and(|d| d.state == SliverState::Stopped && d.start == Start::Boot);
    let given_up = gives_up && state.image.is_some();
    match class {
        ChangeClass::Keep | ChangeClass::Wait => None,
        ChangeClass::Purge => state.set_aside.then_some(Left::SetAside),
        ChangeClass::InPlace
        | ChangeClass::Create
        | ChangeClass::Start
        | ChangeClass::Resume
        | ChangeClass::Replace
        | ChangeClass::Reboot => {
            let Some(desired) = desired else {
                return Some(Left::Undesired);
            };
            if wanted_state(input, desired) != SliverState::Running {
                let outdated = state.image.as_ref().is_some_and(|image| image.outdated);
                return (!closed || given_up || outdated || state.set_aside).then_some(Left::NotResting);
            }
            let right = state.exported
                && state.domain.as_ref().is_some_and(|domain| {
                    domain.state == DomainState::Running
                        && domain.tuned
                        && domain.booted == boot_digest(desired)
                        && Some(domain.uuid) == input.desired.uuid_of(sliver)
                });
            if right && !state.limited {
                return Some(Left::NotLimited);
            }
            (!right || state.image.is_some()).then_some(Left::NotRunning)
        }
        ChangeClass::Suspend | ChangeClass::Stop => {
            let left = unsealed || given_up;
            (!closed || left || state.set_aside).then_some(Left::NotAtRest)
        }
        ChangeClass::HandOver => {
            (!closed || state.kept || state.image.is_some()).then_some(Left::NotHandedOver)
        }
        ChangeClass::Remove => {
            let stays = state.kept && !state.set_aside;
            let image = state.image.is_some() && !state.set_aside;
            (!closed || stays || image || unsealed).then_some(Left::NotRemoved)
        }
    }
}
