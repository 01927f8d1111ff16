//! The driver itself: observe, boot, shut down.
//!
//! # What is believed
//! A domain *is there* if the process table has a QEMU of our user that was given our run directory and the UUID of
//! the record in it. What it *does* is asked over QMP, and believed only from that very process and with that very
//! UUID. A domain that is there and does not answer is reported as running: its memory, its ports and its right to
//! its writable layer are taken, and everything that follows from "running" is safe. Where process and record
//! contradict each other the whole observation fails, since then nobody can say what may be started.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use xeno_model::id::{Digest, DomainUuid, SliverId, Timestamp};
use xeno_model::observed::{Ability, Domains, Limits, ObservedDomain, ObservedImage};
use xeno_reconciler::ports::{
    DomainSpec, DriverFact, Grace, Hypervisor, PortError, PortResult, Soundness, Tuning,
};

use crate::accel::{self, Accel, AccelChoice, Verdict};
use crate::cgroup::CpuGroups;
use crate::config::{ConfigError, QemuConfig};
use crate::domain::{Domain, RunState, io_failed, lock};
use crate::facts::{Fact, FactStatus};
use crate::images::{Found, Images};
use crate::inventory::{find, take_inventory};
use crate::moves::{Moves, at_home, look_at};
use crate::process::QemuProcess;
use crate::run_dir::RunDir;
use crate::spec::{self, Begin};
use crate::start::{Launch, record};
use crate::{blocking, chain, changing};

/// Runs domains as QEMU processes of this user.
#[derive(Debug)]
pub struct QemuDriver {
    config: QemuConfig,
    state_dir: PathBuf,
    images: Images,
    cpu: Result<CpuGroups, String>,
    /// Held while an accelerator is probed, so that it is done once.
    probing: Mutex<()>,
    /// Domains that were there and did not answer when they were last looked at.
    silent: std::sync::Mutex<BTreeSet<SliverId>>,
    moves: Moves,
}

