//! One sliver seen from its three sides, and the steps from how it is to how it should be.

mod tuning;

use std::borrow::Cow;
use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, Remote, SliverState, Start};
use xeno_model::id::{Digest, DomainUuid, Epoch, SliverId};
use xeno_model::normal::{boot_digest, boot_digest_on, stack_digest};
use xeno_model::observed::{
    Ability, DomainState, HealthVerdict, Leasing, ObservedDomain, ObservedImage, ObservedStorage, Seen,
};

use crate::action::ActionKind;
use crate::change::{AppliedSliver, ImageMisfit, Reason};
use crate::effective::effective;
use crate::plan::PlanInput;
use crate::ports::{Tuning, share};

pub(crate) use tuning::{can_be_tuned, mistuned, same_ports};

/// One step of one sliver, in the order in which steps are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Checkpoint,
    Unpublish,
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
    Restore,
    Stack,
    Export,
    Boot,
    Resume,
    Unpause,
    Retune,
    Await,
    Publish,
    Purge,
}

impl Step {
    /// The kind of action that takes this step.
    pub(crate) fn kind(self) -> ActionKind {
        match self {
            Self::Unpublish => ActionKind::Unpublish,
            Self::Shutdown => ActionKind::Shutdown,
            Self::Suspend => ActionKind::Suspend,
            Self::Unexport => ActionKind::Unexport,
            Self::Close => ActionKind::CloseWritable,
            Self::Seal => ActionKind::Seal,
            Self::Tombstone => ActionKind::Tombstone,
            Self::Discard => ActionKind::DiscardImage,
            Self::Revive => ActionKind::Revive,
            Self::Adopt => ActionKind::Adopt,
            Self::Open => ActionKind::OpenWritable,
            Self::Limit => ActionKind::Limit,
            Self::Checkpoint => ActionKind::Checkpoint,
            Self::Restore => ActionKind::Restore,
            Self::Stack => ActionKind::Stack,
            Self::Export => ActionKind::Export,
            Self::Boot => ActionKind::Boot,
            Self::Resume => ActionKind::Resume,
            Self::Unpause => ActionKind::Unpause,
            Self::Retune => ActionKind::Retune,
            Self::Await => ActionKind::AwaitHealthy,
            Self::Publish => ActionKind::Publish,
            Self::Purge => ActionKind::Purge,
        }
    }
}

/// One sliver from its three sides, in one of its berths. Only made where both domains and storage could be seen.
pub(crate) struct Situation<'a> {
    /// The sliver in the berth that is looked at.
    pub(crate) id: SliverId,
    /// Identity of its domain here, where it is desired.
    pub(crate) uuid: Option<DomainUuid>,
    /// Its domain in the other berth.
    pub(crate) beside: Option<&'a ObservedDomain>,
    /// Whether anything is in the other berth.
    pub(crate) crowded: bool,
    /// As it is reconciled: stopped where the site or its end keep it down.
    pub(crate) desired: Option<Cow<'a, DesiredSliver>>,
    /// Why it is kept down.
    pub(crate) kept_down: Option<Reason>,
    pub(crate) applied: Option<&'a AppliedSliver>,
    pub(crate) domain: Option<&'a ObservedDomain>,
    pub(crate) image: Option<&'a ObservedImage>,
    pub(crate) storage: Option<&'a ObservedStorage>,
    /// Whether it writes to a remote directory that is not mounted, so that nobody can have looked at what lies there.
    pub(crate) unmounted: bool,
    pub(crate) able: &'a BTreeSet<Ability>,
    /// Whose writable layers it is to take over first.
    pub(crate) adopts: Option<SliverId>,
    pub(crate) health: Option<&'a HealthVerdict>,
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
        let stack = stack_digest(sliver);
        Self {
            stack,
            boot: boot_digest_on(sliver, &stack),
        }
    }
}

/// What to make of the image of a sliver's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageUse {
    /// There is none.
    None,
    /// It can be resumed.
    Fits,
    /// It cannot.
    Misfit(ImageMisfit),
    /// Whether it can cannot be told.
    Untold,
}

