//! Is a finished plan safe? An independent judge: it does not use the planner's reasoning, only the plan, what was
//! observed, and the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use xeno_model::desired::{LayerRef, SliverState, Standing};
use xeno_model::id::{Digest, SliverId};
use xeno_model::normal::{boot_digest, stack_digest};
use xeno_model::observed::Seen;

use crate::action::{Action, ActionKey};
use crate::change::ChangeClass;
use crate::plan::{Plan, PlanInput};
use crate::situation::sized;

/// A rule that a plan breaks. A plan with findings must not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Two actions have the same name.
    Twice(ActionKey),
    /// An action stands before one that it comes after, or after one that is not there.
    Order {
        /// The action.
        action: ActionKey,
        /// What it should come after.
        after: ActionKey,
    },
    /// Something destructive although a facet could not be seen.
    Blind(ActionKey),
    /// An action for a sliver that nothing should happen to.
    NoChange(ActionKey),
    /// An action that does not belong to what the change says.
    Misfit {
        /// The action.
        action: ActionKey,
        /// The class of its sliver's change.
        class: ChangeClass,
    },
    /// A change without a reason.
    NoReason(SliverId),
    /// A change that its own actions do not make.
    Lacking {
        /// Whose.
        sliver: SliverId,
        /// What is not so when the plan is done.
        what: &'static str,
    },
    /// An action that breaks a rule at the moment its turn comes, whatever order the run takes.
    Unsafe {
        /// The action.
        action: ActionKey,
        /// Which rule.
        what: &'static str,
    },
    /// Guests would hold more memory than the node has.
    Memory {
        /// The boot that goes too far.
        action: ActionKey,
        /// MiB that guests may hold then.
        held: u64,
        /// MiB that they may.
        limit: u64,
    },
    /// A port of the node would be published twice.
    Port {
        /// The boot that goes too far.
        action: ActionKey,
        /// Which port.
        port: u16,
    },
    /// More removals than the budget allows, or where nothing may be removed at all.
    Removals {
        /// In the plan.
        planned: u32,
        /// Allowed.
        allowed: u32,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(key) => write!(f, "{key} is planned twice"),
            Self::Order { action, after } => write!(f, "{action} does not come after {after}"),
            Self::Blind(key) => write!(f, "{key} takes something away that could not be seen"),
            Self::NoChange(key) => write!(f, "{key} is for a sliver that should stay as it is"),
            Self::Misfit { action, class } => write!(f, "{action} is no part of `{}`", class.word()),
            Self::NoReason(sliver) => write!(f, "{sliver} changes without a reason"),
            Self::Lacking { sliver, what } => write!(f, "{sliver} is left {what}"),
            Self::Unsafe { action, what } => write!(f, "{action} {what}"),
            Self::Memory { action, held, limit } => {
                write!(f, "{action} may take guests to {held} MiB of {limit}")
            }
            Self::Port { action, port } => {
                write!(
                    f,
                    "{action} publishes port {port} while another domain may hold it"
                )
            }
            Self::Removals { planned, allowed } => {
                write!(f, "{planned} removals are planned and {allowed} allowed")
            }
        }
    }
}

/// All rules that `plan` breaks as a plan for `input`, sorted; none for what [`build`](crate::plan::build) makes.
#[must_use]
pub fn check(plan: &Plan, input: &PlanInput<'_>) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    check_order(plan, &mut findings);
    check_changes(plan, input, &mut findings);
    check_removals(plan, input, &mut findings);
    check_slivers(plan, input, &mut findings);
    check_shared(plan, input, &mut findings);
    findings.into_iter().collect()
}

fn check_order(plan: &Plan, findings: &mut BTreeSet<Finding>) {
    let mut seen = BTreeSet::new();
    for planned in &plan.actions {
        let key = planned.action.key();
        for after in planned.after.iter().filter(|after| !seen.contains(*after)) {
            findings.insert(Finding::Order {
                action: key.clone(),
                after: after.clone(),
            });
        }
        if !seen.insert(key.clone()) {
            findings.insert(Finding::Twice(key));
        }
    }
}

