//! The rules for the node that has the right to run.

use xeno_model::id::{Epoch, NodeName};

use super::{
    Act, BootId, Disk, Guest, Holder, Journal, Leaving, Memory, MigrationId, Next, Place, Session, Step,
    View, Why, after,
};

/// This node has the right.
pub(super) fn holding(view: &View<'_>, holder: &Holder) -> Next {
    // A fence that was confirmed for an earlier life of this node must not count for this one.
    if view.failover && holder.boot != view.boot {
        return Next::Do(Step::Swap {
            to: view.mine(after(holder.epoch), holder.memory.clone()),
            act: Act::Claim,
        });
    }
    match &holder.memory {
        Some(memory) => going_on(view, holder, memory),
        None => settled(view, holder.epoch),
    }
}

/// This node is to go on with memory that was handed over, or back.
fn going_on(view: &View<'_>, holder: &Holder, memory: &Memory) -> Next {
    let epoch = holder.epoch;
    let settle = || {
        Next::Do(Step::Swap {
            to: view.mine(epoch, None),
            act: Act::Settle,
        })
    };
    let here = memory.keeper == *view.me;
    match (view.guest, &view.session) {
        (Guest::Running, _) => view.serve(epoch).unwrap_or_else(settle),
        (Guest::Kept { epoch: ran }, _) if here && ran == memory.epoch => {
            view.begin(epoch).unwrap_or(Next::Do(Step::Wake))
        }
        (Guest::Copy { migration }, Some(Session::Arriving { whole: true, .. }))
            if migration == memory.migration =>
        {
            view.begin(epoch).unwrap_or(Next::Do(Step::Clear))
        }
        (Guest::Kept { .. } | Guest::Copy { .. }, _) => Next::Do(Step::Destroy),
        (Guest::Absent, Some(_)) => Next::Do(Step::CallOff),
        (Guest::Absent, None) => {
            // Whatever ran here since the memory stood still has changed the disk that it remembers.
            let begun = view.journal.began > Some(memory.epoch);
            if here || begun || !view.rival.alive {
                // It boots instead.
                settle()
            } else {
                Next::Do(Step::Swap {
                    to: Holder {
                        node: Some(memory.keeper.clone()),
                        // The keeper says itself in which life it takes it.
                        boot: BootId::default(),
                        epoch: after(epoch),
                        memory: Some(memory.clone()),
                        failover: holder.failover,
                    },
                    act: Act::HandBack,
                })
            }
        }
    }
}

/// This node has the right, and all is said of what was before.
fn settled(view: &View<'_>, epoch: Epoch) -> Next {
    let offered = view.journal.offered >= Some(epoch);
    match (&view.session, view.guest) {
        (Some(Session::Arriving { .. }), _) => Next::Do(Step::CallOff),
        (Some(session @ Session::Leaving { .. }), guest) => leaving(view, epoch, session, guest),
        (None, Guest::Running) => match view.begin(epoch) {
            Some(next) => next,
            None => match &view.place {
                Place::At(to) => Next::Do(Step::Depart { to: to.clone() }),
                Place::Here | Place::Nowhere => said(view, epoch).unwrap_or(Next::Wait(Why::Settled)),
            },
        },
        (None, Guest::Kept { epoch: ran }) if ran == epoch => {
            if offered {
                take_back(view, epoch, Some(MigrationId::default()))
            } else {
                view.serve(epoch).unwrap_or(Next::Do(Step::Wake))
            }
        }
        (None, Guest::Kept { .. } | Guest::Copy { .. }) => Next::Do(Step::Destroy),
        (None, Guest::Absent) if offered => take_back(view, epoch, None),
        (None, Guest::Absent) => match &view.place {
            Place::Here => view
                .begin(epoch)
                .or_else(|| said(view, epoch))
                .unwrap_or(Next::Run { epoch }),
            Place::At(to) => reopened(view, epoch).unwrap_or(Next::Do(Step::Depart { to: to.clone() })),
            Place::Nowhere => Next::Wait(Why::Settled),
        },
    }
}

/// What the record is to say of others who may take over, if it says otherwise. By now it is so, or is so still.
fn said(view: &View<'_>, epoch: Epoch) -> Option<Next> {
    (view.promised() != view.promise).then(|| {
        Next::Do(Step::Swap {
            to: Holder {
                failover: view.promise,
                ..view.mine(epoch, None)
            },
            act: Act::Promise,
        })
    })
}

/// What is to be done before closed layers leave, if anything: whoever was offered the right and handed it back may have opened
/// its copy under an epoch that these do not know yet, and takes no older ones in their place.
fn reopened(view: &View<'_>, epoch: Epoch) -> Option<Next> {
    let returned = view.journal.offered.is_some_and(|offered| offered < epoch);
    view.serve(epoch)
        .filter(|_| returned && view.disk == Disk::Closed)
}

/// The sliver is on its way, and the right is still here.
fn leaving(view: &View<'_>, epoch: Epoch, session: &Session, guest: Guest) -> Next {
    let Session::Leaving {
        to,
        boot,
        migration,
        stage,
        travelled,
        called_off,
    } = session
    else {
        return Next::Wait(Why::Underway);
    };
    let offered = view.journal.offered >= Some(epoch);
    match stage {
        Leaving::Streaming | Leaving::Held | Leaving::Asked if *called_off => Next::Do(Step::CallOff),
        Leaving::Streaming | Leaving::Asked => Next::Wait(Why::Underway),
        Leaving::Given | Leaving::Passed if offered && *called_off => {
            take_back(view, epoch, memory_of(guest).map(|_| *migration))
        }
        Leaving::Given | Leaving::Passed if *called_off => Next::Do(Step::CallOff),
        // Nothing is served that calls could come to: who parks it does nothing, and what was written is not durable for that.
        Leaving::Given if guest == Guest::Absent && matches!(view.disk, Disk::Lapsed { .. }) => {
            Next::Do(Step::Close)
        }
        Leaving::Held | Leaving::Given if matches!(view.disk, Disk::Serving { .. } | Disk::Lapsed { .. }) => {
            Next::Do(Step::Park)
        }
        Leaving::Held | Leaving::Given if !travelled => Next::Do(Step::Travel),
        Leaving::Held => Next::Do(Step::PassReady),
        Leaving::Given if !offered => Next::Do(Step::Note(Journal {
            offered: Some(epoch),
            ..view.journal
        })),
        Leaving::Given => Next::Do(Step::Swap {
            to: hand_over(view, (to, *boot), epoch, memory_of(guest).map(|_| *migration)),
            act: Act::HandOver,
        }),
        // GO was passed for a record that is not there any more.
        Leaving::Passed => Next::Wait(Why::Underway),
    }
}

fn memory_of(guest: Guest) -> Option<Epoch> {
    match guest {
        Guest::Kept { epoch } => Some(epoch),
        Guest::Absent | Guest::Running | Guest::Copy { .. } => None,
    }
}

fn hand_over(
    view: &View<'_>,
    (to, boot): (&NodeName, BootId),
    epoch: Epoch,
    migration: Option<MigrationId>,
) -> Holder {
    Holder {
        node: Some(to.clone()),
        boot,
        epoch: after(epoch),
        memory: migration.map(|migration| Memory {
            migration,
            epoch,
            keeper: view.me.clone(),
        }),
        failover: view.promised(),
    }
}

fn take_back(view: &View<'_>, epoch: Epoch, migration: Option<MigrationId>) -> Next {
    Next::Do(Step::Swap {
        to: hand_over(view, (view.me, view.boot), epoch, migration),
        act: Act::TakeBack,
    })
}
