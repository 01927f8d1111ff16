//! A node in memory: both ports over a model of what a hypervisor and a file server keep, with failures on request. For
//! tests, here and in the crates that drive the ports.
//!
//! It checks what it is asked to do: a call that would break a rule of the node (a boot without its export, a tombstone
//! below an export, an image over another disk, more memory than there is) is carried out and noted in
//! [`ScriptedNode::violations`].

mod domains;
mod fault;
mod layers;
mod leases;
mod moves;
mod remotes;
mod shared;
mod storage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use xeno_model::desired::{DesiredNode, DesiredSliver, Publish, Remote};
use xeno_model::id::{Digest, NodeName, SliverId, Timestamp};
use xeno_model::observed::{
    Ability, DomainState, Domains, HealthVerdict, Leasing, ObservedNode, ObservedStorage, RemoteState, Seen,
    Stranger,
};

use self::shared::Shared;
use crate::action::{Action, PortsFrom};
use crate::exec::Outcome;
use crate::ports::{
    DomainSpec, Grace, Hypervisor, MountSpec, PortError, PortResult, Remotes, Storage, Tuning,
};

pub use fault::Fault;
pub use layers::LayersRound;
pub use moves::{GuestMemory, Life};

/// A node in memory.
#[derive(Debug)]
pub struct ScriptedNode {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    domains: Shared<Domains>,
    storage: Shared<BTreeMap<SliverId, ObservedStorage>>,
    /// Slivers whose storage cannot be looked at, and why.
    unreadable: BTreeMap<SliverId, String>,
    templates: Shared<BTreeSet<Digest>>,
    files: Shared<BTreeSet<Digest>>,
    /// What writable layers were like when their checkpoints were made.
    saved: BTreeMap<(SliverId, String), Option<Digest>>,
    remotes: Shared<BTreeMap<Remote, RemoteState>>,
    /// URLs whose server does not answer.
    silent: BTreeSet<String>,
    /// Which writable layers a sliver has: a number that each gets when it is made.
    written: Shared<BTreeMap<SliverId, u64>>,
    layers_made: u64,
    memory_mib: u64,
    now: Timestamp,
    /// How often anything was written to any disk: what marks are made of.
    writes: u64,
    clock: Option<Clock>,
    consoles: PathBuf,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    calls: Vec<String>,
    effects: Vec<String>,
    struck: Vec<String>,
    hidden: Vec<fault::Hidden>,
    /// Whether something has been done late that no look has seen yet: no plan can have known of it.
    unseen: bool,
    /// Why the call that is being carried out changes nothing.
    refused: Option<PortError>,
    violations: Vec<String>,
    moves: moves::Moves,
    leases: leases::Leases,
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
        let mut state = State {
            memory_mib,
            ..State::default()
        };
        state.domains.able = able();
        Self {
            state: Mutex::new(state),
        }
    }

    /// A node that looks like `observed`; what could not be seen there is empty. Where more memory is held already than
    /// there should be, that much is allowed.
    #[must_use]
    pub fn like(observed: &ObservedNode, memory_mib: u64) -> Self {
        let storage = observed
            .storage_seen()
            .map(|(sliver, storage)| (sliver.clone(), storage.clone()));
        let mut state = State {
            domains: observed.domains.known().cloned().unwrap_or_default().into(),
            storage: storage.collect::<BTreeMap<_, _>>().into(),
            templates: observed.templates.known().cloned().unwrap_or_default().into(),
            files: observed.file_layers.known().cloned().unwrap_or_default().into(),
            remotes: observed.remotes.known().cloned().unwrap_or_default().into(),
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

    /// Lets everything go well from now on.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Sets the time that tombstones are given.
    pub fn set_now(&self, now: Timestamp) {
        self.state().now = now;
    }

    /// Says what the hypervisor can do; at first everything.
    pub fn set_able(&self, able: impl IntoIterator<Item = Ability>) {
        self.state().domains.able = able.into_iter().collect();
    }

    /// Changes the sliver's writable layers from outside, as nobody should.
    pub fn write_to_disk(&self, sliver: &SliverId) {
        self.state().write(sliver);
    }

    /// Takes the image of a sliver's memory away, as a person with `rm` would.
    pub fn lose_image(&self, sliver: &SliverId) {
        self.state().domains.images.remove(sliver);
    }

    /// Lets the domain of a sliver do something else, such as standing still.
    pub fn set_domain_state(&self, sliver: &SliverId, to: DomainState) {
        if let Some(domain) = self.state().domains.ours.get_mut(sliver) {
            domain.state = to;
        }
    }

    /// Takes the time that tombstones are given from a clock, from now on.
    pub fn follow(&self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) {
        self.state().clock = Some(Clock(Box::new(clock)));
    }

    /// Says that consoles are written into this directory; nobody writes them but the test.
    pub fn keep_consoles_in(&self, dir: PathBuf) {
        self.state().consoles = dir;
    }

    /// Adds a domain of somebody else.
    pub fn add_stranger(&self, stranger: Stranger) {
        self.state().domains.strangers.push(stranger);
    }

    /// Lets nobody look at the storage of a sliver, or lets them again.
    pub fn hide_storage(&self, sliver: &SliverId, why: Option<&str>) {
        let mut state = self.state();
        match why {
            Some(why) => state.unreadable.insert(sliver.clone(), why.to_owned()),
            None => state.unreadable.remove(sliver),
        };
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
            storage.shares.clear();
            storage.stack = None;
            storage.exported = false;
            storage.parked = false;
            storage.lease = Leasing::Free;
        }
        self.state().leases.lose();
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

    /// Forgets which calls there were, so that a long story does not fill the memory with them.
    pub fn forget_calls(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.effects.clear();
        state.struck.clear();
    }

    /// What the domain in a berth does, if there is one.
    #[must_use]
    pub fn domain_state(&self, berth: &SliverId) -> Option<DomainState> {
        self.state().domains.ours.get(berth).map(|domain| domain.state)
    }

    /// Which writable layers a sliver has, set aside or not: another number means that what it wrote is lost.
    #[must_use]
    pub fn written(&self, sliver: &SliverId) -> Option<u64> {
        self.state().written.get(sliver).copied()
    }

    /// [`Self::written`] of every sliver that has any.
    #[must_use]
    pub fn all_written(&self) -> BTreeMap<SliverId, u64> {
        BTreeMap::clone(&self.state().written)
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
            domains: Seen::Known(Domains::clone(&state.domains)),
            storage: Seen::Known(state.storage_seen()),
            templates: Seen::Known(BTreeSet::clone(&state.templates)),
            file_layers: Seen::Known(BTreeSet::clone(&state.files)),
            remotes: Seen::Known(BTreeMap::clone(&state.remotes)),
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
        let wanted = |sliver: &SliverId| desired.embodied(sliver).expect("the plan's desired state");
        let result = match action {
            Action::FetchTemplate { digest, sources } => now(self.fetch_template(digest, sources)),
            Action::ImportFiles { digest } => {
                let files = desired.files.get(digest).expect("the plan's desired state");
                now(self.import_files(digest, files, &BTreeMap::new()))
            }
            Action::MountRemote { remote } => now(self.mount_remote(remote)),
            Action::OpenWritable { sliver, epoch, .. } => {
                now(self.open_writable(sliver, *epoch, &MountSpec::of(&wanted(sliver))))
            }
            Action::Checkpoint {
                sliver,
                epoch,
                name,
                fresh,
                drops,
                ..
            } => now(self.checkpoint(sliver, *epoch, name, *fresh, drops)),
            Action::Restore {
                sliver,
                epoch,
                name,
                done,
                ..
            } => now(self.restore(sliver, *epoch, name, Some(done))),
            Action::Limit { sliver, epoch, .. } => {
                now(self.limit(sliver, *epoch, &MountSpec::of(&wanted(sliver))))
            }
            Action::Stack { sliver, stack, .. } => now(Storage::stack(
                self,
                sliver,
                stack,
                &MountSpec::of(&wanted(sliver)),
            )),
            Action::Export { sliver, .. } => now(self.export(sliver, &MountSpec::of(&wanted(sliver)))),
            Action::Boot {
                sliver, boot, ports, ..
            } => {
                let mut spec = domain_spec(&wanted(sliver), *boot);
                if *ports == PortsFrom::Takeover {
                    spec.publish.clear();
                }
                now(self.boot(&spec))
            }
            Action::Resume { sliver, boot, .. } => now(self.resume(&domain_spec(&wanted(sliver), *boot))),
            Action::Unpublish { sliver } => now(self.unpublish(sliver)),
            Action::Publish { sliver, tuning } => now(self.publish(sliver, tuning)),
            Action::Suspend { sliver } => now(self.suspend(sliver)),
            Action::Seal { sliver } => {
                let mark = ObservedStorage::mark_of(self.state().storage.get(sliver));
                match mark {
                    Some(mark) => now(self.seal_image(sliver, &mark)),
                    None => Some(Err(PortError::later("the writable layers cannot be told"))),
                }
            }
            Action::DiscardImage { sliver } => now(self.discard_image(sliver)),
            Action::Unpause { sliver, .. } => now(self.unpause(sliver)),
            Action::Retune { sliver, tuning } => now(self.retune(sliver, tuning)),
            Action::Revive { sliver } => now(self.revive(sliver)),
            Action::Adopt { sliver, from } => now(self.adopt(from, sliver)),
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
                let mut state = self.state();
                state.change(key, effect);
                state.refused.take().map_or(Ok(()), Err)
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
            Some(Fault::SeesNothing) => Ok(()),
            Some(Fault::Late { looks }) => {
                self.state().change_late(key, looks, effect);
                unsaid()
            }
        }
    }

    async fn look<T: Default>(&self, what: impl FnOnce(&State) -> T) -> PortResult<T> {
        let fault = {
            let mut state = self.state();
            let fault = state.faults.get_mut("observe").and_then(VecDeque::pop_front);
            state.struck.extend(fault.is_some().then(|| "observe".to_owned()));
            fault
        };
        match fault {
            None => Ok(what(&self.state())),
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::SeesNothing) => Ok(T::default()),
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

/// All that a hypervisor may be able to do.
fn able() -> BTreeSet<Ability> {
    BTreeSet::from([
        Ability::Vcpus,
        Ability::Memory,
        Ability::Ports,
        Ability::CpuWeight,
        Ability::CpuCap,
        Ability::NetRate,
        Ability::Suspend,
        Ability::Move,
    ])
}

fn domain_spec(wanted: &DesiredSliver, boot: Digest) -> DomainSpec {
    let tuning = Tuning::of(wanted);
    DomainSpec {
        sliver: wanted.id.clone(),
        uuid: wanted.uuid,
        boot,
        vcpus: wanted.resources.vcpus,
        vcpus_max: wanted.resources.vcpus_most(),
        memory_mib: tuning.memory_mib,
        memory_max_mib: wanted.resources.memory_most().mib(),
        limits: tuning.limits,
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        cmdline: vec![],
        mounts: vec![],
        publish: tuning.publish,
        addresses: wanted.addresses.clone(),
    }
}

impl State {
    /// Notes a broken rule. What has been done late since the last look is something that no plan can have known of: whoever
    /// breaks a rule then is refused, as hypervisors and file servers do it, and without such a thing should have known.
    fn rule(&mut self, kept: bool, broken: impl FnOnce() -> String) {
        if kept {
            return;
        }
        let broken = broken();
        if self.unseen {
            self.refused.get_or_insert(PortError::later(broken));
        } else {
            self.violations.push(broken);
        }
    }

    /// What a look at the storage shows.
    fn storage_seen(&self) -> BTreeMap<SliverId, Seen<ObservedStorage>> {
        let seen =
            |(sliver, storage): (&SliverId, &ObservedStorage)| (sliver.clone(), Seen::Known(storage.clone()));
        let unseen =
            |(sliver, why): (&SliverId, &String)| (sliver.clone(), Seen::Unknown { why: why.clone() });
        let hidden = self.unreadable.iter().map(unseen);
        self.storage.iter().map(seen).chain(hidden).collect()
    }

    fn storage(&mut self, sliver: &SliverId) -> &mut ObservedStorage {
        self.storage.entry(sliver.clone()).or_default()
    }

    /// The guest, or somebody, writes to the sliver's disk.
    fn write(&mut self, sliver: &SliverId) {
        self.writes += 1;
        let mark = Digest::of(format!("{sliver} after {} writes", self.writes).as_bytes());
        if let Some(storage) = self.storage.get_mut(sliver)
            && storage.on_disk
        {
            storage.mark = Some(mark);
        }
    }

    /// Notes what a domain that takes these ports and this memory would break.
    fn shared_rules(&mut self, verb: &str, sliver: &SliverId, publish: &[Publish]) {
        for publish in publish {
            let mut others = self.domains.ours.iter().filter(|(other, _)| *other != sliver);
            let free = others.all(|(_, d)| d.publish.iter().all(|p| p.host != publish.host));
            self.rule(free, || {
                format!("{verb}:{sliver} while port {} is taken", publish.host)
            });
        }
        let held = self.memory_held();
        let fits = held <= self.memory_mib;
        self.rule(fits, || format!("{verb}:{sliver} takes the node to {held} MiB"));
    }

    fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or(self.now, |clock| (clock.0)())
    }

    fn has_domain(&self, sliver: &SliverId) -> bool {
        self.domains.ours.contains_key(sliver)
    }

    /// Whether there is a domain that may touch its disk: not one that stands still between two nodes.
    fn may_use_disk(&self, sliver: &SliverId) -> bool {
        let domain = self.domains.ours.get(sliver);
        domain.is_some_and(|domain| {
            !matches!(domain.state, DomainState::Kept { .. } | DomainState::Copy { .. })
        })
    }

    fn memory_held(&self) -> u64 {
        let ours = self.domains.ours.values().map(|domain| domain.memory_mib);
        let strangers = self.domains.strangers.iter().map(|stranger| stranger.memory_mib);
        ours.chain(strangers).sum()
    }
}

#[cfg(test)]
mod tests;
