//! What the planner may do with a sliver while the right to run it is this node's, or is not.

use std::fmt;

use xeno_model::id::Epoch;

use super::{Act, Disk, Guest, Next, Place, Record, Step, View, Why, next};
use crate::change::Reason;

/// What the planner may do with a sliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// All it wants, under this epoch.
    Held(Epoch),
    /// Nothing.
    Not(Reason),
}

/// What the planner may do with a sliver. `paused`: why the step that is due is not tried now; `unread`: why nobody here knows who
/// has the right.
#[must_use]
pub fn leave(view: &View<'_>, paused: Option<&str>, unread: impl FnOnce() -> String) -> Leave {
    let changes = |what: String| Leave::Not(Reason::RightChanges { what });
    let unread = || Leave::Not(Reason::RightUnknown { why: unread() });
    let epoch = match &view.record {
        Record::Is(holder) => holder.epoch,
        Record::Absent | Record::Unknown => view.journal.began.unwrap_or_default(),
    };
    match next(view) {
        Next::Run { epoch } => Leave::Held(epoch),
        // What is to go elsewhere is removed by nobody, and what is to go away only by one who knows that it may.
        Next::Wait(Why::Settled) => match &view.place {
            Place::At(to) => changes(format!("it is to go to {to}")),
            Place::Nowhere if view.record == Record::Unknown => unread(),
            Place::Here | Place::Nowhere => Leave::Held(epoch),
        },
        Next::Do(step) if is_the_planners(view, &step) => Leave::Held(epoch),
        Next::Do(Step::Depart { to }) => changes(format!("it is to go to {to}")),
        Next::Do(step) => match paused {
            Some(why) => changes(format!("{step}: {why}; tried again soon")),
            None => changes(step.to_string()),
        },
        Next::Wait(Why::HeldBy(by)) => Leave::Not(Reason::HeldElsewhere { by }),
        Next::Wait(Why::Unfenced(by)) => Leave::Not(Reason::Unfenced { by, fence: None }),
        Next::Wait(Why::Outcome(by)) => changes(format!(
            "{by} has the right to run it, and has not said yet whether it goes on there"
        )),
        Next::Wait(Why::Board) => unread(),
        Next::Wait(Why::Lease) => Leave::Not(match (view.guest, view.disk) {
            (Guest::Running, Disk::Lapsed { .. }) => Reason::LeaseLapsed { why: None },
            _ => Reason::RightUnknown {
                why: "another node may have taken it over, and this one has not read the board since its lease began".to_owned(),
            },
        }),
        Next::Wait(Why::Underway) => changes("it is being moved".to_owned()),
        Next::Wait(Why::Vacant) => Leave::Not(Reason::RightUnknown {
            why: "nobody has it, and it is not wanted here".to_owned(),
        }),
    }
}

/// Whether a step mends the storage below a guest that runs where it should: that is the planner's, which knows how. Below one
/// that is to go it is not, since the planner leaves that alone; nor is what waits for a lease, which is no matter of storage.
#[must_use]
pub fn is_the_planners(view: &View<'_>, step: &Step) -> bool {
    matches!(step, Step::Serve { .. })
        && view.guest == Guest::Running
        && view.place == Place::Here
        && !matches!(view.disk, Disk::Parked { .. })
        && !(view.failover && matches!(view.disk, Disk::Lapsed { .. }))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Swap { act, .. } => match act {
                Act::Claim => "the right to run it is being taken",
                Act::HandOver => "the right to run it is being handed over",
                Act::TakeBack => "the right to run it is being taken back",
                Act::HandBack => "the right to run it is being handed back",
                Act::Settle => "it is being said that it goes on here",
                Act::Promise => "it is being said whether others may take it over",
                Act::TakeOver => "the right to run it is being taken over",
            },
            Self::Note(_) => "it is being written down",
            Self::Serve { .. } => "its root file system is being taken into service",
            Self::Park => "its calls are being held still",
            Self::Close => "its writable layers are being closed",
            Self::Travel => "the rest of its writable layers goes over",
            Self::Depart { .. } => "it is about to go",
            Self::PassReady | Self::PassGo { .. } => "the other node is being told",
            Self::CallOff | Self::LetGo => "its move is being ended",
            Self::Wake => "it is being let go on here",
            Self::Clear => "the copy is being let run",
            Self::Destroy => "what has no right to run is being ended",
        })
    }
}