impl<'a> Situation<'a> {
    /// Looks at `sliver`; fails with the reasons why it cannot be judged.
    pub(crate) fn of(input: &PlanInput<'a>, sliver: &SliverId) -> Result<Self, Vec<Reason>> {
        let observed = input.observed;
        let (domains, storage) = match (&observed.domains, observed.storage_of(sliver)) {
            (Seen::Known(domains), Ok(storage)) => (domains, storage),
            (domains, storage) => {
                let facets = [blind("domains", domains), storage.err().map(blind_storage)];
                return Err(facets.into_iter().flatten().collect());
            }
        };
        let itself = sliver.itself();
        let applied = input.applied.get(&itself);
        let desired = input.desired.slivers.get(&itself);
        let (desired, kept_down) = match desired.map(|desired| effective(input.desired, desired, input.now)) {
            Some((desired, kept_down)) => (Some(desired), kept_down),
            None => (None, None),
        };
        let from = desired.as_deref().and_then(|desired| desired.moved_from.as_ref());
        if let Some(from) = from.filter(|from| is_moved(input, from)) {
            // Whether there is something to go on with has to be known: who makes layers of its own first never does.
            observed
                .storage_of(from)
                .map_err(|why| vec![blind_storage(why)])?;
        }
        let adopts = from.filter(|from| can_adopt(input, from, &itself)).cloned();
        let mut epoch = epoch(applied, storage);
        if let Some(from) = &adopts {
            let kept = observed.storage_of(from).ok().flatten();
            epoch = epoch.max(self::epoch(input.applied.get(from), kept));
        }
        let written = desired.as_deref().map(Remote::written_by).unwrap_or_default();
        let mounted = observed.remotes.known();
        let unmounted = mounted.is_some_and(|mounted| written.iter().any(|one| !mounted.contains_key(one)));
        Ok(Self {
            id: sliver.clone(),
            uuid: input.desired.uuid_of(sliver),
            beside: None,
            crowded: false,
            desired,
            kept_down,
            applied,
            domain: domains.ours.get(sliver),
            image: domains.images.get(sliver),
            storage,
            unmounted,
            able: &domains.able,
            adopts,
            health: observed.health.get(sliver),
            epoch,
        })
    }

    /// Whether anything of it exists on the node that a removal would have to take away.
    pub(crate) fn exists(&self) -> bool {
        let set_aside = self.storage.is_some_and(|s| s.tombstone.is_some());
        let image = self.image.is_some() && !set_aside;
        self.domain.is_some() || self.held() || self.kept() || image || self.crowded
    }

