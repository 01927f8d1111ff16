//! The three-way comparison: desired, last applied, observed. It decides what happens to each sliver, and why.
//!
//! Rules that never bend: a facet that could not be seen makes what needs it wait; domains that are not ours are not
//! looked at beyond the memory they hold; nothing is removed because of an empty commit, by a node that the repository
//! does not name, or beyond the delete budget; what a removal set aside is taken into use again when the sliver is
//! desired again (`OpenWritable` revives a tombstone), since what it wrote must not be lost.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredSliver, LayerRef, SliverState, Standing, WritableKind};
use xeno_model::id::{Epoch, SliverId};
use xeno_model::normal::{Difference, differences};
use xeno_model::observed::{DomainState, Seen};

use crate::action::Ingredients;
use crate::capacity;
use crate::change::{Cause, Change, ChangeClass, Reason};
use crate::enforce::unenforced;
use crate::plan::PlanInput;
use crate::situation::{Marks, Situation, Step, blind, epoch};

/// What happens to each sliver of the node, and why. Slivers that stay as they are included; a tombstone that waits
/// for its time is not a change and has no entry.
#[must_use]
pub fn diff(input: &PlanInput<'_>) -> BTreeMap<SliverId, Change> {
    study(input)
        .into_iter()
        .map(|(sliver, study)| (sliver, study.change))
        .collect()
}

/// The right to run under which a sliver's writable layers are, or will be, open on this node.
#[must_use]
pub fn epoch_of(input: &PlanInput<'_>, sliver: &SliverId) -> Epoch {
    let storage = input.observed.storage.known();
    epoch(
        input.applied.get(sliver),
        storage.and_then(|storage| storage.get(sliver)),
    )
}

/// A change, and the steps that make it.
#[derive(Clone, Debug)]
pub(crate) struct Study {
    pub(crate) change: Change,
    pub(crate) steps: BTreeSet<Step>,
    /// What it will be recognised by once it runs; `None` where it will not.
    pub(crate) marks: Option<Marks>,
    /// Whose writable layers it takes over.
    pub(crate) adopts: Option<SliverId>,
}

impl Study {
    fn new(sliver: &SliverId, class: ChangeClass, cause: Cause, reasons: Vec<Reason>) -> Self {
        let change = Change {
            sliver: sliver.clone(),
            class,
            cause,
            reasons,
        };
        Self {
            change,
            steps: BTreeSet::new(),
            marks: None,
            adopts: None,
        }
    }

    fn with(mut self, steps: BTreeSet<Step>) -> Self {
        self.steps = steps;
        self
    }

    /// What must be here for its steps.
    pub(crate) fn ingredients(&self, desired: &DesiredSliver) -> Ingredients {
        if self.steps.contains(&Step::Stack) {
            Ingredients::of(desired)
        } else if self.steps.contains(&Step::Boot) {
            Ingredients::kernel_of(desired)
        } else {
            Ingredients::default()
        }
    }

    /// Nothing is done for now, because of `blockers`; what would be done stays as the reasons after them.
    pub(crate) fn hold(&mut self, blockers: Vec<Reason>) {
        self.change.class = ChangeClass::Wait;
        self.change.reasons.splice(0..0, blockers);
        self.steps.clear();
    }
}

pub(crate) fn study(input: &PlanInput<'_>) -> BTreeMap<SliverId, Study> {
    let mut studies: BTreeMap<_, _> = slivers(input)
        .into_iter()
        .filter_map(|sliver| study_one(input, sliver).map(|study| (sliver.clone(), study)))
        .collect();
    for (sliver, study) in &mut studies {
        if let Some(reason) = input.backing_off.get(sliver)
            && study.change.class != ChangeClass::Keep
        {
            study.hold(vec![reason.clone()]);
        }
    }
    keep_delete_budget(input, &mut studies);
    capacity::hold_what_does_not_fit(input, &mut studies);
    studies
}

/// All slivers that any side knows.
fn slivers<'a>(input: &PlanInput<'a>) -> BTreeSet<&'a SliverId> {
    let mut all: BTreeSet<_> = input.desired.slivers.keys().collect();
    all.extend(input.applied.keys());
    all.extend(
        input
            .observed
            .domains
            .known()
            .into_iter()
            .flat_map(|d| d.ours.keys()),
    );
    all.extend(
        input
            .observed
            .storage
            .known()
            .into_iter()
            .flat_map(BTreeMap::keys),
    );
    all
}

fn study_one(input: &PlanInput<'_>, sliver: &SliverId) -> Option<Study> {
    let situation = match Situation::of(input, sliver) {
        Ok(situation) => situation,
        Err(reasons) => return Some(Study::new(sliver, ChangeClass::Wait, Cause::Drift, reasons)),
    };
    match situation.desired {
        Some(desired) => Some(desired_one(input, &situation, desired)),
        None => undesired(input, &situation, sliver),
    }
}

