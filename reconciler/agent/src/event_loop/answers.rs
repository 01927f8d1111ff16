//! Answers to questions, from what the loop knows. Nothing here changes anything.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Duration, timeout};
use xeno_model::desired::{DesiredSliver, HypervisorKind, Standing};
use xeno_model::id::SliverId;
use xeno_model::normal::{boot_digest, to_json};
use xeno_model::observed::{DomainState, HealthVerdict, ObservedNode, Seen};
use xeno_reconciler::change::{Cause, Change, ChangeClass, Reason};
use xeno_reconciler::enforce::unenforced;
use xeno_reconciler::ports::{DriverFact, Hypervisor, Soundness, Storage};
use xeno_reconciler::{render, report};
use xeno_state::record::{BackOff, Event, EventKind};

use super::{Agent, LOOKS_MAX, Purpose, Stage};
use crate::api::{
    AcceptedView, AppliedView, ChangeView, Doctor, DomainView, EventView, Events, FORMAT_VERSION, Fact,
    FactState, FailureView, HealthView, HealthWord, InFlight, MemoryView, NodeView, ObservedView, Phase,
    PlanView, PortView, RejectedView, RunView, SliverPhase, SliverStatus, SliverSummary, Slivers, SourceView,
    Status, StorageView, WhyView,
};
use crate::handle::{HandleError, Reply, Request, WAITING_MAX};
use crate::health;

