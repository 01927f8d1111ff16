//! Whether a story has come to its end: everything is as it should be, and planning again has nothing to do.

use std::collections::BTreeMap;

use xeno_model::desired::SliverState;
use xeno_model::id::{NodeName, SliverId};
use xeno_model::observed::DomainState;
use xeno_reconciler::action::Action;
use xeno_reconciler::plan::{self, PlanInput};
use xeno_reconciler::render;
use xeno_reconciler::rollout::{Aim, Condition, Decision, Hold, RolloutRecord, Tally, Verdict, decide};

use crate::board::Sorted;
use crate::world::World;

impl World<'_> {
    /// Whether everything is as it should be.
    pub(crate) fn settled(&self) -> Result<(), String> {
        let last = self.views.len() - 1;
        for (slice, name) in self.slices.iter().enumerate() {
            // Nobody has anything of one that is no more, and nobody goes on with its rollout.
            if self.views[last].slices[slice].is_none() {
                continue;
            }
            let Some(record) = self.board.records.get(&slice).1 else {
                continue;
            };
            let left = self.board.slices[slice].active.iter().find(|(number, n)| {
                let sliver = SliverId::new(name.clone(), **number);
                let node = &self.nodes[**n];
                let healthy = node.conditions.get(&sliver) == Some(&Condition::Healthy);
                // New in what was given up, and never made.
                let never = record.aim() == Aim::Back && node.awaits(&sliver);
                let failed = record.failed.contains(number);
                !(healthy || never || failed || self.is_gone(**n) || self.is_hopeless(**n, &sliver))
            });
            let held = matches!(record.verdict, Verdict::Held { .. });
            if record.verdict == Verdict::Rolling {
                if self.is_stuck_rightly(slice, record) {
                    continue;
                }
                return Err(format!("the rollout of {name} {}", self.stuck(slice, record)));
            }
            let in_reach = |by: &NodeName| self.by_name.get(by).is_some_and(|n| !self.is_gone(*n));
            if let Some((number, by)) = record.slots.iter().find(|(_, by)| in_reach(by)) {
                return Err(format!("{by} has the slot of {name}/{number}"));
            }
            if let Some((number, n)) = left.filter(|_| !held) {
                return Err(format!(
                    "{} is not through with {name}/{number}",
                    self.nodes[*n].name
                ));
            }
        }
        for sliver in self.movers.keys() {
            self.settled_mover(sliver)?;
        }
        for n in 0..self.nodes.len() {
            self.settled_node(n)
                .map_err(|what| format!("{}: {what}", self.nodes[n].name))?;
        }
        Ok(())
    }

    /// Whether a sliver that changes nodes is where the last commit places it, and has all that it had.
    fn settled_mover(&self, sliver: &SliverId) -> Result<(), String> {
        let last = self.views.len() - 1;
        let Some(n) = self.placed(sliver, last) else {
            return Ok(());
        };
        let (_, holder) = self.board.holders.get(sliver);
        let by = holder.and_then(|holder| holder.node.as_ref());
        let from = by.and_then(|by| self.by_name.get(by));
        if self.is_gone(n) || from.is_some_and(|from| self.is_gone(*from)) || self.nodes[n].awaits(sliver) {
            return Ok(());
        }
        let name = &self.nodes[n].name;
        let there = holder.is_some_and(|holder| holder.is(name) && holder.memory.is_none());
        if !there {
            let ways: Vec<String> = self.movers[sliver]
                .iter()
                .map(|n| self.stands(*n, sliver))
                .collect();
            return Err(format!(
                "{sliver} is to be on {name}, and {holder:?}; {}",
                ways.join("; ")
            ));
        }
        let machine = self.nodes[n].machine.as_ref();
        let state = machine.and_then(|machine| {
            let berths = [sliver.clone(), sliver.beside()];
            berths.iter().find_map(|berth| machine.domain_state(berth))
        });
        let asked = self.asked(sliver, last).map(|asked| asked.state);
        if asked == Some(SliverState::Running)
            && state != Some(DomainState::Running)
            && !self.is_hopeless(n, sliver)
        {
            return Err(format!("{sliver} on {name}: {state:?}"));
        }
        let had = self.safety.layers.get(sliver);
        let has = machine.and_then(|machine| machine.written(sliver));
        if had.is_some_and(|had| Some(*had) != has) {
            return Err(format!("{sliver} on {name} has lost what it wrote"));
        }
        Ok(())
    }

    /// Where a sliver stands on a node, for people.
    fn stands(&self, n: usize, sliver: &SliverId) -> String {
        let node = &self.nodes[n];
        let machine = node.machine.as_ref();
        format!(
            "{}: commit {}, knows {:?}, journal {:?}, session {:?}, at {:?}, paused {:?}, guest {:?}",
            node.name,
            node.head,
            node.rights.record(sliver),
            node.rights.journals.get(sliver),
            node.rights.sessions.get(sliver).map(|open| open.end),
            node.rights.stepping.get(sliver).map(|stepping| &stepping.step),
            node.rights.pauses.get(sliver),
            machine.and_then(|machine| machine.domain_state(sliver)),
        )
    }

    /// Whether a node reaches nobody for ever.
    fn is_gone(&self, n: usize) -> bool {
        self.nodes[n].away && self.for_ever
    }

    /// Whether a rollout waits for nodes that reach nobody for ever, as its policy asks.
    fn is_stuck_rightly(&self, slice: usize, record: &RolloutRecord) -> bool {
        let shared = &self.board.slices[slice];
        let Some(Sorted { waves, placement, .. }) = shared.waves.as_ref().filter(|_| self.for_ever) else {
            return false;
        };
        let tally = Tally::of(record, waves, placement, &shared.snapshot);
        matches!(
            decide(record, waves, &tally, 0),
            Decision::Hold(Hold::Away { .. } | Hold::NoCanary)
        )
    }

    /// What a rollout waits for, in a sentence.
    pub(crate) fn waits_for(&self, slice: usize, record: &RolloutRecord) -> String {
        let shared = &self.board.slices[slice];
        let Some(Sorted { waves, placement, .. }) = &shared.waves else {
            return "it has not begun".to_owned();
        };
        let tally = Tally::of(record, waves, placement, &shared.snapshot);
        match decide(record, waves, &tally, 0) {
            Decision::Hold(hold) => hold.to_string(),
            Decision::Proceed(_) | Decision::RollBack(_) | Decision::Settled => "it could go on".to_owned(),
        }
    }

    /// What a rollout waits for, and how those slivers are.
    fn stuck(&self, slice: usize, record: &RolloutRecord) -> String {
        let shared = &self.board.slices[slice];
        let Some(Sorted { waves, placement, .. }) = &shared.waves else {
            return "has not begun".to_owned();
        };
        let tally = Tally::of(record, waves, placement, &shared.snapshot);
        let waits = self.waits_for(slice, record);
        let of = |number: &u32| {
            let sliver = SliverId::new(self.slices[slice].clone(), *number);
            let n = placement
                .get(number)
                .and_then(|placed| self.by_name.get(&placed.node))?;
            let node = &self.nodes[*n];
            Some(format!(
                "{sliver} on {}: member {}, commit {}, {:?}, follows {:?}, said {:?}, slot {}; {}",
                node.name,
                node.member,
                node.head,
                node.conditions.get(&sliver),
                node.follows.get(&sliver),
                shared.snapshot.slivers.get(number).map(|said| &said.condition),
                record.slots.contains_key(number),
                self.plan_of(*n, &sliver),
            ))
        };
        let slivers: Vec<String> = tally.waits_for.iter().filter_map(of).collect();
        format!("is in wave {}: {waits}; {}", record.wave + 1, slivers.join("; "))
    }

    /// What its node would do about a sliver, in words.
    fn plan_of(&self, n: usize, sliver: &SliverId) -> String {
        let (wanted, leave) = self.approved(n);
        let Some(observed) = self.look(n) else {
            return "nothing was ever done on its node".to_owned();
        };
        let mut held = BTreeMap::new();
        let epochs = self.held_elsewhere(n, &wanted, &observed, &mut held);
        let node = &self.nodes[n];
        let input = PlanInput {
            epochs: &epochs,
            backing_off: &held,
            leave: &leave,
            ..PlanInput::plain(&wanted, &node.applied, &observed, self.wall(n))
        };
        let plan = plan::build(&input).map(|plan| plan.changes.get(sliver).cloned());
        let waits = node.awaits(sliver);
        format!(
            "waits {waits}, agent {}, run {}, idle {}, placed {:?}, {plan:?}",
            node.agent,
            node.run.is_some(),
            node.idle,
            self.placed(sliver, node.head)
        )
    }

    fn settled_node(&self, n: usize) -> Result<(), String> {
        if self.nodes[n].machine.is_none() || self.is_gone(n) {
            return Ok(());
        }
        if let Some(running) = &self.nodes[n].run {
            let actions = &running.run.plan().actions;
            let hopeless = |at: &usize| match &actions[*at].action {
                Action::AwaitHealthy { sliver } => {
                    self.is_bad(n, sliver) || self.is_hopeless(n, &sliver.itself())
                }
                _ => false,
            };
            if !running.in_flight.keys().all(hopeless) {
                return Err("a run is under way".to_owned());
            }
        }
        let (wanted, leave) = self.approved(n);
        let observed = self.look(n).ok_or("it cannot be looked at")?;
        let now = self.wall(n);
        let mut held = BTreeMap::new();
        let epochs = self.held_elsewhere(n, &wanted, &observed, &mut held);
        let node = &self.nodes[n];
        let input = PlanInput {
            epochs: &epochs,
            backing_off: &held,
            leave: &leave,
            ..PlanInput::plain(&wanted, &node.applied, &observed, now)
        };
        let plan = plan::build(&input).map_err(|error| error.to_string())?;
        let left = plan
            .actions
            .iter()
            .flat_map(|planned| &planned.serves)
            .find(|sliver| !self.is_hopeless(n, sliver));
        match left {
            None => Ok(()),
            Some(_) => Err(render::text(&plan, render::Colour::Plain)),
        }
    }
}
