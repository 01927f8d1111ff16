//! Tenants: what they may have, and that they have no more.

use std::collections::BTreeMap;

use super::draft::{Draft, Pattern};
use super::{At, NAME, Resolver};
use crate::desired::{NamePattern, Quota, SliverState, Tenant};
use crate::diagnostic::{Code, Diagnostic};
use crate::id::{SliceName, TenantName};
use crate::manifest::{Body, Kind, RawQuota, RawTenant, Stated, Step};
use crate::units::Bytes;

/// What a tenant may have; `None` if something about it is wrong.
pub(super) fn tenant(raw: &RawTenant) -> Option<Tenant> {
    let slices = raw.slices.read(Vec::new(), |slices| {
        slices
            .iter()
            .map(|pattern| Some(pattern.as_ref()?.0.clone()))
            .collect()
    })?;
    Some(Tenant {
        quota: raw.quota.read(Quota::default(), quota)?,
        slices: slices.into_iter().collect(),
    })
}

fn quota(raw: &RawQuota) -> Option<Quota> {
    Some(Quota {
        slivers: raw.slivers.read(None, |slivers| Some(Some(*slivers)))?,
        memory: raw.memory.read(None, |memory| Some(Some(memory.0)))?,
        vcpus: raw.vcpus.read(None, |vcpus| Some(Some(*vcpus)))?,
        disk: raw.disk.read(None, |disk| Some(Some(disk.0)))?,
    })
}

/// What slivers ask for of a tenant's quota.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    slivers: u64,
    memory: u64,
    vcpus: u64,
    disk: u64,
}

impl Asked {
    /// What a slice asks for, as far as it is known.
    fn by(draft: &Draft<'_>) -> Self {
        let mut asked = Self {
            slivers: u64::try_from(draft.count()).unwrap_or(u64::MAX),
            ..Self::default()
        };
        let of = |pattern: &Pattern| {
            let runs = pattern
                .state
                .value
                .is_some_and(|state| state != SliverState::Stopped);
            let disk = pattern.disk.value.flatten().map_or(0, |disk| disk.0);
            Self {
                slivers: 0,
                memory: pattern
                    .memory_most()
                    .filter(|_| runs)
                    .map_or(0, |memory| memory.0),
                vcpus: pattern.vcpus.value.filter(|_| runs).map_or(0, u64::from),
                disk: disk.saturating_mul(u64::try_from(pattern.mounts.on_disk()).unwrap_or(u64::MAX)),
            }
        };
        let patterns: Vec<Self> = draft.patterns.iter().map(of).collect();
        for pattern in draft.seats.iter().filter_map(|seat| seat.pattern) {
            asked.add(patterns[pattern]);
        }
        asked
    }

    fn add(&mut self, other: Self) {
        self.slivers = self.slivers.saturating_add(other.slivers);
        self.memory = self.memory.saturating_add(other.memory);
        self.vcpus = self.vcpus.saturating_add(other.vcpus);
        self.disk = self.disk.saturating_add(other.disk);
    }
}

/// One line of a quota.
struct Line {
    /// As sentences name it.
    what: &'static str,
    field: &'static str,
    allowed: Option<u64>,
    of: fn(&Asked) -> u64,
    show: fn(u64) -> String,
}

fn lines(quota: &Quota) -> [Line; 4] {
    let bytes = |bytes: u64| Bytes(bytes).to_string();
    [
        Line {
            what: "slivers",
            field: "slivers",
            allowed: quota.slivers.map(u64::from),
            of: |asked| asked.slivers,
            show: |n| n.to_string(),
        },
        Line {
            what: "of memory",
            field: "memory",
            allowed: quota.memory.map(|bytes| bytes.0),
            of: |asked| asked.memory,
            show: bytes,
        },
        Line {
            what: "vCPUs",
            field: "vcpus",
            allowed: quota.vcpus.map(u64::from),
            of: |asked| asked.vcpus,
            show: |n| n.to_string(),
        },
        Line {
            what: "of disk",
            field: "disk",
            allowed: quota.disk.map(|bytes| bytes.0),
            of: |asked| asked.disk,
            show: bytes,
        },
    ]
}

/// Slices that a message names at most.
const NAMED_MAX: usize = 5;

impl<'a> Resolver<'a> {
    /// Tenants, with their documents.
    fn tenants(&self) -> Vec<(TenantName, At<'a>, &'a RawTenant)> {
        let tenants = self.defined.iter().filter_map(|((kind, name), at)| {
            let Some(Body::Tenant(raw)) = &at.document.body else {
                return None;
            };
            let once = *kind == Kind::Tenant && !self.twice.contains(&(*kind, *name));
            Some((TenantName::new(name).ok().filter(|_| once)?, *at, raw))
        });
        tenants.collect()
    }

