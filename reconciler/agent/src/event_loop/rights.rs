//! The right to run: what is known of each sliver, what `tenure` says to that, and the steps it asks for.
//!
//! What was seen of a sliver is kept beside what the last step made of it, so that a move goes from step to step without a
//! look in between; the next look that began after the step puts that right. Slivers that have no right to run here, or of
//! which a step is under way, are left alone by the planner (`Agent::verdicts`).

mod fencing;
pub(crate) mod lease;
mod steps;
mod turns;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, Instant};
use xeno_model::id::{MigrationId, NodeName, SliverId};
use xeno_model::observed::ObservedNode;
use xeno_reconciler::change::Reason;
use xeno_reconciler::exec::RetryPolicy;
use xeno_reconciler::ports::{MoveLayers, MoveMemory};
use xeno_reconciler::tenure::{
    BootId, Facets, Guest, Leave, Leaving, Next, Place, Record, Session, Step, View, Why, has_forgotten,
    is_the_planners, leave, next,
};
use xeno_state::record::EventKind;

use super::{Agent, Purpose, Stage};
use crate::fleet::arriving::Stream;
use crate::fleet::leaving::{Command, Traffic};
use crate::fleet::{Call, Fleet, News, Teller, Told};

/// How soon a record is read again that the board did not show.
const READ_AGAIN: Duration = Duration::from_secs(2);

/// How long a look is put off at a time for a guest that stands still.
const LOOK_LATER: Duration = Duration::from_secs(5);

/// Pauses before a move is tried again.
const MOVE_AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 2_000,
    pause_ms_max: 300_000,
};

/// Pauses before a step is tried again.
const STEP_AGAIN: RetryPolicy = RetryPolicy {
    tries_max: u32::MAX,
    pause_ms_first: 500,
    pause_ms_max: 30_000,
};

/// All about the right to run, where the node is one of a fleet.
pub(crate) struct Rights {
    pub(super) fleet: Arc<Fleet>,
    boot: BootId,
    board: watch::Receiver<u64>,
    calls: mpsc::Receiver<Call>,
    tell: mpsc::UnboundedSender<Told>,
    told: mpsc::UnboundedReceiver<Told>,
    facets: BTreeMap<SliverId, Facets>,
    sessions: BTreeMap<SliverId, Open>,
    steps: JoinSet<Stepped>,
    /// What is being done.
    stepping: BTreeMap<SliverId, Step>,
    /// The first look that may say something of a sliver again.
    fresh_from: BTreeMap<SliverId, u64>,
    pauses: BTreeMap<SliverId, Pause>,
    /// Since when the guest stands still, or may, of each that leaves. It may go on elsewhere only after its move has ended here.
    still: BTreeMap<SliverId, Instant>,
    staged: turns::Staged,
    fencing: fencing::Fencing,
}

/// A move under way.
struct Open {
    migration: MigrationId,
    peer: NodeName,
    task: AbortHandle,
    end: End,
}

enum End {
    Leaving {
        boot: BootId,
        stage: Leaving,
        travelled: bool,
        commands: mpsc::Sender<Command>,
        traffic: Arc<Traffic>,
    },
    Arriving {
        /// Whether its memory has begun to come.
        comes: bool,
        /// Since when all of its memory is here.
        whole: Option<Instant>,
        /// Whether the other end is gone, and the record is being read that says whose the sliver is now.
        alone: bool,
        streams: mpsc::Sender<Stream>,
    },
}

/// A step that has ended.
pub(super) struct Stepped {
    sliver: SliverId,
    step: Step,
    result: Result<(), String>,
    /// When it ended: the loop may hear of it later.
    ended: Instant,
}

/// Why a step is not tried at the moment.
#[derive(Clone, Debug)]
struct Pause {
    until: Instant,
    tries: u32,
    why: String,
    /// Where the sliver was to go, where that is what failed.
    to: Option<NodeName>,
}

/// Something that happened to the rights of slivers.
pub(super) enum RightsEvent {
    Board,
    Told(Told),
    Call(Box<Call>),
    Stepped(Result<Stepped, tokio::task::JoinError>),
    Fenced(Result<fencing::Fenced, tokio::task::JoinError>),
}

