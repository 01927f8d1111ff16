//! A guest's memory on its way to another node.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use xeno_model::id::SliverId;
use xeno_reconciler::ports::{Departure, Pipe, PortError, PortResult};

use super::preamble::Preamble;
use super::{PIPE_NAME, broke_off, forget_move, let_go_of_pipe, unless_stopped};
use crate::accel::Accel;
use crate::chain;
use crate::domain::{Domain, RunState, disobeyed, io_failed, lock};
use crate::driver::QemuDriver;
use crate::inventory::find;
use crate::migration::{BANDWIDTH_UNBOUND, Migration, machine, migration, over, set_capabilities};
use crate::qmp::{Qmp, QmpError};
use crate::record::{Moving, Record};

/// A departure of which nothing goes out for this long is given up: at its end the guest waits for it.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long a guest may stand still for the last of its memory where nobody says, in milliseconds.
const DOWNTIME_MS: u64 = 300;
/// The longest that QEMU takes (`MAX_MIGRATE_DOWNTIME`), in milliseconds.
const DOWNTIME_MS_MAX: u64 = 2_000_000;
/// The first QEMU that notices all writes of emulated processors while memory is sent.
const TCG_SOUND_MAJOR: u64 = 9;

impl QemuDriver {
    /// Sends the memory of a sliver's running domain into `out`. Returns once it stands still and all of it is in `out`.
    ///
    /// A guest that writes faster than `out` takes is slowed down until it does not (QEMU's `auto-converge`). Where QEMU cannot
    /// be trusted to notice all that a running guest writes, it stands still from the start, also where `departure` says
    /// `live`.
    ///
    /// # Errors
    /// If it cannot leave: it goes on running here then.
    pub async fn depart(&self, sliver: &SliverId, departure: &Departure, out: Pipe) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        let lock = lock(&dir, sliver).await?;
        let Some(domain) = find(&dir, sliver).await? else {
            return Err(PortError::later(format!(
                "{sliver} has no domain that could leave"
            )));
        };
        let leaving = Moving::Leaving {
            migration: departure.migration,
            epoch: departure.epoch,
        };
        let is_kept = self.ready_to_leave(&domain, leaving).await?;
        if is_kept {
            return Ok(());
        }
        let mut ticket = self.moves().begin(sliver, leaving, lock);
        let record = Record {
            moving: Some(leaving),
            ..domain.record.clone()
        };
        domain.remember(ticket.lock(), record.clone()).await?;
        let domain = Domain { record, ..domain };
        let sent = async {
            let mut outlet = Outlet::of(&out)?;
            let qmp = self.send(&domain, departure, out).await?;
            outlet.is_whole = true;
            Ok(qmp)
        };
        let mut qmp = match unless_stopped(&mut ticket, sliver, sent).await {
            Ok(qmp) => qmp,
            Err(error) => {
                if let Err(stays) = self.stay(&domain).await {
                    return Err(PortError::later(format!("{error}; and then: {stays}")));
                }
                forget_move(ticket.lock(), &domain).await?;
                return Err(error);
            }
        };
        // Only now: until here it might have had to go on with them.
        let mut record = domain.record.clone();
        if let Err(error) = self.change_ports(&mut qmp, &[], &mut record).await {
            tracing::warn!(%sliver, %error, "a guest that has left still holds ports here");
        }
        if record != domain.record {
            domain.remember(ticket.lock(), record).await?;
        }
        Ok(())
    }

    /// Whether the domain can leave. `true`: it has left.
    async fn ready_to_leave(&self, domain: &Domain, leaving: Moving) -> PortResult<bool> {
        let sliver = &domain.record.sliver;
        let not_now = |why: &str| Err(PortError::later(format!("{sliver} cannot leave: {why}")));
        let Some(state) = domain.state().await? else {
            return not_now("it is just ending");
        };
        match (domain.record.moving, state) {
            (Some(Moving::Arriving { migration }), _) => Err(PortError::never(format!(
                "{sliver} cannot leave: it is a copy of migration {migration} that has not run"
            ))),
            (Some(its), RunState::Outgone) if its == leaving => Ok(true),
            (Some(_), RunState::Outgone | RunState::Paused | RunState::Finishing) => {
                not_now("it stands still after another attempt: wake it first")
            }
            // An attempt that came to nothing may have left its note.
            (_, RunState::Running) => {
                let stands = async { migration(&mut domain.connect().await?).await };
                match stands.await {
                    Ok(stands) if stands.is_active() => not_now("its memory is under way already"),
                    Ok(_) => Ok(false),
                    Err(error) => Err(disobeyed(sliver, &error)),
                }
            }
            (None, RunState::Outgone | RunState::Paused | RunState::Finishing) => {
                not_now("it is paused, and would not be where it goes")
            }
            (_, RunState::Incoming) => not_now("it is being resumed"),
            (_, RunState::Stopping) => not_now("it is just ending"),
            (_, RunState::Silent) => not_now("its QEMU does not answer"),
            (_, RunState::Crashed) => Err(PortError::never(format!("{sliver} cannot leave: it has crashed"))),
        }
    }

    /// Has QEMU send the memory to its end; the connection on which it did so.
    ///
    /// The connection is kept all the while, since only it hears QEMU's events: whoever looks is answered from what this
    /// driver knows ([`super::Moves`]).
    async fn send(&self, domain: &Domain, departure: &Departure, out: Pipe) -> PortResult<Qmp> {
        let sliver = &domain.record.sliver;
        let broke =
            |error: QmpError| broke_off(domain, &format!("the memory of {sliver} cannot be sent"), &error);
        let mut qmp = domain.connect_for(STALLED_AFTER).await.map_err(broke)?;
        let machine = machine(&mut qmp).await.map_err(broke)?;
        let accel = domain.record.accel.unwrap_or(domain.process.accel());
        let live = departure.live && is_sound_live(&mut qmp, accel).await.map_err(broke)?;
        if live != departure.live {
            tracing::info!(%sliver, "it stands still while its memory is sent: this QEMU could lose what it writes meanwhile");
        }
        let out = introduce(out, &Preamble::of(&domain.record, machine, accel)).await?;
        let departure = Departure {
            live,
            ..departure.clone()
        };
        begin(&mut qmp, &departure, &out).await.map_err(broke)?;
        drop(out);
        match over(&mut qmp, Some(STALLED_AFTER)).await.map_err(broke)? {
            Migration::Completed => Ok(qmp),
            Migration::Ended { why } => Err(PortError::later(format!(
                "the memory of {sliver} was not sent, and it goes on running: {why}"
            ))),
            Migration::Active { .. } => Err(PortError::later(format!(
                "nothing of {sliver} went out for {} s, and it goes on running",
                STALLED_AFTER.as_secs()
            ))),
        }
    }

    /// Has a guest that did not leave go on.
    async fn stay(&self, domain: &Domain) -> PortResult<()> {
        let sliver = &domain.record.sliver;
        let closed = async { let_go_of_pipe(&mut domain.connect().await?).await };
        if let Err(error) = closed.await {
            tracing::debug!(%sliver, error = chain(&error), "cannot take the pipe from QEMU");
        }
        self.run_on(domain).await
    }
}

