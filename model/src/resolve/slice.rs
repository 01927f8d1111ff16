//! One slice: what it says, what its overrides say, and its slivers on their nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, Given, Origin, Override, Pattern, Place, Seat};
use super::labels::Labels;
use super::service::{Defaults, migration};
use super::{At, NAME, Resolver};
use crate::desired::{DesiredFleet, DesiredSliver, Matching, Publish, Slice};
use crate::diagnostic::{Code, Diagnostic};
use crate::id::{DomainUuid, FleetName, NodeName, SliceName, SliverId, TenantName};
use crate::manifest::{Kind, RawSlice, RawSpread, Stated, Step, Text};
use crate::placement::Spread;

impl<'a> Resolver<'a> {
    /// Reads all of a slice but its room. What is wrong with it is said; what is right can be built upon. Puts the files
    /// that it carries into `fleet`.
    pub(super) fn draft(
        &mut self,
        at: At<'a>,
        name: SliceName,
        raw: &'a RawSlice,
        defaults: &Defaults,
        labels: &Labels,
        fleet: &mut DesiredFleet,
    ) -> Draft<'a> {
        let (tenant, moved_from) = self.owner(at, &name, raw);
        let base = Given {
            kernel: Stated::Unclear,
            mounts: Stated::Unclear,
            resources: raw.resources.as_ref().map_or(Stated::Unclear, Stated::Given),
            publish: &raw.publish,
            addresses: &raw.addresses,
            health: &raw.health,
            state: &raw.state,
            start: &raw.start,
            rollback: &raw.rollback,
        };
        let image = raw.image.as_ref().map_or(Stated::Unclear, Stated::Given);
        let base = self.follow(at, Origin::Slice, base, &image, fleet);
        let mut pattern = Pattern::new(defaults);
        pattern.apply(&base, Origin::Slice);
        let rollout = self.rollout(
            at,
            &[Step::Key("spec")],
            &raw.rollout,
            defaults.rollout.as_ref(),
            labels,
        );
        let place = self.place(at, raw, labels);
        let overrides = self.overrides(at, raw, labels, fleet);
        let mut draft = Draft {
            at,
            name,
            tenant,
            moved_from,
            expires: raw.expiry.read(None, |expiry| Some(Some(expiry.0.0))),
            rollout,
            migration: migration(&raw.migration, defaults.migration),
            failover: raw.failover.read(false, |failover| Some(*failover)),
            place,
            overrides,
            patterns: vec![pattern],
            seats: Vec::new(),
        };
        self.seat(&mut draft, fleet);
        draft
    }

    /// Whose a slice is, and what it was before.
    fn owner(
        &mut self,
        at: At<'a>,
        name: &SliceName,
        raw: &'a RawSlice,
    ) -> (Option<Option<TenantName>>, Option<Option<SliceName>>) {
        if let Stated::Given(tenant) = &raw.owner.tenant {
            let path = [Step::Key("metadata"), Step::Key("tenant")];
            self.find(Kind::Tenant, tenant.0.as_str(), || at.place(&path));
        }
        if let Stated::Given(Text(old)) = &raw.owner.moved_from {
            let place = || at.place(&[Step::Key("metadata"), Step::Key("movedFrom")]);
            if old == name {
                let message = format!("the slice `{old}` cannot take over from itself");
                self.findings
                    .push(Diagnostic::error(Code::MovedFrom, place(), message));
            } else if let Some(there) = self.defined.get(&(Kind::Slice, old.as_str())) {
                let message =
                    format!("the slice `{old}` is still there, so `{name}` cannot take over its data");
                let finding = Diagnostic::error(Code::MovedFrom, place(), message)
                    .related(there.place(NAME), "it is defined here")
                    .help("rename it: give this name to its document, or delete that document");
                self.findings.push(finding);
            }
        }
        (
            raw.owner.tenant.read(None, |tenant| Some(Some(tenant.0.clone()))),
            raw.owner.moved_from.read(None, |old| Some(Some(old.0.clone()))),
        )
    }

    /// Follows the names in an image.
    fn follow(
        &mut self,
        at: At<'a>,
        origin: Origin,
        given: Given<'a>,
        image: &Stated<&'a crate::manifest::RawImage>,
        fleet: &mut DesiredFleet,
    ) -> Given<'a> {
        let image = match image {
            Stated::Absent => {
                return Given {
                    kernel: Stated::Absent,
                    mounts: Stated::Absent,
                    ..given
                };
            }
            Stated::Unclear => return given,
            Stated::Given(image) => *image,
        };
        let kernel = match &image.kernel {
            Stated::Absent => Stated::Absent,
            Stated::Unclear => Stated::Unclear,
            Stated::Given(choice) => {
                let path = origin.path(&[Step::Key("image"), Step::Key("kernel")]);
                let template = self.template(at, &path, &choice.0, fleet);
                template.map_or(Stated::Unclear, Stated::Given)
            }
        };
        let mounts = match &image.mounts {
            Stated::Absent => Stated::Absent,
            Stated::Unclear => Stated::Unclear,
            Stated::Given(mounts) => Stated::Given(self.mount_list(at, origin, mounts, fleet)),
        };
        Given {
            kernel,
            mounts,
            ..given
        }
    }

    fn overrides(
        &mut self,
        at: At<'a>,
        raw: &'a RawSlice,
        labels: &Labels,
        fleet: &mut DesiredFleet,
    ) -> Vec<Override<'a>> {
        let mut overrides = Vec::new();
        let unclear = |given| Override {
            matching: None,
            given,
        };
        let raws = match &raw.overrides {
            Stated::Absent => return overrides,
            // Of every sliver everything might be otherwise.
            Stated::Unclear => return vec![unclear(nothing())],
            Stated::Given(raws) => raws,
        };
        for (i, raw) in raws.iter().enumerate() {
            let Some(raw) = raw else {
                overrides.push(unclear(nothing()));
                continue;
            };
            let path = [
                Step::Key("spec"),
                Step::Key("overrides"),
                Step::Index(i),
                Step::Key("match"),
            ];
            let matching = raw
                .matching
                .as_ref()
                .and_then(|matching| self.matching(at, &path, matching, labels));
            let given = match &raw.patch {
                None => {
                    overrides.push(unclear(nothing()));
                    continue;
                }
                Some(patch) => Given {
                    kernel: Stated::Unclear,
                    mounts: Stated::Unclear,
                    resources: match &patch.resources {
                        Stated::Absent => Stated::Absent,
                        Stated::Unclear => Stated::Unclear,
                        Stated::Given(resources) => Stated::Given(resources),
                    },
                    publish: &patch.publish,
                    addresses: &patch.addresses,
                    health: &patch.health,
                    state: &patch.state,
                    start: &patch.start,
                    rollback: &patch.rollback,
                },
            };
            let image = match &raw.patch.as_ref().map(|patch| &patch.image) {
                Some(Stated::Given(image)) => Stated::Given(image),
                Some(Stated::Absent) => Stated::Absent,
                Some(Stated::Unclear) | None => Stated::Unclear,
            };
            let given = self.follow(at, Origin::Override(i), given, &image, fleet);
            overrides.push(Override { matching, given });
        }
        overrides
    }

    fn place(&mut self, at: At<'a>, raw: &'a RawSlice, labels: &Labels) -> Place {
        let Some(placement) = &raw.placement else {
            return Place::Unclear;
        };
        let path = |field| [Step::Key("spec"), Step::Key("placement"), Step::Key(field)];
        match (&placement.nodes, &placement.replicas) {
            (Stated::Given(nodes), Stated::Absent) => {
                let fields = [
                    ("match", !matches!(placement.matching, Stated::Absent)),
                    ("spread", !matches!(placement.spread, Stated::Absent)),
                    ("maxMoves", !matches!(placement.max_moves, Stated::Absent)),
                ];
                for (field, _) in fields.into_iter().filter(|(_, there)| *there) {
                    let message =
                        format!("`{field}` goes with `replicas` only: these slivers are where `nodes` says");
                    let place = at.key_place(&path(field));
                    self.findings
                        .push(Diagnostic::error(Code::BadValue, place, message));
                }
                // A name that is wrong many times is one mistake.
                let mut looked_up = BTreeSet::new();
                for (i, node) in nodes.iter().enumerate() {
                    let Some(Text(node)) = node else { continue };
                    if looked_up.insert(node) {
                        let steps = [&path("nodes")[..], &[Step::Index(i)]].concat();
                        self.find(Kind::Node, node.as_str(), || at.place(&steps));
                    }
                }
                Place::Nodes(nodes.iter().map(|node| Some(node.as_ref()?.0.clone())).collect())
            }
            (Stated::Absent, Stated::Given(replicas)) => {
                let matching = match &placement.matching {
                    Stated::Absent => Some(Matching::default()),
                    Stated::Unclear => None,
                    Stated::Given(matching) => self.node_matching(at, &path("match"), matching, labels),
                };
                Place::Replicas {
                    replicas: *replicas,
                    matching,
                    spread: placement.spread.read(Spread::default(), |spread| {
                        Some(match spread {
                            RawSpread::Site => Spread::Site,
                            RawSpread::Node => Spread::Node,
                            RawSpread::None => Spread::None,
                        })
                    }),
                    moves_max: placement.max_moves.read(None, |moves| Some(Some(*moves))),
                }
            }
            // None or both, or it is unclear which: that has been said.
            _ => Place::Unclear,
        }
    }

    /// Finds each sliver's node and pattern, and checks the patterns that there are.
    fn seat(&mut self, draft: &mut Draft<'a>, fleet: &DesiredFleet) {
        let nodes: Vec<Option<NodeName>> = match &draft.place {
            Place::Unclear => Vec::new(),
            Place::Nodes(nodes) => nodes.clone(),
            Place::Replicas { replicas, .. } => {
                let mut lock = self.lock(&draft.name);
                (0..*replicas)
                    .map(|number| lock.as_mut()?.remove(&number))
                    .collect()
            }
        };
        // Patterns by the overrides they have, as bits.
        let mut known: BTreeMap<u64, usize> = BTreeMap::from([(0, 0)]);
        let mut last = vec![0_usize; 1];
        // What is written for all is right by itself; where there are no overrides it is what all follow.
        last[0] = draft.count().saturating_sub(1);
        for (number, node) in nodes.into_iter().enumerate() {
            let pattern = if draft.overrides.is_empty() {
                Some(0)
            } else {
                self.overrides_of(draft, number, node.as_ref(), fleet)
                    .map(|mask| {
                        *known.entry(mask).or_insert_with(|| {
                            draft.patterns.push(draft.merged(mask));
                            last.push(0);
                            draft.patterns.len() - 1
                        })
                    })
            };
            if let Some(pattern) = pattern.filter(|pattern| *pattern > 0) {
                last[pattern] = number;
            }
            draft.seats.push(Seat { node, pattern });
        }
        for (pattern, last) in draft.patterns.iter().zip(last) {
            self.check_pattern(draft.at, pattern, last, fleet);
        }
    }

    /// What a sliver would follow on a node; `None` if that cannot be told.
    pub(super) fn pattern_of(
        &self,
        draft: &Draft<'a>,
        number: usize,
        node: &NodeName,
        fleet: &DesiredFleet,
    ) -> Option<Pattern> {
        let mask = self.overrides_of(draft, number, Some(node), fleet)?;
        Some(draft.merged(mask))
    }

    /// Which overrides a sliver has, as bits; `None` if that cannot be told.
    fn overrides_of(
        &self,
        draft: &Draft<'a>,
        number: usize,
        node: Option<&NodeName>,
        fleet: &DesiredFleet,
    ) -> Option<u64> {
        let mut mask = 0;
        for (i, with) in draft.overrides.iter().enumerate() {
            let matching = with.matching.as_ref()?;
            let number = u32::try_from(number).ok()?;
            if matching
                .numbers
                .is_some_and(|range| number < range.first || range.last < number)
            {
                continue;
            }
            let matches = matching.labels.0.is_empty() || {
                let name = node?;
                let node = fleet.nodes.get(name)?;
                let site = fleet.sites.get(&node.site);
                let region = site.and_then(|site| site.region.as_deref());
                matching.labels.holds_for(name, &node.site, region, &node.labels)
            };
            if matches {
                mask |= 1 << i;
            }
        }
        Some(mask)
    }

    /// What only shows once a patch is over what it changes. `last` is the highest number that follows the pattern.
    fn check_pattern(&mut self, at: At<'a>, pattern: &Pattern, last: usize, fleet: &DesiredFleet) {
        self.check_mounts(at, pattern, fleet);
        self.check_publish(at, pattern, last);
        if let (Some(Some(cap)), Some(vcpus)) = (pattern.cap.value, pattern.vcpus.value)
            && u64::from(cap) > u64::from(vcpus) * 100
        {
            let path = match (pattern.cap.origin, pattern.vcpus.origin) {
                // A patch that takes vCPUs away makes a cap wrong that was right.
                (Origin::Slice, origin @ Origin::Override(_)) => {
                    origin.path(&[Step::Key("resources"), Step::Key("vcpus")])
                }
                (origin, _) => origin.path(&[Step::Key("resources"), Step::Key("cpu"), Step::Key("cap")]),
            };
            let message = format!("a cap of {cap}% is more than {vcpus} vCPUs can use");
            let finding = Diagnostic::error(Code::BadValue, at.place(&path), message)
                .help("a cap is in percent of one CPU; leave it out for none");
            self.say(finding);
        }
        if let (Some(Some(most)), Some(vcpus)) = (pattern.vcpus_max.value, pattern.vcpus.value)
            && most < vcpus
        {
            let origins = (pattern.vcpus.origin, pattern.vcpus_max.origin);
            let message = format!("it boots with {vcpus} vCPUs, which is more than its most, {most}");
            self.boots_with_more(at, ("vcpus", "vcpusMax"), origins, message);
        }
        if let (Some(Some(most)), Some(memory)) = (pattern.memory_max.value, pattern.memory.value)
            && most < memory
        {
            let origins = (pattern.memory.origin, pattern.memory_max.origin);
            let message = format!("it boots with {memory}, which is more than its most, {most}");
            self.boots_with_more(at, ("memory", "memoryMax"), origins, message);
        }
        self.check_health(at, pattern);
    }

    /// What it boots with is more than it can be given. A patch is wrong that makes it so.
    fn boots_with_more(
        &mut self,
        at: At<'a>,
        (first, most): (&'static str, &'static str),
        origins: (Origin, Origin),
        message: String,
    ) {
        let (origin, field) = match origins {
            (origin @ Origin::Override(_), Origin::Slice) => (origin, first),
            (_, origin) => (origin, most),
        };
        let path = origin.path(&[Step::Key("resources"), Step::Key(field)]);
        let finding = Diagnostic::error(Code::BadValue, at.place(&path), message).help(format!(
            "`{first}` is what it boots with, `{most}` what it can be given while it runs"
        ));
        self.say(finding);
    }

    fn check_health(&mut self, at: At<'a>, pattern: &Pattern) {
        if let (Some(None), Some(origin)) = (&pattern.probe.value, pattern.health) {
            let place = at.key_place(&origin.path(&[Step::Key("health")]));
            let message = "one of `http`, `tcp`, `console` must be given: the slice has no health check";
            return self.say(Diagnostic::error(Code::MissingField, place, message));
        }
        let Some((field, port)) = pattern.probe_port else {
            return;
        };
        let origin = pattern.probe.origin;
        // A health check comes from the node, so it can only reach what is published there.
        let Some(guests) = pattern.guests() else { return };
        if guests.contains(&port) {
            return;
        }
        let place = match (origin, pattern.publish.origin) {
            (Origin::Slice, publish @ Origin::Override(_)) => {
                at.key_place(&publish.path(&[Step::Key("publish")]))
            }
            (origin, _) => {
                at.place(&origin.path(&[Step::Key("health"), Step::Key(field), Step::Key("port")]))
            }
        };
        let message = format!("the health check asks port {port}, which is not published");
        let guests: BTreeSet<u16> = guests.into_iter().collect();
        let guests: Vec<String> = guests.iter().map(u16::to_string).collect();
        let finding = Diagnostic::error(Code::HealthPort, place, message).help(if guests.is_empty() {
            format!("publish it: publish: [{{ guest: {port}, host: 18080 }}]")
        } else {
            format!("published guest ports: {}", guests.join(", "))
        });
        self.say(finding);
    }
}

