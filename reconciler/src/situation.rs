//! One sliver seen from its three sides, and the steps from how it is to how it should be.

use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, SliverState, WritableKind};
use xeno_model::id::{Digest, Epoch, SliverId};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{Ability, DomainState, HealthVerdict, ObservedDomain, ObservedStorage, Seen};
use xeno_model::units::BitRate;

use crate::change::{AppliedSliver, Reason};
use crate::plan::PlanInput;
use crate::ports::Tuning;

/// One step of one sliver, in the order in which steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(dead_code, reason = "the transitions that take all of them are being written")]
pub(crate) enum Step {
    Shutdown,
    Suspend,
    Unexport,
    Close,
    Seal,
    Tombstone,
    Discard,
    Revive,
    Adopt,
    Open,
    Limit,
    Stack,
    Export,
    Boot,
    Resume,
    Unpause,
    Retune,
    Await,
    Purge,
}

/// One sliver from its three sides. Only made where both domains and storage could be seen.
pub(crate) struct Situation<'a> {
    pub(crate) desired: Option<&'a DesiredSliver>,
    pub(crate) applied: Option<&'a AppliedSliver>,
    pub(crate) domain: Option<&'a ObservedDomain>,
    pub(crate) storage: Option<&'a ObservedStorage>,
    health: Option<&'a HealthVerdict>,
    pub(crate) epoch: Epoch,
}

/// What a running sliver is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) stack: Digest,
    pub(crate) boot: Digest,
}

impl Marks {
    pub(crate) fn of(sliver: &DesiredSliver) -> Self {
        Self {
            stack: stack_digest(sliver),
            boot: boot_digest(sliver),
        }
    }
}

impl<'a> Situation<'a> {
    /// Looks at `sliver`; fails with the reasons why it cannot be judged.
    pub(crate) fn of(input: &PlanInput<'a>, sliver: &SliverId) -> Result<Self, Vec<Reason>> {
        let observed = input.observed;
        let (Seen::Known(domains), Seen::Known(storage)) = (&observed.domains, &observed.storage) else {
            let facets = [
                blind("domains", &observed.domains),
                blind("storage", &observed.storage),
            ];
            return Err(facets.into_iter().flatten().collect());
        };
        let applied = input.applied.get(sliver);
        let storage = storage.get(sliver);
        Ok(Self {
            desired: input.desired.slivers.get(sliver),
            applied,
            domain: domains.ours.get(sliver),
            storage,
            health: observed.health.get(sliver),
            epoch: epoch(applied, storage),
        })
    }

    /// Whether anything of it exists on the node that a removal would have to take away.
    pub(crate) fn exists(&self) -> bool {
        let kept = self.storage.is_some_and(|s| s.on_disk && s.tombstone.is_none());
        self.domain.is_some() || self.held() || kept
    }

    /// Whether its storage is in use: open, assembled or served.
    pub(crate) fn held(&self) -> bool {
        self.storage
            .is_some_and(|s| s.open.is_some() || s.stack.is_some() || s.exported)
    }

    /// Whether an earlier run began something and the record does not say that it ended.
    pub(crate) fn unfinished(&self) -> bool {
        self.applied
            .map_or_else(|| self.exists(), |applied| !applied.complete)
    }

    /// Whether its domain runs, as `marks` say.
    pub(crate) fn runs_as(&self, marks: Marks) -> bool {
        self.domain.is_some_and(|domain| {
            domain.state == DomainState::Running
                && domain.booted == marks.boot
                && self.desired.is_none_or(|desired| sized(domain, desired))
        })
    }

    /// Whether what is assembled or open cannot be built upon, and has to be taken apart first.
    fn misfit(&self, desired: &DesiredSliver, marks: Marks) -> bool {
        let Some(storage) = self.storage else { return false };
        // A sliver that writes nowhere has nothing to open.
        let writes = desired
            .mounts
            .iter()
            .any(|mount| mount.writable == WritableKind::Local);
        let stack_wrong = storage.stack.is_some_and(|stack| stack != marks.stack);
        let open_wrong = storage.open.is_some_and(|open| open != self.epoch);
        let floating = storage.stack.is_some() && storage.open.is_none() && writes;
        let served_from_nothing = storage.exported && storage.stack.is_none();
        let set_aside_in_use = storage.tombstone.is_some() && self.held();
        stack_wrong || open_wrong || floating || served_from_nothing || set_aside_in_use
    }

