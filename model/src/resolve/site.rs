//! Sites, and what their owners allow.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Resolver};
use crate::desired::{Site, SiteCaps, SitePolicy, Vetoes, Weekday, Window, Windows};
use crate::diagnostic::{Code, Diagnostic};
use crate::id::SiteName;
use crate::manifest::{Kind, RawDay, RawPolicy, RawSite, RawWindow, Stated, Step, Text};
use crate::units::Millis;

const DISTANCES: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("distances")];
const POLICY: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("policy")];

impl<'a> Resolver<'a> {
    /// `None` if something about it is wrong.
    pub(super) fn site(&mut self, at: At<'a>, name: &SiteName, raw: &'a RawSite) -> Option<Site> {
        let mut distances = Some(BTreeMap::new());
        if let Stated::Given(entries) = &raw.distances {
            for Text(other) in entries.known.keys() {
                let path = [DISTANCES[0], DISTANCES[1], Step::Key(other.as_str())];
                self.find(Kind::Site, other.as_str(), || at.key_place(&path));
            }
            let distance = |(name, distance): (&Text<SiteName>, &Option<Text<Millis>>)| {
                Some((name.0.clone(), distance.as_ref()?.0))
            };
            distances = entries.known.iter().map(distance).collect();
            distances = distances.filter(|_| entries.whole);
        } else if let Stated::Unclear = raw.distances {
            distances = None;
        }
        let policy = match &raw.policy {
            Stated::Absent => Some(SitePolicy {
                site: Some(name.clone()),
                ..SitePolicy::default()
            }),
            Stated::Unclear => None,
            Stated::Given(policy) => self.policy(at, name, policy),
        };
        Some(Site {
            region: raw.region.read(None, |region| Some(Some(region.0.0.clone())))?,
            distances: distances?,
            policy: policy?,
        })
    }

    fn policy(&mut self, at: At<'a>, name: &SiteName, raw: &'a RawPolicy) -> Option<SitePolicy> {
        let caps = raw.caps.read(SiteCaps::default(), |caps| {
            Some(SiteCaps {
                sliver_memory: caps.sliver.read(None, |sliver| {
                    sliver.memory.read(None, |memory| Some(Some(memory.0)))
                })?,
                sliver_vcpus: caps
                    .sliver
                    .read(None, |sliver| sliver.vcpus.read(None, |vcpus| Some(Some(*vcpus))))?,
                slice_slivers: caps.slice.read(None, |count| Some(Some(count.slivers?)))?,
                tenant_slivers: caps.tenant.read(None, |count| Some(Some(count.slivers?)))?,
            })
        });
        let vetoes = match &raw.vetoes {
            Stated::Absent => Some(Vetoes::default()),
            Stated::Unclear => None,
            Stated::Given(vetoes) => {
                let path = |field, i| {
                    [
                        POLICY[0],
                        POLICY[1],
                        Step::Key("vetoes"),
                        Step::Key(field),
                        Step::Index(i),
                    ]
                };
                for (i, slice) in vetoes.slices.given().into_iter().flatten().enumerate() {
                    if let Some(Text(slice)) = slice {
                        self.find(Kind::Slice, slice.as_str(), || at.place(&path("slices", i)));
                    }
                }
                for (i, tenant) in vetoes.tenants.given().into_iter().flatten().enumerate() {
                    if let Some(Text(tenant)) = tenant {
                        self.find(Kind::Tenant, tenant.as_str(), || at.place(&path("tenants", i)));
                    }
                }
                let slices = vetoes.slices.read(BTreeSet::new(), |slices| {
                    slices
                        .iter()
                        .map(|slice| Some(slice.as_ref()?.0.clone()))
                        .collect()
                });
                let tenants = vetoes.tenants.read(BTreeSet::new(), |tenants| {
                    tenants
                        .iter()
                        .map(|tenant| Some(tenant.as_ref()?.0.clone()))
                        .collect()
                });
                slices
                    .zip(tenants)
                    .map(|(slices, tenants)| Vetoes { slices, tenants })
            }
        };
        let windows = match &raw.maintenance {
            Stated::Absent => Some(Vec::new()),
            Stated::Unclear => None,
            Stated::Given(windows) => {
                let mut read = Vec::with_capacity(windows.len());
                for (i, window) in windows.iter().enumerate() {
                    read.push(window.as_ref().and_then(|window| self.window(at, i, window)));
                }
                if windows.is_empty() {
                    let path = [POLICY[0], POLICY[1], Step::Key("maintenance")];
                    let message = "with no window at all, nothing could ever be changed here";
                    let finding = Diagnostic::error(Code::BadValue, at.key_place(&path), message)
                        .help("leave `maintenance` out if changes may be made at any time");
                    self.findings.push(finding);
                }
                read.into_iter().collect::<Option<_>>()
            }
        };
        let addresses = raw.addresses.read(Vec::new(), |ranges| {
            ranges.iter().map(|range| Some(range.as_ref()?.0)).collect()
        });
        Some(SitePolicy {
            site: Some(name.clone()),
            caps: caps?,
            vetoes: vetoes?,
            windows: Windows { weekly: windows? },
            addresses: addresses?,
        })
    }

    fn window(&mut self, at: At<'a>, i: usize, raw: &RawWindow) -> Option<Window> {
        let path = |field| {
            [
                POLICY[0],
                POLICY[1],
                Step::Key("maintenance"),
                Step::Index(i),
                Step::Key(field),
            ]
        };
        let days = raw.days.read(Weekday::ALL.into(), |days| {
            days.iter()
                .map(|day| Some(weekday((*day)?)))
                .collect::<Option<BTreeSet<_>>>()
        });
        if days.as_ref().is_some_and(BTreeSet::is_empty) {
            let message = "a window needs a day to begin on";
            let finding = Diagnostic::error(Code::BadValue, at.key_place(&path("days")), message)
                .help("leave `days` out for every day");
            self.findings.push(finding);
        }
        let (from, until) = (raw.from.as_ref()?.0.0, raw.until.as_ref()?.0.0);
        if from == 24 * 60 {
            let finding =
                Diagnostic::error(Code::BadValue, at.place(&path("from")), "no day begins at 24:00")
                    .help("that is 00:00 of the next day");
            self.findings.push(finding);
        }
        Some(Window {
            days: days?,
            from_min: from,
            until_min: until,
        })
    }
}

fn weekday(raw: RawDay) -> Weekday {
    match raw {
        RawDay::Mon => Weekday::Mon,
        RawDay::Tue => Weekday::Tue,
        RawDay::Wed => Weekday::Wed,
        RawDay::Thu => Weekday::Thu,
        RawDay::Fri => Weekday::Fri,
        RawDay::Sat => Weekday::Sat,
        RawDay::Sun => Weekday::Sun,
    }
}
