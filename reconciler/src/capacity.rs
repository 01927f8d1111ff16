//! What a node has only once: memory and published ports. What finds them taken waits for what frees them, and that for
//! which they will never be free does not begin.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::Standing;
use xeno_model::id::SliverId;

use crate::change::{ChangeClass, Reason};
use crate::diff::{Study, domains};
use crate::plan::{MemoryForecast, PlanInput};

/// Slivers whose end, or whose change while they run, must come first because it frees what another takes.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// For memory. The sliver's own end waits for them too, so that it is not away while others stop.
    pub(crate) memory: BTreeMap<SliverId, BTreeSet<SliverId>>,
    /// For published ports.
    pub(crate) ports: BTreeMap<SliverId, BTreeSet<SliverId>>,
}

/// What one embodiment of a sliver holds and will hold, in MiB.
struct Demand<'a> {
    /// The sliver in its berth.
    berth: &'a SliverId,
    /// Of the sliver.
    sliver: &'a SliverId,
    /// Whether it starts beside another, which must not have to go for it.
    beside: bool,
    class: ChangeClass,
    held: u64,
    wanted: u64,
}

/// Makes slivers wait for which the node has no memory, or whose ports a domain holds that stays. Whether there were
/// any.
pub(crate) fn hold_what_does_not_fit(input: &PlanInput<'_>, studies: &mut BTreeMap<SliverId, Study>) -> bool {
    let mut held = ports_taken(input, studies);
    held.extend(no_room(input, studies));
    for (sliver, reason) in &held {
        if let Some(study) = studies.get_mut(sliver) {
            study.hold(vec![reason.clone()]);
        }
    }
    !held.is_empty()
}

/// Memory of guests, now and when all steps are done; `None` where it cannot be known.
pub(crate) fn forecast(input: &PlanInput<'_>, studies: &BTreeMap<SliverId, Study>) -> Option<MemoryForecast> {
    let capacity = capacity(input);
    let now = held_in_all(input)?;
    let change = studies
        .iter()
        .flat_map(|(sliver, study)| demands(input, sliver, study))
        .fold((0u64, 0u64), |(freed, taken), demand| {
            (
                freed.saturating_add(demand.held),
                taken.saturating_add(demand.wanted),
            )
        });
    let after = now.saturating_sub(change.0).saturating_add(change.1);
    Some(MemoryForecast { capacity, now, after })
}

/// Which shutdowns a boot has to wait for. Every MiB is claimed by one boot only, and a boot waits until all that it
/// claims is free, so whatever order the run takes, the node never holds more than it has.
pub(crate) fn claims(input: &PlanInput<'_>, studies: &BTreeMap<SliverId, Study>) -> Claims {
    let mut claims = Claims::default();
    let Some(now) = held_in_all(input) else {
        return claims;
    };
    let mut free = capacity(input).saturating_sub(now);
    let mut demands: Vec<_> = studies
        .iter()
        .flat_map(|(sliver, study)| demands(input, sliver, study))
        .collect();
    // What starts beside another finds its memory free: waiting for others, it could wait for itself.
    demands.sort_by_key(|demand| !demand.beside);
    let mut surplus = demands
        .iter()
        .filter(|demand| demand.held > demand.wanted)
        .map(|demand| (demand.berth, demand.held - demand.wanted))
        .peekable();
    for demand in demands.iter().filter(|demand| demand.wanted > demand.held) {
        let mut lacking = demand.wanted - demand.held;
        let taken = lacking.min(free);
        free -= taken;
        lacking -= taken;
        while lacking > 0
            && let Some((from, left)) = surplus.peek_mut()
        {
            let taken = lacking.min(*left);
            lacking -= taken;
            *left -= taken;
            let from = (*from).clone();
            let used_up = *left == 0;
            claims
                .memory
                .entry(demand.berth.clone())
                .or_default()
                .insert(from);
            if used_up {
                surplus.next();
            }
        }
    }
    // No port has two holders on a sound node; where an observation says so, all of them come first.
    let mut holders: BTreeMap<u16, Vec<&SliverId>> = BTreeMap::new();
    for (port, holder) in held_ports(input) {
        holders.entry(port).or_default().push(holder);
    }
    for berth in takers(studies) {
        for port in wanted_ports(input, berth) {
            let others = holders.get(&port).into_iter().flatten();
            for holder in others.filter(|holder| **holder != berth) {
                let waits = claims.ports.entry(berth.clone()).or_default();
                waits.insert((*holder).clone());
            }
        }
    }
    claims
}

