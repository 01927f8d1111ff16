//! Slices that say how many slivers they want: their locks, and whether these still hold.

use std::collections::BTreeMap;

use super::draft::{Draft, Pattern, Place};
use super::{At, Resolver};
use crate::desired::{DesiredFleet, SliverState};
use crate::diagnostic::{Code, Diagnostic};
use crate::id::{NodeName, SliceName};
use crate::manifest::{Body, Kind, RawLock, Step};
use crate::placement::{Ask, Effort, Fixed, Ground, Placed, Size, Spot, place};

/// The way on from a lock that is missing or out of date.
const PLACE_IT: &str = "in the fleet's directory: xeno place && git add placement && git commit";
/// Moves that a message names at most.
const NAMED_MAX: usize = 3;

const SLIVERS: [Step<'static>; 2] = [Step::Key("spec"), Step::Key("slivers")];
const REPLICAS: [Step<'static>; 3] = [Step::Key("spec"), Step::Key("placement"), Step::Key("replicas")];

impl<'a> Resolver<'a> {
    /// Where a slice's lock has its slivers, as far as it can be told.
    pub(super) fn lock(&self, slice: &SliceName) -> Option<BTreeMap<u32, NodeName>> {
        let (_, raw) = self.lock_document(slice)?;
        let slivers = raw.slivers.as_ref()?.known.iter();
        let own = slivers.filter(|(sliver, _)| sliver.0.slice == *slice);
        Some(
            own.filter_map(|(sliver, node)| Some((sliver.0.number, node.as_ref()?.0.clone())))
                .collect(),
        )
    }

    fn lock_document(&self, slice: &SliceName) -> Option<(At<'a>, &'a RawLock)> {
        let at = self.defined.get(&(Kind::Placement, slice.as_str())).copied()?;
        match &at.document.body {
            Some(Body::Placement(raw)) => Some((at, raw)),
            _ => None,
        }
    }

    /// Locks are of slices that want one, and speak of no other.
    pub(super) fn check_locks(&mut self, drafts: &[Draft<'a>]) {
        let locks: Vec<(&'a str, At<'a>, &'a RawLock)> = self
            .defined
            .iter()
            .filter_map(|((_, name), at)| match &at.document.body {
                Some(Body::Placement(raw)) => Some((*name, *at, raw)),
                _ => None,
            })
            .collect();
        for (name, at, raw) in locks {
            if self.find(Kind::Slice, name, || at.place(super::NAME)).is_none() {
                continue;
            }
            let draft = drafts.iter().find(|draft| draft.name.as_str() == name);
            if let Some(Draft {
                place: Place::Nodes(_),
                ..
            }) = draft
            {
                let message =
                    format!("the slice `{name}` says itself where its slivers are, so it has no lock");
                let finding = Diagnostic::error(Code::Placement, at.place(super::NAME), message)
                    .help("delete this document, or let the slice say `replicas` instead of `nodes`");
                self.findings.push(finding);
            }
            let foreign = raw.slivers.iter().flat_map(|slivers| slivers.known.keys());
            let foreign = foreign
                .map(|sliver| &sliver.0)
                .find(|sliver| sliver.slice.as_str() != name);
            if let Some(sliver) = foreign {
                let key = sliver.to_string();
                let path = [SLIVERS[0], SLIVERS[1], Step::Key(&key)];
                let message = format!("`{sliver}` is no sliver of `{name}`");
                self.findings
                    .push(Diagnostic::error(Code::Placement, at.key_place(&path), message));
            }
        }
    }

    /// What placements start from. Locks of slices that have another name now are those of the new name.
    pub(super) fn ground(&self, drafts: &[Draft<'a>], fleet: &DesiredFleet) -> Ground {
        let mut ground = Ground::default();
        for ((name, at), node) in fleet.whereabouts().into_iter().zip(fleet.nodes.values()) {
            let spot = Spot {
                at,
                memory_mib: node.memory.0 >> 20,
                cordoned: fleet.cordoned.contains(&name),
            };
            ground.nodes.insert(name, spot);
        }
        ground.sites = fleet
            .sites
            .iter()
            .map(|(name, site)| (name.clone(), site.policy.clone()))
            .collect();
        for draft in drafts {
            match &draft.place {
                Place::Unclear => {}
                Place::Nodes(_) => ground.fixed.extend(fixed(draft)),
                Place::Replicas { .. } => {
                    let ask = self.ask(draft, fleet);
                    ground.asks.extend(ask.map(|ask| (draft.name.clone(), ask)));
                }
            }
        }
        ground
    }

    fn ask(&self, draft: &Draft<'a>, fleet: &DesiredFleet) -> Option<Ask> {
        let Place::Replicas {
            replicas,
            matching,
            spread,
            moves_max,
        } = &draft.place
        else {
            return None;
        };
        let before = draft.moved_from.as_ref().and_then(Option::as_ref);
        let previous = self.lock(&draft.name).or_else(|| self.lock(before?));
        let base = size(draft.base())?;
        let size_on = if draft.overrides.is_empty() {
            BTreeMap::new()
        } else {
            let sizes = fleet
                .nodes
                .keys()
                .map(|node| Some((node.clone(), self.size_on(draft, node, fleet)?)));
            sizes.collect::<Option<_>>()?
        };
        Some(Ask {
            tenant: draft.tenant.clone()?,
            replicas: *replicas,
            size: base,
            size_on,
            ports: draft.base().hosts().map(|(_, host)| host).collect(),
            matching: matching.clone()?,
            spread: (*spread)?,
            moves_max: (*moves_max)?,
            previous: previous.unwrap_or_default(),
            held: false,
        })
    }

    /// The most that a sliver of a slice takes on a node, whatever its number.
    fn size_on(&self, draft: &Draft<'a>, node: &NodeName, fleet: &DesiredFleet) -> Option<Size> {
        let mut numbers: Vec<u32> = vec![u32::MAX];
        // Overrides for numbers begin and end with these; between them nothing changes.
        for matching in draft.overrides.iter().filter_map(|with| with.matching.as_ref()) {
            numbers.extend(matching.numbers.iter().map(|range| range.first));
        }
        let mut most = Size::default();
        for number in numbers {
            let pattern = self.pattern_of(draft, usize::try_from(number).ok()?, node, fleet)?;
            let size = size(&pattern)?;
            most.memory_mib = most.memory_mib.max(size.memory_mib);
            most.memory_most = most.memory_most.max(size.memory_most);
            most.vcpus = most.vcpus.max(size.vcpus);
        }
        Some(most)
    }

    /// Refuses locks that do not hold any more. Only asked where nothing else is wrong.
    pub(super) fn check_placements(&mut self, drafts: &[Draft<'a>], fleet: &DesiredFleet) {
        if !drafts
            .iter()
            .any(|draft| matches!(draft.place, Place::Replicas { .. }))
        {
            return;
        }
        let placed = place(&self.ground(drafts, fleet), Effort::Needed);
        for draft in drafts {
            let finding = match placed.get(&draft.name) {
                None => continue,
                Some(Err(shortage)) => {
                    Diagnostic::error(Code::Placement, draft.at.place(&REPLICAS), shortage.to_string())
                        .help(shortage.help())
                }
                Some(Ok(placed)) => match self.lock_document(&draft.name) {
                    Some((at, _)) if placed.moves.is_empty() => {
                        debug_assert!(
                            draft.seats.iter().all(|seat| seat.node.is_some()),
                            "{}",
                            at.file.path()
                        );
                        continue;
                    }
                    Some((at, _)) => stale(&draft.name, at, placed),
                    None if draft.count() == 0 => continue,
                    None => {
                        let message =
                            format!("nobody has said yet where the slivers of `{}` are", draft.name);
                        Diagnostic::error(Code::Placement, draft.at.place(&REPLICAS), message).help(PLACE_IT)
                    }
                },
            };
            self.findings.push(finding);
        }
    }
}

/// What of a lock does not hold any more.
fn stale(name: &SliceName, at: At<'_>, placed: &Placed) -> Diagnostic {
    let say = |number: u32, from: Option<&NodeName>, why: &dyn std::fmt::Display| match from {
        Some(from) => format!("{name}/{number} on {from}: {why}"),
        None => format!("{name}/{number}: {why}"),
    };
    let mut said: Vec<String> = placed
        .moves
        .iter()
        .take(NAMED_MAX)
        .map(|change| say(change.number, change.from.as_ref(), &change.why))
        .collect();
    if placed.moves.len() > NAMED_MAX {
        said.push(format!("and {} more", placed.moves.len() - NAMED_MAX));
    }
    let first = placed.moves.iter().find(|change| change.from.is_some());
    let place = match first {
        Some(change) => {
            let key = format!("{name}/{}", change.number);
            at.place(&[SLIVERS[0], SLIVERS[1], Step::Key(&key)])
        }
        None => at.key_place(&SLIVERS),
    };
    let message = format!("the lock of `{name}` is out of date: {}", said.join("; "));
    Diagnostic::error(Code::Placement, place, message).help(PLACE_IT)
}

/// What slivers take that are where their slice says.
fn fixed<'d>(draft: &'d Draft<'_>) -> impl Iterator<Item = Fixed> + 'd {
    draft.known().map(|(number, node, pattern)| {
        let runs = pattern.state.value == Some(SliverState::Running);
        let port = |(_, host): (usize, u16)| u16::try_from(usize::from(host) + number).ok();
        Fixed {
            slice: draft.name.clone(),
            tenant: draft.tenant.clone().flatten(),
            node: node.clone(),
            memory_mib: pattern
                .memory
                .value
                .filter(|_| runs)
                .map_or(0, |memory| memory.mib()),
            ports: pattern.hosts().filter_map(port).collect(),
        }
    })
}

fn size(pattern: &Pattern) -> Option<Size> {
    Some(Size {
        memory_mib: pattern.memory.value?.mib(),
        memory_most: pattern.memory_most()?,
        vcpus: pattern.vcpus.value?,
    })
}
