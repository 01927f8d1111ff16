//! One domain that is there: what it does, asked over QMP, and how it ends.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use xeno_kept::lock::Lock;
use xeno_model::id::SliverId;
use xeno_model::observed::DomainState;
use xeno_reconciler::ports::{PortError, PortResult};

use crate::process::{Held, QemuProcess};
use crate::qmp::{Qmp, QmpError};
use crate::record::Record;
use crate::run_dir::RunDir;
use crate::{blocking, chain, changing};

/// How long QEMU may take for one answer. It answers within a millisecond unless the node is starved.
pub(crate) const QMP_LIMIT: Duration = Duration::from_secs(3);
/// How often the power button is pressed: a guest that is still booting does not notice the first time.
const BUTTON_EVERY: Duration = Duration::from_secs(5);
/// How long QEMU may take to end once it is told to, and the kernel once it is killed.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(10);
/// How often QEMU is asked for something that comes within milliseconds.
pub(crate) const SOON_STEP: Duration = Duration::from_millis(20);

/// A domain that is there: a process that was given our run directory and the UUID of the record in it.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    pub(crate) dir: RunDir,
    pub(crate) record: Record,
    pub(crate) process: QemuProcess,
}

/// QEMU's `RunState` (`qapi/run-state.json`), as far as it makes a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    /// The guest runs.
    Running,
    /// The guest stands still and can go on.
    Paused,
    /// Its memory comes from an image, or will.
    Incoming,
    /// Its memory has been written to an image, or to another node; it stands still and could go on.
    Outgone,
    /// The last of its memory goes out: it stands still, and is something else in a moment.
    Finishing,
    /// It has been asked to stop.
    Stopping,
    /// It cannot go on.
    Crashed,
    /// Its QEMU is there and does not answer.
    Silent,
}

impl RunState {
    fn of(status: &str) -> Self {
        match status {
            "running" => Self::Running,
            "shutdown" => Self::Stopping,
            "internal-error" | "io-error" | "guest-panicked" => Self::Crashed,
            "inmigrate" => Self::Incoming,
            "postmigrate" => Self::Outgone,
            "finish-migrate" => Self::Finishing,
            // prelaunch, paused, suspended, debug and so on: exists, does not run, can go on.
            _ => Self::Paused,
        }
    }

    /// In the reconciler's words.
    pub(crate) fn observed(self) -> DomainState {
        match self {
            // Its memory, its ports and its right to its disk are taken, and all that follows from "running" is safe.
            Self::Running | Self::Silent => DomainState::Running,
            Self::Stopping => DomainState::Stopping,
            // One that was being loaded will not go on by itself; its image is still there.
            Self::Crashed | Self::Incoming => DomainState::Crashed,
            Self::Paused | Self::Outgone | Self::Finishing => DomainState::Paused,
        }
    }
}

/// Asks an identified QEMU what it does.
pub(crate) async fn run_state(qmp: &mut Qmp) -> Result<RunState, QmpError> {
    Ok(RunState::of(&qmp.status().await?))
}

impl Domain {
    /// Connects, and makes sure that it is this process with this UUID that answers.
    pub(crate) async fn connect(&self) -> Result<Qmp, QmpError> {
        self.connect_for(QMP_LIMIT).await
    }

    /// As [`Domain::connect`], for what may take QEMU so long for one answer.
    pub(crate) async fn connect_for(&self, limit: Duration) -> Result<Qmp, QmpError> {
        let mut qmp = Qmp::connect(&self.dir.qmp(), limit).await?;
        let peer = qmp.peer_pid();
        let uuid = qmp.uuid().await?;
        if peer != Some(self.process.pid) || uuid != self.record.uuid.to_string() {
            return Err(QmpError::Garbage("another process answers".into()));
        }
        Ok(qmp)
    }

    /// What it does. `None`: it has ended meanwhile. An error: it is not the one in the record.
    pub(crate) async fn state(&self) -> PortResult<Option<RunState>> {
        let (record, process) = (&self.record, &self.process);
        let answer = async {
            let mut qmp = Qmp::connect(&self.dir.qmp(), QMP_LIMIT).await?;
            let peer = qmp.peer_pid();
            Ok::<_, QmpError>((peer, qmp.uuid().await?, run_state(&mut qmp).await?))
        };
        match answer.await {
            Ok((peer, uuid, state)) if peer == Some(process.pid) && uuid == record.uuid.to_string() => {
                Ok(Some(state))
            }
            Ok((peer, uuid, _)) => Err(PortError::never(format!(
                "the control socket of {} is answered by process {} with UUID {uuid}, not by process {} with UUID {}",
                record.sliver,
                peer.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
                process.pid,
                record.uuid,
            ))),
            Err(error) => {
                let still = QemuProcess::look(process.pid);
                if still.map_err(|error| io_failed("look at QEMU", &error))?.as_ref() != Some(process) {
                    return Ok(None);
                }
                tracing::warn!(sliver = %record.sliver, error = chain(&error), "QEMU is there but does not answer");
                Ok(Some(RunState::Silent))
            }
        }
    }

