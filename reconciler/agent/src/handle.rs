//! The way into a running agent for whoever serves its API: questions in, answers out, never the loop's state itself.

use tokio::sync::{broadcast, mpsc, oneshot};
use xeno_model::id::{SliverId, Timestamp};
use xeno_reconciler::report;

use crate::api::{
    Applied, ApplyRequest, CheckpointsView, Doctor, EventView, Events, FreezeRequest, Freezes, History,
    PlanView, Restored, RolloutRequest, RolloutsView, ScopeView, SliverStatus, Slivers, Status, Tombstones,
    WhyView,
};

use crate::figures::Figures;

/// Events kept for a watcher that reads slowly; one that falls further behind is told how many it missed and reads
/// them by number.
pub const WATCH_EVENTS_MAX: usize = 256;

/// Questions that may wait for the loop, or for the repository, at a time.
pub(crate) const WAITING_MAX: usize = 64;

/// Most events of one answer.
pub const EVENTS_PER_ANSWER_MAX: u32 = 1000;

/// Why the agent did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The agent is about to end.
    #[error("the agent is stopping")]
    Stopping,
    /// There is no such sliver: not desired, not applied, and nothing of it here.
    #[error("there is no sliver {sliver} on this node")]
    NoSuchSliver {
        /// Which.
        sliver: SliverId,
    },
    /// It is not known what is desired.
    #[error("no commit is in force yet{}", .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoDesired {
        /// What is known about the reason.
        why: Option<String>,
    },
    /// The plan could not be made.
    #[error("make a plan: {why}")]
    Plan {
        /// Why not.
        why: String,
    },
    /// The repository could not be read when it was asked to be.
    #[error("read the repository: {why}")]
    Source {
        /// Why not.
        why: String,
    },
    /// The node's state could not be read or written.
    #[error("use the state: {why}")]
    State {
        /// Why not.
        why: String,
    },
    /// Somebody said that it is to be left alone.
    #[error("{what} is frozen by {by}{}: {reason}", .until.map(|until| format!(" until {}", report::utc(until))).unwrap_or_default())]
    Frozen {
        /// What was asked for.
        what: String,
        /// Who froze it.
        by: String,
        /// Why.
        reason: String,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// It is not frozen.
    #[error("{what} is not frozen")]
    NotFrozen {
        /// What was asked for.
        what: String,
    },
    /// The plan is not the one that the agent makes now.
    #[error("the plan is stale: {why}")]
    Stale {
        /// What differs.
        why: String,
    },
    /// It cannot be done now, because of what is there or under way.
    #[error("{why}")]
    InUse {
        /// What, and the way on.
        why: String,
    },
    /// There is no such checkpoint.
    #[error("{sliver} has no checkpoint `{name}`")]
    NoSuchCheckpoint {
        /// Whose.
        sliver: SliverId,
        /// Which.
        name: String,
    },
    /// The question makes no sense.
    #[error("{why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
}

/// A question, and where its answer goes.
#[derive(Debug)]
pub(crate) enum Request {
    Status(Reply<Status>),
    Plan(Reply<PlanView>),
    Slivers(Reply<Slivers>),
    Sliver(SliverId, Reply<SliverStatus>),
    Why(SliverId, Reply<WhyView>),
    Events(u64, u32, Reply<Events>),
    Refetch(Reply<()>),
    Reconcile(ScopeView, Reply<()>),
    Freeze(FreezeRequest, Reply<Freezes>),
    Thaw(ScopeView, Reply<Freezes>),
    Freezes(Reply<Freezes>),
    Apply(ApplyRequest, Reply<Applied>),
    Checkpoints(SliverId, Reply<CheckpointsView>),
    Restore(SliverId, String, Reply<Restored>),
    History(Option<SliverId>, u32, Reply<History>),
    Observed(Reply<serde_json::Value>),
    Tombstones(Reply<Tombstones>),
    Rollouts(Reply<RolloutsView>),
    Roll(RolloutRequest, Reply<()>),
    Doctor(Reply<Doctor>),
    Figures(Reply<Figures>),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, HandleError>>;

/// Asks a running agent. Cheap to clone; outlives the agent, and then answers [`HandleError::Stopping`].
#[derive(Clone, Debug)]
pub struct AgentHandle {
    requests: mpsc::Sender<Request>,
    events: broadcast::WeakSender<EventView>,
}

impl AgentHandle {
    /// Holds the sender of events weakly: a watch ends with the agent, not with the last handle.
    pub(crate) fn new(requests: mpsc::Sender<Request>, events: &broadcast::Sender<EventView>) -> Self {
        let events = events.downgrade();
        Self { requests, events }
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Request) -> Result<T, HandleError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(question(reply)).await;
        sent.map_err(|_| HandleError::Stopping)?;
        answer.await.map_err(|_| HandleError::Stopping)?
    }

