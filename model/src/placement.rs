//! Which sliver goes to which node, for slices that say how many they want instead of where.
//!
//! [`place`] is a pure function of what there is (nodes, rules of sites, slivers whose manifests name their node) and what
//! is asked ([`Ask`], with the lock that was written last). It answers for every slice with a [`Placed`], or with a
//! [`Shortage`] that has the numbers. Slivers are sticky: what may stay stays, whatever would be nicer by now, so losing
//! one node moves the slivers that were on it and no others, and a new node moves none unless slivers are to be spread.
//!
//! A lock is *stale* if some sliver of it has to move, has no place, or is not wanted any more: if [`place`] with
//! [`Effort::Needed`] changes anything. That something could be spread more evenly makes no lock stale; `xeno place`
//! ([`Effort::Even`]) does it when somebody asks, a bounded number of moves at a time. See
//! `decisions/0001-placement.md`.

mod evacuate;
mod ground;
mod ledger;
mod lock;
mod order;
mod outcome;
mod score;
mod solve;
#[cfg(test)]
mod tests;

pub use crate::desired::Matching;
pub use evacuate::{How, Left, Standing, Step, Stuck, evacuate, standing};
pub use ground::{Ask, Fixed, Ground, Size, Spot, Spread};
pub use lock::{MOVES_PATH, lock_path, lock_text, moves_text};
pub use outcome::{Move, Placed, Refusal, Shortage, Why};
pub use solve::{Effort, place};
