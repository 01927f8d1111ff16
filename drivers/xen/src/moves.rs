//! The memory side of a move between nodes: [`MoveMemory`] on Xen.
//!
//! # What is where when
//! The source has xl send the domain ([`depart`]), the target has xl restore it, paused, from what comes ([`arrive`]). Each
//! end speaks with its own xl alone: the source's is told that the copy is whole as soon as all of the memory has passed
//! ([`crate::gate::stream`] sees where it ends), whereupon it gives the domain away and never resumes it by itself. From
//! then on no xl has a part in the move: the guest stands suspended here, `xl unpause` or `xeno-xl-resume` has it go on
//! ([`MoveMemory::wake`]), and `xl unpause` has its copy run there ([`MoveMemory::clear`]). Nothing of a move lies in a
//! process that could die.
//!
//! A guest that stands still first (`live: false`, or where the hypervisor does not notice what a running guest writes)
//! is sent by `xl save -p`, which leaves it paused.
//!
//! # What is believed after the agent died
//! The record says [`Moving`] before xl is told anything. A copy is one until `clear` has written that it is an ordinary
//! domain. Of a departure that nobody drives xl sees the pipe's end, and lets the guest go on unless all of it had gone: so
//! once no xl is at work any more, a guest that runs is an ordinary domain again (`settle`), and one that stands is kept.

mod arrive;
mod depart;
mod preamble;

use std::time::Duration;

use xeno_kept::lock::Lock;
use xeno_model::id::{MigrationId, SliverId};
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::{
    Departure, DomainSpec, Grace, Hypervisor, MoveMemory, Pipe, PortError, PortResult, Tuning,
};

use crate::blocking;
use crate::domain::{Domain, RunState};
use crate::driver::{XenDriver, io_failed};
use crate::record::{Moving, Record};

/// All moves that this driver drives.
pub(crate) type Moves = xeno_kept::underway::Moves<Moving>;
/// One of them.
type Ticket = xeno_kept::underway::Ticket<Moving>;

/// How long an xl may take to end whose pipe has broken. libxl gives a guest 60 s to stand still, and xl its transport 2 s.
const END_OF_WORK: Duration = Duration::from_secs(90);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl MoveMemory for XenDriver {
    async fn depart(&self, sliver: &SliverId, departure: &Departure, out: Pipe) -> PortResult<()> {
        Self::depart(self, sliver, departure, out).await
    }

    async fn call_off(&self, sliver: &SliverId) -> PortResult<()> {
        self.end_departure(sliver).await;
        if !self.run_dir(sliver).path().exists() {
            return Ok(());
        }
        let lock = self.lock_at_work(sliver).await?;
        match self.spot(sliver).await?.and_then(|domain| domain.record.moving) {
            // One that an agent began that has died since.
            Some(Moving::Leaving { .. }) => self.stay(&lock, sliver).await,
            Some(Moving::Gone { .. } | Moving::Arriving { .. }) | None => Ok(()),
        }
    }

    async fn arrive(&self, spec: &DomainSpec, migration: MigrationId, from: Pipe) -> PortResult<()> {
        Self::arrive(self, spec, migration, from).await
    }

    async fn clear(&self, sliver: &SliverId, migration: MigrationId, tuning: &Tuning) -> PortResult<()> {
        let lock = self.lock(sliver).await?;
        let arrived = self.has_arrived(sliver, migration).await?;
        let found = match arrived {
            Some(domain) => Some(domain),
            None => self.spot(sliver).await?,
        };
        let Some(mut domain) = found else {
            return Err(PortError::later(format!("{sliver} has no copy here")));
        };
        match (domain.record.moving, domain.state) {
            (None, RunState::Running) => return Ok(()),
            // One that was cut off after it had been made an ordinary domain, and before it ran.
            (None, RunState::Paused) => {}
            (Some(Moving::Arriving { migration: its }), RunState::Paused) if its == migration => {
                // From here on it is an ordinary domain, which may have run: nobody takes it for a copy again.
                domain.record.moving = None;
                self.remember(&domain.record).await?;
            }
            (moving, state) => {
                return Err(PortError::never(format!(
                    "{sliver} is no whole copy of migration {migration} that could run: {moving:?}, {state:?}"
                )));
            }
        }
        self.set_going(&lock, domain, tuning).await
    }

    async fn wake(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        self.end_departure(sliver).await;
        let lock = self.lock_at_work(sliver).await?;
        self.await_end_of_work(sliver).await?;
        let Some(domain) = self.spot(sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could go on"
            )));
        };
        match (domain.record.moving, domain.state) {
            (Some(Moving::Leaving { .. } | Moving::Gone { .. }), _) => {
                self.set_going(&lock, domain, tuning).await
            }
            (None, RunState::Running) => Ok(()),
            (None, state) => Err(PortError::later(format!(
                "{sliver} does not stand still because of a move, but is {state:?}"
            ))),
            (Some(Moving::Arriving { migration }), _) => Err(PortError::never(format!(
                "{sliver} is a copy of migration {migration} here, not the guest that was moved"
            ))),
        }
    }

    async fn destroy(&self, sliver: &SliverId) -> PortResult<()> {
        self.moves().end_all(sliver).await;
        self.shutdown(sliver, Grace { ms: 0 }).await
    }
}

impl XenDriver {
    /// Ends a departure, if one is driven here, and waits until it has ended.
    async fn end_departure(&self, sliver: &SliverId) {
        let departs = |moving| match moving {
            Moving::Leaving { .. } | Moving::Gone { .. } => true,
            Moving::Arriving { .. } => false,
        };
        self.moves().end_if(sliver, departs).await;
    }