/// A patch that may say anything.
fn nothing<'a>() -> Given<'a> {
    Given {
        kernel: Stated::Unclear,
        mounts: Stated::Unclear,
        resources: Stated::Unclear,
        publish: &Stated::Unclear,
        addresses: &Stated::Unclear,
        health: &Stated::Unclear,
        state: &Stated::Unclear,
        start: &Stated::Unclear,
        rollback: &Stated::Unclear,
    }
}

/// The slivers of a slice on their nodes; `None` if one of them cannot be told.
pub(super) fn finished(fleet: &FleetName, draft: &Draft<'_>) -> Option<Slice> {
    let patterns: Vec<Option<DesiredSliver>> = draft
        .patterns
        .iter()
        .map(|pattern| example(draft, pattern))
        .collect();
    let ports: Vec<Option<Vec<(u16, u16)>>> = draft.patterns.iter().map(Pattern::published).collect();
    // A list that holds no place of its own is the same for all that follow a pattern.
    let plain: Vec<bool> = draft
        .patterns
        .iter()
        .map(|pattern| !pattern.mounts.of_its_own())
        .collect();
    let mut slivers = BTreeMap::new();
    for (i, seat) in draft.seats.iter().enumerate() {
        let number = u32::try_from(i).ok()?;
        let id = SliverId::new(draft.name.clone(), number);
        let pattern = seat.pattern?;
        let example = patterns[pattern].as_ref()?;
        let mut sliver = numbered(fleet, id, example, ports[pattern].as_ref()?)?;
        if !plain[pattern] {
            sliver.mounts = draft.patterns[pattern].mounts.finished(&sliver.id)?;
        }
        slivers.insert(number, (seat.node.clone()?, sliver));
    }
    Some(Slice { slivers })
}

