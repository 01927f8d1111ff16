//! Plays each sliver's actions in the plan's order, and asks of each whether its moment has come. That edges force this
//! order is asked as well.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::{DesiredSliver, LayerRef, Mount, SliverState, Start, WritableKind};
use xeno_model::id::{Berth, Digest, DomainUuid, SliverId};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::{Ability, DomainState, HealthVerdict, ObservedDomain, ObservedStorage, Seen};

use super::{Finding, Left, Rule, wanted_state};
use crate::action::{Action, ActionKey, PortsFrom};
use crate::change::ChangeClass;
use crate::plan::{Plan, PlanInput};
use crate::ports::Tuning;

/// What one sliver is like at a moment of the plan.
#[derive(Clone, Debug, Default)]
struct Now {
    domain: Option<Domain>,
    image: Option<Image>,
    open: bool,
    /// Open under the highest right to run that is known, and not set aside: nothing to be said against it.
    rightly_open: bool,
    stack: Option<Digest>,
    exported: bool,
    /// Writable layers lie on disk.
    kept: bool,
    set_aside: bool,
    /// What they are like; `None`: nobody can say.
    mark: Option<Digest>,
    /// A writable layer is open that outlives the domain.
    keeps: bool,
    /// No open writable layer has another limit than is asked for.
    limited: bool,
    /// Its health check has passed, or it has none.
    healthy: bool,
}

#[derive(Clone, Debug)]
struct Domain {
    booted: Digest,
    uuid: DomainUuid,
    state: DomainState,
    memory_max_mib: u64,
    /// Whether any port is published for it.
    publishes: bool,
    /// Whether it has the memory and the ports that are asked for, and the limits that the driver keeps.
    tuned: bool,
}

#[derive(Clone, Debug)]
struct Image {
    boot: Digest,
    uuid: DomainUuid,
    memory_max_mib: u64,
    sealed: Seal,
    /// Its domain went on after it was stored.
    outdated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seal {
    Not,
    With(Digest),
    /// By this plan, with what is there then.
    Now,
}

impl Now {
    fn in_use(&self) -> bool {
        self.domain.is_some() || self.exported || self.open || self.stack.is_some()
    }

    /// Whether a domain is there, or its memory.
    fn is_there(&self) -> bool {
        self.domain.is_some() || self.image.is_some()
    }

    fn runs(&self) -> bool {
        self.domain
            .as_ref()
            .is_some_and(|domain| domain.state == DomainState::Running)
    }

    /// Whether its image could be resumed as `desired`.
    fn can_resume(&self, desired: &DesiredSliver, uuid: Option<DomainUuid>) -> bool {
        self.image.as_ref().is_some_and(|image| {
            let disk = match image.sealed {
                Seal::Not => self.mark.is_some(),
                Seal::With(mark) => self.mark == Some(mark),
                Seal::Now => true,
            };
            let writes = |mount: &Mount| mount.writable == WritableKind::Local;
            let there = self.kept || self.set_aside || !desired.mounts.iter().any(writes);
            disk && there
                && !image.outdated
                && image.boot == boot_digest(desired)
                && Some(image.uuid) == uuid
                && desired.resources.memory.mib() <= image.memory_max_mib
        })
    }
}

fn tuned(domain: &ObservedDomain, desired: &DesiredSliver, able: &BTreeSet<Ability>) -> bool {
    let tuning = Tuning::of(desired);
    let (has, wants) = (&domain.limits, &tuning.limits);
    let ports: BTreeSet<_> = domain.publish.iter().collect();
    domain.memory_mib == tuning.memory_mib
        && ports == tuning.publish.iter().collect()
        && (has.cpu_weight == wants.cpu_weight || !able.contains(&Ability::CpuWeight))
        && (has.cpu_cap_percent == wants.cpu_cap_percent || !able.contains(&Ability::CpuCap))
        && (has.net_rate == wants.net_rate || !able.contains(&Ability::NetRate))
}

/// What was observed of every sliver of the plan.
fn beginning(plan: &Plan, input: &PlanInput<'_>) -> Option<BTreeMap<SliverId, Now>> {
    let (Seen::Known(domains), Seen::Known(storage)) = (&input.observed.domains, &input.observed.storage)
    else {
        return None;
    };
    let now = |sliver: &SliverId| {
        let kept = storage.get(sliver);
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
            keeps: kept.is_some_and(|s| !s.limits.is_empty()),
            limited: kept.is_none_or(|s| {
                let asked = desired.map(|desired| desired.resources.disk);
                s.limits
                    .iter()
                    .all(|limit| asked.is_none_or(|asked| *limit == asked))
            }),
            healthy: !asked || input.observed.health.get(sliver) == Some(&HealthVerdict::Healthy),
        }
    };
    let slivers = plan.changes.keys();
    let berths = slivers.flat_map(|sliver| [sliver.clone(), sliver.beside()]);
    Some(berths.map(|berth| (berth.clone(), now(&berth))).collect())
}

