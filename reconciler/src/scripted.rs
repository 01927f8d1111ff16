//! A node in memory: both ports over a model of what a hypervisor and a file server keep, with failures on request. For
//! tests, here and in the crates that drive the ports.
//!
//! It checks what it is asked to do: a call that would break a rule of the node (a boot without its export, a tombstone
//! below an export, more memory than there is) is carried out and noted in [`ScriptedNode::violations`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use xeno_model::desired::{DesiredNode, FileSet};
use xeno_model::id::{Digest, Epoch, NodeName, SliverId, Timestamp};
use xeno_model::observed::{
    DomainState, Domains, HealthVerdict, ObservedDomain, ObservedNode, ObservedStorage, Seen, Stranger,
};
use xeno_model::units::Bytes;

use crate::action::Action;
use crate::exec::Outcome;
use crate::ports::{
    BootFiles, DomainSpec, DriverFact, Grace, GuestMount, Hypervisor, MountSpec, PortError, PortResult,
    Retry, Soundness, Storage,
};

mod fault;

pub use fault::Fault;

/// A node in memory.
#[derive(Debug)]
pub struct ScriptedNode {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    domains: Domains,
    storage: BTreeMap<SliverId, ObservedStorage>,
    templates: BTreeSet<Digest>,
    files: BTreeSet<Digest>,
    /// Which writable layers a sliver has: a number that each gets when it is made.
    written: BTreeMap<SliverId, u64>,
    layers_made: u64,
    memory_mib: u64,
    now: Timestamp,
    clock: Option<Clock>,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    calls: Vec<String>,
    effects: Vec<String>,
    struck: Vec<String>,
    hidden: Vec<fault::Hidden>,
    violations: Vec<String>,
}

struct Clock(Box<dyn Fn() -> Timestamp + Send + Sync>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&(self.0)()).finish()
    }
}