/// A sliver as it is where it follows `pattern`; `None` if that cannot be told.
pub(super) fn sliver_of(
    fleet: &FleetName,
    draft: &Draft<'_>,
    pattern: &Pattern,
    number: u32,
) -> Option<DesiredSliver> {
    let id = SliverId::new(draft.name.clone(), number);
    let mut sliver = numbered(fleet, id, &example(draft, pattern)?, &pattern.published()?)?;
    sliver.mounts = pattern.mounts.finished(&sliver.id)?;
    Some(sliver)
}

/// Another sliver that follows the same pattern, but for mounts that hold a place of its own.
fn numbered(
    fleet: &FleetName,
    id: SliverId,
    example: &DesiredSliver,
    ports: &[(u16, u16)],
) -> Option<DesiredSliver> {
    let publish = ports.iter().map(|(guest, host)| {
        let host = u32::from(*host).checked_add(id.number)?;
        Some(Publish {
            guest: *guest,
            host: u16::try_from(host).ok()?,
        })
    });
    let from = example.moved_from.as_ref();
    Some(DesiredSliver {
        uuid: DomainUuid::of(fleet, &id),
        moved_from: from.map(|from| SliverId::new(from.slice.clone(), id.number)),
        publish: publish.collect::<Option<_>>()?,
        id,
        ..example.clone()
    })
}

/// A sliver that follows a pattern, numbered 0.
fn example(draft: &Draft<'_>, pattern: &Pattern) -> Option<DesiredSliver> {
    let id = SliverId::new(draft.name.clone(), 0);
    let (start, rollback, checkpoints) = pattern.finished_start()?;
    let moved_from = draft.moved_from.clone()?.map(|slice| SliverId::new(slice, 0));
    Some(DesiredSliver {
        uuid: DomainUuid([0; 16]),
        kernel: pattern.kernel.value.clone()?,
        mounts: pattern.mounts.finished(&id)?,
        resources: pattern.finished_resources()?,
        state: pattern.state.value?,
        health: pattern.finished_health()?,
        publish: Vec::new(),
        addresses: pattern.addresses.value.clone()?,
        tenant: draft.tenant.clone()?,
        start,
        expires: draft.expires?,
        moved_from,
        rollout: draft.rollout.clone()?,
        migration: draft.migration?,
        failover: draft.failover?,
        rollback,
        checkpoints,
        id,
    })
}
