//! Fleets that nobody wrote: so many nodes at some sites, ten slivers on each, and pushes that change them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xeno_model::desired::{
    DeleteBudget, DesiredFleet, DesiredSliver, Health, HypervisorKind, LayerRef, Migration, MigrationPolicy,
    Mount, Node, OnFailure, Probe, Resources, RollbackData, Rollout, Share, Site, SitePolicy, Slice,
    SliverState, Start, TemplateRef, Wave, WritableKind,
};
use xeno_model::id::{
    ChannelName, Digest, DomainUuid, FleetName, NodeName, Revision, SiteName, SliceName, SliverId,
    TemplateName,
};
use xeno_model::units::{Bytes, Millis};

use crate::draw::Draw;

/// Slivers on each node.
const SLIVERS_OF_NODE: u32 = 10;
/// Nodes at a site, in a large fleet.
const NODES_OF_SITE: u32 = 50;
/// Memory of a sliver.
const SLIVER_MEMORY: u64 = 128 << 20;

/// What one commit asks for.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its id.
    pub revision: Revision,
    /// All that it asks for.
    pub fleet: DesiredFleet,
}

/// What a push does to a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Push {
    /// A patched template below every slice.
    TemplateForAll,
    /// A patched template below so many slices.
    Template(u32),
    /// Another share of CPU time for so many slices: nothing is disturbed.
    Weight(u32),
    /// So many slices are removed.
    Remove(u32),
    /// One sliver each of so many slices goes to another node.
    Move(u32),
    /// One more sliver for each of so many slices.
    Grow(u32),
    /// So many slices are stopped.
    Stop(u32),
}

/// The id of commit number `n` of a made-up repository.
#[must_use]
pub fn revision(seed: u64, n: u64) -> Revision {
    let mut draw = Draw::new(seed).fork(n);
    let text = format!(
        "{:016x}{:016x}{:08x}",
        draw.number(),
        draw.number(),
        draw.number() >> 32
    );
    Revision::new(&text).expect("40 hexadecimal digits")
}

