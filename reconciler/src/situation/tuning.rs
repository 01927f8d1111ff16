//! What can change about a domain while it runs: whether it differs, and whether the driver can change it.

use std::collections::BTreeSet;

use xeno_model::desired::DesiredSliver;
use xeno_model::observed::{Ability, ObservedDomain};
use xeno_model::units::BitRate;

use crate::ports::Tuning;

/// Whether the domain can be made what `desired` asks for without starting it anew, as far as processors, memory and ports
/// go.
pub(crate) fn can_be_tuned(
    domain: &ObservedDomain,
    desired: &DesiredSliver,
    able: &BTreeSet<Ability>,
) -> bool {
    let tuning = Tuning::of(desired);
    let memory = domain.memory_mib == tuning.memory_mib
        || able.contains(&Ability::Memory) && tuning.memory_mib <= domain.memory_max_mib;
    // What it was started for is part of what it was started as.
    let vcpus = domain.vcpus == tuning.vcpus || able.contains(&Ability::Vcpus);
    let ports = able.contains(&Ability::Ports) || same_ports(domain, &tuning);
    vcpus && memory && ports
}

/// Whether exactly the ports of `tuning` are published, in whatever order.
pub(crate) fn same_ports(domain: &ObservedDomain, tuning: &Tuning) -> bool {
    let wanted: BTreeSet<_> = tuning.publish.iter().collect();
    domain.publish.iter().collect::<BTreeSet<_>>() == wanted
}

/// In what a domain differs from `tuning`, as far as a driver with these abilities can change it.
pub(crate) fn mistuned(domain: &ObservedDomain, tuning: &Tuning, able: &BTreeSet<Ability>) -> Vec<String> {
    let limits = (&domain.limits, &tuning.limits);
    let percent = |cap: Option<u32>| cap.map_or_else(|| "none".to_owned(), |cap| format!("{cap}%"));
    let rate = |rate: Option<BitRate>| rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string());
    let mut found = Vec::new();
    for ability in able {
        let (differs, what) = match ability {
            Ability::Memory => (
                domain.memory_mib != tuning.memory_mib,
                format!(
                    "memory {} MiB instead of {} MiB",
                    domain.memory_mib, tuning.memory_mib
                ),
            ),
            Ability::Vcpus => (
                domain.vcpus != tuning.vcpus,
                format!("{} vcpus instead of {}", domain.vcpus, tuning.vcpus),
            ),
            Ability::Ports => (!same_ports(domain, tuning), "published ports".to_owned()),
            Ability::CpuWeight => (
                limits.0.cpu_weight != limits.1.cpu_weight,
                format!(
                    "cpu weight {} instead of {}",
                    limits.0.cpu_weight, limits.1.cpu_weight
                ),
            ),
            Ability::CpuCap => (
                limits.0.cpu_cap_percent != limits.1.cpu_cap_percent,
                format!(
                    "cpu cap {} instead of {}",
                    percent(limits.0.cpu_cap_percent),
                    percent(limits.1.cpu_cap_percent)
                ),
            ),
            Ability::NetRate => (
                limits.0.net_rate != limits.1.net_rate,
                format!(
                    "network rate {} instead of {}",
                    rate(limits.0.net_rate),
                    rate(limits.1.net_rate)
                ),
            ),
            Ability::Suspend | Ability::Move => (false, String::new()),
        };
        if differs {
            found.push(what);
        }
    }
    found
}
