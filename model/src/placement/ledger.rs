//! What is taken: memory and ports of nodes, and what the owners of sites count.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::ground::{Ask, Ground, Spot};
use super::outcome::Refusal;
use super::score;
use crate::desired::{SitePolicy, SiteRule};
use crate::id::{NodeName, SiteName, SliceName, TenantName};

/// Nodes and sites by index, in the order of their names, and what is taken of them.
pub(super) struct Ledger<'a> {
    seats: Vec<Seat<'a>>,
    index: BTreeMap<&'a NodeName, usize>,
    sites: Vec<(&'a SiteName, Option<&'a SitePolicy>)>,
    /// How many slivers take a port of a node.
    ports: BTreeMap<(usize, u16), u32>,
    slice_at_site: BTreeMap<(&'a SliceName, usize), u32>,
    tenant_at_site: BTreeMap<(&'a TenantName, usize), u32>,
}

/// A node.
pub(super) struct Seat<'a> {
    pub(super) name: &'a NodeName,
    pub(super) site: usize,
    pub(super) seed: u64,
    spot: &'a Spot,
    used_mib: u64,
}

impl Seat<'_> {
    pub(super) fn free_mib(&self) -> u64 {
        self.spot.memory_mib.saturating_sub(self.used_mib)
    }

    /// Whether it takes nothing new.
    pub(super) fn is_cordoned(&self) -> bool {
        self.spot.cordoned
    }

    pub(super) fn used_mib(&self) -> u64 {
        self.used_mib
    }

    /// What is taken beyond what there is, in MiB.
    pub(super) fn over_mib(&self) -> u64 {
        self.used_mib.saturating_sub(self.spot.memory_mib)
    }
}

impl<'a> Ledger<'a> {
    /// Nothing is taken but by the slivers that are where they are.
    pub(super) fn new(ground: &'a Ground) -> Self {
        let names: BTreeSet<&SiteName> = ground.nodes.values().map(|spot| &spot.at.site).collect();
        let site_index: BTreeMap<&SiteName, usize> =
            names.iter().enumerate().map(|(i, name)| (*name, i)).collect();
        let seats: Vec<Seat<'a>> = ground
            .nodes
            .iter()
            .map(|(name, spot)| Seat {
                name,
                site: site_index[&spot.at.site],
                seed: score::seed("node", name.as_str()),
                spot,
                used_mib: 0,
            })
            .collect();
        let mut ledger = Self {
            index: seats.iter().enumerate().map(|(i, seat)| (seat.name, i)).collect(),
            seats,
            sites: names
                .into_iter()
                .map(|name| (name, ground.sites.get(name)))
                .collect(),
            ports: BTreeMap::new(),
            slice_at_site: BTreeMap::new(),
            tenant_at_site: BTreeMap::new(),
        };
        for fixed in &ground.fixed {
            let Some(seat) = ledger.find(&fixed.node) else {
                continue;
            };
            for port in &fixed.ports {
                *ledger.ports.entry((seat, *port)).or_default() += 1;
            }
            let held = &mut ledger.seats[seat].used_mib;
            *held = held.saturating_add(fixed.memory_mib);
            ledger.count(&fixed.slice, fixed.tenant.as_ref(), seat);
        }
        ledger
    }

    pub(super) fn find(&self, node: &NodeName) -> Option<usize> {
        self.index.get(node).copied()
    }

    pub(super) fn seats(&self) -> &[Seat<'a>] {
        &self.seats
    }

