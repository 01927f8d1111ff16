//! What a node does next, told one situation at a time. That it is always safe, the model shows.

use super::*;

const E1: Epoch = Epoch(1);
const E2: Epoch = Epoch(2);
const E3: Epoch = Epoch(3);
const LIFE: BootId = BootId([1; 16]);
const MOVE: MigrationId = MigrationId([7; 16]);

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn held(by: &str, epoch: Epoch) -> Holder {
    Holder {
        node: Some(node(by)),
        boot: LIFE,
        epoch,
        memory: None,
        failover: false,
    }
}

fn moved(by: &str, epoch: Epoch) -> Holder {
    Holder {
        memory: Some(Memory {
            migration: MOVE,
            epoch: E1,
            keeper: node("a"),
        }),
        ..held(by, epoch)
    }
}

/// What node `a` does next, where `change` says what is special: nothing runs there, nobody has the right, and the
/// sliver is wanted there.
fn check(change: impl FnOnce(&mut View<'_>), expected: &Next) {
    let me = node("a");
    let mut view = View {
        me: &me,
        boot: LIFE,
        failover: false,
        promise: false,
        leased: true,
        place: Place::Here,
        record: Record::Absent,
        journal: Journal::default(),
        guest: Guest::Absent,
        disk: Disk::Closed,
        session: None,
        rival: Rival {
            alive: true,
            fenced: false,
        },
    };
    change(&mut view);
    assert_eq!(next(&view), *expected, "{view:#?}");
}

fn swap(to: Holder, act: Act) -> Next {
    Next::Do(Step::Swap { to, act })
}

fn began(epoch: Epoch) -> Journal {
    Journal {
        began: Some(epoch),
        offered: None,
    }
}

fn leaving(stage: Leaving) -> Session {
    Session::Leaving {
        to: node("b"),
        boot: LIFE,
        migration: MOVE,
        stage,
        travelled: true,
        called_off: false,
    }
}

#[test]
fn a_new_sliver_is_claimed_served_written_down_and_run() {
    check(|_| {}, &swap(held("a", E1), Act::Claim));
    check(
        |view| view.record = Record::Is(held("a", E1)),
        &Next::Do(Step::Serve { epoch: E1 }),
    );
    check(
        |view| {
            view.record = Record::Is(held("a", E1));
            view.disk = Disk::Serving { epoch: E1 };
        },
        &Next::Do(Step::Note(began(E1))),
    );
    check(
        |view| {
            view.record = Record::Is(held("a", E1));
            view.disk = Disk::Serving { epoch: E1 };
            view.journal = began(E1);
        },
        &Next::Run { epoch: E1 },
    );
}

#[test]
fn without_the_board_a_node_starts_what_only_it_can_have_the_right_to() {
    let dark = |view: &mut View<'_>| {
        view.record = Record::Unknown;
        view.journal = began(E1);
        view.disk = Disk::Serving { epoch: E1 };
    };
    check(dark, &Next::Run { epoch: E1 });
    check(
        |view| {
            dark(view);
            view.journal.offered = Some(E1);
        },
        &Next::Wait(Why::Board),
    );
    check(
        |view| {
            dark(view);
            view.failover = true;
        },
        &Next::Wait(Why::Board),
    );
}

#[test]
fn the_right_goes_only_after_the_guest_stands_still_the_disk_is_parked_and_the_offer_is_written_down() {
    let given = |view: &mut View<'_>| {
        view.record = Record::Is(held("a", E1));
        view.place = Place::At(node("b"));
        view.journal = began(E1);
        view.guest = Guest::Kept { epoch: E1 };
        view.disk = Disk::Parked { epoch: E1 };
        view.session = Some(leaving(Leaving::Given));
    };
    check(
        |view| {
            given(view);
            view.disk = Disk::Serving { epoch: E1 };
        },
        &Next::Do(Step::Park),
    );
    let offered = Journal {
        began: Some(E1),
        offered: Some(E1),
    };
    check(given, &Next::Do(Step::Note(offered)));
    check(
        |view| {
            given(view);
            view.journal = offered;
        },
        &swap(moved("b", E2), Act::HandOver),
    );
    check(
        |view| {
            given(view);
            view.journal = offered;
            view.record = Record::Is(moved("b", E2));
        },
        &Next::Do(Step::PassGo {
            holder: moved("b", E2),
        }),
    );
}

#[test]
fn layers_that_nobody_is_served_are_closed_before_the_last_of_them_goes() {
    let given = |view: &mut View<'_>| {
        view.record = Record::Is(held("a", E1));
        view.place = Place::At(node("b"));
        view.journal = began(E1);
        view.disk = Disk::Lapsed { epoch: E1 };
        view.session = Some(leaving(Leaving::Given));
    };
    // Whoever parks what is not served changes nothing, and would do it for ever.
    check(given, &Next::Do(Step::Close));
    check(
        |view| {
            given(view);
            view.guest = Guest::Kept { epoch: E1 };
        },
        &Next::Do(Step::Park),
    );
}

#[test]
fn what_was_offered_is_taken_back_before_the_guest_wakes() {
    let left = |view: &mut View<'_>| {
        view.record = Record::Is(held("a", E1));
        view.guest = Guest::Kept { epoch: E1 };
        view.disk = Disk::Parked { epoch: E1 };
        view.journal = Journal {
            began: Some(E1),
            offered: Some(E1),
        };
    };
    let back = Holder {
        memory: Some(Memory {
            migration: MigrationId::default(),
            epoch: E1,
            keeper: node("a"),
        }),
        ..held("a", E2)
    };
    check(left, &swap(back, Act::TakeBack));
    // Nothing was offered: it wakes at once.
    check(
        |view| {
            left(view);
            view.journal.offered = None;
            view.disk = Disk::Serving { epoch: E1 };
        },
        &Next::Do(Step::Wake),
    );
}

