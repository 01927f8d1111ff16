//! Slivers one by one: where each stands, in a line and in full.

use std::collections::BTreeSet;

use xeno_model::desired::DesiredSliver;
use xeno_model::id::SliverId;
use xeno_model::normal::{boot_digest, to_json};
use xeno_model::observed::{DomainState, HealthVerdict, ObservedImage, ObservedStorage, Seen};
use xeno_reconciler::change::{Cause, Change, ChangeClass, Reason};
use xeno_reconciler::freeze::FreezeScope;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::{report, serving};
use xeno_state::record::BackOff;

use super::doctor::blind_facets;
use crate::api::{
    AppliedView, ChangeView, DomainView, FORMAT_VERSION, FailureView, HealthView, HealthWord, ImageView,
    ObservedView, PortView, SliverPhase, SliverStatus, SliverSummary, StorageView,
};
use crate::event_loop::{Agent, Stage};
use crate::handle::HandleError;
use crate::health;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// All slivers that any side knows.
    pub(in crate::event_loop) fn all_slivers(&self) -> BTreeSet<SliverId> {
        let mut all: BTreeSet<_> = self.memory.applied.keys().cloned().collect();
        all.extend(
            self.desired
                .iter()
                .flat_map(|desired| desired.slivers.keys().cloned()),
        );
        if let Some(observed) = &self.observed {
            all.extend(
                observed
                    .domains
                    .known()
                    .into_iter()
                    .flat_map(|domains| domains.ours.keys().map(SliverId::itself)),
            );
            all.extend(
                observed
                    .storage
                    .known()
                    .into_iter()
                    .flat_map(|storage| storage.keys().map(SliverId::itself)),
            );
        }
        all
    }

    pub(in crate::event_loop) fn summaries(&self) -> Vec<SliverSummary> {
        self.all_slivers()
            .iter()
            .map(|sliver| self.sliver(sliver))
            .collect()
    }

    pub(in crate::event_loop) fn wanted(&self, sliver: &SliverId) -> Option<&DesiredSliver> {
        self.desired
            .as_ref()
            .and_then(|desired| desired.slivers.get(sliver))
    }

    /// What the last plan says of a sliver, if that plan is for the commit in force.
    pub(in crate::event_loop) fn change(&self, sliver: &SliverId) -> Option<&Change> {
        let desired = self.desired.as_ref()?;
        let plan = self
            .plan
            .as_ref()
            .filter(|plan| plan.revision == desired.revision)?;
        plan.changes.get(sliver)
    }

    pub(in crate::event_loop) fn sliver(&self, sliver: &SliverId) -> SliverSummary {
        let wanted = self.wanted(sliver);
        let phase = self.sliver_phase(sliver);
        let health = wanted.and_then(|wanted| wanted.health.as_ref());
        let ports = wanted.map(|wanted| wanted.publish.as_slice()).unwrap_or_default();
        SliverSummary {
            id: sliver.to_string(),
            phase,
            domain: self.domain_word(sliver).to_owned(),
            health: self.health_view(sliver),
            memory_mib: wanted.map_or(0, |wanted| wanted.resources.memory.mib()),
            vcpus: wanted.map_or(0, |wanted| wanted.resources.vcpus),
            ports: ports
                .iter()
                .map(|publish| PortView {
                    guest: publish.guest,
                    host: publish.host,
                    url: health::url(publish, health),
                })
                .collect(),
            note: self.note(sliver, phase),
            needs_person: self.needs_person(sliver),
            frozen: self.frozen(&FreezeScope::Sliver(sliver.clone())).is_some(),
            suspended: self.image(sliver).is_some(),
            restarts: self
                .memory
                .restarts
                .get(sliver)
                .map_or(0, |times| u32::try_from(times.len()).unwrap_or(u32::MAX)),
        }
    }

    pub(in crate::event_loop) fn doing(&self, sliver: &SliverId) -> Vec<String> {
        let left = self.stragglers.values();
        let left = left.filter(|one| one.serves.contains(sliver));
        let mut keys: Vec<_> = left.map(|one| one.key.0.clone()).collect();
        let Stage::Running(progress) = &self.stage else {
            keys.sort();
            return keys;
        };
        let serves = |one: &&crate::event_loop::progress::InFlight| {
            progress
                .run
                .action(&one.key)
                .is_some_and(|planned| planned.serves.contains(sliver))
        };
        let in_flight = progress.in_flight.values().filter(serves);
        keys.extend(in_flight.map(|one| one.key.0.clone()));
        keys.sort();
        keys
    }

    pub(in crate::event_loop) fn sliver_phase(&self, sliver: &SliverId) -> SliverPhase {
        if !self.doing(sliver).is_empty() {
            return SliverPhase::Changing;
        }
        if self.failing(sliver).is_some() {
            return SliverPhase::Failing;
        }
        // Nobody knows yet what is desired: that is no reason to call anything left over.
        if self.desired.is_none() && self.memory.accepted.is_some() {
            return SliverPhase::Pending;
        }
        match (
            self.wanted(sliver),
            self.change(sliver).map(|change| change.class),
        ) {
            (_, Some(ChangeClass::Wait)) => SliverPhase::Waiting,
            (Some(_), Some(ChangeClass::Keep)) => SliverPhase::Settled,
            (None, None | Some(ChangeClass::Keep)) => SliverPhase::Leftover,
            // Carried through since the plan was made.
            (Some(wanted), Some(_)) if self.is_applied(wanted) && matches!(self.stage, Stage::Running(_)) => {
                SliverPhase::Settled
            }
            (_, Some(_)) | (Some(_), None) => SliverPhase::Pending,
        }
    }

    /// The failure that a sliver waits after. One that is as desired has none, though its failures are only forgotten
    /// once that lasts.
    pub(in crate::event_loop) fn failing(&self, sliver: &SliverId) -> Option<&BackOff> {
        let kept = self
            .change(sliver)
            .is_some_and(|change| change.class == ChangeClass::Keep);
        self.memory.backing_off.get(sliver).filter(|_| !kept)
    }

    pub(in crate::event_loop) fn is_applied(&self, wanted: &DesiredSliver) -> bool {
        let applied = self.memory.applied.get(&wanted.id);
        applied.is_some_and(|applied| applied.complete && applied.desired == *wanted)
    }

    pub(in crate::event_loop) fn note(&self, sliver: &SliverId, phase: SliverPhase) -> String {
        match phase {
            SliverPhase::Settled => String::new(),
            SliverPhase::Changing => self.doing(sliver).join(", "),
            SliverPhase::Failing => match self.failing(sliver) {
                Some(back_off) if back_off.permanent => {
                    format!("{}: {} (does not pass by itself)", back_off.action, back_off.why)
                }
                Some(back_off) => format!("{}: {}", back_off.action, back_off.why),
                None => String::new(),
            },
            SliverPhase::Leftover => "not desired; what a removal kept".to_owned(),
            SliverPhase::Pending | SliverPhase::Waiting => {
                let change = self.change(sliver);
                change
                    .and_then(|change| change.reasons.first())
                    .map(report::sentence)
                    .unwrap_or_default()
            }
        }
    }

    pub(in crate::event_loop) fn domain_word(&self, sliver: &SliverId) -> &'static str {
        let Some(observed) = &self.observed else {
            return "unknown";
        };
        match &observed.domains {
            Seen::Unknown { .. } => "unknown",
            Seen::Known(domains) => domains
                .ours
                .get(&serving(domains, sliver))
                .map_or("none", |domain| state_word(domain.state)),
        }
    }

    pub(in crate::event_loop) fn health_view(&self, sliver: &SliverId) -> HealthView {
        let asked = self.wanted(sliver).is_some_and(|wanted| wanted.health.is_some());
        let (verdict, why) = match self.health.borrow().get(&self.serving(sliver)) {
            _ if !asked => (HealthWord::NotAsked, None),
            None => (HealthWord::Unknown, None),
            Some(HealthVerdict::Starting) => (HealthWord::Starting, None),
            Some(HealthVerdict::Healthy) => (HealthWord::Healthy, None),
            Some(HealthVerdict::Unhealthy { why }) => (HealthWord::Unhealthy, Some(why.clone())),
        };
        HealthView { verdict, why }
    }

    /// The stored memory of a sliver.
    fn image(&self, sliver: &SliverId) -> Option<&ObservedImage> {
        let domains = self.observed.as_ref()?.domains.known()?;
        domains.images.get(&serving(domains, sliver))
    }

    /// The embodiment that is meant by a sliver's name.
    fn serving(&self, sliver: &SliverId) -> SliverId {
        let domains = self
            .observed
            .as_ref()
            .and_then(|observed| observed.domains.known());
        domains.map_or_else(|| sliver.clone(), |domains| serving(domains, sliver))
    }

    /// Whether a sliver waits for something that only a person can change.
    fn needs_person(&self, sliver: &SliverId) -> bool {
        if self.failing(sliver).is_some_and(|back_off| back_off.permanent) {
            return true;
        }
        let waits = self
            .change(sliver)
            .filter(|change| change.class == ChangeClass::Wait);
        let holds = |change: &Change| {
            change
                .reasons
                .iter()
                .find(|reason| reason.holds_back())
                .is_some_and(lasts)
        };
        waits.is_some_and(holds)
    }

    pub(in crate::event_loop) fn check_known(&self, sliver: SliverId) -> Result<SliverId, HandleError> {
        if self.all_slivers().contains(&sliver) {
            Ok(sliver)
        } else {
            Err(HandleError::NoSuchSliver { sliver })
        }
    }

    pub(in crate::event_loop) fn describe(&self, sliver: SliverId) -> Result<SliverStatus, HandleError> {
        let sliver = self.check_known(sliver)?;
        let wanted = self.wanted(&sliver);
        let applied = self.memory.applied.get(&sliver);
        let uuid = wanted
            .or(applied.map(|applied| &applied.desired))
            .map(|wanted| wanted.uuid.to_string());
        Ok(SliverStatus {
            format_version: FORMAT_VERSION,
            summary: self.sliver(&sliver),
            uuid,
            desired: wanted.map(canonical),
            applied: applied.map(|applied| AppliedView {
                complete: applied.complete,
                epoch: applied.epoch.0,
                desired: canonical(&applied.desired),
            }),
            observed: self.observed_view(&sliver),
            change: self.change(&sliver).map(|change| ChangeView {
                class: change.class.word().to_owned(),
                cause: cause_word(change.cause).to_owned(),
                reasons: report::explain(change),
            }),
            failure: self.failing(&sliver).map(|back_off| FailureView {
                action: back_off.action.clone(),
                why: back_off.why.clone(),
                attempts: back_off.attempts,
                permanent: back_off.permanent,
                retry_ms: Some(self.by_the_wall(back_off.until).0),
            }),
            console_log: self
                .ports
                .hypervisor
                .console_log(&self.serving(&sliver))
                .display()
                .to_string(),
            console_socket: self
                .ports
                .hypervisor
                .console_socket(&self.serving(&sliver))
                .display()
                .to_string(),
        })
    }

    pub(in crate::event_loop) fn observed_view(&self, sliver: &SliverId) -> ObservedView {
        let Some(observed) = &self.observed else {
            return ObservedView::default();
        };
        let booted_now = self.wanted(sliver).map(boot_digest);
        let domain = observed
            .domains
            .known()
            .and_then(|domains| domains.ours.get(&self.serving(sliver)));
        let serving = self.serving(sliver);
        let storage_of = |berth: &SliverId| observed.storage_of(berth);
        let storage = storage_of(&serving).and_then(|storage| match storage {
            Some(storage) => Ok(Some(storage)),
            None => storage_of(sliver),
        });
        let unseen = storage
            .err()
            .filter(|_| observed.storage.known().is_some())
            .map(|why| format!("its storage: {why}"));
        let mark = storage.ok().and_then(ObservedStorage::mark_of);
        let storage = storage.ok().flatten();
        ObservedView {
            at_ms: Some(observed.at.0),
            domain: domain.map(|domain| DomainView {
                state: state_word(domain.state).to_owned(),
                booted: domain.booted.to_string(),
                booted_as_desired: booted_now.map(|now| now == domain.booted),
                memory_mib: domain.memory_mib,
                vcpus: domain.vcpus,
            }),
            storage: storage.map(|storage| StorageView {
                on_disk: storage.on_disk,
                open_epoch: storage.open.map(|epoch| epoch.0),
                stack: storage.stack.map(|stack| stack.to_string()),
                exported: storage.exported,
                bytes: storage.bytes,
                tombstone_ms: storage.tombstone.map(|at| at.0),
                purge_ms: storage.tombstone.map(|_| {
                    let known = self.memory.tombstones.get(sliver);
                    self.purge_at(known.map_or(self.node_time(), |known| known.seen))
                        .0
                }),
            }),
            image: self.image(sliver).map(|image| ImageView {
                at_ms: image.at.0,
                bytes: image.bytes,
                memory_mib: image.memory_mib,
                sealed: image.mark.is_some(),
                fits: image.mark.zip(mark).map(|(then, now)| then == now),
            }),
            blind: blind_facets(observed)
                .into_iter()
                .map(|(facet, why)| format!("{facet}: {why}"))
                .chain(unseen)
                .collect(),
        }
    }
}

