//! One action at its moment: whether that has come, and what is so afterwards.

use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, LayerRef, Mount, Place, Remote, SliverState, Start, WritableKind};
use xeno_model::id::{Berth, Digest, DomainUuid, SliverId};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{Ability, DomainState};

use super::Rule;
use super::now::{Domain, Image, Now, Seal};
use crate::action::{Action, PortsFrom};
use crate::checkpoint::is_ours;
use crate::plan::PlanInput;
use crate::ports::{Tuning, share};

/// What the node has.
pub(super) struct Here {
    pub(super) templates: BTreeSet<Digest>,
    pub(super) files: BTreeSet<Digest>,
    /// Remote directories that answer.
    pub(super) remotes: BTreeSet<Remote>,
    pub(super) able: BTreeSet<Ability>,
}

impl Here {
    pub(super) fn add(&mut self, action: &Action) {
        if let Action::FetchTemplate { digest, .. } = action {
            self.templates.insert(*digest);
        }
        if let Action::ImportFiles { digest } = action {
            self.files.insert(*digest);
        }
        if let Action::MountRemote { remote } = action {
            self.remotes.insert(remote.clone());
        }
    }

    /// Whether a sliver could start; its layers are asked for only where they have to be stacked anew, but what it would
    /// read from afar always.
    pub(super) fn can_start(&self, desired: &DesiredSliver, restacks: bool) -> bool {
        let layers = desired.mounts.iter().flat_map(|mount| &mount.layers);
        let mut layers = layers.map(|layer| match layer {
            LayerRef::Template(template) => self.templates.contains(&template.digest),
            LayerRef::Files { digest } => self.files.contains(digest),
            LayerRef::Directory { .. } | LayerRef::Remote { .. } => true,
        });
        let kernel = self.templates.contains(&desired.kernel.digest);
        kernel && self.reaches(desired) && (!restacks || layers.all(|here| here))
    }

    /// Whether all remote directories of a sliver answer.
    pub(super) fn reaches(&self, desired: &DesiredSliver) -> bool {
        let layers = desired.mounts.iter().flat_map(|mount| &mount.layers);
        let mut read = layers.filter_map(|layer| match layer {
            LayerRef::Remote { url } => Some(Remote::to_read(url)),
            LayerRef::Template(_) | LayerRef::Files { .. } | LayerRef::Directory { .. } => None,
        });
        read.all(|remote| self.remotes.contains(&remote)) && self.reaches_writable(desired)
    }

    /// Whether those answer in which its writable layers lie.
    fn reaches_writable(&self, desired: &DesiredSliver) -> bool {
        desired.mounts.iter().all(|mount| match &mount.writable {
            WritableKind::Remote { url } => match Place::of(url) {
                Some(Place::Remote { within, .. }) => self.remotes.contains(&within),
                Some(Place::Node { .. }) => true,
                None => false,
            },
            WritableKind::Local | WritableKind::Memory | WritableKind::ReadOnly => true,
        })
    }
}

/// One action at its moment.
pub(super) struct Play<'a> {
    pub(super) action: &'a Action,
    pub(super) state: &'a mut Now,
    /// The other berth.
    pub(super) other: Now,
    /// Whether it is replaced, and not started again in this berth.
    pub(super) replaced: bool,
    /// Identity of its domain in this berth.
    pub(super) uuid: Option<DomainUuid>,
    pub(super) desired: Option<&'a DesiredSliver>,
    /// As it is desired, where it should run.
    pub(super) runs: Option<&'a DesiredSliver>,
    pub(super) input: &'a PlanInput<'a>,
    pub(super) here: &'a Here,
    /// Whether the plan stacks it.
    pub(super) restacks: bool,
    /// Whether the plan purges it.
    pub(super) purges: bool,
}

