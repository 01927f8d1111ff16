//! The loop: one task, one owner of the state, everything that happens as one closed [`Event`].
//!
//! A *pass* looks at the node, plans, checks the plan and carries it out, then looks again; it ends when there is
//! nothing to do but wait. What wakes the loop never carries the work: commits change what is desired, everything else
//! only says "look again". Intents are written before effects, outcomes after; where the state cannot be written nothing
//! new is begun.

mod answers;
mod applying;
mod approving;
mod chapters;
mod freezing;
mod hearing;
mod memory;
mod mending;
mod pass;
mod progress;
mod restoring;
pub(crate) mod rights;
pub(crate) mod rollouts;
mod running;
mod since;
mod telling;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Duration, Instant, sleep_until};
use xeno_model::desired::DesiredNode;
use xeno_model::id::{NodeName, Revision, SliverId};
use xeno_model::observed::{HealthVerdict, ObservedNode};
use xeno_reconciler::action::ActionKey;
use xeno_reconciler::exec::Outcome;
use xeno_reconciler::plan::Plan;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_state::record::{ChapterEnd, EventKind, NewEvent};
use xeno_state::time::{BootMoment, NodeTime};

use crate::api::{Applied, ApplyRequest, CheckpointsView, EventView, PlanView, Restored};
use crate::clock::Clock;
use crate::dispatch::Ports;
use crate::figures::Tally;
use crate::handle::{Reply, Request};
use crate::health::Verdicts;
use crate::observe::observe;
use crate::store::Store;
use memory::Memory;
use progress::{Progress, Straggler};
use rights::{Rights, RightsEvent};
use rollouts::{Rolling, RollingEvent};

/// What the loop is told once.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeName,
    pub(crate) repository: String,
    pub(crate) branch: String,
    pub(crate) hypervisor: String,
    /// How often the node is looked at without a reason.
    pub(crate) look_every: Duration,
    /// Actions in flight at a time.
    pub(crate) parallel: usize,
    pub(crate) tombstone_ms: u64,
    /// How long actions in flight may take to end when the agent ends.
    pub(crate) farewell: Duration,
    /// The moment at which the clock began, in this boot of the machine.
    pub(crate) began: BootMoment,
}

/// What the repository says.
#[derive(Clone, Debug)]
pub(crate) enum SourceNews {
    /// The commit last accepted was read again from the mirror: it says nothing of the repository.
    Restored(Box<DesiredNode>),
    /// A commit was read, and this is what it asks of this node.
    Desired(Box<DesiredNode>),
    /// A commit was read, and cannot be acted on.
    Rejected { revision: Revision, why: String },
    /// The repository was read, and there is nothing new.
    Unchanged { head: Revision },
    /// The repository cannot be read.
    Failed { why: String },
}

/// Where events come from.
pub(crate) struct Inputs {
    pub(crate) sources: mpsc::Receiver<SourceNews>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// Something around the node changed: look.
    pub(crate) hints: mpsc::Receiver<()>,
}

/// Everything that can happen.
enum Event {
    Source(SourceNews),
    Looked(Box<ObservedNode>, u64, Purpose),
    /// A look ended without a result: a mistake of ours.
    LookLost,
    ActionEnded(Id, Result<Outcome, JoinError>),
    Rights(RightsEvent),
    Rolling(RollingEvent),
    Asked(Request),
    HealthChanged,
    Hint,
    Tick,
    Shutdown,
}

/// Why the node is looked at.
enum Purpose {
    /// To act.
    Pass,
    /// To see what became of steps about the right to run.
    Rights,
    /// To see whether a run that only waits keeps something else from being done.
    Peek,
    /// To answer: all who asked before it began.
    Answer(Vec<Reply<PlanView>>),
    /// To tell all that was seen.
    Tell(Reply<serde_json::Value>),
    /// To tell which checkpoints a sliver has.
    Checkpoints(SliverId, Reply<CheckpointsView>),
    /// To have a sliver go back to one.
    Restore(SliverId, String, Reply<Restored>),
    /// To carry out a plan that somebody has read.
    Apply(ApplyRequest, Reply<Applied>),
}

/// Looks at a time. Who asks for another waits until one has ended.
const LOOKS_MAX: usize = 3;

/// What the loop is at.
enum Stage {
    Idle,
    Looking,
    Running(Box<Progress>),
}

