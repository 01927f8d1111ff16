//! The rules: one look, one step.

use xeno_model::id::Epoch;

use super::holding::holding;
use super::{Act, Guest, Holder, Memory, Next, Place, Record, Session, Step, View, Why, after};

/// Says what to do next about a sliver on a node.
///
/// Total, and without memory: equal views give equal answers. Whatever is done about the answer, and however far it got,
/// the next view says.
#[must_use]
pub fn next(view: &View<'_>) -> Next {
    match &view.record {
        Record::Unknown => in_the_dark(view),
        // It ran here before there was a board: nobody else can have had the right.
        Record::Absent if ran_alone(view) => Next::Do(Step::Swap {
            to: view.mine(after(Epoch(0)), None),
            act: Act::Claim,
        }),
        Record::Absent => unheld(view, Epoch(0)),
        Record::Is(holder) => match &holder.node {
            Some(node) if node == view.me => holding(view, holder),
            Some(_) => held_elsewhere(view, holder),
            None => unheld(view, holder.epoch),
        },
    }
}

/// Whether a guest runs here that no board has ever heard of.
fn ran_alone(view: &View<'_>) -> bool {
    let unwritten = view.journal == super::Journal::default();
    unwritten && view.guest == Guest::Running && view.place == Place::Here && view.session.is_none()
}

/// The board has not been read. What runs goes on running; what stood still wakes only if nothing was offered.
fn in_the_dark(view: &View<'_>) -> Next {
    let offered = |epoch| view.journal.offered >= Some(epoch);
    match (view.guest, &view.session) {
        (Guest::Running, None) => match view.journal.began {
            // An agent that died while a migration was held leaves a guest that woke by itself, and its calls waiting.
            Some(epoch) if !offered(epoch) => view.serve(epoch).unwrap_or(Next::Wait(Why::Settled)),
            _ => Next::Wait(Why::Board),
        },
        (Guest::Kept { epoch }, None) if !offered(epoch) => view.serve(epoch).unwrap_or(Next::Do(Step::Wake)),
        (Guest::Copy { .. }, None) => Next::Do(Step::Destroy),
        // A restart without the board: for slivers that nobody else can have the right to run.
        (Guest::Absent, None) if view.place == Place::Here && !view.failover => match view.journal.began {
            Some(epoch) if !offered(epoch) => view.serve(epoch).unwrap_or(Next::Run { epoch }),
            _ => Next::Wait(Why::Board),
        },
        (_, Some(_)) => Next::Wait(Why::Underway),
        _ => Next::Wait(Why::Board),
    }
}

/// Nobody has the right; `last` is the epoch in which somebody had.
fn unheld(view: &View<'_>, last: Epoch) -> Next {
    if view.session.is_some() {
        return Next::Do(Step::LetGo);
    }
    // A person has taken the right from whoever had it.
    if view.guest != Guest::Absent {
        return Next::Do(Step::Destroy);
    }
    match view.place {
        // Nothing is answered yet, so nothing is answered without a lease.
        Place::Here => Next::Do(Step::Swap {
            to: Holder {
                failover: view.promise,
                ..view.mine(after(last), None)
            },
            act: Act::Claim,
        }),
        Place::At(_) | Place::Nowhere => view.closed().unwrap_or(Next::Wait(Why::Vacant)),
    }
}

/// Another node has the right.
fn held_elsewhere(view: &View<'_>, holder: &Holder) -> Next {
    let node = holder.node.clone().unwrap_or_else(|| view.me.clone());
    let kept =
        |memory: &Memory| memory.keeper == *view.me && view.guest == Guest::Kept { epoch: memory.epoch };
    match (&view.session, view.guest) {
        // The other end may not have heard yet; told twice it does nothing.
        (Some(Session::Leaving { migration, stage, .. }), Guest::Kept { .. } | Guest::Absent) => {
            let this = holder
                .memory
                .as_ref()
                .is_some_and(|memory| memory.migration == *migration);
            match stage {
                super::Leaving::Given if this => Next::Do(Step::PassGo {
                    holder: holder.clone(),
                }),
                super::Leaving::Passed if this => Next::Wait(Why::Outcome(node)),
                // Settled, or all of it is about something else.
                _ => Next::Do(Step::LetGo),
            }
        }
        (Some(Session::Leaving { .. }), _) => Next::Do(Step::LetGo),
        (Some(Session::Arriving { .. }), Guest::Copy { .. } | Guest::Absent) => Next::Wait(Why::Underway),
        (Some(Session::Arriving { .. }), _) => Next::Do(Step::CallOff),
        // Until the new holder has said that it runs, or has given the right back, this is the guest's only memory, or may be.
        (None, Guest::Kept { .. }) if holder.memory.as_ref().is_some_and(kept) => {
            Next::Wait(Why::Outcome(node))
        }
        (None, Guest::Running | Guest::Kept { .. } | Guest::Copy { .. }) => Next::Do(Step::Destroy),
        (None, Guest::Absent) => {
            if holder.failover && view.place == Place::Here && view.leased && !view.rival.alive {
                return if view.rival.fenced {
                    Next::Do(Step::Swap {
                        to: view.mine(after(holder.epoch), None),
                        act: Act::TakeOver,
                    })
                } else {
                    Next::Wait(Why::Unfenced(node))
                };
            }
            view.closed().unwrap_or(Next::Wait(Why::HeldBy(node)))
        }
    }
}

impl View<'_> {
    /// A record that gives the right to this node.
    pub(super) fn mine(&self, epoch: Epoch, memory: Option<Memory>) -> Holder {
        Holder {
            node: Some(self.me.clone()),
            boot: self.boot,
            epoch,
            memory,
            failover: self.promised(),
        }
    }

    /// Whether the record says that others may take over.
    pub(super) fn promised(&self) -> bool {
        matches!(&self.record, Record::Is(holder) if holder.failover)
    }

    /// What is to be done before the sliver's calls are answered under `epoch`, if anything.
    pub(super) fn serve(&self, epoch: Epoch) -> Option<Next> {
        if self.failover && (!self.leased || self.record == Record::Unknown) {
            return Some(Next::Wait(Why::Lease));
        }
        (self.disk != super::Disk::Serving { epoch }).then_some(Next::Do(Step::Serve { epoch }))
    }

    /// What is to be done before a guest may run under `epoch`, if anything.
    pub(super) fn begin(&self, epoch: Epoch) -> Option<Next> {
        self.serve(epoch).or_else(|| {
            let began = self.journal.began == Some(epoch);
            (!began).then_some({
                Next::Do(Step::Note(super::Journal {
                    began: Some(epoch),
                    ..self.journal
                }))
            })
        })
    }

    /// What is to be done before the layers are closed, if anything.
    fn closed(&self) -> Option<Next> {
        (self.disk != super::Disk::Closed).then_some(Next::Do(Step::Close))
    }
}
