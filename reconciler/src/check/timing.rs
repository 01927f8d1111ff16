//! What must not happen now: freezes, maintenance windows, and what nobody approved.

use std::collections::BTreeSet;

use xeno_model::id::{Berth, SliverId};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{DomainState, ObservedStorage};

use super::Finding;
use crate::change::{Change, ChangeClass, Disruption};
use crate::plan::{Plan, PlanInput};

pub(super) fn check(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    for planned in &plan.actions {
        let action = &planned.action;
        let frozen = |sliver: &SliverId| input.freezes.iter().any(|freeze| freeze.holds(sliver, input.now));
        if planned.serves.iter().any(frozen) || action.sliver().is_some_and(|of| frozen(&of.itself())) {
            findings.insert(Finding::Frozen(action.key()));
        }
    }
    for change in plan.changes.values() {
        let (sliver, class) = (change.sliver.clone(), change.class);
        let needs = input
            .leave
            .from
            .is_some_and(|from| class.disruption() >= from && class.disruption() != Disruption::Destroys);
        let granted = input.leave.granted.get(&sliver);
        if needs && !repairs(input, change) && granted.is_none_or(|most| *most < class.disruption()) {
            findings.insert(Finding::Unapproved { sliver, class });
        }
    }
    let site = &input.desired.site;
    if site.windows.open_at(input.now) || site.site.is_none() {
        return;
    }
    for change in plan.changes.values() {
        let class = change.class;
        if class.disruption() != Disruption::None && !repairs(input, change) {
            let sliver = change.sliver.clone();
            findings.insert(Finding::OutsideWindow { sliver, class });
        }
    }
}

/// Whether a change only brings back what was last applied, or touches a service that is broken anyway.
fn repairs(input: &PlanInput<'_>, change: &Change) -> bool {
    let sliver = &change.sliver;
    let Some(applied) = input.applied.get(sliver).filter(|applied| applied.complete) else {
        return false;
    };
    if !matches!(change.class, ChangeClass::Reboot | ChangeClass::Replace) {
        // Something of what was put to rest has come back.
        let desired = input.desired.slivers.get(sliver);
        return desired.is_some_and(|desired| {
            let mut wanted = desired.clone();
            wanted.state = super::wanted_state(input, desired);
            wanted == applied.desired
        });
    }
    // In whichever berth: one embodiment that is up is a service that is up.
    let up = |berth: &SliverId| {
        let domain = input.observed.domains.known().and_then(|d| d.ours.get(berth));
        let storage = input.observed.storage_of(berth).ok().flatten();
        // What keeps what it writes never runs twice: in its second berth it is not up but in the way.
        let uuid = match berth.berth() {
            Berth::First => Some(applied.desired.uuid),
            Berth::Second if applied.desired.keeps_nothing() => input.desired.uuid_of(berth),
            Berth::Second => None,
        };
        let runs = domain.is_some_and(|domain| {
            domain.state == DomainState::Running
                && domain.booted == boot_digest(&applied.desired)
                && Some(domain.uuid) == uuid
        });
        let stack = || stack_digest(&applied.desired);
        // Open under an older right to run, or set aside, its disk is not safe: that is mended at once.
        let rightly_open = |s: &ObservedStorage| s.open >= Some(applied.epoch) && s.tombstone.is_none();
        runs && storage.is_some_and(|s| rightly_open(s) && s.exported && s.stack == Some(stack()))
    };
    let same = input.desired.slivers.get(sliver) == Some(&applied.desired);
    !(up(sliver) || up(&sliver.beside())) || same
}