    pub(super) fn seat(&self, seat: usize) -> &Seat<'a> {
        &self.seats[seat]
    }

    pub(super) fn sites_len(&self) -> usize {
        self.sites.len()
    }

    /// Why a node would not take a sliver of a slice if nothing else were there.
    pub(super) fn never(&self, slice: &SliceName, ask: &Ask, seat: usize) -> Option<Refusal> {
        let Seat { name, site, spot, .. } = &self.seats[seat];
        if !ask.matching.holds(name, &spot.at) {
            return Some(Refusal::NoMatch);
        }
        let (site, policy) = self.sites[*site];
        let rule = policy.and_then(|policy| forbids(policy, slice, ask, name));
        rule.map(|rule| Refusal::Site(site.clone(), rule))
    }

    /// The same of a sliver that is not there yet.
    pub(super) fn newly(&self, slice: &SliceName, ask: &Ask, seat: usize) -> Option<Refusal> {
        let cordoned = self.seats[seat].spot.cordoned;
        self.never(slice, ask, seat)
            .or_else(|| cordoned.then_some(Refusal::Cordoned))
    }

    /// Why a node does not take a sliver that may be there, as things are. Memory is asked last.
    pub(super) fn now(&self, slice: &SliceName, ask: &Ask, number: u32, seat: usize) -> Option<Refusal> {
        self.crowded(slice, ask, number, seat)
            .or_else(|| self.full(ask, seat))
    }

    /// Why a node does not take a sliver, but for its memory.
    pub(super) fn crowded(&self, slice: &SliceName, ask: &Ask, number: u32, seat: usize) -> Option<Refusal> {
        let site = self.seats[seat].site;
        if let (name, Some(policy)) = self.sites[site] {
            let there = self.slice_at_site.get(&(slice, site)).copied().unwrap_or(0);
            if let Some(cap) = policy.caps.slice_slivers.filter(|cap| there >= *cap) {
                let asked = there.saturating_add(1);
                return Some(Refusal::Site(name.clone(), SiteRule::SliceSlivers { asked, cap }));
            }
            if let (Some(tenant), Some(cap)) = (&ask.tenant, policy.caps.tenant_slivers) {
                let there = self.tenant_at_site.get(&(tenant, site)).copied().unwrap_or(0);
                if there >= cap {
                    let (tenant, asked) = (tenant.clone(), there.saturating_add(1));
                    return Some(Refusal::Site(
                        name.clone(),
                        SiteRule::TenantSlivers { tenant, asked, cap },
                    ));
                }
            }
        }
        let taken = ask
            .ports(number)
            .find(|port| self.ports.contains_key(&(seat, *port)));
        taken.map(Refusal::PortTaken)
    }

    fn full(&self, ask: &Ask, seat: usize) -> Option<Refusal> {
        let seat = &self.seats[seat];
        let (need_mib, free_mib) = (ask.size(seat.name).memory_mib, seat.free_mib());
        (need_mib > free_mib).then_some(Refusal::NoRoom { need_mib, free_mib })
    }

    /// Notes that a sliver is on a node, whether it fits there or not.
    pub(super) fn take(&mut self, slice: &'a SliceName, ask: &'a Ask, number: u32, seat: usize) {
        self.wake(ask, number, seat);
        self.count(slice, ask.tenant.as_ref(), seat);
    }

    /// Notes that a sliver that was [taken](Self::take) note of has left.
    pub(super) fn give(&mut self, slice: &'a SliceName, ask: &'a Ask, number: u32, seat: usize) {
        self.rest(ask, number, seat);
        self.uncount(slice, ask.tenant.as_ref(), seat);
    }

    /// Notes that a sliver that is on a node takes memory and ports there.
    pub(super) fn wake(&mut self, ask: &Ask, number: u32, seat: usize) {
        for port in ask.ports(number) {
            *self.ports.entry((seat, port)).or_default() += 1;
        }
        let Seat { name, used_mib, .. } = &mut self.seats[seat];
        *used_mib = used_mib.saturating_add(ask.size(name).memory_mib);
    }

    /// Notes that it does not.
    pub(super) fn rest(&mut self, ask: &Ask, number: u32, seat: usize) {
        for port in ask.ports(number) {
            if let Entry::Occupied(mut taken) = self.ports.entry((seat, port)) {
                *taken.get_mut() -= 1;
                if *taken.get() == 0 {
                    taken.remove();
                }
            }
        }
        let Seat { name, used_mib, .. } = &mut self.seats[seat];
        *used_mib = used_mib.saturating_sub(ask.size(name).memory_mib);
    }

    /// Whether the owner of a site counts slivers there.
    pub(super) fn counts(&self, site: usize) -> bool {
        let caps = self.sites[site].1.map(|policy| &policy.caps);
        caps.is_some_and(|caps| caps.slice_slivers.is_some() || caps.tenant_slivers.is_some())
    }

    /// Counts a sliver that is on a node no more.
    pub(super) fn uncount(&mut self, slice: &'a SliceName, tenant: Option<&'a TenantName>, seat: usize) {
        let site = self.seats[seat].site;
        let counts = [
            self.slice_at_site.get_mut(&(slice, site)),
            tenant.and_then(|tenant| self.tenant_at_site.get_mut(&(tenant, site))),
        ];
        for count in counts.into_iter().flatten() {
            *count = count.saturating_sub(1);
        }
    }

    /// Counts a sliver that is on a node.
    pub(super) fn count(&mut self, slice: &'a SliceName, tenant: Option<&'a TenantName>, seat: usize) {
        let site = self.seats[seat].site;
        // Only what is limited is counted.
        let Some(policy) = self.sites[site].1 else { return };
        if policy.caps.slice_slivers.is_some() {
            *self.slice_at_site.entry((slice, site)).or_default() += 1;
        }
        if let (Some(tenant), Some(_)) = (tenant, policy.caps.tenant_slivers) {
            *self.tenant_at_site.entry((tenant, site)).or_default() += 1;
        }
    }
}

/// The rule of a site that forbids slivers of a slice on one of its nodes, whatever else is there.
fn forbids(policy: &SitePolicy, slice: &SliceName, ask: &Ask, node: &NodeName) -> Option<SiteRule> {
    if policy.vetoes.slices.contains(slice) {
        return Some(SiteRule::VetoedSlice(slice.clone()));
    }
    if let Some(tenant) = ask
        .tenant
        .as_ref()
        .filter(|tenant| policy.vetoes.tenants.contains(tenant))
    {
        return Some(SiteRule::VetoedTenant(tenant.clone()));
    }
    let size = ask.size(node);
    if let Some(cap) = policy.caps.sliver_memory.filter(|cap| size.memory_most > *cap) {
        return Some(SiteRule::SliverMemory {
            asked: size.memory_most,
            cap,
        });
    }
    let cap = policy.caps.sliver_vcpus.filter(|cap| size.vcpus > *cap)?;
    Some(SiteRule::SliverVcpus {
        asked: size.vcpus,
        cap,
    })
}