/// The loop and all that it owns.
pub(crate) struct Agent<H, S> {
    settings: Settings,
    clock: Clock,
    started_ms: u64,
    ports: Arc<Ports<H, S>>,
    store: Store,
    memory: Memory,
    events: broadcast::Sender<EventView>,
    refetch: Arc<Notify>,
    tasks: JoinSet<Outcome>,
    looks: JoinSet<(ObservedNode, u64, Purpose)>,
    /// Looks that were begun.
    looks_begun: u64,
    /// A look that has begun says nothing of what happened since.
    look_again: bool,
    /// Where the node is one of a fleet.
    rights: Option<Rights>,
    /// Its part in rollouts, there.
    rolling: Option<Rolling>,
    /// Who wants a plan, and waits for a look to begin.
    asked: Vec<Reply<PlanView>>,
    /// Actions that hang, or may.
    stragglers: HashMap<Id, Straggler>,
    health: watch::Receiver<Verdicts>,
    health_seen: Verdicts,
    stage: Stage,
    stopping: bool,
    /// What is wanted for now: what the commit says, but for slivers that are on their way, and as far as rollouts have come.
    desired: Option<Arc<DesiredNode>>,
    /// What is wanted in the end, where slivers are on their way: what the commit says.
    placed: Option<Arc<DesiredNode>>,
    /// What is wanted for now, whatever rollouts say.
    staged: Option<Arc<DesiredNode>>,
    /// What of it waits until somebody approves it.
    approvals: approving::Approvals,
    /// Desired state that could not be written down yet.
    unwritten: Option<Box<DesiredNode>>,
    source: SourceState,
    /// Who waits for the repository to be read.
    waiting_for_source: Vec<Reply<()>>,
    observed: Option<ObservedNode>,
    plan: Option<Plan>,
    /// Findings against the last plan; it is not carried out.
    refused: Vec<String>,
    /// What waited at the last plan, and for what: told once.
    waiting: BTreeMap<SliverId, String>,
    /// Since when the plan has had its reasons.
    since: since::Since,
    blind: BTreeSet<&'static str>,
    /// Actions that succeeded in the run before this look, under this desired state.
    just_done: BTreeSet<ActionKey>,
    /// Passes without a rest.
    restless: u32,
    next_look: Instant,
    /// When time alone may change the last plan.
    due_at: Option<Instant>,
    /// When the delete budget has room again, where something waits for that.
    room_at: Option<NodeTime>,
    /// Node time at which something was written last.
    lived_at: NodeTime,
    /// A damaged state is not made anew before this.
    next_mending: Instant,
    /// What has ended since it began.
    tally: Tally,
}

#[derive(Default)]
struct SourceState {
    head: Option<Revision>,
    read_ms: Option<u64>,
    failure: Option<String>,
}

/// What happens next to the rights of slivers; never, where there is no board.
async fn next_right(rights: &mut Option<Rights>) -> RightsEvent {
    match rights {
        Some(rights) => rights.next_event().await,
        None => std::future::pending().await,
    }
}

/// What happens next to rollouts; never, where there is no board.
async fn next_rolling(rolling: &mut Option<Rolling>) -> RollingEvent {
    match rolling {
        Some(rolling) => rolling.next_event().await,
        None => std::future::pending().await,
    }
}