impl Rights {
    pub(crate) fn new(fleet: Arc<Fleet>, calls: mpsc::Receiver<Call>) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            boot: fleet.member.presence().boot,
            board: fleet.member.news(),
            fleet,
            calls,
            tell,
            told,
            facets: BTreeMap::new(),
            sessions: BTreeMap::new(),
            steps: JoinSet::new(),
            stepping: BTreeMap::new(),
            fresh_from: BTreeMap::new(),
            pauses: BTreeMap::new(),
            still: BTreeMap::new(),
            staged: turns::Staged::default(),
            fencing: fencing::Fencing::default(),
        }
    }

    /// This node's membership of the board.
    pub(crate) fn member(&self) -> Arc<crate::fleet::member::Member> {
        Arc::clone(&self.fleet.member)
    }

    /// Why the board is not read at the moment.
    pub(super) fn board_failure(&self) -> Option<String> {
        self.fleet.member.standing().failure
    }

    /// What the fleet says of rollouts.
    pub(crate) fn rollouts(&self) -> Arc<crate::fleet::rollouts::Rollouts> {
        Arc::clone(&self.fleet.rollouts)
    }

    /// The next thing that happens. Nothing is lost when it is dropped.
    pub(super) async fn next_event(&mut self) -> RightsEvent {
        tokio::select! {
            biased;
            Some(told) = self.told.recv() => RightsEvent::Told(told),
            Some(stepped) = self.steps.join_next() => RightsEvent::Stepped(stepped),
            Some(fenced) = self.fencing.next() => RightsEvent::Fenced(fenced),
            Ok(()) = self.board.changed() => RightsEvent::Board,
            Some(call) = self.calls.recv() => RightsEvent::Call(Box::new(call)),
            else => std::future::pending().await,
        }
    }

    /// When a step may be tried again that is not now.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let now = Instant::now();
        self.pauses
            .values()
            .map(|pause| pause.until)
            .chain(self.staged.next_try())
            .chain(self.fencing.tries())
            .filter(|until| *until > now)
            .min()
    }

    /// Which slivers are here and are to go elsewhere once it is their turn, and what each waits for.
    pub(super) fn waits(&self) -> &BTreeMap<SliverId, String> {
        self.staged.waits()
    }

    /// What keeps a sliver here that is to go elsewhere in the end.
    pub(super) fn turn_of(&self, sliver: &SliverId) -> Option<&String> {
        self.staged.wait_of(sliver)
    }

    fn paused(&self, sliver: &SliverId) -> Option<&Pause> {
        self.pauses
            .get(sliver)
            .filter(|pause| pause.until > Instant::now())
    }

    fn pause(&mut self, sliver: &SliverId, why: String, to: Option<NodeName>) {
        let tries = self
            .pauses
            .get(sliver)
            .map_or(0, |pause| pause.tries)
            .saturating_add(1);
        let policy = if to.is_some() { MOVE_AGAIN } else { STEP_AGAIN };
        let seed = u64::from(std::process::id()) ^ u64::from(tries);
        let ms = policy.pause_ms(tries, seed);
        let until = Instant::now() + Duration::from_millis(ms);
        let pause = Pause {
            until,
            tries,
            why,
            to,
        };
        self.pauses.insert(sliver.clone(), pause);
    }

    /// What was looked at with look `number` is news of all slivers about which nothing was done since it began.
    fn note(&mut self, number: u64, seen: BTreeMap<SliverId, Facets>) {
        let stale = |sliver: &SliverId| {
            self.stepping.contains_key(sliver)
                || self.fresh_from.get(sliver).is_some_and(|from| number < *from)
        };
        let kept: BTreeSet<_> = self
            .facets
            .keys()
            .filter(|sliver| stale(sliver))
            .cloned()
            .collect();
        let news: Vec<_> = seen.into_iter().filter(|(sliver, _)| !stale(sliver)).collect();
        self.facets.retain(|sliver, _| kept.contains(sliver));
        for (sliver, facets) in news {
            self.fresh_from.remove(&sliver);
            self.facets.insert(sliver, facets);
        }
    }

    /// Whether a sliver comes, or goes, just now.
    pub(super) fn is_on_its_way(&self, sliver: &SliverId) -> bool {
        self.sessions.contains_key(sliver)
    }

    /// Whether a guest stands still, or may, until this node has done its part of a move.
    fn holds_a_guest_up(&self) -> bool {
        self.sessions.iter().any(|(sliver, open)| match &open.end {
            End::Leaving { stage, .. } => matches!(stage, Leaving::Held | Leaving::Asked | Leaving::Given),
            End::Arriving { comes, .. } => {
                let guest = self.facets.get(sliver).map(|facets| facets.guest);
                *comes && guest != Some(Guest::Running)
            }
        })
    }

    /// Ends a move from this side, whatever it is at.
    fn drop_session(&mut self, sliver: &SliverId) {
        if let Some(open) = self.sessions.remove(sliver) {
            open.task.abort();
        }
    }

    /// Whether the record as last read has this node go on with what was sent in this migration.
    fn goes_on_with(&self, sliver: &SliverId, migration: MigrationId) -> bool {
        let member = &self.fleet.member;
        match member.record(sliver) {
            Record::Is(holder) => {
                let sent = holder
                    .memory
                    .as_ref()
                    .is_some_and(|memory| memory.migration == migration);
                sent && holder.is(&self.fleet.me)
            }
            Record::Absent | Record::Unknown => false,
        }
    }

    fn session(&self, sliver: &SliverId, wanted: &Place) -> Option<Session> {
        let open = self.sessions.get(sliver)?;
        Some(match &open.end {
            End::Leaving {
                boot,
                stage,
                travelled,
                ..
            } => Session::Leaving {
                to: open.peer.clone(),
                boot: *boot,
                migration: open.migration,
                stage: *stage,
                travelled: *travelled,
                called_off: *wanted != Place::At(open.peer.clone()),
            },
            End::Arriving { whole, .. } => Session::Arriving {
                migration: open.migration,
                whole: whole.is_some(),
            },
        })
    }
}