impl QemuDriver {
    /// Makes the state directory ready. QEMU itself is not looked for yet: a node without it can still observe.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: QemuConfig) -> Result<Self, ConfigError> {
        let state_dir = config.prepare()?;
        let images = Images::new(config.images_dir.clone());
        let cpu = CpuGroups::find(config.cgroup.as_deref());
        Ok(Self {
            config,
            images,
            cpu,
            state_dir,
            probing: Mutex::new(()),
            silent: std::sync::Mutex::default(),
            moves: Moves::default(),
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

    pub(crate) fn run_dir(&self, sliver: &SliverId) -> RunDir {
        RunDir::of(&self.state_dir, sliver)
    }

    pub(crate) fn moves(&self) -> &Moves {
        &self.moves
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// The control group in which domains get their shares, or why there is none.
    pub(crate) fn cpu(&self) -> Result<&CpuGroups, &str> {
        self.cpu.as_ref().map_err(String::as_str)
    }

    /// Removes the control group of a domain that is gone.
    pub(crate) async fn ungroup(&self, sliver: &SliverId) {
        if let Ok(groups) = self.cpu() {
            let (groups, label) = (groups.clone(), sliver.label());
            blocking(move || groups.remove(&label)).await;
        }
    }

    /// Domains that did not answer when they were last looked at.
    pub(crate) fn silent_ones(&self) -> BTreeSet<SliverId> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this driver can do here beside starting and stopping.
    fn able(&self) -> BTreeSet<Ability> {
        let always = [Ability::Memory, Ability::Ports, Ability::Suspend, Ability::Move];
        let cpu = [Ability::CpuWeight, Ability::CpuCap];
        let cpu = cpu.into_iter().filter(|_| self.cpu.is_ok());
        always.into_iter().chain(cpu).collect()
    }

    pub(crate) fn qemu(&self) -> PortResult<PathBuf> {
        let missing = || "QEMU was not found: install the package qemu-system-x86, or say where it is";
        self.config.find_qemu().ok_or_else(|| PortError::never(missing()))
    }

    /// QEMU's arguments for a domain. What cannot be said safely is refused.
    pub(crate) fn arguments(
        &self,
        spec: &DomainSpec,
        dir: &RunDir,
        accel: Accel,
        begin: Begin<'_>,
    ) -> PortResult<Vec<String>> {
        spec::arguments(spec, dir, accel, &self.config.xeno_binary, begin)
            .map_err(|error| PortError::never(format!("cannot start {}: {}", spec.sliver, chain(&error))))
    }
}

/// The limits that the kernel keeps for a domain.
fn limits_of(cpu: &Result<CpuGroups, String>, domain: &Domain) -> Limits {
    let record = &domain.record;
    let groups = cpu.as_ref().ok();
    let share = groups.and_then(|groups| groups.look(&record.sliver.label(), domain.process.pid, record.cpu));
    share.map_or_else(Limits::default, |share| Limits {
        cpu_weight: share.weight,
        cpu_cap_percent: share.cap_percent,
        net_rate: None,
    })
}

/// An image as the reconciler sees it. One that is of no use is shown as one of nothing, sealed for nothing, so that a
/// person decides what becomes of it.
fn observed_image(found: Found) -> (SliverId, ObservedImage) {
    let image = match found.image {
        Ok(image) => ObservedImage {
            uuid: image.uuid,
            boot: image.boot,
            memory_mib: image.memory_mib,
            memory_max_mib: image.memory_max_mib,
            publish: image.publish,
            mark: image.mark,
            bytes: image.bytes,
            at: image.at,
        },
        Err(error) => {
            tracing::warn!(sliver = %found.sliver, error = chain(&error), "an image is of no use");
            ObservedImage {
                uuid: DomainUuid([0; 16]),
                boot: Digest([0; 32]),
                memory_mib: 0,
                memory_max_mib: 0,
                publish: Vec::new(),
                mark: None,
                bytes: 0,
                at: Timestamp(0),
            }
        }
    };
    (found.sliver, image)
}

impl Hypervisor for QemuDriver {
    async fn observe(&self) -> PortResult<Domains> {
        let (state_dir, images, cpu) = (self.state_dir.clone(), self.images.clone(), self.cpu.clone());
        let look = move || {
            let inventory = take_inventory(&state_dir)?;
            let limits: Vec<Limits> = inventory
                .ours
                .iter()
                .map(|domain| limits_of(&cpu, domain))
                .collect();
            let images = images
                .look()
                .map_err(|error| io_failed("list the images", &error))?;
            Ok::<_, PortError>((inventory, limits, images))
        };
        let (inventory, limits, images) = blocking(look).await?;
        let mut domains = Domains {
            images: images.into_iter().map(observed_image).collect(),
            able: self.able(),
            strangers: inventory.strangers.iter().map(QemuProcess::stranger).collect(),
            ..Domains::default()
        };
        domains.strangers.sort();
        let mut asked = JoinSet::new();
        for (domain, limits) in inventory.ours.into_iter().zip(limits) {
            let moves = self.moves.clone();
            asked.spawn(async move { (limits, look_at(&moves, domain).await) });
        }
        let mut silent = BTreeSet::new();
        while let Some(answer) = asked.join_next().await {
            let (limits, seen) =
                answer.map_err(|error| PortError::later(format!("a question failed: {error}")))?;
            // `None`: it ended while it was asked.
            let Some((Domain { record, .. }, seen)) = seen? else {
                continue;
            };
            if seen.silent {
                silent.insert(record.sliver.clone());
            }
            let observed = ObservedDomain {
                uuid: record.uuid,
                state: seen.state,
                booted: record.boot,
                memory_mib: record.memory_mib,
                memory_max_mib: record.memory_max_mib,
                vcpus: record.vcpus,
                limits,
                publish: record.publish,
            };
            domains.ours.insert(record.sliver, observed);
        }
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = silent;
        Ok(domains)
    }

    async fn boot(&self, spec: &DomainSpec) -> PortResult<()> {
        let dir = self.run_dir(&spec.sliver);
        let lock = lock(&dir, &spec.sliver).await?;
        if let Some(domain) = find(&dir, &spec.sliver).await? {
            return already_there(spec, &domain).await;
        }
        if self.stored(&spec.sliver).await?.is_some() {
            // After a boot the disk is another one: the image would be of no use any more.
            return Err(PortError::never(format!(
                "{} has an image: resume it, or discard it first",
                spec.sliver
            )));
        }
        // Everything that can be refused is refused before the accelerator is tried and the old logs are moved.
        self.qemu()?;
        self.arguments(spec, &dir, Accel::Tcg, Begin::Boot)?;
        self.check_files(spec)?;
        let verdict = self.accel(&spec.kernel).await?;
        self.on_images(
            &lock,
            &spec.sliver,
            "clean the directory of images",
            Images::clean,
        )
        .await?;
        tracing::debug!(sliver = %spec.sliver, accel = %verdict.accel, why = verdict.why, "starting QEMU");
        let launch = Launch {
            spec,
            record: record(spec, verdict.accel),
            dir: &dir,
            begin: Begin::Boot,
        };
        let domain = self.start(&lock, launch).await?;
        self.after_start(&lock, spec, &domain).await
    }

    async fn shutdown(&self, sliver: &SliverId, grace: Grace) -> PortResult<()> {
        let dir = self.run_dir(sliver);
        if !dir.path().exists() {
            return Ok(());
        }
        let lock = lock(&dir, sliver).await?;
        if let Some(domain) = find(&dir, sliver).await? {
            domain.end(Duration::from_millis(grace.ms)).await?;
        }
        self.ungroup(sliver).await;
        self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
            .await?;
        changing(&lock, move || dir.remove_traces())
            .await
            .map_err(|error| io_failed("clean the run directory", &error))
    }

    async fn unpublish(&self, sliver: &SliverId) -> PortResult<()> {
        self.take_ports(sliver).await
    }

    async fn publish(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        QemuDriver::retune(self, sliver, tuning).await
    }

    async fn retune(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        Self::retune(self, sliver, tuning).await
    }

    async fn suspend(&self, sliver: &SliverId) -> PortResult<()> {
        Self::suspend(self, sliver).await
    }

    async fn seal_image(&self, sliver: &SliverId, mark: &Digest) -> PortResult<()> {
        Self::seal_image(self, sliver, mark).await
    }

    async fn resume(&self, spec: &DomainSpec) -> PortResult<()> {
        Self::resume(self, spec).await
    }

    async fn discard_image(&self, sliver: &SliverId) -> PortResult<()> {
        Self::discard_image(self, sliver).await
    }

    async fn unpause(&self, sliver: &SliverId) -> PortResult<()> {
        Self::unpause(self, sliver).await
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

/// The answer to a boot of something that is already there.
async fn already_there(spec: &DomainSpec, domain: &Domain) -> PortResult<()> {
    at_home(domain)?;
    let (sliver, record) = (&spec.sliver, &domain.record);
    if record.boot != spec.boot || record.uuid != spec.uuid {
        let (is, wanted) = (record.boot.short(), spec.boot.short());
        return Err(PortError::never(format!(
            "{sliver} runs already, as {is} and not as {wanted}: shut it down first"
        )));
    }
    match domain.state().await? {
        Some(
            RunState::Running
            | RunState::Silent
            | RunState::Paused
            | RunState::Incoming
            | RunState::Outgone
            | RunState::Finishing,
        ) => Ok(()),
        Some(RunState::Crashed) => Err(PortError::never(format!(
            "{sliver} has crashed and is still there: shut it down first"
        ))),
        Some(RunState::Stopping) | None => Err(PortError::later(format!("{sliver} is just ending"))),
    }
}

/// The time, as it is stored.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