fn check_changes(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    for (sliver, change) in &plan.changes {
        if change.class != ChangeClass::Keep && change.reasons.is_empty() {
            findings.insert(Finding::NoReason(sliver.clone()));
        }
    }
    let observed = input.observed;
    let blind = observed.domains.known().is_none() || observed.storage.known().is_none();
    for planned in &plan.actions {
        let action = &planned.action;
        if blind && action.is_destructive() {
            findings.insert(Finding::Blind(action.key()));
        }
        for sliver in planned.serves.iter().chain(action.sliver()) {
            let class = plan.changes.get(sliver).map(|change| change.class);
            match class {
                None | Some(ChangeClass::Keep | ChangeClass::Wait) => {
                    findings.insert(Finding::NoChange(action.key()));
                }
                Some(class) if !belongs(action, class) => {
                    findings.insert(Finding::Misfit {
                        action: action.key(),
                        class,
                    });
                }
                Some(_) => {}
            }
        }
    }
}

/// Whether an action can be part of a change of that class.
fn belongs(action: &Action, class: ChangeClass) -> bool {
    use ChangeClass::{
        Create, HandOver, InPlace, Keep, Purge, Reboot, Remove, Resume, Start, Stop, Suspend, Wait,
    };
    match (action, class) {
        (_, Keep | Wait) => false,
        (
            Action::FetchTemplate { .. }
            | Action::ImportFiles { .. }
            | Action::OpenWritable { .. }
            | Action::Limit { .. }
            | Action::Stack { .. }
            | Action::Export { .. }
            | Action::AwaitHealthy { .. },
            class,
        ) => matches!(class, InPlace | Create | Start | Resume | Reboot),
        (Action::Retune { .. } | Action::Unpause { .. }, class) => matches!(class, InPlace),
        (Action::Resume { .. }, class) => matches!(class, Resume),
        (Action::Suspend { .. }, class) => matches!(class, Suspend | Stop | Remove),
        (Action::Seal { .. }, class) => matches!(class, Resume | Suspend | Stop | Remove),
        (Action::DiscardImage { .. }, class) => {
            matches!(class, InPlace | Create | Start | Reboot | Stop | Remove | Purge)
        }
        (Action::Revive { .. }, class) => matches!(class, Create | Start | Resume | Suspend | Stop),
        (Action::Adopt { .. }, class) => matches!(class, Create),
        (Action::Boot { .. }, class) => matches!(class, Create | Start | Reboot),
        (Action::Shutdown { .. } | Action::Unexport { .. } | Action::CloseWritable { .. }, class) => {
            matches!(
                class,
                Create | Start | Resume | Reboot | HandOver | Suspend | Stop | Remove
            )
        }
        (Action::Tombstone { .. }, class) => matches!(class, Remove),
        (Action::Purge { .. }, class) => matches!(class, Purge),
    }
}

fn check_removals(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    let mut removed = BTreeSet::new();
    let mut purged = false;
    for planned in &plan.actions {
        let gone = |sliver: &SliverId| !input.desired.slivers.contains_key(sliver);
        match &planned.action {
            Action::Purge { sliver } => {
                purged = true;
                let storage = input.observed.storage.known().and_then(|s| s.get(sliver));
                let since = storage.and_then(|s| s.tombstone);
                let due = since.is_some_and(|t| t.0.saturating_add(input.tombstone_ms) <= input.now.0);
                if !due || !gone(sliver) {
                    findings.insert(Finding::Unsafe {
                        action: planned.action.key(),
                        what: "deletes what is not due for it",
                    });
                }
            }
            Action::Tombstone { sliver } => {
                removed.insert(sliver);
                if !gone(sliver) {
                    findings.insert(Finding::Unsafe {
                        action: planned.action.key(),
                        what: "sets aside what is desired",
                    });
                }
            }
            action @ (Action::Shutdown { .. }
            | Action::Suspend { .. }
            | Action::Unexport { .. }
            | Action::CloseWritable { .. }) => {
                removed.extend(action.sliver().filter(|sliver| gone(sliver)));
            }
            Action::FetchTemplate { .. }
            | Action::ImportFiles { .. }
            | Action::OpenWritable { .. }
            | Action::Limit { .. }
            | Action::Stack { .. }
            | Action::Export { .. }
            | Action::Boot { .. }
            | Action::Resume { .. }
            | Action::Unpause { .. }
            | Action::Retune { .. }
            | Action::Seal { .. }
            | Action::DiscardImage { .. }
            | Action::Revive { .. }
            | Action::Adopt { .. }
            | Action::AwaitHealthy { .. } => {}
        }
    }
    let empty = input.desired.slivers.is_empty() && input.desired.elsewhere.is_empty();
    let frozen = empty || input.desired.standing == Standing::NotNamed;
    let budget = input.desired.delete_budget.slivers;
    let allowed = if frozen {
        0
    } else {
        budget.saturating_sub(input.removed_recently)
    };
    let planned = u32::try_from(removed.len()).unwrap_or(u32::MAX);
    if planned > allowed || (frozen && purged) {
        findings.insert(Finding::Removals { planned, allowed });
    }
}