pub(in crate::event_loop) fn canonical(sliver: &DesiredSliver) -> serde_json::Value {
    serde_json::from_str(&to_json(sliver)).unwrap_or_default()
}

pub(in crate::event_loop) fn state_word(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "running",
        DomainState::Paused => "paused",
        DomainState::Stopping => "stopping",
        DomainState::Crashed => "crashed",
        DomainState::Kept { .. } => "kept",
        DomainState::Copy { .. } => "copy",
    }
}

pub(in crate::event_loop) fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::Change => "change",
        Cause::Drift => "drift",
        Cause::Schedule => "schedule",
    }
}

/// Whether what a sliver waits for lasts until a person changes something: time, the agent or another sliver on its way
/// does not end it.
fn lasts(reason: &Reason) -> bool {
    match reason {
        Reason::Frozen { until, .. } => until.is_none(),
        Reason::NodeNotNamed
        | Reason::NothingDesired
        | Reason::NoRoom { .. }
        | Reason::PortTaken { .. }
        | Reason::NotSupported { .. }
        | Reason::ImageStale { .. }
        | Reason::Unapproved { .. }
        | Reason::SiteCap { .. } => true,
        Reason::New
        | Reason::OutsideWindow { .. }
        | Reason::Differs(_)
        | Reason::Revived { .. }
        | Reason::Unfinished
        | Reason::DomainMissing
        | Reason::DomainNotRunning { .. }
        | Reason::DomainPaused
        | Reason::DomainForeignUuid { .. }
        | Reason::DomainForeignBoot { .. }
        | Reason::StorageMissing
        | Reason::StackForeign { .. }
        | Reason::LimitForeign { .. }
        | Reason::ShareForeign { .. }
        | Reason::GoesBack { .. }
        | Reason::Mistuned { .. }
        | Reason::NotHealthyYet
        | Reason::NotStopped
        | Reason::StateStopped
        | Reason::StateSuspended
        | Reason::ImageBesideDomain
        | Reason::ImageUnsealed
        | Reason::ImageLost
        | Reason::ImageDiscarded { .. }
        | Reason::Vetoed { .. }
        | Reason::Expired { .. }
        | Reason::MovedFrom { .. }
        | Reason::MovedTo { .. }
        | Reason::NotDesired
        | Reason::PlacedElsewhere
        | Reason::TombstoneExpired { .. }
        | Reason::NotEnforced { .. }
        | Reason::RemoteSilent { .. }
        | Reason::MadeBeforeBroken { .. }
        | Reason::NoRoomBeside { .. }
        | Reason::EmbodiedTwice
        | Reason::Blind { .. }
        | Reason::DeleteBudget { .. }
        | Reason::BackingOff { .. }
        | Reason::Crashing { .. }
        | Reason::Together { .. }
        | Reason::HeldElsewhere { .. }
        | Reason::Unfenced { .. }
        | Reason::RightUnknown { .. }
        | Reason::LeaseLapsed { .. }
        | Reason::RightChanges { .. }
        | Reason::MoveFailed { .. }
        | Reason::RolloutWaits { .. }
        | Reason::RunUnderway { .. }
        | Reason::RunQueued { .. }
        | Reason::RunPausing { .. }
        | Reason::RunFailed { .. }
        | Reason::RunBlocked { .. }
        | Reason::RunGaveWay { .. } => false,
    }
}
