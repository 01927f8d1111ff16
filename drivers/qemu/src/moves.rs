//! The memory side of a move between nodes: [`MoveMemory`] on QEMU.
//!
//! # What is where when
//! The source has QEMU migrate into a pipe ([`depart`]), the target has a QEMU with the same devices load what comes
//! ([`arrive`]). QEMU knows nothing of the right to run: the target's begins stopped (`-S`) and is started by
//! [`MoveMemory::clear`] alone; the source's stands still once all of its memory has gone ("postmigrate"), and `cont`, so
//! [`MoveMemory::wake`], has it go on as if nothing had been. `pause-before-switchover` would stop it one step too early for
//! that: the memory is not whole then, and the rest of it goes while nobody may run.
//!
//! # What is believed after the agent died
//! The record says [`Moving`] before QEMU is told anything. A copy is one until `clear` has written that it is an ordinary
//! domain, whatever its QEMU does meanwhile. A departure is kept for as long as its record says so and somebody drives it
//! (here, or another process that holds the lock), or its guest stands still. A guest that runs, but whose memory goes to
//! nobody, could stop by itself at any moment: so whoever looks and finds nobody driving it ends the migration first,
//! takes the note away, and only then says that it runs ([`settle`]). Where the migration had been completed, the guest
//! stands still for good, and is kept.

mod arrive;
mod depart;
mod preamble;

use serde_json::json;
use xeno_kept::lock::Lock;
use xeno_model::id::{MigrationId, SliverId};
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::{
    Departure, DomainSpec, Grace, Hypervisor, MoveMemory, Pipe, PortError, PortResult, Tuning,
};

use crate::chain;
use crate::domain::{Domain, END_LIMIT, RunState, await_state, disobeyed, io_failed, lock};
use crate::driver::QemuDriver;
use crate::inventory::find;
use crate::migration::{cancel, migration};
use crate::qmp::{Qmp, QmpError};
use crate::record::{Moving, Record};
use crate::{blocking, spec};

/// All moves that this driver drives.
pub(crate) type Moves = xeno_kept::underway::Moves<Moving>;
/// One of them.
type Ticket = xeno_kept::underway::Ticket<Moving>;

/// Name under which QEMU gets a pipe.
const PIPE_NAME: &str = "move";

impl MoveMemory for QemuDriver {
    async fn depart(&self, sliver: &SliverId, departure: &Departure, out: Pipe) -> PortResult<()> {
        Self::depart(self, sliver, departure, out).await
    }

    async fn call_off(&self, sliver: &SliverId) -> PortResult<()> {
        self.end_departure(sliver).await;
        let dir = self.run_dir(sliver);
        if !dir.path().exists() {
            return Ok(());
        }
        let lock = lock(&dir, sliver).await?;
        let Some(domain) = find(&dir, sliver).await? else {
            return Ok(());
        };
        match domain.record.moving {
            Some(Moving::Leaving { .. }) => {}
            Some(Moving::Arriving { .. }) | None => return Ok(()),
        }
        // One that an agent began that has died since.
        match leave_off(&lock, &domain).await? {
            // It had been told to stand still before its memory went, and that was never done.
            RunState::Paused => {
                self.run_on(&domain).await?;
                forget_move(&lock, &domain).await
            }
            RunState::Running
            | RunState::Outgone
            | RunState::Finishing
            | RunState::Incoming
            | RunState::Stopping
            | RunState::Crashed
            | RunState::Silent => Ok(()),
        }
    }

    async fn arrive(&self, spec: &DomainSpec, migration: MigrationId, from: Pipe) -> PortResult<()> {
        Self::arrive(self, spec, migration, from).await
    }

