//! Small worlds for tests: a node, its slivers, what was applied and what is seen.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::*;
use xeno_model::id::*;
use xeno_model::observed::*;
use xeno_model::units::*;

use crate::approval::Leave;
use crate::change::{AppliedSliver, ChangeClass, Reason};
use crate::freeze::{Freeze, FreezeScope};
use crate::plan::{Basis, Plan, PlanInput, build};

/// One node from its three sides.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) desired: DesiredNode,
    pub(crate) applied: BTreeMap<SliverId, AppliedSliver>,
    pub(crate) observed: ObservedNode,
    pub(crate) removed_recently: u32,
    pub(crate) restarts: BTreeMap<SliverId, Vec<Timestamp>>,
    pub(crate) freezes: Vec<Freeze>,
    pub(crate) leave: Leave,
    pub(crate) backing_off: BTreeMap<SliverId, Reason>,
    pub(crate) now: u64,
}

pub(crate) const TOMBSTONE_MS: u64 = 1_000;

pub(crate) fn id(text: &str) -> SliverId {
    SliverId::parse(text).unwrap()
}

pub(crate) fn other_node() -> NodeName {
    NodeName::new("nyc-02").unwrap()
}

pub(crate) fn template(name: &str, content: u8) -> TemplateRef {
    TemplateRef {
        name: TemplateName::new(name).unwrap(),
        channel: Some(ChannelName::new("current").unwrap()),
        digest: Digest([content; 32]),
        sources: vec![format!("file:///templates/{name}")],
    }
}

/// 128 MiB on one template and one set of files, no health check, no ports.
pub(crate) fn sliver(name: &str) -> DesiredSliver {
    let id = id(name);
    DesiredSliver {
        uuid: DomainUuid::of(&FleetName::new("acme").unwrap(), &id),
        id,
        kernel: template("debian-web", 0xd1),
        mounts: vec![Mount {
            path: "/".to_owned(),
            layers: vec![
                LayerRef::Files {
                    digest: Digest([0xf1; 32]),
                },
                LayerRef::Template(template("debian-web", 0xd1)),
            ],
            writable: WritableKind::Local,
        }],
        resources: Resources {
            vcpus: 1,
            vcpus_max: None,
            memory: Bytes(128 << 20),
            memory_max: None,
            cpu_weight: 256,
            cpu_cap_percent: None,
            disk: None,
            inodes: None,
            net_rate: None,
        },
        state: SliverState::Running,
        health: None,
        publish: vec![],
        addresses: vec![],
        tenant: None,
        start: Start::Boot,
        expires: None,
        failover: false,
        moved_from: None,
        rollout: Rollout::default(),
        migration: Migration::default(),
        rollback: RollbackData::Keep,
        checkpoints: 3,
    }
}

/// Where [`remote`] reads from.
pub(crate) const OVERLAY: &str = "nfs://store.example/acme/apache";

/// The same with an overlay from afar nearest to the guest.
pub(crate) fn remote(name: &str) -> DesiredSliver {
    let mut sliver = sliver(name);
    let url = OVERLAY.to_owned();
    sliver.mounts[0].layers.insert(0, LayerRef::Remote { url });
    sliver
}

/// The same, and what it writes lies there too.
pub(crate) fn remote_to_write(name: &str) -> DesiredSliver {
    let mut sliver = remote(name);
    let url = format!("nfs://store.example/acme/logs/{}", sliver.id.label());
    sliver.mounts[0].writable = WritableKind::Remote { url };
    sliver
}

pub(crate) fn health() -> Health {
    Health {
        probe: Probe::Console {
            marker: "ready".to_owned(),
        },
        interval: Millis(1_000),
        threshold: 1,
        grace: Millis(60_000),
    }
}

impl World {
    /// An empty node with 2 GiB for guests, that is wanted to run `slivers`.
    pub(crate) fn wanting(slivers: impl IntoIterator<Item = DesiredSliver>) -> Self {
        let node = NodeName::new("cam-01").unwrap();
        let slivers: BTreeMap<_, _> = slivers.into_iter().map(|s| (s.id.clone(), s)).collect();
        let mut files = BTreeMap::new();
        for layer in slivers.values().flat_map(|s| &s.mounts).flat_map(|m| &m.layers) {
            if let LayerRef::Files { digest } = layer {
                let file = CarriedFile {
                    executable: false,
                    content: CarriedContent::Inline("hello\n".to_owned()),
                };
                let set = FileSet {
                    files: BTreeMap::from([("index.html".to_owned(), file)]),
                };
                files.insert(*digest, set);
            }
        }
        Self {
            desired: DesiredNode {
                node: node.clone(),
                fleet: FleetName::new("acme").unwrap(),
                nodes: 2,
                revision: Revision::new(&"4c1e9a70".repeat(5)).unwrap(),
                standing: Standing::Named(Node {
                    site: SiteName::new("cambridge").unwrap(),
                    address: None,
                    labels: BTreeMap::new(),
                    hypervisor: HypervisorKind::Xen,
                    memory: Bytes(2 << 30),
                    vcpus: 8,
                }),
                delete_budget: DeleteBudget::default(),
                approval: None,
                site: SitePolicy::default(),
                ruled_out: BTreeMap::new(),
                slivers,
                slices: BTreeMap::new(),
                whereabouts: std::sync::Arc::default(),
                elsewhere: [(id("other/0"), other_node())].into_iter().collect(),
                files,
                turns: std::sync::Arc::default(),
                transit: BTreeMap::new(),
            },
            applied: BTreeMap::new(),
            observed: {
                let mut observed = crate::assume::empty(&node, Timestamp(1));
                if let Seen::Known(domains) = &mut observed.domains {
                    domains.able = crate::enforce::usual(HypervisorKind::Xen);
                }
                observed
            },
            removed_recently: 0,
            restarts: BTreeMap::new(),
            freezes: vec![],
            leave: Leave::default(),
            backing_off: BTreeMap::new(),
            now: 10_000_000,
        }
    }

