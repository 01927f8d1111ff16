//! Why something happens, or does not happen yet, in sentences, and what a person can do about it.

mod hint;
mod run;

pub use hint::next_step;
pub use run::of_run;

use xeno_model::desired::HypervisorKind;
use xeno_model::observed::{DomainState, LayerLimits};
pub use xeno_model::time::utc;

use crate::change::{Change, Disruption, ImageMisfit, Reason};
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
        Reason::LimitForeign { limit } if *limit == LayerLimits::default() => {
            "its writable layers have no limit".to_owned()
        }
        Reason::LimitForeign { limit } => {
            format!("its writable layers are limited to {limit}, which nobody asked for")
        }
        Reason::GoesBack { to, at, keeps } => format!(
            "goes back to what it had written by {} (checkpoint {to}); what it wrote since is kept as {keeps}",
            utc(*at)
        ),
        Reason::ShareForeign { share } => {
            format!("its share of the file server is {share}, which nobody asked for")
        }
        Reason::NotStopped => "it was stopped, and something of it is there again".to_owned(),
        Reason::StateStopped => "should be stopped; what it wrote is kept".to_owned(),
        Reason::NotDesired => "no longer in the repository".to_owned(),
        Reason::PlacedElsewhere => "the repository places it on another node".to_owned(),
        Reason::TombstoneExpired { since } => {
            format!("removed on {}, and kept for as long as was promised", utc(*since))
        }
        Reason::NotEnforced { limits, by } => not_enforced(limits, *by),
        Reason::RemoteSilent { remote, since, why } => format!(
            "{} does not answer since {} ({why}): the guest goes on, but what it reads from there waits or fails",
            remote.url,
            utc(*since)
        ),
        Reason::MadeBeforeBroken { needed, free } => format!(
            "starts beside the one that runs ({needed} MiB of {free} MiB free), which serves on until the new one is \
             healthy"
        ),
        Reason::NoRoomBeside {
            needed,
            free,
            capacity,
        } => format!(
            "the old one ends before the new one starts: beside it {needed} MiB are needed, and {free} of the node's \
             {capacity} MiB are free for that"
        ),
        Reason::EmbodiedTwice => {
            "two domains of it are there since a replacement was interrupted; one of them stays".to_owned()
        }
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
        Reason::HeldElsewhere { by } => format!("node {by} has the right to run it"),
        Reason::Unfenced { by, fence } => {
            let fence = fence
                .as_ref()
                .map_or_else(String::new, |fence| format!(": {fence}"));
            format!(
                "node {by} has the right to run it and no sign of life, and nobody has confirmed that it is off{fence}"
            )
        }
        Reason::RightUnknown { why } => format!("nobody here knows who has the right to run it: {why}"),
        Reason::LeaseLapsed { why } => {
            let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            format!(
                "it runs, and its calls are held: the lease of this node on the board has run out{why}, so that another node \
                 may take it over"
            )
        }
        Reason::RightChanges { what } => what.clone(),
        Reason::MoveFailed { to, why, until } => {
            format!(
                "it could not be moved to {to} ({why}), which is tried again at {}",
                utc(*until)
            )
        }
        Reason::RolloutWaits { why } => format!("its rollout has not come to it: {why}"),
        Reason::DomainPaused => "its domain stands still, and is let go on".to_owned(),
        Reason::DomainForeignUuid { uuid } => format!("its domain is another one ({uuid})"),
        Reason::Mistuned { what } => format!("its domain has what nobody asked for: {}", what.join(", ")),
        Reason::NotHealthyYet => "it runs as asked, and has not been healthy since".to_owned(),
        Reason::StateSuspended => "should be suspended; its memory and what it wrote are kept".to_owned(),
        Reason::ImageBesideDomain => {
            "an image of its memory is left beside its domain, which has gone on since".to_owned()
        }
        Reason::ImageUnsealed => {
            "the image of its memory is not sealed with its writable layers yet".to_owned()
        }
        Reason::ImageLost => {
            "it was suspended, and no image of its memory is there: it starts anew".to_owned()
        }
        Reason::ImageDiscarded { what } => format!(
            "the image of its memory cannot be used ({}): it starts anew",
            misfit(*what)
        ),
        Reason::Vetoed { site, rule } | Reason::SiteCap { site, rule } => {
            format!("kept stopped: site {site} {rule}; what it wrote is kept")
        }
        Reason::Expired { since } => format!(
            "kept stopped: its time was over on {}; what it wrote is kept",
            utc(*since)
        ),
        Reason::MovedFrom { from } => format!("was {from} before, and takes over what it wrote"),
        Reason::MovedTo { to } => format!("goes by the name of {to} now, which takes over what it wrote"),
        Reason::ImageStale { what } => format!(
            "the image of its memory cannot be resumed: {}; undo that, or ask for `stopped` to give the image up",
            misfit(*what)
        ),
        Reason::Frozen { by, why, until } => {
            let until = until.map_or_else(|| "somebody thaws it".to_owned(), utc);
            format!("frozen by {by} ({why}) until {until}")
        }
        Reason::OutsideWindow { site, opens } => format!(
            "would disturb a service, and the maintenance window of site {site} opens on {}",
            utc(*opens)
        ),
        Reason::Unapproved { disruption } => format!(
            "what is asked of it {}, and nobody has approved that",
            match disruption {
                Disruption::None => "does not disturb it",
                Disruption::Reconnects => "ends connections to the service",
                Disruption::Interrupts => "interrupts the service",
                Disruption::Ends => "ends the service",
                Disruption::Destroys => "destroys what it wrote",
            }
        ),
        Reason::Crashing { restarts, until } => {
            let times = if *restarts == 1 {
                "once".to_owned()
            } else {
                format!("{restarts} times")
            };
            format!(
                "was restarted {times} of late, and is started again on {}",
                utc(*until)
            )
        }
        Reason::Together { with } => format!("changes together with {with}, which waits"),
        Reason::RunUnderway { action } => format!("{action} is being done"),
        Reason::RunQueued { action, after } => match after {
            Some(after) => format!("{action} comes after {after}"),
            None => format!("{action} comes when it is its turn"),
        },
        Reason::RunPausing {
            action,
            why,
            tries,
            wait_ms,
        } => format!(
            "{action} failed (try {tries}: {why}) and is tried again in {} s",
            wait_ms.div_ceil(1_000)
        ),
        Reason::RunFailed { action, why, tries } => {
            let times = if *tries == 1 {
                "at the first try".to_owned()
            } else {
                format!("after {tries} tries")
            };
            format!("{action} failed {times}: {why}")
        }
        Reason::RunBlocked { action, by } => format!("{action} cannot be done because {by} was not"),
        Reason::RunGaveWay { action } => format!("{action} was not begun because something newer came"),
    }
}

fn misfit(what: ImageMisfit) -> &'static str {
    match what {
        ImageMisfit::Boot => "it was started from other layers, kernel or CPUs than are asked for",
        ImageMisfit::Disk => "its writable layers have changed since",
        ImageMisfit::Identity => "it is the memory of another domain",
        ImageMisfit::Memory => "more memory is asked for than it was started with",
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
        DomainState::Kept { .. } => "stands still after its memory was sent",
        DomainState::Copy { .. } => "is a copy that has not run",
    }
}

#[cfg(test)]
mod tests;