    async fn clear(&self, sliver: &SliverId, migration: MigrationId, tuning: &Tuning) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(mut domain) = find(&dir, sliver).await? else {
            return Err(PortError::later(format!("{sliver} has no copy here")));
        };
        let state = domain.state().await?;
        match (domain.record.moving, state) {
            (None, Some(RunState::Running)) => return Ok(()),
            // One that was cut off after it had been made an ordinary domain, and before it ran.
            (None, Some(RunState::Paused)) => {}
            (Some(Moving::Arriving { migration: its }), Some(RunState::Paused)) if its == migration => {
                // From here on it is an ordinary domain, which may have run: nobody takes it for a copy again.
                domain.record.moving = None;
                domain.remember(&lock, domain.record.clone()).await?;
            }
            (None | Some(Moving::Arriving { .. }), Some(RunState::Silent)) => {
                return Err(PortError::later(format!("QEMU of {sliver} does not answer")));
            }
            (moving, state) => {
                return Err(PortError::never(format!(
                    "{sliver} is no whole copy of migration {migration} that could run: {moving:?}, {state:?}"
                )));
            }
        }
        self.set_going(&lock, &domain, tuning).await
    }

    async fn wake(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        self.end_departure(sliver).await;
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(domain) = find(&dir, sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could go on"
            )));
        };
        match (domain.record.moving, domain.state().await?) {
            (Some(Moving::Leaving { .. }), _) => self.set_going(&lock, &domain, tuning).await,
            (None, Some(RunState::Running)) => Ok(()),
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

impl QemuDriver {
    /// Ends a departure, if one is driven here, and waits until it has ended.
    async fn end_departure(&self, sliver: &SliverId) {
        let departs = |moving| match moving {
            Moving::Leaving { .. } => true,
            Moving::Arriving { .. } => false,
        };
        self.moves().end_if(sliver, departs).await;
    }

    /// Lets a guest that stands still because of a move go on, with its ports first and the rest behind; it is an ordinary
    /// domain then. What it cannot be given now it lacks in the next observation, which is enough for somebody to try
    /// again: the guest must not wait for it.
    async fn set_going(&self, lock: &Lock, domain: &Domain, tuning: &Tuning) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let lacks = |error: &PortError| tracing::warn!(%sliver, %error, "a moved guest runs without all it should have");
        let tuning = Tuning {
            memory_mib: tuning
                .memory_mib
                .clamp(*spec::MEMORY_MIB.start(), domain.record.memory_max_mib),
            ..tuning.clone()
        };
        let mut record = Record {
            moving: None,
            ..domain.record.clone()
        };
        if let Err(error) = self.give_ports(domain, &tuning.publish, &mut record).await {
            lacks(&error);
        }
        self.run_on(domain).await?;
        if let Err(error) = self.give(domain, &tuning, &mut record).await {
            lacks(&error);
        }
        domain.remember(lock, record).await
    }
}

/// What a domain of ours does, its part in a move included. `None`: it has ended. See the module's words on what is
/// believed.
pub(crate) async fn look_at(moves: &Moves, domain: Domain) -> PortResult<Option<(Domain, Seen)>> {
    let moving = match (moves.of(&domain.record.sliver), domain.record.moving) {
        (Some(moving), _) | (None, Some(moving)) => moving,
        (None, None) => {
            let state = domain.state().await?;
            // It may have been told to leave after its record was read.
            let moving = moves.of(&domain.record.sliver);
            let silent = state == Some(RunState::Silent);
            let Some(state) = state else { return Ok(None) };
            let state = moving.map_or(state.observed(), standing);
            return Ok(Some((domain, Seen { state, silent })));
        }
    };
    let seen = Seen {
        state: standing(moving),
        silent: false,
    };
    match moving {
        Moving::Leaving { .. } if moves.of(&domain.record.sliver).is_none() => settle(domain, seen).await,
        Moving::Leaving { .. } | Moving::Arriving { .. } => Ok(Some((domain, seen))),
    }
}

