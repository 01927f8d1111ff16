//! The driver itself: observe, boot, shut down.
//!
//! # What is believed
//! A domain *is there* if the process table has a QEMU of our user that was given our run directory and the UUID of
//! the record in it. What it *does* is asked over QMP, and believed only from that very process and with that very
//! UUID. A domain that is there and does not answer is reported as running: its memory, its ports and its right to
//! its writable layer are taken, and everything that follows from "running" is safe. Where process and record
//! contradict each other the whole observation fails, since then nobody can say what may be started.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use xeno_model::id::{Digest, SliverId, Timestamp};
use xeno_model::observed::{DomainState, Domains, Limits, ObservedDomain};
use xeno_reconciler::ports::{
    DomainSpec, DriverFact, Grace, Hypervisor, PortError, PortResult, Soundness, Tuning,
};

use crate::accel::{self, Accel, AccelChoice, Verdict};
use crate::config::{ConfigError, QemuConfig};
use crate::facts::{Fact, FactStatus};
use crate::process::{self, Held, QemuProcess};
use crate::qmp::{Qmp, QmpError};
use crate::run_dir::{Record, RunDir, RunDirLock};
use crate::spawn::{Spawned, spawn};
use crate::spec;
use crate::{blocking, chain};

/// How long QEMU may take for one answer. It answers within a millisecond unless the node is starved.
const QMP_LIMIT: Duration = Duration::from_secs(3);
/// How long a started QEMU may take until it answers; a tenth of a second, or some on a starved node.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a started QEMU is looked at. Not before it listens is there anything to wait on.
const START_STEP: Duration = Duration::from_millis(20);
/// How often the power button is pressed: a guest that is still booting does not notice the first time.
const BUTTON_EVERY: Duration = Duration::from_secs(5);
/// How long QEMU may take to end once it is told to, and the kernel once it is killed.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Run directories that are looked at; far more than a node has memory for.
const RUN_DIRS_MAX: usize = 10_000;

/// Runs domains as QEMU processes of this user.
#[derive(Debug)]
pub struct QemuDriver {
    config: QemuConfig,
    state_dir: PathBuf,
    /// Held while an accelerator is probed, so that it is done once.
    probing: Mutex<()>,
}

/// What the process table and the records say, before anybody is asked.
#[derive(Debug, Default)]
struct Inventory {
    ours: Vec<(RunDir, Record, QemuProcess)>,
    strangers: Vec<QemuProcess>,
}

/// What became of a search for one domain.
type Found = Option<(Record, QemuProcess)>;

impl QemuDriver {
    /// Makes the state directory ready. QEMU itself is not looked for yet: a node without it can still observe.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: QemuConfig) -> Result<Self, ConfigError> {
        let state_dir = config.prepare()?;
        Ok(Self {
            config,
            state_dir,
            probing: Mutex::new(()),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &QemuConfig {
        &self.config
    }

    /// The state directory, as its final path.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What guests with this kernel run on, and why. The first call may take [`accel::PROBE_LIMIT`].
    ///
    /// # Errors
    /// If QEMU is missing or the kernel cannot be read.
    pub async fn accel(&self, kernel: &Path) -> PortResult<Verdict> {
        if let AccelChoice::Always(accel) = self.config.accel {
            return Ok(Verdict {
                accel,
                why: "the configuration says so".into(),
            });
        }
        let qemu = self.qemu()?;
        let _one = self.probing.lock().await;
        accel::find_out(&self.state_dir, &qemu, kernel)
            .await
            .map_err(|error| PortError::later(chain(&error)))
    }

    /// Removes what is left of a sliver's domain: logs and directory. Success if there is nothing.
    ///
    /// # Errors
    /// If the domain is still there, is being changed, or the file system fails.
    pub async fn forget(&self, sliver: &SliverId) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        if !dir.path().exists() {
            return Ok(());
        }
        let _lock = lock(&dir, sliver).await?;
        if find(&dir, sliver).await?.is_some() {
            return Err(PortError::never(format!("the domain of {sliver} still runs")));
        }
        blocking(move || fs::remove_dir_all(dir.path()))
            .await
            .map_err(|error| io_failed("remove the run directory", &error))
    }

    fn run_dir(&self, sliver: &SliverId) -> RunDir {
        RunDir::of(&self.state_dir, sliver)
    }

    fn qemu(&self) -> PortResult<PathBuf> {
        let missing = || "QEMU was not found: install the package qemu-system-x86, or say where it is";
        self.config.find_qemu().ok_or_else(|| PortError::never(missing()))
    }

    /// Starts QEMU and waits until it says that it runs this domain.
    async fn start(&self, spec: &DomainSpec, dir: &RunDir, qemu: &Path, args: &[String]) -> PortResult<()> {
        let record = Record {
            sliver: spec.sliver.clone(),
            uuid: spec.uuid,
            boot: spec.boot,
            memory_mib: spec.memory_mib,
            vcpus: spec.vcpus,
            publish: spec.publish.clone(),
            started: now(),
        };
        let prepared = dir.clone();
        blocking(move || {
            prepared
                .clear()
                .map_err(|error| io_failed("prepare the run directory", &error))?;
            // Before the process: a process without a record could not be told from somebody else's.
            prepared
                .write_record(&record)
                .map_err(|error| PortError::later(chain(&error)))
        })
        .await?;
        let mut spawned =
            spawn(qemu, args, &dir.qemu_log()).map_err(|error| io_failed("start QEMU", &error))?;
        let uuid = spec.uuid.to_string();
        let answers = answers(dir, &uuid, spawned.pid);
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
            blocking(move || dir.remove_traces())
                .await
                .map_err(|error| io_failed("clean the run directory", &error))?;
        }
        outcome
    }
}

