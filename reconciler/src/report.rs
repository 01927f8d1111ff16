//! Why something happens, or does not happen yet, in sentences.

use xeno_model::desired::HypervisorKind;
use xeno_model::observed::DomainState;
pub use xeno_model::time::utc;

use crate::change::{Change, Reason};
use crate::ports::Retry;

/// Why a change happens or waits: a sentence for each reason, the one that it waits for first.
#[must_use]
pub fn explain(change: &Change) -> Vec<String> {
    change.reasons.iter().map(sentence).collect()
}

/// One reason as a phrase that can stand alone.
#[must_use]
pub fn sentence(reason: &Reason) -> String {
    match reason {
        Reason::New => "new in the repository".to_owned(),
        Reason::Differs(difference) => difference.to_string(),
        Reason::Revived { since } => {
            format!(
                "removed on {}, and taken into use again with what it wrote",
                utc(*since)
            )
        }
        Reason::Unfinished => "an earlier run began it and did not finish".to_owned(),
        Reason::DomainMissing => "its domain is gone".to_owned(),
        Reason::DomainNotRunning { state } => format!("its domain {}", does(*state)),
        Reason::DomainForeignBoot { booted } => {
            format!("its domain was started as something else ({})", booted.short())
        }
        Reason::StorageMissing => "its files are not being served".to_owned(),
        Reason::StackForeign { stack } => {
            format!(
                "its files are not those it was started on (stack {})",
                stack.short()
            )
        }
        Reason::LimitForeign { limit: Some(limit) } => {
            format!("its writable layers are limited to {limit}, which nobody asked for")
        }
        Reason::LimitForeign { limit: None } => "its writable layers have no limit".to_owned(),
        Reason::NotStopped => "it was stopped, and something of it is there again".to_owned(),
        Reason::StateStopped => "should be stopped; what it wrote is kept".to_owned(),
        Reason::NotDesired => "no longer in the repository".to_owned(),
        Reason::PlacedElsewhere => "the repository places it on another node".to_owned(),
        Reason::TombstoneExpired { since } => {
            format!("removed on {}, and kept for as long as was promised", utc(*since))
        }
        Reason::NotEnforced { limits, by } => not_enforced(limits, *by),
        Reason::Blind { facet, why } => format!("{facet} could not be seen because {why}"),
        Reason::DeleteBudget { allowed, used, asked } => format!(
            "removing it would exceed the delete budget ({allowed} allowed, {used} used, {asked} asked for)"
        ),
        Reason::NodeNotNamed => {
            "the repository does not name this node, which therefore stays as it is".to_owned()
        }
        Reason::NothingDesired => {
            "the commit asks for nothing at all, and nothing is removed on the word of an empty commit"
                .to_owned()
        }
        Reason::NoRoom {
            needed,
            free,
            capacity,
        } => format!("needs {needed} MiB, and {free} of the node's {capacity} MiB are free for it"),
        Reason::PortTaken { port, by } => format!("port {port} of the node is held by {by}"),
        Reason::NotSupported { what } => format!("this version cannot do it: {what}"),
        Reason::BackingOff {
            action,
            why,
            until,
            retry,
        } => match retry {
            Retry::Later => format!("{action} failed ({why}) and is tried again at {}", utc(*until)),
            Retry::Never => format!(
                "{action} failed ({why}), which somebody has to change; tried again at {} in case it was",
                utc(*until)
            ),
        },
    }
}

/// Says that a hypervisor does not keep some limits.
#[must_use]
pub fn not_enforced(limits: &[String], by: HypervisorKind) -> String {
    format!("not enforced by {by} on this node: {}", limits.join(", "))
}

fn does(state: DomainState) -> &'static str {
    match state {
        DomainState::Running => "runs",
        DomainState::Paused => "is paused",
        DomainState::Stopping => "is stopping",
        DomainState::Crashed => "has crashed",
    }
}

#[cfg(test)]
mod tests;