/// Memory that is free beside what is held, and beside what others are going to take, in MiB: only what is free without
/// anybody's end.
pub(crate) fn free_beside(input: &PlanInput<'_>, studies: &BTreeMap<SliverId, Study>) -> u64 {
    let Some(now) = held_in_all(input) else { return 0 };
    let taken = studies
        .iter()
        .flat_map(|(sliver, study)| demands(input, sliver, study))
        .map(|demand| demand.wanted.saturating_sub(demand.held))
        .fold(now, u64::saturating_add);
    capacity(input).saturating_sub(taken)
}

/// Whether the ports that a sliver is to publish are free, or its own already.
pub(crate) fn ports_are_free(input: &PlanInput<'_>, sliver: &SliverId) -> bool {
    let holders: BTreeMap<u16, &SliverId> = held_ports(input).collect();
    let free = |port: u16| holders.get(&port).is_none_or(|holder| holder.itself() == *sliver);
    wanted_ports(input, sliver).all(free)
}

/// Memory of the node for guests, in MiB.
pub(crate) fn capacity(input: &PlanInput<'_>) -> u64 {
    match &input.desired.standing {
        Standing::Named(node) => node.memory.mib(),
        Standing::NotNamed => 0,
    }
}

fn held_in_all(input: &PlanInput<'_>) -> Option<u64> {
    let domains = domains(input)?;
    let strangers = input.desired.standing.taken_by_strangers(&domains.strangers);
    let ours = domains.ours.values().map(|domain| domain.memory_mib);
    Some(ours.fold(strangers, u64::saturating_add))
}

/// What a sliver's steps do to memory, in each of its berths in which they do something.
fn demands<'a>(
    input: &PlanInput<'_>,
    sliver: &'a SliverId,
    study: &'a Study,
) -> impl Iterator<Item = Demand<'a>> {
    let held = |berth: &SliverId| {
        let domain = domains(input).and_then(|domains| domains.ours.get(berth));
        domain.map_or(0, |domain| domain.memory_mib)
    };
    let desired = input.desired.slivers.get(sliver);
    let wanted = desired.map_or(0, |desired| desired.resources.memory.mib());
    let retunes = study.retunes();
    let changes = study.ends() || study.starts() || retunes;
    let here = changes.then(|| Demand {
        berth: &study.berth,
        sliver,
        beside: study.leaves.as_ref().is_some_and(|leaves| leaves.last),
        class: study.change.class,
        held: if study.ends() || retunes {
            held(&study.berth)
        } else {
            0
        },
        wanted: if study.starts() || retunes { wanted } else { 0 },
    });
    let leaves = study.leaves.as_ref().filter(|leaves| leaves.ends());
    let there = leaves.map(|leaves| Demand {
        berth: &leaves.berth,
        sliver,
        beside: false,
        class: study.change.class,
        held: held(&leaves.berth),
        wanted: 0,
    });
    here.into_iter().chain(there)
}

/// Slivers whose boot would take the node beyond its memory. One that takes no more than it holds always may: where
/// the node's capacity has been lowered below what already runs, nothing gets worse by it.
fn no_room(input: &PlanInput<'_>, studies: &BTreeMap<SliverId, Study>) -> BTreeMap<SliverId, Reason> {
    let Some(now) = held_in_all(input) else {
        return BTreeMap::new();
    };
    let capacity = capacity(input);
    let mut demands: Vec<_> = studies
        .iter()
        .flat_map(|(sliver, study)| demands(input, sliver, study))
        .collect();
    // Those that give memory back come first; then running services before missing ones before new ones.
    demands.sort_by_key(|demand| {
        (
            demand.wanted > demand.held,
            precedence(demand.class),
            demand.sliver,
        )
    });
    let mut used = now;
    let mut held = BTreeMap::new();
    for demand in demands {
        let others = used.saturating_sub(demand.held);
        let with = others.saturating_add(demand.wanted);
        if demand.wanted <= demand.held || with <= capacity {
            used = with;
        } else {
            let reason = Reason::NoRoom {
                needed: demand.wanted,
                free: capacity.saturating_sub(others),
                capacity,
            };
            held.insert(demand.sliver.clone(), reason);
        }
    }
    held
}

