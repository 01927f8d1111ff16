//! A slice on its way from what its author wrote to its slivers: what holds for all of them, what is otherwise for some,
//! and which is whose. Each value remembers where it was written, since that is where a mistake is shown.

use std::net::IpAddr;

use super::At;
use super::mounts::{MountList, Mounts};
use super::service::Defaults;
use crate::desired::{
    Health, Matching as NodeMatching, Migration, Probe, Resources, RollbackData, Rollout, SliverState, Start,
    TemplateRef,
};
use crate::id::{NodeName, SliceName, TenantName, Timestamp};
use crate::manifest::{
    NumberRange, PublicAddress, RawHealth, RawPublish, RawResources, RawRollback, RawStart, RawState, Stated,
    Step, Text,
};
use crate::units::{BitRate, Bytes, Millis};

use super::service;

/// Share of CPU time of a sliver that asks for none: the default of Xen's credit scheduler (xl(1), "sched-credit2").
const CPU_WEIGHT: u32 = 256;

/// Where a value of a slice was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// For all its slivers, or nowhere.
    Slice,
    /// In one of its overrides.
    Override(usize),
}

impl Origin {
    /// The address of something that both a slice and a patch have.
    pub(super) fn path<'s>(self, rest: &[Step<'s>]) -> Vec<Step<'s>> {
        let patch = [Step::Key("overrides"), Step::Index(0), Step::Key("patch")];
        let mut path = vec![Step::Key("spec")];
        if let Self::Override(index) = self {
            path.extend(patch);
            path[2] = Step::Index(index);
        }
        path.extend(rest);
        path
    }
}

/// A value, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Sourced<T> {
    /// `None` if it cannot be told, which has been said.
    pub(super) value: Option<T>,
    pub(super) origin: Origin,
}

impl<T> Sourced<T> {
    fn initially(value: Option<T>) -> Self {
        Self {
            value,
            origin: Origin::Slice,
        }
    }

    /// Takes what was given, or forgets what was where that is unclear.
    fn take<R>(&mut self, stated: &Stated<R>, origin: Origin, of: impl FnOnce(&R) -> Option<T>) {
        match stated {
            Stated::Absent => {}
            Stated::Unclear => *self = Self { value: None, origin },
            Stated::Given(given) => {
                *self = Self {
                    value: of(given),
                    origin,
                }
            }
        }
    }
}

/// What a slice or a patch says, names followed.
pub(super) struct Given<'a> {
    pub(super) kernel: Stated<TemplateRef>,
    pub(super) mounts: Stated<MountList>,
    pub(super) resources: Stated<&'a RawResources>,
    pub(super) publish: &'a Stated<Vec<Option<RawPublish>>>,
    pub(super) addresses: &'a Stated<Vec<Option<Text<PublicAddress>>>>,
    pub(super) health: &'a Stated<RawHealth>,
    pub(super) state: &'a Stated<RawState>,
    pub(super) start: &'a Stated<RawStart>,
    pub(super) rollback: &'a Stated<RawRollback>,
}

/// One port that a slice publishes: of the guest, and of the node for sliver 0. `None` for what is wrong.
pub(super) type Ports = (Option<u16>, Option<u16>);

/// What slivers have in common.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) kernel: Sourced<TemplateRef>,
    pub(super) mounts: Mounts,
    pub(super) vcpus: Sourced<u32>,
    pub(super) vcpus_max: Sourced<Option<u32>>,
    pub(super) memory: Sourced<Bytes>,
    pub(super) memory_max: Sourced<Option<Bytes>>,
    weight: Sourced<u32>,
    pub(super) cap: Sourced<Option<u32>>,
    pub(super) disk: Sourced<Option<Bytes>>,
    inodes: Sourced<Option<u64>>,
    rate: Sourced<Option<BitRate>>,
    pub(super) publish: Sourced<Vec<Ports>>,
    pub(super) addresses: Sourced<Vec<IpAddr>>,
    pub(super) probe: Sourced<Option<Probe>>,
    /// The probe and the port that it asks, even where the rest of it is wrong.
    pub(super) probe_port: Option<(&'static str, u16)>,
    /// Where health was last spoken of, if anywhere.
    pub(super) health: Option<Origin>,
    interval: Sourced<Millis>,
    threshold: Sourced<u32>,
    grace: Sourced<Millis>,
    pub(super) state: Sourced<SliverState>,
    start: Sourced<Start>,
    rollback: Sourced<RollbackData>,
    checkpoints: Sourced<u32>,
}