fn not_built(what: &str) -> PortError {
    PortError::never(format!("{what} is not built yet for QEMU"))
}

impl Hypervisor for QemuDriver {
    async fn observe(&self) -> PortResult<Domains> {
        let state_dir = self.state_dir.clone();
        let inventory = blocking(move || take_inventory(&state_dir)).await?;
        let mut domains = Domains {
            strangers: inventory.strangers.iter().map(QemuProcess::stranger).collect(),
            ..Domains::default()
        };
        domains.strangers.sort();
        let mut asked = JoinSet::new();
        for (dir, record, process) in inventory.ours {
            asked.spawn(async move {
                let state = state_of(&dir, &record, &process).await;
                (record, state)
            });
        }
        while let Some(answer) = asked.join_next().await {
            let (record, state) =
                answer.map_err(|error| PortError::later(format!("a question failed: {error}")))?;
            // `None`: it ended while it was asked.
            let Some(state) = state? else { continue };
            let observed = ObservedDomain {
                uuid: record.uuid,
                state,
                booted: record.boot,
                memory_mib: record.memory_mib,
                memory_max_mib: record.memory_mib,
                limits: Limits::default(),
                vcpus: record.vcpus,
                publish: record.publish,
            };
            domains.ours.insert(record.sliver, observed);
        }
        Ok(domains)
    }

    async fn boot(&self, spec: &DomainSpec) -> PortResult<()> {
        let dir = self.run_dir(&spec.sliver);
        let _lock = lock(&dir, &spec.sliver).await?;
        if let Some((record, process)) = find(&dir, &spec.sliver).await? {
            return already_there(spec, &dir, &record, &process).await;
        }
        let qemu = self.qemu()?;
        // Everything that can be refused is refused before the accelerator is tried and the old logs are moved.
        let arguments = |accel| {
            spec::arguments(spec, &dir, accel, &self.config.xeno_binary)
                .map_err(|error| PortError::never(format!("cannot boot {}: {}", spec.sliver, chain(&error))))
        };
        arguments(Accel::Tcg)?;
        self.check_files(spec)?;
        let verdict = self.accel(&spec.kernel).await?;
        let args = arguments(verdict.accel)?;
        tracing::debug!(sliver = %spec.sliver, accel = %verdict.accel, why = verdict.why, "starting QEMU");
        self.start(spec, &dir, &qemu, &args).await
    }

