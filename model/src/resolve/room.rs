//! Whether all slivers of a node fit there together: memory, ports, numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Resolver};
use crate::desired::{DesiredFleet, DesiredSliver, SliverState};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::id::{NodeName, SliceName, SliverId};
use crate::manifest::{Body, Kind, RawSlice, SLIVERS_MAX, Step};

const PUBLISH: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("publish")];

impl<'a> Resolver<'a> {
    /// Ports stay ports, however many slivers there are.
    pub(super) fn check_publish(&mut self, at: At<'a>, raw: &RawSlice) {
        let last = raw.placement.nodes.len().saturating_sub(1);
        for (i, publish) in raw.publish.iter().enumerate() {
            if usize::from(publish.host).saturating_add(last) > usize::from(u16::MAX) {
                let path = [PUBLISH[0], PUBLISH[1], Step::Index(i), Step::Key("host")];
                let message = format!(
                    "host port {} plus sliver number {last} is beyond 65535",
                    publish.host
                );
                let finding = Diagnostic::error(Code::BadValue, at.place(&path), message)
                    .help("sliver N gets the host port plus N");
                self.findings.push(finding);
            }
        }
    }

    /// A health check comes from the node, so it can only reach what is published there.
    pub(super) fn check_health_port(&mut self, at: At<'a>, probe: &'static str, port: u16) {
        let Some(Body::Slice(raw)) = &at.document.body else {
            return;
        };
        if raw.publish.iter().all(|publish| publish.guest != port) {
            let path = [
                Step::Key("spec"),
                Step::Key("health"),
                Step::Key(probe),
                Step::Key("port"),
            ];
            let message = format!("the health check asks port {port}, which is not published");
            let guests: BTreeSet<u16> = raw.publish.iter().map(|publish| publish.guest).collect();
            let guests: Vec<String> = guests.iter().map(u16::to_string).collect();
            let finding =
                Diagnostic::error(Code::HealthPort, at.place(&path), message).help(if guests.is_empty() {
                    format!("publish it: publish: [{{ guest: {port}, host: 18080 }}]")
                } else {
                    format!("published guest ports: {}", guests.join(", "))
                });
            self.findings.push(finding);
        }
    }

    /// The fleet as a whole has a bound, so that one push cannot make every node's work unbounded.
    pub(super) fn check_count(&mut self, fleet: &DesiredFleet) {
        let mut count = 0_usize;
        for (name, slice) in &fleet.slices {
            count += slice.slivers.len();
            if count > SLIVERS_MAX {
                let message = format!(
                    "with this slice the fleet has {count} slivers, more than the {SLIVERS_MAX} allowed"
                );
                let place = self.slice_place(
                    name,
                    &[Step::Key("spec"), Step::Key("placement"), Step::Key("nodes")],
                );
                self.findings
                    .extend(place.map(|place| Diagnostic::error(Code::Limit, place, message)));
                return;
            }
        }
    }

    /// Running slivers hold their memory; stopped and suspended ones do not.
    pub(super) fn check_memory(&mut self, fleet: &DesiredFleet) {
        let running = |sliver: &DesiredSliver| sliver.state == SliverState::Running;
        let mut wanted: BTreeMap<&NodeName, u64> = BTreeMap::new();
        let slivers = || fleet.slices.values().flat_map(|slice| slice.slivers.values());
        for (node, sliver) in slivers().filter(|(_, sliver)| running(sliver)) {
            *wanted.entry(node).or_default() += sliver.resources.memory.mib();
        }
        let offered = |node: &NodeName| fleet.nodes.get(node).map(|node| node.memory.0 >> 20);
        // For each node that is too full, the first sliver that does not fit and what is left for it.
        let mut held: BTreeMap<&NodeName, u64> = BTreeMap::new();
        let mut said: BTreeSet<&NodeName> = BTreeSet::new();
        for (node, sliver) in slivers().filter(|(_, sliver)| running(sliver)) {
            let (Some(total), need) = (offered(node), sliver.resources.memory.mib()) else {
                continue;
            };
            let held = held.entry(node).or_default();
            if *held + need <= total {
                *held += need;
                continue;
            }
            if !said.insert(node) {
                continue;
            }
            let left = total - *held;
            let SliverId { slice, number } = &sliver.id;
            let index = usize::try_from(*number).unwrap_or(usize::MAX);
            let path = [
                Step::Key("spec"),
                Step::Key("placement"),
                Step::Key("nodes"),
                Step::Index(index),
            ];
            let Some(place) = self.slice_place(slice, &path) else {
                continue;
            };
            let message = if *held == 0 {
                format!(
                    "sliver {} needs {need} MiB but node `{node}` offers {total}",
                    sliver.id
                )
            } else {
                format!(
                    "sliver {} needs {need} MiB but node `{node}` has {left} left of {total}",
                    sliver.id
                )
            };
            let mut finding = Diagnostic::error(Code::Capacity, place, message);
            let free = |name: &NodeName| {
                let free = offered(name)?.checked_sub(wanted.get(name).copied().unwrap_or(0))?;
                (free >= need).then_some((free, name.clone()))
            };
            // The emptiest node, and of those the first by name.
            let best = fleet
                .nodes
                .keys()
                .filter_map(free)
                .max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            let ask = (left > 0).then(|| format!("ask for at most {left}"));
            let place_it = best.map(|(free, name)| format!("place it on `{name}` ({free} MiB free)"));
            let ways: Vec<String> = [place_it, ask].into_iter().flatten().collect();
            if ways.is_empty() {
                finding = finding.help("no node has room for it: add one, or ask for less");
            } else {
                finding = finding.help(ways.join(" or "));
            }
            self.findings.push(finding);
        }
    }

    /// A port of a node belongs to one sliver, running or not: states change more easily than ports.
    pub(super) fn check_ports(&mut self, fleet: &DesiredFleet) {
        let mut taken: BTreeMap<(&NodeName, u16), (&SliverId, usize)> = BTreeMap::new();
        let mut said = BTreeSet::new();
        for (node, sliver) in fleet.slices.values().flat_map(|slice| slice.slivers.values()) {
            for (i, publish) in sliver.publish.iter().enumerate() {
                let (first, j) = *taken.entry((node, publish.host)).or_insert((&sliver.id, i));
                if (first, j) == (&sliver.id, i) {
                    continue;
                }
                // Two entries that meet on many nodes are one mistake.
                if !said.insert((first.slice.clone(), j, sliver.id.slice.clone(), i)) {
                    continue;
                }
                let host = |slice: &SliceName, i| {
                    self.slice_place(
                        slice,
                        &[PUBLISH[0], PUBLISH[1], Step::Index(i), Step::Key("host")],
                    )
                };
                let (Some(here), Some(there)) = (host(&sliver.id.slice, i), host(&first.slice, j)) else {
                    continue;
                };
                let port = publish.host;
                let message = format!(
                    "port {port} of node `{node}` is wanted by both {first} and {}",
                    sliver.id
                );
                let mut finding = Diagnostic::error(Code::PortClash, here, message)
                    .help("sliver N gets the host port plus N");
                if first.slice != sliver.id.slice || i != j {
                    finding = finding.related(there, format!("{first} gets it here"));
                }
                self.findings.push(finding);
            }
        }
    }

    fn slice_place(&self, slice: &SliceName, path: &[Step<'_>]) -> Option<Place> {
        self.defined
            .get(&(Kind::Slice, slice.as_str()))
            .map(|at| at.place(path))
    }
}
