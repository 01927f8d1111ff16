//! Is a finished plan safe? An independent judge: it does not use the planner's reasoning, only the plan, what was
//! observed, and the rules.

mod rule;
mod shared;
mod slivers;
mod timing;

use std::collections::BTreeSet;
use std::fmt;

use xeno_model::desired::{DesiredSliver, SliverState, Standing};
use xeno_model::id::SliverId;

use crate::action::{Action, ActionKey};
use crate::change::ChangeClass;
use crate::plan::{Plan, PlanInput};

pub use rule::{Left, Rule};

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
        /// How it is when the plan is done.
        left: Left,
    },
    /// An action that breaks a rule at the moment its turn comes, whatever order the run takes.
    Unsafe {
        /// The action.
        action: ActionKey,
        /// Which rule.
        rule: Rule,
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
    /// An action for a sliver that is frozen.
    Frozen(ActionKey),
    /// A service that is up is disturbed outside the site's maintenance windows.
    OutsideWindow {
        /// Whose.
        sliver: SliverId,
        /// How.
        class: ChangeClass,
    },
    /// A service is disturbed more than somebody approved.
    Unapproved {
        /// Whose.
        sliver: SliverId,
        /// How.
        class: ChangeClass,
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
            Self::Lacking { sliver, left } => write!(f, "{sliver} is left {left}"),
            Self::Unsafe { action, rule } => write!(f, "{action} {rule}"),
            Self::Memory { action, held, limit } => {
                write!(f, "{action} may take guests to {held} MiB of {limit}")
            }
            Self::Port { action, port } => {
                write!(
                    f,
                    "{action} publishes port {port} while another domain may hold it"
                )
            }
            Self::Frozen(key) => write!(f, "{key} is for a sliver that is frozen"),
            Self::OutsideWindow { sliver, class } => {
                write!(
                    f,
                    "`{}` disturbs {sliver} outside the maintenance windows",
                    class.word()
                )
            }
            Self::Unapproved { sliver, class } => {
                write!(
                    f,
                    "`{}` disturbs {sliver}, and nobody has approved that",
                    class.word()
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
    slivers::check(plan, input, &mut findings);
    shared::check(plan, input, &mut findings);
    timing::check(plan, input, &mut findings);
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
    let unseen = |sliver: &SliverId| observed.storage_of(sliver).is_err();
    for planned in &plan.actions {
        let action = &planned.action;
        let blind = observed.domains.known().is_none()
            || observed.storage.known().is_none()
            || action.sliver().is_some_and(unseen);
        if blind && action.is_destructive() {
            findings.insert(Finding::Blind(action.key()));
        }
        for sliver in planned
            .serves
            .iter()
            .cloned()
            .chain(action.sliver().map(SliverId::itself))
        {
            let class = plan.changes.get(&sliver).map(|change| change.class);
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
        Create, HandOver, InPlace, Keep, Purge, Reboot, Remove, Replace, Resume, Start, Stop, Suspend, Wait,
    };
    match (action, class) {
        (_, Keep | Wait) => false,
        (
            Action::FetchTemplate { .. }
            | Action::ImportFiles { .. }
            | Action::MountRemote { .. }
            | Action::OpenWritable { .. }
            | Action::Limit { .. }
            | Action::Stack { .. }
            | Action::Export { .. }
            | Action::AwaitHealthy { .. },
            class,
        ) => matches!(class, InPlace | Create | Start | Resume | Replace | Reboot),
        (Action::Retune { .. } | Action::Unpause { .. }, class) => matches!(class, InPlace | Replace),
        (Action::Publish { .. } | Action::Unpublish { .. }, class) => matches!(class, Replace),
        (Action::Boot { .. } | Action::Checkpoint { .. } | Action::Restore { .. }, class) => {
            matches!(class, Create | Start | Replace | Reboot)
        }
        (Action::Resume { .. }, class) => matches!(class, Resume),
        (Action::Suspend { .. }, class) => matches!(class, Suspend | Stop | Remove),
        (Action::Seal { .. }, class) => matches!(class, Resume | Suspend | Stop | Remove),
        (Action::DiscardImage { .. }, class) => {
            matches!(
                class,
                InPlace | Create | Start | Replace | Reboot | HandOver | Suspend | Stop | Remove | Purge
            )
        }
        (Action::Revive { .. } | Action::Adopt { .. }, class) => {
            matches!(
                class,
                InPlace | Create | Start | Resume | Replace | Reboot | Suspend | Stop
            )
        }
        (Action::Shutdown { .. } | Action::Unexport { .. } | Action::CloseWritable { .. }, class) => {
            matches!(
                class,
                Create | Start | Resume | Replace | Reboot | HandOver | Suspend | Stop | Remove
            )
        }
        (Action::Tombstone { .. }, class) => matches!(class, Remove),
        (Action::Purge { .. }, class) => matches!(class, Purge),
    }
}

/// What a sliver should be doing: the site's word and its own end come before the manifest's.
fn wanted_state(input: &PlanInput<'_>, desired: &DesiredSliver) -> SliverState {
    let over = desired.expires.is_some_and(|expires| expires <= input.now);
    let ruled_out = input.desired.site.site.is_some() && input.desired.ruled_out.contains_key(&desired.id);
    match desired.state {
        SliverState::Running if over || ruled_out => SliverState::Stopped,
        state => state,
    }
}

/// Whether somebody goes on with what a sliver wrote that is not desired itself.
fn is_handed_over(plan: &Plan, input: &PlanInput<'_>, sliver: &SliverId) -> bool {
    let mut heirs = input.desired.slivers.values();
    let named = heirs.any(|desired| desired.moved_from.as_ref() == Some(sliver));
    let gone = !input.desired.slivers.contains_key(sliver) && !input.desired.elsewhere.contains(sliver);
    let kept = input.observed.storage_of(sliver);
    let nothing = kept.is_ok_and(|kept| kept.is_none_or(|kept| !kept.on_disk));
    let mut actions = plan.actions.iter().map(|planned| &planned.action);
    let taken = actions.any(|action| matches!(action, Action::Adopt { from, .. } if from == sliver));
    named && gone && (taken || nothing)
}

fn check_removals(plan: &Plan, input: &PlanInput<'_>, findings: &mut BTreeSet<Finding>) {
    let mut removed = BTreeSet::new();
    let mut purged = false;
    for planned in &plan.actions {
        let gone = |sliver: &SliverId| !input.desired.slivers.contains_key(&sliver.itself());
        match &planned.action {
            Action::Purge { sliver } => {
                purged = true;
                let storage = input.observed.storage_of(sliver).ok().flatten();
                let since = storage.and_then(|s| s.tombstone);
                let due = since.is_some_and(|t| t.0.saturating_add(input.tombstone_ms) <= input.now.0);
                if !due || !gone(sliver) {
                    findings.insert(Finding::Unsafe {
                        action: planned.action.key(),
                        rule: Rule::DeletesWhatIsNotDueForIt,
                    });
                }
            }
            Action::Tombstone { sliver } => {
                removed.insert(sliver.itself());
                if !gone(sliver) {
                    findings.insert(Finding::Unsafe {
                        action: planned.action.key(),
                        rule: Rule::SetsAsideWhatIsDesired,
                    });
                }
            }
            action @ (Action::Shutdown { .. }
            | Action::Suspend { .. }
            | Action::Unexport { .. }
            | Action::CloseWritable { .. }) => {
                let sliver = action.sliver().map(SliverId::itself);
                removed.extend(sliver.filter(|sliver| gone(sliver) && !is_handed_over(plan, input, sliver)));
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
            | Action::Boot { .. }
            | Action::Resume { .. }
            | Action::Unpause { .. }
            | Action::Retune { .. }
            | Action::Unpublish { .. }
            | Action::Publish { .. }
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

#[cfg(test)]
mod tests;
