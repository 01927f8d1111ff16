//! Public addresses: which slivers may have them, where.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Resolver;
use super::draft::{Draft, Origin};
use crate::desired::{DesiredFleet, HypervisorKind};
use crate::diagnostic::{Code, Diagnostic, Place as Position};
use crate::id::SiteName;
use crate::manifest::Step;

/// One address of one sliver.
#[derive(Clone, Copy)]
struct Claim<'d, 'a> {
    draft: &'d Draft<'a>,
    number: usize,
    origin: Origin,
    entry: usize,
}

impl Claim<'_, '_> {
    fn place(self) -> Position {
        let path = self
            .origin
            .path(&[Step::Key("addresses"), Step::Index(self.entry)]);
        self.draft.at.place(&path)
    }

    fn sliver(self) -> String {
        format!("{}/{}", self.draft.name, self.number)
    }

    fn same_text(self, other: Self) -> bool {
        (&self.draft.name, self.origin, self.entry) == (&other.draft.name, other.origin, other.entry)
    }
}

impl<'a> Resolver<'a> {
    /// A public address is of a range that its site gives out, on a node whose hypervisor can give it to a guest, and one
    /// sliver's at a site, running or not. At several sites it may be (anycast).
    pub(super) fn check_addresses(&mut self, drafts: &[Draft<'a>], fleet: &DesiredFleet) {
        let mut taken: BTreeMap<(&SiteName, IpAddr), Claim<'_, 'a>> = BTreeMap::new();
        let mut findings: Vec<(Claim<'_, 'a>, Diagnostic)> = Vec::new();
        for draft in drafts {
            for (number, node, pattern) in draft.known() {
                let Some(there) = fleet.nodes.get(node) else {
                    continue;
                };
                for (entry, address) in pattern.addresses.value.iter().flatten().enumerate() {
                    let claim = Claim {
                        draft,
                        number,
                        origin: pattern.addresses.origin,
                        entry,
                    };
                    // An entry that is wrong for many slivers is one mistake.
                    if findings.iter().any(|(said, _)| said.same_text(claim)) {
                        continue;
                    }
                    let sliver = claim.sliver();
                    let error = |message: String| Diagnostic::error(Code::Address, claim.place(), message);
                    if there.hypervisor == HypervisorKind::Qemu {
                        let message = format!(
                            "{sliver} is on node `{node}`, whose hypervisor, qemu, gives guests no public addresses"
                        );
                        let finding =
                            error(message).help("publish ports there, or place it on a node with xen");
                        findings.push((claim, finding));
                        continue;
                    }
                    let site = &there.site;
                    let ranges = fleet.sites.get(site).map(|site| &site.policy.addresses);
                    if let Some(ranges) = ranges
                        && !ranges.iter().any(|range| range.holds(*address))
                    {
                        let message =
                            format!("{sliver} wants {address}, which site `{site}` does not give out");
                        let finding = error(message).help(if ranges.is_empty() {
                            "the site's owner says which it does: spec: { policy: { addresses: [RANGE] } }"
                                .to_owned()
                        } else {
                            let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
                            format!("it gives out {}", ranges.join(", "))
                        });
                        findings.push((claim, finding));
                        continue;
                    }
                    let Some(first) = taken.get(&(site, *address)).copied() else {
                        taken.insert((site, *address), claim);
                        continue;
                    };
                    let other = first.sliver();
                    if first.same_text(claim) {
                        let finding = error(format!(
                            "{other} and {sliver} at site `{site}` would both have {address}"
                        ))
                        .help("give each sliver its own by `overrides`: match: { number: 0 }");
                        findings.push((claim, finding));
                    } else {
                        let whose = if other == sliver { "it".to_owned() } else { other };
                        let finding = error(format!("{sliver} wants {address}, which {whose} has already"))
                            .related(first.place(), format!("{whose} gets it here"));
                        findings.push((claim, finding));
                    }
                }
            }
        }
        self.findings
            .extend(findings.into_iter().map(|(_, finding)| finding));
    }
}
