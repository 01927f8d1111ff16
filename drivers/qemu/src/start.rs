//! A domain's QEMU, started and asked whether it is the one that it should be.

use std::fs;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use xeno_kept::lock::Lock;
use xeno_model::id::SliverId;
use xeno_reconciler::ports::{DomainSpec, PortError, PortResult};

use crate::accel::Accel;
use crate::domain::{Domain, END_LIMIT, QMP_LIMIT, RunState, SOON_STEP, io_failed, run_state};
use crate::driver::{QemuDriver, now};
use crate::inventory::find;
use crate::process::{Held, QemuProcess};
use crate::qmp::{Qmp, QmpError};
use crate::record::Record;
use crate::run_dir::{Logs, RunDir};
use crate::spawn::{Spawned, spawn};
use crate::spec::Begin;
use crate::{chain, changing};

/// How long a started QEMU may take until it answers; a tenth of a second, or some on a starved node.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A domain that is about to be started.
pub(crate) struct Launch<'a> {
    pub(crate) spec: &'a DomainSpec,
    /// What is noted of it.
    pub(crate) record: Record,
    pub(crate) dir: &'a RunDir,
    pub(crate) begin: Begin<'a>,
}

impl QemuDriver {
    /// Starts QEMU and waits until it says that it is this domain, in the state it should begin with.
    pub(crate) async fn start(&self, lock: &Lock, launch: Launch<'_>) -> PortResult<Domain> {
        let Launch {
            spec,
            record,
            dir,
            begin,
        } = launch;
        let (first, logs) = match begin {
            Begin::Boot => (RunState::Running, Logs::New),
            Begin::Image { .. } => (RunState::Incoming, Logs::Kept),
            Begin::Copy { .. } => (RunState::Incoming, Logs::New),
        };
        let qemu = self.qemu()?;
        let args = self.arguments(spec, dir, record.accel.unwrap_or(Accel::Tcg), begin)?;
        let prepared = dir.clone();
        changing(lock, move || {
            prepared
                .clear(logs)
                .map_err(|error| io_failed("prepare the run directory", &error))?;
            // Before the process: a process without a record could not be told from somebody else's.
            prepared
                .write_record(&record)
                .map_err(|error| PortError::later(chain(&error)))
        })
        .await?;
        let mut spawned =
            spawn(&qemu, &args, &dir.qemu_log()).map_err(|error| io_failed("start QEMU", &error))?;
        let uuid = spec.uuid.to_string();
        let answers = answers(dir, &uuid, spawned.pid, first);
        let outcome = tokio::select! {
            status = spawned.exited() => {
                let status = status.map_or_else(|| "an unknown status".to_owned(), |status| status.to_string());
                Err(start_failure(spec, &status, &dir.qemu_log_tail()))
            }
            answered = timeout(START_LIMIT, answers) => answered.map_err(|_| {
                let seconds = START_LIMIT.as_secs();
                PortError::later(format!("QEMU for {} did not answer within {seconds} s", spec.sliver))
            }),
        };
        if outcome.is_err() {
            end_spawned(&mut spawned, dir, &spec.sliver).await?;
            let dir = dir.clone();
            changing(lock, move || dir.remove_traces())
                .await
                .map_err(|error| io_failed("clean the run directory", &error))?;
        }
        outcome?;
        let ended = || {
            PortError::later(format!(
                "QEMU for {} ended at once: {}",
                spec.sliver,
                dir.qemu_log_tail()
            ))
        };
        find(dir, &spec.sliver).await?.ok_or_else(ended)
    }

    /// Says what is missing in one sentence, where QEMU would say it in its log.
    pub(crate) fn check_files(&self, spec: &DomainSpec) -> PortResult<()> {
        let files = [
            ("the kernel", &spec.kernel),
            ("the initramfs", &spec.initramfs),
            ("the forwarding program", &self.config().xeno_binary),
        ];
        for (what, path) in files {
            fs::File::open(path).map_err(|error| {
                PortError::later(format!("cannot open {what} {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

/// What is noted of a domain that is about to be started.
pub(crate) fn record(spec: &DomainSpec, accel: Accel) -> Record {
    Record {
        sliver: spec.sliver.clone(),
        uuid: spec.uuid,
        boot: spec.boot,
        // What it has until its balloon is told otherwise.
        memory_mib: spec.memory_max_mib,
        memory_max_mib: spec.memory_max_mib,
        vcpus: spec.vcpus,
        publish: spec.publish.clone(),
        cpu: None,
        accel: Some(accel),
        started: now(),
        moving: None,
    }
}

/// Waits until the started QEMU answers as the one it should be, in the state it begins with.
async fn answers(dir: &RunDir, uuid: &str, pid: u32, first: RunState) {
    loop {
        let asked = async {
            let mut qmp = Qmp::connect(&dir.qmp(), QMP_LIMIT).await?;
            let right = qmp.peer_pid() == Some(pid) && qmp.uuid().await? == uuid;
            Ok::<_, QmpError>(right && run_state(&mut qmp).await? == first)
        };
        if matches!(asked.await, Ok(true)) {
            return;
        }
        sleep(SOON_STEP).await;
    }
}

/// Turns QEMU's last words into an error that says whether trying again can help.
fn start_failure(spec: &DomainSpec, status: &str, log: &str) -> PortError {
    let taken = spec.publish.iter().find(|port| {
        log.contains(&format!(
            "Could not set up host forwarding rule 'tcp:127.0.0.1:{}-",
            port.host
        ))
    });
    if let Some(port) = taken {
        return PortError::later(format!(
            "port {} of this node is in use by another program",
            port.host
        ));
    }
    let log = if log.is_empty() { "it said nothing" } else { log };
    PortError::later(format!("QEMU ended at once with {status}: {log}"))
}

/// Ends a QEMU that was just started and is of no use.
async fn end_spawned(spawned: &mut Spawned, dir: &RunDir, sliver: &SliverId) -> PortResult<()> {
    let process = QemuProcess::look(spawned.pid).map_err(|error| io_failed("look at QEMU", &error))?;
    let Some(process) = process.filter(|process| process.run_dir() == Some(dir.path())) else {
        return Ok(());
    };
    let held = Held::take(&process).map_err(|error| io_failed("hold the QEMU process", &error))?;
    let Some(held) = held else { return Ok(()) };
    held.kill().map_err(|error| io_failed("kill QEMU", &error))?;
    let ended = held
        .ended(END_LIMIT)
        .await
        .map_err(|error| io_failed("wait for QEMU", &error))?;
    if ended {
        return Ok(());
    }
    Err(PortError::later(format!(
        "QEMU of {sliver} did not start and does not end"
    )))
}
