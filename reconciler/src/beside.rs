//! Replacing a sliver make-before-break: which of its two berths it is in, which it goes to, and whether the node has
//! room for both embodiments at once.
//!
//! Only a sliver that keeps nothing is ever embodied twice. What is there says how far a replacement has come: nobody has
//! to remember it, and whoever dies in between leaves what the next look goes on from.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredSliver, Probe, SliverState, Start};
use xeno_model::id::{Berth, SliverId};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{Ability, DomainState, Domains, HealthVerdict};

use crate::capacity;
use crate::change::{Cause, ChangeClass, ImageMisfit, Reason};
use crate::diff::{Leaves, Study, blind_ingredients};
use crate::plan::PlanInput;
use crate::situation::{Marks, Situation, Step};

/// A sliver in the berth in which it is to be, and what is there in the other one.
pub(crate) struct Berths<'a> {
    pub(crate) home: Situation<'a>,
    /// The other berth, where anything is in it.
    pub(crate) other: Option<Situation<'a>>,
}

/// Looks at both berths of `sliver`; fails with the reasons why it cannot be judged.
pub(crate) fn berths<'a>(input: &PlanInput<'a>, sliver: &SliverId) -> Result<Berths<'a>, Vec<Reason>> {
    let first = Situation::of(input, sliver)?;
    let beside = sliver.beside();
    let alone = |home| Berths { home, other: None };
    // So it is with nearly all, and every plan asks it of every sliver.
    if is_vacant(input, &beside) {
        return Ok(alone(first));
    }
    let second = Situation::of(input, &beside)?;
    if second.is_empty() {
        return Ok(alone(first));
    }
    let (mut home, mut other) = if first.is_for(&second) {
        (second, first)
    } else {
        (first, second)
    };
    home.beside = other.domain;
    home.crowded = !other.is_empty();
    let other = home.crowded.then(|| {
        other.beside = home.domain;
        other
    });
    Ok(Berths { home, other })
}

/// Whether it is known that there is nothing whatever under a name.
fn is_vacant(input: &PlanInput<'_>, embodiment: &SliverId) -> bool {
    let domains = input.observed.domains.known();
    let storage = input.observed.storage_of(embodiment);
    let here =
        |domains: &Domains| domains.ours.contains_key(embodiment) || domains.images.contains_key(embodiment);
    domains.is_some_and(|domains| !here(domains)) && matches!(storage, Ok(None))
}

impl Situation<'_> {
    /// Whether nothing of an embodiment is in this berth. What is kept on disk belongs to no embodiment.
    fn is_empty(&self) -> bool {
        self.domain.is_none() && self.image.is_none() && !self.held()
    }

    /// Whether the sliver, seen here from its first berth, is to be in the second.
    fn is_for(&self, second: &Situation<'_>) -> bool {
        let Some(desired) = self.desired.as_deref() else {
            return false;
        };
        let there = |berth: &Situation<'_>| berth.domain.is_some() || berth.image.is_some();
        match (there(self), there(second)) {
            // What keeps something has it in the first berth.
            _ if !desired.keeps_nothing() || self.adopts.is_some() || set_aside(self) => false,
            (_, false) => false,
            (false, true) => true,
            (true, true) => second.claim(desired, self) > self.claim(desired, second),
        }
    }

    /// What speaks for an embodiment of which there are two, the weightiest first. One that cannot take over does not
    /// take the place of the one that was carried through.
    fn claim(&self, desired: &DesiredSliver, other: &Situation<'_>) -> [bool; 4] {
        let healthy = self.health == Some(&HealthVerdict::Healthy);
        let serves = self.domain.is_some_and(|domain| !domain.publish.is_empty());
        let proven = self.can_take_over(desired) || !other.is_applied();
        [self.is_as(desired) && proven, self.is_applied(), healthy, serves]
    }

    /// Whether it runs as its sliver was last carried through.
    fn is_applied(&self) -> bool {
        let applied = || self.applied.map(|applied| boot_digest(&applied.desired));
        self.runs() && self.domain.map(|domain| domain.booted) == applied()
    }

    /// Whether its service is up in this berth, as it was last carried through. What keeps what it writes is at home in the
    /// first berth only.
    fn is_up(&self) -> bool {
        let Some(applied) = self.applied.filter(|applied| applied.complete) else {
            return false;
        };
        let (uuid, at_home) = match self.id.berth() {
            Berth::First => (Some(applied.desired.uuid), true),
            Berth::Second => (self.uuid, applied.desired.keeps_nothing()),
        };
        let open = self
            .storage
            .filter(|storage| storage.tombstone.is_none() && storage.open >= Some(applied.epoch));
        at_home
            && self.is_applied()
            && self.domain.map(|domain| domain.uuid) == uuid
            && open.is_some_and(|open| open.exported && open.stack == Some(stack_digest(&applied.desired)))
    }

    /// Whether its domain is what is desired, but for what can change while it runs.
    fn is_as(&self, desired: &DesiredSliver) -> bool {
        let marks = Marks::of(desired);
        desired.state == SliverState::Running && self.usable(desired, marks) && !self.misfit(desired, marks)
    }

    /// Whether it can take over beside another: its health can be asked, and it needs no more memory for it.
    fn can_take_over(&self, desired: &DesiredSliver) -> bool {
        let wanted = desired.resources.memory.mib();
        let grown = self.domain.is_some_and(|domain| domain.memory_mib >= wanted);
        grown && self.can_be_asked(desired)
    }

    /// Whether its health check reaches this domain.
    fn can_be_asked(&self, desired: &DesiredSliver) -> bool {
        let port = match desired.health.as_ref().map(|health| &health.probe) {
            Some(Probe::Http { port, .. } | Probe::Tcp { port }) => *port,
            Some(Probe::Console { .. }) | None => return true,
        };
        let mut published = self.domain.into_iter().flat_map(|domain| &domain.publish);
        published.any(|publish| publish.guest == port)
    }

    /// Whether nothing of this embodiment's writes is kept: neither as it was last carried through, nor as it is open.
    fn keeps_nothing(&self) -> bool {
        let open = self.storage.is_some_and(|storage| !storage.limits.is_empty());
        !open && self.applied.is_none_or(|applied| applied.desired.keeps_nothing())
    }
}