pub(super) fn check(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    let Some(mut now) = beginning(plan, input) else {
        return;
    };
    let mut here = Here {
        templates: input.observed.templates.known().cloned().unwrap_or_default(),
        files: input.observed.file_layers.known().cloned().unwrap_or_default(),
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

/// What the node has.
struct Here {
    templates: BTreeSet<Digest>,
    files: BTreeSet<Digest>,
    able: BTreeSet<Ability>,
}

impl Here {
    fn add(&mut self, action: &Action) {
        if let Action::FetchTemplate { digest, .. } = action {
            self.templates.insert(*digest);
        }
        if let Action::ImportFiles { digest } = action {
            self.files.insert(*digest);
        }
    }

    /// Whether a sliver could start; its layers are asked for only where they have to be stacked anew.
    fn can_start(&self, desired: &DesiredSliver, restacks: bool) -> bool {
        let layers = desired.mounts.iter().flat_map(|mount| &mount.layers);
        let mut layers = layers.map(|layer| match layer {
            LayerRef::Template(template) => self.templates.contains(&template.digest),
            LayerRef::Files { digest } => self.files.contains(digest),
            LayerRef::Directory { .. } | LayerRef::Remote { .. } => true,
        });
        self.templates.contains(&desired.kernel.digest) && (!restacks || layers.all(|here| here))
    }
}

/// One action at its moment.
struct Play<'a> {
    action: &'a Action,
    state: &'a mut Now,
    /// The other berth.
    other: Now,
    /// Whether it is replaced, and not started again in this berth.
    replaced: bool,
    /// Identity of its domain in this berth.
    uuid: Option<DomainUuid>,
    desired: Option<&'a DesiredSliver>,
    /// As it is desired, where it should run.
    runs: Option<&'a DesiredSliver>,
    input: &'a PlanInput<'a>,
    here: &'a Here,
    /// Whether the plan stacks it.
    restacks: bool,
    /// Whether the plan purges it.
    purges: bool,
}

impl Play<'_> {
    fn play(&mut self, fault: &mut impl FnMut(bool, Rule)) {
        let (runs, state) = (self.runs, &mut *self.state);
        match self.action {
            Action::FetchTemplate { .. } | Action::ImportFiles { .. } => {}
            Action::OpenWritable { .. } => {
                fault(runs.is_none(), Rule::OpensWhatShouldNotRun);
                fault(state.open || state.stack.is_some(), Rule::OpensWhatIsOpen);
                fault(state.set_aside, Rule::OpensWhatIsSetAside);
                let writes = |mount: &Mount| mount.writable == WritableKind::Local;
                state.keeps = runs.is_some_and(|desired| desired.mounts.iter().any(writes));
                state.limited = true;
                state.open = true;
                state.kept = true;
            }
            Action::Limit { disk, .. } => {
                fault(!state.open, Rule::LimitsWritableLayersThatAreNotOpen);
                fault(
                    runs.is_none_or(|desired| desired.resources.disk != *disk),
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
                self.start(boot, *ports, fault);
            }
            Action::Resume { boot, .. } => {
                let fits = runs.is_some_and(|desired| state.can_resume(desired, self.uuid));
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

    fn start(&mut self, boot: &Digest, ports: PortsFrom, fault: &mut impl FnMut(bool, Rule)) {
        let (runs, state) = (self.runs, &mut *self.state);
        fault(
            !state.exported || state.stack != runs.map(stack_digest),
            Rule::StartsADomainWithoutItsExport,
        );
        fault(state.domain.is_some(), Rule::StartsASecondDomain);
        fault(runs.map(boot_digest) != Some(*boot), Rule::StartsWhatIsNotDesired);
        let kernel = runs.is_some_and(|desired| self.here.can_start(desired, false));
        fault(!kernel, Rule::StartsWithoutItsKernel);
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

    fn end(&mut self, fault: &mut impl FnMut(bool, Rule)) {
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
    fn discard(&mut self, fault: &mut impl FnMut(bool, Rule)) {
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
