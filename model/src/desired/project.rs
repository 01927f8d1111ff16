//! What a commit means for one node.

use std::collections::{BTreeMap, BTreeSet};

use super::{DesiredFleet, DesiredNode, DesiredSliver, LayerRef, SitePolicy, SiteRule, Standing};
use crate::id::{Digest, NodeName, Revision, SiteName, SliceName, SliverId, TenantName};

impl DesiredFleet {
    /// What the commit means for one node.
    #[must_use]
    pub fn project(&self, node: &NodeName, revision: &Revision) -> DesiredNode {
        let mut slivers = BTreeMap::new();
        let mut elsewhere = BTreeSet::new();
        for slice in self.slices.values() {
            for (place, sliver) in slice.slivers.values() {
                if place == node {
                    slivers.insert(sliver.id.clone(), sliver.clone());
                } else {
                    elsewhere.insert(sliver.id.clone());
                }
            }
        }
        let layers = slivers
            .values()
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
        let named = self.nodes.get(node).cloned();
        let site = named.as_ref().and_then(|node| self.sites.get(&node.site));
        let site = site.map_or_else(SitePolicy::default, |site| site.policy.clone());
        let mut ruled_out = self.ruled_out(&site);
        ruled_out.retain(|sliver, _| slivers.contains_key(sliver));
        DesiredNode {
            node: node.clone(),
            fleet: self.name.clone(),
            revision: revision.clone(),
            standing: named.map_or(Standing::NotNamed, Standing::Named),
            delete_budget: self.delete_budget,
            files: files.collect(),
            site,
            slivers,
            ruled_out,
            elsewhere,
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