    pub(crate) fn input(&self) -> PlanInput<'_> {
        PlanInput {
            desired: &self.desired,
            applied: &self.applied,
            observed: &self.observed,
            generation: Generation(13),
            applied_generation: Generation(12),
            basis: Basis::Observed,
            removed_recently: self.removed_recently,
            tombstone_ms: TOMBSTONE_MS,
            backing_off: &self.backing_off,
            epochs: const { &BTreeMap::new() },
            restarts: &self.restarts,
            freezes: &self.freezes,
            leave: &self.leave,
            now: Timestamp(self.now),
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        build(&self.input()).unwrap()
    }

    pub(crate) fn domains(&mut self) -> &mut Domains {
        let Seen::Known(domains) = &mut self.observed.domains else {
            panic!("domains are unknown")
        };
        domains
    }

    pub(crate) fn storage(&mut self, sliver: &str) -> &mut ObservedStorage {
        self.storage_of(&id(sliver))
    }

    pub(crate) fn storage_of(&mut self, berth: &SliverId) -> &mut ObservedStorage {
        let Seen::Known(storage) = &mut self.observed.storage else {
            panic!("storage is unknown")
        };
        let seen = storage
            .entry(berth.clone())
            .or_insert_with(|| Seen::Known(ObservedStorage::default()));
        let Seen::Known(storage) = seen else {
            panic!("storage of {berth} is unknown")
        };
        storage
    }

    /// Makes the storage of one sliver something that could not be looked at.
    pub(crate) fn hide_storage(&mut self, berth: &SliverId, why: &str) {
        let Seen::Known(storage) = &mut self.observed.storage else {
            panic!("storage is unknown")
        };
        storage.insert(berth.clone(), Seen::Unknown { why: why.to_owned() });
    }

    pub(crate) fn want(&mut self, sliver: &str) -> &mut DesiredSliver {
        self.desired.slivers.get_mut(&id(sliver)).unwrap()
    }

    pub(crate) fn unwant(&mut self, sliver: &str) {
        self.desired.slivers.remove(&id(sliver));
    }

    pub(crate) fn class(&self, sliver: &str) -> ChangeClass {
        self.plan().changes[&id(sliver)].class
    }

    /// A site whose maintenance windows are closed now, and open on Mondays.
    pub(crate) fn close_windows(&mut self) {
        self.desired.site.site = Some(SiteName::new("cambridge").unwrap());
        self.desired.site.windows.weekly = vec![Window {
            days: BTreeSet::from([Weekday::Mon]),
            from_min: 0,
            until_min: 60,
        }];
    }

    pub(crate) fn freeze(&mut self, sliver: &str) {
        self.freezes.push(Freeze {
            scope: FreezeScope::Sliver(id(sliver)),
            reason: "audit".to_owned(),
            by: "eve".to_owned(),
            since: Timestamp(0),
            until: None,
        });
    }

    /// Carries out what is desired to the letter, at once.
    pub(crate) fn settle(mut self) -> Self {
        let (mut observed, applied) = crate::assume::observed_from(&self.desired, self.observed.at);
        if let (Some(domains), Seen::Known(now)) = (self.observed.domains.known(), &mut observed.domains) {
            now.strangers.clone_from(&domains.strangers);
        }
        self.observed = observed;
        self.applied = applied;
        self
    }

    /// Memory for guests, in MiB.
    pub(crate) fn with_memory(mut self, mib: u64) -> Self {
        if let Standing::Named(node) = &mut self.desired.standing {
            node.memory = Bytes(mib << 20);
        }
        self
    }

    /// The keys of the plan's actions, in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        keys(&self.plan())
    }
}

pub(crate) fn keys(plan: &Plan) -> Vec<String> {
    plan.actions.iter().map(|a| a.action.key().0).collect()
}

/// Compares with what the file `path` of this crate expects, and shows what differs. `UPDATE=1` rewrites the file.
#[expect(clippy::disallowed_methods, reason = "a person rewrites what a test expects")]
pub(crate) fn golden(path: &str, expected: &str, found: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, found).expect("the file can be written");
        return;
    }
    let difference = similar::TextDiff::from_lines(expected, found)
        .unified_diff()
        .header(path, "found")
        .to_string();
    assert!(expected == found, "{difference}");
}