    /// What the slices of a tenant ask for together is within its quota.
    pub(super) fn check_quotas(&mut self, drafts: &[Draft<'a>]) {
        let mut of_tenant: BTreeMap<&TenantName, Vec<(&Draft<'a>, Asked)>> = BTreeMap::new();
        for draft in drafts {
            if let Some(Some(tenant)) = &draft.tenant {
                of_tenant
                    .entry(tenant)
                    .or_default()
                    .push((draft, Asked::by(draft)));
            }
        }
        for (name, at, raw) in self.tenants() {
            let (Some(slices), Some(tenant)) = (of_tenant.get(&name), tenant(raw)) else {
                continue;
            };
            for line in lines(&tenant.quota) {
                if let Some(allowed) = line.allowed {
                    self.check_line(&name, at, &line, allowed, slices);
                }
            }
            if tenant.quota.disk.is_some() {
                self.check_limits(&name, at, slices);
            }
        }
    }

    fn check_line(
        &mut self,
        tenant: &TenantName,
        at: At<'a>,
        line: &Line,
        allowed: u64,
        slices: &[(&Draft<'a>, Asked)],
    ) {
        let each = || slices.iter().map(|(draft, asked)| (draft, (line.of)(asked)));
        let total = each().fold(0_u64, |sum, (_, n)| sum.saturating_add(n));
        if total <= allowed {
            return;
        }
        // It is the slice that goes beyond which is pointed at.
        let mut sum = 0_u64;
        let beyond = each().find(|(_, n)| {
            sum = sum.saturating_add(*n);
            sum > allowed
        });
        let Some((draft, _)) = beyond else { return };
        let (show, what) = (line.show, line.what);
        let message = format!(
            "the tenant `{tenant}` may have {} {what}, and its slices ask for {}",
            show(allowed),
            show(total)
        );
        let mut largest: Vec<_> = each().filter(|(_, n)| *n > 0).collect();
        largest.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.name.cmp(&b.0.name)));
        let mut named: Vec<String> = largest
            .iter()
            .take(NAMED_MAX)
            .map(|(draft, n)| format!("{} {}", draft.name, show(*n)))
            .collect();
        if largest.len() > NAMED_MAX {
            named.push("…".to_owned());
        }
        let quota = [Step::Key("spec"), Step::Key("quota"), Step::Key(line.field)];
        let place = draft.at.place(&[Step::Key("metadata"), Step::Key("tenant")]);
        let finding = Diagnostic::error(Code::Quota, place, message)
            .related(at.place(&quota), "its quota")
            .help(format!("they ask for: {}", named.join(", ")));
        self.findings.push(finding);
    }

    /// What has no limit cannot be within one.
    fn check_limits(&mut self, tenant: &TenantName, at: At<'a>, slices: &[(&Draft<'a>, Asked)]) {
        for (draft, _) in slices {
            let used = draft
                .seats
                .iter()
                .filter_map(|seat| Some(&draft.patterns[seat.pattern?]));
            let unlimited = used
                .into_iter()
                .find(|pattern| pattern.disk.value == Some(None) && pattern.mounts.on_disk() > 0);
            if unlimited.is_none() {
                continue;
            }
            let message = format!(
                "the disk of `{}` has no limit, and that of the tenant `{tenant}` has one",
                draft.name
            );
            let path = [Step::Key("spec"), Step::Key("resources")];
            let quota = [Step::Key("spec"), Step::Key("quota"), Step::Key("disk")];
            let finding = Diagnostic::error(Code::Quota, draft.at.key_place(&path), message)
                .related(at.place(&quota), "its quota")
                .help("say how much each writable layer may hold: resources: { disk: 10GiB, … }");
            self.findings.push(finding);
        }
    }

    /// Slices have names that their tenants may use, and none that is another's.
    pub(super) fn check_claims(&mut self, drafts: &[Draft<'a>]) {
        let claim = |raw: &'a RawTenant| match &raw.slices {
            Stated::Given(patterns) => {
                let whole = patterns.iter().all(Option::is_some);
                let patterns = patterns.iter().flatten().map(|pattern| &pattern.0).collect();
                (patterns, whole)
            }
            Stated::Absent => (Vec::new(), true),
            Stated::Unclear => (Vec::new(), false),
        };
        let claims: Vec<(TenantName, At<'a>, Vec<&NamePattern>, bool)> = self
            .tenants()
            .into_iter()
            .map(|(name, at, raw)| {
                let (patterns, whole) = claim(raw);
                (name, at, patterns, whole)
            })
            .collect();
        let claimed = |patterns: &[&NamePattern], name: &SliceName| {
            patterns.iter().any(|pattern| pattern.matches(name))
        };
        for draft in drafts {
            let Some(owner) = &draft.tenant else { continue };
            let name = &draft.name;
            for (tenant, at, patterns, whole) in &claims {
                let there = at.key_place(&[Step::Key("spec"), Step::Key("slices")]);
                let own = owner.as_ref() == Some(tenant);
                let finding = if own && !patterns.is_empty() && *whole && !claimed(patterns, name) {
                    let allowed: Vec<String> = patterns
                        .iter()
                        .take(NAMED_MAX)
                        .map(|pattern| format!("`{pattern}`"))
                        .collect();
                    let message = format!("slices of the tenant `{tenant}` may not be called `{name}`");
                    Diagnostic::error(Code::Tenant, draft.at.place(NAME), message)
                        .related(there, "they are named here")
                        .help(format!("they may be called {}", allowed.join(", ")))
                } else if !own && claimed(patterns, name) {
                    let message = format!("only slices of the tenant `{tenant}` may be called `{name}`");
                    Diagnostic::error(Code::Tenant, draft.at.place(NAME), message)
                        .related(there, "it has claimed that name here")
                        .help(format!("give it another name, or say whose it is: metadata: {{ name: {name}, tenant: {tenant} }}"))
                } else {
                    continue;
                };
                self.findings.push(finding);
            }
        }
    }
}