impl Pattern {
    /// A slice that says nothing.
    pub(super) fn new(defaults: &Defaults) -> Self {
        Self {
            kernel: Sourced::initially(None),
            mounts: Mounts::default(),
            vcpus: Sourced::initially(Some(1)),
            vcpus_max: Sourced::initially(Some(None)),
            memory: Sourced::initially(None),
            memory_max: Sourced::initially(Some(None)),
            weight: Sourced::initially(Some(CPU_WEIGHT)),
            cap: Sourced::initially(Some(None)),
            disk: Sourced::initially(Some(None)),
            inodes: Sourced::initially(Some(None)),
            rate: Sourced::initially(Some(None)),
            publish: Sourced::initially(Some(Vec::new())),
            addresses: Sourced::initially(Some(Vec::new())),
            probe: Sourced::initially(Some(None)),
            probe_port: None,
            health: None,
            interval: Sourced::initially(defaults.interval),
            threshold: Sourced::initially(defaults.threshold),
            grace: Sourced::initially(defaults.grace),
            state: Sourced::initially(Some(SliverState::Running)),
            start: Sourced::initially(defaults.start),
            rollback: Sourced::initially(defaults.rollback),
            checkpoints: Sourced::initially(defaults.checkpoints),
        }
    }

    /// Puts what a slice or a patch says over what there is.
    pub(super) fn apply(&mut self, given: &Given<'_>, origin: Origin) {
        self.kernel
            .take(&given.kernel, origin, |kernel| Some(kernel.clone()));
        self.mounts.merge(&given.mounts, origin);
        self.resources(&given.resources, origin);
        self.publish.take(given.publish, origin, |publish| {
            let ports =
                |ports: &Option<RawPublish>| ports.map_or((None, None), |ports| (ports.guest, ports.host));
            Some(publish.iter().map(ports).collect())
        });
        self.addresses.take(given.addresses, origin, |addresses| {
            addresses
                .iter()
                .map(|address| Some(address.as_ref()?.0.0))
                .collect()
        });
        self.health(given.health, origin);
        self.state.take(given.state, origin, |state| {
            Some(match state {
                RawState::Running => SliverState::Running,
                RawState::Suspended => SliverState::Suspended,
                RawState::Stopped => SliverState::Stopped,
            })
        });
        self.start
            .take(given.start, origin, |start| Some(service::start(*start)));
        if let Stated::Given(rollback) = given.rollback {
            self.rollback
                .take(&rollback.data, origin, |data| Some(service::rollback(*data)));
            self.checkpoints
                .take(&rollback.checkpoints, origin, |kept| Some(*kept));
        } else if let Stated::Unclear = given.rollback {
            self.rollback.value = None;
            self.checkpoints.value = None;
        }
    }

    fn resources(&mut self, given: &Stated<&RawResources>, origin: Origin) {
        let raw = match given {
            Stated::Absent => return,
            Stated::Given(raw) => raw,
            Stated::Unclear => {
                self.vcpus.value = None;
                self.vcpus_max.value = None;
                self.memory.value = None;
                self.memory_max.value = None;
                self.weight.value = None;
                self.cap.value = None;
                self.disk.value = None;
                self.inodes.value = None;
                self.rate.value = None;
                return;
            }
        };
        self.vcpus.take(&raw.vcpus, origin, |vcpus| Some(*vcpus));
        self.vcpus_max
            .take(&raw.vcpus_max, origin, |most| Some(Some(*most)));
        self.memory.take(&raw.memory, origin, |memory| Some(memory.0));
        self.memory_max
            .take(&raw.memory_max, origin, |most| Some(Some(most.0)));
        match &raw.cpu {
            Stated::Absent => {}
            Stated::Unclear => {
                self.weight.value = None;
                self.cap.value = None;
            }
            Stated::Given(cpu) => {
                self.weight.take(&cpu.weight, origin, |weight| Some(*weight));
                self.cap.take(&cpu.cap, origin, |cap| Some(Some(*cap)));
            }
        }
        self.disk.take(&raw.disk, origin, |disk| Some(Some(disk.0)));
        self.inodes
            .take(&raw.inodes, origin, |inodes| Some(Some(*inodes)));
        self.rate
            .take(&raw.net, origin, |net| Some(Some(net.rate.as_ref()?.0)));
    }