/// A fleet of so many nodes with ten slivers each.
///
/// # Panics
/// Never: the names it makes are names.
#[must_use]
pub fn fleet(nodes: u32, seed: u64) -> DesiredFleet {
    let mut draw = Draw::new(seed).fork(0xf1ee7);
    let sites = (nodes / NODES_OF_SITE).clamp(2, 400).min(nodes.max(1));
    let name = FleetName::new("simulated").expect("a name");
    let nodes: Vec<(NodeName, Node)> = (0..nodes).map(|n| node(n, sites)).collect();
    let total = u32::try_from(nodes.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(SLIVERS_OF_NODE);
    let mut slices = BTreeMap::new();
    let mut placed = 0;
    while placed < total {
        let all = u32::try_from(nodes.len()).unwrap_or(u32::MAX).min(100);
        let size = u32::try_from(draw.between(u64::from(all.div_ceil(3)), u64::from(all))).unwrap_or(all);
        let size = size.min(total - placed);
        let number = slices.len();
        let slice = SliceName::new(&format!("svc-{number:04}")).expect("a name");
        let like = Like::drawn(&mut draw, number);
        let slivers = (0..size).map(|i| {
            let at = usize::try_from(placed + i).unwrap_or(0) % nodes.len();
            let id = SliverId::new(slice.clone(), i);
            (i, (nodes[at].0.clone(), like.sliver(&name, id)))
        });
        slices.insert(
            slice.clone(),
            Arc::new(Slice {
                slivers: slivers.collect(),
            }),
        );
        placed += size;
    }
    DesiredFleet {
        name,
        approval: None,
        delete_budget: DeleteBudget {
            slivers: 2,
            window: Millis(1_800_000),
        },
        sites: (0..sites)
            .map(|n| {
                (
                    site(n),
                    Site {
                        region: None,
                        distances: BTreeMap::new(),
                        policy: SitePolicy {
                            site: Some(site(n)),
                            ..SitePolicy::default()
                        },
                    },
                )
            })
            .collect(),
        nodes: nodes.into_iter().collect(),
        cordoned: BTreeSet::new(),
        tenants: BTreeMap::new(),
        templates: BTreeMap::new(),
        slices,
        files: BTreeMap::new(),
        turns: Arc::default(),
        transit: BTreeMap::new(),
    }
}

fn site(n: u32) -> SiteName {
    SiteName::new(&format!("site-{n:03}")).expect("a name")
}

fn node(n: u32, sites: u32) -> (NodeName, Node) {
    let at = n % sites;
    let name = NodeName::new(&format!("s{at:03}-n{:04}", n / sites)).expect("a name");
    let node = Node {
        site: site(at),
        address: None,
        labels: BTreeMap::new(),
        hypervisor: HypervisorKind::Xen,
        memory: Bytes(SLIVER_MEMORY * u64::from(SLIVERS_OF_NODE + 4)),
        vcpus: 16,
    };
    (name, node)
}

/// The template that is `patches` security patches old.
fn template(patches: u64) -> TemplateRef {
    TemplateRef {
        name: TemplateName::new("debian").expect("a name"),
        channel: Some(ChannelName::new("current").expect("a name")),
        digest: Digest::of(&patches.to_le_bytes()),
        sources: vec!["https://templates.example/debian".to_owned()],
    }
}

/// What the slivers of a slice have in common.
struct Like {
    keeps: bool,
    health: Option<Health>,
    rollout: Rollout,
    rollback: RollbackData,
    migration: Migration,
}

impl Like {
    fn drawn(draw: &mut Draw, number: usize) -> Self {
        let policies = [
            MigrationPolicy::Live,
            MigrationPolicy::Suspend,
            MigrationPolicy::Restart,
        ];
        let share = |percent| Wave::Share(Share::Percent(percent));
        let waves = [
            vec![share(100)],
            vec![share(25), share(100)],
            vec![share(10), share(50), share(100)],
        ];
        let unavailable = [
            Share::Count(1),
            Share::Count(2),
            Share::Percent(10),
            Share::Percent(25),
        ];
        let failed = [
            Share::Count(0),
            Share::Count(0),
            Share::Count(1),
            Share::Percent(5),
        ];
        Self {
            // Every fourth keeps nothing, and is replaced by a domain beside the old one.
            keeps: number % 4 != 3,
            health: draw.permille(800).then_some(Health {
                probe: Probe::Console {
                    marker: "ready".to_owned(),
                },
                interval: Millis(5_000),
                threshold: 1,
                grace: Millis(60_000),
            }),
            rollout: Rollout {
                canary: u32::try_from(draw.between(1, 2)).unwrap_or(1),
                waves: draw.pick(&waves).cloned().unwrap_or_default(),
                max_unavailable: draw.pick(&unavailable).copied().unwrap_or(Share::Count(1)),
                max_failed: draw.pick(&failed).copied().unwrap_or(Share::Count(0)),
                max_unreachable: Share::Percent(40),
                bake: Millis(draw.between(5, 60) * 1000),
                on_failure: if draw.permille(800) {
                    OnFailure::Rollback
                } else {
                    OnFailure::Hold
                },
            },
            rollback: if draw.permille(200) {
                RollbackData::Restore
            } else {
                RollbackData::Keep
            },
            migration: Migration {
                policy: policies[number % policies.len()],
                ..Migration::default()
            },
        }
    }

    fn sliver(&self, fleet: &FleetName, id: SliverId) -> DesiredSliver {
        DesiredSliver {
            uuid: DomainUuid::of(fleet, &id),
            id,
            kernel: template(0),
            mounts: vec![Mount {
                path: "/".to_owned(),
                layers: vec![LayerRef::Template(template(0))],
                writable: if self.keeps {
                    WritableKind::Local
                } else {
                    WritableKind::ReadOnly
                },
            }],
            resources: Resources {
                vcpus: 1,
                vcpus_max: None,
                memory: Bytes(SLIVER_MEMORY),
                memory_max: None,
                cpu_weight: 256,
                cpu_cap_percent: None,
                disk: None,
                inodes: None,
                net_rate: None,
            },
            state: SliverState::Running,
            health: self.health.clone(),
            publish: Vec::new(),
            addresses: Vec::new(),
            tenant: None,
            start: Start::Boot,
            expires: None,
            failover: false,
            moved_from: None,
            rollout: self.rollout.clone(),
            migration: self.migration,
            rollback: self.rollback,
            checkpoints: 3,
        }
    }
}

/// The fleet after a push. `number` tells one patch from another.
#[must_use]
pub fn pushed(before: &DesiredFleet, push: Push, number: u64, draw: &mut Draw) -> DesiredFleet {
    let mut fleet = before.clone();
    let names: Vec<SliceName> = fleet.slices.keys().cloned().collect();
    let so_many = |count: u32, draw: &mut Draw| -> BTreeSet<SliceName> {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(names.len());
        let from = draw.index(names.len());
        (0..count)
            .map(|i| names[(from + i) % names.len()].clone())
            .collect()
    };
    match push {
        Push::TemplateForAll => patch(&mut fleet, &names.iter().cloned().collect(), number),
        Push::Template(count) => patch(&mut fleet, &so_many(count, draw), number),
        Push::Weight(count) => {
            let weight = u32::try_from(300 + number).unwrap_or(300);
            change(&mut fleet, &so_many(count, draw), |sliver| {
                sliver.resources.cpu_weight = weight
            });
        }
        Push::Stop(count) => {
            change(&mut fleet, &so_many(count, draw), |sliver| {
                sliver.state = SliverState::Stopped
            });
        }
        Push::Remove(count) => {
            let gone = so_many(count, draw);
            fleet.slices.retain(|name, _| !gone.contains(name));
        }
        Push::Move(count) => {
            for name in so_many(count, draw) {
                move_one(&mut fleet, &name, draw);
            }
        }
        Push::Grow(count) => {
            for name in so_many(count, draw) {
                grow(&mut fleet, &name, draw);
            }
        }
    }
    fleet
}

fn patch(fleet: &mut DesiredFleet, slices: &BTreeSet<SliceName>, number: u64) {
    let template = template(number);
    change(fleet, slices, |sliver| {
        sliver.kernel = template.clone();
        sliver.mounts[0].layers = vec![LayerRef::Template(template.clone())];
    });
}

fn change(fleet: &mut DesiredFleet, slices: &BTreeSet<SliceName>, to: impl Fn(&mut DesiredSliver)) {
    for name in slices {
        if let Some(slice) = fleet.slices.get_mut(name) {
            for (_, sliver) in Arc::make_mut(slice).slivers.values_mut() {
                to(sliver);
            }
        }
    }
}

/// How many slivers each node has.
fn load(fleet: &DesiredFleet) -> BTreeMap<&NodeName, u32> {
    let mut load: BTreeMap<&NodeName, u32> = fleet.nodes.keys().map(|node| (node, 0)).collect();
    for (node, _) in fleet.slices.values().flat_map(|slice| slice.slivers.values()) {
        *load.entry(node).or_default() += 1;
    }
    load
}

/// A node with room that has no sliver of the slice.
fn free_node(fleet: &DesiredFleet, name: &SliceName, draw: &mut Draw) -> Option<NodeName> {
    let slice = fleet.slices.get(name)?;
    let taken: BTreeSet<&NodeName> = slice.slivers.values().map(|(node, _)| node).collect();
    let free: Vec<NodeName> = load(fleet)
        .into_iter()
        .filter(|(node, load)| *load < SLIVERS_OF_NODE + 3 && !taken.contains(node))
        .map(|(node, _)| node.clone())
        .collect();
    draw.pick(&free).cloned()
}

fn move_one(fleet: &mut DesiredFleet, name: &SliceName, draw: &mut Draw) {
    let Some(to) = free_node(fleet, name, draw) else {
        return;
    };
    let Some(slice) = fleet.slices.get_mut(name) else {
        return;
    };
    let slivers = &mut Arc::make_mut(slice).slivers;
    let at = draw.index(slivers.len());
    if let Some((node, _)) = slivers.values_mut().nth(at) {
        *node = to;
    }
}

fn grow(fleet: &mut DesiredFleet, name: &SliceName, draw: &mut Draw) {
    let Some(to) = free_node(fleet, name, draw) else {
        return;
    };
    let of = fleet.name.clone();
    let Some(slice) = fleet.slices.get_mut(name) else {
        return;
    };
    let slivers = &mut Arc::make_mut(slice).slivers;
    if let Some((last, (_, like))) = slivers.last_key_value() {
        let (number, mut sliver) = (last + 1, like.clone());
        sliver.id = SliverId::new(name.clone(), number);
        sliver.uuid = DomainUuid::of(&of, &sliver.id);
        slivers.insert(number, (to, sliver));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_has_ten_slivers_a_node_and_is_the_same_for_the_same_seed() {
        let one = fleet(40, 7);
        assert_eq!(one, fleet(40, 7));
        assert_ne!(one, fleet(40, 8));
        assert!(load(&one).values().all(|load| *load == SLIVERS_OF_NODE));
        for slice in one.slices.values() {
            let nodes: BTreeSet<_> = slice.slivers.values().map(|(node, _)| node).collect();
            assert_eq!(nodes.len(), slice.slivers.len(), "one sliver of a slice a node");
        }
    }
}
