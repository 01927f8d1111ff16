//! The three-way comparison: desired, last applied, observed. It decides what happens to each sliver, and why.
//!
//! Rules that never bend: a facet that could not be seen makes what needs it wait; domains that are not ours are not
//! looked at beyond the memory they hold; nothing is removed because of an empty commit, by a node that the repository
//! does not name, or beyond the delete budget; what a removal set aside is taken into use again when the sliver is
//! desired again, since what it wrote must not be lost; an image is resumed only over the disk it was taken with.
//!
//! The rooms: `run` brings a sliver to run, `rest` to suspend, stop or leave, `hold` makes wait what must not
//! happen now.

mod hold;
mod rest;
mod run;

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredSliver, Remote, SliverState, Standing, WritableKind};
use xeno_model::id::{Epoch, SliverId};
use xeno_model::normal::{Difference, differences};
use xeno_model::observed::{RemoteState, Seen};

use crate::action::Ingredients;
use crate::beside::{self, Berths, berths};
use crate::change::{Cause, Change, ChangeClass, Reason};
use crate::checkpoint::Turn;
use crate::enforce::{unenforced, unkept};
use crate::plan::{Basis, PlanInput};
use crate::situation::{Marks, Situation, Step, blind, can_adopt, epoch};

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
    let of = |sliver: &SliverId| {
        let storage = input.observed.storage_of(sliver).ok().flatten();
        let known = epoch(input.applied.get(&sliver.itself()), storage);
        let held = input.epochs.get(&sliver.itself());
        held.map_or(known, |held| known.max(*held))
    };
    let from = input
        .desired
        .slivers
        .get(sliver)
        .and_then(|desired| desired.moved_from.as_ref());
    match from.filter(|from| can_adopt(input, from, sliver)) {
        Some(from) => of(sliver).max(of(from)),
        None => of(sliver),
    }
}

/// What ends in the berth of a sliver in which it is not to be.
#[derive(Clone, Debug)]
pub(crate) struct Leaves {
    /// The sliver in that berth.
    pub(crate) berth: SliverId,
    pub(crate) steps: BTreeSet<Step>,
    /// Whether that comes after all else, since it serves until then; otherwise it comes first.
    pub(crate) last: bool,
}

impl Leaves {
    /// Whether a domain goes.
    pub(crate) fn ends(&self) -> bool {
        self.steps.contains(&Step::Shutdown)
    }
}

/// A change, and the steps that make it.
#[derive(Clone, Debug)]
pub(crate) struct Study {
    pub(crate) change: Change,
    /// The sliver in the berth in which it is to be.
    pub(crate) berth: SliverId,
    /// Steps there.
    pub(crate) steps: BTreeSet<Step>,
    /// What happens in its other berth.
    pub(crate) leaves: Option<Leaves>,
    /// What it will be recognised by once it runs; `None` where it will not.
    pub(crate) marks: Option<Marks>,
    /// Whose writable layers it takes over.
    pub(crate) adopts: Option<SliverId>,
    /// What becomes of what it wrote, where it boots as something else.
    pub(crate) turn: Option<Turn>,
    /// Whether a service is broken that this mends: nothing keeps that waiting for a better time.
    pub(crate) mends: bool,
}

impl Study {
    fn new(sliver: &SliverId, class: ChangeClass, cause: Cause, reasons: Vec<Reason>) -> Self {
        let change = Change {
            sliver: sliver.clone(),
            class,
            // Nothing that happens has no other cause than that nothing was asked.
            cause: if class == ChangeClass::Keep {
                Cause::Change
            } else {
                cause
            },
            reasons,
        };
        Self {
            change,
            berth: sliver.clone(),
            steps: BTreeSet::new(),
            leaves: None,
            marks: None,
            adopts: None,
            turn: None,
            mends: false,
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
        } else if self.starts() {
            Ingredients::to_start(desired)
        } else {
            Ingredients::default()
        }
    }

    /// Whether anything is done for it, in either berth.
    pub(crate) fn acts(&self) -> bool {
        !self.steps.is_empty()
            || self
                .leaves
                .as_ref()
                .is_some_and(|leaves| !leaves.steps.is_empty())
    }

    /// Whether a domain comes to be.
    pub(crate) fn starts(&self) -> bool {
        self.steps.contains(&Step::Boot) || self.steps.contains(&Step::Resume)
    }

    /// Whether a running domain gets other limits or ports.
    pub(crate) fn retunes(&self) -> bool {
        self.steps.contains(&Step::Retune) || self.steps.contains(&Step::Publish)
    }

    /// Whether a domain goes.
    pub(crate) fn ends(&self) -> bool {
        self.steps.contains(&Step::Shutdown) || self.steps.contains(&Step::Suspend)
    }

    /// Nothing is done for now, because of `blockers`; what would be done stays as the reasons after them.
    pub(crate) fn hold(&mut self, blockers: Vec<Reason>) {
        self.change.class = ChangeClass::Wait;
        self.change.reasons.splice(0..0, blockers);
        self.steps.clear();
        self.leaves = None;
    }
}

pub(crate) fn study(input: &PlanInput<'_>) -> BTreeMap<SliverId, Study> {
    let heirs = heirs(input);
    let mut studies: BTreeMap<_, _> = slivers(input)
        .into_iter()
        .filter_map(|sliver| {
            let study = study_one(input, &sliver, heirs.get(&sliver).copied())?;
            Some((sliver, study))
        })
        .collect();
    hold::hold_back(input, &heirs, &mut studies);
    beside::replace(input, &mut studies);
    studies
}