fn desired_one(input: &PlanInput<'_>, situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let mut study = match desired.state {
        SliverState::Running => to_run(situation, desired),
        SliverState::Stopped => to_stop(situation, desired),
        SliverState::Suspended => {
            let mut study = Study::new(&desired.id, ChangeClass::Wait, Cause::Change, vec![]);
            study.hold(vec![Reason::NotSupported {
                what: "keeping a suspended sliver's memory in an image".to_owned(),
            }]);
            study
        }
    };
    if let Some(what) = not_supported(desired) {
        study.hold(vec![Reason::NotSupported { what }]);
    }
    if let Standing::Named(node) = &input.desired.standing
        && study.change.reasons.iter().any(asks_for_limits)
    {
        let (limits, by) = (unenforced(desired, node.hypervisor), node.hypervisor);
        if !limits.is_empty() {
            study.change.reasons.push(Reason::NotEnforced { limits, by });
        }
    }
    if input.desired.standing == Standing::NotNamed && study.change.class != ChangeClass::Keep {
        study.hold(vec![Reason::NodeNotNamed]);
    }
    let blinds = blind_ingredients(input, &study.ingredients(desired));
    if !blinds.is_empty() {
        study.hold(blinds);
    }
    study
}

/// What a sliver asks for that no driver can do yet.
fn not_supported(desired: &DesiredSliver) -> Option<String> {
    if desired.state != SliverState::Running {
        return None;
    }
    desired.mounts.iter().find_map(|mount| {
        let layer = mount.layers.iter().find_map(|layer| match layer {
            LayerRef::Remote { url } => Some(format!("the layer {url} of {}", mount.path)),
            LayerRef::Template(_) | LayerRef::Directory { .. } | LayerRef::Files { .. } => None,
        });
        layer.or_else(|| match &mount.writable {
            WritableKind::Local | WritableKind::ReadOnly => None,
            WritableKind::Memory => Some(format!("keeping what is written to {} in memory", mount.path)),
            WritableKind::Remote { url } => {
                Some(format!("keeping what is written to {} at {url}", mount.path))
            }
        })
    })
}

/// Whether a change brings limits that have not been heard of before.
fn asks_for_limits(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::New
            | Reason::Revived { .. }
            | Reason::Differs(
                Difference::CpuWeight { .. } | Difference::CpuCap { .. } | Difference::NetRate { .. }
            )
    )
}

/// Facets that the steps need beyond domains and storage, and that could not be seen.
fn blind_ingredients(input: &PlanInput<'_>, needed: &Ingredients) -> Vec<Reason> {
    let mut blinds = Vec::new();
    if !needed.templates.is_empty() {
        blinds.extend(blind("templates", &input.observed.templates));
    }
    if !needed.files.is_empty() {
        blinds.extend(blind("file layers", &input.observed.file_layers));
    }
    blinds
}

/// Reasons in which somebody asked for something else.
fn asked(situation: &Situation<'_>, desired: &DesiredSliver) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let tombstone = situation.storage.and_then(|storage| storage.tombstone);
    if situation.applied.is_none() && !situation.exists() && tombstone.is_none() {
        reasons.push(Reason::New);
    }
    if let Some(since) = tombstone {
        reasons.push(Reason::Revived { since });
    }
    if situation.unfinished() {
        reasons.push(Reason::Unfinished);
    }
    if let Some(applied) = situation.applied {
        reasons.extend(
            differences(&applied.desired, desired)
                .into_iter()
                .map(Reason::Differs),
        );
    }
    reasons
}

fn cause(asked: &[Reason]) -> Cause {
    if asked.is_empty() {
        Cause::Drift
    } else {
        Cause::Change
    }
}