    fn health(&mut self, given: &Stated<RawHealth>, origin: Origin) {
        let raw = match given {
            Stated::Absent => return,
            Stated::Given(raw) => raw,
            Stated::Unclear => {
                self.probe.value = None;
                self.probe_port = None;
                return;
            }
        };
        self.health = Some(origin);
        let stay = origin != Origin::Slice;
        let probe = match (&raw.http, &raw.tcp, &raw.console) {
            // What is asked stays as it is.
            (Stated::Absent, Stated::Absent, Stated::Absent) if stay => None,
            (Stated::Given(http), Stated::Absent, Stated::Absent) => Some((|| {
                Some(Probe::Http {
                    port: http.port?,
                    path: http.path.read("/".to_owned(), |path| Some(path.0.0.clone()))?,
                    expect: http.expect.read(200, |expect| Some(*expect))?,
                })
            })()),
            (Stated::Absent, Stated::Given(tcp), Stated::Absent) => {
                Some(tcp.port.map(|port| Probe::Tcp { port }))
            }
            (Stated::Absent, Stated::Absent, Stated::Given(console)) => {
                let marker = console.marker.as_ref().map(|marker| marker.0.0.clone());
                Some(marker.map(|marker| Probe::Console { marker }))
            }
            // None or several, or it is unclear which: that has been said, or is below.
            _ => Some(None),
        };
        if let Some(probe) = probe {
            self.probe_port = match (&raw.http, &raw.tcp) {
                (Stated::Given(http), Stated::Absent) => http.port.map(|port| ("http", port)),
                (Stated::Absent, Stated::Given(tcp)) => tcp.port.map(|port| ("tcp", port)),
                _ => None,
            };
            self.probe = Sourced {
                value: probe.map(Some),
                origin,
            };
        }
        self.interval
            .take(&raw.interval, origin, |interval| Some(interval.0));
        self.threshold
            .take(&raw.threshold, origin, |threshold| Some(*threshold));
        self.grace.take(&raw.grace, origin, |grace| Some(grace.0));
    }

    /// The guest's ports that are published; `None` if one of them is unclear.
    pub(super) fn guests(&self) -> Option<Vec<u16>> {
        self.publish
            .value
            .as_ref()?
            .iter()
            .map(|(guest, _)| *guest)
            .collect()
    }

    /// The node's ports of sliver 0 with their indices, as far as they are known.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (usize, u16)> + '_ {
        let ports = self.publish.value.iter().flatten().enumerate();
        ports.filter_map(|(i, (_, host))| Some((i, (*host)?)))
    }

    /// Guest's and node's ports of sliver 0; `None` if one of them is unclear.
    pub(super) fn published(&self) -> Option<Vec<(u16, u16)>> {
        let both = |(guest, host): &Ports| Some(((*guest)?, (*host)?));
        self.publish.value.as_ref()?.iter().map(both).collect()
    }

    /// Most memory that a sliver may come to hold, as far as that is known.
    pub(super) fn memory_most(&self) -> Option<Bytes> {
        let memory = self.memory.value?;
        Some(
            self.memory_max
                .value
                .flatten()
                .map_or(memory, |most| most.max(memory)),
        )
    }

    pub(super) fn finished_resources(&self) -> Option<Resources> {
        Some(Resources {
            vcpus: self.vcpus.value?,
            vcpus_max: self.vcpus_max.value?,
            memory: self.memory.value?,
            memory_max: self.memory_max.value?,
            cpu_weight: self.weight.value?,
            cpu_cap_percent: self.cap.value?,
            disk: self.disk.value?,
            inodes: self.inodes.value?,
            net_rate: self.rate.value?,
        })
    }

    pub(super) fn finished_health(&self) -> Option<Option<Health>> {
        let Some(probe) = self.probe.value.clone()? else {
            return Some(None);
        };
        Some(Some(Health {
            probe,
            interval: self.interval.value?,
            threshold: self.threshold.value?,
            grace: self.grace.value?,
        }))
    }

    pub(super) fn finished_start(&self) -> Option<(Start, RollbackData, u32)> {
        Some((self.start.value?, self.rollback.value?, self.checkpoints.value?))
    }
}