    /// The steps after which it runs as desired.
    pub(crate) fn steps_to_run(&self, desired: &DesiredSliver, marks: Marks) -> BTreeSet<Step> {
        let mut steps = BTreeSet::new();
        let mut add = |needed: bool, step| {
            if needed {
                steps.insert(step);
            }
            needed
        };
        let storage = self.storage.cloned().unwrap_or_default();
        let misfit = self.misfit(desired, marks);
        let boot = add(misfit || !self.runs_as(marks), Step::Boot);
        add(boot && self.domain.is_some(), Step::Shutdown);
        add(misfit, Step::Unexport);
        add(misfit, Step::Close);
        let stack = add(misfit || storage.stack != Some(marks.stack), Step::Stack);
        add(stack && (misfit || storage.open != Some(self.epoch)), Step::Open);
        // Opening says what the limit is; layers that stay open are told.
        let limit_wrong = storage
            .limits
            .iter()
            .any(|limit| *limit != desired.resources.disk);
        add(
            !misfit && storage.open == Some(self.epoch) && limit_wrong,
            Step::Limit,
        );
        add(stack || !storage.exported, Step::Export);
        let unproven = self.unsettled(desired, marks) && self.health != Some(&HealthVerdict::Healthy);
        add(desired.health.is_some() && (boot || unproven), Step::Await);
        steps
    }

    /// Whether what runs now was never recorded as carried through: its boot has yet to be seen healthy.
    fn unsettled(&self, desired: &DesiredSliver, marks: Marks) -> bool {
        self.applied.is_none_or(|applied| {
            !applied.complete
                || applied.desired != *desired
                    && (applied.desired.state != SliverState::Running
                        || applied.desired.resources.memory != desired.resources.memory
                        || applied.desired.publish != desired.publish
                        || boot_digest(&applied.desired) != marks.boot)
        })
    }

    /// The steps after which no domain is there and its storage is closed.
    pub(crate) fn steps_to_stop(&self) -> BTreeSet<Step> {
        let mut steps = BTreeSet::new();
        if self.domain.is_some() {
            steps.insert(Step::Shutdown);
        }
        if self.held() {
            // Even where not all of it is served, some may be.
            steps.insert(Step::Unexport);
        }
        if self
            .storage
            .is_some_and(|s| s.open.is_some() || s.stack.is_some())
        {
            steps.insert(Step::Close);
        }
        steps
    }

    /// The steps after which only a tombstone is left.
    pub(crate) fn steps_to_remove(&self) -> BTreeSet<Step> {
        let mut steps = self.steps_to_stop();
        if self.storage.is_some_and(|s| s.on_disk && s.tombstone.is_none()) {
            steps.insert(Step::Tombstone);
        }
        steps
    }
}

/// The right to run that a sliver's writable layers are opened under: the highest it was ever seen with, at first 1.
/// Only a move to another node raises it.
pub(crate) fn epoch(applied: Option<&AppliedSliver>, storage: Option<&ObservedStorage>) -> Epoch {
    let applied = applied.map(|applied| applied.epoch);
    let open = storage.and_then(|storage| storage.open);
    applied.max(open).unwrap_or(Epoch(1))
}

/// Whether a domain has the memory and the ports that are asked for.
pub(crate) fn sized(domain: &ObservedDomain, desired: &DesiredSliver) -> bool {
    domain.memory_mib == desired.resources.memory.mib() && domain.publish == desired.publish
}

/// In what a domain differs from `tuning`, as far as a driver with these abilities can change it.
pub(crate) fn mistuned(domain: &ObservedDomain, tuning: &Tuning, able: &BTreeSet<Ability>) -> Vec<String> {
    let limits = (&domain.limits, &tuning.limits);
    let percent = |cap: Option<u32>| cap.map_or_else(|| "none".to_owned(), |cap| format!("{cap}%"));
    let rate = |rate: Option<BitRate>| rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string());
    let mut found = Vec::new();
    for ability in able {
        let (differs, what) = match ability {
            Ability::Memory => (
                domain.memory_mib != tuning.memory_mib,
                format!(
                    "memory {} MiB instead of {} MiB",
                    domain.memory_mib, tuning.memory_mib
                ),
            ),
            Ability::Ports => (
                domain.publish.iter().collect::<BTreeSet<_>>() != tuning.publish.iter().collect(),
                "published ports".to_owned(),
            ),
            Ability::CpuWeight => (
                limits.0.cpu_weight != limits.1.cpu_weight,
                format!(
                    "cpu weight {} instead of {}",
                    limits.0.cpu_weight, limits.1.cpu_weight
                ),
            ),
            Ability::CpuCap => (
                limits.0.cpu_cap_percent != limits.1.cpu_cap_percent,
                format!(
                    "cpu cap {} instead of {}",
                    percent(limits.0.cpu_cap_percent),
                    percent(limits.1.cpu_cap_percent)
                ),
            ),
            Ability::NetRate => (
                limits.0.net_rate != limits.1.net_rate,
                format!(
                    "network rate {} instead of {}",
                    rate(limits.0.net_rate),
                    rate(limits.1.net_rate)
                ),
            ),
            Ability::Suspend => (false, String::new()),
        };
        if differs {
            found.push(what);
        }
    }
    found
}

/// The reason why a facet that could not be seen makes a sliver wait.
pub(crate) fn blind<T>(facet: &'static str, seen: &Seen<T>) -> Option<Reason> {
    match seen {
        Seen::Known(_) => None,
        Seen::Unknown { why } => Some(Reason::Blind {
            facet,
            why: why.clone(),
        }),
    }
}