impl ScriptedNode {
    /// An empty node with so much memory for guests.
    #[must_use]
    pub fn new(memory_mib: u64) -> Self {
        let state = State {
            memory_mib,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// A node that looks like `observed`; what could not be seen there is empty. Where more memory is held already than
    /// there should be, that much is allowed.
    #[must_use]
    pub fn like(observed: &ObservedNode, memory_mib: u64) -> Self {
        let mut state = State {
            domains: observed.domains.known().cloned().unwrap_or_default(),
            storage: observed.storage.known().cloned().unwrap_or_default(),
            templates: observed.templates.known().cloned().unwrap_or_default(),
            files: observed.file_layers.known().cloned().unwrap_or_default(),
            now: observed.at,
            ..State::default()
        };
        state.memory_mib = memory_mib.max(state.memory_held());
        for sliver in state.storage.iter().filter(|(_, s)| s.on_disk).map(|(s, _)| s) {
            state.layers_made += 1;
            state.written.insert(sliver.clone(), state.layers_made);
        }
        Self {
            state: Mutex::new(state),
        }
    }

    /// Lets the next calls of a verb (that of the action's key, such as `boot`; `observe` for the observations) go wrong,
    /// one each.
    pub fn script(&self, verb: &'static str, fault: Fault) {
        self.state().faults.entry(verb).or_default().push_back(fault);
    }

    /// Sets the time that tombstones are given.
    pub fn set_now(&self, now: Timestamp) {
        self.state().now = now;
    }

    /// Takes the time that tombstones are given from a clock, from now on.
    pub fn follow(&self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) {
        self.state().clock = Some(Clock(Box::new(clock)));
    }

    /// Adds a domain of somebody else.
    pub fn add_stranger(&self, stranger: Stranger) {
        self.state().domains.strangers.push(stranger);
    }

    /// Takes the domain of a sliver away, as a crash of its process would.
    pub fn lose_domain(&self, sliver: &SliverId) {
        self.state().domains.ours.remove(sliver);
    }

    /// Forgets all that a file server keeps in memory, as its crash would; what is on disk stays.
    pub fn lose_file_server(&self) {
        for storage in self.state().storage.values_mut() {
            storage.open = None;
            storage.limits.clear();
            storage.stack = None;
            storage.exported = false;
        }
    }

    /// Calls so far that change something, as action keys, those that failed included.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Calls so far that did change something, as action keys: what was so already is not among them.
    #[must_use]
    pub fn effects(&self) -> Vec<String> {
        self.state().effects.clone()
    }

    /// Calls so far that went wrong as scripted, as action keys (`observe` for a look).
    #[must_use]
    pub fn struck(&self) -> Vec<String> {
        self.state().struck.clone()
    }

    /// Which writable layers a sliver has, set aside or not: another number means that what it wrote is lost.
    #[must_use]
    pub fn written(&self, sliver: &SliverId) -> Option<u64> {
        self.state().written.get(sliver).copied()
    }

    /// Rules that calls have broken so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// All of the node, seen.
    #[must_use]
    pub fn observed(&self, node: &NodeName) -> ObservedNode {
        let mut state = self.state();
        let running = state
            .domains
            .ours
            .iter()
            .filter(|(_, d)| d.state == DomainState::Running);
        let observed = ObservedNode {
            node: node.clone(),
            at: state.now(),
            health: running
                .map(|(s, _)| (s.clone(), HealthVerdict::Healthy))
                .collect(),
            domains: Seen::Known(state.domains.clone()),
            storage: Seen::Known(state.storage.clone()),
            templates: Seen::Known(state.templates.clone()),
            file_layers: Seen::Known(state.files.clone()),
        };
        state.looked_at();
        observed
    }

    /// Carries out one action at once; `None` if it hangs.
    ///
    /// # Panics
    /// If `desired` lacks the sliver of an action that builds something up.
    #[must_use]
    pub fn perform(&self, action: &Action, desired: &DesiredNode) -> Option<Outcome> {
        let wanted = |sliver: &SliverId| desired.slivers.get(sliver).expect("the plan's desired state");
        let result = match action {
            Action::FetchTemplate { digest, sources } => now(self.fetch_template(digest, sources)),
            Action::ImportFiles { digest } => {
                let files = desired.files.get(digest).expect("the plan's desired state");
                now(self.import_files(digest, files, &BTreeMap::new()))
            }
            Action::OpenWritable { sliver, epoch } => {
                now(self.open_writable(sliver, *epoch, &MountSpec::of(wanted(sliver))))
            }
            Action::Limit { sliver, epoch, .. } => {
                now(self.limit_writable(sliver, *epoch, &MountSpec::of(wanted(sliver))))
            }
            Action::Stack { sliver, stack, .. } => now(Storage::stack(
                self,
                sliver,
                stack,
                &MountSpec::of(wanted(sliver)),
            )),
            Action::Export { sliver, .. } => now(self.export(sliver, &MountSpec::of(wanted(sliver)))),
            Action::Boot { sliver, boot, .. } => {
                let wanted = wanted(sliver);
                let spec = DomainSpec {
                    sliver: sliver.clone(),
                    uuid: wanted.uuid,
                    boot: *boot,
                    vcpus: wanted.resources.vcpus,
                    memory_mib: wanted.resources.memory.mib(),
                    kernel: PathBuf::new(),
                    initramfs: PathBuf::new(),
                    cmdline: vec![],
                    mounts: vec![],
                    publish: wanted.publish.clone(),
                };
                now(self.boot(&spec))
            }
            Action::AwaitHealthy { sliver } => now(self.call("await", &sliver.to_string(), |_| ())),
            Action::Shutdown { sliver, .. } => now(self.shutdown(sliver, Grace { ms: 0 })),
            Action::Unexport { sliver } => now(self.unexport(sliver)),
            Action::CloseWritable { sliver } => now(self.close_writable(sliver)),
            Action::Tombstone { sliver } => now(self.tombstone(sliver)),
            Action::Purge { sliver } => now(self.purge(sliver)),
        };
        Some(match result? {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed {
                why: error.what,
                retry: error.retry,
            },
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(
        &self,
        verb: &'static str,
        object: &str,
        effect: impl FnOnce(&mut State),
    ) -> PortResult<()> {
        let key = format!("{verb}:{object}");
        let unsaid = || Err(PortError::later(format!("{verb} {object}: no answer")));
        let fault = {
            let mut state = self.state();
            state.calls.push(key.clone());
            let fault = state.faults.get_mut(verb).and_then(VecDeque::pop_front);
            state.struck.extend(fault.is_some().then(|| key.clone()));
            fault
        };
        match fault {
            None => {
                self.state().change(key, effect);
                Ok(())
            }
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::HangsAfter) => {
                self.state().change(key, effect);
                std::future::pending().await
            }
            Some(Fault::SucceedsUnsaid) => {
                self.state().change(key, effect);
                unsaid()
            }
            Some(Fault::Late { looks }) => {
                self.state().change_late(key, looks, effect);
                unsaid()
            }
        }
    }

    async fn look<T>(&self, what: impl FnOnce(&State) -> T) -> PortResult<T> {
        let fault = {
            let mut state = self.state();
            let fault = state.faults.get_mut("observe").and_then(VecDeque::pop_front);
            state.struck.extend(fault.is_some().then(|| "observe".to_owned()));
            fault
        };
        match fault {
            None => Ok(what(&self.state())),
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::Hangs | Fault::HangsAfter) => std::future::pending().await,
            Some(Fault::SucceedsUnsaid | Fault::Late { .. }) => Err(PortError::later("no answer")),
        }
    }
}

/// The result of a future that never has to wait, except for ever.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn limits(mounts: &[MountSpec]) -> BTreeSet<Option<Bytes>> {
    let writable = mounts.iter().filter(|mount| mount.writable);
    writable.map(|mount| mount.quota_bytes.map(Bytes)).collect()
}

impl State {
    fn rule(&mut self, kept: bool, broken: impl FnOnce() -> String) {
        if !kept {
            let broken = broken();
            self.violations.push(broken);
        }
    }

    fn storage(&mut self, sliver: &SliverId) -> &mut ObservedStorage {
        self.storage.entry(sliver.clone()).or_default()
    }

    fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or(self.now, |clock| (clock.0)())
    }

    fn has_domain(&self, sliver: &SliverId) -> bool {
        self.domains.ours.contains_key(sliver)
    }

    fn memory_held(&self) -> u64 {
        let ours = self.domains.ours.values().map(|domain| domain.memory_mib);
        let strangers = self.domains.strangers.iter().map(|stranger| stranger.memory_mib);
        ours.chain(strangers).sum()
    }
}

impl Hypervisor for ScriptedNode {
    async fn observe(&self) -> PortResult<Domains> {
        self.look(|state| state.domains.clone()).await
    }