#[test]
fn closed_layers_that_another_node_may_have_opened_leave_under_the_epoch_of_now() {
    let returned = |view: &mut View<'_>| {
        view.record = Record::Is(held("a", E3));
        view.place = Place::At(node("b"));
        view.journal = Journal {
            offered: Some(E1),
            ..began(E1)
        };
    };
    let depart = Next::Do(Step::Depart { to: node("b") });
    check(returned, &Next::Do(Step::Serve { epoch: E3 }));
    check(
        |view| {
            returned(view);
            view.disk = Disk::Serving { epoch: E3 };
        },
        &depart,
    );
    check(
        |view| {
            returned(view);
            view.journal.offered = None;
        },
        &depart,
    );
}

#[test]
fn the_keeper_waits_until_the_other_runs_or_gives_back() {
    let kept = |view: &mut View<'_>| {
        view.guest = Guest::Kept { epoch: E1 };
        view.journal = Journal {
            began: Some(E1),
            offered: Some(E1),
        };
    };
    check(
        |view| {
            kept(view);
            view.record = Record::Is(moved("b", E2));
        },
        &Next::Wait(Why::Outcome(node("b"))),
    );
    check(
        |view| {
            kept(view);
            view.record = Record::Is(held("b", E2));
        },
        &Next::Do(Step::Destroy),
    );
    check(
        |view| {
            kept(view);
            view.record = Record::Is(moved("a", E3));
        },
        &Next::Do(Step::Serve { epoch: E3 }),
    );
}

/// Of a holder that says that others may take over.
fn replaceable(by: &str, epoch: Epoch) -> Holder {
    Holder {
        failover: true,
        ..held(by, epoch)
    }
}

#[test]
fn a_replacement_needs_a_lease_that_is_gone_and_a_fence_that_is_confirmed() {
    let away = |view: &mut View<'_>| {
        view.failover = true;
        view.promise = true;
        view.record = Record::Is(replaceable("b", E1));
        view.rival.alive = false;
    };
    check(away, &Next::Wait(Why::Unfenced(node("b"))));
    check(
        |view| {
            away(view);
            view.rival.fenced = true;
        },
        &swap(replaceable("a", E2), Act::TakeOver),
    );
    check(
        |view| {
            away(view);
            view.rival = Rival {
                alive: true,
                fenced: true,
            };
        },
        &Next::Wait(Why::HeldBy(node("b"))),
    );
    // It has read another commit, or none, and is bound by no lease.
    check(
        |view| {
            away(view);
            view.rival.fenced = true;
            view.record = Record::Is(held("b", E1));
        },
        &Next::Wait(Why::HeldBy(node("b"))),
    );
}

#[test]
fn that_others_may_take_over_is_said_after_it_is_so_and_taken_back_before_it_is_not() {
    let runs = |view: &mut View<'_>| {
        view.failover = true;
        view.promise = true;
        view.record = Record::Is(held("a", E1));
        view.journal = began(E1);
        view.guest = Guest::Running;
        view.disk = Disk::Lapsed { epoch: E1 };
    };
    check(runs, &Next::Do(Step::Serve { epoch: E1 }));
    let served = |view: &mut View<'_>| {
        runs(view);
        view.disk = Disk::Serving { epoch: E1 };
    };
    check(served, &swap(replaceable("a", E1), Act::Promise));
    check(
        |view| {
            served(view);
            view.leased = false;
        },
        &Next::Wait(Why::Lease),
    );
    check(
        |view| {
            served(view);
            view.promise = false;
            view.record = Record::Is(replaceable("a", E1));
        },
        &swap(held("a", E1), Act::Promise),
    );
    // What is claimed while nothing is answered is said with the claim.
    check(
        |view| {
            view.failover = true;
            view.promise = true;
        },
        &swap(replaceable("a", E1), Act::Claim),
    );
    // It goes on with whoever it is handed over to.
    check(
        |view| {
            view.failover = true;
            view.record = Record::Is(replaceable("a", E1));
            view.place = Place::At(node("b"));
            view.journal = Journal {
                began: Some(E1),
                offered: Some(E1),
            };
            view.disk = Disk::Parked { epoch: E1 };
            view.session = Some(leaving(Leaving::Given));
        },
        &swap(replaceable("b", E2), Act::HandOver),
    );
}

#[test]
fn a_guest_without_the_right_to_run_goes() {
    check(
        |view| {
            view.record = Record::Is(held("b", E2));
            view.guest = Guest::Running;
        },
        &Next::Do(Step::Destroy),
    );
}

#[test]
fn a_guest_that_ran_before_there_was_a_board_is_claimed() {
    let alone = |view: &mut View<'_>| {
        view.guest = Guest::Running;
        view.disk = Disk::Serving { epoch: E1 };
    };
    check(alone, &swap(held("a", E1), Act::Claim));
    check(
        |view| {
            alone(view);
            view.record = Record::Is(held("a", E1));
        },
        &Next::Do(Step::Note(began(E1))),
    );
    // Not where this node has taken part in any board: then the record was there, and is gone.
    check(
        |view| {
            alone(view);
            view.journal = began(E1);
        },
        &Next::Do(Step::Destroy),
    );
}
