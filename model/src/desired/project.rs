//! What a commit means for one node, or for each of many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    DesiredFleet, DesiredNode, DesiredSliver, FileSet, LayerRef, SitePolicy, SiteRule, Standing, Whereabouts,
};
use crate::id::{Digest, NodeName, Revision, SiteName, SliceName, SliverId, TenantName};

/// The slivers that a repository places on other nodes than one. What all its nodes have in common is one in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    all: Arc<BTreeMap<SliverId, NodeName>>,
    /// Those of `all` that are on the one node.
    here: BTreeSet<SliverId>,
}

impl Elsewhere {
    /// Whether a sliver is on another node.
    #[must_use]
    pub fn contains(&self, sliver: &SliverId) -> bool {
        self.node_of(sliver).is_some()
    }

    /// The other node that a sliver is on, if it is on another.
    #[must_use]
    pub fn node_of(&self, sliver: &SliverId) -> Option<&NodeName> {
        self.all.get(sliver).filter(|_| !self.here.contains(sliver))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.len() == self.here.len()
    }

    /// Takes note that a sliver is not on another node.
    pub fn welcome(&mut self, sliver: SliverId) {
        if self.all.contains_key(&sliver) {
            self.here.insert(sliver);
        }
    }

    /// Adds one.
    pub fn insert(&mut self, sliver: SliverId, node: NodeName) {
        self.here.remove(&sliver);
        Arc::make_mut(&mut self.all).insert(sliver, node);
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl FromIterator<(SliverId, NodeName)> for Elsewhere {
    fn from_iter<I: IntoIterator<Item = (SliverId, NodeName)>>(slivers: I) -> Self {
        Self {
            all: Arc::new(slivers.into_iter().collect()),
            here: BTreeSet::new(),
        }
    }
}

/// A fleet sorted by node, for whoever wants to know what it means for many of them: sorting takes one look at each
/// sliver, and each node after that only its own.
#[derive(Clone, Debug)]
pub struct ByNode<'a> {
    fleet: &'a DesiredFleet,
    slivers: BTreeMap<&'a NodeName, Vec<&'a DesiredSliver>>,
    all: Arc<BTreeMap<SliverId, NodeName>>,
    whereabouts: Arc<BTreeMap<NodeName, Arc<Whereabouts>>>,
    /// For sites that forbid something.
    ruled_out: BTreeMap<&'a SiteName, BTreeMap<SliverId, SiteRule>>,
}

impl ByNode<'_> {
    /// What the commit means for one node: the same as [`DesiredFleet::project`].
    #[must_use]
    pub fn project(&self, node: &NodeName, revision: &Revision) -> DesiredNode {
        let here = self.slivers.get(node).map_or(&[][..], Vec::as_slice);
        let site = self.fleet.nodes.get(node).map(|node| &node.site);
        let ruled_out = site.and_then(|site| self.ruled_out.get(site));
        let nothing = BTreeMap::new();
        let ruled_out = ruled_out.unwrap_or(&nothing);
        self.fleet
            .assemble(node, revision, here, &self.all, &self.whereabouts, ruled_out)
    }
}

impl DesiredNode {
    /// Has a sliver be here as an earlier commit asked for it: with those of that commit's `files` that it is made of, since this one
    /// need not have them.
    pub fn hold(&mut self, sliver: DesiredSliver, files: &BTreeMap<Digest, FileSet>) {
        for layer in sliver.mounts.iter().flat_map(|mount| &mount.layers) {
            if let LayerRef::Files { digest } = layer
                && let Some(set) = files.get(digest)
            {
                self.files.entry(*digest).or_insert_with(|| set.clone());
            }
        }
        self.slivers.insert(sliver.id.clone(), sliver);
    }
}

impl DesiredFleet {
    /// What the commit means for one node.
    #[must_use]
    pub fn project(&self, node: &NodeName, revision: &Revision) -> DesiredNode {
        let here: Vec<&DesiredSliver> = self
            .placed()
            .filter(|(place, _)| *place == node)
            .map(|(_, sliver)| sliver)
            .collect();
        let ruled_out = self.ruled_out(&self.policy_at(node));
        self.assemble(
            node,
            revision,
            &here,
            &self.all_slivers(),
            &Arc::new(self.whereabouts()),
            &ruled_out,
        )
    }