/// The pipe of a departure. Whatever ends it before all of the memory has gone breaks the pipe, also for QEMU: while that writes
/// the last of the memory it hears nothing, so it could not be told to stop where nobody reads.
struct Outlet {
    pipe: Pipe,
    is_whole: bool,
}

impl Outlet {
    fn of(out: &Pipe) -> PortResult<Self> {
        Ok(Self {
            pipe: out
                .try_clone()
                .map_err(|error| io_failed("use the pipe to the other node", &error))?,
            is_whole: false,
        })
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = self.pipe.shutdown(Shutdown::Both);
        }
    }
}

/// Whether a guest may run while its memory is sent. Not where QEMU emulates its processors and is older than 9.0: writes
/// go unnoticed then once a page has been sent, and what arrives is a mixture (fixed by QEMU's commit 03bfc2188f, "physmem: Fix
/// migration dirty bitmap coherency with TCG memory access"; measured with QEMU 7.2.22: of 14 guests that were busy writing,
/// six crashed at the target, and four lost the process that wrote).
async fn is_sound_live(qmp: &mut Qmp, accel: Accel) -> Result<bool, QmpError> {
    match accel {
        Accel::Kvm => Ok(true),
        Accel::Tcg => {
            let version = qmp.execute("query-version").await?;
            let major = version.pointer("/qemu/major").and_then(Value::as_u64);
            Ok(major.is_some_and(|major| major >= TCG_SOUND_MAJOR))
        }
    }
}

/// Sends what goes before the memory.
async fn introduce(out: Pipe, preamble: &Preamble) -> PortResult<Pipe> {
    let unusable = |error: std::io::Error| io_failed("use the pipe to the other node", &error);
    out.set_nonblocking(true).map_err(unusable)?;
    let mut out = tokio::net::UnixStream::from_std(out).map_err(unusable)?;
    preamble
        .write(&mut out)
        .await
        .map_err(|error| PortError::later(chain(&error)))?;
    out.into_std().map_err(unusable)
}

/// Has QEMU begin to send.
async fn begin(qmp: &mut Qmp, departure: &Departure, out: &Pipe) -> Result<(), QmpError> {
    let capabilities = [("events", true), ("auto-converge", departure.live)];
    set_capabilities(qmp, &capabilities).await?;
    let parameters = json!({
        "max-bandwidth": departure.bandwidth.unwrap_or(BANDWIDTH_UNBOUND).clamp(1, BANDWIDTH_UNBOUND),
        "downtime-limit": departure.downtime_ms.unwrap_or(DOWNTIME_MS).min(DOWNTIME_MS_MAX),
    });
    qmp.execute_with("migrate-set-parameters", parameters).await?;
    qmp.give_file(PIPE_NAME, out.as_fd()).await?;
    if !departure.live {
        qmp.execute("stop").await?;
    }
    let uri = json!({ "uri": format!("fd:{PIPE_NAME}") });
    qmp.execute_with("migrate", uri).await.map(drop)
}
