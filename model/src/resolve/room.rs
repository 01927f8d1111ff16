//! Whether all slivers of a node fit there together: memory, ports, numbers, places that they write to.
//!
//! Slices count with what is known of them. They can only become more, so what does not fit now never will. Slivers that
//! are where a lock has them are the matter of [`super::lock`].

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, Origin, Pattern, Place};
use super::{At, Resolver};
use crate::desired::{DesiredFleet, SliverState};
use crate::diagnostic::{Code, Diagnostic, Place as Position};
use crate::id::{NodeName, SliverId};
use crate::manifest::{Kind, SLIVER_PLACE, SLIVERS_MAX, Step, Writable};

/// The address of a host port.
fn host_path(origin: Origin, entry: usize) -> Vec<Step<'static>> {
    origin.path(&[Step::Key("publish"), Step::Index(entry), Step::Key("host")])
}

impl<'a> Resolver<'a> {
    /// Ports stay ports, however many slivers there are.
    pub(super) fn check_publish(&mut self, at: At<'a>, pattern: &Pattern, last: usize) {
        for (i, host) in pattern.hosts() {
            if usize::from(host).saturating_add(last) > usize::from(u16::MAX) {
                let path = host_path(pattern.publish.origin, i);
                let message = format!("host port {host} plus sliver number {last} is beyond 65535");
                let finding = Diagnostic::error(Code::BadValue, at.place(&path), message)
                    .help("sliver N gets the host port plus N");
                self.say(finding);
            }
        }
    }