/// What one sliver is like at a moment of the plan.
#[derive(Clone, Debug, Default)]
struct Now {
    /// What its domain was started as, if it has one.
    domain: Option<Digest>,
    /// Whether that domain has the memory and the ports that are asked for.
    sized: bool,
    /// Whether that domain runs.
    runs: bool,
    open: bool,
    /// Open under the highest right to run that is known, and not set aside: nothing to be said against it.
    rightly_open: bool,
    stack: Option<Digest>,
    exported: bool,
    /// Writable layers lie on disk.
    kept: bool,
    set_aside: bool,
}

/// Plays each sliver's actions in the plan's order, and asks of each whether its moment has come. That edges force this
/// order is asked as well.
fn check_slivers(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    let (Seen::Known(domains), Seen::Known(storage)) = (&input.observed.domains, &input.observed.storage)
    else {
        return;
    };
    let mut here = input.observed.templates.known().cloned().unwrap_or_default();
    let mut files = input.observed.file_layers.known().cloned().unwrap_or_default();
    let mut last: BTreeMap<&SliverId, ActionKey> = BTreeMap::new();
    let stacks = plan
        .actions
        .iter()
        .filter(|planned| matches!(planned.action, Action::Stack { .. }));
    let stacked: BTreeSet<_> = stacks.filter_map(|planned| planned.action.sliver()).collect();
    let mut now: BTreeMap<SliverId, Now> = BTreeMap::new();
    for sliver in plan.changes.keys() {
        let kept = storage.get(sliver);
        let domain = domains.ours.get(sliver);
        let state = Now {
            domain: domain.map(|d| d.booted),
            sized: domain.is_some_and(|domain| {
                input
                    .desired
                    .slivers
                    .get(sliver)
                    .is_some_and(|desired| sized(domain, desired))
            }),
            runs: domain.is_some_and(|d| d.state == xeno_model::observed::DomainState::Running),
            open: kept.is_some_and(|s| s.open.is_some()),
            rightly_open: kept.is_some_and(|s| {
                let applied = input.applied.get(sliver).map(|applied| applied.epoch);
                s.open.is_some() && s.open >= applied && s.tombstone.is_none()
            }),
            stack: kept.and_then(|s| s.stack),
            exported: kept.is_some_and(|s| s.exported),
            kept: kept.is_some_and(|s| s.on_disk),
            set_aside: kept.is_some_and(|s| s.tombstone.is_some()),
        };
        now.insert(sliver.clone(), state);
    }
    for planned in &plan.actions {
        let action = &planned.action;
        let mut fault = |broken: bool, what: &'static str| {
            if broken {
                findings.insert(Finding::Unsafe {
                    action: action.key(),
                    what,
                });
            }
        };
        match action {
            Action::FetchTemplate { digest, .. } => {
                here.insert(*digest);
                continue;
            }
            Action::ImportFiles { digest } => {
                files.insert(*digest);
                continue;
            }
            Action::OpenWritable { .. }
            | Action::Limit { .. }
            | Action::Stack { .. }
            | Action::Export { .. }
            | Action::Boot { .. }
            | Action::AwaitHealthy { .. }
            | Action::Resume { .. }
            | Action::Unpause { .. }
            | Action::Retune { .. }
            | Action::Suspend { .. }
            | Action::Seal { .. }
            | Action::DiscardImage { .. }
            | Action::Revive { .. }
            | Action::Adopt { .. }
            | Action::Shutdown { .. }
            | Action::Unexport { .. }
            | Action::CloseWritable { .. }
            | Action::Tombstone { .. }
            | Action::Purge { .. } => {}
        }
        let Some(sliver) = action.sliver() else { continue };
        if let Some(before) = last.insert(sliver, action.key()) {
            fault(
                !planned.after.contains(&before),
                "is not held behind the step before it",
            );
        }
        let state = now.entry(sliver.clone()).or_default();
        let desired = input.desired.slivers.get(sliver);
        let runs = desired.filter(|desired| desired.state == SliverState::Running);
        // Whether it could start now; its layers are asked for only where they have to be stacked anew.
        let ready = |here: &BTreeSet<Digest>, files: &BTreeSet<Digest>, restacks: bool| {
            runs.is_none_or(|desired| {
                let layers = desired.mounts.iter().flat_map(|mount| &mount.layers);
                let mut layers = layers.map(|layer| match layer {
                    LayerRef::Template(template) => here.contains(&template.digest),
                    LayerRef::Files { digest } => files.contains(digest),
                    LayerRef::Directory { .. } | LayerRef::Remote { .. } => true,
                });
                here.contains(&desired.kernel.digest) && (!restacks || layers.all(|here| here))
            })
        };
        match action {
            Action::FetchTemplate { .. } | Action::ImportFiles { .. } => {}
            Action::OpenWritable { .. } => {
                fault(runs.is_none(), "opens what should not run");
                fault(state.open || state.stack.is_some(), "opens what is open");
                state.open = true;
                state.set_aside = false;
            }
            Action::Limit { disk, .. } => {
                fault(!state.open, "limits writable layers that are not open");
                fault(
                    runs.is_none_or(|desired| desired.resources.disk != *disk),
                    "limits to what is not desired",
                );
            }
            Action::Stack { stack, .. } => {
                fault(!state.open, "stacks on a writable layer that is not open");
                fault(
                    runs.map(stack_digest) != Some(*stack),
                    "stacks what is not desired",
                );
                fault(!ready(&here, &files, true), "stacks layers that are not here");
                fault(
                    state.exported || state.stack.is_some(),
                    "stacks over a stack that is in use",
                );
                state.stack = Some(*stack);
            }
            Action::Export { stack, .. } => {
                fault(
                    state.stack != Some(*stack),
                    "serves a stack that is not assembled",
                );
                let foreign = state
                    .domain
                    .is_some_and(|booted| runs.map(boot_digest) != Some(booted));
                fault(foreign, "serves a domain that was started on something else");
                state.exported = true;
            }
            Action::Boot { boot, .. } => {
                fault(
                    !state.exported || state.stack != runs.map(stack_digest),
                    "starts a domain without its export",
                );
                fault(state.domain.is_some(), "starts a second domain");
                fault(runs.map(boot_digest) != Some(*boot), "starts what is not desired");
                let kernel = runs.is_some_and(|desired| here.contains(&desired.kernel.digest));
                fault(!kernel, "starts without its kernel");
                state.domain = Some(*boot);
                state.sized = true;
                state.runs = true;
            }
            Action::Resume { .. }
            | Action::Unpause { .. }
            | Action::Retune { .. }
            | Action::Suspend { .. }
            | Action::Seal { .. }
            | Action::DiscardImage { .. }
            | Action::Revive { .. }
            | Action::Adopt { .. } => fault(true, "is not known to the checker"),
            Action::AwaitHealthy { .. } => fault(!state.runs, "waits for a domain that does not run"),
            Action::Shutdown { .. } => {
                fault(state.domain.is_none(), "stops a domain that is not ours");
                let right =
                    state.runs && state.sized && state.exported && runs.map(boot_digest) == state.domain;
                fault(
                    right && state.stack == runs.map(stack_digest) && state.rightly_open,
                    "stops a domain that is as desired",
                );
                let restacks = stacked.contains(sliver);
                fault(
                    !ready(&here, &files, restacks),
                    "stops a domain before it can start again",
                );
                state.domain = None;
                state.runs = false;
            }
            Action::Unexport { .. } => {
                fault(state.domain.is_some(), "stops serving a domain that is there");
                state.exported = false;
            }
            Action::CloseWritable { .. } => {
                fault(state.domain.is_some() || state.exported, "closes what is in use");
                state.open = false;
                state.stack = None;
            }
            Action::Tombstone { .. } => {
                let used = state.domain.is_some() || state.exported || state.open || state.stack.is_some();
                fault(used, "sets aside what is in use");
                state.set_aside = true;
            }
            Action::Purge { .. } => {
                let used = state.domain.is_some() || state.exported || state.open || state.stack.is_some();
                fault(used || !state.set_aside, "deletes what is in use");
                state.kept = false;
                state.set_aside = false;
            }
        }
    }
    for (sliver, change) in &plan.changes {
        let state = &now[sliver];
        let what = match change.class {
            ChangeClass::Keep | ChangeClass::Wait => continue,
            ChangeClass::Purge if !state.set_aside => continue,
            ChangeClass::Purge => "set aside",
            ChangeClass::InPlace
            | ChangeClass::Create
            | ChangeClass::Start
            | ChangeClass::Resume
            | ChangeClass::Reboot => {
                let Some(desired) = input.desired.slivers.get(sliver) else {
                    findings.insert(Finding::Lacking {
                        sliver: sliver.clone(),
                        what: "changing although nobody desires it",
                    });
                    continue;
                };
                if desired.state != SliverState::Running
                    || (state.runs
                        && state.sized
                        && state.exported
                        && state.domain == Some(boot_digest(desired)))
                {
                    continue;
                }
                "without its domain or its export"
            }
            ChangeClass::HandOver | ChangeClass::Suspend | ChangeClass::Stop | ChangeClass::Remove => {
                let closed = !state.exported && !state.open && state.stack.is_none();
                let stays = change.class == ChangeClass::Remove && state.kept && !state.set_aside;
                if state.domain.is_none() && closed && !stays {
                    continue;
                }
                "running, open or not set aside"
            }
        };
        findings.insert(Finding::Lacking {
            sliver: sliver.clone(),
            what,
        });
    }
}

