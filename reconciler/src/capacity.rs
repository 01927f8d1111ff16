//! What a node has only once: memory and published ports. What finds them taken waits for what frees them, and that for
//! which they will never be free does not begin.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::Standing;
use xeno_model::id::SliverId;

use crate::change::{ChangeClass, Reason};
use crate::diff::{Study, domains};
use crate::plan::{MemoryForecast, PlanInput};
use crate::situation::Step;

/// Slivers whose end, or whose change while they run, must come first because it frees what another takes.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// For memory. The sliver's own end waits for them too, so that it is not away while others stop.
    pub(crate) memory: BTreeMap<SliverId, BTreeSet<SliverId>>,
    /// For published ports.
    pub(crate) ports: BTreeMap<SliverId, BTreeSet<SliverId>>,
}

/// What one sliver holds and will hold, in MiB.
struct Demand<'a> {
    sliver: &'a SliverId,
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
        .fold((0u64, 0u64), |(freed, taken), (sliver, study)| {
            let demand = demand(input, sliver, study);
            match demand {
                Some(demand) => (
                    freed.saturating_add(demand.held),
                    taken.saturating_add(demand.wanted),
                ),
                None => (freed, taken),
            }
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
    let demands: Vec<_> = studies
        .iter()
        .filter_map(|(sliver, study)| demand(input, sliver, study))
        .collect();
    let mut surplus = demands
        .iter()
        .filter(|demand| demand.held > demand.wanted)
        .map(|demand| (demand.sliver, demand.held - demand.wanted))
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
                .entry(demand.sliver.clone())
                .or_default()
                .insert(from);
            if used_up {
                surplus.next();
            }
        }
    }
    let holders = port_holders(input);
    for sliver in starting(studies) {
        for port in wanted_ports(input, sliver) {
            if let Some(holder) = holders.get(&port)
                && *holder != sliver
            {
                let waits = claims.ports.entry(sliver.clone()).or_default();
                waits.insert((*holder).clone());
            }
        }
    }
    claims
}

fn capacity(input: &PlanInput<'_>) -> u64 {
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

/// What a sliver's steps do to memory; `None` if nothing.
fn demand<'a>(input: &PlanInput<'_>, sliver: &'a SliverId, study: &Study) -> Option<Demand<'a>> {
    let retunes = study.steps.contains(&Step::Retune);
    if !study.ends() && !study.starts() && !retunes {
        return None;
    }
    let domain = domains(input).and_then(|domains| domains.ours.get(sliver));
    let desired = input.desired.slivers.get(sliver);
    let wanted = desired.filter(|_| study.starts() || retunes);
    Some(Demand {
        sliver,
        class: study.change.class,
        held: domain
            .filter(|_| study.ends() || retunes)
            .map_or(0, |d| d.memory_mib),
        wanted: wanted.map_or(0, |d| d.resources.memory.mib()),
    })
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
        .filter_map(|(sliver, study)| demand(input, sliver, study))
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
        ChangeClass::Reboot => 1,
        ChangeClass::Start | ChangeClass::Resume => 2,
        ChangeClass::Create => 3,
    }
}

/// Slivers that get a domain.
fn starting(studies: &BTreeMap<SliverId, Study>) -> impl Iterator<Item = &SliverId> {
    let starts = studies.iter().filter(|(_, study)| study.starts());
    starts.map(|(sliver, _)| sliver)
}

fn wanted_ports<'a>(input: &PlanInput<'a>, sliver: &SliverId) -> impl Iterator<Item = u16> + use<'a> {
    let desired = input.desired.slivers.get(sliver);
    desired
        .into_iter()
        .flat_map(|desired| &desired.publish)
        .map(|publish| publish.host)
}

fn port_holders<'a>(input: &PlanInput<'a>) -> BTreeMap<u16, &'a SliverId> {
    let domains = domains(input).into_iter().flat_map(|domains| &domains.ours);
    domains
        .flat_map(|(sliver, domain)| domain.publish.iter().map(move |publish| (publish.host, sliver)))
        .collect()
}

/// Slivers that want a port that a domain holds that stays, or that another takes first: one that holds it already, else
/// the first by name. Who changes ports while running takes only what is free now: two that wait for each other's
/// would wait for ever.
fn ports_taken(input: &PlanInput<'_>, studies: &BTreeMap<SliverId, Study>) -> BTreeMap<SliverId, Reason> {
    let now = port_holders(input);
    let gives_up = |holder: &SliverId, port: u16| {
        studies.get(holder).is_some_and(|study| {
            let retunes = study.steps.contains(&Step::Retune);
            study.ends() || retunes && wanted_ports(input, holder).all(|wanted| wanted != port)
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
        .filter(|(_, study)| study.steps.contains(&Step::Retune))
        .map(|(sliver, _)| sliver);
    let mut held = BTreeMap::new();
    for (port, sliver) in retunes.flat_map(wants) {
        let by = match now.get(&port) {
            Some(holder) => *holder,
            None => *taken.entry(port).or_insert(sliver),
        };
        if by != sliver {
            let by = by.clone();
            held.entry(sliver.clone())
                .or_insert(Reason::PortTaken { port, by });
        }
    }
    let (already, anew): (Vec<_>, Vec<_>) = starting(studies)
        .flat_map(wants)
        .partition(|(port, sliver)| now.get(port) == Some(sliver));
    for (port, sliver) in already.into_iter().chain(anew) {
        let by = *taken.entry(port).or_insert(sliver);
        if by != sliver {
            let by = by.clone();
            held.entry(sliver.clone())
                .or_insert(Reason::PortTaken { port, by });
        }
    }
    held
}
