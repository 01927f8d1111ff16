//! Answers to questions, from what the loop knows.

use std::collections::BTreeMap;

use xeno_model::desired::Standing;
use xeno_model::id::{SliverId, Timestamp};
use xeno_model::observed::ObservedNode;
use xeno_reconciler::freeze::FreezeScope;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::render;
use xeno_state::record::{Event, EventKind};
use xeno_state::time::NodeTime;

use super::{Agent, LOOKS_MAX, Purpose, Stage, freezing};
use crate::api::{
    AcceptedView, EventView, Events, FORMAT_VERSION, HealthWord, InFlight, LaterView, MemoryView, NodeView,
    Phase, PlanView, RejectedView, RunView, ScopeView, Slivers, SourceView, Status, TombstoneView,
    Tombstones,
};
use crate::handle::{HandleError, Reply, Request, WAITING_MAX};
use crate::snapshot::Snapshot;

mod doctor;
mod figures;
mod slivers;
mod why;

pub(super) use doctor::blind_facets;
use doctor::driver_facts;
pub(super) use slivers::cause_word;

/// Looks for other answers than plans at a time.
const ANSWERS_MAX: usize = 8;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
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
            Request::Reconcile(what, reply) => drop(reply.send(self.reconcile(&what).await)),
            Request::Freeze(freeze, reply) => drop(reply.send(self.freeze(freeze).await)),
            Request::Thaw(what, reply) => drop(reply.send(self.thaw(&what).await)),
            Request::Freezes(reply) => drop(reply.send(Ok(self.freezes_view()))),
            Request::Apply(plan, reply) => {
                if let Some(reply) = self.room_to_look(reply) {
                    self.look(Purpose::Apply(plan, reply));
                }
            }
            Request::Checkpoints(sliver, reply) => {
                if let Some(reply) = self.room_to_look(reply) {
                    self.look(Purpose::Checkpoints(sliver, reply));
                }
            }
            Request::Restore(sliver, checkpoint, reply) => {
                if let Some(reply) = self.room_to_look(reply) {
                    self.look(Purpose::Restore(sliver, checkpoint, reply));
                }
            }
            Request::History(of, limit, reply) => drop(reply.send(self.history(of, limit).await)),
            Request::Observed(reply) => {
                if let Some(reply) = self.room_to_look(reply) {
                    self.look(Purpose::Tell(reply));
                }
            }
            Request::Rollouts(reply) => drop(reply.send(self.rollouts_view())),
            Request::Roll(request, reply) => self.press(&request, reply),
            Request::Tombstones(reply) => drop(reply.send(Ok(self.tombstones()))),
            Request::Figures(reply) => drop(reply.send(Ok(self.figures()))),
            Request::Doctor(reply) => {
                let (mut doctor, ports) = (self.doctor(), std::sync::Arc::clone(&self.ports));
                // Whoever asks waits for the driver; the loop does not.
                tokio::spawn(async move {
                    doctor
                        .facts
                        .extend(driver_facts(&*ports.hypervisor, &*ports.storage).await);
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

    /// Refuses a question that needs a look of its own where too many looks are under way.
    fn room_to_look<T>(&self, reply: Reply<T>) -> Option<Reply<T>> {
        if self.looks.len() < LOOKS_MAX + ANSWERS_MAX {
            return Some(reply);
        }
        let why = "too many look at the node already; ask again".to_owned();
        let _ = reply.send(Err(HandleError::Plan { why }));
        None
    }

    /// Forgets the waits after failures of all slivers, of a slice's or of one, and looks again.
    async fn reconcile(&mut self, what: &ScopeView) -> Result<(), HandleError> {
        let scope = freezing::scope(what)?;
        if let Some(freeze) = self.frozen(&scope) {
            return Err(HandleError::Frozen {
                what: what.to_string(),
                by: freeze.by,
                reason: freeze.reason,
                until: freeze.until,
            });
        }
        let covers = |sliver: &SliverId| match &scope {
            FreezeScope::Node => true,
            FreezeScope::Slice(slice) => *slice == sliver.slice,
            FreezeScope::Sliver(only) => only == sliver,
        };
        self.refetch.notify_one();
        let known = self.memory.backing_off.keys().chain(self.memory.restarts.keys());
        let calmed: Vec<_> = known.filter(|sliver| covers(sliver)).cloned().collect();
        self.memory.backing_off.retain(|sliver, _| !covers(sliver));
        self.memory.restarts.retain(|sliver, _| !covers(sliver));
        if !calmed.is_empty() {
            self.remember(Vec::new(), move |w| {
                calmed.iter().try_for_each(|sliver| {
                    w.clear_back_off(Some(sliver))?;
                    w.forget_restarts(sliver)
                })
            })
            .await;
        }
        self.refused.clear();
        self.wake();
        Ok(())
    }

    /// All that a plan is made from, except what is desired.
    pub(super) async fn tell(&self, observed: &ObservedNode) -> serde_json::Value {
        let accepted = self.memory.accepted.as_ref();
        let removed = match &self.desired {
            Some(desired) => self.removed_recently(desired).await.0,
            None => 0,
        };
        let snapshot = Snapshot {
            observed: observed.clone(),
            applied: self.memory.applied.clone(),
            revision: accepted.map(|accepted| accepted.revision.clone()),
            generation: accepted.map(|accepted| accepted.generation).unwrap_or_default(),
            applied_generation: accepted.map(|accepted| accepted.carried).unwrap_or_default(),
            removed_recently: removed,
            tombstone_ms: self.settings.tombstone_ms,
            restarts: self.restarts_by_the_wall(),
            freezes: self.freezes(),
        };
        snapshot.to_json()
    }

    /// When a tombstone is purged: by the time that it certainly has been kept.
    pub(super) fn purge_at(&self, seen: NodeTime) -> Timestamp {
        self.by_the_wall(seen.plus(self.settings.tombstone_ms))
    }

    fn tombstones(&self) -> Tombstones {
        let observed = self.observed.as_ref();
        let view = |(sliver, tombstone): (&SliverId, &xeno_state::record::Tombstone)| TombstoneView {
            sliver: sliver.to_string(),
            since_ms: tombstone.since.0,
            purge_ms: self.purge_at(tombstone.seen).0,
            bytes: observed
                .and_then(|observed| observed.storage_of(sliver).ok()?)
                .map_or(0, |storage| storage.bytes),
        };
        Tombstones {
            format_version: FORMAT_VERSION,
            tombstones: self.memory.tombstones.iter().map(view).collect(),
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
        let later = self.later();
        let mut text = render::text(&planned.plan, render::Colour::Plain);
        if !later.is_empty() {
            text.push_str("\nLater, in the order of moves:\n");
            for view in &later {
                text.push_str(&format!("  {}: {}\n", view.sliver, view.why));
            }
        }
        Ok(PlanView {
            format_version: FORMAT_VERSION,
            node: self.settings.node.to_string(),
            revision: desired.revision.to_string(),
            generation: planned.plan.generation.0,
            empty: render::is_empty(&planned.plan) && later.is_empty(),
            text,
            later,
            plan: json.map_err(|error| HandleError::Plan {
                why: error.to_string(),
            })?,
            findings: planned.findings,
        })
    }

    /// Slivers that are to go elsewhere once it is their turn.
    fn later(&self) -> Vec<LaterView> {
        let waits = self.rights.as_ref().map(|rights| rights.waits());
        let view = |(sliver, why): (&SliverId, &String)| LaterView {
            sliver: sliver.to_string(),
            why: why.clone(),
        };
        waits.into_iter().flatten().map(view).collect()
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
            freezes: self.freezes_view().freezes,
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
    pub(in crate::event_loop) fn not_read_again(&self) -> Option<String> {
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
