//! Which limits a hypervisor keeps, and which it only knows of.

use xeno_model::desired::{DesiredSliver, HypervisorKind};

/// The share of CPU time that asks for nothing in particular.
const CPU_WEIGHT_PLAIN: u32 = 256;

/// Limits that a sliver asks for and that a node with this hypervisor does not keep, each as people know it. QEMU
/// without privileges has neither cgroups nor traffic control; how much memory, how many CPUs and how much disk a guest
/// has it does keep.
#[must_use]
pub fn unenforced(sliver: &DesiredSliver, by: HypervisorKind) -> Vec<String> {
    match by {
        HypervisorKind::Xen => Vec::new(),
        HypervisorKind::Qemu => {
            let resources = &sliver.resources;
            let weight = Some(resources.cpu_weight).filter(|weight| *weight != CPU_WEIGHT_PLAIN);
            let limits = [
                weight.map(|weight| format!("cpu weight {weight}")),
                resources.cpu_cap_percent.map(|cap| format!("cpu cap {cap}%")),
                resources.net_rate.map(|rate| format!("network rate {rate}")),
            ];
            limits.into_iter().flatten().collect()
        }
    }
}