/// What becomes of the other berth, given what happens in that of `home`. Of two embodiments the one that is as desired
/// stays, and the other serves until that one is healthy.
pub(crate) fn leave(study: &mut Study, home: &Situation<'_>, other: &Situation<'_>) {
    let desired = home.desired.as_deref();
    // However broken this one is: the service is up.
    study.mends &= !other.is_up();
    let given_up = desired.is_none_or(|desired| {
        desired.state == SliverState::Stopped && desired.start == Start::Boot && home.kept_down.is_none()
    });
    let outdated = other.domain_is_newer() && study.change.class != ChangeClass::Resume;
    if other.image.is_some() && !outdated && !given_up {
        // Memory in a berth where it is not to be resumed: nobody throws it away unasked.
        return study.hold(vec![Reason::ImageStale {
            what: ImageMisfit::Boot,
        }]);
    }
    let takes_over = desired.is_some_and(|desired| {
        desired.keeps_nothing()
            && other.keeps_nothing()
            && other.runs()
            && home.is_as(desired)
            && !other.is_as(desired)
            && !study.starts()
            && home.can_take_over(desired)
    });
    let mut steps = other.steps_down(false);
    steps.remove(&Step::Seal);
    if other.image.is_some() {
        steps.insert(Step::Discard);
    }
    let running = desired.is_some_and(|desired| desired.state == SliverState::Running);
    match study.change.class {
        ChangeClass::Keep | ChangeClass::InPlace | ChangeClass::Replace if running => {
            study.change.class = ChangeClass::Replace;
        }
        ChangeClass::Keep | ChangeClass::InPlace => study.change.class = ChangeClass::Stop,
        ChangeClass::Replace
        | ChangeClass::Create
        | ChangeClass::Start
        | ChangeClass::Resume
        | ChangeClass::Reboot
        | ChangeClass::HandOver
        | ChangeClass::Suspend
        | ChangeClass::Stop
        | ChangeClass::Remove
        | ChangeClass::Purge
        | ChangeClass::Wait => {}
    }
    if study.change.reasons.is_empty() {
        study.change.cause = Cause::Drift;
    }
    if home.domain.is_some() && other.domain.is_some() {
        study.change.reasons.push(Reason::EmbodiedTwice);
    } else if study.change.reasons.is_empty() {
        study.change.reasons.push(Reason::Unfinished);
    }
    if takes_over {
        hand_over(&mut study.steps, &mut steps, home, other);
    }
    study.leaves = Some(Leaves {
        berth: other.id.clone(),
        steps,
        last: takes_over,
    });
}

/// Makes of the steps that start or keep one embodiment and end another those of a takeover.
fn hand_over(
    steps: &mut BTreeSet<Step>,
    leaving: &mut BTreeSet<Step>,
    to: &Situation<'_>,
    from: &Situation<'_>,
) {
    let publishes = to
        .desired
        .as_deref()
        .is_some_and(|desired| !desired.publish.is_empty());
    let retunes = steps.remove(&Step::Retune);
    if retunes || publishes && steps.contains(&Step::Boot) {
        steps.insert(Step::Publish);
    }
    // The old one serves meanwhile: nobody hurries.
    let asked = to
        .desired
        .as_deref()
        .is_some_and(|desired| desired.health.is_some());
    if asked && to.health != Some(&HealthVerdict::Healthy) {
        steps.insert(Step::Await);
    }
    if from.domain.is_some_and(|domain| !domain.publish.is_empty()) {
        leaving.insert(Step::Unpublish);
    }
}