impl<H, S> Agent<H, S>
where
    H: MoveMemory + 'static,
    S: MoveLayers + 'static,
{
    /// Takes note of a look, and of which slivers concern this node.
    pub(super) fn note_rights(&mut self, number: u64, observed: &ObservedNode) {
        let Some(rights) = &mut self.rights else { return };
        let concerned = views::concerned(self.desired.as_deref(), &self.memory, observed, &rights.sessions);
        if let Some(desired) = &self.desired {
            rights.fleet.member.set_nodes(desired.nodes);
        }
        let watched = self
            .placed
            .iter()
            .flat_map(|placed| placed.turns.watched(&self.settings.node));
        rights
            .fleet
            .member
            .follow(concerned.iter().cloned().chain(watched).collect());
        let seen = concerned
            .iter()
            .filter_map(|sliver| Some((sliver.clone(), Facets::of(sliver, observed)?)));
        rights.note(number, seen.collect());
        lease::note(rights, observed);
    }

    /// What the planner may do with each sliver that concerns this node; nothing where there is no board to ask.
    pub(super) fn verdicts(&self, observed: &ObservedNode) -> BTreeMap<SliverId, Leave> {
        let Some(rights) = &self.rights else {
            return BTreeMap::new();
        };
        let concerned = views::concerned(self.desired.as_deref(), &self.memory, observed, &rights.sessions);
        concerned
            .into_iter()
            .map(|sliver| {
                let verdict = self.verdict(rights, &sliver);
                (sliver, verdict)
            })
            .collect()
    }

    fn verdict(&self, rights: &Rights, sliver: &SliverId) -> Leave {
        let changes = |what: String| Leave::Not(Reason::RightChanges { what });
        if let Some(step) = rights.stepping.get(sliver) {
            return changes(step.to_string());
        }
        if rights.fresh_from.contains_key(sliver) {
            return changes("what was done a moment ago is being looked at".to_owned());
        }
        let Some(view) = self.view(rights, sliver) else {
            // The planner says itself what it cannot see.
            return match rights.fleet.member.record(sliver) {
                Record::Is(holder) if holder.is(&self.settings.node) => Leave::Held(holder.epoch),
                Record::Is(_) | Record::Absent | Record::Unknown => Leave::Not(Reason::RightUnknown {
                    why: "what is here of it could not be seen".to_owned(),
                }),
            };
        };
        if let Some(pause) = rights.paused(sliver)
            && let Some(to) = &pause.to
        {
            return Leave::Not(Reason::MoveFailed {
                to: to.clone(),
                why: pause.why.clone(),
                until: self.wall_at(pause.until),
            });
        }
        if let Some(open) = rights.sessions.get(sliver) {
            return changes(open.says());
        }
        let unread = || {
            let said = rights.fleet.member.record(sliver);
            if has_forgotten(&said, view.journal) {
                return "the board says less of it than it has said before, as if it had been put back to an earlier day; \
                        see docs/operations.md"
                    .to_owned();
            }
            rights.fleet.member.standing().failure.unwrap_or_else(|| {
                "its record on the board has not been read since the agent started".to_owned()
            })
        };
        let paused = rights.paused(sliver).map(|pause| pause.why.as_str());
        match leave(&view, paused, unread) {
            Leave::Not(Reason::Unfenced { by, .. }) => Leave::Not(self.unfenced(rights, by)),
            Leave::Not(Reason::LeaseLapsed { .. }) => Leave::Not(Reason::LeaseLapsed {
                why: rights.fleet.member.standing().failure,
            }),
            leave => leave,
        }
    }

    /// Takes every step that is due.
    pub(super) async fn advance(&mut self) {
        self.measure().await;
        self.restage().await;
        let slivers: Vec<SliverId> = match &self.rights {
            Some(rights) => rights.facets.keys().cloned().collect(),
            None => return,
        };
        for sliver in slivers {
            self.advance_one(&sliver).await;
        }
    }

    /// Takes steps about one sliver, one after the other, until one has to be waited for.
    async fn advance_one(&mut self, sliver: &SliverId) {
        /// More than any sliver needs without waiting for something.
        const STEPS_MAX: u32 = 16;
        for _ in 0..STEPS_MAX {
            let Some(rights) = &self.rights else { return };
            if self.stopping || rights.stepping.contains_key(sliver) || rights.paused(sliver).is_some() {
                return;
            }
            let Some(view) = self.view(rights, sliver) else {
                return;
            };
            let step = match next(&view) {
                Next::Do(step) => step,
                Next::Wait(Why::Unfenced(node)) => return self.see_to_fence(&node),
                Next::Wait(Why::HeldBy(_)) if self.is_left_over(rights, sliver) => {
                    return self.clear_away(sliver).await;
                }
                Next::Run { .. } | Next::Wait(_) => return,
            };
            if is_the_planners(&view, &step) || comes_later(&view, &step) {
                return;
            }
            if let Stage::Running(progress) = &self.stage
                && progress.run.concerns(sliver)
            {
                // What is under way ends first; nothing more of it is begun.
                return self.supersede().await;
            }
            if !self.take_step(sliver, step).await {
                return;
            }
        }
        tracing::error!("{sliver}: too many steps in a row");
    }

    /// Something happened to the rights of slivers.
    pub(super) async fn rights_event(&mut self, event: RightsEvent) {
        match event {
            RightsEvent::Board => self.advance().await,
            RightsEvent::Told(told) => {
                let sliver = told.sliver.clone();
                self.heard(told).await;
                self.advance_one(&sliver).await;
            }
            RightsEvent::Call(call) => self.called(*call).await,
            RightsEvent::Fenced(fenced) => {
                self.fenced(fenced).await;
                self.advance().await;
            }
            RightsEvent::Stepped(Ok(stepped)) => {
                let sliver = stepped.sliver.clone();
                self.stepped(stepped).await;
                self.advance_one(&sliver).await;
            }
            RightsEvent::Stepped(Err(error)) => {
                tracing::error!("a step ended by a mistake: {error}");
                if let Some(rights) = &mut self.rights {
                    // Whichever it was: look again at all.
                    for sliver in std::mem::take(&mut rights.stepping).into_keys() {
                        rights.fresh_from.insert(sliver, self.looks_begun + 1);
                    }
                }
            }
        }
        self.look_at_rights();
    }

    /// Looks, so that the planner goes on with what has changed.
    fn look_at_rights(&mut self) {
        if self.put_off_look() {
            return;
        }
        match &self.stage {
            Stage::Idle => self.look(Purpose::Pass),
            // One that began before this says nothing of it.
            Stage::Looking => self.look_again = true,
            Stage::Running(_) => {
                let stale = self
                    .rights
                    .as_ref()
                    .is_some_and(|rights| !rights.fresh_from.is_empty());
                if stale && self.looks.len() < super::LOOKS_MAX {
                    self.look(Purpose::Rights);
                }
            }
        }
    }

    /// Puts off a look for as long as guests stand still that are on the move, and whether it did: looking takes the tool stack's
    /// time, and nothing of a move is decided by it.
    pub(super) fn put_off_look(&mut self) -> bool {
        let holds = self.rights.as_ref().is_some_and(Rights::holds_a_guest_up);
        if holds {
            self.next_look = self.next_look.min(Instant::now() + LOOK_LATER);
        }
        holds
    }

    /// What a task of a move says.
    async fn heard(&mut self, told: Told) {
        let Told {
            sliver,
            migration,
            news,
        } = told;
        let Some(rights) = &mut self.rights else { return };
        let mine = rights.goes_on_with(&sliver, migration);
        let Some(open) = rights
            .sessions
            .get_mut(&sliver)
            .filter(|open| open.migration == migration)
        else {
            return;
        };
        let peer = open.peer.clone();
        match (news, &mut open.end) {
            (News::Ready { boot: theirs }, End::Leaving { boot, .. }) => *boot = theirs,
            (news @ (News::Held | News::Given { .. }), End::Leaving { stage, .. }) => {
                let memory = match news {
                    News::Given { memory } => {
                        *stage = Leaving::Given;
                        memory
                    }
                    _ => {
                        *stage = Leaving::Held;
                        true
                    }
                };
                rights.still.entry(sliver.clone()).or_insert_with(Instant::now);
                if let Some(facets) = rights.facets.get_mut(&sliver) {
                    let began = self.memory.tenure.get(&sliver).and_then(|journal| journal.began);
                    facets.guest = match (facets.guest, began) {
                        // A look may have seen it stand still already.
                        (Guest::Kept { epoch }, _) | (_, Some(epoch)) if memory => Guest::Kept { epoch },
                        _ => Guest::Absent,
                    };
                    rights.fresh_from.insert(sliver.clone(), self.looks_begun + 1);
                }
            }
            (News::Whole, End::Arriving { whole, .. }) => {
                *whole = Some(Instant::now());
                if let Some(facets) = rights.facets.get_mut(&sliver) {
                    facets.guest = Guest::Copy { migration };
                    rights.fresh_from.insert(sliver.clone(), self.looks_begun + 1);
                }
            }
            (News::Go, End::Arriving { .. }) => {
                let fleet = Arc::clone(&rights.fleet);
                // What it says comes back as news of the board.
                tokio::spawn(async move { fleet.member.read(&sliver).await });
            }
            (
                News::Ended { why },
                End::Arriving {
                    whole: Some(_),
                    alone,
                    ..
                },
            ) if !*alone => {
                // The other end may have given its right away and died: then this copy is all there is of the guest.
                *alone = true;
                let (fleet, tell) = (Arc::clone(&rights.fleet), rights.tell.clone());
                let reading = tokio::spawn(async move {
                    while fleet.member.read(&sliver).await.is_err() {
                        tokio::time::sleep(READ_AGAIN).await;
                    }
                    Teller {
                        sliver,
                        migration,
                        to: tell,
                    }
                    .say(News::Ended { why });
                });
                open.task = reading.abort_handle();
            }
            (News::Ended { .. }, End::Arriving { alone: true, .. }) if mine => {}
            (News::Ended { why }, end) => {
                let leaving = matches!(end, End::Leaving { .. });
                rights.sessions.remove(&sliver);
                rights.fresh_from.insert(sliver.clone(), self.looks_begun + 1);
                if leaving && !self.right_has_gone(&sliver) {
                    let text = format!("{sliver} does not go to {peer} now: {why}");
                    if let Some(rights) = &mut self.rights {
                        rights.pause(&sliver, why, Some(peer));
                    }
                    let event = self.event(EventKind::Waiting, Some(sliver), text);
                    self.remember(vec![event], |_| Ok(())).await;
                }
            }
            (News::Ready { .. } | News::Held | News::Given { .. }, End::Arriving { .. })
            | (News::Whole | News::Go, End::Leaving { .. }) => {}
        }
    }

    /// Whether another node has the right by now.
    fn right_has_gone(&self, sliver: &SliverId) -> bool {
        let Some(rights) = &self.rights else { return false };
        matches!(rights.fleet.member.record(sliver), Record::Is(holder) if !holder.is(&self.settings.node))
    }

    /// The moment of the runtime's clock, by the wall.
    fn wall_at(&self, at: Instant) -> xeno_model::id::Timestamp {
        let after = at.saturating_duration_since(Instant::now());
        xeno_model::id::Timestamp(self.clock.now().0.saturating_add(crate::clock::millis(after)))
    }
}

/// Whether a step waits for the other end: one that is busy with the memory takes no layers meanwhile, and nothing could be
/// called off while they wait.
fn comes_later(view: &View<'_>, step: &Step) -> bool {
    matches!(step, Step::Travel)
        && matches!(
            view.session,
            Some(Session::Leaving {
                stage: Leaving::Held,
                ..
            })
        )
}

impl Open {
    /// How far it is, for people.
    fn says(&self) -> String {
        match &self.end {
            End::Leaving { stage, boot, .. } => {
                let how = match stage {
                    Leaving::Streaming if *boot == BootId::default() => "the other node makes ready",
                    Leaving::Streaming => "layers and memory go over while it runs",
                    Leaving::Held | Leaving::Asked => "it stands still, and a copy is made of its memory",
                    Leaving::Given => "it stands still, and the right is about to go over",
                    Leaving::Passed => "the other node has the right",
                };
                format!("on its way to {}: {how}", self.peer)
            }
            End::Arriving { whole, .. } => {
                let how = if whole.is_some() {
                    "the copy is whole"
                } else {
                    "it is being received"
                };
                format!("comes from {}: {how}", self.peer)
            }
        }
    }
}