    /// Whether writable layers of it lie on disk, and are not set aside.
    pub(crate) fn kept(&self) -> bool {
        self.storage.is_some_and(|s| s.on_disk && s.tombstone.is_none())
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

    /// Whether there is a domain of the state `running` or one that can be let go on.
    fn lives(&self) -> bool {
        self.domain.is_some_and(|domain| match domain.state {
            DomainState::Running | DomainState::Paused => true,
            DomainState::Stopping
            | DomainState::Crashed
            | DomainState::Kept { .. }
            | DomainState::Copy { .. } => false,
        })
    }

    /// Whether its domain can become what is desired without being started anew.
    pub(crate) fn usable(&self, desired: &DesiredSliver, marks: Marks) -> bool {
        self.lives()
            && self.domain.is_some_and(|domain| {
                domain.booted == marks.boot
                    && Some(domain.uuid) == self.uuid
                    && can_be_tuned(domain, desired, self.able)
            })
    }

    /// What to make of its image, where no domain has gone on since.
    pub(crate) fn image_use(&self, desired: &DesiredSliver, marks: Marks) -> ImageUse {
        match self.image_use_alone(desired, marks) {
            ImageUse::Fits if self.adopts.is_some() => ImageUse::Misfit(ImageMisfit::Disk),
            image => image,
        }
    }

    /// As if it took over nobody's writable layers.
    fn image_use_alone(&self, desired: &DesiredSliver, marks: Marks) -> ImageUse {
        let Some(image) = self.image.filter(|_| !self.domain_is_newer()) else {
            return ImageUse::None;
        };
        let disk = ObservedStorage::mark_of(self.storage);
        if Some(image.uuid) != self.uuid {
            ImageUse::Misfit(ImageMisfit::Identity)
        } else if image.boot != marks.boot {
            ImageUse::Misfit(ImageMisfit::Boot)
        } else if desired.resources.memory.mib() > image.memory_max_mib {
            ImageUse::Misfit(ImageMisfit::Memory)
        } else if disk.is_none() && self.unmounted && image.mark.is_some() && !self.lost(desired) {
            // It is mounted before anything is resumed over it, and compared then.
            ImageUse::Fits
        } else if disk.is_none() {
            ImageUse::Untold
        } else if image.mark.is_some() && image.mark != disk || self.lost(desired) {
            ImageUse::Misfit(ImageMisfit::Disk)
        } else {
            ImageUse::Fits
        }
    }

    /// Whether the layers that it wrote to are gone.
    fn lost(&self, desired: &DesiredSliver) -> bool {
        writes(desired) && self.storage.is_none_or(|s| !s.on_disk && s.tombstone.is_none())
    }

    /// Whether the domain has gone on since its image was stored. One that has not got so far is reported as crashed.
    pub(crate) fn domain_is_newer(&self) -> bool {
        self.domain
            .is_some_and(|domain| domain.state != DomainState::Crashed)
    }

    /// Whether an image that does not fit may be thrown away: its slice says so, or it is what an interrupted suspend
    /// of a service left that was to go on running. Not where it would fit but for another's writable layers that are to
    /// come: whoever asked for those need not know of it.
    pub(crate) fn may_discard(&self, desired: &DesiredSliver, marks: Marks) -> bool {
        let ran = self
            .applied
            .is_some_and(|applied| applied.complete && applied.desired.state == SliverState::Running);
        let fits = self.image_use_alone(desired, marks) == ImageUse::Fits;
        (desired.start == Start::Resume || ran) && !fits
    }

    /// Whether what is assembled or open cannot be built upon, and has to be taken apart first.
    pub(crate) fn misfit(&self, desired: &DesiredSliver, marks: Marks) -> bool {
        let Some(storage) = self.storage else { return false };
        let stack_wrong = storage.stack.is_some_and(|stack| stack != marks.stack);
        let open_wrong = storage.open.is_some_and(|open| open != self.epoch);
        let floating = storage.stack.is_some() && storage.open.is_none() && writes(desired);
        let served_from_nothing = storage.exported && storage.stack.is_none();
        let set_aside_in_use = storage.tombstone.is_some() && (self.held() || self.domain.is_some());
        let adopted_in_use = self.adopts.is_some() && self.held();
        stack_wrong || open_wrong || floating || served_from_nothing || set_aside_in_use || adopted_in_use
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
        let anew = misfit || !self.usable(desired, marks) || self.adopts.is_some();
        let resume = anew && self.image_use(desired, marks) == ImageUse::Fits;
        let unsealed = resume && self.image.is_some_and(|image| image.mark.is_none());
        // Only asked where it starts: what it was carried through as is a digest of much, and most that is looked at stays as it is.
        let turn = if anew && !resume {
            self.turn(desired, marks)
        } else {
            None
        };
        add(turn.is_some(), Step::Checkpoint);
        add(anew && self.domain.is_some(), Step::Shutdown);
        let back = add(turn.is_some_and(|turn| turn.back.is_some()), Step::Restore);
        // Sealing needs closed layers, and what goes back must be part of no stack.
        let stacked = storage.stack.is_some() || storage.exported;
        let apart = add(
            misfit || unsealed && self.held() || back && stacked,
            Step::Unexport,
        );
        add(apart, Step::Close);
        add(unsealed, Step::Seal);
        add(self.image.is_some() && !resume, Step::Discard);
        add(storage.tombstone.is_some(), Step::Revive);
        add(self.adopts.is_some(), Step::Adopt);
        let stack = add(apart || storage.stack != Some(marks.stack), Step::Stack);
        add(stack && (apart || storage.open != Some(self.epoch)), Step::Open);
        // Opening says what the limit is, and serving what the share is; what stays open or served is told.
        let limits = desired.resources.layer_limits();
        let limit_wrong =
            storage.open == Some(self.epoch) && storage.limits.iter().any(|limit| *limit != limits);
        let share_wrong = storage.exported && !stack && self.share_foreign(desired).is_some();
        // That it needs one from now on is for whoever has the lease.
        let lease_wrong =
            storage.exported && !stack && storage.lease != Leasing::Free && !desired.fails_over();
        add(!apart && (limit_wrong || share_wrong || lease_wrong), Step::Limit);
        add(stack || !storage.exported, Step::Export);
        add(anew && !resume, Step::Boot);
        add(resume, Step::Resume);
        let paused = self
            .domain
            .is_some_and(|domain| domain.state == DomainState::Paused);
        add(!anew && paused, Step::Unpause);
        let wrong = self
            .domain
            .is_some_and(|domain| !mistuned(domain, &Tuning::of(desired), self.able).is_empty());
        add(!anew && wrong, Step::Retune);
        let unproven = self.unsettled(desired, marks) && self.health != Some(&HealthVerdict::Healthy);
        add(desired.health.is_some() && (anew || unproven), Step::Await);
        steps
    }

    /// The share that its exports have, where one has another than it should.
    pub(crate) fn share_foreign(&self, desired: &DesiredSliver) -> Option<u32> {
        let wanted = share(desired);
        let mut shares = self.storage?.shares.iter().copied();
        shares.find(|has| *has != wanted)
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

    /// The steps after which no domain is there and its storage is closed. Where `keep_memory`, what lives is stored in
    /// an image first.
    pub(crate) fn steps_down(&self, keep_memory: bool) -> BTreeSet<Step> {
        let mut steps = BTreeSet::new();
        let suspend = keep_memory && self.lives() && self.able.contains(&Ability::Suspend);
        if suspend {
            steps.insert(Step::Suspend);
        } else if self.domain.is_some() {
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
        let left = self.image.filter(|_| !self.domain_is_newer());
        if suspend || left.is_some_and(|image| image.mark.is_none()) {
            steps.insert(Step::Seal);
        } else if self.image.is_some() && left.is_none() {
            // The domain has gone on since, and ends now.
            steps.insert(Step::Discard);
        }
        steps
    }

    /// The steps after which nothing of it is in use, though it is desired.
    pub(crate) fn steps_to_rest(&self, keep_memory: bool, keep_image: bool) -> BTreeSet<Step> {
        let mut steps = self.steps_down(keep_memory);
        if !keep_image && self.image.is_some() && !steps.contains(&Step::Suspend) {
            steps.remove(&Step::Seal);
            steps.insert(Step::Discard);
        }
        if self.storage.is_some_and(|s| s.tombstone.is_some()) {
            steps.insert(Step::Revive);
        }
        if self.adopts.is_some() {
            steps.insert(Step::Adopt);
        }
        steps
    }

    /// The steps after which only a tombstone is left, and the image that belongs to it.
    pub(crate) fn steps_to_remove(&self) -> BTreeSet<Step> {
        let resumes = self
            .applied
            .is_some_and(|applied| applied.desired.start == Start::Resume);
        let stays = self.storage.is_some_and(|s| s.on_disk || s.tombstone.is_some());
        let mut steps = self.steps_down(resumes && stays);
        if !stays && self.image.is_some() {
            steps.remove(&Step::Seal);
            steps.insert(Step::Discard);
        }
        if self.kept() {
            steps.insert(Step::Tombstone);
        }
        steps
    }
}

/// Whether the sliver writes to layers of the node; one that does not has nothing to open.
fn writes(desired: &DesiredSliver) -> bool {
    let mut mounts = desired.mounts.iter();
    mounts.any(|mount| mount.writable.is_kept())
}

/// Whether `to` can take over the writable layers of `from`: nobody else is to have them, and it has none itself.
pub(crate) fn can_adopt(input: &PlanInput<'_>, from: &SliverId, to: &SliverId) -> bool {
    let observed = input.observed;
    let (Ok(left), Ok(own)) = (observed.storage_of(from), observed.storage_of(to)) else {
        return false;
    };
    let left = left.is_some_and(|s| s.on_disk && s.tombstone.is_none());
    let own = own.is_some_and(|s| s.on_disk || s.tombstone.is_some());
    is_moved(input, from) && left && !own
}

/// Whether `from` is no longer desired anywhere, so that another sliver may go on with what it wrote.
pub(crate) fn is_moved(input: &PlanInput<'_>, from: &SliverId) -> bool {
    !input.desired.slivers.contains_key(from) && !input.desired.elsewhere.contains(from)
}

/// The right to run that a sliver's writable layers are opened under: the highest it was ever seen with, at first 1.
/// Only a move to another node raises it.
pub(crate) fn epoch(applied: Option<&AppliedSliver>, storage: Option<&ObservedStorage>) -> Epoch {
    let applied = applied.map(|applied| applied.epoch);
    let open = storage.and_then(|storage| storage.open);
    applied.max(open).unwrap_or(Epoch(1))
}

/// The reason why storage that could not be seen, of one sliver or of all, makes a sliver wait.
fn blind_storage(why: &str) -> Reason {
    Reason::Blind {
        facet: "storage",
        why: why.to_owned(),
    }
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