    async fn shutdown(&self, sliver: &SliverId, grace: Grace) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        if !dir.path().exists() {
            return Ok(());
        }
        let _lock = lock(&dir, sliver).await?;
        if let Some((record, process)) = find(&dir, sliver).await?
            && let Some(held) = take(&process)?
        {
            let ending = Ending {
                dir: &dir,
                record: &record,
                process: &process,
                held: &held,
            };
            ending.run(Duration::from_millis(grace.ms)).await?;
        }
        blocking(move || dir.remove_traces())
            .await
            .map_err(|error| io_failed("clean the run directory", &error))
    }

    async fn retune(&self, _: &SliverId, _: &Tuning) -> PortResult<()> {
        Err(not_built("changing a domain while it runs"))
    }

    async fn suspend(&self, _: &SliverId) -> PortResult<()> {
        Err(not_built("storing the memory of a domain"))
    }

    async fn seal_image(&self, _: &SliverId, _: &Digest) -> PortResult<()> {
        Err(not_built("sealing an image"))
    }

    async fn resume(&self, _: &DomainSpec) -> PortResult<()> {
        Err(not_built("resuming from an image"))
    }

    async fn discard_image(&self, _: &SliverId) -> PortResult<()> {
        // None was ever made.
        Ok(())
    }

    async fn unpause(&self, _: &SliverId) -> PortResult<()> {
        Err(not_built("letting a paused domain go on"))
    }

    fn console_log(&self, sliver: &SliverId) -> PathBuf {
        self.run_dir(sliver).console_log()
    }

    fn console_socket(&self, sliver: &SliverId) -> PathBuf {
        self.run_dir(sliver).console_socket()
    }

    async fn facts(&self) -> Vec<DriverFact> {
        let said = |fact: Fact| DriverFact {
            what: fact.name,
            soundness: match fact.status {
                FactStatus::Good => Soundness::Good,
                FactStatus::Limited => Soundness::Fair,
                FactStatus::Missing => Soundness::Bad,
            },
            text: match fact.help {
                Some(help) => format!("{}\n{help}", fact.what),
                None => fact.what,
            },
        };
        let facts = Self::facts(self).await;
        facts.into_iter().map(said).collect()
    }
}

