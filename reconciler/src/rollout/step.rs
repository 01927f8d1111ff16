//! What a node does next about a sliver of its own: the one function that agents and simulated nodes act by.

use super::turn::{Aim, Outside, Own, Runs, Turn, Wait, may_change, waits_for_wave};
use super::{Condition, RolloutRecord, Signed, Wanted};

/// What a node does next about a sliver of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has the record be this, if it is still as it was read; then it looks again.
    Swap(Box<RolloutRecord>),
    /// It makes the sliver this, or goes on with that.
    Change(Aim),
    /// It keeps the sliver as it is, and repairs it as that.
    Rest,
    /// It keeps the sliver as it is for now, and repairs it as that.
    Wait(Wait),
}

/// What comes next for a sliver in such a condition.
#[must_use]
pub fn step(
    record: Option<&RolloutRecord>,
    own: Own<'_>,
    condition: &Condition,
    outside: Outside<'_>,
    signed: Signed<'_>,
) -> Step {
    let swapped = record.and_then(|record| said_to(record, own, condition, outside, signed));
    if let Some(next) = swapped {
        return Step::Swap(Box::new(next));
    }
    match may_change(record, own, outside) {
        Turn::Stay => Step::Rest,
        Turn::Go(aim) => Step::Change(aim),
        Turn::Wait(wait) => Step::Wait(wait),
        Turn::Take(_) => match record.map(|record| record.take_slot(own, outside)) {
            Some(Ok(next)) => Step::Swap(Box::new(next)),
            Some(Err(_)) | None => Step::Rest,
        },
    }
}

/// What the record has yet to be told of the sliver.
fn said_to(
    record: &RolloutRecord,
    own: Own<'_>,
    condition: &Condition,
    outside: Outside<'_>,
    signed: Signed<'_>,
) -> Option<RolloutRecord> {
    let (number, node) = (own.number, own.node);
    let by = record.slots.get(&number);
    let slotted = by == Some(node);
    let about_this = own.wanted == Wanted::This;
    // Whatever the record is about by now: there is nothing left that a slot would be for.
    let there = match (about_this.then(|| record.aim()), own.runs) {
        (Some(Aim::To), Runs::To) | (Some(Aim::Back), Runs::Good | Runs::Nothing) => true,
        (Some(Aim::To), Runs::Nothing | Runs::Good | Runs::Other)
        | (Some(Aim::Back), Runs::Other | Runs::To) => false,
        // What it is about has not been read here: nothing is begun, and what had begun before is ended first.
        (None, _) => true,
    };
    // A slot of an earlier rollout, and the sliver's turn in this one is yet to come.
    let early = slotted && !there && waits_for_wave(record, number, outside.waves).is_some();
    let counted = record.failed.contains(&number);
    // A commit has placed it here while its node of before had its slot, and it has come as what it is to be: nobody else may be left
    // to give the slot back.
    let inherits = by.is_some_and(|by| by != node) && there && about_this && own.runs != Runs::Nothing;
    let by = by.filter(|_| slotted || inherits).unwrap_or(node);
    match condition {
        Condition::Healthy if slotted && (there || early) || inherits => record.give_back(number, by).ok(),
        Condition::Healthy if counted && there && about_this => record.recover(number, signed).ok(),
        // What is about another rollout says nothing about this one.
        Condition::Failed { .. } if early || slotted && !about_this => record.give_back(number, node).ok(),
        // A sliver that was broken before it came to be changed is no failure of the change.
        Condition::Failed { why } if there && (slotted || own.runs == Runs::To && about_this) => {
            let slivers = outside.waves.slivers();
            record.fail(number, by, why, slivers, signed).ok()
        }
        Condition::Healthy | Condition::Changing | Condition::Failed { .. } => None,
    }
}