/// More passes in a row than any change takes; what comes beyond waits for the next tick.
const RESTLESS_MAX: u32 = 50;

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Has it be one of a fleet.
    pub(crate) fn with_rights(mut self, rights: Option<Rights>) -> Self {
        self.rights = rights;
        self
    }

    /// Has it take part in rollouts.
    pub(crate) fn with_rollouts(mut self, rolling: Option<Rolling>) -> Self {
        self.rolling = rolling;
        self
    }

    pub(crate) fn new(
        settings: Settings,
        clock: Clock,
        ports: Arc<Ports<H, S>>,
        store: Store,
        events: broadcast::Sender<EventView>,
        refetch: Arc<Notify>,
    ) -> Self {
        let health = ports.probers.watch();
        Self {
            settings,
            clock,
            started_ms: clock.now().0,
            ports,
            store,
            memory: Memory::default(),
            events,
            refetch,
            tasks: JoinSet::new(),
            looks: JoinSet::new(),
            looks_begun: 0,
            look_again: false,
            rights: None,
            rolling: None,
            asked: Vec::new(),
            stragglers: HashMap::new(),
            health,
            health_seen: Verdicts::new(),
            stage: Stage::Idle,
            stopping: false,
            desired: None,
            placed: None,
            staged: None,
            approvals: approving::Approvals::default(),
            unwritten: None,
            source: SourceState::default(),
            waiting_for_source: Vec::new(),
            observed: None,
            plan: None,
            refused: Vec::new(),
            waiting: BTreeMap::new(),
            since: since::Since::default(),
            blind: BTreeSet::new(),
            just_done: BTreeSet::new(),
            restless: 0,
            next_look: Instant::now(),
            due_at: None,
            room_at: None,
            lived_at: NodeTime::default(),
            next_mending: Instant::now(),
            tally: Tally::default(),
        }
    }

    /// Runs until `shutdown`. Guests keep running afterwards.
    ///
    /// # Errors
    /// Only where the state cannot even be read at the start.
    pub(crate) async fn run(
        mut self,
        mut inputs: Inputs,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), xeno_state::StateError> {
        self.begin().await?;
        tokio::pin!(shutdown);
        loop {
            let wake = self.wake_at();
            let event = tokio::select! {
                biased;
                () = &mut shutdown => Event::Shutdown,
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok((id, outcome)) => Event::ActionEnded(id, Ok(outcome)),
                    Err(error) => Event::ActionEnded(error.id(), Err(error)),
                },
                Some(look) = self.looks.join_next() => match look {
                    Ok((mut observed, number, purpose)) => {
                        self.recognise(&mut observed);
                        Event::Looked(Box::new(observed), number, purpose)
                    }
                    Err(_) => Event::LookLost,
                },
                event = next_right(&mut self.rights) => Event::Rights(event),
                event = next_rolling(&mut self.rolling) => Event::Rolling(event),
                Some(news) = inputs.sources.recv() => Event::Source(news),
                Some(request) = inputs.requests.recv() => Event::Asked(request),
                Ok(()) = self.health.changed() => Event::HealthChanged,
                Some(()) = inputs.hints.recv() => Event::Hint,
                () = sleep_until(wake) => Event::Tick,
            };
            if matches!(event, Event::Shutdown) {
                break;
            }
            self.handle(event).await;
        }
        self.end(inputs).await;
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), xeno_state::StateError> {
        self.memory = Memory::read(&self.store, &self.settings.began).await?;
        let lost = self.store.read(xeno_state::node::NodeState::unfinished).await?;
        let now = self.clock.now();
        let mut events = vec![NewEvent {
            at: now,
            kind: EventKind::Started,
            sliver: None,
            text: format!(
                "agent {} began on {}",
                env!("CARGO_PKG_VERSION"),
                self.settings.node
            ),
            data: None,
        }];
        events.extend(self.tell_of_rebuild().await);
        events.extend(lost.iter().map(|entry| NewEvent {
            at: now,
            kind: EventKind::Lost,
            sliver: entry.sliver.clone(),
            text: format!(
                "{} was under way when the agent ended; looking at what became of it",
                entry.action
            ),
            data: None,
        }));
        self.remember(events, move |w| {
            w.end_chapters(None, None, ChapterEnd::Lost, None, now)?;
            for entry in &lost {
                w.outcome(entry.seq, &xeno_state::record::Outcome::Lost, now)?;
            }
            Ok(())
        })
        .await;
        Ok(())
    }

    async fn handle(&mut self, event: Event) {
        self.mend().await;
        if !self.asked.is_empty() && self.looks.len() < LOOKS_MAX {
            let replies = std::mem::take(&mut self.asked);
            self.look(Purpose::Answer(replies));
        }
        match event {
            Event::Source(news) => self.hear(news).await,
            // A plan of somebody's was carried out meanwhile; a look follows it.
            Event::Looked(_, _, Purpose::Pass) if !matches!(self.stage, Stage::Looking) => {}
            Event::Looked(observed, number, Purpose::Rights) => {
                self.note_rights(number, &observed);
                self.advance().await;
            }
            Event::Rights(event) => self.rights_event(event).await,
            Event::Rolling(event) => self.rolling_event(event).await,
            Event::Looked(mut observed, _, Purpose::Tell(reply)) => {
                self.note_tombstones(&mut observed).await;
                let _ = reply.send(Ok(self.tell(&observed).await));
            }
            Event::Looked(observed, _, Purpose::Checkpoints(sliver, reply)) => {
                let _ = reply.send(restoring::checkpoints(&observed, &sliver));
            }
            Event::Looked(observed, _, Purpose::Restore(sliver, checkpoint, reply)) => {
                let _ = reply.send(self.restore(&observed, &sliver, &checkpoint).await);
            }
            Event::Looked(mut observed, _, Purpose::Apply(plan, reply)) => {
                let noted = self.note_tombstones(&mut observed).await;
                let applied = if noted {
                    self.apply(*observed, &plan).await
                } else {
                    Err(self.unwritable())
                };
                let _ = reply.send(applied);
            }
            Event::Looked(mut observed, number, Purpose::Pass) => {
                self.note_rights(number, &observed);
                self.advance().await;
                if self.note_tombstones(&mut observed).await {
                    self.looked(*observed).await;
                    self.roll_out().await;
                } else {
                    // Removals that cannot be counted must not make room for others.
                    self.rest();
                }
            }
            Event::Looked(mut observed, number, Purpose::Peek) => {
                self.note_rights(number, &observed);
                self.advance().await;
                self.note_tombstones(&mut observed).await;
                self.peeked(*observed).await;
            }
            Event::Looked(mut observed, _, Purpose::Answer(replies)) => {
                self.note_tombstones(&mut observed).await;
                let answer = self.answer_plan(&observed).await;
                if answer.as_ref().is_ok_and(|plan| !plan.empty) {
                    // What a person is shown is not left until the next tick.
                    self.wake();
                }
                for reply in replies {
                    // Who stopped waiting does not get an answer.
                    let _ = reply.send(answer.clone());
                }
            }
            Event::LookLost => {
                tracing::error!("a look at the node ended without a result");
                if matches!(self.stage, Stage::Looking) {
                    self.rest();
                }
            }
            Event::ActionEnded(id, outcome) => self.action_ended(id, outcome).await,
            Event::Asked(request) => self.answer(request).await,
            Event::HealthChanged => {
                self.health_changed().await;
                self.roll_out().await;
            }
            Event::Hint if self.put_off_look() => {}
            Event::Hint => {
                // Where a pass is under way, the next look follows it at once.
                self.next_look = Instant::now();
                self.tick().await;
            }
            Event::Tick => self.tick().await,
            Event::Shutdown => {}
        }
    }

    async fn tick(&mut self) {
        self.live().await;
        if let Some(desired) = self.unwritten.take() {
            self.accept(desired).await;
        }
        match &self.stage {
            Stage::Idle => self.look(Purpose::Pass),
            Stage::Looking => {}
            Stage::Running(progress) => {
                let peek = progress.only_waits();
                if peek && Instant::now() >= self.next_look {
                    self.look(Purpose::Peek);
                }
                self.pump().await;
            }
        }
    }

    /// When the loop has to act although nothing happens.
    fn wake_at(&self) -> Instant {
        match &self.stage {
            Stage::Looking => self.next_look.max(Instant::now() + self.settings.look_every),
            Stage::Idle => {
                let time = self.node_time();
                let due = self.memory.backing_off.values().map(|back_off| back_off.until);
                let due = due.chain(self.room_at).filter(|due| *due > time).min();
                let soonest = due.map(|due| Instant::now() + Duration::from_millis(due.since(time)));
                let step = self.rights.as_ref().and_then(Rights::next_try);
                let times = soonest.into_iter().chain(self.due_at).chain(step);
                times.fold(self.next_look, Instant::min)
            }
            Stage::Running(progress) => {
                let next_try = progress.run.next_try_ms().map(|ms| self.clock.at_ms(ms));
                let look = if progress.only_waits() {
                    self.next_look
                } else {
                    Instant::now() + self.settings.look_every
                };
                let times = next_try.into_iter().chain(progress.next_late());
                times.fold(look, Instant::min)
            }
        }
    }

    /// Looks at the node now, unless a pass is under way, which will.
    fn wake(&mut self) {
        if matches!(self.stage, Stage::Idle) {
            self.look(Purpose::Pass);
        }
    }

    fn look(&mut self, purpose: Purpose) {
        if matches!(purpose, Purpose::Pass) {
            self.due_at = None;
            self.stage = Stage::Looking;
        }
        // A question is no look of the loop's own: asked often enough, it would put that off for ever.
        if matches!(purpose, Purpose::Pass | Purpose::Peek) {
            self.next_look = Instant::now() + self.settings.look_every;
        }
        let ports = Arc::clone(&self.ports);
        let node = self.settings.node.clone();
        let at = self.clock.now();
        self.looks_begun += 1;
        let number = self.looks_begun;
        self.looks.spawn(async move {
            let health = ports.probers.verdicts();
            let observed = observe(node, at, &*ports.hypervisor, &*ports.storage, health).await;
            (observed, number, purpose)
        });
    }

    /// Ends a pass: nothing more to do until something happens.
    fn rest(&mut self) {
        self.stage = Stage::Idle;
        self.just_done.clear();
        self.restless = 0;
        if std::mem::take(&mut self.look_again) {
            self.next_look = Instant::now();
        }
    }

    async fn health_changed(&mut self) {
        let verdicts = self.health.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.health_seen, verdicts.clone());
        if let Some(observed) = &mut self.observed {
            observed.health = verdicts.clone();
        }
        let mut events = Vec::new();
        let mut calmed = Vec::new();
        for (sliver, verdict) in &verdicts {
            if before.get(sliver) == Some(verdict) {
                continue;
            }
            let text = match verdict {
                HealthVerdict::Healthy => format!("{sliver} is healthy"),
                HealthVerdict::Starting => continue,
                HealthVerdict::Unhealthy { why } => match before.get(sliver) {
                    // The same verdict with other words is no news.
                    Some(HealthVerdict::Unhealthy { .. }) => continue,
                    Some(HealthVerdict::Healthy | HealthVerdict::Starting) | None => {
                        format!("{sliver} is unhealthy: {why}")
                    }
                },
            };
            let of = sliver.itself();
            events.push(self.event(EventKind::Health, Some(of.clone()), text));
            let waited = |back_off: &xeno_state::record::BackOff| back_off.action.starts_with("await:");
            if *verdict == HealthVerdict::Healthy && self.memory.backing_off.get(&of).is_some_and(waited) {
                calmed.push(of);
            }
        }
        if events.is_empty() {
            return;
        }
        for sliver in &calmed {
            self.memory.backing_off.remove(sliver);
        }
        self.remember(events, move |w| {
            for sliver in &calmed {
                w.clear_back_off(Some(sliver))?;
            }
            Ok(())
        })
        .await;
        self.wake();
    }

    /// Starts nothing more, gives what is in flight a moment, and leaves guests alone.
    async fn end(&mut self, inputs: Inputs) {
        self.stopping = true;
        // Whoever asks from now on is told that the agent is stopping.
        drop(inputs);
        self.supersede().await;
        let until = Instant::now() + self.settings.farewell;
        while matches!(self.stage, Stage::Running(_)) || !self.stragglers.is_empty() {
            let ended = tokio::select! {
                ended = self.tasks.join_next_with_id() => ended,
                () = sleep_until(until) => None,
            };
            match ended {
                Some(Ok((id, outcome))) => self.action_ended(id, Ok(outcome)).await,
                Some(Err(error)) => self.action_ended(error.id(), Err(error)).await,
                None => break,
            }
        }
        let event = self.event(
            EventKind::Stopped,
            None,
            "agent ended; guests keep running".to_owned(),
        );
        self.remember(vec![event], |_| Ok(())).await;
    }

    fn event(&self, kind: EventKind, sliver: Option<SliverId>, text: String) -> NewEvent {
        NewEvent {
            at: self.clock.now(),
            kind,
            sliver,
            text,
            data: None,
        }
    }

    /// Writes something down together with the events that tell of it; `None` where that failed. The failure is shown
    /// until an intent can be written, or nothing is left to be done and the state can be written.
    async fn remember<T: Send + 'static>(
        &mut self,
        events: Vec<NewEvent>,
        body: impl FnOnce(&mut xeno_state::node::Writer<'_>) -> Result<T, xeno_state::StateError> + Send + 'static,
    ) -> Option<T> {
        let (time, moment) = (self.node_time(), self.moment());
        let written = self.store.write(move |w| {
            let value = body(w)?;
            w.lived(time, &moment)?;
            let events: Result<Vec<_>, _> = events.into_iter().map(|event| w.event(event)).collect();
            Ok((value, events?))
        });
        match written.await {
            Ok((value, events)) => {
                for event in events {
                    tracing::info!(
                        kind = event.kind.as_str(),
                        sliver = event.sliver.as_ref().map(tracing::field::display),
                        "{}",
                        event.text
                    );
                    // Nobody watching is no error.
                    let _ = self.events.send(answers::event_view(event));
                }
                self.lived_at = time;
                Some(value)
            }
            Err(error) => {
                let why = xeno_state::error::chain(&error);
                tracing::error!("the state cannot be written: {why}");
                self.memory.failure = Some(why);
                None
            }
        }
    }
}