impl Play<'_> {
    pub(super) fn play(&mut self, fault: &mut impl FnMut(bool, Rule)) {
        let (runs, state) = (self.runs, &mut *self.state);
        match self.action {
            Action::FetchTemplate { .. } | Action::ImportFiles { .. } | Action::MountRemote { .. } => {}
            Action::OpenWritable { .. } => {
                fault(runs.is_none(), Rule::OpensWhatShouldNotRun);
                fault(state.open || state.stack.is_some(), Rule::OpensWhatIsOpen);
                fault(state.set_aside, Rule::OpensWhatIsSetAside);
                let reached = runs.is_none_or(|desired| self.here.reaches_writable(desired));
                fault(!reached, Rule::OpensWhatCannotBeReached);
                let writes = |mount: &Mount| mount.writable.is_kept();
                state.keeps = runs.is_some_and(|desired| desired.mounts.iter().any(writes));
                state.limited = true;
                state.open = true;
                state.kept = true;
            }
            Action::Checkpoint {
                name, fresh, drops, ..
            } => {
                let booted = state.domain.as_ref().map(|domain| domain.booted);
                let right = state.owed.as_ref().is_some_and(|owed| {
                    owed.left == *name
                        && *fresh == (booted.is_some() && booted == owed.of)
                        && !drops.contains(name)
                        && drops
                            .iter()
                            .all(|drop| is_ours(drop) && Some(drop) != owed.back.as_ref())
                });
                fault(!right, Rule::KeepsSomethingElse);
                state.saved = true;
            }
            Action::Restore { name, .. } => {
                let in_use = state.domain.is_some() || state.exported || state.stack.is_some();
                fault(in_use || !state.open, Rule::GoesBackBelowWhatIsInUse);
                fault(!state.saved, Rule::GoesBackBeforeItIsKept);
                let asked = state.owed.as_ref().and_then(|owed| owed.back.as_ref());
                fault(asked != Some(name), Rule::GoesBackToSomethingElse);
                state.back = true;
                state.mark = None;
            }
            Action::Limit {
                epoch,
                limits,
                share: shared,
                ..
            } => {
                fault(
                    epoch.is_some() && !state.open,
                    Rule::LimitsWritableLayersThatAreNotOpen,
                );
                fault(
                    runs.is_none_or(|desired| {
                        desired.resources.layer_limits() != *limits || share(desired) != *shared
                    }),
                    Rule::LimitsToWhatIsNotDesired,
                );
                state.limited = true;
            }
            Action::Stack { stack, .. } => {
                fault(!state.open, Rule::StacksOnAWritableLayerThatIsNotOpen);
                fault(
                    runs.map(stack_digest) != Some(*stack),
                    Rule::StacksWhatIsNotDesired,
                );
                let ready = runs.is_none_or(|desired| self.here.can_start(desired, true));
                fault(!ready, Rule::StacksLayersThatAreNotHere);
                fault(
                    state.exported || state.stack.is_some(),
                    Rule::StacksOverAStackThatIsInUse,
                );
                state.stack = Some(*stack);
            }
            Action::Export { stack, .. } => {
                fault(state.stack != Some(*stack), Rule::ServesAStackThatIsNotAssembled);
                let booted = state.domain.as_ref().map(|domain| domain.booted);
                let foreign = booted.is_some_and(|booted| runs.map(boot_digest) != Some(booted));
                fault(foreign, Rule::ServesADomainThatWasStartedOnSomethingElse);
                state.exported = true;
            }
            Action::Boot { boot, ports, .. } => {
                fault(state.image.is_some(), Rule::StartsADomainWhileAnImageOfItIsLeft);
                let (owes, goes) = state
                    .owed
                    .as_ref()
                    .map_or((false, false), |owed| (true, owed.back.is_some()));
                fault(owes && !state.saved, Rule::StartsOverWhatIsNotKept);
                fault(goes && !state.back, Rule::StartsWithoutGoingBack);
                self.start(boot, *ports, fault);
            }
            Action::Resume { boot, mark, .. } => {
                // What could not be looked at is compared with the image when it is resumed.
                let compared = state.mark.is_some() || mark.is_some();
                let fits = compared && runs.is_some_and(|desired| state.can_resume(desired, self.uuid));
                fault(!fits, Rule::ResumesAnImageThatDoesNotFit);
                let unsealed = state.image.as_ref().is_none_or(|image| image.sealed == Seal::Not);
                fault(unsealed, Rule::ResumesAnImageThatIsNotSealed);
                state.image = None;
                self.start(boot, PortsFrom::Start, fault);
            }
            Action::Unpause { stack, .. } => {
                let (ready, domain) = (state.exported && state.stack == Some(*stack), &mut state.domain);
                fault(!ready, Rule::LetsADomainGoOnWithoutItsExport);
                let right = domain.as_mut().is_some_and(|domain| {
                    let paused = domain.state == DomainState::Paused;
                    domain.state = DomainState::Running;
                    paused && runs.map(boot_digest) == Some(domain.booted)
                });
                fault(!right, Rule::LetsSomethingElseGoOnThanIsDesired);
            }
            Action::Retune { tuning, .. } => {
                fault(!state.runs(), Rule::ChangesADomainThatDoesNotRun);
                fault(
                    runs.map(Tuning::of).as_ref() != Some(tuning),
                    Rule::ChangesToWhatIsNotDesired,
                );
                if let Some(domain) = &mut state.domain {
                    let beyond = tuning.memory_mib > domain.memory_max_mib;
                    fault(beyond, Rule::GivesMoreMemoryThanTheDomainWasStartedWith);
                    domain.tuned = true;
                }
            }
            Action::AwaitHealthy { .. } => {
                fault(!state.runs(), Rule::WaitsForADomainThatDoesNotRun);
                state.healthy = true;
            }
            Action::Unpublish { .. } => {
                let takes_over = self.other.runs() && self.other.healthy;
                fault(!takes_over, Rule::TakesPortsFromWhatServes);
                if let Some(domain) = &mut state.domain {
                    domain.publishes = false;
                    domain.tuned = false;
                }
            }
            Action::Publish { tuning, .. } => {
                fault(!state.runs(), Rule::ChangesADomainThatDoesNotRun);
                let wanted = runs.map(Tuning::of);
                fault(wanted.as_ref() != Some(tuning), Rule::ChangesToWhatIsNotDesired);
                let other = self.other.domain.as_ref();
                let both = other.is_some_and(|other| other.publishes);
                fault(both, Rule::PublishesBesideTheOther);
                if let Some(domain) = &mut state.domain {
                    domain.publishes = !tuning.publish.is_empty();
                    domain.tuned = true;
                }
            }
            Action::Shutdown { .. } | Action::Suspend { .. } => self.end(fault),
            Action::Seal { .. } => {
                fault(state.in_use(), Rule::SealsAnImageWithWhatIsInUse);
                match &mut state.image {
                    Some(image) => image.sealed = Seal::Now,
                    None => fault(true, Rule::SealsAnImageThatIsNotThere),
                }
            }
            Action::DiscardImage { .. } => self.discard(fault),
            Action::Unexport { .. } => {
                fault(state.domain.is_some(), Rule::StopsServingADomainThatIsThere);
                state.exported = false;
            }
            Action::CloseWritable { .. } => {
                fault(state.domain.is_some() || state.exported, Rule::ClosesWhatIsInUse);
                state.open = false;
                state.keeps = false;
                state.limited = true;
                state.stack = None;
            }
            Action::Tombstone { .. } => {
                fault(state.in_use(), Rule::SetsAsideWhatIsInUse);
                state.set_aside = true;
            }
            Action::Revive { .. } => {
                fault(self.desired.is_none(), Rule::RevivesWhatNobodyDesires);
                fault(state.in_use() || !state.set_aside, Rule::RevivesWhatIsNotSetAside);
                state.set_aside = false;
                state.kept = true;
            }
            Action::Adopt { from, .. } => {
                let named = self.desired.and_then(|desired| desired.moved_from.as_ref());
                fault(named != Some(from), Rule::TakesOverWhatIsNotItsOwn);
                let wanted = &self.input.desired;
                let still = wanted.slivers.contains_key(from) || wanted.elsewhere.contains(from);
                fault(still, Rule::TakesOverWhatIsStillDesiredUnderItsName);
                let own = state.kept || state.set_aside || state.in_use();
                fault(own, Rule::TakesOverOthersWhileItHasItsOwn);
                state.kept = true;
            }
            Action::Purge { .. } => {
                fault(state.in_use() || !state.set_aside, Rule::DeletesWhatIsInUse);
                fault(state.image.is_some(), Rule::LeavesAnImageBehind);
                state.kept = false;
                state.set_aside = false;
            }
        }
    }

    pub(super) fn start(&mut self, boot: &Digest, ports: PortsFrom, fault: &mut impl FnMut(bool, Rule)) {
        let (runs, state) = (self.runs, &mut *self.state);
        fault(
            !state.exported || state.stack != runs.map(stack_digest),
            Rule::StartsADomainWithoutItsExport,
        );
        fault(state.domain.is_some(), Rule::StartsASecondDomain);
        fault(runs.map(boot_digest) != Some(*boot), Rule::StartsWhatIsNotDesired);
        let kernel = runs.is_some_and(|desired| self.here.templates.contains(&desired.kernel.digest));
        fault(!kernel, Rule::StartsWithoutItsKernel);
        let reached = runs.is_none_or(|desired| self.here.reaches(desired));
        fault(!reached, Rule::StartsWithoutItsRemotes);
        if let Some(desired) = runs {
            state.domain = Some(Domain {
                booted: *boot,
                uuid: self.uuid.unwrap_or(desired.uuid),
                state: DomainState::Running,
                memory_max_mib: desired.resources.memory_most().mib(),
                publishes: ports == PortsFrom::Start && !desired.publish.is_empty(),
                tuned: ports == PortsFrom::Start || desired.publish.is_empty(),
            });
            state.healthy = desired.health.is_none();
            let harmless = desired.keeps_nothing() && !state.keeps && !self.other.keeps;
            let beside = self.other.domain.is_some();
            fault(beside && !harmless, Rule::StartsBesideWhatIsKept);
        }
        // From here on its guest writes.
        state.mark = None;
    }

    pub(super) fn end(&mut self, fault: &mut impl FnMut(bool, Rule)) {
        let (runs, state) = (self.runs, &mut *self.state);
        let Some(domain) = state.domain.take() else {
            return fault(true, Rule::StopsADomainThatIsNotOurs);
        };
        let as_desired = |domain: &Domain| runs.map(boot_digest) == Some(domain.booted);
        let other = self.other.domain.as_ref().filter(|_| self.other.runs());
        // The one that was carried through serves until the new one does.
        let sliver = runs.map(|desired| &desired.id);
        let applied = sliver.and_then(|sliver| self.input.applied.get(sliver));
        let old = applied.is_some_and(|applied| boot_digest(&applied.desired) == domain.booted);
        let kept_nothing = applied.is_none_or(|applied| applied.desired.keeps_nothing());
        let harmless = kept_nothing && runs.is_some_and(DesiredSliver::keeps_nothing) && !state.keeps;
        let serves = domain.state == DomainState::Running && harmless && !as_desired(&domain);
        let new = other.is_some_and(|other| self.other.healthy && other.tuned && as_desired(other));
        fault(self.replaced && old && serves && !new, Rule::EndsWhatServes);
        // Of two one goes.
        let lives = |domain: &&Domain| matches!(domain.state, DomainState::Running | DomainState::Paused);
        let other_runs = self.other.domain.as_ref().filter(lives).is_some_and(as_desired);
        let right = domain.state == DomainState::Running
            && !other_runs
            && domain.tuned
            && state.exported
            && runs.is_some_and(|desired| {
                boot_digest(desired) == domain.booted
                    && self.uuid == Some(domain.uuid)
                    && state.stack == Some(stack_digest(desired))
            });
        // What keeps what it writes, or has something set aside, has it in its first berth: a domain of it in the second has
        // no business there.
        let keeps_nothing = runs.is_some_and(DesiredSliver::keeps_nothing) && !self.other.set_aside;
        let at_home = |sliver: &SliverId| sliver.berth() == Berth::First || keeps_nothing;
        let at_home = self.action.sliver().is_some_and(at_home);
        fault(
            right && at_home && state.rightly_open,
            Rule::StopsADomainThatIsAsDesired,
        );
        let ready = runs.is_none_or(|desired| self.here.can_start(desired, self.restacks));
        fault(!ready && !other_runs, Rule::StopsADomainBeforeItCanStartAgain);
        if matches!(self.action, Action::Suspend { .. }) {
            let lives = matches!(domain.state, DomainState::Running | DomainState::Paused);
            fault(!lives, Rule::StoresTheMemoryOfADomainThatDoesNotLive);
            let able = self.here.able.contains(&Ability::Suspend);
            fault(!able, Rule::AsksTheDriverForWhatItCannotDo);
            state.image = Some(Image {
                boot: domain.booted,
                uuid: domain.uuid,
                memory_max_mib: domain.memory_max_mib,
                sealed: Seal::Not,
                outdated: false,
            });
        } else if domain.state != DomainState::Crashed {
            // It has gone on since its image was stored, which says nothing any more.
            state.mark = None;
            if let Some(image) = &mut state.image {
                image.outdated = true;
            }
        }
    }

    /// An image is memory that somebody may want back.
    pub(super) fn discard(&mut self, fault: &mut impl FnMut(bool, Rule)) {
        let state = &mut *self.state;
        fault(state.image.is_none(), Rule::DeletesAnImageThatIsNotThere);
        let domain_is_newer = state.domain.is_some();
        let wanted = match self.desired {
            // A removal keeps it with what else is set aside, until that is purged.
            None => (state.kept || state.set_aside) && !self.purges,
            Some(desired) => match desired.state {
                SliverState::Stopped => desired.start == Start::Resume,
                SliverState::Suspended => true,
                SliverState::Running => {
                    let applied = self.input.applied.get(&desired.id);
                    let ran = applied.is_some_and(|a| a.complete && a.desired.state == SliverState::Running);
                    let unasked = desired.start == Start::Boot && !ran;
                    self.runs.is_none() || unasked || state.can_resume(desired, self.uuid)
                }
            },
        };
        let outdated = domain_is_newer || state.mark.is_none();
        fault(wanted && !outdated, Rule::DeletesMemoryThatNobodyGaveUp);
        state.image = None;
    }
}