    /// Sorts the fleet by node.
    #[must_use]
    pub fn by_node(&self) -> ByNode<'_> {
        let mut slivers: BTreeMap<&NodeName, Vec<&DesiredSliver>> = BTreeMap::new();
        for (node, sliver) in self.placed() {
            slivers.entry(node).or_default().push(sliver);
        }
        let sites = self.sites.iter();
        ByNode {
            fleet: self,
            slivers,
            all: self.all_slivers(),
            whereabouts: Arc::new(self.whereabouts()),
            ruled_out: sites
                .filter(|(_, site)| !site.policy.forbids_nothing())
                .map(|(name, site)| (name, self.ruled_out(&site.policy)))
                .collect(),
        }
    }

    /// Every sliver and its node, by slice and number.
    fn placed(&self) -> impl Iterator<Item = (&NodeName, &DesiredSliver)> {
        let slivers = self.slices.values().flat_map(|slice| slice.slivers.values());
        slivers.map(|(node, sliver)| (node, sliver))
    }

    fn all_slivers(&self) -> Arc<BTreeMap<SliverId, NodeName>> {
        let placed = self.placed();
        Arc::new(
            placed
                .map(|(node, sliver)| (sliver.id.clone(), node.clone()))
                .collect(),
        )
    }

    fn policy_at(&self, node: &NodeName) -> SitePolicy {
        let site = self.nodes.get(node).and_then(|node| self.sites.get(&node.site));
        site.map_or_else(SitePolicy::default, |site| site.policy.clone())
    }

    fn assemble(
        &self,
        node: &NodeName,
        revision: &Revision,
        here: &[&DesiredSliver],
        all: &Arc<BTreeMap<SliverId, NodeName>>,
        whereabouts: &Arc<BTreeMap<NodeName, Arc<Whereabouts>>>,
        ruled_out: &BTreeMap<SliverId, SiteRule>,
    ) -> DesiredNode {
        let slivers: BTreeMap<SliverId, DesiredSliver> = here
            .iter()
            .map(|sliver| (sliver.id.clone(), (*sliver).clone()))
            .collect();
        let transit = self.transit.get(node).cloned().unwrap_or_default();
        let layers = slivers
            .values()
            .chain(transit.values())
            .flat_map(|sliver| &sliver.mounts)
            .flat_map(|mount| &mount.layers);
        let wanted: BTreeSet<Digest> = layers
            .filter_map(|layer| match layer {
                LayerRef::Files { digest } => Some(*digest),
                LayerRef::Template(_) | LayerRef::Directory { .. } | LayerRef::Remote { .. } => None,
            })
            .collect();
        let files = wanted
            .into_iter()
            .filter_map(|digest| Some((digest, self.files.get(&digest)?.clone())));
        let ruled_out = slivers
            .keys()
            .filter_map(|sliver| Some((sliver.clone(), ruled_out.get(sliver)?.clone())));
        let slices: BTreeSet<_> = slivers.keys().map(|sliver| sliver.slice.clone()).collect();
        let slices = slices
            .into_iter()
            .filter_map(|name| Some((name.clone(), Arc::clone(self.slices.get(&name)?))));
        DesiredNode {
            slices: slices.collect(),
            whereabouts: Arc::clone(whereabouts),
            node: node.clone(),
            fleet: self.name.clone(),
            nodes: u32::try_from(self.nodes.len()).unwrap_or(u32::MAX),
            revision: revision.clone(),
            standing: self
                .nodes
                .get(node)
                .cloned()
                .map_or(Standing::NotNamed, Standing::Named),
            delete_budget: self.delete_budget,
            approval: self.approval,
            files: files.collect(),
            site: self.policy_at(node),
            ruled_out: ruled_out.collect(),
            elsewhere: Elsewhere {
                all: Arc::clone(all),
                here: slivers.keys().cloned().collect(),
            },
            turns: Arc::clone(&self.turns),
            transit,
            slivers,
        }
    }

    /// The slivers that are placed at a site whose owner does not run them there, and why not. Where there may only be
    /// so many, the first by slice and number may be there, whatever they should be doing; those that other rules
    /// forbid do not count.
    #[must_use]
    pub fn ruled_out(&self, policy: &SitePolicy) -> BTreeMap<SliverId, SiteRule> {
        let mut ruled_out = BTreeMap::new();
        let Some(site) = &policy.site else {
            return ruled_out;
        };
        if policy.forbids_nothing() {
            return ruled_out;
        }
        let mut here = Vec::new();
        let mut of_slice: BTreeMap<&SliceName, u32> = BTreeMap::new();
        let mut of_tenant: BTreeMap<&TenantName, u32> = BTreeMap::new();
        for sliver in self.at_site(site) {
            if let Some(rule) = policy.forbids(sliver) {
                ruled_out.insert(sliver.id.clone(), rule);
                continue;
            }
            *of_slice.entry(&sliver.id.slice).or_default() += 1;
            if let Some(tenant) = &sliver.tenant {
                *of_tenant.entry(tenant).or_default() += 1;
            }
            here.push(sliver);
        }
        let mut slice_holds: BTreeMap<&SliceName, u32> = BTreeMap::new();
        let mut tenant_holds: BTreeMap<&TenantName, u32> = BTreeMap::new();
        for sliver in here {
            let slice = &sliver.id.slice;
            let slice_held = slice_holds.entry(slice).or_default();
            if let Some(cap) = policy.caps.slice_slivers.filter(|cap| *slice_held >= *cap) {
                let asked = of_slice[slice];
                ruled_out.insert(sliver.id.clone(), SiteRule::SliceSlivers { asked, cap });
                continue;
            }
            if let Some(tenant) = &sliver.tenant {
                let held = tenant_holds.entry(tenant).or_default();
                if let Some(cap) = policy.caps.tenant_slivers.filter(|cap| *held >= *cap) {
                    let (tenant, asked) = (tenant.clone(), of_tenant[tenant]);
                    ruled_out.insert(sliver.id.clone(), SiteRule::TenantSlivers { tenant, asked, cap });
                    continue;
                }
                *held += 1;
            }
            *slice_held += 1;
        }
        ruled_out
    }

    /// The slivers that are placed on nodes of a site, by slice and number.
    fn at_site<'a>(&'a self, site: &'a SiteName) -> impl Iterator<Item = &'a DesiredSliver> {
        let nodes: BTreeSet<&NodeName> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.site == *site)
            .map(|(name, _)| name)
            .collect();
        self.slices
            .values()
            .flat_map(|slice| slice.slivers.values())
            .filter(move |(node, _)| nodes.contains(node))
            .map(|(_, sliver)| sliver)
    }
}