/// Which slivers an override is for.
#[derive(Clone, Debug)]
pub(super) struct Matching {
    /// Labels of the node, and `node`, `site` and `region`.
    pub(super) labels: NodeMatching,
    /// Their numbers; `None`: all.
    pub(super) numbers: Option<NumberRange>,
}

/// Something that is otherwise for some slivers.
pub(super) struct Override<'a> {
    /// `None` if it cannot be told for which.
    pub(super) matching: Option<Matching>,
    pub(super) given: Given<'a>,
}

/// Where a slice's slivers are to be.
pub(super) enum Place {
    /// It cannot be told.
    Unclear,
    /// On these, by number; `None` for a name that is wrong.
    Nodes(Vec<Option<NodeName>>),
    /// Where its lock says.
    Replicas {
        /// How many there are.
        replicas: u32,
        /// Labels that their nodes must have.
        matching: Option<NodeMatching>,
        /// What they are spread over.
        spread: Option<crate::placement::Spread>,
        /// How many may move at once for that.
        moves_max: Option<Option<u32>>,
    },
}

/// One sliver: its node, and which pattern it follows, as far as they are known.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) node: Option<NodeName>,
    pub(super) pattern: Option<usize>,
}

/// A slice.
pub(super) struct Draft<'a> {
    pub(super) at: At<'a>,
    pub(super) name: SliceName,
    pub(super) tenant: Option<Option<TenantName>>,
    pub(super) moved_from: Option<Option<SliceName>>,
    pub(super) expires: Option<Option<Timestamp>>,
    pub(super) rollout: Option<Rollout>,
    pub(super) migration: Option<Migration>,
    pub(super) failover: Option<bool>,
    pub(super) place: Place,
    pub(super) overrides: Vec<Override<'a>>,
    /// What its slivers have in common, the first as the slice says it, the others with overrides.
    pub(super) patterns: Vec<Pattern>,
    /// Its slivers by number.
    pub(super) seats: Vec<Seat>,
}

impl Draft<'_> {
    /// The slice as it is without overrides.
    pub(super) fn base(&self) -> &Pattern {
        &self.patterns[0]
    }

    /// The slice with some of its overrides, which are given as bits.
    pub(super) fn merged(&self, mask: u64) -> Pattern {
        let mut pattern = self.base().clone();
        for (i, with) in self.overrides.iter().enumerate() {
            if mask & (1 << i) != 0 {
                pattern.apply(&with.given, Origin::Override(i));
            }
        }
        pattern
    }

    /// How many slivers it has, as far as that is known.
    pub(super) fn count(&self) -> usize {
        match &self.place {
            Place::Unclear => 0,
            Place::Nodes(nodes) => nodes.len(),
            Place::Replicas { replicas, .. } => usize::try_from(*replicas).unwrap_or(usize::MAX),
        }
    }

    /// Slivers with what is known of them: number, node, pattern.
    pub(super) fn known(&self) -> impl Iterator<Item = (usize, &NodeName, &Pattern)> {
        let seats = self.seats.iter().enumerate();
        seats.filter_map(|(i, seat)| Some((i, seat.node.as_ref()?, &self.patterns[seat.pattern?])))
    }
}
