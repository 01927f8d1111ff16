//! Which limits a hypervisor keeps, and which it only knows of.

use std::collections::BTreeSet;

use xeno_model::desired::{DesiredSliver, HypervisorKind};
use xeno_model::observed::Ability;

/// The share of CPU time that asks for nothing in particular.
const CPU_WEIGHT_PLAIN: u32 = 256;

/// Limits that a sliver asks for and that a driver with these abilities does not keep, each as people know it. How much
/// memory, how many CPUs and how much disk a guest has every driver keeps.
#[must_use]
pub fn unkept(sliver: &DesiredSliver, able: &BTreeSet<Ability>) -> Vec<String> {
    let resources = &sliver.resources;
    let weight = Some(resources.cpu_weight).filter(|weight| *weight != CPU_WEIGHT_PLAIN);
    let limits = [
        (
            Ability::CpuWeight,
            weight.map(|weight| format!("cpu weight {weight}")),
        ),
        (
            Ability::CpuCap,
            resources.cpu_cap_percent.map(|cap| format!("cpu cap {cap}%")),
        ),
        (
            Ability::NetRate,
            resources.net_rate.map(|rate| format!("network rate {rate}")),
        ),
    ];
    let missing = limits.into_iter().filter(|(ability, _)| !able.contains(ability));
    missing.filter_map(|(_, limit)| limit).collect()
}

/// What a hypervisor is taken to be able to do where nobody looked. QEMU without privileges has neither cgroups nor
/// traffic control.
#[must_use]
pub fn usual(by: HypervisorKind) -> BTreeSet<Ability> {
    let everywhere = [Ability::Memory, Ability::Ports, Ability::Suspend];
    let limits = [
        Ability::Vcpus,
        Ability::CpuWeight,
        Ability::CpuCap,
        Ability::NetRate,
    ];
    match by {
        HypervisorKind::Qemu => everywhere.into(),
        HypervisorKind::Xen => everywhere.into_iter().chain(limits).collect(),
    }
}

/// As [`unkept`], for what a hypervisor can usually do.
#[must_use]
pub fn unenforced(sliver: &DesiredSliver, by: HypervisorKind) -> Vec<String> {
    unkept(sliver, &usual(by))
}
