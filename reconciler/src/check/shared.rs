//! What a node has only once, whatever order the run takes.

use std::collections::{BTreeMap, BTreeSet};

use xeno_model::desired::Standing;
use xeno_model::id::SliverId;

use super::Finding;
use crate::action::{Action, PortsFrom};
use crate::plan::{Plan, PlanInput};

/// Plays memory and ports in two orders that the run may take: that of the plan, and the greediest, in which nothing
/// stops before everything that can start has started.
pub(super) fn check(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    let Some(domains) = input.observed.domains.known() else {
        return;
    };
    let capacity = match &input.desired.standing {
        Standing::Named(node) => node.memory.mib(),
        Standing::NotNamed => 0,
    };
    let strangers = input.desired.standing.taken_by_strangers(&domains.strangers);
    let own: u64 = domains.ours.values().map(|domain| domain.memory_mib).sum();
    // Where a node holds more than it may already, a plan must not make it worse.
    let limit = capacity.max(strangers.saturating_add(own));
    for order in [
        plan.actions.iter().map(|planned| &planned.action).collect(),
        greedy(plan),
    ] {
        let mut memory: BTreeMap<&SliverId, u64> = domains
            .ours
            .iter()
            .map(|(sliver, domain)| (sliver, domain.memory_mib))
            .collect();
        let mut held: u64 = strangers.saturating_add(own);
        let mut ports: BTreeMap<u16, &SliverId> = BTreeMap::new();
        for (sliver, domain) in &domains.ours {
            ports.extend(domain.publish.iter().map(|publish| (publish.host, sliver)));
        }
        for action in order {
            match action {
                Action::Unpublish { sliver } => ports.retain(|_, holder| *holder != sliver),
                Action::Shutdown { sliver, .. } | Action::Suspend { sliver } => {
                    held = held.saturating_sub(memory.remove(sliver).unwrap_or(0));
                    ports.retain(|_, holder| *holder != sliver);
                }
                Action::Boot { sliver, .. }
                | Action::Resume { sliver, .. }
                | Action::Publish { sliver, .. }
                | Action::Retune { sliver, .. } => {
                    let Some(desired) = input.desired.slivers.get(&sliver.itself()) else {
                        continue;
                    };
                    let takes = desired.resources.memory.mib();
                    let had = memory.insert(sliver, takes).unwrap_or(0);
                    // What is started takes its own: that the domain before it is gone is not for it to say.
                    let gives = if matches!(action, Action::Retune { .. } | Action::Publish { .. }) {
                        had
                    } else {
                        0
                    };
                    held = held.saturating_sub(gives).saturating_add(takes);
                    if takes > gives && held > limit {
                        let action = action.key();
                        findings.insert(Finding::Memory { action, held, limit });
                    }
                    ports.retain(|_, holder| *holder != sliver);
                    let later = matches!(
                        action,
                        Action::Boot {
                            ports: PortsFrom::Takeover,
                            ..
                        }
                    );
                    if later {
                        continue;
                    }
                    for publish in &desired.publish {
                        if ports.insert(publish.host, sliver).is_some() {
                            let action = action.key();
                            findings.insert(Finding::Port {
                                action,
                                port: publish.host,
                            });
                        }
                    }
                }
                Action::FetchTemplate { .. }
                | Action::ImportFiles { .. }
                | Action::MountRemote { .. }
                | Action::OpenWritable { .. }
                | Action::Limit { .. }
                | Action::Checkpoint { .. }
                | Action::Restore { .. }
                | Action::Stack { .. }
                | Action::Export { .. }
                | Action::AwaitHealthy { .. }
                | Action::Unpause { .. }
                | Action::Seal { .. }
                | Action::DiscardImage { .. }
                | Action::Revive { .. }
                | Action::Adopt { .. }
                | Action::Unexport { .. }
                | Action::CloseWritable { .. }
                | Action::Tombstone { .. }
                | Action::Purge { .. } => {}
            }
        }
    }
}

/// The plan's actions in an order that its edges allow, with everything that gives something back as late as can be.
/// Actions that can never start are left out; [`super::check_order`] finds those.
fn greedy(plan: &Plan) -> Vec<&Action> {
    let gives = |i: usize| match plan.actions[i].action {
        Action::Unpublish { .. } | Action::Shutdown { .. } | Action::Suspend { .. } => true,
        Action::Retune { .. } | Action::Publish { .. } => plan.actions[i].cost.memory_mib <= 0,
        Action::FetchTemplate { .. }
        | Action::ImportFiles { .. }
        | Action::MountRemote { .. }
        | Action::OpenWritable { .. }
        | Action::Limit { .. }
        | Action::Checkpoint { .. }
        | Action::Restore { .. }
        | Action::Stack { .. }
        | Action::Export { .. }
        | Action::Boot { .. }
        | Action::Resume { .. }
        | Action::Unpause { .. }
        | Action::AwaitHealthy { .. }
        | Action::Seal { .. }
        | Action::DiscardImage { .. }
        | Action::Revive { .. }
        | Action::Adopt { .. }
        | Action::Unexport { .. }
        | Action::CloseWritable { .. }
        | Action::Tombstone { .. }
        | Action::Purge { .. } => false,
    };
    let place = |i: usize| (gives(i), i);
    let index: BTreeMap<_, _> = plan
        .actions
        .iter()
        .enumerate()
        .map(|(i, planned)| (planned.action.key(), i))
        .collect();
    let mut waits_for: Vec<usize> = plan.actions.iter().map(|planned| planned.after.len()).collect();
    let mut dependents = vec![Vec::new(); plan.actions.len()];
    for (i, planned) in plan.actions.iter().enumerate() {
        for before in planned.after.iter().filter_map(|before| index.get(before)) {
            dependents[*before].push(i);
        }
    }
    let mut free: BTreeSet<_> = (0..waits_for.len())
        .filter(|i| waits_for[*i] == 0)
        .map(place)
        .collect();
    let mut order = Vec::with_capacity(plan.actions.len());
    while let Some((_, i)) = free.pop_first() {
        order.push(&plan.actions[i].action);
        for dependent in &dependents[i] {
            waits_for[*dependent] -= 1;
            if waits_for[*dependent] == 0 {
                free.insert(place(*dependent));
            }
        }
    }
    order
}