/// Slivers that go by another name now, and by which.
fn heirs<'a>(input: &PlanInput<'a>) -> BTreeMap<&'a SliverId, &'a SliverId> {
    let slivers = input.desired.slivers.values();
    let moved = slivers.filter_map(|desired| Some((desired.moved_from.as_ref()?, &desired.id)));
    let heir = |(from, to): &(&SliverId, &SliverId)| {
        if !crate::situation::is_moved(input, from) {
            return false;
        }
        // Where the heir has layers of its own, what is left under the old name is removed like anything else.
        let kept = input.observed.storage_of(from).ok().flatten();
        kept.is_none_or(|kept| !kept.on_disk) || can_adopt(input, from, to)
    };
    moved.filter(heir).collect()
}

/// All slivers that any side knows.
fn slivers(input: &PlanInput<'_>) -> BTreeSet<SliverId> {
    let mut all: BTreeSet<_> = input.desired.slivers.keys().collect();
    all.extend(input.applied.keys());
    all.extend(
        input
            .observed
            .domains
            .known()
            .into_iter()
            .flat_map(|d| d.ours.keys().chain(d.images.keys())),
    );
    all.extend(
        input
            .observed
            .storage
            .known()
            .into_iter()
            .flat_map(BTreeMap::keys),
    );
    all.into_iter().map(SliverId::itself).collect()
}

fn study_one(input: &PlanInput<'_>, sliver: &SliverId, heir: Option<&SliverId>) -> Option<Study> {
    let Berths { home, other } = match berths(input, sliver) {
        Ok(berths) => berths,
        Err(reasons) => return Some(Study::new(sliver, ChangeClass::Wait, Cause::Drift, reasons)),
    };
    let mut study = match home.desired.as_deref() {
        Some(desired) => desired_one(input, &home, desired),
        None => rest::undesired(input, &home, sliver, heir)?,
    };
    study.berth = home.id.clone();
    if let Some(other) = &other
        && study.change.class != ChangeClass::Wait
    {
        beside::leave(&mut study, &home, other);
    }
    Some(study)
}

fn desired_one(input: &PlanInput<'_>, situation: &Situation<'_>, desired: &DesiredSliver) -> Study {
    let mut study = match desired.state {
        SliverState::Running => run::to_run(situation, desired),
        SliverState::Stopped => rest::to_stop(situation, desired),
        SliverState::Suspended => rest::to_suspend(situation, desired),
    };
    study.adopts.clone_from(&situation.adopts);
    if let Some(from) = &situation.adopts {
        study
            .change
            .reasons
            .push(Reason::MovedFrom { from: from.clone() });
    }
    if let Some(reason) = &situation.kept_down {
        study.change.reasons.push(reason.clone());
    }
    if study.change.class != ChangeClass::Keep
        && let Some(what) = not_supported(desired)
    {
        study.hold(vec![Reason::NotSupported { what }]);
    }
    if let Standing::Named(node) = &input.desired.standing
        && study.change.reasons.iter().any(asks_for_limits)
    {
        let by = node.hypervisor;
        let limits = match input.basis {
            Basis::Observed => unkept(desired, situation.able),
            Basis::Assumed => unenforced(desired, by),
        };
        if !limits.is_empty() {
            study.change.reasons.push(Reason::NotEnforced { limits, by });
        }
    }
    if input.desired.standing == Standing::NotNamed && study.change.class != ChangeClass::Keep {
        study.hold(vec![Reason::NodeNotNamed]);
    }
    study.change.reasons.extend(silent_remotes(input, desired));
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
    desired.mounts.iter().find_map(|mount| match &mount.writable {
        WritableKind::Local | WritableKind::ReadOnly | WritableKind::Remote { .. } => None,
        WritableKind::Memory => Some(format!("keeping what is written to {} in memory", mount.path)),
    })
}

/// Remote directories of a sliver that are mounted and do not answer.
fn silent_remotes(input: &PlanInput<'_>, desired: &DesiredSliver) -> Vec<Reason> {
    let known = input.observed.remotes.known();
    let silent = |remote: Remote| match known?.get(&remote)? {
        RemoteState::Answers => None,
        RemoteState::Silent { since, why } => Some(Reason::RemoteSilent {
            remote,
            since: *since,
            why: why.clone(),
        }),
    };
    match desired.state {
        SliverState::Running => Remote::all_of(desired).into_iter().filter_map(silent).collect(),
        SliverState::Stopped | SliverState::Suspended => Vec::new(),
    }
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
pub(crate) fn blind_ingredients(input: &PlanInput<'_>, needed: &Ingredients) -> Vec<Reason> {
    let mut blinds = Vec::new();
    if !needed.templates.is_empty() {
        blinds.extend(blind("templates", &input.observed.templates));
    }
    if !needed.files.is_empty() {
        blinds.extend(blind("file layers", &input.observed.file_layers));
    }
    if !needed.remotes.is_empty() {
        blinds.extend(blind("remotes", &input.observed.remotes));
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

/// The domains of the node, where they could be seen.
pub(crate) fn domains<'a>(input: &PlanInput<'a>) -> Option<&'a xeno_model::observed::Domains> {
    match &input.observed.domains {
        Seen::Known(domains) => Some(domains),
        Seen::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests;