    /// Takes hold of its process. `None`: it has ended.
    pub(crate) fn hold(&self) -> PortResult<Option<Held>> {
        Held::take(&self.process).map_err(|error| io_failed("hold the QEMU process", &error))
    }

    /// Ends it: asks the guest for as long as `grace`, then QEMU, then the kernel. Returns once the process is gone.
    pub(crate) async fn end(&self, grace: Duration) -> PortResult<()> {
        match self.hold()? {
            Some(held) => Ending { domain: self, held }.run(grace).await,
            None => Ok(()),
        }
    }

    /// Removes what only means something while it runs.
    pub(crate) async fn clean(&self, lock: &Lock) -> PortResult<()> {
        let dir = self.dir.clone();
        changing(lock, move || dir.remove_traces())
            .await
            .map_err(|error| io_failed("clean the run directory", &error))
    }

    /// Writes the record anew, durably.
    pub(crate) async fn remember(&self, lock: &Lock, record: Record) -> PortResult<()> {
        let dir = self.dir.clone();
        changing(lock, move || dir.write_record(&record))
            .await
            .map_err(|error| PortError::later(chain(&error)))
    }
}

/// One domain on its way out.
struct Ending<'a> {
    domain: &'a Domain,
    held: Held,
}

impl Ending<'_> {
    async fn run(&self, grace: Duration) -> PortResult<()> {
        let sliver = &self.domain.record.sliver;
        if self.ask(grace).await? {
            return Ok(());
        }
        tracing::info!(%sliver, "destroying the domain");
        if let Ok(mut qmp) = self.domain.connect().await {
            // It may close the connection before it answers.
            let _ = qmp.execute("quit").await;
            if self.ended(END_LIMIT).await? {
                return Ok(());
            }
        }
        self.held.kill().map_err(|error| io_failed("kill QEMU", &error))?;
        if self.ended(END_LIMIT).await? {
            return Ok(());
        }
        let (pid, seconds) = (self.domain.process.pid, END_LIMIT.as_secs());
        Err(PortError::later(format!(
            "QEMU of {sliver} (process {pid}) was killed and is still there after {seconds} s"
        )))
    }

    /// Presses the guest's power button, now and then, until it ends or its grace is over. `true`: it has ended.
    async fn ask(&self, grace: Duration) -> PortResult<bool> {
        let until = Instant::now() + grace;
        while Instant::now() < until {
            let pressed = async {
                let mut qmp = self.domain.connect().await?;
                match run_state(&mut qmp).await? {
                    RunState::Running | RunState::Stopping => {}
                    // Nobody is there to notice.
                    RunState::Paused
                    | RunState::Incoming
                    | RunState::Outgone
                    | RunState::Finishing
                    | RunState::Crashed
                    | RunState::Silent => return Ok(false),
                }
                qmp.execute("system_powerdown").await.map(|_| true)
            };
            match pressed.await {
                Ok(true) => {}
                Ok(false) => return self.ended(Duration::ZERO).await,
                // It may be ending right now; if it only hangs, it cannot be asked again either.
                Err::<_, QmpError>(error) => {
                    let sliver = &self.domain.record.sliver;
                    tracing::info!(%sliver, error = chain(&error), "cannot ask the guest to stop");
                    return self.ended(QMP_LIMIT.min(grace)).await;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if self.ended(left.min(BUTTON_EVERY)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn ended(&self, limit: Duration) -> PortResult<bool> {
        self.held
            .ended(limit)
            .await
            .map_err(|error| io_failed("wait for QEMU", &error))
    }
}

/// Asks again until the state is what is waited for; says what it was last.
pub(crate) async fn await_state(
    qmp: &mut Qmp,
    limit: Duration,
    reached: impl Fn(RunState) -> bool,
) -> Result<RunState, QmpError> {
    let until = Instant::now() + limit;
    loop {
        let state = run_state(qmp).await?;
        if reached(state) || Instant::now() >= until {
            return Ok(state);
        }
        sleep(SOON_STEP).await;
    }
}

/// Takes a domain for one change.
pub(crate) async fn lock(dir: &RunDir, sliver: &SliverId) -> PortResult<Lock> {
    let dir = dir.clone();
    let lock = blocking(move || dir.lock()).await;
    let lock = lock.map_err(|error| io_failed("lock the run directory", &error))?;
    lock.ok_or_else(|| {
        PortError::later(format!(
            "the domain of {sliver} is being changed by somebody else"
        ))
    })
}

/// QEMU refuses, or does not answer.
pub(crate) fn disobeyed(sliver: &SliverId, error: &QmpError) -> PortError {
    PortError::later(format!(
        "QEMU of {sliver} does not do as it is told: {}",
        chain(error)
    ))
}

/// A failure of the system that may pass.
pub(crate) fn io_failed(what: &str, error: &io::Error) -> PortError {
    PortError::later(format!("cannot {what}: {error}"))
}