impl<H, S> Agent<H, S>
where
    H: Hypervisor + 'static,
    S: Storage + 'static,
{
    /// Answers a question. Who stopped waiting does not get the answer; that is no error.
    pub(super) async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(Ok(self.status()))),
            Request::Plan(reply) => self.ask_for_plan(reply),
            Request::Slivers(reply) => drop(reply.send(Ok(Slivers {
                format_version: FORMAT_VERSION,
                slivers: self.summaries(),
            }))),
            Request::Sliver(sliver, reply) => drop(reply.send(self.describe(sliver))),
            Request::Why(sliver, reply) => drop(reply.send(self.why(sliver))),
            Request::Events(since, limit, reply) => {
                let read = self.store.read(move |state| state.events(since, limit)).await;
                let events = read.map(|events| Events {
                    format_version: FORMAT_VERSION,
                    events: events.into_iter().map(event_view).collect(),
                });
                let events = events.map_err(|error| HandleError::State {
                    why: xeno_state::error::chain(&error),
                });
                drop(reply.send(events));
            }
            Request::Refetch(reply) => self.refetch(reply),
            Request::Reconcile(reply) => {
                self.refetch.notify_one();
                self.memory.backing_off.clear();
                self.remember(Vec::new(), |w| w.clear_back_off(None)).await;
                self.refused.clear();
                self.wake();
                drop(reply.send(Ok(())));
            }
            Request::Doctor(reply) => {
                let (mut doctor, ports) = (self.doctor(), std::sync::Arc::clone(&self.ports));
                // Whoever asks waits for the driver; the loop does not.
                tokio::spawn(async move {
                    doctor.facts.extend(driver_facts(&*ports.hypervisor).await);
                    drop(reply.send(Ok(doctor)));
                });
            }
        }
    }

    /// Has the node looked at for an answer; far too many who wait already are told that it is too much.
    fn ask_for_plan(&mut self, reply: Reply<PlanView>) {
        if self.looks.len() < LOOKS_MAX {
            self.look(Purpose::Answer(vec![reply]));
            return;
        }
        self.asked.retain(|reply| !reply.is_closed());
        if self.asked.len() < WAITING_MAX {
            self.asked.push(reply);
        }
    }

    pub(super) async fn answer_plan(&self, observed: &ObservedNode) -> Result<PlanView, HandleError> {
        let Some(desired) = self.desired.clone() else {
            let why = self.memory.rejected.as_ref().map(|rejected| rejected.why.clone());
            return Err(HandleError::NoDesired {
                why: self
                    .not_read_again()
                    .or(why)
                    .or_else(|| self.source.failure.clone()),
            });
        };
        let planned = self
            .make_plan(&desired, observed, &BTreeMap::new())
            .await
            .map_err(|why| HandleError::Plan { why })?;
        let json = serde_json::from_str(&render::json(&planned.plan));
        Ok(PlanView {
            format_version: FORMAT_VERSION,
            node: self.settings.node.to_string(),
            revision: desired.revision.to_string(),
            generation: planned.plan.generation.0,
            empty: render::is_empty(&planned.plan),
            text: render::text(&planned.plan, render::Colour::Plain),
            plan: json.map_err(|error| HandleError::Plan {
                why: error.to_string(),
            })?,
            findings: planned.findings,
        })
    }

    fn status(&self) -> Status {
        let phase = self.phase();
        Status {
            format_version: FORMAT_VERSION,
            node: self.node(),
            phase,
            summary: self.summary(phase),
            source: SourceView {
                repository: self.settings.repository.clone(),
                branch: self.settings.branch.clone(),
                head: self.source.head.as_ref().map(ToString::to_string),
                read_ms: self.source.read_ms,
                failure: self.source.failure.clone(),
            },
            accepted: self.memory.accepted.as_ref().map(|accepted| AcceptedView {
                revision: accepted.revision.to_string(),
                generation: accepted.generation.0,
                at_ms: accepted.at.0,
            }),
            rejected: self.memory.rejected.as_ref().map(|rejected| RejectedView {
                revision: rejected.revision.to_string(),
                why: rejected.why.clone(),
                at_ms: rejected.at.0,
            }),
            run: self.run_view(),
            slivers: self.summaries(),
            strangers: self.strangers(),
            problems: self.problems(),
        }
    }

    fn node(&self) -> NodeView {
        let desired = self.desired.as_deref();
        NodeView {
            name: self.settings.node.to_string(),
            fleet: desired.map(|desired| desired.fleet.to_string()),
            site: desired.and_then(|desired| match &desired.standing {
                Standing::Named(node) => Some(node.site.to_string()),
                Standing::NotNamed => None,
            }),
            hypervisor: self.settings.hypervisor.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: self.started_ms,
            now_ms: self.clock.now().0,
            memory: self
                .plan
                .as_ref()
                .and_then(|plan| plan.memory_mib)
                .map(|memory| MemoryView {
                    capacity_mib: memory.capacity,
                    now_mib: memory.now,
                    after_mib: memory.after,
                }),
        }
    }

    fn phase(&self) -> Phase {
        let settled = |plan: &xeno_reconciler::plan::Plan| render::is_empty(plan);
        match (&self.desired, &self.stage, &self.plan) {
            _ if self.stopping => Phase::Stopping,
            (None, _, _) => Phase::NoDesired,
            (Some(_), Stage::Running(_), _) => Phase::Working,
            _ if !self.refused.is_empty() => Phase::Refused,
            (Some(_), Stage::Idle | Stage::Looking, None) => Phase::Looking,
            // A plan for another commit says nothing about this one.
            (Some(desired), _, Some(plan)) if plan.revision != desired.revision => Phase::Looking,
            _ if !self.blind.is_empty() => Phase::Blind,
            (Some(_), _, Some(plan)) if settled(plan) => Phase::Converged,
            (Some(_), _, Some(_)) => Phase::Waiting,
        }
    }

    /// Where a commit has been accepted, and what it asks for is not known any more since a restart.
    fn not_read_again(&self) -> Option<String> {
        let accepted = self.memory.accepted.as_ref().filter(|_| self.desired.is_none())?;
        Some(format!(
            "{} was accepted, and has not been read again since the agent started",
            accepted.revision.short()
        ))
    }

    /// Slivers whose health check fails.
    fn unhealthy(&self) -> Vec<String> {
        let unhealthy = |sliver: &&SliverId| self.health_view(sliver).verdict == HealthWord::Unhealthy;
        let wanted = self.desired.iter().flat_map(|desired| desired.slivers.keys());
        wanted.filter(unhealthy).map(ToString::to_string).collect()
    }

    fn summary(&self, phase: Phase) -> String {
        let node = &self.settings.node;
        let revision = self
            .desired
            .as_ref()
            .map_or_else(String::new, |desired| desired.revision.short().to_owned());
        if let Some(why) = self.not_read_again() {
            return format!("{node} leaves everything as it is: {why}");
        }
        match phase {
            Phase::NoDesired => match (&self.source.failure, &self.memory.rejected) {
                (Some(why), _) => {
                    format!("{node} has no desired state yet: the repository cannot be read: {why}")
                }
                (None, Some(rejected)) => {
                    format!(
                        "{node} has no desired state yet: {} was rejected",
                        rejected.revision.short()
                    )
                }
                (None, None) => format!("{node} has no desired state yet"),
            },
            Phase::Looking => format!("{node} looks at itself before acting on {revision}"),
            Phase::Working => format!("{node} is on its way to {revision}"),
            Phase::Waiting => format!("{node} waits on its way to {revision}: see the slivers"),
            Phase::Converged => match self.unhealthy().as_slice() {
                [] => format!("{node} is as {revision} asks"),
                [one] => format!("{node} is as {revision} asks, but {one} is unhealthy"),
                many => format!(
                    "{node} is as {revision} asks, but {} slivers are unhealthy",
                    many.len()
                ),
            },
            Phase::Blind => format!("{node} cannot see all of itself, and leaves that alone"),
            Phase::Refused => format!("{node} does not act: the plan did not pass its check"),
            Phase::Stopping => format!("the agent of {node} is stopping"),
        }
    }

    fn run_view(&self) -> Option<RunView> {
        let Stage::Running(progress) = &self.stage else {
            return None;
        };
        let mut in_flight: Vec<_> = progress
            .in_flight
            .values()
            .map(|one| InFlight {
                action: one.key.0.clone(),
                began_ms: one.began.0,
            })
            .collect();
        in_flight.sort_by(|a, b| a.action.cmp(&b.action));
        Some(RunView {
            run: progress.number,
            began_ms: progress.began.0,
            actions: progress.run.actions().count(),
            ended: progress
                .run
                .actions()
                .filter(|(_, state)| state.is_final())
                .count(),
            in_flight,
        })
    }

    fn strangers(&self) -> Vec<String> {
        let domains = self
            .observed
            .as_ref()
            .and_then(|observed| observed.domains.known());
        let strangers = domains
            .map(|domains| domains.strangers.as_slice())
            .unwrap_or_default();
        strangers
            .iter()
            .map(|stranger| format!("{} ({} MiB)", stranger.name, stranger.memory_mib))
            .collect()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(why) = &self.memory.failure {
            problems.push(format!(
                "the state cannot be written, so nothing new is begun: {why}"
            ));
        }
        problems.extend(self.rebuilt_lately());
        let mut late: Vec<_> = self.stragglers.values().collect();
        late.sort_by(|a, b| a.key.cmp(&b.key));
        problems.extend(late.into_iter().map(|one| {
            let since = report::utc(one.began);
            format!(
                "{} has been under way since {since} and may hang; others go on without it",
                one.key
            )
        }));
        if let Some(why) = &self.source.failure {
            problems.push(format!("the repository cannot be read: {why}"));
        }
        if let Some(rejected) = &self.memory.rejected {
            problems.push(format!(
                "{} was rejected: see `rejected`",
                rejected.revision.short()
            ));
        }
        problems.extend(
            self.refused
                .iter()
                .map(|finding| format!("the plan is not carried out: {finding}")),
        );
        if let Some(observed) = &self.observed {
            // One cause often hides several facets: it is said once.
            let mut causes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            for (facet, why) in blind_facets(observed) {
                causes.entry(why).or_default().push(facet);
            }
            problems.extend(
                causes
                    .into_iter()
                    .map(|(why, facets)| format!("cannot see the {}: {why}", facets.join(" and the "))),
            );
        }
        problems
    }

    /// All slivers that any side knows.
    fn all_slivers(&self) -> BTreeSet<SliverId> {
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
                    .flat_map(|domains| domains.ours.keys().cloned()),
            );
            all.extend(
                observed
                    .storage
                    .known()
                    .into_iter()
                    .flat_map(|storage| storage.keys().cloned()),
            );
        }
        all
    }

    fn summaries(&self) -> Vec<SliverSummary> {
        self.all_slivers()
            .iter()
            .map(|sliver| self.sliver(sliver))
            .collect()
    }

    fn wanted(&self, sliver: &SliverId) -> Option<&DesiredSliver> {
        self.desired
            .as_ref()
            .and_then(|desired| desired.slivers.get(sliver))
    }

    /// What the last plan says of a sliver, if that plan is for the commit in force.
    fn change(&self, sliver: &SliverId) -> Option<&Change> {
        let desired = self.desired.as_ref()?;
        let plan = self
            .plan
            .as_ref()
            .filter(|plan| plan.revision == desired.revision)?;
        plan.changes.get(sliver)
    }

    fn sliver(&self, sliver: &SliverId) -> SliverSummary {
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
        }
    }

    fn doing(&self, sliver: &SliverId) -> Vec<String> {
        let left = self.stragglers.values();
        let left = left.filter(|one| one.serves.contains(sliver));
        let mut keys: Vec<_> = left.map(|one| one.key.0.clone()).collect();
        let Stage::Running(progress) = &self.stage else {
            keys.sort();
            return keys;
        };
        let serves = |one: &&super::progress::InFlight| {
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

    fn sliver_phase(&self, sliver: &SliverId) -> SliverPhase {
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
    fn failing(&self, sliver: &SliverId) -> Option<&BackOff> {
        let kept = self
            .change(sliver)
            .is_some_and(|change| change.class == ChangeClass::Keep);
        self.memory.backing_off.get(sliver).filter(|_| !kept)
    }

    fn is_applied(&self, wanted: &DesiredSliver) -> bool {
        let applied = self.memory.applied.get(&wanted.id);
        applied.is_some_and(|applied| applied.complete && applied.desired == *wanted)
    }

    fn note(&self, sliver: &SliverId, phase: SliverPhase) -> String {
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

    fn domain_word(&self, sliver: &SliverId) -> &'static str {
        let Some(observed) = &self.observed else {
            return "unknown";
        };
        match &observed.domains {
            Seen::Unknown { .. } => "unknown",
            Seen::Known(domains) => domains
                .ours
                .get(sliver)
                .map_or("none", |domain| state_word(domain.state)),
        }
    }

    fn health_view(&self, sliver: &SliverId) -> HealthView {
        let asked = self.wanted(sliver).is_some_and(|wanted| wanted.health.is_some());
        let (verdict, why) = match self.health.borrow().get(sliver) {
            _ if !asked => (HealthWord::NotAsked, None),
            None => (HealthWord::Unknown, None),
            Some(HealthVerdict::Starting) => (HealthWord::Starting, None),
            Some(HealthVerdict::Healthy) => (HealthWord::Healthy, None),
            Some(HealthVerdict::Unhealthy { why }) => (HealthWord::Unhealthy, Some(why.clone())),
        };
        HealthView { verdict, why }
    }

    fn check_known(&self, sliver: SliverId) -> Result<SliverId, HandleError> {
        if self.all_slivers().contains(&sliver) {
            Ok(sliver)
        } else {
            Err(HandleError::NoSuchSliver { sliver })
        }
    }

    fn describe(&self, sliver: SliverId) -> Result<SliverStatus, HandleError> {
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
            console_log: self.ports.hypervisor.console_log(&sliver).display().to_string(),
            console_socket: self
                .ports
                .hypervisor
                .console_socket(&sliver)
                .display()
                .to_string(),
        })
    }

    fn observed_view(&self, sliver: &SliverId) -> ObservedView {
        let Some(observed) = &self.observed else {
            return ObservedView::default();
        };
        let booted_now = self.wanted(sliver).map(boot_digest);
        let domain = observed
            .domains
            .known()
            .and_then(|domains| domains.ours.get(sliver));
        let storage = observed.storage.known().and_then(|storage| storage.get(sliver));
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
            }),
            blind: blind_facets(observed)
                .into_iter()
                .map(|(facet, why)| format!("{facet}: {why}"))
                .collect(),
        }
    }

    fn why(&self, sliver: SliverId) -> Result<WhyView, HandleError> {
        let sliver = self.check_known(sliver)?;
        let phase = self.sliver_phase(&sliver);
        let health = self.health_view(&sliver);
        let healthy = matches!(health.verdict, HealthWord::Healthy | HealthWord::NotAsked);
        let mut sentences = Vec::new();
        for action in self.doing(&sliver) {
            sentences.push(format!("{action} is under way."));
        }
        if let Some(back_off) = self.failing(&sliver) {
            let times = match back_off.attempts {
                1 => "once".to_owned(),
                n => format!("{n} times in a row"),
            };
            let (action, why) = (&back_off.action, &back_off.why);
            let until = report::utc(self.by_the_wall(back_off.until));
            sentences.push(if back_off.permanent {
                format!(
                    "{action} failed {times}: {why}. That does not pass by itself: it is not tried again until what \
                     is asked of it changes, {until}, or `xeno reconcile`, whichever comes first."
                )
            } else {
                format!(
                    "{action} failed {times}: {why}. It is tried again at {until}; `xeno reconcile` tries at once."
                )
            });
        }
        if let Some(change) = self.change(&sliver) {
            let reasons = change
                .reasons
                .iter()
                .filter(|reason| !matches!(reason, Reason::BackingOff { .. }));
            let reasons: Vec<_> = reasons.map(report::sentence).collect();
            let settled = matches!(phase, SliverPhase::Settled);
            if !reasons.is_empty() && !settled {
                let word = match change.class {
                    ChangeClass::Wait => "waits",
                    class => class.word(),
                };
                sentences.push(format!("{word}: {}.", reasons.join("; ")));
            }
        }
        if let Stage::Running(progress) = &self.stage
            && let Some((action, xeno_reconciler::exec::ActionState::Blocked { by })) =
                progress.run.trouble(&sliver)
        {
            sentences.push(format!("{action} cannot be done in this run, since {by} failed."));
        }
        if let Some(why) = &health.why {
            sentences.push(format!("Its health check fails: {why}."));
        } else if health.verdict == HealthWord::Starting {
            sentences.push("Its health check has not passed yet.".to_owned());
        }
        if let Some(why) = self.not_read_again() {
            sentences.push(format!("Nothing is done: {why}."));
        } else if self.desired.is_none() {
            sentences.push("No commit has been accepted yet.".to_owned());
        }
        sentences.extend(
            self.problems()
                .into_iter()
                .map(|problem| format!("On the whole node: {problem}.")),
        );
        let told = |change: &Change| {
            let mut reasons = change.reasons.iter();
            reasons.any(|reason| matches!(reason, Reason::NotEnforced { .. }))
        };
        if !self.change(&sliver).is_some_and(told)
            && let Some((limits, by)) = self.unenforced(&sliver)
        {
            sentences.push(format!("Besides, {}.", report::not_enforced(&limits, by)));
        }
        let settled = matches!(phase, SliverPhase::Settled) && healthy;
        if settled {
            let well = match health.verdict {
                HealthWord::Healthy => "It is as desired, and healthy.",
                HealthWord::NotAsked | HealthWord::Unknown | HealthWord::Starting | HealthWord::Unhealthy => {
                    "It is as desired."
                }
            };
            sentences.insert(0, well.to_owned());
        } else if matches!(phase, SliverPhase::Leftover) {
            sentences.insert(
                0,
                "It is not desired here; what its removal kept is purged in time.".to_owned(),
            );
        } else if sentences.is_empty() {
            sentences.push("The agent has not looked at it yet.".to_owned());
        }
        Ok(WhyView {
            format_version: FORMAT_VERSION,
            sliver: sliver.to_string(),
            phase,
            settled,
            sentences,
        })
    }

    /// Limits that a sliver asks for and that this node does not keep.
    fn unenforced(&self, sliver: &SliverId) -> Option<(Vec<String>, HypervisorKind)> {
        let desired = self.desired.as_deref()?;
        let Standing::Named(node) = &desired.standing else {
            return None;
        };
        let limits = unenforced(desired.slivers.get(sliver)?, node.hypervisor);
        (!limits.is_empty()).then_some((limits, node.hypervisor))
    }

    fn state_fact(&self) -> Fact {
        let rebuilt = self.memory.rebuilt.as_ref().map(super::mending::was_rebuilt);
        let (state, text) = match (&self.memory.failure, self.rebuilt_lately(), rebuilt) {
            (Some(why), _, _) => {
                let text = format!("cannot be written, so nothing new is begun: {why}");
                (FactState::Bad, text)
            }
            (None, Some(lately), _) => (FactState::Fair, lately),
            (None, None, Some(long_ago)) => (FactState::Good, format!("can be written; {long_ago}")),
            (None, None, None) => (FactState::Good, "can be written".to_owned()),
        };
        Fact {
            what: "state".to_owned(),
            state,
            text,
        }
    }

    fn doctor(&self) -> Doctor {
        let fact = |what: &str, problem: Option<String>, good: String| Fact {
            what: what.to_owned(),
            state: if problem.is_some() {
                FactState::Bad
            } else {
                FactState::Good
            },
            text: problem.unwrap_or(good),
        };
        let source = match &self.source.head {
            Some(head) => format!("at {}", head.short()),
            None => "not read yet".to_owned(),
        };
        let mut facts = vec![
            fact("repository", self.source.failure.clone(), source),
            fact(
                "newest commit",
                self.memory
                    .rejected
                    .as_ref()
                    .map(|rejected| format!("rejected: {}", rejected.why)),
                "accepted".to_owned(),
            ),
            self.state_fact(),
        ];
        if let Some(observed) = &self.observed {
            let blind = blind_facets(observed);
            for facet in FACETS {
                facts.push(fact(facet, blind.get(facet).cloned(), "can be seen".to_owned()));
            }
        }
        if let Some(desired) = &self.desired
            && desired.standing == Standing::NotNamed
        {
            facts.push(Fact {
                what: "node".to_owned(),
                state: FactState::Fair,
                text: "the repository does not name this node, so nothing on it is changed".to_owned(),
            });
        }
        let unkept = self.all_slivers().into_iter().filter_map(|sliver| {
            let (limits, by) = self.unenforced(&sliver)?;
            Some(format!("{sliver}: {}", report::not_enforced(&limits, by)))
        });
        let unkept: Vec<_> = unkept.collect();
        if !unkept.is_empty() {
            facts.push(Fact {
                what: "limits".to_owned(),
                state: FactState::Fair,
                text: unkept.join("\n"),
            });
        }
        Doctor {
            format_version: FORMAT_VERSION,
            facts,
        }
    }
}