/// Makes replacements of those reboots that can be: where the sliver keeps nothing, its health check tells when the new
/// domain serves, and the node has the memory for both at once, beside what all others take.
pub(crate) fn replace(input: &PlanInput<'_>, studies: &mut BTreeMap<SliverId, Study>) {
    let candidates: Vec<_> = studies
        .iter()
        .filter(|(_, study)| study.change.class == ChangeClass::Reboot && study.change.cause == Cause::Change)
        .filter_map(|(sliver, study)| Some((sliver.clone(), candidate(input, study)?)))
        .collect();
    if candidates.is_empty() {
        return;
    }
    let capacity = capacity::capacity(input);
    let mut free = capacity::free_beside(input, studies);
    for (sliver, Candidate { from, to, needed }) in candidates {
        let Some(study) = studies.get_mut(&sliver) else {
            continue;
        };
        if needed > free {
            study.change.reasons.push(Reason::NoRoomBeside {
                needed,
                free,
                capacity,
            });
            continue;
        }
        let Some(desired) = to.desired.as_deref() else {
            continue;
        };
        let marks = Marks::of(desired);
        let mut steps = to.steps_to_run(desired, marks);
        let mut leaving = from.steps_down(false);
        hand_over(&mut steps, &mut leaving, &to, &from);
        study.change.class = ChangeClass::Replace;
        study
            .change
            .reasons
            .push(Reason::MadeBeforeBroken { needed, free });
        study.marks = Some(marks);
        study.steps = steps;
        study.berth = to.id.clone();
        study.leaves = Some(Leaves {
            berth: from.id.clone(),
            steps: leaving,
            last: true,
        });
        free = free.saturating_sub(needed);
    }
}

/// A reboot that could be a replacement.
struct Candidate<'a> {
    from: Situation<'a>,
    to: Situation<'a>,
    /// Memory that it takes beside what is held, in MiB.
    needed: u64,
}

fn candidate<'a>(input: &PlanInput<'a>, study: &Study) -> Option<Candidate<'a>> {
    let mut from = Situation::of(input, &study.berth).ok()?;
    let mut to = Situation::of(input, &study.berth.beside()).ok()?;
    from.beside = to.domain;
    to.beside = from.domain;
    let desired = to.desired.as_deref()?;
    let ported = from.able.contains(&Ability::Ports);
    let publishes = !desired.publish.is_empty() || from.domain.is_some_and(|d| !d.publish.is_empty());
    let sound = desired.keeps_nothing()
        && !desired.failover
        && from.keeps_nothing()
        && to.keeps_nothing()
        && from.applied.is_some_and(|applied| applied.complete)
        && desired.health.is_some()
        && from.runs()
        && from.adopts.is_none()
        && from.image.is_none()
        && to.image.is_none()
        && !set_aside(&from)
        && (ported || !publishes)
        && capacity::ports_are_free(input, &study.change.sliver);
    let marks = Marks::of(desired);
    let seen = blind_ingredients(input, &crate::action::Ingredients::of(desired)).is_empty();
    let takes = desired.resources.memory.mib();
    let held = to.domain.map_or(0, |domain| domain.memory_mib);
    // What is left of a replacement before, and is no longer asked for, ends first.
    let starts = to.steps_to_run(desired, marks).contains(&Step::Boot);
    (sound && seen && starts).then(|| Candidate {
        needed: takes.saturating_sub(held),
        from,
        to,
    })
}

fn set_aside(situation: &Situation<'_>) -> bool {
    situation
        .storage
        .is_some_and(|storage| storage.tombstone.is_some())
}

impl Situation<'_> {
    fn runs(&self) -> bool {
        self.domain
            .is_some_and(|domain| domain.state == DomainState::Running)
    }
}

/// The embodiment of a sliver that people mean when they name it: the only one, or of two the one that serves.
#[must_use]
pub fn serving(domains: &Domains, sliver: &SliverId) -> SliverId {
    let (first, second) = (sliver.itself(), sliver.itself().beside());
    let publishes = |id: &SliverId| domains.ours.get(id).map(|domain| !domain.publish.is_empty());
    let chosen = match (publishes(&first), publishes(&second)) {
        (None, None) if !domains.images.contains_key(&first) && domains.images.contains_key(&second) => {
            Berth::Second
        }
        (None, Some(_)) | (Some(false), Some(true)) => Berth::Second,
        (None, None) | (Some(_), None) | (Some(true), Some(_)) | (Some(false), Some(false)) => Berth::First,
    };
    match chosen {
        Berth::First => first,
        Berth::Second => second,
    }
}