/// Plays memory and ports in two orders that the run may take: that of the plan, and the greediest, in which nothing
/// stops before everything that can start has started.
fn check_shared(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
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
                Action::Shutdown { sliver, .. } => {
                    held = held.saturating_sub(memory.remove(sliver).unwrap_or(0));
                    ports.retain(|_, holder| *holder != sliver);
                }
                Action::Boot { sliver, .. } => {
                    let Some(desired) = input.desired.slivers.get(sliver) else {
                        continue;
                    };
                    let takes = desired.resources.memory.mib();
                    held = held.saturating_add(takes);
                    memory.insert(sliver, takes);
                    if held > limit {
                        let action = action.key();
                        findings.insert(Finding::Memory { action, held, limit });
                    }
                    for publish in &desired.publish {
                        if ports
                            .insert(publish.host, sliver)
                            .is_some_and(|holder| holder != sliver)
                        {
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
                | Action::OpenWritable { .. }
                | Action::Limit { .. }
                | Action::Stack { .. }
                | Action::Export { .. }
                | Action::AwaitHealthy { .. }
                | Action::Resume { .. }
                | Action::Unpause { .. }
                | Action::Retune { .. }
                | Action::Suspend { .. }
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

/// The plan's actions in an order that its edges allow, with every shutdown as late as can be. Actions that can never
/// start are left out; [`check_order`] finds those.
fn greedy(plan: &Plan) -> Vec<&Action> {
    let place = |i: usize| (matches!(plan.actions[i].action, Action::Shutdown { .. }), i);
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

#[cfg(test)]
mod tests;