fn precedence(class: ChangeClass) -> u8 {
    match class {
        ChangeClass::Keep
        | ChangeClass::InPlace
        | ChangeClass::HandOver
        | ChangeClass::Suspend
        | ChangeClass::Stop
        | ChangeClass::Remove
        | ChangeClass::Purge
        | ChangeClass::Wait => 0,
        ChangeClass::Replace | ChangeClass::Reboot => 1,
        ChangeClass::Start | ChangeClass::Resume => 2,
        ChangeClass::Create => 3,
    }
}

/// Slivers that get a domain, which publishes their ports from the start.
fn starting(studies: &BTreeMap<SliverId, Study>) -> impl Iterator<Item = &SliverId> {
    let starts = studies.iter().filter(|(_, study)| {
        let takes_over = study.leaves.as_ref().is_some_and(|leaves| leaves.last);
        study.starts() && !takes_over
    });
    starts.map(|(sliver, _)| sliver)
}

/// Slivers, each in the berth in which it is to be, that take ports which others may give up for them.
fn takers(studies: &BTreeMap<SliverId, Study>) -> impl Iterator<Item = &SliverId> {
    let takers = studies.values().filter(|study| {
        let takes_over = study.leaves.as_ref().is_some_and(|leaves| leaves.last);
        !takes_over && (study.starts() || study.retunes())
    });
    takers.map(|study| &study.berth)
}

fn wanted_ports<'a>(input: &PlanInput<'a>, sliver: &SliverId) -> impl Iterator<Item = u16> + use<'a> {
    let desired = input.desired.slivers.get(&sliver.itself());
    desired
        .into_iter()
        .flat_map(|desired| &desired.publish)
        .map(|publish| publish.host)
}

/// Published ports of this node, each with the domain that holds it.
fn held_ports<'a>(input: &PlanInput<'a>) -> impl Iterator<Item = (u16, &'a SliverId)> + use<'a> {
    let domains = domains(input).into_iter().flat_map(|domains| &domains.ours);
    domains.flat_map(|(sliver, domain)| domain.publish.iter().map(move |publish| (publish.host, sliver)))
}

/// Slivers that want a port that a domain holds that stays, or that another takes first: one that holds it already, else
/// the first by name. Who changes ports while running takes only what is free now: two that wait for each other's
/// would wait for ever.
fn ports_taken(input: &PlanInput<'_>, studies: &BTreeMap<SliverId, Study>) -> BTreeMap<SliverId, Reason> {
    let now: BTreeMap<u16, &SliverId> = held_ports(input).collect();
    let gives_up = |holder: &SliverId, port: u16| {
        studies.get(&holder.itself()).is_some_and(|study| {
            let unwanted = || wanted_ports(input, holder).all(|wanted| wanted != port);
            match study.leaves.as_ref().filter(|leaves| leaves.berth == *holder) {
                Some(leaves) => leaves.ends() && (!leaves.last || unwanted()),
                None => study.ends() || study.retunes() && unwanted(),
            }
        })
    };
    let mut taken: BTreeMap<u16, &SliverId> = BTreeMap::new();
    taken.extend(
        now.iter()
            .filter(|(port, holder)| !gives_up(holder, **port))
            .map(|(port, holder)| (*port, *holder)),
    );
    let wants = |sliver| wanted_ports(input, sliver).map(move |port| (port, sliver));
    let retunes = studies
        .iter()
        .filter(|(_, study)| study.retunes())
        .map(|(sliver, _)| sliver);
    let mut held = BTreeMap::new();
    for (port, sliver) in retunes.flat_map(wants) {
        // What its own other embodiment gives up is taken by it, and by nobody else.
        let by = match now.get(&port) {
            Some(holder) if holder.itself() != *sliver => *holder,
            Some(_) | None => *taken.entry(port).or_insert(sliver),
        };
        if by.itself() != *sliver {
            let by = by.itself();
            held.entry(sliver.clone())
                .or_insert(Reason::PortTaken { port, by });
        }
    }
    let (already, anew): (Vec<_>, Vec<_>) = starting(studies)
        .flat_map(wants)
        .partition(|(port, sliver)| now.get(port).is_some_and(|holder| holder.itself() == **sliver));
    for (port, sliver) in already.into_iter().chain(anew) {
        let by = *taken.entry(port).or_insert(sliver);
        if by.itself() != *sliver {
            let by = by.itself();
            held.entry(sliver.clone())
                .or_insert(Reason::PortTaken { port, by });
        }
    }
    held
}
