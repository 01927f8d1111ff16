//! The driver itself: observe, boot, shut down.
//!
//! # What is believed
//! Which domains there are is the hypervisor's word, by `xl list`. What one of ours was started as is in its record in
//! xenstore, which is made before the domain and says how far its making has come. So whoever dies when, the next look
//! can tell a whole domain from one that must be taken away, and a listing that could not be had is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::OnceCell;
use xeno_kept::lock::Lock;
use xeno_model::id::{Digest, DomainUuid, SliverId, Timestamp};
use xeno_model::observed::{Ability, Domains, ObservedDomain, ObservedImage};
use xeno_reconciler::ports::{DomainSpec, DriverFact, Grace, Hypervisor, PortError, PortResult, Tuning};

use crate::config::{ConfigError, GuestKind, XenConfig};
use crate::console::{self, Consoles, Whose};
use crate::domain::{Domain, RunState};
use crate::images::{Found, Images};
use crate::inventory::Inventory;
use crate::list::NodeInfo;
use crate::moves::{Moves, at_home};
use crate::publish::Publisher;
use crate::record::{DOMAINS, Phase, Record, path_of};
use crate::run_dir::RunDir;
use crate::spec;
use crate::store::{Connection, StoreError, find_socket};
use crate::wire::ports_of;
use crate::xl::Xl;
use crate::{blocking, chain, changing, kernel, work};

/// How long building a domain may take; libxl waits up to 40 s for each hotplug script.
const CREATE_LIMIT: Duration = Duration::from_secs(300);

/// A pipe that an xl has as its input, by a name that it can open for reading or writing (proc(5)): not every dom0 has
/// `/dev/stdin`, and where it is missing xl makes a file of that name.
pub(crate) const STDIN: &str = "/proc/self/fd/0";

/// Runs domains on Xen.
#[derive(Debug)]
pub struct XenDriver {
    config: XenConfig,
    state_dir: PathBuf,
    xl: Xl,
    xenstored: PathBuf,
    images: Images,
    publisher: Publisher,
    consoles: Consoles,
    moves: Moves,
    /// Copies that have arrived and were not let run yet.
    arrived: Mutex<BTreeMap<SliverId, DomainUuid>>,
    /// What the hypervisor can do; it stays the same while it runs.
    node: OnceCell<NodeInfo>,
}