fn to_run(situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let marks = Marks::of(desired);
    let steps = situation.steps_to_run(desired, marks);
    let mut reasons = asked(situation, desired);
    let cause = cause(&reasons);
    reasons.extend(came_apart(situation, desired, marks, &steps));
    let running = situation.domain.is_some_and(|d| d.state == DomainState::Running);
    let class = if steps.is_empty() && reasons.is_empty() {
        ChangeClass::Keep
    } else if !steps.contains(&Step::Boot) {
        ChangeClass::InPlace
    } else if running {
        ChangeClass::Reboot
    } else {
        let kept = situation
            .storage
            .is_some_and(|s| s.on_disk && s.tombstone.is_none());
        match situation.applied {
            Some(applied) if applied.complete || kept => ChangeClass::Start,
            Some(_) | None => ChangeClass::Create,
        }
    };
    let cause = if class == ChangeClass::Keep {
        Cause::Change
    } else {
        cause
    };
    let mut study = Study::new(&desired.id, class, cause, reasons).with(steps);
    study.marks = Some(marks);
    study
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
    let before = if applied.desired == *desired {
        marks
    } else {
        Marks::of(&applied.desired)
    };
    let mut reasons = Vec::new();
    let ran = applied.desired.state == SliverState::Running;
    match situation.domain {
        None if ran => reasons.push(Reason::DomainMissing),
        None => {}
        Some(domain) if domain.state != DomainState::Running => {
            reasons.push(Reason::DomainNotRunning { state: domain.state });
        }
        Some(domain) if domain.booted != marks.boot && domain.booted != before.boot => {
            reasons.push(Reason::DomainForeignBoot {
                booted: domain.booted,
            });
        }
        Some(_) => {}
    }
    if steps.contains(&Step::Limit) {
        // The limit asked for before is what is there until this is done.
        let limits = situation.storage.into_iter().flat_map(|storage| &storage.limits);
        let asked = [applied.desired.resources.disk, desired.resources.disk];
        let foreign = limits.filter(|limit| !asked.contains(limit));
        let foreign = foreign.map(|limit| Reason::LimitForeign { limit: *limit });
        reasons.extend(foreign);
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

fn to_stop(situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let steps = situation.steps_to_stop();
    let mut reasons = asked(situation, desired);
    let cause = cause(&reasons);
    if let Some(since) = situation.storage.and_then(|storage| storage.tombstone) {
        let mut study = Study::new(
            &desired.id,
            ChangeClass::Wait,
            cause,
            vec![Reason::Revived { since }],
        );
        study.hold(vec![Reason::NotSupported {
            what: "taking a removed sliver into use again as `stopped`; ask for `running` first".to_owned(),
        }]);
        return study;
    }
    let class = match (steps.is_empty(), reasons.is_empty()) {
        (true, true) => ChangeClass::Keep,
        (true, false) if situation.applied.is_none() => ChangeClass::Create,
        (true, false) => ChangeClass::InPlace,
        (false, _) => ChangeClass::Stop,
    };
    if cause == Cause::Drift && !steps.is_empty() {
        reasons.push(Reason::NotStopped);
    }
    let cause = if class == ChangeClass::Keep {
        Cause::Change
    } else {
        cause
    };
    if class != ChangeClass::Keep {
        reasons.push(Reason::StateStopped);
    }
    Study::new(&desired.id, class, cause, reasons).with(steps)
}

fn undesired(input: &PlanInput<'_>, situation: &Situation<'_>, sliver: &SliverId) -> Option<Study> {
    let tombstone = situation.storage.and_then(|storage| storage.tombstone);
    let mut study = if situation.exists() || situation.applied.is_some() {
        let reason = if input.desired.elsewhere.contains(sliver) {
            Reason::PlacedElsewhere
        } else {
            Reason::NotDesired
        };
        Study::new(sliver, ChangeClass::Remove, Cause::Change, vec![reason]).with(situation.steps_to_remove())
    } else {
        let since = tombstone.filter(|since| input.now.0.saturating_sub(since.0) >= input.tombstone_ms)?;
        let reasons = vec![Reason::TombstoneExpired { since }];
        let steps = BTreeSet::from([Step::Purge]);
        Study::new(sliver, ChangeClass::Purge, Cause::Schedule, reasons).with(steps)
    };
    if input.desired.standing == Standing::NotNamed {
        study.hold(vec![Reason::NodeNotNamed]);
    } else if input.desired.slivers.is_empty() && input.desired.elsewhere.is_empty() {
        study.hold(vec![Reason::NothingDesired]);
    }
    Some(study)
}

/// Lets as many removals through as the budget has left, in order; the rest waits. A removal of which nothing is left
/// but its record takes nothing away and is not counted.
fn keep_delete_budget(input: &PlanInput<'_>, studies: &mut BTreeMap<SliverId, Study>) {
    let counted = |study: &Study| study.change.class == ChangeClass::Remove && !study.steps.is_empty();
    let allowed = input.desired.delete_budget.slivers;
    let used = input.removed_recently;
    let asked = u32::try_from(studies.values().filter(|study| counted(study)).count()).unwrap_or(u32::MAX);
    let left = usize::try_from(allowed.saturating_sub(used)).unwrap_or(usize::MAX);
    for study in studies.values_mut().filter(|study| counted(study)).skip(left) {
        study.hold(vec![Reason::DeleteBudget { allowed, used, asked }]);
    }
}

/// The domains of the node, where they could be seen.
pub(crate) fn domains<'a>(input: &PlanInput<'a>) -> Option<&'a xeno_model::observed::Domains> {
    match &input.observed.domains {
        Seen::Known(domains) => Some(domains),
        Seen::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests;