    /// Waits until no xl is at work for a sliver. What sends into a broken pipe ends by itself.
    async fn await_end_of_work(&self, sliver: &SliverId) -> PortResult<()> {
        let ended = async {
            while self.at_work(sliver).await?.is_some() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        match tokio::time::timeout(END_OF_WORK, ended).await {
            Ok(ended) => ended,
            Err(_) => Err(PortError::later(format!("an xl is still at work for {sliver}"))),
        }
    }

    /// Has a guest whose departure came to nothing go on here, as an ordinary domain.
    async fn stay(&self, _lock: &Lock, sliver: &SliverId) -> PortResult<()> {
        self.await_end_of_work(sliver).await?;
        let Some(domain) = self.spot(sliver).await? else {
            return Err(PortError::later(format!("the domain of {sliver} has ended")));
        };
        match domain.state {
            RunState::Running => {}
            RunState::Paused | RunState::Suspended => self.let_go(sliver, &domain).await?,
            state @ (RunState::Stopped | RunState::Unfinished | RunState::Leaving) => {
                return Err(PortError::later(format!("{sliver} cannot go on: {state:?}")));
            }
        }
        self.forget_move(&domain).await
    }

    /// Lets a guest that stands still because of a move go on, with its ports; it is an ordinary domain then. Its limits it has
    /// from its configuration. What it cannot be given now, or should have instead, it lacks in the next observation, which is
    /// enough for somebody to try again: the guest must not wait for it.
    async fn set_going(&self, _lock: &Lock, mut domain: Domain, tuning: &Tuning) -> PortResult<()> {
        let sliver = domain.record.sliver.clone();
        if matches!(domain.state, RunState::Running) {
            tracing::debug!(%sliver, "it runs already");
        } else {
            self.set_free(&sliver, &domain).await?;
        }
        if domain.record.moving.take().is_some() {
            self.remember(&domain.record).await?;
        }
        if let Err(error) = self.give_ports(&mut domain.record, &tuning.publish).await {
            tracing::warn!(%sliver, %error, "a moved guest runs without its ports");
        }
        Ok(())
    }

    /// Notes that a domain is an ordinary one again.
    async fn forget_move(&self, domain: &Domain) -> PortResult<()> {
        self.remember(&Record {
            moving: None,
            ..domain.record.clone()
        })
        .await
    }

    /// What a domain of ours does, its part in a move included. See the module's words on what is believed.
    pub(crate) async fn look_at(&self, domain: &Domain) -> PortResult<DomainState> {
        let sliver = &domain.record.sliver;
        match (self.moves().of(sliver), domain.record.moving) {
            (Some(moving), _) => Ok(standing(moving)),
            (None, Some(Moving::Leaving { .. })) => self.settle(domain).await,
            // Somebody woke it, and did not live to write it down.
            (None, Some(Moving::Gone { .. })) if domain.state == RunState::Running => {
                self.settle(domain).await
            }
            (None, Some(moving)) => Ok(match domain.state {
                RunState::Stopped => DomainState::Crashed,
                RunState::Leaving
                | RunState::Running
                | RunState::Paused
                | RunState::Suspended
                | RunState::Unfinished => standing(moving),
            }),
            (None, None) => Ok(domain.state.observed()),
        }
    }

    /// A domain whose record says that it leaves, and of which this driver knows nothing more.
    async fn settle(&self, domain: &Domain) -> PortResult<DomainState> {
        let sliver = &domain.record.sliver;
        let kept = domain.record.moving.map_or(DomainState::Paused, standing);
        let dir = self.run_dir(sliver);
        let locked = blocking(move || dir.lock()).await;
        let Some(_lock) = locked.map_err(|error| io_failed("lock the directory of a sliver", &error))? else {
            // Somebody drives it.
            return Ok(kept);
        };
        if self.at_work(sliver).await?.is_some() {
            // Cut off from whoever had it sent, and about to end.
            return Ok(kept);
        }
        // What it was before it was locked it may not be any more.
        let Some(domain) = self.spot(sliver).await? else {
            return Ok(domain.state.observed());
        };
        match (domain.record.moving, domain.state) {
            (Some(Moving::Leaving { .. } | Moving::Gone { .. }), RunState::Running) => {
                tracing::info!(%sliver, "a departure that nobody drives has ended, and the guest runs here");
                self.forget_move(&domain).await?;
                Ok(DomainState::Running)
            }
            (Some(moving), RunState::Paused | RunState::Suspended | RunState::Running) => {
                Ok(standing(moving))
            }
            (None, state)
            | (Some(_), state @ (RunState::Stopped | RunState::Unfinished | RunState::Leaving)) => {
                Ok(state.observed())
            }
        }
    }
}

/// Refuses what is not done to a domain that is on the move.
pub(crate) fn at_home(domain: &Domain) -> PortResult<()> {
    let sliver = &domain.record.sliver;
    match domain.record.moving {
        None => Ok(()),
        Some(Moving::Leaving { .. } | Moving::Gone { .. }) => Err(PortError::later(format!(
            "{sliver} leaves for another node, or stands still after that"
        ))),
        Some(Moving::Arriving { .. }) => Err(PortError::later(format!(
            "{sliver} is a copy here that has no right to run yet"
        ))),
    }
}

fn standing(moving: Moving) -> DomainState {
    match moving {
        Moving::Leaving { epoch, .. } | Moving::Gone { epoch, .. } => DomainState::Kept { epoch },
        Moving::Arriving { migration } => DomainState::Copy { migration },
    }
}

/// Gives a move up as soon as it is told to.
async fn unless_stopped<T>(
    ticket: &mut Ticket,
    sliver: &SliverId,
    work: impl Future<Output = PortResult<T>>,
) -> PortResult<T> {
    tokio::select! {
        () = ticket.stopped() => Err(PortError::later(format!("the move of {sliver} was called off"))),
        done = work => done,
    }
}
