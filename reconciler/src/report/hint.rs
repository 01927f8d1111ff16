//! What a person can do about a reason, if anything: the last line of `xeno why`.

use crate::change::{ImageMisfit, Reason};
use crate::ports::Retry;

/// What to do next, as a sentence. Where a thing passes by itself, the sentence says when.
#[must_use]
pub fn next_step(reason: &Reason, sliver: &str) -> String {
    let slice = sliver.split_once('/').map_or(sliver, |(slice, _)| slice);
    match reason {
        Reason::New
        | Reason::Differs(_)
        | Reason::Revived { .. }
        | Reason::Unfinished
        | Reason::DomainMissing
        | Reason::DomainNotRunning { .. }
        | Reason::DomainPaused
        | Reason::DomainForeignUuid { .. }
        | Reason::StorageMissing
        | Reason::StackForeign { .. }
        | Reason::Mistuned { .. }
        | Reason::ImageBesideDomain
        | Reason::ImageUnsealed => "nothing to do: the agent is about to put it right".to_owned(),
        Reason::DomainForeignBoot { .. } | Reason::LimitForeign { .. } | Reason::ShareForeign { .. } | Reason::NotStopped => {
            "nothing to do: the agent puts it right; find out who else changes guests on this node".to_owned()
        }
        Reason::GoesBack { to, .. } => format!(
            "to keep what it wrote since, set `rollback: {{ data: keep }}` for slice {slice} before it is carried out; \
             afterwards `xeno overlay restore {sliver} {to}` goes the other way with the checkpoint that is kept"
        )
        .replace(to, "NAME"),
        Reason::NotHealthyYet => {
            format!("wait for its health check, or see what the guest says: `xeno logs {sliver}`")
        }
        Reason::StateStopped => format!("to have it run, set `state: running` for slice {slice} and push"),
        Reason::StateSuspended => format!("to have it go on, `xeno resume {sliver}` and push"),
        Reason::ImageLost => "nothing to do: it boots, and finds what it wrote".to_owned(),
        Reason::ImageDiscarded { .. } => {
            "nothing to do: it boots, and finds what it wrote; what was only in memory is lost".to_owned()
        }
        Reason::Vetoed { site, .. } => format!(
            "ask the owner of site {site}, whose `policy.vetoes` name it, or place it on a node elsewhere"
        ),
        Reason::Expired { .. } => {
            format!("to have it run, move or remove `expiry` of slice {slice} and push")
        }
        Reason::MovedFrom { .. } | Reason::MovedTo { .. } => {
            "nothing to do: what it wrote goes along; `movedFrom` can be removed once that is done".to_owned()
        }
        Reason::NotDesired => {
            format!("if that is a mistake, `xeno undelete {sliver}` and push, before what it wrote is purged")
        }
        Reason::PlacedElsewhere => {
            "if that is a mistake, place it here again and push, before what it wrote is purged".to_owned()
        }
        Reason::TombstoneExpired { .. } => {
            format!("to keep what it wrote: `xeno freeze {sliver} --reason TEXT` now, then `xeno undelete {sliver}` and push")
        }
        Reason::NotEnforced { .. } => {
            "place it on a node whose hypervisor keeps these limits, or leave them out".to_owned()
        }
        Reason::RemoteSilent { .. } => {
            "see to its server and the way there; the guest goes on by itself once it answers, and nothing that needs it \
             is stopped or started meanwhile"
                .to_owned()
        }
        Reason::MadeBeforeBroken { .. } => {
            format!("nothing to do: it serves on; if the new one does not get healthy, see `xeno logs {sliver}`")
        }
        Reason::NoRoomBeside { .. } => {
            "to be without the interruption, leave as much memory free on the node, or place it elsewhere".to_owned()
        }
        Reason::EmbodiedTwice => "nothing to do: one of them ends once the other serves".to_owned(),
        Reason::Blind { .. } => "see what is wrong with `xeno doctor`; nothing is touched meanwhile".to_owned(),
        Reason::DeleteBudget { .. } => {
            "wait for the budget's window to move on, raise `deleteBudget` of the Fleet, or name the slivers again"
                .to_owned()
        }
        Reason::NodeNotNamed => {
            "name this node in a Node document and push, or stop its agent if it is to leave the fleet".to_owned()
        }
        Reason::NothingDesired => {
            "if everything is to go, set `state: stopped` first, and leave at least one slice".to_owned()
        }
        Reason::NoRoom { .. } => {
            "place it on another node, ask for less memory, or stop something else on this one".to_owned()
        }
        Reason::PortTaken { by, .. } => format!("publish another port, or stop {by}, and push"),
        Reason::NotSupported { .. } => "ask for something else, or place it on a node that can do it".to_owned(),
        Reason::BackingOff { retry: Retry::Later, .. } => {
            "it is tried again by itself; `xeno reconcile` tries at once".to_owned()
        }
        Reason::BackingOff { retry: Retry::Never, .. } => {
            "change what the message names; `xeno reconcile` then tries at once".to_owned()
        }
        Reason::ImageStale { what } => match what {
            ImageMisfit::Disk | ImageMisfit::Identity => {
                format!("give the image up: set `state: stopped` for {sliver}, push, then `running`")
            }
            ImageMisfit::Boot | ImageMisfit::Memory => format!(
                "revert what was changed since (`xeno history {sliver}`), or give the image up: set `state: stopped`, \
                 push, then `running`"
            ),
        },
        Reason::Frozen { .. } => "ask whoever froze it; `xeno get freezes` shows what is frozen, `xeno thaw` ends it".to_owned(),
        Reason::OutsideWindow { site, .. } => {
            format!("wait for the window, or ask the owner of site {site} for an earlier one")
        }
        Reason::Unapproved { .. } => {
            format!("`xeno approve` shows what waits so, `xeno approve {sliver}` lets just that happen")
        }
        Reason::SiteCap { site, .. } => {
            format!("ask for less, or ask the owner of site {site}, whose `policy.caps` say so")
        }
        Reason::Crashing { .. } => format!(
            "see why it ends: `xeno logs {sliver}`; it is started again by itself, and `xeno reconcile` does so at once"
        ),
        Reason::Together { with } => format!("see what that one waits for: `xeno why {with}`"),
        Reason::HeldElsewhere { by } => format!(
            "see there what it waits for: `xeno why {sliver}` on {by}; if that node is lost for good, `xeno abandon {sliver}` says so"
        ),
        Reason::Unfenced { by, .. } => format!(
            "make sure that {by} is off or cut from its storage, and say so: `xeno fence {by} --confirm`; if it comes back, it goes on there"
        ),
        Reason::RightUnknown { .. } => {
            "see to the board: `xeno doctor` says what is wrong with it; what runs goes on running".to_owned()
        }
        Reason::LeaseLapsed { .. } => {
            "see to the board (`xeno doctor` says what is wrong with it); once it answers, the guest goes on, or ends here if \
             another node has taken it over"
                .to_owned()
        }
        Reason::RightChanges { .. } => "wait; `xeno events --watch` shows how it goes on".to_owned(),
        Reason::MoveFailed { to, .. } => format!(
            "it goes on here meanwhile; see `xeno doctor` on {to}, and `xeno reconcile` tries again at once"
        ),
        Reason::RolloutWaits { .. } => {
            "wait; `xeno rollout status` shows how far the rollout is".to_owned()
        }
        Reason::RunUnderway { .. } | Reason::RunQueued { .. } => {
            "wait; `xeno events --watch` shows how it goes on".to_owned()
        }
        Reason::RunPausing { .. } => "it is tried again within this run; the message says what to look at".to_owned(),
        Reason::RunFailed { .. } => {
            "change what the message names; it is tried again later, and at once by `xeno reconcile`".to_owned()
        }
        Reason::RunBlocked { by, .. } => match by.0.split_once(':') {
            Some((_, other)) if other.contains('/') && other != sliver => {
                format!("see what that one waits for: `xeno why {other}`")
            }
            Some(_) | None => "see why that one failed, above; this follows once it succeeds".to_owned(),
        },
        Reason::RunGaveWay { .. } => "nothing to do: the plan for what is newer follows".to_owned(),
    }
}