    /// The node at a glance, from what the agent last saw.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn status(&self) -> Result<Status, HandleError> {
        self.ask(Request::Status).await
    }

    /// What it does in figures, from what the agent last saw.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn figures(&self) -> Result<Figures, HandleError> {
        self.ask(Request::Figures).await
    }

    /// Looks at the node now, and says what would be done.
    ///
    /// # Errors
    /// [`HandleError::NoDesired`] before the first commit, [`HandleError::Plan`] where no plan can be made.
    pub async fn plan(&self) -> Result<PlanView, HandleError> {
        self.ask(Request::Plan).await
    }

    /// All slivers that are desired, applied or here.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn slivers(&self) -> Result<Slivers, HandleError> {
        self.ask(Request::Slivers).await
    }

    /// Everything about one sliver.
    ///
    /// # Errors
    /// [`HandleError::NoSuchSliver`].
    pub async fn describe(&self, sliver: SliverId) -> Result<SliverStatus, HandleError> {
        self.ask(|reply| Request::Sliver(sliver, reply)).await
    }

    /// Why a sliver is not as desired.
    ///
    /// # Errors
    /// [`HandleError::NoSuchSliver`].
    pub async fn why(&self, sliver: SliverId) -> Result<WhyView, HandleError> {
        self.ask(|reply| Request::Why(sliver, reply)).await
    }

    /// Events after number `since`, oldest first; the newest `limit` (at most [`EVENTS_PER_ANSWER_MAX`]) of them.
    ///
    /// # Errors
    /// [`HandleError::State`] where they cannot be read.
    pub async fn events(&self, since: u64, limit: u32) -> Result<Events, HandleError> {
        self.ask(|reply| Request::Events(since, limit.min(EVENTS_PER_ANSWER_MAX), reply))
            .await
    }

    /// Events from now on. Subscribe before reading [`AgentHandle::events`], then skip numbers already read: so none
    /// is missed. A slow reader gets `Lagged` and reads on by number. Ends when the agent does.
    ///
    /// # Errors
    /// [`HandleError::Stopping`].
    pub fn watch(&self) -> Result<broadcast::Receiver<EventView>, HandleError> {
        let events = self.events.upgrade().ok_or(HandleError::Stopping)?;
        Ok(events.subscribe())
    }

    /// Reads the repository now, and returns once it was read, or could not be. Changes nothing else.
    ///
    /// # Errors
    /// [`HandleError::Source`] with the reason where it cannot be read; [`HandleError::Stopping`], also where far too many wait for the repository already.
    pub async fn refetch(&self) -> Result<(), HandleError> {
        self.ask(Request::Refetch).await
    }

    /// Reads the repository now, forgets the waits after failures, and looks at the node again. Returns at once.
    ///
    /// # Errors
    /// [`HandleError::Frozen`] where that is to be left alone, [`HandleError::Stopping`].
    pub async fn reconcile(&self, what: ScopeView) -> Result<(), HandleError> {
        self.ask(|reply| Request::Reconcile(what, reply)).await
    }

    /// Has something left alone; says all that is.
    ///
    /// # Errors
    /// [`HandleError::Invalid`], [`HandleError::State`] where it cannot be written down.
    pub async fn freeze(&self, freeze: FreezeRequest) -> Result<Freezes, HandleError> {
        self.ask(|reply| Request::Freeze(freeze, reply)).await
    }

    /// Goes on with something that was frozen; says all that still is.
    ///
    /// # Errors
    /// [`HandleError::NotFrozen`], [`HandleError::State`] where it cannot be written down.
    pub async fn thaw(&self, what: ScopeView) -> Result<Freezes, HandleError> {
        self.ask(|reply| Request::Thaw(what, reply)).await
    }

    /// All freezes in force.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn freezes(&self) -> Result<Freezes, HandleError> {
        self.ask(Request::Freezes).await
    }

    /// How far the rollouts of the slices here are.
    ///
    /// # Errors
    /// [`HandleError::Invalid`] where the node has no board.
    pub async fn rollouts(&self) -> Result<RolloutsView, HandleError> {
        self.ask(Request::Rollouts).await
    }

    /// Does something to the rollout of a slice that has slivers here.
    ///
    /// # Errors
    /// [`HandleError::Invalid`] where there is no board or no such slice here, [`HandleError::InUse`] where that cannot be done
    /// to the rollout as it is, or the board does not answer.
    pub async fn roll(&self, request: RolloutRequest) -> Result<(), HandleError> {
        self.ask(|reply| Request::Roll(request, reply)).await
    }

    /// Carries out exactly this plan, if it is still the one that the agent makes.
    ///
    /// # Errors
    /// [`HandleError::Stale`] where it is not.
    pub async fn apply(&self, plan: ApplyRequest) -> Result<Applied, HandleError> {
        self.ask(|reply| Request::Apply(plan, reply)).await
    }

    /// Looks at the node now, and tells what checkpoints the writable layers of a sliver have.
    ///
    /// # Errors
    /// [`HandleError::NoSuchSliver`].
    pub async fn checkpoints(&self, sliver: SliverId) -> Result<CheckpointsView, HandleError> {
        self.ask(|reply| Request::Checkpoints(sliver, reply)).await
    }

    /// Has a sliver that does not run go back to a checkpoint; what is undone by it is kept in another one first.
    ///
    /// # Errors
    /// [`HandleError::InUse`] where it runs, is suspended, or something is being done; [`HandleError::NoSuchCheckpoint`].
    pub async fn restore(&self, sliver: SliverId, checkpoint: String) -> Result<Restored, HandleError> {
        self.ask(|reply| Request::Restore(sliver, checkpoint, reply))
            .await
    }

    /// What was accepted and carried through, newest first.
    ///
    /// # Errors
    /// [`HandleError::State`] where it cannot be read.
    pub async fn history(&self, of: Option<SliverId>, limit: u32) -> Result<History, HandleError> {
        self.ask(|reply| Request::History(of, limit, reply)).await
    }

    /// Looks at the node now, and tells all that a plan is made from; [`crate::snapshot`] reads it.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn observed(&self) -> Result<serde_json::Value, HandleError> {
        self.ask(Request::Observed).await
    }

    /// What removals have set aside, and until when.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn tombstones(&self) -> Result<Tombstones, HandleError> {
        self.ask(Request::Tombstones).await
    }

    /// What the agent knows about its own soundness.
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn doctor(&self) -> Result<Doctor, HandleError> {
        self.ask(Request::Doctor).await
    }
}
