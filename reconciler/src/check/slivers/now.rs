//! What a sliver is like at a moment of the plan.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredSliver, Mount, Remote, RollbackData, WritableKind};
use xeno_model::id::{Digest, DomainUuid, SliverId};
use xeno_model::normal::{boot_digest, image_digest};
use xeno_model::observed::{Ability, DomainState, HealthVerdict, ObservedDomain, ObservedStorage, Seen};

use crate::checkpoint::{failed_since, left_by, went_back, youngest_of};
use crate::plan::{Plan, PlanInput};
use crate::ports::{Tuning, share};

/// What one sliver is like at a moment of the plan.
#[derive(Clone, Debug, Default)]
pub(super) struct Now {
    pub(super) domain: Option<Domain>,
    pub(super) image: Option<Image>,
    pub(super) open: bool,
    /// Open under the highest right to run that is known, and not set aside: nothing to be said against it.
    pub(super) rightly_open: bool,
    pub(super) stack: Option<Digest>,
    pub(super) exported: bool,
    /// Writable layers lie on disk.
    pub(super) kept: bool,
    pub(super) set_aside: bool,
    /// What they are like; `None`: nobody can say.
    pub(super) mark: Option<Digest>,
    /// Whether it writes to a remote directory that was not mounted: only then may an image be resumed that nobody has
    /// compared yet.
    pub(super) unmounted: bool,
    /// A writable layer is open that outlives the domain.
    pub(super) keeps: bool,
    /// No open writable layer has another limit than is asked for, and no export another share.
    pub(super) limited: bool,
    /// What is to be kept of what it wrote before it starts as something else.
    pub(super) owed: Option<Owed>,
    /// Whether that is kept.
    pub(super) saved: bool,
    /// Whether it went back as far as it is to.
    pub(super) back: bool,
    /// Its health check has passed, or it has none.
    pub(super) healthy: bool,
}

/// What is to be kept, and to go back, before a sliver starts as something else than it was carried through as.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    /// The checkpoint that keeps what it wrote.
    pub(super) left: String,
    /// What the domain was booted as whose writes that is.
    pub(super) of: Option<Digest>,
    /// The one that it goes back to.
    pub(super) back: Option<String>,
}

/// What is owed before `desired` starts in its first berth.
fn owed(input: &PlanInput<'_>, sliver: &SliverId, kept: Option<&ObservedStorage>) -> Option<Owed> {
    let (desired, applied) = (input.desired.slivers.get(sliver)?, input.applied.get(sliver)?);
    let kept = kept.filter(|kept| kept.on_disk && kept.tombstone.is_none())?;
    let local = |sliver: &DesiredSliver| {
        let mut mounts = sliver.mounts.iter();
        mounts.any(|mount| mount.writable == WritableKind::Local)
    };
    if !local(&applied.desired) {
        return None;
    }
    if *desired == applied.desired && desired.rollback != RollbackData::Restore {
        return None;
    }
    let carried = boot_digest(&applied.desired);
    if boot_digest(desired) == carried {
        // It goes back from something that booted since, and was never carried through.
        if desired.rollback != RollbackData::Restore || !applied.complete {
            return None;
        }
        let domains = input.observed.domains.known()?;
        let booted = domains.ours.get(sliver).map(|domain| domain.booted);
        if booted == Some(carried) {
            return None;
        }
        let failed = failed_since(applied, booted.as_ref(), kept)?;
        let back = Some(left_by(applied)).filter(|name| kept.checkpoints.contains_key(name))?;
        let still = !kept.checkpoints.contains_key(&failed.back);
        return still.then_some(Owed {
            left: failed.left,
            of: booted,
            back: Some(back),
        });
    }
    let (old, new) = (image_digest(&applied.desired), image_digest(desired));
    let due = desired.rollback == RollbackData::Restore
        && local(desired)
        && old != new
        && !kept.checkpoints.contains_key(&went_back(applied));
    let back = youngest_of(kept, &new)
        .filter(|_| due)
        .map(|(name, _)| name.to_owned());
    (desired.checkpoints > 0 || back.is_some()).then(|| Owed {
        left: left_by(applied),
        of: Some(carried),
        back,
    })
}

#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) booted: Digest,
    pub(super) uuid: DomainUuid,
    pub(super) state: DomainState,
    pub(super) memory_max_mib: u64,
    /// Whether any port is published for it.
    pub(super) publishes: bool,
    /// Whether it has the memory and the ports that are asked for, and the limits that the driver keeps.
    pub(super) tuned: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) boot: Digest,
    pub(super) uuid: DomainUuid,
    pub(super) memory_max_mib: u64,
    pub(super) sealed: Seal,
    /// Its domain went on after it was stored.
    pub(super) outdated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    Not,
    With(Digest),
    /// By this plan, with what is there then.
    Now,
}

impl Now {
    pub(super) fn in_use(&self) -> bool {
        self.domain.is_some() || self.exported || self.open || self.stack.is_some()
    }

