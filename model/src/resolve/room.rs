//! Whether all slivers of a node fit there together: memory, ports, numbers.
//!
//! Slices count with what is known of them. They can only become more, so what does not fit now never will.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Resolver, slice};
use crate::desired::{DesiredFleet, SliverState};
use crate::diagnostic::{Code, Diagnostic};
use crate::id::NodeName;
use crate::manifest::{Body, Kind, RawSlice, SLIVERS_MAX, Step, Text};

const PUBLISH: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("publish")];

impl<'a> Resolver<'a> {
    /// Ports stay ports, however many slivers there are.
    pub(super) fn check_publish(&mut self, at: At<'a>, raw: &RawSlice) {
        let last = nodes(raw).len().saturating_sub(1);
        for (i, host) in hosts(raw) {
            if usize::from(host).saturating_add(last) > usize::from(u16::MAX) {
                let path = [PUBLISH[0], PUBLISH[1], Step::Index(i), Step::Key("host")];
                let message = format!("host port {host} plus sliver number {last} is beyond 65535");
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
        // All published guest ports, if they are known.
        let guests = raw.publish.read(BTreeSet::new(), |publish| {
            let ports = publish.iter().map(|publish| publish.as_ref()?.guest);
            ports.collect::<Option<BTreeSet<u16>>>()
        });
        let Some(guests) = guests else {
            return;
        };
        if !guests.contains(&port) {
            let path = [
                Step::Key("spec"),
                Step::Key("health"),
                Step::Key(probe),
                Step::Key("port"),
            ];
            let message = format!("the health check asks port {port}, which is not published");
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
    pub(super) fn check_count(&mut self) {
        let mut count = 0_usize;
        let too_many = self.slices().find_map(|(at, _, raw)| {
            count += nodes(raw).len();
            (count > SLIVERS_MAX).then_some(at)
        });
        if let Some(at) = too_many {
            let message =
                format!("with this slice the fleet has {count} slivers, more than the {SLIVERS_MAX} allowed");
            let place = at.place(&[Step::Key("spec"), Step::Key("placement"), Step::Key("nodes")]);
            self.findings.push(Diagnostic::error(Code::Limit, place, message));
        }
    }

    /// Running slivers hold their memory; stopped and suspended ones do not.
    pub(super) fn check_memory(&mut self, fleet: &DesiredFleet) {
        let mut running = Vec::new();
        for (at, name, raw) in self.slices() {
            let memory = raw.resources.as_ref().and_then(|raw| raw.memory.as_ref());
            let (Some(memory), Some(SliverState::Running)) = (memory, slice::state(raw)) else {
                continue;
            };
            let known = nodes(raw).iter().enumerate();
            running
                .extend(known.filter_map(|(i, node)| Some((at, name, i, &node.as_ref()?.0, memory.0.mib()))));
        }
        let mut wanted: BTreeMap<&NodeName, u64> = BTreeMap::new();
        for (_, _, _, node, need) in &running {
            *wanted.entry(node).or_default() += need;
        }
        let twice = &self.twice;
        let offered = |name: &NodeName| {
            let node = fleet.nodes.get(name)?;
            (!twice.contains(&(Kind::Node, name.as_str()))).then_some(node.memory.0 >> 20)
        };
        // For each node that is too full, the first sliver that does not fit and what is left for it.
        let mut held: BTreeMap<&NodeName, u64> = BTreeMap::new();
        let mut said: BTreeSet<&NodeName> = BTreeSet::new();
        let mut findings = Vec::new();
        for (at, name, i, node, need) in running {
            let Some(total) = offered(node) else {
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
            let path = [
                Step::Key("spec"),
                Step::Key("placement"),
                Step::Key("nodes"),
                Step::Index(i),
            ];
            let place = at.place(&path);
            let message = if *held == 0 {
                format!("sliver {name}/{i} needs {need} MiB but node `{node}` offers {total}")
            } else {
                format!("sliver {name}/{i} needs {need} MiB but node `{node}` has {left} left of {total}")
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
            findings.push(finding);
        }
        self.findings.extend(findings);
    }

    /// A port of a node belongs to one sliver, running or not: states change more easily than ports.
    pub(super) fn check_ports(&mut self) {
        /// One entry of `publish` for one sliver.
        #[derive(Clone, Copy)]
        struct Claim<'a> {
            at: At<'a>,
            slice: &'a str,
            number: usize,
            entry: usize,
        }
        let place = |claim: Claim<'_>| {
            let path = [
                PUBLISH[0],
                PUBLISH[1],
                Step::Index(claim.entry),
                Step::Key("host"),
            ];
            claim.at.place(&path)
        };
        let mut taken: BTreeMap<(&NodeName, usize), Claim<'a>> = BTreeMap::new();
        let mut said = BTreeSet::new();
        let mut findings = Vec::new();
        for (at, slice, raw) in self.slices() {
            for (number, node) in nodes(raw).iter().enumerate() {
                let Some(Text(node)) = node else { continue };
                for (entry, host) in hosts(raw) {
                    let claim = Claim {
                        at,
                        slice,
                        number,
                        entry,
                    };
                    let port = usize::from(host) + number;
                    let Some(first) = taken.get(&(node, port)).copied() else {
                        taken.insert((node, port), claim);
                        continue;
                    };
                    // Two entries that meet on many nodes are one mistake.
                    if !said.insert((first.slice, first.entry, slice, entry)) {
                        continue;
                    }
                    let (it, other) = (
                        format!("{}/{}", first.slice, first.number),
                        format!("{slice}/{number}"),
                    );
                    let message = format!("port {port} of node `{node}` is wanted by both {it} and {other}");
                    let mut finding = Diagnostic::error(Code::PortClash, place(claim), message)
                        .help("sliver N gets the host port plus N");
                    if (first.slice, first.entry) != (slice, entry) {
                        finding = finding.related(place(first), format!("{it} gets it here"));
                    }
                    findings.push(finding);
                }
            }
        }
        self.findings.extend(findings);
    }

    /// The slices whose names are right, in order.
    fn slices(&self) -> impl Iterator<Item = (At<'a>, &'a str, &'a RawSlice)> {
        self.defined
            .iter()
            .filter_map(|((_, name), at)| match &at.document.body {
                Some(Body::Slice(raw)) => Some((*at, *name, &**raw)),
                Some(Body::Fleet(_) | Body::Site(_) | Body::Node(_) | Body::Template(_)) | None => None,
            })
    }
}

/// Where a slice's slivers go, by number; nothing if that cannot be told.
fn nodes(raw: &RawSlice) -> &[Option<Text<NodeName>>] {
    let nodes = raw
        .placement
        .as_ref()
        .and_then(|placement| placement.nodes.as_ref());
    nodes.map_or(&[], Vec::as_slice)
}

/// The host ports that a slice's first sliver publishes, with their indices, as far as they are known.
fn hosts(raw: &RawSlice) -> impl Iterator<Item = (usize, u16)> {
    let publish = raw.publish.given().into_iter().flatten().enumerate();
    publish.filter_map(|(i, publish)| Some((i, publish.as_ref()?.host?)))
}