    /// The fleet as a whole has a bound, so that one push cannot make every node's work unbounded.
    pub(super) fn check_count(&mut self, drafts: &[Draft<'a>]) {
        let mut count = 0_usize;
        let too_many = drafts.iter().find_map(|draft| {
            count = count.saturating_add(draft.count());
            let field = match draft.place {
                Place::Replicas { .. } => "replicas",
                Place::Nodes(_) | Place::Unclear => "nodes",
            };
            (count > SLIVERS_MAX).then_some((draft.at, field))
        });
        if let Some((at, field)) = too_many {
            let message =
                format!("with this slice the fleet has {count} slivers, more than the {SLIVERS_MAX} allowed");
            let place = at.place(&[Step::Key("spec"), Step::Key("placement"), Step::Key(field)]);
            self.findings.push(Diagnostic::error(Code::Limit, place, message));
        }
    }

    /// Running slivers hold their memory; stopped and suspended ones do not.
    pub(super) fn check_memory(&mut self, drafts: &[Draft<'a>], fleet: &DesiredFleet) {
        let mut running = Vec::new();
        for draft in drafts
            .iter()
            .filter(|draft| matches!(draft.place, Place::Nodes(_)))
        {
            let known = draft
                .known()
                .filter(|(_, _, pattern)| pattern.state.value == Some(SliverState::Running));
            running.extend(known.filter_map(|(i, node, pattern)| {
                Some((draft.at, &draft.name, i, node, pattern.memory.value?.mib()))
            }));
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
    pub(super) fn check_ports(&mut self, drafts: &[Draft<'a>]) {
        /// One entry of `publish` for one sliver.
        #[derive(Clone, Copy)]
        struct Claim<'d, 'a> {
            draft: &'d Draft<'a>,
            number: usize,
            origin: Origin,
            entry: usize,
        }
        impl Claim<'_, '_> {
            fn place(self) -> Position {
                self.draft.at.place(&host_path(self.origin, self.entry))
            }

            fn sliver(self) -> String {
                format!("{}/{}", self.draft.name, self.number)
            }

            fn same_text(self, other: Self) -> bool {
                (&self.draft.name, self.origin, self.entry) == (&other.draft.name, other.origin, other.entry)
            }
        }
        let mut taken: BTreeMap<(&NodeName, usize), Claim<'_, 'a>> = BTreeMap::new();
        let mut findings: Vec<(Claim<'_, 'a>, Claim<'_, 'a>, Diagnostic)> = Vec::new();
        for draft in drafts
            .iter()
            .filter(|draft| matches!(draft.place, Place::Nodes(_)))
        {
            for (number, node, pattern) in draft.known() {
                for (entry, host) in pattern.hosts() {
                    let claim = Claim {
                        draft,
                        number,
                        origin: pattern.publish.origin,
                        entry,
                    };
                    let port = usize::from(host) + number;
                    let Some(first) = taken.get(&(node, port)).copied() else {
                        taken.insert((node, port), claim);
                        continue;
                    };
                    // Two entries that meet on many nodes are one mistake.
                    if findings
                        .iter()
                        .any(|(a, b, _)| a.same_text(first) && b.same_text(claim))
                    {
                        continue;
                    }
                    let (it, other) = (first.sliver(), claim.sliver());
                    let message = format!("port {port} of node `{node}` is wanted by both {it} and {other}");
                    let mut finding = Diagnostic::error(Code::PortClash, claim.place(), message)
                        .help("sliver N gets the host port plus N");
                    if !first.same_text(claim) {
                        finding = finding.related(first.place(), format!("{it} gets it here"));
                    }
                    findings.push((first, claim, finding));
                }
            }
        }
        self.findings
            .extend(findings.into_iter().map(|(_, _, finding)| finding));
    }

    /// What one sliver writes to, no other does.
    pub(super) fn check_writables(&mut self, drafts: &[Draft<'a>]) {
        let mut taken: BTreeMap<String, (SliverId, Position)> = BTreeMap::new();
        let mut findings = Vec::new();
        for draft in drafts {
            let own: Vec<bool> = draft
                .patterns
                .iter()
                .map(|pattern| pattern.mounts.of_its_own())
                .collect();
            let mut said = BTreeSet::new();
            for (i, seat) in draft.seats.iter().enumerate() {
                let Some(pattern) = seat.pattern.filter(|pattern| own[*pattern]) else {
                    continue;
                };
                let Ok(number) = u32::try_from(i) else { continue };
                let sliver = SliverId::new(draft.name.clone(), number);
                for mount in &draft.patterns[pattern].mounts.all {
                    let Some(Writable::Url(url)) = &mount.writable else {
                        continue;
                    };
                    let place = || {
                        draft
                            .at
                            .place(&Pattern::mount_path(mount.writable_spot, Some("writable")))
                    };
                    let filled = url.replace(SLIVER_PLACE, &sliver.label());
                    let Some((first, there)) = taken.get(&filled) else {
                        taken.insert(filled, (sliver.clone(), place()));
                        continue;
                    };
                    if !said.insert(mount.writable_spot.1) {
                        continue;
                    }
                    let place = place();
                    let message = format!("{first} and {sliver} would both write to `{filled}`");
                    let same =
                        (&there.path, there.line, there.column) == (&place.path, place.line, place.column);
                    let mut finding = Diagnostic::error(Code::Writable, place, message);
                    if !same {
                        finding = finding.related(there.clone(), format!("{first} writes to it here"));
                    }
                    if !url.contains(SLIVER_PLACE) {
                        finding = finding.help(format!(
                            "put {SLIVER_PLACE} into it, which stands for the sliver: {url}/{SLIVER_PLACE}"
                        ));
                    }
                    findings.push(finding);
                }
            }
        }
        self.findings.extend(findings);
    }

    /// What another node is to go on with lies where it reaches it.
    pub(super) fn check_failover(&mut self, drafts: &[Draft<'a>]) {
        for draft in drafts.iter().filter(|draft| draft.failover == Some(true)) {
            let mut said = BTreeSet::new();
            for mount in draft.patterns.iter().flat_map(|pattern| &pattern.mounts.all) {
                if mount.writable != Some(Writable::Local) || !said.insert(mount.path.as_str()) {
                    continue;
                }
                let place = draft
                    .at
                    .place(&Pattern::mount_path(mount.writable_spot, Some("writable")));
                let message = format!(
                    "what `{}` writes to `{}` lies on its node's own disk, where no other node can go on with it",
                    draft.name, mount.path
                );
                let finding = Diagnostic::error(Code::Writable, place, message)
                    .related(draft.at.place(&[Step::Key("spec"), Step::Key("failover")]), "another node is to take it over")
                    .help(format!(
                        "write to storage that its nodes share, as in `writable: nfs://store.example/{}/{SLIVER_PLACE}`, or to \
                         `memory`, or leave out `failover`",
                        draft.name
                    ));
                self.findings.push(finding);
            }
        }
    }

    /// Data has one heir.
    pub(super) fn check_heirs(&mut self, drafts: &[Draft<'a>]) {
        let mut heirs: BTreeMap<&str, &Draft<'a>> = BTreeMap::new();
        let path = [Step::Key("metadata"), Step::Key("movedFrom")];
        for draft in drafts {
            let Some(Some(old)) = &draft.moved_from else {
                continue;
            };
            let Some(first) = heirs.get(old.as_str()) else {
                heirs.insert(old.as_str(), draft);
                continue;
            };
            let message = format!(
                "both `{}` and `{}` would take over the data of `{old}`",
                first.name, draft.name
            );
            let finding = Diagnostic::error(Code::MovedFrom, draft.at.place(&path), message)
                .related(first.at.place(&path), "the first does here");
            self.findings.push(finding);
        }
    }
}