    /// Whether a domain is there, or its memory.
    pub(super) fn is_there(&self) -> bool {
        self.domain.is_some() || self.image.is_some()
    }

    pub(super) fn runs(&self) -> bool {
        self.domain
            .as_ref()
            .is_some_and(|domain| domain.state == DomainState::Running)
    }

    /// Whether its image could be resumed as `desired`.
    pub(super) fn can_resume(&self, desired: &DesiredSliver, uuid: Option<DomainUuid>) -> bool {
        self.image.as_ref().is_some_and(|image| {
            let disk = match image.sealed {
                Seal::Not => self.mark.is_some(),
                Seal::With(mark) => self.mark == Some(mark) || self.mark.is_none() && self.unmounted,
                Seal::Now => true,
            };
            let writes = |mount: &Mount| mount.writable.is_kept();
            let there = self.kept || self.set_aside || !desired.mounts.iter().any(writes);
            disk && there
                && !image.outdated
                && image.boot == boot_digest(desired)
                && Some(image.uuid) == uuid
                && desired.resources.memory.mib() <= image.memory_max_mib
        })
    }
}

pub(super) fn tuned(domain: &ObservedDomain, desired: &DesiredSliver, able: &BTreeSet<Ability>) -> bool {
    let tuning = Tuning::of(desired);
    let (has, wants) = (&domain.limits, &tuning.limits);
    let ports: BTreeSet<_> = domain.publish.iter().collect();
    domain.vcpus == tuning.vcpus
        && domain.memory_mib == tuning.memory_mib
        && ports == tuning.publish.iter().collect()
        && (has.cpu_weight == wants.cpu_weight || !able.contains(&Ability::CpuWeight))
        && (has.cpu_cap_percent == wants.cpu_cap_percent || !able.contains(&Ability::CpuCap))
        && (has.net_rate == wants.net_rate || !able.contains(&Ability::NetRate))
}

/// What was observed of every sliver of the plan.
pub(super) fn beginning(plan: &Plan, input: &PlanInput<'_>) -> Option<BTreeMap<SliverId, Now>> {
    let observed = input.observed;
    let (Seen::Known(domains), Seen::Known(_)) = (&observed.domains, &observed.storage) else {
        return None;
    };
    let now = |sliver: &SliverId| {
        // What takes something from a sliver whose storage is not seen is refused for that alone.
        let kept = observed.storage_of(sliver).ok().flatten();
        let desired = input.desired.slivers.get(&sliver.itself());
        let asked = desired.is_some_and(|desired| desired.health.is_some());
        Now {
            domain: domains.ours.get(sliver).map(|domain| Domain {
                booted: domain.booted,
                uuid: domain.uuid,
                state: domain.state,
                memory_max_mib: domain.memory_max_mib,
                publishes: !domain.publish.is_empty(),
                tuned: desired.is_some_and(|desired| tuned(domain, desired, &domains.able)),
            }),
            image: domains.images.get(sliver).map(|image| Image {
                boot: image.boot,
                uuid: image.uuid,
                memory_max_mib: image.memory_max_mib,
                sealed: image.mark.map_or(Seal::Not, Seal::With),
                outdated: false,
            }),
            open: kept.is_some_and(|s| s.open.is_some()),
            rightly_open: kept.is_some_and(|s| {
                let applied = input.applied.get(&sliver.itself()).map(|applied| applied.epoch);
                s.open.is_some() && s.open >= applied && s.tombstone.is_none()
            }),
            stack: kept.and_then(|s| s.stack),
            exported: kept.is_some_and(|s| s.exported),
            kept: kept.is_some_and(|s| s.on_disk),
            set_aside: kept.is_some_and(|s| s.tombstone.is_some()),
            mark: ObservedStorage::mark_of(kept),
            unmounted: desired.is_some_and(|desired| {
                let mounted = observed.remotes.known();
                mounted.is_some_and(|mounted| {
                    !Remote::written_by(desired)
                        .iter()
                        .all(|one| mounted.contains_key(one))
                })
            }),
            keeps: kept.is_some_and(|s| !s.limits.is_empty()),
            limited: kept.is_none_or(|s| {
                desired.is_none_or(|desired| {
                    let (limits, shared) = (desired.resources.layer_limits(), share(desired));
                    s.limits.iter().all(|limit| *limit == limits)
                        && (!s.exported || s.shares.iter().all(|has| *has == shared))
                })
            }),
            owed: owed(input, sliver, kept),
            saved: false,
            back: false,
            healthy: !asked || input.observed.health.get(sliver) == Some(&HealthVerdict::Healthy),
        }
    };
    let slivers = plan.changes.keys();
    let berths = slivers.flat_map(|sliver| [sliver.clone(), sliver.beside()]);
    Some(berths.map(|berth| (berth.clone(), now(&berth))).collect())
}