impl QemuDriver {
    /// Says what is missing in one sentence, where QEMU would say it in its log.
    fn check_files(&self, spec: &DomainSpec) -> PortResult<()> {
        let files = [
            ("the kernel", &spec.kernel),
            ("the initramfs", &spec.initramfs),
            ("the forwarding program", &self.config.xeno_binary),
        ];
        for (what, path) in files {
            fs::File::open(path).map_err(|error| {
                PortError::later(format!("cannot open {what} {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

/// One domain on its way out.
struct Ending<'a> {
    dir: &'a RunDir,
    record: &'a Record,
    process: &'a QemuProcess,
    held: &'a Held,
}

impl Ending<'_> {
    /// Asks the guest, then QEMU, then the kernel. Returns once the process is gone.
    async fn run(&self, grace: Duration) -> PortResult<()> {
        let sliver = &self.record.sliver;
        if self.ask(grace).await? {
            return Ok(());
        }
        tracing::info!(%sliver, "destroying the domain");
        if let Ok(mut qmp) = self.connect().await {
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
        let (pid, seconds) = (self.process.pid, END_LIMIT.as_secs());
        Err(PortError::later(format!(
            "QEMU of {sliver} (process {pid}) was killed and is still there after {seconds} s"
        )))
    }

    /// Presses the guest's power button, now and then, until it ends or its grace is over. `true`: it has ended.
    async fn ask(&self, grace: Duration) -> PortResult<bool> {
        let until = Instant::now() + grace;
        while Instant::now() < until {
            let pressed = async {
                let mut qmp = self.connect().await?;
                match domain_state(&qmp.status().await?) {
                    DomainState::Running | DomainState::Stopping => {}
                    // Nobody is there to notice.
                    DomainState::Paused | DomainState::Crashed => return Ok(false),
                }
                qmp.execute("system_powerdown").await.map(|_| true)
            };
            match pressed.await {
                Ok(true) => {}
                Ok(false) => return self.ended(Duration::ZERO).await,
                // It may be ending right now; if it only hangs, it cannot be asked again either.
                Err::<_, QmpError>(error) => {
                    tracing::info!(sliver = %self.record.sliver, error = chain(&error), "cannot ask the guest to stop");
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

    async fn connect(&self) -> Result<Qmp, QmpError> {
        let mut qmp = Qmp::connect(&self.dir.qmp(), QMP_LIMIT).await?;
        let peer = qmp.peer_pid();
        let uuid = qmp.uuid().await?;
        if peer != Some(self.process.pid) || uuid != self.record.uuid.to_string() {
            return Err(QmpError::Garbage("another process answers".into()));
        }
        Ok(qmp)
    }

    async fn ended(&self, limit: Duration) -> PortResult<bool> {
        self.held
            .ended(limit)
            .await
            .map_err(|error| io_failed("wait for QEMU", &error))
    }
}

/// The answer to a boot of something that is already there.
async fn already_there(
    spec: &DomainSpec,
    dir: &RunDir,
    record: &Record,
    process: &QemuProcess,
) -> PortResult<()> {
    let sliver = &spec.sliver;
    if record.boot != spec.boot || record.uuid != spec.uuid {
        let (is, wanted) = (record.boot.short(), spec.boot.short());
        return Err(PortError::never(format!(
            "{sliver} runs already, as {is} and not as {wanted}: shut it down first"
        )));
    }
    match state_of(dir, record, process).await? {
        Some(DomainState::Running | DomainState::Paused) => Ok(()),
        Some(DomainState::Crashed) => Err(PortError::never(format!(
            "{sliver} has crashed and is still there: shut it down first"
        ))),
        Some(DomainState::Stopping) | None => Err(PortError::later(format!("{sliver} is just ending"))),
    }
}

/// Waits until the started QEMU answers as the one it should be, and runs.
async fn answers(dir: &RunDir, uuid: &str, pid: u32) {
    loop {
        let asked = async {
            let mut qmp = Qmp::connect(&dir.qmp(), QMP_LIMIT).await?;
            let right = qmp.peer_pid() == Some(pid) && qmp.uuid().await? == uuid;
            Ok::<_, QmpError>(right && domain_state(&qmp.status().await?) == DomainState::Running)
        };
        if matches!(asked.await, Ok(true)) {
            return;
        }
        sleep(START_STEP).await;
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
    let Some(held) = take(&process)? else {
        return Ok(());
    };
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

/// What a domain does. `None`: it has ended meanwhile. An error: it is not the one in the record.
async fn state_of(dir: &RunDir, record: &Record, process: &QemuProcess) -> PortResult<Option<DomainState>> {
    let answer = async {
        let mut qmp = Qmp::connect(&dir.qmp(), QMP_LIMIT).await?;
        let peer = qmp.peer_pid();
        Ok::<_, QmpError>((peer, qmp.uuid().await?, qmp.status().await?))
    };
    match answer.await {
        Ok((peer, uuid, status)) if peer == Some(process.pid) && uuid == record.uuid.to_string() => {
            Ok(Some(domain_state(&status)))
        }
        Ok((peer, uuid, _)) => Err(PortError::never(format!(
            "the control socket of {} is answered by process {} with UUID {uuid}, not by process {} with UUID {}",
            record.sliver,
            peer.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
            process.pid,
            record.uuid,
        ))),
        Err(error) => {
            let still = QemuProcess::look(process.pid).map_err(|error| io_failed("look at QEMU", &error))?;
            if still.as_ref() != Some(process) {
                return Ok(None);
            }
            tracing::warn!(sliver = %record.sliver, error = chain(&error), "QEMU is there but does not answer");
            Ok(Some(DomainState::Running))
        }
    }
}

/// QEMU's `RunState` (`qapi/run-state.json`) in our words.
fn domain_state(status: &str) -> DomainState {
    match status {
        "running" => DomainState::Running,
        "shutdown" => DomainState::Stopping,
        "internal-error" | "io-error" | "guest-panicked" => DomainState::Crashed,
        // prelaunch, paused, suspended, inmigrate, postmigrate and so on: exists, does not run, can go on.
        _ => DomainState::Paused,
    }
}

/// Looks at all QEMU processes and all records.
fn take_inventory(state_dir: &Path) -> PortResult<Inventory> {
    // Processes first: a record is written before its process starts and removed after it has ended, so a process
    // seen here has its record, or ends meanwhile.
    let processes = scan()?;
    let mut inventory = Inventory::default();
    let mut by_dir: BTreeMap<PathBuf, Vec<QemuProcess>> = BTreeMap::new();
    for process in processes {
        match owned_dir(&process, state_dir) {
            Some(dir) => by_dir.entry(dir).or_default().push(process),
            None => inventory.strangers.push(process),
        }
    }
    let no_dir = |error: io::Error| io_failed("list the state directory", &error);
    for (count, entry) in fs::read_dir(state_dir).map_err(no_dir)?.enumerate() {
        if count >= RUN_DIRS_MAX {
            return Err(PortError::never("the state directory holds too many entries"));
        }
        let path = entry.map_err(no_dir)?.path();
        if !path.is_dir() {
            continue;
        }
        let dir = RunDir::at(path);
        let running = by_dir.remove(dir.path()).unwrap_or_default();
        if let Some((record, process)) = settle(&dir, running)? {
            if let Err(error) = dir.trim_logs() {
                tracing::warn!(sliver = %record.sliver, %error, "cannot cut the logs");
            }
            inventory.ours.push((dir, record, process));
        }
    }
    for (path, running) in by_dir {
        settle(&RunDir::at(path), running)?;
    }
    Ok(inventory)
}

/// The run directory of ours that a process lives in, if it does.
fn owned_dir(process: &QemuProcess, state_dir: &Path) -> Option<PathBuf> {
    let dir = process.run_dir().filter(|dir| dir.parent() == Some(state_dir))?;
    let owner = rustix::fs::stat(state_dir).ok()?.st_uid;
    (process.uid == owner).then(|| dir.to_owned())
}

/// Decides which of the processes that name a run directory is the domain of its record.
fn settle(dir: &RunDir, running: Vec<QemuProcess>) -> PortResult<Found> {
    if running.is_empty() {
        return Ok(None);
    }
    let record = match dir.record() {
        Ok(Some(record)) => record,
        unusable => {
            // Between the two looks it may have ended and been cleaned away.
            let gone = |process: &&QemuProcess| matches!(QemuProcess::look(process.pid), Ok(now) if now.as_ref() != Some(*process));
            let Some(process) = running.iter().find(|process| !gone(process)) else {
                return Ok(None);
            };
            let why = match unusable {
                Err(error) => chain(&error),
                Ok(_) => format!("{} is missing", dir.record_path().display()),
            };
            return Err(PortError::never(format!(
                "QEMU process {} is ours, but its record is of no use: {why}",
                process.pid
            )));
        }
    };
    let uuid = record.uuid.to_string();
    if let Some(other) = running
        .iter()
        .find(|process| process.uuid() != Some(uuid.as_str()))
    {
        return Err(PortError::never(format!(
            "QEMU process {} in {} has UUID {}, its record says {uuid}",
            other.pid,
            dir.path().display(),
            other.uuid().unwrap_or("none"),
        )));
    }
    // While QEMU starts a child, the child looks like QEMU for a moment; the pid file names the real one.
    let named = fs::read_to_string(dir.pid())
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    let domain = running.iter().find(|process| Some(process.pid) == named);
    let domain = domain.or_else(|| running.first()).cloned();
    Ok(domain.map(|process| (record, process)))
}

/// Looks for the domain of one sliver.
async fn find(dir: &RunDir, sliver: &SliverId) -> PortResult<Found> {
    let (dir, sliver) = (dir.clone(), sliver.clone());
    blocking(move || {
        let state_dir = dir.path().parent().unwrap_or(dir.path());
        let mut running = scan()?;
        running.retain(|process| owned_dir(process, state_dir).as_deref() == Some(dir.path()));
        let found = settle(&dir, running)?;
        if let Some((record, _)) = &found
            && record.sliver != sliver
        {
            let (path, other) = (dir.path().display(), &record.sliver);
            return Err(PortError::never(format!(
                "{path} is in use by {other}, not by {sliver}"
            )));
        }
        Ok(found)
    })
    .await
}

fn scan() -> PortResult<Vec<QemuProcess>> {
    process::scan().map_err(|error| io_failed("read the process table", &error))
}

fn take(process: &QemuProcess) -> PortResult<Option<Held>> {
    Held::take(process).map_err(|error| io_failed("hold the QEMU process", &error))
}

async fn lock(dir: &RunDir, sliver: &SliverId) -> PortResult<RunDirLock> {
    let dir = dir.clone();
    let lock = blocking(move || dir.lock()).await;
    let lock = lock.map_err(|error| io_failed("lock the run directory", &error))?;
    lock.ok_or_else(|| {
        PortError::later(format!(
            "the domain of {sliver} is being changed by somebody else"
        ))
    })
}

fn io_failed(what: &str, error: &io::Error) -> PortError {
    PortError::later(format!("cannot {what}: {error}"))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