impl XenDriver {
    /// Makes the state directory ready. Xen itself is not looked for yet.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: XenConfig) -> Result<Self, ConfigError> {
        let state_dir = config.prepare()?;
        Ok(Self {
            xl: Xl::new(config.xl.clone()),
            xenstored: config.xenstored.clone().unwrap_or_else(find_socket),
            images: Images::new(config.images_dir.clone()),
            publisher: Publisher::new(config.nft.clone()),
            consoles: Consoles::default(),
            moves: Moves::default(),
            arrived: Mutex::default(),
            config,
            state_dir,
            node: OnceCell::new(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &XenConfig {
        &self.config
    }

    pub(crate) fn run_dir(&self, sliver: &SliverId) -> RunDir {
        RunDir::of(&self.state_dir, sliver)
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Moves that this driver drives.
    pub(crate) fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Copies that have arrived here.
    pub(crate) fn arrived(&self) -> MutexGuard<'_, BTreeMap<SliverId, DomainUuid>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn xl(&self) -> &Xl {
        &self.xl
    }

    pub(crate) fn xenstored(&self) -> &Path {
        &self.xenstored
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What our records say of whose they are.
    pub(crate) fn owner(&self) -> String {
        self.state_dir.display().to_string()
    }

    /// A connection to xenstore.
    pub(crate) async fn store(&self) -> PortResult<Connection> {
        Connection::open(&self.xenstored)
            .await
            .map_err(|error| store_failed(&error))
    }

    /// What `xl info` says, now.
    pub(crate) async fn info(&self) -> PortResult<NodeInfo> {
        let text = self.xl.ask(&["info"]).await;
        let text = text.map_err(|error| error.port("cannot ask about the node"))?;
        Ok(NodeInfo::read(&text))
    }

    /// What `xl info` said of what does not change.
    pub(crate) async fn node(&self) -> PortResult<&NodeInfo> {
        self.node.get_or_try_init(|| self.info()).await
    }

    /// The virtualisation of new guests.
    pub(crate) async fn kind(&self) -> PortResult<GuestKind> {
        if let Some(kind) = self.config.guest {
            return Ok(kind);
        }
        Ok(if self.node().await?.runs_pvh() {
            GuestKind::Pvh
        } else {
            GuestKind::Pv
        })
    }

    /// What this driver can do here beside starting and stopping.
    async fn able(&self) -> PortResult<BTreeSet<Ability>> {
        let always = [
            Ability::Vcpus,
            Ability::Memory,
            Ability::Ports,
            Ability::NetRate,
            Ability::Suspend,
            Ability::Move,
        ];
        let scheduler = self.node().await?.get("xen_scheduler").unwrap_or_default();
        let cpu = [Ability::CpuWeight, Ability::CpuCap];
        let cpu = cpu
            .into_iter()
            .filter(|_| crate::tuning::scheduler_verb(scheduler).is_some());
        Ok(always.into_iter().chain(cpu).collect())
    }

    /// Takes a sliver for one change. An xl that an earlier agent left at work is somebody else.
    pub(crate) async fn lock(&self, sliver: &SliverId) -> PortResult<Lock> {
        let lock = self.lock_at_work(sliver).await?;
        match self.at_work(sliver).await? {
            None => Ok(lock),
            Some(_) => Err(PortError::later(format!("an xl is still at work for {sliver}"))),
        }
    }

    pub(crate) async fn lock_at_work(&self, sliver: &SliverId) -> PortResult<Lock> {
        let dir = self.run_dir(sliver);
        let lock = blocking(move || dir.lock()).await;
        let lock = lock.map_err(|error| io_failed("lock the directory of a sliver", &error))?;
        lock.ok_or_else(|| {
            PortError::later(format!(
                "the domain of {sliver} is being changed by somebody else"
            ))
        })
    }

    pub(crate) async fn at_work(&self, sliver: &SliverId) -> PortResult<Option<work::AtWork>> {
        let places = self.places(sliver);
        blocking(move || work::look(&places))
            .await
            .map_err(|error| io_failed("look at what is at work", &error))
    }

    /// Ends what is at work for a sliver whose domain is to go anyway.
    async fn end_work(&self, sliver: &SliverId) -> PortResult<()> {
        if let Some(found) = self.at_work(sliver).await? {
            tracing::warn!(%sliver, "an xl was still at work for a domain that is to go, and is ended");
            blocking(move || found.kill())
                .await
                .map_err(|error| io_failed("end an xl", &error))?;
        }
        Ok(())
    }

    /// Writes the record of a domain.
    pub(crate) async fn remember(&self, record: &Record) -> PortResult<()> {
        let text = record.store().map_err(|error| {
            PortError::never(format!("{} cannot be recorded: {}", record.sliver, chain(&error)))
        })?;
        let mut store = self.store().await?;
        let written = store.write(&path_of(&record.uuid), &text).await;
        written.map_err(|error| store_failed(&error))
    }

    pub(crate) async fn forget(&self, uuid: &DomainUuid) -> PortResult<()> {
        let mut store = self.store().await?;
        store
            .remove(&path_of(uuid))
            .await
            .map_err(|error| store_failed(&error))
    }

    /// The configuration of a domain, with every refusal that a specification deserves.
    pub(crate) async fn configuration(
        &self,
        spec: &DomainSpec,
        kind: GuestKind,
        kernel: &Path,
    ) -> PortResult<String> {
        spec::render(spec, kind, kernel, &self.wire(&spec.uuid))
            .map_err(|error| PortError::never(format!("cannot start {}: {}", spec.sliver, chain(&error))))
    }

    /// Whether the node has so much memory left, with what dom0 keeps.
    pub(crate) async fn check_memory(
        &self,
        spec: &DomainSpec,
        memory_mib: u64,
        kind: GuestKind,
    ) -> PortResult<()> {
        let needs = memory_mib + overhead_mib(kind, spec.vcpus_max, spec.memory_max_mib);
        let Some(free) = self.info().await?.free_mib() else {
            // xl finds out.
            return Ok(());
        };
        if free >= needs {
            return Ok(());
        }
        let dom0 = self.rows().await?.into_iter().find(|listed| listed.domid == 0);
        // What xl may take from dom0, where it is set up to.
        let spare = dom0.map_or(0, |dom0| {
            dom0.memory_mib.saturating_sub(self.config.dom0_reserve_mib)
        });
        if free + spare >= needs {
            return Ok(());
        }
        Err(PortError::later(format!(
            "{} needs {needs} MiB, and the node has {free} MiB free beside what dom0 keeps",
            spec.sliver
        )))
    }

    /// Has xl build a domain that stands still, from its kernel or from an image. Whatever goes wrong, nothing of it is
    /// left.
    pub(crate) async fn build(&self, lock: &Lock, record: &Record, build: Build<'_>) -> PortResult<Domain> {
        let sliver = &record.sliver;
        let dir = self.run_dir(sliver);
        let (written, text) = (dir.clone(), build.config.to_owned());
        changing(lock, move || written.write_config(&text))
            .await
            .map_err(|error| io_failed("write the configuration of a domain", &error))?;
        self.describe_link(sliver, &record.uuid, build.addresses).await?;
        // Before the domain: one without a record could not be told from somebody else's.
        self.remember(record).await?;
        let config = dir.config().display().to_string();
        let (image, stdin, limit) = match build.memory {
            Memory::Fresh => (None, Stdio::null(), CREATE_LIMIT),
            Memory::Stored(image) => (Some(image.display().to_string()), Stdio::null(), CREATE_LIMIT),
            // How long it takes is up to whoever fills it.
            Memory::Comes(pipe) => (Some(STDIN.to_owned()), pipe.into(), Duration::MAX),
        };
        let args: Vec<&str> = match &image {
            None => vec!["create", "-q", "-p", &config],
            Some(image) => vec!["restore", "-p", &config, image],
        };
        let built = self.xl.change_fed(&args, stdin, &dir.log(), limit).await;
        let failed = match built {
            Ok(()) => match self.just_made(record).await? {
                Some(domain) => return Ok(domain),
                None => PortError::later(format!("{sliver} was started, and is gone already")),
            },
            Err(error @ crate::xl::XlError::Slow { .. }) => {
                // It is at work: whoever comes next finds it there.
                return Err(error.port(&format!("{sliver} is still being started")));
            }
            Err(error) => error.port(&format!("cannot start {sliver}")),
        };
        if let Some(domain) = self.spot(sliver).await? {
            self.end(&domain, Duration::ZERO).await?;
        }
        self.clean(lock, sliver, &record.uuid).await?;
        Err(failed)
    }

    /// Removes what a domain that is gone has left.
    pub(crate) async fn clean(&self, lock: &Lock, sliver: &SliverId, uuid: &DomainUuid) -> PortResult<()> {
        self.forget_link(sliver).await?;
        self.forget(uuid).await?;
        let dir = self.run_dir(sliver);
        changing(lock, move || dir.remove_traces())
            .await
            .map_err(|error| io_failed("clean the directory of a sliver", &error))
    }

    /// Takes away what domains of a sliver have left that are gone without our doing.
    pub(crate) async fn sweep(&self, lock: &Lock, sliver: &SliverId) -> PortResult<()> {
        for record in self.left_behind().await? {
            if record.sliver == *sliver {
                self.take_ports(&record).await?;
                self.clean(lock, sliver, &record.uuid).await?;
            }
        }
        Ok(())
    }

    /// The same of all slivers that nobody is changing: a port that one of them had may be wanted by another.
    async fn sweep_others(&self, but: &SliverId) -> PortResult<()> {
        for record in self.left_behind().await? {
            if record.sliver == *but {
                continue;
            }
            if let Ok(lock) = self.lock(&record.sliver).await {
                // Once more, now that nobody can be starting it.
                self.sweep(&lock, &record.sliver).await?;
            }
        }
        Ok(())
    }

    /// Records of ours whose domains are not there.
    async fn left_behind(&self) -> PortResult<Vec<Record>> {
        let mut store = self.store().await?;
        let names = store
            .directory(DOMAINS)
            .await
            .map_err(|error| store_failed(&error))?;
        let mut records = Vec::new();
        for uuid in names
            .into_iter()
            .flatten()
            .filter_map(|name| DomainUuid::parse(&name).ok())
        {
            let text = store
                .read(&path_of(&uuid))
                .await
                .map_err(|error| store_failed(&error))?;
            let record = text.and_then(|text| Record::read(&text).ok());
            records.extend(record.filter(|record| record.owner == self.owner() && record.uuid == uuid));
        }
        if records.is_empty() {
            return Ok(records);
        }
        // After the records: a domain that comes meanwhile is there.
        let numbers = self.numbers().await?;
        records.retain(|record| !numbers.contains_key(&record.uuid));
        if records.is_empty() {
            return Ok(records);
        }
        // That one is gone is the hypervisor's to say.
        let rows = self.rows().await?;
        records.retain(|record| rows.iter().all(|listed| listed.uuid != record.uuid));
        Ok(records)
    }

    /// Says what is missing in one sentence, where xl would say it in many.
    pub(crate) async fn check_files(&self, spec: &DomainSpec) -> PortResult<()> {
        let files = [
            ("the kernel", spec.kernel.clone()),
            ("the initramfs", spec.initramfs.clone()),
        ];
        let open = move || {
            for (what, path) in files {
                std::fs::File::open(&path).map_err(|error| {
                    PortError::later(format!("cannot open {what} {}: {error}", path.display()))
                })?;
            }
            Ok(())
        };
        blocking(open).await
    }

    /// The file that domains with this kernel start from.
    async fn kernel(&self, image: &Path) -> PathBuf {
        let (image, kept) = (image.to_owned(), self.state_dir.join("kernels"));
        blocking(move || {
            kernel::bare(&image, &kept).unwrap_or_else(|error| {
                // libxl may know better, and takes longer.
                tracing::warn!(error = chain(&error), "a kernel stays packed");
                image
            })
        })
        .await
    }

    /// The image of a sliver. An error is not an absence.
    pub(crate) async fn stored(&self, sliver: &SliverId) -> PortResult<Option<crate::images::Image>> {
        let (images, of) = (self.images.clone(), sliver.clone());
        blocking(move || images.read(&of)).await.map_err(|error| {
            PortError::never(format!("the image of {sliver} is of no use: {}", chain(&error)))
        })
    }

    /// Changes something of a sliver's images.
    pub(crate) async fn on_images(
        &self,
        lock: &Lock,
        sliver: &SliverId,
        what: &str,
        change: fn(&Images, &SliverId) -> io::Result<()>,
    ) -> PortResult<()> {
        let (images, of) = (self.images.clone(), sliver.clone());
        changing(lock, move || change(&images, &of))
            .await
            .map_err(|error| io_failed(&format!("{what} of {sliver}"), &error))
    }

    /// What is recorded of a domain that is about to be started.
    pub(crate) fn new_record(&self, spec: &DomainSpec, kind: GuestKind, phase: Phase) -> Record {
        Record {
            owner: self.owner(),
            sliver: spec.sliver.clone(),
            uuid: spec.uuid,
            boot: spec.boot,
            phase,
            guest: kind,
            memory_mib: spec.memory_mib,
            memory_max_mib: spec.memory_max_mib,
            vcpus: spec.vcpus,
            publish: Vec::new(),
            net_rate: spec.limits.net_rate,
            started: now(),
            moving: None,
        }
    }
}

/// How a domain is to be built.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    /// Its configuration.
    pub(crate) config: &'a str,
    /// Its public addresses.
    pub(crate) addresses: &'a [IpAddr],
    /// Its memory.
    pub(crate) memory: Memory<'a>,
}

/// Where a domain's memory is from.
#[derive(Debug)]
pub(crate) enum Memory<'a> {
    /// It starts from its kernel.
    Fresh,
    /// It was stored in this file.
    Stored(&'a Path),
    /// It comes through this pipe.
    Comes(OwnedFd),
}

/// What a domain takes beside its memory, in MiB (`libxl__get_required_paging_memory` and the `EXTRA_MEMORY` constants in
/// xen.git `tools/libs/light`).
fn overhead_mib(kind: GuestKind, vcpus: u32, memory_max_mib: u64) -> u64 {
    match kind {
        GuestKind::Pv => 1,
        GuestKind::Pvh => 2 + u64::from(vcpus) + memory_max_mib.div_ceil(128),
    }
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

impl Hypervisor for XenDriver {
    async fn observe(&self) -> PortResult<Domains> {
        let inventory = self.take_inventory().await?;
        let images = self.images.clone();
        let images = blocking(move || images.look())
            .await
            .map_err(|error| io_failed("list the images", &error))?;
        self.bound_logs(&inventory).await;
        self.mend_links(&inventory).await;
        let published = self.published(&inventory).await;
        let mut ours = BTreeMap::new();
        for domain in &inventory.ours {
            let observed = ObservedDomain {
                publish: ports_of(&domain.record, published.as_ref()),
                state: self.look_at(domain).await?,
                ..domain.observed()
            };
            ours.insert(domain.record.sliver.clone(), observed);
        }
        Ok(Domains {
            ours,
            images: images.into_iter().map(observed_image).collect(),
            able: self.able().await?,
            strangers: inventory.strangers(),
        })
    }

    async fn boot(&self, spec: &DomainSpec) -> PortResult<()> {
        let sliver = &spec.sliver;
        let lock = self.lock(sliver).await?;
        let inventory = self.take_roll().await?;
        if let Some(domain) = inventory.of(sliver) {
            at_home(domain)?;
            return already_there(spec, domain);
        }
        if let Some(other) = inventory.in_the_way(sliver, &spec.uuid) {
            return Err(in_the_way(sliver, &other.name));
        }
        if self.stored(sliver).await?.is_some() {
            // After a boot the disk is another one: the image would be of no use any more.
            return Err(PortError::never(format!(
                "{sliver} has an image: resume it, or discard it first"
            )));
        }
        // Everything that can be refused is refused before anything is done.
        self.check_link(spec, &inventory)?;
        let kind = self.kind().await?;
        self.configuration(spec, kind, &spec.kernel).await?;
        self.check_files(spec).await?;
        self.check_memory(spec, spec.memory_mib, kind).await?;
        self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
            .await?;
        if !spec.publish.is_empty() {
            self.sweep_others(sliver).await?;
        }
        let config = self
            .configuration(spec, kind, &self.kernel(&spec.kernel).await)
            .await?;
        self.new_log(sliver).await;
        let mut record = self.new_record(spec, kind, Phase::Making);
        let build = Build {
            config: &config,
            addresses: &spec.addresses,
            memory: Memory::Fresh,
        };
        let domain = self.build(&lock, &record, build).await?;
        record.phase = Phase::Whole;
        self.remember(&record).await?;
        self.give_ports(&mut record, &spec.publish).await?;
        self.set_free(sliver, &domain).await
    }

    async fn shutdown(&self, sliver: &SliverId, grace: Grace) -> PortResult<()> {
        if self.spot(sliver).await?.is_none() && !self.run_dir(sliver).path().exists() {
            return Ok(());
        }
        let lock = self.lock_at_work(sliver).await?;
        self.end_work(sliver).await?;
        if let Some(domain) = self.spot(sliver).await? {
            self.end(&domain, Duration::from_millis(grace.ms)).await?;
            self.take_ports(&domain.record).await?;
            self.clean(&lock, sliver, &domain.record.uuid).await?;
        }
        self.sweep(&lock, sliver).await?;
        self.on_images(&lock, sliver, "clean the directory of images", Images::clean)
            .await
    }

    async fn unpublish(&self, sliver: &SliverId) -> PortResult<()> {
        Self::unpublish(self, sliver).await
    }

    async fn publish(&self, sliver: &SliverId, tuning: &Tuning) -> PortResult<()> {
        Self::retune(self, sliver, tuning).await
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
        self.config
            .console_dir
            .join(format!("guest-{}.log", spec::name_of(sliver)))
    }

    fn console_socket(&self, sliver: &SliverId) -> PathBuf {
        let socket = self.run_dir(sliver).console_socket();
        let whose = Whose {
            sliver: sliver.clone(),
            owner: self.owner(),
            xenstored: self.xenstored.clone(),
        };
        self.consoles.serve(&socket, whose);
        socket
    }

    async fn facts(&self) -> Vec<DriverFact> {
        Self::facts(self).await
    }
}

impl XenDriver {
    /// Keeps what guests print from filling the disk.
    async fn bound_logs(&self, inventory: &Inventory) {
        let ours = inventory.ours.iter();
        let logs: Vec<_> = ours
            .map(|domain| self.console_log(&domain.record.sliver))
            .collect();
        let cut = move || {
            for log in logs {
                match console::bound(&log) {
                    Ok(false) => {}
                    Ok(true) => {
                        tracing::info!(log = %log.display(), "the log of a console was too long, and is begun anew")
                    }
                    Err(error) => {
                        tracing::warn!(log = %log.display(), %error, "the log of a console cannot be cut")
                    }
                }
            }
        };
        blocking(cut).await;
    }

    /// Sets the log of an earlier domain aside: xenconsoled appends.
    pub(crate) async fn new_log(&self, sliver: &SliverId) {
        let log = self.console_log(sliver);
        let renamed = blocking(move || match std::fs::rename(&log, console::earlier(&log)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        if let Err(error) = renamed.await {
            tracing::warn!(%sliver, %error, "the log of an earlier domain cannot be set aside");
        }
    }
}

/// The answer to a boot of something that is already there.
fn already_there(spec: &DomainSpec, domain: &Domain) -> PortResult<()> {
    let (sliver, record) = (&spec.sliver, &domain.record);
    if record.boot != spec.boot || record.uuid != spec.uuid {
        let (is, wanted) = (record.boot.short(), spec.boot.short());
        return Err(PortError::never(format!(
            "{sliver} runs already, as {is} and not as {wanted}: shut it down first"
        )));
    }
    match domain.state {
        RunState::Running | RunState::Paused | RunState::Suspended => Ok(()),
        // Whoever looks again sees what is left of it, and shuts it down.
        RunState::Stopped => Err(PortError::later(format!(
            "{sliver} has stopped and is still there: shut it down first"
        ))),
        RunState::Unfinished => Err(PortError::later(format!(
            "{sliver} was not started to the end and is still there: shut it down first"
        ))),
        RunState::Leaving => Err(PortError::later(format!("{sliver} is just ending"))),
    }
}

pub(crate) fn in_the_way(sliver: &SliverId, name: &str) -> PortError {
    PortError::never(format!(
        "{sliver} cannot be started: the domain {name:?}, which is not ours, has its name or its UUID"
    ))
}

/// A failure of the system that may pass.
pub(crate) fn io_failed(what: &str, error: &io::Error) -> PortError {
    PortError::later(format!("cannot {what}: {error}"))
}

/// A failure of xenstore, which may pass.
pub(crate) fn store_failed(error: &StoreError) -> PortError {
    PortError::later(format!("failed to {}", chain(error)))
}

/// The time, as it is stored.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
