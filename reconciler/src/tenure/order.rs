//! Whose turn it is, where a commit says in which order slivers move.
//!
//! The order itself is the model's ([`Turns`]). What a node adds: one move at a time leaves it, and a slice whose guests stood
//! still for longer than it wants has its next move wait for calmer times.

use std::collections::BTreeMap;

use xeno_model::desired::{Seat, Stage, Turns};
use xeno_model::id::{NodeName, SliverId};

use super::Record;

/// Where slivers that have turns are to be for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// By what was read from the board last.
    pub stages: BTreeMap<SliverId, Stage>,
    /// What those wait for that do not go yet.
    pub waits: BTreeMap<SliverId, String>,
}

/// What keeps a sliver on its node whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing.
    Nothing,
    /// Its slice needs calmer times, or nobody knows yet whether it does.
    Pace(String),
    /// Its last try failed; why is said elsewhere.
    Failed,
}

/// Where a sliver is by its record. `made`: it was made on this node.
#[must_use]
pub fn seat(me: &NodeName, record: Record, made: bool) -> Seat {
    match record {
        Record::Is(holder) => match holder.node {
            Some(node) => Seat::On {
                node,
                settled: holder.memory.is_none(),
            },
            None => Seat::Nobody,
        },
        // What was made here is here until the board says otherwise.
        Record::Absent | Record::Unknown if made => Seat::On {
            node: me.clone(),
            settled: true,
        },
        Record::Absent | Record::Unknown => Seat::Unknown,
    }
}

impl Order {
    /// Where the slivers that come by `me` are to be for now. `leaving`: the one that is on its way from here.
    #[must_use]
    pub fn of(
        me: &NodeName,
        turns: &Turns,
        leaving: Option<&SliverId>,
        seat: impl Fn(&SliverId) -> Seat,
        keeps: impl Fn(&SliverId) -> Keeps,
    ) -> Self {
        let mut waits = BTreeMap::new();
        let by_me = turns.slivers().filter(|sliver| turns.way(sliver).contains(me));
        let mut stages: BTreeMap<SliverId, Stage> = by_me
            .map(|sliver| (sliver.clone(), turns.stage(sliver, &seat)))
            .collect();
        let is_here = |sliver: &SliverId| matches!(seat(sliver), Seat::On { node, .. } if node == *me);
        let leaves = |stage: &Stage| matches!(stage, Stage::At { node, .. } if node != me);
        let mut going = leaving.filter(|sliver| stages.contains_key(*sliver)).cloned();
        // In the order of their turns.
        for turn in turns.all() {
            let sliver = &turn.sliver;
            let ready = stages.get(sliver).is_some_and(leaves) && is_here(sliver) && turn.from == *me;
            if !ready || going.as_ref() == Some(sliver) || waits.contains_key(sliver) {
                continue;
            }
            let wait = match (&going, keeps(sliver)) {
                (Some(first), _) => format!("{first} goes first"),
                (None, Keeps::Pace(why)) => why,
                (None, Keeps::Failed) => continue,
                (None, Keeps::Nothing) => {
                    going = Some(sliver.clone());
                    continue;
                }
            };
            waits.insert(sliver.clone(), wait);
        }
        for (sliver, stage) in &mut stages {
            if let Stage::At {
                node, waits: paced, ..
            } = stage
                && waits.contains_key(sliver)
            {
                let to = std::mem::replace(node, me.clone());
                *paced = None;
                if let Some(why) = waits.get_mut(sliver) {
                    *why = format!("It goes to {to} then: {why}");
                }
            } else if let Stage::At {
                waits: Some(wait),
                node,
                ..
            } = stage
                && node == me
            {
                let why = format!(
                    "It goes to {} once {} is on {}, so that each fits when it moves",
                    wait.to, wait.first, wait.there
                );
                waits.insert(sliver.clone(), why);
            }
        }
        Self { stages, waits }
    }
}