/// A domain whose record says that it leaves, and of which this driver knows nothing more.
async fn settle(domain: Domain, kept: Seen) -> PortResult<Option<(Domain, Seen)>> {
    let sliver = domain.record.sliver.clone();
    let dir = domain.dir.clone();
    let locked = blocking(move || dir.lock()).await;
    let Some(lock) = locked.map_err(|error| io_failed("lock the run directory", &error))? else {
        // Somebody drives it.
        return Ok(Some((domain, kept)));
    };
    // What it was before it was locked it may not be any more.
    let Some(mut domain) = find(&domain.dir, &sliver).await? else {
        return Ok(None);
    };
    let Some(state) = domain.state().await? else {
        return Ok(None);
    };
    let plain = |state: RunState| Seen {
        state: state.observed(),
        silent: state == RunState::Silent,
    };
    let seen = match (domain.record.moving, state) {
        (None, state) | (Some(_), state @ (RunState::Crashed | RunState::Stopping)) => plain(state),
        (Some(moving), RunState::Silent) => Seen {
            state: standing(moving),
            silent: true,
        },
        (Some(moving @ Moving::Leaving { .. }), _) => match leave_off(&lock, &domain).await {
            Ok(RunState::Running) => {
                domain.record.moving = None;
                plain(RunState::Running)
            }
            Ok(_) => Seen {
                state: standing(moving),
                silent: false,
            },
            Err(error) => {
                tracing::warn!(%sliver, %error, "a departure that nobody drives could not be ended");
                kept
            }
        },
        (Some(moving @ Moving::Arriving { .. }), _) => Seen {
            state: standing(moving),
            silent: false,
        },
    };
    Ok(Some((domain, seen)))
}

/// Ends what is left of a departure that nobody drives; says what the guest does then. One that runs is an ordinary
/// domain again.
async fn leave_off(lock: &Lock, domain: &Domain) -> PortResult<RunState> {
    let sliver = &domain.record.sliver;
    let ended = async {
        let mut qmp = domain.connect().await?;
        if migration(&mut qmp).await?.is_active() {
            cancel(&mut qmp).await?;
        }
        let_go_of_pipe(&mut qmp).await?;
        // Cut off in its last step, it goes on a moment after its migration has ended.
        await_state(&mut qmp, END_LIMIT, |state| state != RunState::Finishing).await
    };
    let state = ended.await.map_err(|error| disobeyed(sliver, &error))?;
    if state == RunState::Running {
        tracing::info!(%sliver, "a departure that nobody drives was ended, and the guest runs here");
        forget_move(lock, domain).await?;
    }
    Ok(state)
}

/// What a domain was seen to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) state: DomainState,
    /// Its QEMU did not answer.
    pub(crate) silent: bool,
}

/// Refuses what is not done to a domain that is on the move.
pub(crate) fn at_home(domain: &Domain) -> PortResult<()> {
    let sliver = &domain.record.sliver;
    match domain.record.moving {
        None => Ok(()),
        Some(Moving::Leaving { .. }) => Err(PortError::later(format!(
            "{sliver} leaves for another node, or stands still after that"
        ))),
        Some(Moving::Arriving { .. }) => Err(PortError::later(format!(
            "{sliver} is a copy here that has no right to run yet"
        ))),
    }
}

fn standing(moving: Moving) -> DomainState {
    match moving {
        Moving::Leaving { epoch, .. } => DomainState::Kept { epoch },
        Moving::Arriving { migration } => DomainState::Copy { migration },
    }
}

/// Notes that a domain is an ordinary one again.
async fn forget_move(lock: &Lock, domain: &Domain) -> PortResult<()> {
    let record = Record {
        moving: None,
        ..domain.record.clone()
    };
    domain.remember(lock, record).await
}

/// Has QEMU close the pipe, should it have been given one that it never used: whoever reads from it would wait for ever.
async fn let_go_of_pipe(qmp: &mut Qmp) -> Result<(), QmpError> {
    match qmp.execute_with("closefd", json!({ "fdname": PIPE_NAME })).await {
        Ok(_) | Err(QmpError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
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

/// A failure in the middle of a move, with QEMU's own words where it ended.
fn broke_off(domain: &Domain, what: &str, error: &QmpError) -> PortError {
    let log = domain.dir.qemu_log_tail();
    let why = match error {
        QmpError::Closed | QmpError::Io(_) if !log.is_empty() => log,
        _ => chain(error),
    };
    PortError::later(format!("{what}: {why}"))
}
