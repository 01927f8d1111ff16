//! Every interleaving of two nodes, the board, storage, a link and a person.
//!
//! The agents of both nodes take their decisions with [`next`] and nothing else; everything around them is here, as hostile as
//! the world is: an agent dies between any two steps, or stops between deciding and doing and goes on much later; a
//! machine loses power; a change that was sent to the board arrives late or never, and whoever sent it does not know; a link is cut,
//! and a message is delivered twice; a file server is about to append when it is stopped; a lease runs out; a fence
//! that somebody confirmed has cut nothing at all. How often each happens is bounded ([`Budget`]), everything else is not.
//!
//! In each state: never two guests that work; the disk is what was acknowledged; a guest that works remembers the disk as it
//! is. And from each state a path without further faults leads to one working guest that everybody agrees upon. [`Broken`] takes
//! one rule at a time away, to see that the model notices.

#![expect(
    clippy::print_stdout,
    reason = "how much was explored, for whoever asks with --nocapture"
)]
#![expect(
    clippy::disallowed_types,
    reason = "states are looked up by the million, and never iterated"
)]

use std::collections::{HashMap, VecDeque};

use xeno_model::id::{Epoch, NodeName};

use super::{
    Act, BootId, Disk, Guest, Holder, Journal, Leaving, Memory, MigrationId, Next, Place, Record, Rival,
    Session, Step, View, Why, abandoned, next,
};

mod effects;
mod explore;
mod moves;
mod world;

use world::{Broken, Budget, Storage};

/// Explores all of it; `Err` is the shortest way to what must not be.
fn explore(storage: Storage, budget: Budget, broken: Broken) -> Result<explore::Extent, explore::Failure> {
    explore::explore(world::World::new(storage, budget), broken)
}

/// What may go wrong: in an optimised build (`make right-to-run`) about a hundred times as much.
const SOME: Budget = Budget {
    faults: if THOROUGH { 2 } else { 1 },
    pauses: if THOROUGH { 1 } else { 0 },
    late: 1,
    places: 1,
    moves: 1,
    writes: 1,
    leases: 0,
    flips: 0,
    calls: 1,
    abandons: 0,
};

const THOROUGH: bool = !cfg!(debug_assertions);

fn holds(storage: Storage, budget: Budget) {
    match explore(storage, budget, Broken::Nothing) {
        Ok(extent) => println!("{storage:?}, {budget:?}: {extent}"),
        Err(failure) => panic!("{failure}"),
    }
}

fn notices(storage: Storage, budget: Budget, broken: Broken, what: &str) {
    match explore(storage, budget, broken) {
        Ok(extent) => panic!("{broken:?} was not noticed in {extent}"),
        Err(failure) => {
            println!("{broken:?}: {}, by {}", failure.what, failure.story.join("; "));
            assert_eq!(failure.what, what, "{failure}");
        }
    }
}

#[test]
fn moves_with_layers_that_travel() {
    holds(Storage::Local, SOME);
    // A move that is regretted: there and back.
    holds(
        Storage::Local,
        Budget {
            places: 2,
            moves: 2,
            faults: 1,
            late: 0,
            pauses: 0,
            writes: u8::from(THOROUGH),
            ..SOME
        },
    );
}

#[test]
fn moves_over_shared_storage() {
    holds(Storage::Shared, SOME);
}

#[test]
fn agents_that_stop_between_deciding_and_doing() {
    let stops = Budget {
        pauses: 1,
        faults: 0,
        ..SOME
    };
    holds(Storage::Local, stops);
    holds(Storage::Shared, stops);
}

#[test]
fn holders_that_others_may_replace() {
    let replaced = Budget {
        leases: 1,
        calls: 0,
        faults: u8::from(THOROUGH),
        ..SOME
    };
    holds(Storage::Failover, Budget { late: 0, ..replaced });
    holds(
        Storage::Failover,
        Budget {
            moves: 0,
            faults: 1,
            ..replaced
        },
    );
}

#[test]
fn holders_of_which_not_all_nodes_know_that_they_may_be_replaced() {
    holds(
        Storage::Failover,
        Budget {
            leases: 1,
            flips: 2,
            calls: 0,
            moves: u8::from(THOROUGH),
            faults: u8::from(THOROUGH),
            late: u8::from(THOROUGH),
            pauses: 0,
            ..SOME
        },
    );
}

#[test]
fn a_right_that_a_person_declares_abandoned() {
    let abandoned = Budget {
        abandons: 1,
        calls: 0,
        faults: 1,
        ..SOME
    };
    holds(Storage::Local, abandoned);
    holds(Storage::Shared, Budget { late: 0, ..abandoned });
}

const TWO: &str = "two guests work";
const OTHER: &str = "a guest works that remembers another disk";
const LOST: &str = "a guest works without what was acknowledged";

#[test]
fn each_rule_is_needed() {
    // As little as it takes.
    let moved = Budget {
        places: 1,
        moves: 1,
        ..Budget::default()
    };
    let late = Budget {
        late: 1,
        calls: 1,
        ..moved
    };
    let replaced = Budget {
        places: 1,
        leases: 1,
        ..Budget::default()
    };
    let abandoned = Budget {
        places: 1,
        abandons: 1,
        ..Budget::default()
    };
    let writes = |budget| Budget { writes: 1, ..budget };
    let faults = |budget| Budget { faults: 1, ..budget };
    notices(Storage::Shared, abandoned, Broken::EpochCheck, TWO);
    notices(Storage::Shared, writes(abandoned), Broken::EpochCheck, LOST);
    notices(Storage::Shared, writes(abandoned), Broken::Seal, LOST);
    notices(Storage::Local, late, Broken::CompareAndSwap, TWO);
    notices(Storage::Failover, replaced, Broken::LeaseCheck, TWO);
    notices(Storage::Failover, replaced, Broken::Relapse, TWO);
    notices(Storage::Local, late, Broken::EarlyGo, TWO);
    notices(Storage::Local, writes(moved), Broken::Park, OTHER);
    notices(Storage::Local, faults(late), Broken::Offered, TWO);
    notices(Storage::Local, faults(writes(moved)), Broken::Began, LOST);
    notices(Storage::Shared, faults(writes(moved)), Broken::Began, OTHER);
}