/// How long a driver may look at what it needs.
const DRIVER_FACTS_MAX: Duration = Duration::from_secs(10);

async fn driver_facts(hypervisor: &impl Hypervisor) -> Vec<Fact> {
    let Ok(facts) = timeout(DRIVER_FACTS_MAX, hypervisor.facts()).await else {
        return vec![Fact {
            what: "hypervisor".to_owned(),
            state: FactState::Bad,
            text: format!("it did not answer within {} s", DRIVER_FACTS_MAX.as_secs()),
        }];
    };
    let view = |fact: DriverFact| Fact {
        what: fact.what.to_owned(),
        state: match fact.soundness {
            Soundness::Good => FactState::Good,
            Soundness::Fair => FactState::Fair,
            Soundness::Bad => FactState::Bad,
        },
        text: fact.text,
    };
    facts.into_iter().map(view).collect()
}

const FACETS: [&str; 4] = ["domains", "storage", "templates", "file layers"];

/// Facets that could not be seen, and why.
pub(super) fn blind_facets(observed: &ObservedNode) -> BTreeMap<&'static str, String> {
    fn why<T>(seen: &Seen<T>) -> Option<String> {
        match seen {
            Seen::Known(_) => None,
            Seen::Unknown { why } => Some(why.clone()),
        }
    }
    let whys = [
        why(&observed.domains),
        why(&observed.storage),
        why(&observed.templates),
        why(&observed.file_layers),
    ];
    FACETS
        .into_iter()
        .zip(whys)
        .filter_map(|(facet, why)| Some((facet, why?)))
        .collect()
}

/// An event as the API tells it.
pub(super) fn event_view(event: Event) -> EventView {
    EventView {
        seq: event.seq,
        at_ms: event.at.0,
        kind: EventKind::as_str(event.kind).to_owned(),
        sliver: event.sliver.map(|sliver| sliver.to_string()),
        text: event.text,
        data: event.data,
    }
}

fn canonical(sliver: &DesiredSliver) -> serde_json::Value {
    serde_json::from_str(&to_json(sliver)).unwrap_or_default()
}

fn state_word(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "running",
        DomainState::Paused => "paused",
        DomainState::Stopping => "stopping",
        DomainState::Crashed => "crashed",
    }
}

fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::Change => "change",
        Cause::Drift => "drift",
        Cause::Schedule => "schedule",
    }
}
