//! Making wait what must not happen now: what is frozen, what failed a moment ago, what would disturb a service at the
//! wrong time, what would remove too much, and what the node has no room for.

use std::collections::BTreeMap;

use xeno_model::id::{SliverId, Timestamp};

use super::Study;
use crate::capacity;
use crate::change::{Cause, ChangeClass, Disruption, Reason};
use crate::plan::PlanInput;

/// A service that has stayed up so long counts as one that never fell.
const CALM_MS: u64 = 600_000;
/// Pause before the second restart in a row; it doubles with every further one.
const PAUSE_MS_FIRST: u64 = 10_000;
/// Longest pause: a service that can come back does so within minutes.
const PAUSE_MS_MAX: u64 = 300_000;

pub(super) fn hold_back(
    input: &PlanInput<'_>,
    heirs: &BTreeMap<&SliverId, &SliverId>,
    studies: &mut BTreeMap<SliverId, Study>,
) {
    for (sliver, study) in &mut *studies {
        match study.change.class {
            ChangeClass::Keep => {
                if let Some(stuck) = stuck(input, sliver) {
                    study.hold(vec![stuck]);
                    study.change.cause = Cause::Drift;
                }
                continue;
            }
            ChangeClass::Wait => continue,
            ChangeClass::InPlace
            | ChangeClass::Create
            | ChangeClass::Start
            | ChangeClass::Resume
            | ChangeClass::Replace
            | ChangeClass::Reboot
            | ChangeClass::Suspend
            | ChangeClass::Stop
            | ChangeClass::Remove
            | ChangeClass::HandOver
            | ChangeClass::Purge => {}
        }
        let blocker = frozen(input, sliver)
            .or_else(|| input.backing_off.get(sliver).cloned())
            .or_else(|| outside_window(input, study))
            .or_else(|| unapproved(input, study))
            .or_else(|| crashing(input, sliver, study));
        if let Some(blocker) = blocker {
            study.hold(vec![blocker]);
        }
    }
    keep_delete_budget(input, studies);
    // A sliver that waits keeps what it holds, which may be what another counted on: again until nothing changes.
    // Every round but the last holds at least one more, so there are no more rounds than slivers.
    while capacity::hold_what_does_not_fit(input, studies) | hold_together(heirs, studies) {}
}

/// Why a sliver that lacks nothing does nothing all the same.
fn stuck(input: &PlanInput<'_>, sliver: &SliverId) -> Option<Reason> {
    let reason = input.backing_off.get(sliver)?;
    matches!(reason, Reason::LeaseLapsed { .. }).then(|| reason.clone())
}

fn frozen(input: &PlanInput<'_>, sliver: &SliverId) -> Option<Reason> {
    let freeze = input
        .freezes
        .iter()
        .find(|freeze| freeze.holds(sliver, input.now))?;
    Some(freeze.reason())
}

/// What is asked of a service that is up waits for the site's maintenance window. What mends one does not.
fn outside_window(input: &PlanInput<'_>, study: &Study) -> Option<Reason> {
    let site = &input.desired.site;
    let disturbs = study.change.class.disruption() != Disruption::None;
    if !disturbs || study.mends || study.change.cause == Cause::Drift || site.windows.open_at(input.now) {
        return None;
    }
    Some(Reason::OutsideWindow {
        site: site.site.clone()?,
        opens: site.windows.opens_after(input.now),
    })
}

/// What somebody asked for and nobody granted. Slivers are kept as they were before it comes to this, unless it only shows on the node
/// how much it disturbs.
fn unapproved(input: &PlanInput<'_>, study: &Study) -> Option<Reason> {
    let disruption = study.change.class.disruption();
    (!input.leave.allows(&study.change)).then_some(Reason::Unapproved { disruption })
}

/// A service that ends by itself again and again is started with growing pauses. Restarts that lie ahead of now do not
/// count: a clock that was set back keeps nothing down.
fn crashing(input: &PlanInput<'_>, sliver: &SliverId, study: &Study) -> Option<Reason> {
    if !study.mends || !study.starts() {
        return None;
    }
    let restarts = input.restarts.get(sliver)?;
    let recent = |at: &&Timestamp| **at <= input.now && at.0.saturating_add(CALM_MS) > input.now.0;
    let count = u32::try_from(restarts.iter().filter(recent).count()).unwrap_or(u32::MAX);
    let last = restarts.iter().filter(recent).max()?;
    let doubled = 1u64.checked_shl(count.saturating_sub(1)).unwrap_or(u64::MAX);
    let pause = PAUSE_MS_FIRST.saturating_mul(doubled).min(PAUSE_MS_MAX);
    let until = Timestamp(last.0.saturating_add(pause));
    (input.now < until).then_some(Reason::Crashing {
        restarts: count,
        until,
    })
}

/// Lets as many removals through as the budget has left, in order; the rest waits. A removal of which nothing is left
/// but its record takes nothing away and is not counted.
fn keep_delete_budget(input: &PlanInput<'_>, studies: &mut BTreeMap<SliverId, Study>) {
    let counted = |study: &Study| study.change.class == ChangeClass::Remove && study.acts();
    let allowed = input.desired.delete_budget.slivers;
    let used = input.removed_recently;
    let asked = u32::try_from(studies.values().filter(|study| counted(study)).count()).unwrap_or(u32::MAX);
    let left = usize::try_from(allowed.saturating_sub(used)).unwrap_or(usize::MAX);
    for study in studies.values_mut().filter(|study| counted(study)).skip(left) {
        study.hold(vec![Reason::DeleteBudget { allowed, used, asked }]);
    }
}

/// A sliver and its heir change together or not at all. Whether any had to be held.
fn hold_together(heirs: &BTreeMap<&SliverId, &SliverId>, studies: &mut BTreeMap<SliverId, Study>) -> bool {
    let mut held = false;
    for (from, to) in heirs {
        let waits = |sliver: &SliverId| {
            let study = studies.get(sliver);
            study.map(|study| study.change.class == ChangeClass::Wait)
        };
        let (late, with) = match (waits(from), waits(to)) {
            (Some(true), Some(false)) => (to, from),
            (Some(false), Some(true)) => (from, to),
            _ => continue,
        };
        if let Some(study) = studies.get_mut(*late)
            && study.change.class != ChangeClass::Keep
        {
            study.hold(vec![Reason::Together {
                with: (*with).clone(),
            }]);
            held = true;
        }
    }
    held
}