    async fn boot(&self, spec: &DomainSpec) -> PortResult<()> {
        let effect = |state: &mut State| {
            let sliver = &spec.sliver;
            let there = state.domains.ours.get(sliver);
            if there.is_some_and(|d| d.booted == spec.boot && d.state == DomainState::Running) {
                return;
            }
            let kept = there.is_none();
            state.rule(kept, || format!("boot:{sliver} while its domain is there"));
            let served = state.storage(sliver).exported;
            state.rule(served, || format!("boot:{sliver} without its export"));
            let domain = ObservedDomain {
                uuid: spec.uuid,
                state: DomainState::Running,
                booted: spec.boot,
                memory_mib: spec.memory_mib,
                vcpus: spec.vcpus,
                publish: spec.publish.clone(),
            };
            for publish in &spec.publish {
                let mut others = state.domains.ours.iter().filter(|(other, _)| *other != sliver);
                let free = others.all(|(_, d)| d.publish.iter().all(|p| p.host != publish.host));
                state.rule(free, || {
                    format!("boot:{sliver} while port {} is taken", publish.host)
                });
            }
            state.domains.ours.insert(sliver.clone(), domain);
            let held = state.memory_held();
            let fits = held <= state.memory_mib;
            state.rule(fits, || format!("boot:{sliver} takes the node to {held} MiB"));
        };
        self.call("boot", &spec.sliver.to_string(), effect).await
    }

    async fn shutdown(&self, sliver: &SliverId, _: Grace) -> PortResult<()> {
        let effect = |state: &mut State| {
            state.domains.ours.remove(sliver);
        };
        self.call("shutdown", &sliver.to_string(), effect).await
    }

    fn console_log(&self, sliver: &SliverId) -> PathBuf {
        PathBuf::from(format!("/scripted/{}.log", sliver.label()))
    }

    fn console_socket(&self, sliver: &SliverId) -> PathBuf {
        PathBuf::from(format!("/scripted/{}.sock", sliver.label()))
    }

    async fn facts(&self) -> Vec<DriverFact> {
        vec![DriverFact {
            what: "acceleration",
            soundness: Soundness::Good,
            text: "domains of memory are fast".to_owned(),
        }]
    }
}

impl Storage for ScriptedNode {
    async fn observe(&self) -> PortResult<BTreeMap<SliverId, ObservedStorage>> {
        self.look(|state| state.storage.clone()).await
    }

    async fn templates(&self) -> PortResult<BTreeSet<Digest>> {
        self.look(|state| state.templates.clone()).await
    }

    async fn file_layers(&self) -> PortResult<BTreeSet<Digest>> {
        let files = self.look(|state| state.files.clone()).await;
        // Whoever looks at a node looks at these last.
        self.state().looked_at();
        files
    }

    async fn fetch_template(&self, digest: &Digest, _: &[String]) -> PortResult<()> {
        let effect = |state: &mut State| {
            state.templates.insert(*digest);
        };
        self.call("fetch", &digest.short(), effect).await
    }

    async fn import_files(
        &self,
        digest: &Digest,
        _: &FileSet,
        _: &BTreeMap<String, Vec<u8>>,
    ) -> PortResult<()> {
        let effect = |state: &mut State| {
            state.files.insert(*digest);
        };
        self.call("import", &digest.short(), effect).await
    }

    async fn open_writable(&self, sliver: &SliverId, epoch: Epoch, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let storage = state.storage(sliver);
            let closed = storage.open.is_none_or(|open| open == epoch);
            storage.on_disk |= mounts.iter().any(|mount| mount.writable);
            storage.open = Some(epoch);
            storage.limits = limits(mounts);
            storage.tombstone = None;
            if storage.on_disk && !state.written.contains_key(sliver) {
                state.layers_made += 1;
                state.written.insert(sliver.clone(), state.layers_made);
            }
            state.rule(closed, || format!("open:{sliver} while open under another epoch"));
        };
        self.call("open", &sliver.to_string(), effect).await
    }

    async fn limit_writable(&self, sliver: &SliverId, epoch: Epoch, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let open = state.storage(sliver).open == Some(epoch);
            state.rule(open, || format!("limit:{sliver} of what is not open"));
            state.storage(sliver).limits = limits(mounts);
        };
        self.call("limit", &sliver.to_string(), effect).await
    }

    async fn stack(&self, sliver: &SliverId, stack: &Digest, mounts: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let open = state.storage(sliver).open.is_some();
            state.rule(open, || format!("stack:{sliver} without its writable layer"));
            for layer in mounts.iter().flat_map(|mount| &mount.layers) {
                let here = match layer {
                    crate::ports::LayerSource::Template(digest) => state.templates.contains(digest),
                    crate::ports::LayerSource::Files(digest) => state.files.contains(digest),
                    crate::ports::LayerSource::Remote(_) => false,
                    crate::ports::LayerSource::Directory(_) => true,
                };
                state.rule(here, || format!("stack:{sliver} without {layer:?}"));
            }
            state.storage(sliver).stack = Some(*stack);
        };
        self.call("stack", &sliver.to_string(), effect).await
    }

    async fn export(&self, sliver: &SliverId, _: &[MountSpec]) -> PortResult<()> {
        let effect = |state: &mut State| {
            let stacked = state.storage(sliver).stack.is_some();
            state.rule(stacked, || format!("export:{sliver} without its stack"));
            state.storage(sliver).exported = true;
        };
        self.call("export", &sliver.to_string(), effect).await
    }

    async fn unexport(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let alone = !state.has_domain(sliver);
            state.rule(alone, || format!("unexport:{sliver} below its domain"));
            state.storage(sliver).exported = false;
        };
        self.call("unexport", &sliver.to_string(), effect).await
    }

    async fn close_writable(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let quiet = !state.has_domain(sliver) && !state.storage(sliver).exported;
            state.rule(quiet, || format!("close:{sliver} while in use"));
            let storage = state.storage(sliver);
            storage.stack = None;
            storage.open = None;
            storage.limits.clear();
        };
        self.call("close", &sliver.to_string(), effect).await
    }

    async fn tombstone(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let now = state.now();
            let has_domain = state.has_domain(sliver);
            let storage = state.storage(sliver);
            let quiet = !has_domain && !storage.exported && storage.open.is_none();
            storage.tombstone = Some(storage.tombstone.unwrap_or(now));
            state.rule(quiet, || format!("tombstone:{sliver} while in use"));
        };
        self.call("tombstone", &sliver.to_string(), effect).await
    }

    async fn purge(&self, sliver: &SliverId) -> PortResult<()> {
        let effect = |state: &mut State| {
            let Some(storage) = state.storage.get(sliver) else {
                return;
            };
            let set_aside = storage.tombstone.is_some() && !state.has_domain(sliver);
            state.rule(set_aside, || format!("purge:{sliver} of what is not set aside"));
            state.storage.remove(sliver);
            state.written.remove(sliver);
        };
        self.call("purge", &sliver.to_string(), effect).await
    }

    fn guest_mounts(&self, sliver: &SliverId, mounts: &[MountSpec]) -> Vec<GuestMount> {
        let mount = |(i, mount): (usize, &MountSpec)| GuestMount {
            path: mount.path.clone(),
            socket: PathBuf::from(format!("/scripted/{}-{i}.nfs", sliver.label())),
        };
        mounts.iter().enumerate().map(mount).collect()
    }

    async fn boot_files(&self, template: &Digest) -> PortResult<BootFiles> {
        let here = self.state().templates.contains(template);
        if !here {
            let what = format!("template {} is not here", template.short());
            return Err(PortError {
                what,
                retry: Retry::Never,
            });
        }
        Ok(BootFiles {
            kernel: PathBuf::from("/scripted/vmlinuz"),
            initramfs: PathBuf::from("/scripted/initrd"),
            cmdline: vec![],
        })
    }
}
